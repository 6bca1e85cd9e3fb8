"""Which cases a reader should look at, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctai_sam2.cohort.case_record import CaseError, CaseRecord
from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.body import cut_lengths_mm
from ctai_sam2.image.masks import fill_holes, keep_largest
from ctai_sam2.types import CTSlice, Mask

MEANINGS: Mapping[str, str] = {
    "failed": "The case has no numbers.",
    "implausible": "A muscle area, index or density that no adult has: left out of the statistics.",
    "duplicate": "The same images, or the same slice, are in the cohort more than once.",
    "same_patient": "Another case is of the same patient, going by the header of the images.",
    "manifest": "What the manifest states of the patient is not what the header of the images states.",
    "missing": "A structure that was wanted was not found.",
    "low_confidence": "The model is not sure of a mask.",
    "level": "The level may be wrong: L3 was not counted from a clear sacrum, or is elsewhere.",
    "asymmetry": "The two psoas muscles differ more than is typical.",
    "outlier": "An area or a density is far from the others of the cohort.",
    "holes": "A psoas mask has holes or stray parts.",
    "truncated": "The body is cut off by the field of view: areas of fat and muscle may be short.",
    "volume": "On some slices of the range of levels a muscle is implausible next to its neighbours.",
    "unstable": "The area changes much with where exactly the prompt is put.",
    "acquisition": "The images give reason for caution: gaps, tilt, thick slices, unusual voltage.",
    "correction": "A reader's correction was made on another slice than this one and does not count.",
}
"""Flags in order of gravity, and what they mean."""

IMPLAUSIBLE = "implausible"

PLAUSIBLE: Mapping[str, tuple[float, float]] = {
    "sma_cm2": (30.0, 400.0),
    "smi_cm2_m2": (10.0, 130.0),
    "smd_hu": (-25.0, 90.0),
}
"""Limits of what an adult can have, set far beyond the 1st and 99th percentiles of reference populations."""

OUTLIER_COLUMNS: tuple[str, ...] = (
    "sma_cm2",
    "psoas_area_mm2",
    "smd_hu",
    "psoas_hu_mean",
    "sat_area_mm2",
    "vat_area_mm2",
)
_SURE_LEVELS = ("counted", "user")
_NORMAL_MAD = 1.4826
"""Standard deviations of a normal distribution in one median absolute deviation."""


@dataclass(frozen=True, kw_only=True)
class QcLimits:
    """Where a number becomes a flag.

    Parameters
    ----------
    asymmetry : float
        Difference of the psoas areas over their mean.
    outlier_z : float
        Robust z score (median and median absolute deviation), within a sex where it is known and has
        ``min_cases`` cases.
    min_cases : int
        Cases below which nothing is an outlier.
    hole_share, stray_share : float
        Share of a psoas mask.
    edge_mm : float
        Length over which the field of view cuts the body off.
    area_cv : float
        Coefficient of variation of an area under jittered prompts.
    level_gap_mm : float
        Distance between the slice that was given and the middle of the L3 that was found.
    thickness_mm : float
        Nominal slice thickness.
    kvp : (float, float)
        Typical tube voltages.
    """

    asymmetry: float = 0.35
    outlier_z: float = 3.5
    min_cases: int = 12
    hole_share: float = 0.1
    stray_share: float = 0.05
    edge_mm: float = 20.0
    area_cv: float = 0.1
    level_gap_mm: float = 20.0
    thickness_mm: float = 6.0
    kvp: tuple[float, float] = (80.0, 140.0)


def find_flags(
    records: Sequence[CaseRecord | None],
    *,
    confidence_threshold: float,
    sexes: Sequence[str | None],
    limits: QcLimits | None = None,
    same_patient: Mapping[str, Sequence[str]] | None = None,
    contradictions: Sequence[Sequence[str]] | None = None,
) -> list[dict[str, str]]:
    """Flag records, one by one and against each other.

    Parameters
    ----------
    records : sequence of CaseRecord or None
        Of the cases; None where a case is not done.
    confidence_threshold : float
        Below it a mask is not trusted.
    sexes : sequence of str or None
        Of the cases.
    limits : QcLimits, optional
        Where numbers become flags.
    same_patient : mapping of str to sequence of str, optional
        By case the others of the same patient; see `find_same_patients`.
    contradictions : sequence of (sequence of str), optional
        Of the cases, what the manifest states otherwise than the images' header.

    Returns
    -------
    list of dict
        For each record its flags in order of gravity, each with a sentence.
    """
    limits = limits or QcLimits()
    outlying = _find_outliers(records, sexes, limits)
    twins = _find_duplicates(records)
    patients = same_patient or {}
    others = contradictions or [()] * len(records)
    return [
        _flags_of(record, far, same, patients, other, confidence_threshold, limits)
        for record, far, same, other in zip(records, outlying, twins, others, strict=True)
    ]


def _flags_of(
    record: CaseRecord | None,
    outlying: Sequence[str],
    same: Sequence[str],
    patients: Mapping[str, Sequence[str]],
    contradictions: Sequence[str],
    confidence_threshold: float,
    limits: QcLimits,
) -> dict[str, str]:
    if record is None:
        return {"failed": "not done: run it again"}
    if not record.is_done:
        error = record.error or CaseError()
        again = "; the next run tries it again" if record.retry else ""
        return {"failed": f"{error.type}: {error.sentence}{again}"}
    quality = record.quality
    flags: dict[str, str] = {}
    strange = [
        f"{column} {record.number(column):.4g}"
        for column, (low, high) in PLAUSIBLE.items()
        if math.isfinite(record.number(column)) and not low <= record.number(column) <= high
    ]
    if strange:
        flags[IMPLAUSIBLE] = f"{', '.join(strange)}: look at the masks, the spacing and the HU"
    if same:
        flags["duplicate"] = f"the same images as {', '.join(same)}"
    others = [name for name in patients.get(record.case_id, ()) if name not in same]
    if others:
        flags["same_patient"] = f"another scan of the patient of {', '.join(others)}"
    if contradictions:
        flags["manifest"] = f"another {', '.join(contradictions)} than in the header of the images"
    if quality.missing:
        flags["missing"] = f"not found: {', '.join(quality.missing)}"
    confidence = quality.smallest_confidence
    if confidence is not None and confidence < confidence_threshold:
        flags["low_confidence"] = f"smallest confidence {confidence:.2f}"
    level = _doubts_of_level(record, limits)
    if level:
        flags["level"] = level
    asymmetry = record.number("psoas_asymmetry")
    if abs(asymmetry) > limits.asymmetry:
        larger = "left" if asymmetry > 0 else "right"
        flags["asymmetry"] = (
            f"the {larger} psoas is larger, by {100 * abs(asymmetry):.0f} % of the mean of both"
        )
    if outlying:
        flags["outlier"] = "; ".join(outlying)
    holes, strays = quality.hole_share, quality.stray_share
    if holes > limits.hole_share or strays > limits.stray_share:
        flags["holes"] = f"holes {100 * holes:.0f} %, stray parts {100 * strays:.0f} % of a psoas"
    if quality.edge_mm > limits.edge_mm:
        flags["truncated"] = f"the field of view cuts the body off over {quality.edge_mm:.0f} mm"
    if quality.red_slices:
        counts = [f"{name} on {count}" for name, count in quality.red_slices.items()]
        flags["volume"] = f"implausible slices: {', '.join(counts)}"
    wide = [f"{name} {100 * cv:.0f} %" for name, cv in quality.area_cv.items() if cv > limits.area_cv]
    if wide:
        flags["unstable"] = f"area varies by {', '.join(wide)}"
    acquisition = _doubts_of_acquisition(record, limits)
    if acquisition:
        flags["acquisition"] = acquisition
    if record.review is not None and record.review.stale:
        flags["correction"] = f"by {record.review.who}, {record.review.when}"
    return flags


def _doubts_of_level(record: CaseRecord, limits: QcLimits) -> str:
    gap, certainty = record.quality.level_gap_mm, record.text("l3_certainty")
    if gap is not None and gap > limits.level_gap_mm:
        found = record.quality.found_certainty or certainty
        return f"the slice given is {gap:.0f} mm from the L3 found ({found})"
    if gap == 0 and certainty is not None and certainty not in _SURE_LEVELS:
        return f"L3 is {certainty}"
    return ""


def _doubts_of_acquisition(record: CaseRecord, limits: QcLimits) -> str:
    doubts = list(record.acquisition_warnings)
    thickness, kvp = record.acquisition.slice_thickness_mm, record.acquisition.kvp
    if thickness is not None and thickness > limits.thickness_mm:
        doubts.append(f"slices of {thickness:g} mm")
    if kvp is not None and not limits.kvp[0] <= kvp <= limits.kvp[1]:
        doubts.append(f"{kvp:g} kV")
    return "; ".join(doubts)


def _find_duplicates(records: Sequence[CaseRecord | None]) -> list[list[str]]:
    """For each case the others with the same images, or with the same slice in another file."""
    owners: dict[tuple[str, str], list[str]] = {}
    digests: list[list[tuple[str, str]]] = []
    for record in records:
        found = [] if record is None or not record.is_done else _digests_of(record)
        digests.append(found)
        for digest in found:
            owners.setdefault(digest, []).append(record.case_id if record is not None else "")
    twins = []
    for record, found in zip(records, digests, strict=True):
        same = dict.fromkeys(name for digest in found for name in owners[digest])
        twins.append([name for name in same if record is not None and name != record.case_id])
    return twins


def _digests_of(record: CaseRecord) -> list[tuple[str, str]]:
    pairs = (("image", record.content_sha256), ("slice", record.slice_sha256))
    return [(kind, digest) for kind, digest in pairs if digest is not None]


def _find_outliers(
    records: Sequence[CaseRecord | None], sexes: Sequence[str | None], limits: QcLimits
) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in records]
    groups = {sex: [i for i, one in enumerate(sexes) if one == sex] for sex in dict.fromkeys(sexes)}
    everyone = list(range(len(records)))
    for column in OUTLIER_COLUMNS:
        values = np.array(
            [r.number(column) if r is not None and r.is_done else math.nan for r in records], dtype=np.float64
        )
        for sex, members in groups.items():
            peers = (
                members if sex is not None and np.isfinite(values[members]).sum() >= limits.min_cases else []
            )
            known = values[peers or everyone]
            known = known[np.isfinite(known)]
            if len(known) < limits.min_cases:
                continue
            middle = float(np.median(known))
            spread = float(np.median(np.abs(known - middle))) * _NORMAL_MAD
            if spread <= 0:
                continue
            for index in members:
                z = (values[index] - middle) / spread
                if math.isfinite(z) and abs(z) > limits.outlier_z:
                    found[index].append(f"{column} {values[index]:.4g} (median {middle:.4g}, z {z:+.1f})")
    return found


def quality_numbers(ct_slice: CTSlice, masks: Mapping[str, Mask]) -> dict[str, float]:
    """Numbers that quality control goes by: holes and stray parts of the psoas, body at the image's edge."""
    numbers = {"hole_share": 0.0, "stray_share": 0.0, "edge_mm": _body_at_edge_mm(ct_slice)}
    for name in ("psoas_left", "psoas_right"):
        mask = masks.get(name)
        if mask is None or not mask.any():
            continue
        area = float(mask.sum())
        numbers["hole_share"] = max(numbers["hole_share"], float(fill_holes(mask).sum()) / area - 1)
        numbers["stray_share"] = max(numbers["stray_share"], 1 - float(keep_largest(mask).sum()) / area)
    return {name: round(value, 4) for name, value in numbers.items()}


def _body_at_edge_mm(ct_slice: CTSlice) -> float:
    """Length over which the field of view cuts the body off."""
    try:
        return sum(cut_lengths_mm(ct_slice))
    except AnatomyNotFound:
        return 0.0
