"""Which cases somebody should look at, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Record = Mapping[str, Any]

MEANINGS: Mapping[str, str] = {
    "failed": "The case has no numbers.",
    "missing": "A structure that was wanted was not found.",
    "low_confidence": "The model is not sure of a mask.",
    "level": "The level may be wrong: L3 was not counted from a clear sacrum, or lies elsewhere.",
    "asymmetry": "The two psoas muscles differ more than they usually do.",
    "outlier": "An area or a density lies far from the others of the cohort.",
    "holes": "A psoas mask has holes or stray parts.",
    "truncated": "The body is cut off by the field of view: areas of fat and muscle may be short.",
    "unstable": "The area changes much with where exactly the prompt is put.",
    "acquisition": "The images give reason for caution: gaps, tilt, thick slices, unusual voltage.",
    "correction": "A reader's correction was made on another slice than this one and does not count.",
}
"""Flags in order of gravity, and what they mean."""

OUTLIER_COLUMNS: tuple[str, ...] = (
    "sma_cm2",
    "psoas_area_mm2",
    "smd_hu",
    "psoas_hu_mean",
    "sat_area_mm2",
    "vat_area_mm2",
)
_SURE_LEVELS = ("counted", "told")
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
        ``fewest`` cases.
    fewest : int
        Cases below which nothing is an outlier.
    hole_share, stray_share : float
        Share of a psoas mask.
    edge_mm : float
        Length over which the body touches the edge of the image.
    area_cv : float
        Coefficient of variation of an area under jittered prompts.
    level_gap_mm : float
        Distance between the slice that was given and the middle of the L3 that was found.
    thickness_mm : float
        Nominal slice thickness.
    kvp : (float, float)
        Usual tube voltages.
    """

    asymmetry: float = 0.35
    outlier_z: float = 3.5
    fewest: int = 12
    hole_share: float = 0.1
    stray_share: float = 0.05
    edge_mm: float = 20.0
    area_cv: float = 0.1
    level_gap_mm: float = 20.0
    thickness_mm: float = 6.0
    kvp: tuple[float, float] = (80.0, 140.0)


def find_flags(
    records: Sequence[Record],
    *,
    confidence_threshold: float,
    sexes: Sequence[str | None],
    limits: QcLimits | None = None,
) -> list[dict[str, str]]:
    """Flag records, one by one and against each other.

    Parameters
    ----------
    records : sequence of mapping
        Records of the cases.
    confidence_threshold : float
        Below it a mask is not trusted.
    sexes : sequence of str or None
        Of the cases.
    limits : QcLimits, optional
        Where numbers become flags.

    Returns
    -------
    list of dict
        For each record its flags in order of gravity, each with a sentence.
    """
    limits = limits or QcLimits()
    outlying = _find_outliers(records, sexes, limits)
    return [
        _flags_of(record, far, confidence_threshold, limits)
        for record, far in zip(records, outlying, strict=True)
    ]


def _flags_of(
    record: Record, outlying: Sequence[str], confidence_threshold: float, limits: QcLimits
) -> dict[str, str]:
    if record.get("status") != "done":
        error = record.get("error") or {}
        return {"failed": f"{error.get('type', 'not done')}: {error.get('sentence', 'run it again')}"}
    row, qc = record["row"], record["qc"]
    flags: dict[str, str] = {}
    if qc["missing"]:
        flags["missing"] = f"not found: {', '.join(qc['missing'])}"
    confidence = qc["smallest_confidence"]
    if confidence is not None and confidence < confidence_threshold:
        flags["low_confidence"] = f"smallest confidence {confidence:.2f}"
    level = _doubts_of_level(row, qc, limits)
    if level:
        flags["level"] = level
    asymmetry = as_number(row.get("psoas_asymmetry"))
    if abs(asymmetry) > limits.asymmetry:
        larger = "left" if asymmetry > 0 else "right"
        flags["asymmetry"] = f"the {larger} psoas is larger by {100 * abs(asymmetry):.0f} % of their mean"
    if outlying:
        flags["outlier"] = "; ".join(outlying)
    if qc["hole_share"] > limits.hole_share or qc["stray_share"] > limits.stray_share:
        flags["holes"] = (
            f"holes {100 * qc['hole_share']:.0f} %, stray parts {100 * qc['stray_share']:.0f} % of a psoas"
        )
    if qc["edge_mm"] > limits.edge_mm:
        flags["truncated"] = f"the body touches the image's edge over {qc['edge_mm']:.0f} mm"
    wide = [f"{name} {100 * cv:.0f} %" for name, cv in qc["area_cv"].items() if cv > limits.area_cv]
    if wide:
        flags["unstable"] = f"area varies by {', '.join(wide)}"
    acquisition = _doubts_of_acquisition(record, limits)
    if acquisition:
        flags["acquisition"] = acquisition
    correction = record.get("correction")
    if correction and correction.get("stale"):
        flags["correction"] = f"by {correction['who']}, {correction['when']}"
    return flags


def _doubts_of_level(row: Mapping[str, Any], qc: Mapping[str, Any], limits: QcLimits) -> str:
    gap, certainty = qc["level_gap_mm"], row.get("l3_certainty")
    if gap is not None and gap > limits.level_gap_mm:
        return f"the slice given lies {gap:.0f} mm from the L3 found ({certainty})"
    if gap == 0 and certainty is not None and certainty not in _SURE_LEVELS:
        return f"L3 is {certainty}"
    return ""


def _doubts_of_acquisition(record: Record, limits: QcLimits) -> str:
    told = record.get("acquisition", {})
    doubts = list(record.get("acquisition_warnings", ()))
    thickness, kvp = told.get("slice_thickness_mm"), told.get("kvp")
    if thickness is not None and thickness > limits.thickness_mm:
        doubts.append(f"slices of {thickness:g} mm")
    if kvp is not None and not limits.kvp[0] <= kvp <= limits.kvp[1]:
        doubts.append(f"{kvp:g} kV")
    return "; ".join(doubts)


def _find_outliers(
    records: Sequence[Record], sexes: Sequence[str | None], limits: QcLimits
) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in records]
    rows = [record["row"] if record.get("status") == "done" else {} for record in records]
    groups = {sex: [i for i, one in enumerate(sexes) if one == sex] for sex in dict.fromkeys(sexes)}
    everyone = list(range(len(records)))
    for column in OUTLIER_COLUMNS:
        values = np.array([as_number(row.get(column)) for row in rows], dtype=np.float64)
        for sex, members in groups.items():
            peers = members if sex is not None and np.isfinite(values[members]).sum() >= limits.fewest else []
            known = values[peers or everyone]
            known = known[np.isfinite(known)]
            if len(known) < limits.fewest:
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


def as_number(value: Any) -> float:
    """Turn a record's cell into a number; NaN where there is none."""
    return float(value) if isinstance(value, int | float) else math.nan
