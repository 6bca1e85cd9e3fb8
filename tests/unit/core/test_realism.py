from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ctai_sam2.core.phantom import make_axial_slice, reference_parameters
from ctai_sam2.core.realism import MEASURES, edge_width_mm, measure_appearance, noise_grain_mm
from ctai_sam2.errors import AnatomyNotFound, InputError

SPACING = (0.8, 0.8)


def disc(radius_px: float, side: int = 220) -> np.ndarray:
    rows, columns = np.indices((side, side)) - (side - 1) / 2
    return np.asarray(np.hypot(rows, columns) <= radius_px)


@pytest.mark.parametrize("sigma_mm", [0.8, 1.2, 1.8])
def test_a_blurred_edge_is_as_wide_as_its_blur(sigma_mm: float) -> None:
    inside = disc(70)
    hu = ndimage.gaussian_filter(np.where(inside, 50.0, -100.0), sigma_mm / SPACING[0])
    hu += np.random.default_rng(0).normal(0, 10, hu.shape)
    # 10 to 90 % of a normal distribution.
    assert edge_width_mm(hu, inside, SPACING) == pytest.approx(2.563 * sigma_mm, abs=0.7)


def test_an_edge_is_looked_at_only_beside_the_wanted_tissue() -> None:
    inside = disc(70)
    hu = ndimage.gaussian_filter(np.where(inside, 50.0, -100.0), 1.5)
    fat = np.asarray((hu < -60) & (hu > -150))
    spoilt = hu.copy()
    spoilt[~inside & (np.indices(hu.shape)[1] > 110)] = 45
    alone = edge_width_mm(spoilt, inside, SPACING, among=np.asarray((spoilt < -60) & (spoilt > -150)))
    assert alone == pytest.approx(edge_width_mm(hu, inside, SPACING, among=fat), abs=0.4)
    assert np.isnan(edge_width_mm(np.zeros_like(hu), inside, SPACING))


def test_coarser_noise_has_a_coarser_grain() -> None:
    rng, region = np.random.default_rng(0), disc(60)
    white = rng.normal(0, 10, region.shape)
    grains = [noise_grain_mm(ndimage.gaussian_filter(white, sigma), region, SPACING) for sigma in (0, 1, 2)]
    assert grains[0] == pytest.approx(0.4, abs=0.05)
    # The correlation of noise blurred by sigma falls to a half at 2 sigma sqrt(ln 2).
    assert grains[1] == pytest.approx(2 * np.sqrt(np.log(2)) * 0.8, rel=0.15)
    assert grains[2] == pytest.approx(2 * np.sqrt(np.log(2)) * 1.6, rel=0.15)


def test_a_phantom_is_measured_as_it_was_drawn() -> None:
    parameters = reference_parameters()
    phantom = make_axial_slice(parameters, spacing_mm=SPACING, rng=np.random.default_rng(0))
    found = measure_appearance(phantom.hu, phantom.masks, SPACING)
    assert set(found) == set(MEASURES)
    width = 2 * (parameters.wall_half_width_mm + parameters.sat_side_mm)
    assert found["body_width_mm"] == pytest.approx(width, rel=0.05)
    assert found["sat_front_mm"] == pytest.approx(parameters.sat_front_mm, abs=3)
    assert found["sat_side_mm"] == pytest.approx(parameters.sat_side_mm, abs=3)
    assert found["wall_mm"] == pytest.approx(parameters.wall_muscle_mm, abs=4)
    assert found["muscle_hu"] == pytest.approx(parameters.muscle_hu, abs=12)
    assert found["noise_hu"] == pytest.approx(parameters.noise_hu, abs=5)
    area = np.pi * parameters.psoas_half_width_mm * parameters.psoas_half_depth_mm / 100
    assert found["psoas_cm2"] == pytest.approx(area, rel=0.15)


def test_what_is_not_known_is_left_out_and_nonsense_refused() -> None:
    phantom = make_axial_slice(
        reference_parameters(), shape_hw=(200, 200), spacing_mm=(2.0, 2.0), rng=np.random.default_rng(0)
    )
    assert set(measure_appearance(phantom.hu, {}, (2.0, 2.0))) == {
        "body_width_mm", "body_depth_mm", "skin_edge_mm",
    }  # fmt: skip
    with pytest.raises(InputError, match="another shape"):
        measure_appearance(phantom.hu, {"muscle": np.ones((9, 9), bool)}, (2.0, 2.0))
    with pytest.raises(AnatomyNotFound):
        measure_appearance(np.full((50, 50), -1000), {}, (2.0, 2.0))
