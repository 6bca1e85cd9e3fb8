"""The columns of a cohort's table: order, unit, meaning and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ctai_sam2.measure.columns import COLUMN_TABLE, COLUMNS, Column
from ctai_sam2.measure.cutoffs import Quantity
from ctai_sam2.measure.shown import SHOWN, ShownMeasure, show
from ctai_sam2.study.row import PROVENANCE_COLUMNS, PROVENANCE_TABLE

COMPARED: tuple[tuple[str, Quantity], ...] = (
    ("sma", "sma_cm2"),
    ("smi", "smi_cm2_m2"),
    ("smd", "smd_hu"),
)

_CASE = (
    Column("case_id", "", "The case, a pseudonym.", "text"),
    Column(
        "status", "", "done, failed, incomplete (the segmenter failed in its middle) or not done.", "text"
    ),
    Column("flagged", "", "Whether a reader should look at the case.", "yes or no"),
    Column("flags", "", "Why, as words; see the documentation of flags.", "text"),
    Column("flag_details", "", "Why, in sentences.", "text"),
    Column("sex", "", "M or F, from the manifest, else from the images' header.", "text"),
    Column("weight_kg", "kg", "Body weight, from the manifest, else from the images' header."),
    Column("bmi_kg_m2", "kg/m²", "Body mass index: weight / height²."),
    Column("age_years", "years", "Age at the scan, from the manifest, else from the images' header."),
)


def _compared(name: str) -> tuple[Column, ...]:
    what = name.upper()
    return (
        Column(f"{name}_z", "", f"Standard deviations of {what} from the mean of the same sex and age."),
        Column(
            f"{name}_percentile",
            "%",
            f"Percentile of {what}: of a normal distribution with that mean and SD.",
        ),
        Column(
            f"{name}_below_p5",
            "",
            f"Whether {what} is below the 5th percentile of the same sex and age.",
            "yes or no",
        ),
    )


_REFERENCE = (
    *(column for name, _ in COMPARED for column in _compared(name)),
    Column("reference_values", "", "Which reference values, name@version; empty where none apply.", "text"),
)
_JUDGED = (
    Column("low_smi", "", "Whether the SMI is below the cut-off for sex and BMI.", "yes or no"),
    Column("smi_cutoffs", "", "Which cut-offs.", "text"),
    Column("low_smd", "", "Whether the SMD is below the cut-off for sex and BMI.", "yes or no"),
    Column("smd_cutoffs", "", "Which cut-offs.", "text"),
    *_REFERENCE,
    Column("area_cv_psoas_left", "", "Coefficient of variation of the area under jittered prompts."),
    Column("area_cv_psoas_right", "", "Coefficient of variation of the area under jittered prompts."),
    Column("area_cv_muscle", "", "Coefficient of variation of the area under jittered prompts."),
    Column("level_gap_mm", "mm", "Distance between the slice measured and the middle of the L3 found."),
    Column("body_at_edge_mm", "mm", "Length over which the field of view cuts the body off."),
    Column("acquisition_warnings", "", "Reasons for caution found in the images.", "text"),
    Column("reviewed_by", "", "The last reader.", "text"),
    Column("reviewed_at", "", "When, UTC.", "text"),
    Column("review_note", "", "The reader's note.", "text"),
    Column("corrected_structures", "", "Structures whose masks a reader drew.", "text"),
    Column("error_type", "", "Why a case has no numbers: type of the error.", "text"),
    Column("error", "", "Why a case has no numbers, in a sentence.", "text"),
)
COHORT_COLUMN_TABLE: tuple[Column, ...] = (*_CASE, *PROVENANCE_TABLE, *_JUDGED)
"""Columns that a cohort's table has in addition to those of a single measurement."""

REFERENCE_COLUMNS: tuple[str, ...] = tuple(column.name for column in _REFERENCE)
MAIN_COLUMNS: tuple[str, ...] = ("sma_cm2", "smi_cm2_m2", "smd_hu")

TABLE_COLUMNS: tuple[str, ...] = (
    *(column.name for column in _CASE[:2]),
    *MAIN_COLUMNS,
    *(column.name for column in _CASE[2:]),
    *(name for name in COLUMNS if name not in MAIN_COLUMNS),
    *PROVENANCE_COLUMNS,
    *(column.name for column in _JUDGED),
)
"""Columns of the cohort's table in order: the case, the numbers a paper reports, and the rest."""

DESCRIBED = {column.name: column for column in (*COLUMN_TABLE, *COHORT_COLUMN_TABLE)}
"""Every column by its name."""

TEXT_COLUMNS = frozenset(name for name, column in DESCRIBED.items() if column.kind == "text")
YES_NO_COLUMNS = frozenset(name for name, column in DESCRIBED.items() if column.kind == "yes or no")

COHORT_SHOWN: Mapping[str, ShownMeasure] = MappingProxyType(
    {
        **SHOWN,
        **{
            name: show(DESCRIBED[name], short, en, zh)
            for name, short, en, zh in (
                ("smi_z", "SMI z", "SMI against the reference values", "SMI 的 z 值"),
                ("smd_z", "SMD z", "SMD against the reference values", "SMD 的 z 值"),
                ("confidence_muscle", "Conf. muscle", "Confidence in the muscle mask", "肌肉掩膜的置信度"),
                ("age_years", "Age", "Age", "年龄"),
                ("weight_kg", "Weight", "Body weight", "体重"),
                ("bmi_kg_m2", "BMI", "Body mass index (BMI)", "体重指数（BMI）"),
            )
        },
    }
)
"""How the table's numbers are shown, by column."""


def data_dictionary(own: Sequence[str] = ()) -> list[dict[str, str]]:
    """List the table's columns in order with unit and meaning; the user's own ones last.

    Examples
    --------
    >>> data_dictionary()[2]["column"], data_dictionary()[2]["unit"]
    ('sma_cm2', 'cm²')
    """
    rows = [
        {"column": name, "unit": DESCRIBED[name].unit, "meaning": DESCRIBED[name].meaning}
        for name in TABLE_COLUMNS
    ]
    return rows + [{"column": name, "unit": "", "meaning": "From the manifest, as it is."} for name in own]
