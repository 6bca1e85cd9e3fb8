"""Measures of realism on images whose values are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, special

from ctai_sam2.errors import InputError
from ctai_sam2.phantom import make_axial_slice, reference_parameters
from ctai_sam2.phantom.realism import (
    measure_edge_width_mm,
    measure_noise_power,
    measure_realism,
    measure_shape,
    measure_tissue,
)


def _rectangle(shape: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


class TestTissue:
    def test_quantiles_of_known_values(self) -> None:
        hu = np.arange(10_000).reshape(100, 100)
        found = measure_tissue(hu, np.ones((100, 100), bool), (1.0, 1.0), margin_mm=0.0)
        assert found is not None
        assert (found.pixels, found.p50) == (10_000, 4999.5)
        assert found.p5 == pytest.approx(0.05 * 9999)
        assert found.p95 == pytest.approx(0.95 * 9999)

    def test_rim_does_not_count(self) -> None:
        mask = _rectangle((40, 40), (10, 30), (10, 30))
        hu = np.where(ndimage.binary_erosion(mask), 50, -100)
        found = measure_tissue(hu, mask, (1.0, 1.0))
        assert found is not None
        assert (found.p5, found.std) == (50.0, 0.0)

    def test_too_thin_is_none(self) -> None:
        assert measure_tissue(np.zeros((40, 40)), _rectangle((40, 40), (10, 12), (0, 40)), (1.0, 1.0)) is None


class TestNoisePower:
    def test_white_noise_is_flat_and_integrates_to_its_variance(self) -> None:
        noise = np.random.default_rng(0).normal(0, 10, size=(240, 240))
        found = measure_noise_power(noise, np.ones(noise.shape, bool), (0.8, 0.8), patch_mm=16)
        assert found is not None
        # The flatter half of the patches is a little below the mean.
        assert found.std_hu == pytest.approx(10, rel=0.05)
        # Variance 100 over the square of frequencies from -0.625 to 0.625 per mm.
        assert found.power_hu2_mm2[1:] == pytest.approx(100 * 0.8**2, rel=0.12)

    def test_correlated_noise_falls(self) -> None:
        noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 40, size=(240, 240)), 1.0)
        mask = np.ones(noise.shape, bool)
        found = measure_noise_power(noise, mask, (0.8, 0.8), patch_mm=16)
        white = measure_noise_power(
            np.random.default_rng(1).normal(size=noise.shape), mask, (0.8, 0.8), patch_mm=16
        )
        assert found is not None
        assert white is not None
        assert found.power_hu2_mm2[-1] < 0.05 * found.power_hu2_mm2[0]
        assert found.mean_frequency_per_mm < 0.7 * white.mean_frequency_per_mm

    def test_a_plane_is_no_noise(self) -> None:
        rows, columns = np.mgrid[:60, :60]
        found = measure_noise_power(3.0 * rows - 2.0 * columns, np.ones((60, 60), bool), (1.0, 1.0))
        assert found is not None
        assert found.std_hu < 1e-6

    def test_no_room_is_none(self) -> None:
        mask = _rectangle((60, 60), (0, 60), (20, 24))
        assert measure_noise_power(np.zeros((60, 60)), mask, (1.0, 1.0)) is None

    def test_patches_stay_in_the_mask(self) -> None:
        mask = _rectangle((60, 60), (17, 45), (13, 50))
        found = measure_noise_power(np.where(mask, 0.0, 1000.0), mask, (1.0, 1.0))
        assert found is not None
        assert found.std_hu == pytest.approx(0.0, abs=1e-9)
        assert found.patches >= 3


class TestEdgeWidth:
    @pytest.mark.parametrize("sigma_mm", [0.7, 1.0, 1.4])
    @pytest.mark.parametrize("spacing_mm", [(0.8, 0.8), (1.0, 0.6)])
    def test_blurred_disc_of_known_sigma(self, sigma_mm: float, spacing_mm: tuple[float, float]) -> None:
        y = (np.arange(200) - 99.5)[:, None] * spacing_mm[0]
        x = (np.arange(200) - 99.5)[None, :] * spacing_mm[1]
        depth = 40.0 - np.hypot(x, y)
        hu = -100 + 150 * 0.5 * (1 + special.erf(depth / sigma_mm / np.sqrt(2)))
        width = measure_edge_width_mm(hu, depth > 0, depth <= 0, spacing_mm)
        assert width == pytest.approx(2.563 * sigma_mm, rel=0.06)

    def test_an_outline_beside_the_edge_does_not_widen_it(self) -> None:
        y, x = np.mgrid[-80:80, -80:80] * 0.8
        depth = 40.0 - np.hypot(x, y)
        hu = 150 * 0.5 * (1 + special.erf(depth / np.sqrt(2)))
        shifted = depth + 0.8 > 0
        assert measure_edge_width_mm(hu, shifted, ~shifted, (0.8, 0.8)) == pytest.approx(2.563, rel=0.08)

    def test_no_contrast_is_none(self) -> None:
        mask = _rectangle((80, 80), (20, 60), (20, 60))
        assert measure_edge_width_mm(np.zeros((80, 80)), mask, ~mask, (1.0, 1.0)) is None


class TestShape:
    def test_constructed_trunk(self) -> None:
        shape = (150, 200)
        masks = {
            "vertebra": _rectangle(shape, (80, 100), (90, 110)),
            "psoas_left": _rectangle(shape, (85, 105), (120, 130)),
            "psoas_right": _rectangle(shape, (85, 105), (70, 80)),
            "muscle": _rectangle(shape, (30, 89), (20, 27)) | _rectangle(shape, (30, 89), (173, 180)),
            "sat": _rectangle(shape, (10, 25), (60, 140))
            | _rectangle(shape, (60, 120), (10, 19))
            | _rectangle(shape, (60, 120), (181, 190))
            | _rectangle(shape, (125, 130), (30, 170)),
        }
        found = measure_shape(masks, _rectangle(shape, (10, 130), (10, 190)), (2.0, 1.0))
        assert (found.psoas_left_mm2, found.psoas_right_mm2) == (400.0, 400.0)
        assert (found.psoas_lateral_mm, found.psoas_posterior_mm) == (25.0, 10.0)
        assert found.wall_mm == 7.0
        assert (found.sat_anterior_mm, found.sat_lateral_mm, found.sat_posterior_mm) == (30.0, 9.0, 10.0)
        assert (found.body_width_mm, found.body_depth_mm) == (180.0, 240.0)

    def test_what_is_missing_is_nan(self) -> None:
        found = measure_shape({}, np.zeros((20, 20), bool), (1.0, 1.0))
        assert all(np.isnan(value) for value in vars(found).values())


class TestSlice:
    def test_reference_phantom(self) -> None:
        image = make_axial_slice(reference_parameters(), rng=np.random.default_rng(0))
        row = measure_realism(image.hu, image.masks, image.spacing_mm).row()
        assert 40 < row["psoas_p50_hu"] < 65
        assert -112 < row["sat_p50_hu"] < -95
        assert row["psoas_left_mm2"] == pytest.approx(image.masks["psoas_left"].sum() * 0.64)
        assert 1.0 < row["skin_edge_mm"] < 3.0

    def test_another_shape(self) -> None:
        with pytest.raises(InputError, match="muscle"):
            measure_realism(np.zeros((20, 20)), {"muscle": np.zeros((20, 21), bool)}, (1.0, 1.0))
