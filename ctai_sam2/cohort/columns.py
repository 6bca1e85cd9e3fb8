"""The columns of a cohort's table: order, unit, meaning and type."""

from __future__ import annotations

from collections.abc import Sequence

from ctai_sam2.measure.columns import COLUMN_TABLE, COLUMNS, Column
from ctai_sam2.measure.cutoffs import Quantity
from ctai_sam2.study.row import PROVENANCE_COLUMNS

FIRST_COLUMNS: tuple[str, ...] = (
    "case_id",
    "status",
    "flagged",
    "flags",
    "flag_details",
    "sex",
    "weight_kg",
    "bmi_kg_m2",
    "age_years",
)
COMPARED: tuple[tuple[str, Quantity], ...] = (
    ("sma", "sma_cm2"),
    ("smi", "smi_cm2_m2"),
    ("smd", "smd_hu"),
)
REFERENCE_COLUMNS: tuple[str, ...] = (
    *(f"{name}_{what}" for name, _ in COMPARED for what in ("z", "percentile", "below_p5")),
    "reference_values",
)
LAST_COLUMNS: tuple[str, ...] = (
    "low_smi",
    "smi_cutoffs",
    "low_smd",
    "smd_cutoffs",
    *REFERENCE_COLUMNS,
    "area_cv_psoas_left",
    "area_cv_psoas_right",
    "area_cv_muscle",
    "level_gap_mm",
    "body_at_edge_mm",
    "acquisition_warnings",
    "reviewed_by",
    "reviewed_at",
    "review_note",
    "corrected_structures",
    "error_type",
    "error",
)
MAIN_COLUMNS: tuple[str, ...] = ("sma_cm2", "smi_cm2_m2", "smd_hu")

TABLE_COLUMNS: tuple[str, ...] = (
    *FIRST_COLUMNS[:2],
    *MAIN_COLUMNS,
    *FIRST_COLUMNS[2:],
    *(name for name in COLUMNS if name not in MAIN_COLUMNS),
    *PROVENANCE_COLUMNS,
    *LAST_COLUMNS,
)
"""Columns of the cohort's table in order: the case, the numbers a paper reports, and the rest."""

