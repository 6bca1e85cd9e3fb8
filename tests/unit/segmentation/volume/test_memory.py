"""A volume followed by a network with memory: here one that carries on what it was given."""

from __future__ import annotations

import numpy as np
import pytest

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.segmentation.volume import VolumeAnchor, correct_volume, segment_volume
from ctai_sam2.types import CTVolume
from tests.fakes import FakeSegmenter, RememberingSegmenter

SHAPE = (20, 24)


def square(size: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[2 : 2 + size, 2 : 2 + size] = True
    return mask


def volume() -> CTVolume:
    hu = np.full((8, *SHAPE), 50, np.int16)
    hu[:, 3, 3] = -500
    return CTVolume(hu_zyx=hu, affine=np.diag([1.0, 1.0, 3.0, 1.0]))


def drawn(index: int, size: int) -> VolumeAnchor:
    return VolumeAnchor(structure="muscle", axial_index=index, mask=square(size))


@pytest.mark.parametrize("every_mm", [None, 6.0])
def test_slices_between_two_drawn_ones_are_blended(every_mm: float | None) -> None:
    result = segment_volume(
        volume(),
        RememberingSegmenter(),
        structures=("muscle",),
        indices=(1, 7),
        anchors=[drawn(2, 4), drawn(6, 12)],
        every_mm=every_mm,
        follow="memory",
    )
    slices = result.structure_slices["muscle"]
    between = "interpolated" if every_mm else "propagated"
    assert [slices[i].source for i in range(1, 8)] == [
        *("propagated", "anchor", between, "propagated", between, "anchor", "propagated")
    ]
    areas = [int(slices[i].crop.sum()) for i in range(1, 8)]
    # What is followed keeps to the limits of the tissue, what a reader drew is left as it is.
    assert (areas[0], areas[1], areas[5], areas[6]) == (15, 16, 144, 143)
    assert 16 < areas[3] < 144
    assert slices[4].spread_cm2 == pytest.approx(1.28)


def test_what_does_not_count_on_drawn_slices_is_not_made_up_for_between_them() -> None:
    result = segment_volume(
        volume(),
        RememberingSegmenter(),
        structures=("muscle",),
        indices=(2, 6),
        anchors=[drawn(2, 4), drawn(6, 4)],
        every_mm=12.0,
        follow="memory",
    )
    assert result.slices["source"].tolist() == ["anchor", *["interpolated"] * 3, "anchor"]
    assert set(result.slices["area_cm2"]) == {0.15}


def test_a_correction_is_followed_up_to_the_next_anchor() -> None:
    result = segment_volume(
        volume(),
        RememberingSegmenter(),
        structures=("muscle",),
        indices=(0, 7),
        anchors=[drawn(6, 5)],
        follow="memory",
    )
    corrected = correct_volume(result, [drawn(2, 9)], RememberingSegmenter(), follow="memory")
    slices = corrected.structure_slices["muscle"]
    areas = [int(slices[i].crop.sum()) for i in range(8)]
    assert areas[0] == 80
    assert areas[2] == 81
    assert areas[6:] == [25, 24]
    assert 24 < areas[4] < 80


def test_without_a_drawn_slice_it_must_be_found_on_the_middle_one() -> None:
    with pytest.raises(AnatomyNotFound, match="muscle was not found on slice"):
        segment_volume(
            volume(), RememberingSegmenter(), structures=("muscle",), indices=(0, 7), follow="memory"
        )


def test_what_has_no_memory_and_other_ways_are_refused() -> None:
    anchors = [drawn(2, 4)]
    for segmenter, follow in ((FakeSegmenter(), "memory"), (RememberingSegmenter(), "luck")):
        with pytest.raises(InputError, match=r"memory|such way"):
            segment_volume(
                volume(),
                segmenter,
                structures=("muscle",),
                indices=(0, 7),
                anchors=anchors,
                follow=follow,  # type: ignore[arg-type]
            )
