"""The columns of the measurement table: their order, unit and meaning, in one place."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Column(NamedTuple):
    """One column: its name, its unit ("" where it has none), what it means and what its cells hold."""

    name: str
    unit: str
    meaning: str
    kind: Literal["number", "text", "yes or no"] = "number"


def _of_tissue(name: str, what: str) -> tuple[Column, ...]:
    return (
        Column(f"{name}_pixels", "", f"Pixels of {what} within its HU range."),
        Column(f"{name}_hu_mean", "HU", f"Mean over these pixels of {what}."),
        Column(f"{name}_hu_min", "HU", f"Lowest value of {what}."),
        Column(f"{name}_hu_max", "HU", f"Highest value of {what}."),
        Column(f"{name}_hu_sum", "HU", f"Sum over the pixels of {what}."),
        Column(f"{name}_area_mm2", "mm²", f"Area of {what}: pixels x row spacing x column spacing."),
    )


# The table of the system this toolkit follows, name by name; its readers must keep working.
_ORIGINAL = (
    *_of_tissue("psoas", "both psoas muscles"),
    *_of_tissue("combo", "all skeletal muscle (psoas and the rest)"),
    *_of_tissue("sat", "subcutaneous fat"),
    *_of_tissue("vat", "visceral fat"),
    Column("major_volume_mm3", "mm³", "Volume of both psoas muscles over the slices measured."),
    Column("full_volume_mm3", "mm³", "Volume of all skeletal muscle over the slices measured."),
    Column("mass_psoas_g", "g", "Mass of that psoas volume, by the definitions' density rule."),
    Column("mass_combo_g", "g", "Mass of that muscle volume, by the definitions' density rule."),
    Column("middle_slice", "", "Index of the slice measured (mid-L3) in its volume, 0 = lowest slice."),
)

SIDED_GROUPS: tuple[str, ...] = tuple(
    f"{group}_{side}" for group in ("quadratus", "paraspinal", "wall") for side in ("left", "right")
)
"""Muscle groups other than the psoas, each side."""

_GROUP_NAMES = {
    "quadratus": "quadratus lumborum",
    "paraspinal": "paraspinal muscles (erector spinae and multifidus)",
    "wall": "abdominal wall (rectus, obliques, transversus)",
}


def _of_group(name: str) -> tuple[Column, ...]:
    group, side = name.split("_")
    what = f"the {side} {_GROUP_NAMES[group]}"
    return (
        Column(f"{name}_area_mm2", "mm²", f"Area of {what}, where the model divides the slice."),
        Column(f"{name}_hu_mean", "HU", f"Mean over the pixels of {what} within the HU range of muscle."),
    )


_ADDED = (
    Column("sma_cm2", "cm²", "Skeletal muscle area, combo_area_mm2 in cm²."),
    Column("smi_cm2_m2", "cm²/m²", "Skeletal muscle index: sma_cm2 / height²."),
    Column("smd_hu", "HU", "Skeletal muscle density: mean of muscle within its HU range (combo_hu_mean)."),
    Column("smd_roi_hu", "HU", "Mean of the muscle mask as given, before the HU range is applied."),
    *_of_tissue("imat", "intermuscular fat"),
    *_of_tissue("psoas_left", "the left psoas muscle"),
    *_of_tissue("psoas_right", "the right psoas muscle"),
    Column(
        "psoas_asymmetry", "", "(left - right) / mean of both areas: -2 to 2, positive if left is larger."
    ),
    Column("psoas_roi_hu", "HU", "Mean of the psoas mask as given, before the HU range is applied."),
    Column("pmi_cm2_m2", "cm²/m²", "Psoas muscle index: area of both psoas muscles / height²."),
    Column("adipose_cm2", "cm²", "Adipose tissue: SAT + VAT + IMAT, where all three were measured."),
    Column("ffm_kg", "kg", "Whole-body fat-free mass, estimated from sma_cm2."),
    Column("fm_kg", "kg", "Whole-body fat mass, estimated from adipose_cm2."),
    Column("nama_area_mm2", "mm²", "Muscle of normal attenuation: 30 HU and more within the muscle range."),
    Column("lama_area_mm2", "mm²", "Muscle of low attenuation: below 30 HU within the muscle range."),
    Column("nama_percent", "%", "NAMA / skeletal muscle area."),
    Column("lama_percent", "%", "LAMA / skeletal muscle area."),
    Column("imat_percent", "%", "IMAT / (skeletal muscle + IMAT): fat in the muscle compartment."),
    Column("smg", "cm²·HU/m²", "Skeletal muscle gauge: smi_cm2_m2 x smd_hu."),
    Column("vat_sat_ratio", "", "VAT area / SAT area."),
    Column("circumference_cm", "cm", "Convex outline of the body on the slice, where it is whole."),
    Column("aorta_hu", "HU", "Mean in the aorta, where it was found in front of the vertebra."),
    Column("cava_hu", "HU", "Mean in the inferior vena cava, where it was found."),
    Column("sma_as_unenhanced_cm2", "cm²", "SMA as without contrast, by a published effect: an estimate."),
    Column("smd_as_unenhanced_hu", "HU", "SMD as without contrast, by a published effect: an estimate."),
    Column("sat_as_unenhanced_cm2", "cm²", "SAT as without contrast, by a published effect: an estimate."),
    Column("vat_as_unenhanced_cm2", "cm²", "VAT as without contrast, by a published effect: an estimate."),
    Column(
        "contrast_source", "", "Which published effects, name@version; empty where there are none.", "text"
    ),
    *(column for name in SIDED_GROUPS for column in _of_group(name)),
    Column("height_m", "m", "Body height used for the indices."),
    Column("slices", "", "Slices the volumes were taken over."),
    Column("slice_gaps", "", "Gaps among them (more than 1.5 times the usual step)."),
    Column("definitions", "", "name@version#hash of the tissue definitions.", "text"),
)

COLUMN_TABLE: tuple[Column, ...] = _ORIGINAL + _ADDED
"""Every column in order."""

COLUMNS: tuple[str, ...] = tuple(column.name for column in COLUMN_TABLE)
"""Every column's name in order: the original system's first, unchanged, then those added."""

ORIGINAL_COLUMNS: tuple[str, ...] = tuple(column.name for column in _ORIGINAL)
"""Names the original system's table had."""
