"""From a segmented slice to its table row: numbers, where they come from, and reasons for caution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ctai_sam2.measure.body_composition import measure_slice
from ctai_sam2.measure.columns import Column
from ctai_sam2.measure.contrast import (
    PhaseEstimate,
    acquisition_cautions,
    describe_as_unenhanced,
    estimate_phase,
)
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.measure.quality import body_circumference_cm
from ctai_sam2.types import CTSlice, Mask
from ctai_sam2.types.checks import require_type

if TYPE_CHECKING:
    from ctai_sam2.segmentation import StructureResult, StudyResult

Cell: TypeAlias = float | int | str | None
TableRow: TypeAlias = dict[str, Cell]

_MEASURED = ("psoas_left", "psoas_right", "psoas", "muscle", "sat", "vat", "imat")
_OTHER_HEIGHT_M = 0.05
_CONFIDENT = ("l3", "psoas_left", "psoas_right", "muscle")

PROVENANCE_TABLE: tuple[Column, ...] = (
    Column("confidence_l3", "", "The model's confidence in the mask of L3, 0 to 1."),
    Column("confidence_psoas_left", "", "The model's confidence in the mask of the left psoas, 0 to 1."),
    Column("confidence_psoas_right", "", "The model's confidence in the mask of the right psoas, 0 to 1."),
    Column("confidence_muscle", "", "The model's confidence in the mask of all muscle, 0 to 1."),
    Column("model", "", "Name of the model.", "text"),
    Column("weights_sha256", "", "SHA-256 of the model's weights.", "text"),
    Column("device", "", "Device it ran on.", "text"),
    Column("code_version", "", "Version of ctai_sam2 that ran the model.", "text"),
    Column("window", "HU", "Level and width of the window the model saw.", "text"),
    Column("kvp", "kV", "Peak tube voltage, from the header."),
    Column("contrast", "", "Whether a contrast agent is recorded in the header.", "text"),
    Column("phase_header", "", "Contrast phase from the header's words, where they name one.", "text"),
    Column(
        "phase_image",
        "",
        "Contrast phase as aorta and cava look: unenhanced, arterial, portal_venous.",
        "text",
    ),
    Column("scanner", "", "Maker and model of the scanner, from the header.", "text"),
    Column("slice_thickness_mm", "mm", "Nominal slice thickness, from the header."),
    Column("kernel", "", "Reconstruction kernel, from the header.", "text"),
    Column("l3_certainty", "", "How the level is known: user, counted, estimated or unknown.", "text"),
    Column("level_chosen_by", "", "Who chose the level: user or software.", "text"),
    Column("l3_probability", "", "How likely the level is L3, 0 to 1, where the software chose it."),
    Column("warnings", "", "Reasons to look at the masks before trusting them.", "text"),
)
PROVENANCE_COLUMNS: tuple[str, ...] = tuple(column.name for column in PROVENANCE_TABLE)
"""Columns that say where a row's numbers come from; they follow those of `measure.columns.COLUMNS`."""


def measure_study(
    study: StudyResult,
    *,
    height_m: float | None = None,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
) -> TableRow:
    """Measure the mid-L3 slice of a study: one table row with its provenance.

    Parameters
    ----------
    study : StudyResult
        From `segment_study`.
    height_m : float, optional
        Body height in metres, for the indices; that of the header when omitted, if it has one.
    definitions : TissueDefinitions
        HU ranges and density rule.

    Returns
    -------
    dict
        `measure.columns.COLUMNS`, then `PROVENANCE_COLUMNS`.

    Raises
    ------
    InputError
        If the height is not plausible.

    Examples
    --------
    ::

        row = measure_study(study, height_m=1.75)
        row["sma_cm2"], row["smi_cm2_m2"], row["smd_hu"], row["warnings"]
        pandas.DataFrame([row])
    """
    from ctai_sam2.segmentation import StudyResult

    require_type(study, StudyResult, "study")
    require_type(definitions, TissueDefinitions, "definitions")
    by_software = study.level_chosen_by == "software"
    return measure_results(
        study.axial.ct_slice,
        results_by_name(study),
        groups=study.axial.muscle_groups,
        height_m=height_m,
        definitions=definitions,
        axial_index=study.axial_index,
        l3_certainty=study.level_certainty,
        l3_probability=study.sagittal.probability if by_software and study.sagittal is not None else None,
        level_chosen_by=study.level_chosen_by,
        warnings=study.warnings,
    )


