"""Muscle by attenuation, and the body's circumference, against numbers computed otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.image.body import body_of
from ctai_sam2.measure.body_composition import measure_slice
from ctai_sam2.measure.quality import body_circumference_cm, map_quality, measure_circumference_mm
from ctai_sam2.types import CTSlice


def test_muscle_is_divided_at_30_hu_within_its_range() -> None:
    hu = np.array([[-30, -29, 0, 29.9, 30, 150, 151, -100]])
    found = map_quality(hu, np.ones_like(hu, bool), hu < -29)
    assert found["lama"].tolist() == [[False, True, True, True, False, False, False, False]]
    assert found["nama"].tolist() == [[False, False, False, False, True, True, False, False]]
    assert found["imat"].tolist() == [[True, False, False, False, False, False, False, True]]


def test_shares_of_a_row_are_those_of_counted_pixels() -> None:
    rng = np.random.default_rng(3)
    hu = rng.integers(-150, 160, (40, 50)).astype(float)
    muscle, imat = rng.random(hu.shape) < 0.5, rng.random(hu.shape) < 0.3
    sat, vat = rng.random(hu.shape) < 0.2, rng.random(hu.shape) < 0.2
    masks = {"muscle": muscle, "imat": imat, "sat": sat, "vat": vat}
    row = measure_slice(hu, masks, (0.7, 0.8), height_m=1.6)
    flat = [(v, bool(m), bool(i)) for v, m, i in zip(hu.ravel(), muscle.ravel(), imat.ravel(), strict=True)]
    normal = sum(m and 30 <= v <= 150 for v, m, _ in flat)
    low = sum(m and -29 <= v < 30 for v, m, _ in flat)
    fat = sum(i and -190 <= v <= -30 for v, _, i in flat)
    assert row["nama_area_mm2"] == pytest.approx(normal * 0.56)
    assert row["lama_percent"] == pytest.approx(100 * low / (low + normal))
    assert row["nama_percent"] == pytest.approx(100 * normal / (low + normal))
    assert row["imat_percent"] == pytest.approx(100 * fat / (fat + low + normal))
    inside = [v for v, m, _ in flat if m and -29 <= v <= 150]
    smi = len(inside) * 0.56 / 100 / 1.6**2
    assert row["smg"] == pytest.approx(smi * sum(inside) / len(inside))
    vat_pixels = sum(-150 <= v <= -50 for v in hu[vat])
    assert row["vat_sat_ratio"] == pytest.approx(vat_pixels / sum(-190 <= v <= -30 for v in hu[sat]))


def test_what_was_not_measured_stays_empty() -> None:
    row = measure_slice(np.zeros((3, 3)), {"psoas_left": np.ones((3, 3), bool)}, (1.0, 1.0))
    assert [row[name] for name in ("nama_area_mm2", "lama_percent", "imat_percent", "smg")] == [None] * 4
    empty = measure_slice(np.zeros((3, 3)), {"muscle": np.zeros((3, 3), bool)}, (1.0, 1.0))
    assert empty["nama_area_mm2"] == 0
    assert math.isnan(float(empty["nama_percent"] or 0))


def test_a_muscle_group_is_measured_by_its_name() -> None:
    hu = np.full((4, 4), 50.0)
    hu[0] = -100
    row = measure_slice(hu, {"wall_left": np.ones((4, 4), bool)}, (1.0, 2.0))
    assert (row["wall_left_area_mm2"], row["wall_left_hu_mean"], row["sma_cm2"]) == (24.0, 50.0, None)


@pytest.mark.parametrize(("spacing", "half"), [((1.0, 1.0), (150.0, 100.0)), ((0.8, 1.6), (150.0, 100.0))])
def test_the_circumference_of_an_ellipse(spacing: tuple[float, float], half: tuple[float, float]) -> None:
    rows, columns = np.indices((420, 420))
    y, x = (rows - 210) * spacing[0], (columns - 210) * spacing[1]
    a, b = half
    body = (x / a) ** 2 + (y / b) ** 2 <= 1
    # Ramanujan's second approximation, good to a millionth here.
    h = ((a - b) / (a + b)) ** 2
    expected = math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    assert measure_circumference_mm(body, spacing) == pytest.approx(expected, rel=0.01)


def test_a_tape_bridges_a_hollow() -> None:
    body = np.ones((20, 20), bool)
    whole = measure_circumference_mm(body, (1.0, 1.0))
    body[12:, 8:12] = False
    assert measure_circumference_mm(body, (1.0, 1.0)) == whole == 80.0
    with pytest.raises(InputError):
        measure_circumference_mm(np.zeros((5, 5), bool), (1.0, 1.0))


def test_a_body_that_is_cut_off_has_no_circumference() -> None:
    hu = np.full((100, 100), -1000.0)
    rows, columns = np.indices(hu.shape)
    hu[np.hypot(rows - 50, columns - 50) < 40] = 40.0
    whole = CTSlice(hu=hu, spacing_mm=(2.0, 2.0), plane="axial")
    assert body_of(whole).any()
    assert body_circumference_cm(whole) == pytest.approx(2 * math.pi * 8, rel=0.03)
    assert body_circumference_cm(CTSlice(hu=hu[:, 30:], spacing_mm=(2.0, 2.0), plane="axial")) is None
