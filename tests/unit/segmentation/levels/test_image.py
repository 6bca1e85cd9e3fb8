from __future__ import annotations

import numpy as np
import pytest

from ctai_sam2.segmentation.levels.image import AIR_HU, PIXEL_MM, STRIDE, LevelImage, to_channels
from ctai_sam2.types import CTSlice


@pytest.mark.parametrize("spacing", [(0.7, 0.7), (5.0, 0.8), (3.0, 3.0), (1.0, 2.0)])
def test_places_go_there_and_back(spacing: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    shape = tuple(round(180 / s) for s in spacing)
    ct_slice = CTSlice(hu=rng.normal(0, 50, shape), spacing_mm=spacing, plane="sagittal")
    image = LevelImage.of(ct_slice)
    assert all(size % STRIDE == 0 for size in image.hu.shape)
    # A point at 60, 40 mm from the upper left corner.
    point = image.to_slice_xy(np.array([[40 / PIXEL_MM - 0.5, 60 / PIXEL_MM - 0.5]]))[0]
    assert point == pytest.approx((40 / spacing[1] - 0.5, 60 / spacing[0] - 0.5), abs=1e-6)


def test_rows_with_a_gap_lie_where_they_lie() -> None:
    hu = np.zeros((40, 100))
    hu[20:] = 300.0
    offsets = np.arange(40) + np.where(np.arange(40) >= 20, 10, 0)
    gapped = CTSlice(hu=hu, spacing_mm=(2.0, 2.0), plane="sagittal", row_offsets=offsets)
    image = LevelImage.of(gapped)
    assert image.hu[35, 10] > image.hu[15, 10]
    assert image.to_slice_xy(np.array([[10.0, 30.0]]))[0, 1] == pytest.approx(20.0, abs=0.01)


def test_fine_pixels_are_averaged_and_padding_is_air() -> None:
    rng = np.random.default_rng(1)
    image = LevelImage.of(CTSlice(hu=rng.normal(40, 60, (300, 300)), spacing_mm=(0.5, 0.5), plane="sagittal"))
    assert image.hu[:70, :70].std() < 30
    assert (image.hu[80:] == AIR_HU).all()


def test_channels_are_bounded() -> None:
    channels = to_channels(np.array([[-3000.0, 0.0], [300.0, 9000.0]], np.float32))
    assert channels.shape == (2, 2, 2)
    assert channels.min() == -1.0
    assert channels.max() == 1.0
