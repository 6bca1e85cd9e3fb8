from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctai_sam2.errors import InputError
from ctai_sam2.image.body import body_mask
from ctai_sam2.image.padding import AIR_HU, fill_with_air
from ctai_sam2.image.plausibility import require_measurable_slice
from ctai_sam2.io import read_slice, read_study, write_dicom_series, write_volume_nifti
from ctai_sam2.types import CTSlice, CTVolume, Window

SPACING = (3.0, 3.0)


def trunk() -> np.ndarray:
    """A body of muscle in fat with a bubble of gas, in air."""
    y, x = np.mgrid[:120, :120] - 59.5
    radius = np.hypot(x / 1.3, y)
    hu = np.full((120, 120), -1000, np.int16)
    hu[radius < 38] = -105
    hu[radius < 30] = 50
    hu[np.hypot(x, y + 15) < 6] = -900
    return hu


def circle() -> np.ndarray:
    y, x = np.mgrid[:120, :120] - 59.5
    inside: np.ndarray = np.hypot(x, y) <= 60
    return inside


def test_air_is_left_alone() -> None:
    hu = trunk()
    filled, caution = fill_with_air(hu)
    assert filled is hu
    assert caution is None


@pytest.mark.parametrize("value", [0, 40, 1024, -160])
def test_what_surrounds_the_scan_becomes_air(value: int) -> None:
    hu = trunk()
    hu[~circle()] = value
    before = hu.copy()
    filled, caution = fill_with_air(hu)
    assert caution == f"the scan is surrounded by {value} HU, which was taken for air around the body"
    np.testing.assert_array_equal(hu, before)
    np.testing.assert_array_equal(filled, np.where(circle(), trunk(), AIR_HU))


def test_a_body_cut_out_and_put_on_zeros_is_the_body() -> None:
    body = body_mask(trunk(), SPACING)
    filled, _ = fill_with_air(np.where(body, trunk(), 0))
    np.testing.assert_array_equal(body_mask(filled, SPACING), body)


@pytest.mark.parametrize("low", [-250, -160, -125])
def test_values_cut_off_at_a_window_leave_a_body(low: int) -> None:
    filled, caution = fill_with_air(np.clip(trunk(), low, 240))
    assert caution is not None
    assert caution.startswith(f"all values below {low} HU were cut off")
    np.testing.assert_array_equal(body_mask(filled, SPACING), body_mask(trunk(), SPACING))


def test_what_holds_no_hounsfield_units_stays_as_it_is() -> None:
    grey = np.clip((trunk() + 160) / 400 * 255, 0, 255).astype(np.int16)
    assert fill_with_air(grey)[0] is grey


def test_equal_corners_alone_are_no_padding() -> None:
    hu = np.random.default_rng(0).normal(40, 10, (60, 60))
    hu[10:20, 10:20] = -100
    hu[[0, 0, -1, -1], [0, -1, 0, -1]] = 33
    assert fill_with_air(hu)[0] is hu


def test_every_reader_does_it(tmp_path: Path) -> None:
    hu = trunk()
    hu[~circle()] = 0
    volume = CTVolume(hu_zyx=np.stack([hu, hu, trunk()]), affine=np.diag([3.0, 3.0, 5.0, 1.0]))
    expected = np.stack([np.where(circle(), trunk(), AIR_HU)] * 2 + [trunk()])
    write_volume_nifti(tmp_path / "a.nii.gz", volume)
    write_dicom_series(tmp_path / "dicom", volume)
    for path in (tmp_path / "a.nii.gz", tmp_path / "dicom"):
        read = read_study(path)
        np.testing.assert_array_equal(read.hu_zyx, expected)
        assert any("surrounded by 0 HU" in text and "2 of 3" in text for text in read.warnings)
    grey = np.clip((trunk() + 160.0) / 400 * 255, 0, 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    picture = read_slice(tmp_path / "a.png", window=Window(level=40, width=400), spacing_mm=SPACING)
    np.testing.assert_array_equal(body_mask(picture.hu, SPACING), body_mask(trunk(), SPACING))


def test_an_array_without_air_is_refused() -> None:
    with pytest.raises(InputError, match="no air around the body"):
        require_measurable_slice(CTSlice(hu=np.clip(trunk(), -160, 240), spacing_mm=SPACING))