def measure_results(
    ct: CTSlice,
    results: Mapping[str, StructureResult],
    *,
    masks: Mapping[str, Mask] | None = None,
    groups: Mapping[str, Mask] | None = None,
    height_m: float | None = None,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    axial_index: int | None = None,
    l3_certainty: str | None = None,
    l3_probability: float | None = None,
    level_chosen_by: str | None = None,
    warnings: Sequence[str] = (),
) -> TableRow:
    """Measure the structures of an axial slice: one table row with its provenance.

    Parameters
    ----------
    ct : CTSlice
        The slice.
    results : mapping of str to StructureResult
        By structure; ``l3`` gives its confidence only.
    masks : mapping of str to ndarray of bool, shape (H, W), optional
        Masks to measure instead of those of the results, as after a correction.
    groups : mapping of str to ndarray of bool, shape (H, W), optional
        See `AxialResult.muscle_groups`; only what is in the muscle mask, and in no psoas, is measured.
    height_m, definitions
        As in `measure_study`.
    axial_index : int, optional
        Index of the slice in its volume.
    l3_certainty : str, optional
        How the level is known: ``counted``, ``estimated``, ``unknown``, or ``user`` where the user chose it.
    l3_probability : float, optional
        How likely the level is L3.
    level_chosen_by : {"user", "software"}, optional
        Who chose the level.
    warnings : sequence of str
        For the row.

    Returns
    -------
    dict
        `measure.columns.COLUMNS`, then `PROVENANCE_COLUMNS`.

    Raises
    ------
    InputError
        If the height is not plausible.
    """
    measured = {name: one.mask for name, one in results.items()} if masks is None else dict(masks)
    row: TableRow = dict(
        measure_slice(
            ct.hu,
            {name: mask for name, mask in measured.items() if name in _MEASURED}
            | _groups_within(measured, groups or {}),
            ct.spacing_mm,
            definitions=definitions,
            height_m=height_m if height_m is not None else ct.acquisition.patient_height_m,
            slice_extent_mm=ct.thickness_mm,
            middle_slice=axial_index,
        )
    )
    row["circumference_cm"] = body_circumference_cm(ct)
    row.update(dict.fromkeys(PROVENANCE_COLUMNS))
    for name in _CONFIDENT:
        result = results.get(name)
        row[f"confidence_{name}"] = None if result is None else result.confidence
    prediction = next((r.prediction for r in results.values() if r.prediction is not None), None)
    if prediction is not None:
        identity = prediction.identity
        row["model"], row["weights_sha256"] = identity.name, identity.weights_sha256
        row["device"], row["code_version"] = identity.device, identity.code_version
        if prediction.window is not None:
            row["window"] = f"{prediction.window.level:g}/{prediction.window.width:g}"
    acquisition = ct.acquisition
    row["kvp"], row["kernel"] = acquisition.kvp, acquisition.kernel
    row["contrast"] = None if acquisition.contrast is None else ("yes" if acquisition.contrast else "no")
    estimate = estimate_slice_phase(ct, measured)
    row["phase_header"], row["scanner"] = acquisition.phase, acquisition.scanner
    if estimate is not None:
        row["phase_image"] = estimate.phase
        row["aorta_hu"], row["cava_hu"] = estimate.aorta_hu, estimate.cava_hu
    agreed = acquisition.phase if estimate is None or acquisition.phase else estimate.phase
    if not any("the header" in text for text in acquisition_cautions(acquisition, estimate)):
        row.update(describe_as_unenhanced(row, agreed))
    row["slice_thickness_mm"] = acquisition.slice_thickness_mm
    row["l3_certainty"], row["l3_probability"] = l3_certainty, l3_probability
    row["level_chosen_by"] = level_chosen_by
    cautions = [text for text in acquisition_cautions(acquisition, estimate) if text not in warnings]
    if is_other_height(height_m, acquisition.patient_height_m):
        cautions.append("the body height given is not that of the images' header")
    row["warnings"] = " | ".join([*warnings, *cautions]) or None
    return row


def is_other_height(one_m: float | None, other_m: float | None) -> bool:
    """Tell whether two body heights differ by more than how they are measured; False where one is unknown."""
    return one_m is not None and other_m is not None and abs(one_m - other_m) > _OTHER_HEIGHT_M


def number_of_cell(value: object) -> float | None:
    """Return a cell as a number; None where it holds none, or one that is not finite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def estimate_slice_phase(ct: CTSlice, masks: Mapping[str, Mask]) -> PhaseEstimate | None:
    """Estimate the contrast phase of an axial slice from its vessels; None without a vertebra."""
    if "vertebra" not in masks:
        return None
    blocked = np.zeros(ct.shape_hw, np.bool_)
    for name in ("muscle", "psoas_left", "psoas_right", "psoas"):
        if name in masks:
            blocked |= masks[name]
    return estimate_phase(ct.hu, masks["vertebra"], blocked, ct.spacing_mm)


def _groups_within(masks: Mapping[str, Mask], groups: Mapping[str, Mask]) -> dict[str, Mask]:
    """Muscle groups as far as they lie in the muscle mask that counts, which a reader may have drawn."""
    if "muscle" not in masks:
        return {}
    rest = masks["muscle"].copy()
    for name in ("psoas_left", "psoas_right", "psoas"):
        if name in masks:
            rest &= ~masks[name]
    return {name: mask & rest for name, mask in groups.items()}


def results_by_name(study: StudyResult) -> dict[str, StructureResult]:
    """Return L3 and the structures of the axial slice by name."""
    results: dict[str, StructureResult] = {}
    if study.sagittal is not None and study.sagittal.l3 is not None:
        results["l3"] = study.sagittal.l3
    results.update({str(name): result for name, result in study.axial.structures.items()})
    return results
