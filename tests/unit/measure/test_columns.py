"""The measurement table's columns."""

from __future__ import annotations

from ctai_sam2.measure.columns import COLUMN_TABLE, COLUMNS, ORIGINAL_COLUMNS

FACTS = ("pixels", "hu_mean", "hu_min", "hu_max", "hu_sum", "area_mm2")


def test_the_original_columns_come_first_by_their_names() -> None:
    expected = [f"{tissue}_{fact}" for tissue in ("psoas", "combo", "sat", "vat") for fact in FACTS]
    expected += ["major_volume_mm3", "full_volume_mm3", "mass_psoas_g", "mass_combo_g", "middle_slice"]
    assert list(ORIGINAL_COLUMNS) == expected
    assert COLUMNS[: len(expected)] == ORIGINAL_COLUMNS


def test_the_added_columns() -> None:
    added = COLUMNS[len(ORIGINAL_COLUMNS) :]
    sides = [f"{tissue}_{fact}" for tissue in ("imat", "psoas_left", "psoas_right") for fact in FACTS]
    assert set(added) == {
        *("sma_cm2", "smi_cm2_m2", "smd_hu", "smd_roi_hu", "psoas_asymmetry", "psoas_roi_hu", "pmi_cm2_m2"),
        *("adipose_cm2", "ffm_kg", "fm_kg", "height_m", "slices", "slice_gaps", "definitions"),
        *("nama_area_mm2", "lama_area_mm2", "nama_percent", "lama_percent", "imat_percent"),
        *("smg", "vat_sat_ratio", "circumference_cm", "aorta_hu", "cava_hu", "contrast_source"),
        *("sma_as_unenhanced_cm2", "smd_as_unenhanced_hu", "sat_as_unenhanced_cm2", "vat_as_unenhanced_cm2"),
        *(
            f"{group}_{side}_{fact}"
            for group in ("quadratus", "paraspinal", "wall")
            for side in ("left", "right")
            for fact in ("area_mm2", "hu_mean")
        ),
        *sides,
    }


def test_each_column_has_one_name_a_meaning_and_the_unit_its_name_says() -> None:
    assert len(set(COLUMNS)) == len(COLUMNS)
    endings = {
        "_mm2": "mm²",
        "_mm3": "mm³",
        "_cm2": "cm²",
        "_cm": "cm",
        "_percent": "%",
        "_cm2_m2": "cm²/m²",
        "_kg": "kg",
        "_g": "g",
        "_m": "m",
        "_hu": "HU",
        "_hu_mean": "HU",
        "_hu_min": "HU",
        "_hu_max": "HU",
        "_hu_sum": "HU",
    }
    for name, unit, meaning, _ in COLUMN_TABLE:
        longest = max((ending for ending in endings if name.endswith(ending)), key=len, default=None)
        expected = "cm²·HU/m²" if name == "smg" else endings[longest] if longest else ""
        assert unit == expected, name
        assert meaning.endswith(".")
