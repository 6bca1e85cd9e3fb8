"""One row of numbers from masks and HU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.measure import body_composition as m
from ctai_sam2.measure.definitions import TISSUE_DEFINITIONS, HuRange, TissueDefinitions

FACTS = ("pixels", "hu_mean", "hu_min", "hu_max", "hu_sum", "area_mm2")
SPACING = (0.8, 0.5)
PIXEL_MM2 = 0.4


def at(*columns: int, width: int = 12) -> np.ndarray:
    mask = np.zeros((1, width), bool)
    mask[0, list(columns)] = True
    return mask


#                 left      right     other muscle       sat         vat
HU = np.array([[40, 60, 50, -100, 10, 20, -29, 151, -100, -30, -100, -30]], np.int16)
MASKS = {
    "psoas_left": at(0, 1),
    "psoas_right": at(2, 3),
    "muscle": at(0, 1, 2, 3, 4, 5, 6, 7),
    "sat": at(8, 9),
    "vat": at(10, 11),
    "imat": at(0, 1, 2, 3, 4, 5, 6, 7),
}


def row(**changes: Any) -> m.Row:
    return m.measure_slice(**{"hu": HU, "masks": MASKS, "spacing_mm": SPACING, **changes})


def facts(measured: m.Row, tissue: str) -> tuple[Any, ...]:
    return tuple(measured[f"{tissue}_{fact}"] for fact in FACTS)


def test_a_row_has_every_column_in_order() -> None:
    assert tuple(row()) == m.COLUMNS
    assert tuple(m.measure_slice(HU, {}, SPACING)) == m.COLUMNS


@pytest.mark.parametrize(
    ("tissue", "pixels", "mean", "lowest", "highest", "total"),
    [
        ("psoas", 3, 50, 40, 60, 150),
        ("combo", 6, 151 / 6, -29, 60, 151),
        ("sat", 2, -65, -100, -30, -130),
        ("vat", 1, -100, -100, -100, -100),
        ("imat", 1, -100, -100, -100, -100),
        ("psoas_left", 2, 50, 40, 60, 100),
        ("psoas_right", 1, 50, 50, 50, 50),
    ],
)
def test_each_tissue_by_hand(
    tissue: str, pixels: int, mean: float, lowest: float, highest: float, total: float
) -> None:
    expected = (pixels, mean, lowest, highest, total, pixels * PIXEL_MM2)
    assert facts(row(), tissue) == pytest.approx(expected)


def test_indices_by_hand() -> None:
    found = row(height_m=1.6, slice_extent_mm=5.0, middle_slice=17)
    sma = 6 * PIXEL_MM2 / 100
    adipose = (2 + 1 + 1) * PIXEL_MM2 / 100
    expected = {
        "sma_cm2": sma,
        "smi_cm2_m2": sma / 2.56,
        "smd_hu": 151 / 6,
        "smd_roi_hu": (40 + 60 + 50 - 100 + 10 + 20 - 29 + 151) / 8,
        "psoas_roi_hu": 12.5,
        "psoas_asymmetry": 2 / 3,
        "pmi_cm2_m2": 3 * PIXEL_MM2 / 100 / 2.56,
        "adipose_cm2": adipose,
        "ffm_kg": 0.30 * sma + 6.06,
        "fm_kg": 0.042 * adipose + 11.2,
        "major_volume_mm3": 3 * PIXEL_MM2 * 5,
        "full_volume_mm3": 6 * PIXEL_MM2 * 5,
        "mass_psoas_g": 3 * PIXEL_MM2 * 5 / 1000 * 1.05,
        "mass_combo_g": 6 * PIXEL_MM2 * 5 / 1000 * (1 + 0.151 / 6),
        "height_m": 1.6,
        "middle_slice": 17,
        "slices": 1,
        "slice_gaps": 0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["definitions"] == TISSUE_DEFINITIONS["alberta"].identifier


def test_whole_body_estimates_at_usual_areas() -> None:
    assert m.estimate_fat_free_mass_kg(150) == pytest.approx(51.06)
    assert m.estimate_fat_mass_kg(300) == pytest.approx(23.8)
    assert math.isnan(m.estimate_fat_free_mass_kg(0))
    assert math.isnan(m.estimate_fat_mass_kg(0))


def test_what_was_not_segmented_is_none_not_zero() -> None:
    nothing = m.measure_slice(HU, {}, SPACING, height_m=1.7, slice_extent_mm=5)
    known = {"height_m", "slices", "slice_gaps", "definitions"}
    assert {name for name, value in nothing.items() if value is not None} == known
    without_height = row()
    for name in ("smi_cm2_m2", "pmi_cm2_m2", "height_m", "major_volume_mm3", "mass_combo_g", "middle_slice"):
        assert without_height[name] is None
    assert row(height_m=math.nan)["height_m"] is None


def test_what_was_segmented_and_is_empty_is_zero_with_nan() -> None:
    none = np.zeros_like(HU, dtype=bool)
    found = m.measure_slice(
        HU,
        {"psoas_left": none, "psoas_right": none, "muscle": none},
        SPACING,
        height_m=1.7,
        slice_extent_mm=5,
    )
    for tissue in ("psoas", "combo", "psoas_left"):
        pixels, mean, lowest, highest, total, area = facts(found, tissue)
        assert (pixels, area) == (0, 0)
        assert all(math.isnan(value) for value in (mean, lowest, highest, total))
    assert (found["sma_cm2"], found["smi_cm2_m2"], found["full_volume_mm3"], found["mass_combo_g"]) == (
        0,
        0,
        0,
        0,
    )
    for name in ("smd_hu", "smd_roi_hu", "psoas_asymmetry", "ffm_kg"):
        value = found[name]
        assert isinstance(value, float)
        assert math.isnan(value)


def test_one_side_alone_is_not_the_psoas() -> None:
    found = m.measure_slice(HU, {"psoas_left": at(0, 1), "muscle": at(4, 5)}, SPACING)
    assert found["psoas_left_pixels"] == 2
    assert found["psoas_pixels"] is None
    assert found["psoas_asymmetry"] is None
    assert found["combo_pixels"] == 4, "all muscle still holds that side"


def test_combo_is_the_union_however_muscle_was_drawn() -> None:
    rest = {**MASKS, "muscle": at(4, 5, 6, 7)}
    assert facts(row(masks=rest), "combo") == facts(row(), "combo")
    undivided = {"psoas": at(0, 1, 2, 3), "muscle": at(4, 5, 6, 7)}
    assert facts(row(masks=undivided), "psoas") == facts(row(), "psoas")
    assert facts(row(masks=undivided), "combo") == facts(row(), "combo")
    assert row(masks={"psoas": at(0)})["combo_pixels"] is None, "psoas alone is not all muscle"


def test_definitions_decide() -> None:
    narrow = TissueDefinitions(name="n", version="1", source="test", muscle=HuRange(low_hu=30, high_hu=150))
    assert row(definitions=narrow)["combo_pixels"] == 3
    assert row(definitions=narrow)["definitions"] == narrow.identifier
    assert row(definitions=narrow)["smd_roi_hu"] == row()["smd_roi_hu"]
    assert row(definitions=TISSUE_DEFINITIONS["one-fat-range"])["vat_pixels"] == 2
    fixed = row(definitions=TISSUE_DEFINITIONS["alberta-fixed-density"], slice_extent_mm=5)
    assert fixed["mass_psoas_g"] == pytest.approx(3 * PIXEL_MM2 * 5 / 1000 * 1.06)


def test_a_mask_limited_before_measures_the_same() -> None:
    limited = {**MASKS, "muscle": at(0, 1, 2, 4, 5, 6), "psoas_right": at(2)}
    before, after = row(), row(masks=limited)
    for tissue in ("psoas", "combo"):
        assert facts(before, tissue) == facts(after, tissue)
    assert after["smd_roi_hu"] == after["smd_hu"]


def test_sums_of_int16_do_not_overflow() -> None:
    hu = np.full((400, 400), 150, np.int16)
    found = m.measure_slice(hu, {"muscle": np.ones_like(hu)}, (1, 1))
    assert found["combo_hu_sum"] == 150 * 160_000
    assert found["smd_roi_hu"] == 150


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 6), st.floats(0.2, 6))
def test_area_follows_the_product_of_spacings(row_mm: float, column_mm: float) -> None:
    found = m.measure_slice(HU, MASKS, (row_mm, column_mm))
    assert found["combo_area_mm2"] == pytest.approx(6 * row_mm * column_mm)
    turned = m.measure_slice(HU.T, {name: mask.T for name, mask in MASKS.items()}, (column_mm, row_mm))
    assert turned["combo_area_mm2"] == pytest.approx(found["combo_area_mm2"])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"hu": np.zeros((0, 0))}, InputError),
        ({"hu": np.zeros((1, 12, 1))}, InputError),
        ({"hu": np.zeros((1, 11))}, InputError),
        ({"hu": np.full((1, 12), np.nan)}, InputError),
        ({"hu": np.full((1, 12), "x")}, InputError),
        ({"masks": {"muscel": at(0)}}, InputError),
        ({"masks": {"muscle": at(0) * 0.5}}, InputError),
        ({"masks": {"muscle": np.zeros((2, 12), bool)}}, InputError),
        ({"spacing_mm": (0, 1)}, GeometryError),
        ({"height_m": 172}, InputError),
        ({"height_m": 0}, InputError),
        ({"slice_extent_mm": 0}, GeometryError),
        ({"slice_extent_mm": math.nan}, GeometryError),
        ({"middle_slice": -1}, InputError),
        ({"middle_slice": 1.5}, InputError),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        row(**changes)
