from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.io import read_study
from ctai_sam2.phantom import PhantomVolume, make_volume, reference_parameters
from ctai_sam2.segmentation import find_levels
from ctai_sam2.segmentation.levels.volume import VolumeParameters, follow_spine, open_slices, read_spine
from ctai_sam2.types import CTVolume


@pytest.fixture(scope="module")
def phantom() -> PhantomVolume:
    rng = np.random.default_rng(0)
    return make_volume(
        reference_parameters(), shape_zyx=(80, 128, 128), spacing_zyx_mm=(5.0, 3.2, 3.2), rng=rng
    )


@pytest.fixture(scope="module")
def volume(phantom) -> CTVolume:
    return CTVolume(hu_zyx=phantom.hu_zyx, affine=phantom.affine)


def test_levels_have_their_places(phantom, volume) -> None:
    levels = {level.name: level for level in find_levels(volume)}
    assert {"L1", "L2", "L3", "L4", "L5", "S1"} <= set(levels)
    for name in ("L1", "L2", "L3", "L4", "L5"):
        level = levels[name]
        assert level.centre_lps_mm[2] == pytest.approx(phantom.levels_mm[name], abs=6.0)
        assert abs(level.centre_lps_mm[0]) < 8.0
        assert level.upper_index > level.centre_zyx[0] > level.lower_index
        assert 18 < (level.upper_index - level.lower_index) * 5.0 < 40
        assert 0.5 < level.probability <= 1.0
        assert level.axial_index == round(level.centre_zyx[0])
    rows = [level.centre_zyx[0] for level in find_levels(volume)]
    assert rows == sorted(rows, reverse=True)


def test_slices_with_a_gap_are_read_where_they_lie(phantom, volume) -> None:
    plain = {level.name: level.centre_lps_mm[2] for level in find_levels(volume)}
    keep = np.r_[0:14, 16:80]
    gapped = CTVolume(
        hu_zyx=phantom.hu_zyx[keep], affine=phantom.affine, slice_positions_mm=np.arange(80)[keep] * 5.0
    )
    found = {level.name: level.centre_lps_mm[2] for level in find_levels(gapped)}
    assert found["L3"] == pytest.approx(plain["L3"], abs=4.0)


def test_the_course_follows_a_spine_that_bends_sideways(phantom) -> None:
    shift = np.round(8 * np.sin(np.arange(80) / 18.0)).astype(int)
    bent = np.stack([np.roll(piece, step, axis=1) for piece, step in zip(phantom.hu_zyx, shift, strict=True)])
    volume = CTVolume(hu_zyx=bent, affine=phantom.affine)
    course = follow_spine(volume, VolumeParameters())
    assert np.median(np.abs(course - (63.5 + shift))) * 3.2 < 7.0
    spine = read_spine(volume)
    best = int(spine.named.l3_probability.argmax())
    expected = (phantom.levels_mm["L3"] - phantom.affine[2, 3]) / 5.0
    assert spine.centres_zyx[best, 0] == pytest.approx(expected, abs=1.5)
    assert spine.centres_zyx[best, 2] == pytest.approx(63.5 + shift[round(expected)], abs=3.0)


@pytest.mark.parametrize("shape", [(60, 1, 200), (60, 200, 1)])
def test_a_study_without_axial_slices_is_told(shape: tuple[int, int, int]) -> None:
    volume = CTVolume(hu_zyx=np.zeros(shape, np.int16), affine=np.diag([1.0, 1.0, 3.0, 1.0]))
    with pytest.raises(AnatomyNotFound, match="no axial slices"):
        find_levels(volume)


@pytest.mark.parametrize("hu", [-1000, 40])
def test_no_spine_is_an_error(hu: int) -> None:
    volume = CTVolume(hu_zyx=np.full((40, 100, 100), hu, np.int16), affine=np.diag([3.0, 3.0, 5.0, 1.0]))
    with pytest.raises(AnatomyNotFound):
        find_levels(volume)


@pytest.mark.realdata
def test_real_volume_shows_its_levels(real_data: Path) -> None:
    levels = {level.name: level for level in find_levels(read_study(real_data / "dev" / "series" / "pcb001"))}
    assert abs(levels["L3"].centre_zyx[0] - 44.4) * 3.0 < 5.0
    assert levels["L3"].probability > 0.9
    assert {"T11", "T12", "L1", "L2", "L4", "L5", "S1"} <= set(levels)


@pytest.mark.parametrize("size_yx", [(1, 1), (2, 3), (5, 2), (6, 6), (7, 4)])
def test_slices_are_opened_as_by_scipy(size_yx: tuple[int, int]) -> None:
    drawn = np.random.default_rng(1).normal(size=(3, 40, 37))
    inside = ndimage.gaussian_filter(drawn, (0, 2, 2)) > -0.05
    expected = ndimage.binary_opening(inside, np.ones((1, *size_yx), bool))
    assert np.array_equal(open_slices(inside, size_yx), expected)
    assert expected.any()
