"""A volume followed by a network with memory: here one that repeats what it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.segmentation.volume import VolumeAnchor
from ctai_sam2.segmentation.volume.memory import follow_volume
from ctai_sam2.types import CTVolume

SHAPE = (20, 24)


class Repeating:
    """Carries a mask on unchanged, and looks at each slice it passes."""

    def follow(
        self, slice_at: Callable[[int], np.ndarray], count: int, anchors: Mapping[int, np.ndarray]
    ) -> Iterator[tuple[int, np.ndarray]]:
        for order in (range(min(anchors), count), range(max(anchors), -1, -1)):
            mask = anchors[order[0]]
            for place in order:
                mask = anchors.get(place, mask)
                assert slice_at(place).dtype == np.uint8
                yield place, mask


def square(size: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[2 : 2 + size, 2 : 2 + size] = True
    return mask


def volume() -> CTVolume:
    return CTVolume(hu_zyx=np.full((8, *SHAPE), 50, np.int16), affine=np.diag([1.0, 1.0, 3.0, 1.0]))


def test_slices_between_two_drawn_ones_are_blended() -> None:
    anchors = [
        VolumeAnchor(structure="muscle", axial_index=2, mask=square(4)),
        VolumeAnchor(structure="muscle", axial_index=6, mask=square(12)),
    ]
    result = follow_volume(volume(), Repeating(), anchors, indices=(1, 7))
    slices = result.structure_slices["muscle"]
    assert [slices[i].source for i in (1, 2, 4, 6, 7)] == [
        *("propagated", "anchor", "propagated", "anchor", "propagated")
    ]
    areas = [int(slices[i].crop.sum()) for i in range(1, 8)]
    assert areas[:2] == [16, 16]
    assert areas[5:] == [144, 144]
    assert 16 < areas[3] < 144
    assert slices[4].spread_cm2 == pytest.approx(1.28)


def test_an_anchor_outside_the_range_or_none_is_refused() -> None:
    outside = VolumeAnchor(structure="muscle", axial_index=0, mask=square(4))
    for anchors in ([], [outside]):
        with pytest.raises(InputError):
            follow_volume(volume(), Repeating(), anchors, indices=(1, 7))