COHORT_COLUMN_TABLE: tuple[Column, ...] = (
    Column("case_id", "", "The case, a pseudonym."),
    Column("status", "", "done, failed, incomplete (the segmenter failed in its middle) or not done."),
    Column("flagged", "", "Whether a reader should look at the case."),
    Column("flags", "", "Why, as words; see the documentation of flags."),
    Column("flag_details", "", "Why, in sentences."),
    Column("sex", "", "M or F, by the manifest, else by the images' header."),
    Column("weight_kg", "kg", "Body weight, by the manifest, else by the images' header."),
    Column("bmi_kg_m2", "kg/m²", "Body mass index: weight / height²."),
    Column("age_years", "years", "Age at the scan, by the manifest, else by the images' header."),
    *(
        Column(f"{name}_{what}", unit, text.format(name.upper()))
        for name in ("sma", "smi", "smd")
        for what, unit, text in (
            (
                "z",
                "",
                "Standard deviations of {} from the mean of the same sex and age.",
            ),
            ("percentile", "%", "Percentile of {}: of a normal distribution with that mean and SD."),
            ("below_p5", "", "Whether {} is below the 5th percentile of the same sex and age."),
        )
    ),
    Column("reference_values", "", "Which reference values, name@version; empty where none apply."),
    Column("confidence_l3", "", "The model's confidence in the mask of L3, 0 to 1."),
    Column("confidence_psoas_left", "", "The model's confidence in the mask of the left psoas, 0 to 1."),
    Column("confidence_psoas_right", "", "The model's confidence in the mask of the right psoas, 0 to 1."),
    Column("confidence_muscle", "", "The model's confidence in the mask of all muscle, 0 to 1."),
    Column("model", "", "Name of the model."),
    Column("weights_sha256", "", "SHA-256 of the model's weights."),
    Column("device", "", "Device it ran on."),
    Column("code_version", "", "Version of ctai_sam2 that ran the model."),
    Column("window", "HU", "Level and width of the window the model saw."),
    Column("kvp", "kV", "Peak tube voltage, by the header."),
    Column("contrast", "", "Whether a contrast agent is recorded in the header."),
    Column("phase_header", "", "Contrast phase by the header's words, where they name one."),
    Column("phase_image", "", "Contrast phase as aorta and cava look: unenhanced, arterial, portal_venous."),
    Column("scanner", "", "Maker and model of the scanner, by the header."),
    Column("slice_thickness_mm", "mm", "Nominal slice thickness, by the header."),
    Column("kernel", "", "Reconstruction kernel, by the header."),
    Column("l3_certainty", "", "How the level is known: user, counted, estimated or unknown."),
    Column("level_chosen_by", "", "Who chose the level: user or software."),
    Column("l3_probability", "", "How likely the level is L3, 0 to 1, where the software chose it."),
    Column("warnings", "", "Reasons to look at the masks before trusting them."),
    Column("low_smi", "", "Whether the SMI is below the cut-off for sex and BMI."),
    Column("smi_cutoffs", "", "Which cut-offs."),
    Column("low_smd", "", "Whether the SMD is below the cut-off for sex and BMI."),
    Column("smd_cutoffs", "", "Which cut-offs."),
    Column("area_cv_psoas_left", "", "Coefficient of variation of the area under jittered prompts."),
    Column("area_cv_psoas_right", "", "Coefficient of variation of the area under jittered prompts."),
    Column("area_cv_muscle", "", "Coefficient of variation of the area under jittered prompts."),
    Column("level_gap_mm", "mm", "Distance between the slice measured and the middle of the L3 found."),
    Column("body_at_edge_mm", "mm", "Length over which the body touches the image's edge."),
    Column("acquisition_warnings", "", "What the images give reason for caution by."),
    Column("reviewed_by", "", "The last reader."),
    Column("reviewed_at", "", "When, UTC."),
    Column("review_note", "", "The reader's note."),
    Column("corrected_structures", "", "Structures whose masks a reader drew."),
    Column("error_type", "", "Why a case has no numbers: type of the error."),
    Column("error", "", "Why a case has no numbers, in a sentence."),
)
"""Unit and meaning of the columns that a cohort's table has in addition to those of a single measurement."""

TEXT_COLUMNS = frozenset(
    {
        *("case_id", "status", "flags", "flag_details", "sex", "definitions"),
        *("model", "weights_sha256", "device", "code_version", "window", "contrast", "kernel"),
        *("phase_header", "phase_image", "scanner", "contrast_source"),
        *(
            "l3_certainty",
            "level_chosen_by",
            "warnings",
            "smi_cutoffs",
            "smd_cutoffs",
            "reference_values",
            "acquisition_warnings",
            "reviewed_by",
        ),
        *("reviewed_at", "review_note", "corrected_structures", "error_type", "error"),
    }
)
YES_NO_COLUMNS = frozenset({"flagged", "low_smi", "low_smd", "sma_below_p5", "smi_below_p5", "smd_below_p5"})


def data_dictionary(own: Sequence[str] = ()) -> list[dict[str, str]]:
    """List the table's columns in order with unit and meaning; the user's own ones last.

    Examples
    --------
    >>> data_dictionary()[2]["column"], data_dictionary()[2]["unit"]
    ('sma_cm2', 'cm²')
    """
    described = {column.name: column for column in (*COLUMN_TABLE, *COHORT_COLUMN_TABLE)}
    rows = [
        {"column": name, "unit": described[name].unit, "meaning": described[name].meaning}
        for name in TABLE_COLUMNS
    ]
    return rows + [{"column": name, "unit": "", "meaning": "From the manifest, as it is."} for name in own]
