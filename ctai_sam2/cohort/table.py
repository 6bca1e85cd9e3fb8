"""The table of a cohort: one row per case, from its records."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctai_sam2._version import __version__
from ctai_sam2.cohort.manifest import Case, format_prompt
from ctai_sam2.cohort.plan import Plan
from ctai_sam2.cohort.qc import MEANINGS, QcLimits, find_flags
from ctai_sam2.cohort.store import Store
from ctai_sam2.errors import InputError
from ctai_sam2.io import write_bytes, write_json, write_table_csv
from ctai_sam2.io.safe_text import from_cell
from ctai_sam2.measure.columns import COLUMNS
from ctai_sam2.measure.cutoffs import flag_low_smd, flag_low_smi
from ctai_sam2.study_outputs import PROVENANCE_COLUMNS, Cell, TableRow

if TYPE_CHECKING:
    import pandas as pd

FIRST_COLUMNS: tuple[str, ...] = (
    "case_id",
    "status",
    "flagged",
    "flags",
    "flag_details",
    "sex",
    "weight_kg",
    "bmi_kg_m2",
)
LAST_COLUMNS: tuple[str, ...] = (
    "low_smi",
    "smi_cutoffs",
    "low_smd",
    "smd_cutoffs",
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
TABLE_COLUMNS: tuple[str, ...] = (*FIRST_COLUMNS, *COLUMNS, *PROVENANCE_COLUMNS, *LAST_COLUMNS)
"""Columns of the cohort's table in order."""

_TEXT = frozenset(
    {
        *("case_id", "status", "flags", "flag_details", "sex", "definitions"),
        *("model", "weights_sha256", "device", "code_version", "window", "contrast", "kernel"),
        *("l3_certainty", "warnings", "smi_cutoffs", "smd_cutoffs", "acquisition_warnings", "reviewed_by"),
        *("reviewed_at", "review_note", "corrected_structures", "error_type", "error"),
    }
)
_YES_NO = frozenset({"flagged", "low_smi", "low_smd"})


@dataclass(frozen=True, kw_only=True)
class CohortFiles:
    """Where a cohort's results lie.

    Parameters
    ----------
    folder : Path
        The cohort's folder.
    csv, summary : Path
        Table and summary.
    parquet : Path or None
        The table with its types, where pyarrow is installed.
    """

    folder: Path
    csv: Path
    summary: Path
    parquet: Path | None

    @classmethod
    def of(cls, store: Store) -> CohortFiles:
        """Name the files of a folder."""
        parquet = store.folder / "table.parquet"
        return cls(
            folder=store.folder,
            csv=store.folder / "table.csv",
            summary=store.folder / "summary.json",
            parquet=parquet if parquet.is_file() else None,
        )


def write_results(
    store: Store,
    cases: Sequence[Case],
    plan: Plan,
    *,
    key: str,
    model_token: str,
    limits: QcLimits | None = None,
) -> tuple[CohortFiles, dict[str, Any]]:
    """Make the table from the records and write it as CSV and Parquet, with ``summary.json``.

    Parameters
    ----------
    store : Store
        The cohort's folder.
    cases : sequence of Case
        Rows, in this order.
    plan : Plan
        Cut-offs and confidence threshold.
    key : str
        Digest of all the table follows from; empty while cases are undone.
    model_token : str
        Tells which model the run was made with.
    limits : QcLimits, optional
        Where numbers become flags.

    Returns
    -------
    tuple of CohortFiles and dict
        Where they lie, and the summary.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    records = [store.read_record(case.case_id) or {"status": "not done"} for case in cases]
    flags = find_flags(
        records,
        confidence_threshold=plan.confidence_threshold,
        sexes=[sex_of(case, record) for case, record in zip(cases, records, strict=True)],
        limits=limits,
    )
    rows = [
        _make_row(case, record, found, plan)
        for case, record, found in zip(cases, records, flags, strict=True)
    ]
    write_table_csv(store.folder / "table.csv", rows, TABLE_COLUMNS)
    _write_parquet(store.folder / "table.parquet", rows)
    summary = _summarise(rows, flags, records, plan)
    summary |= {"key": key, "model_token": model_token, "manifest": [_remember(case) for case in cases]}
    write_json(store.folder / "summary.json", summary)
    return CohortFiles.of(store), summary


def read_summary(store: Store) -> dict[str, Any]:
    """Read ``summary.json``.

    Raises
    ------
    InputError
        If the folder holds no results of a cohort.
    """
    try:
        value = json.loads((store.folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise InputError(
            f"the folder {store.folder.name} holds no results of a cohort",
            hint="Give the folder that 'ctai-sam2 cohort run' wrote.",
        )
    return value


def is_current(store: Store, key: str) -> dict[str, Any]:
    """Return the summary if the table on disk is the one that would be made, else an empty one."""
    try:
        summary = read_summary(store)
    except InputError:
        return {}
    return summary if summary.get("key") == key and (store.folder / "table.csv").is_file() else {}


def read_table(folder: str | Path) -> pd.DataFrame:
    """Read a cohort's table with its types.

    Raises
    ------
    InputError
        If the folder holds none.
    """
    import pandas as pd

    path = Path(folder) / "table.csv"
    if not path.is_file():
        raise InputError(
            f"the folder {path.parent.name} holds no table of a cohort",
            hint="Give the folder that 'ctai-sam2 cohort run' wrote.",
        )
    types = dict.fromkeys(_TEXT, "string") | dict.fromkeys(_YES_NO, "boolean")
    # Words such as NA are text here; only empty cells are missing.
    frame: pd.DataFrame = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])
    for name in frame.columns.intersection([*_TEXT]):
        frame[name] = frame[name].map(from_cell, na_action="ignore")
    return frame


def _make_row(case: Case, record: Mapping[str, Any], flags: Mapping[str, str], plan: Plan) -> TableRow:
    row: TableRow = dict.fromkeys(TABLE_COLUMNS)
    told = record.get("acquisition") or {}
    weight = case.weight_kg if case.weight_kg is not None else told.get("patient_weight_kg")
    height = case.height_m if case.height_m is not None else told.get("patient_height_m")
    bmi = None if weight is None or height is None else weight / height**2
    sex = sex_of(case, record)
    row.update(
        {
            "case_id": case.case_id,
            "status": record["status"],
            "flagged": bool(flags),
            "flags": " ".join(flags) or None,
            "flag_details": " | ".join(f"{name}: {text}" for name, text in flags.items()) or None,
            "sex": sex,
            "weight_kg": weight,
            "bmi_kg_m2": bmi,
        }
    )
    if record["status"] != "done":
        error = record.get("error") or {}
        row["error_type"], row["error"] = error.get("type"), error.get("sentence")
        return row
    row.update({name: _cell(value) for name, value in record["row"].items()})
    qc, review = record["qc"], record.get("correction")
    usable_bmi = bmi if bmi is not None and 5 <= bmi <= 150 else None
    row["low_smi"] = flag_low_smi(_float(row["smi_cm2_m2"]), sex, usable_bmi, cutoffs=plan.smi_cutoffs)
    row["low_smd"] = flag_low_smd(_float(row["smd_hu"]), sex, usable_bmi, cutoffs=plan.smd_cutoffs)
    row["smi_cutoffs"], row["smd_cutoffs"] = plan.smi_cutoffs, plan.smd_cutoffs
    for name, value in qc["area_cv"].items():
        row[f"area_cv_{name}"] = value
    row["level_gap_mm"], row["body_at_edge_mm"] = qc["level_gap_mm"], qc["edge_mm"]
    row["acquisition_warnings"] = " | ".join(record["acquisition_warnings"]) or None
    if review is not None:
        row["reviewed_by"], row["reviewed_at"] = review["who"], review["when"]
        row["review_note"] = review["what"] or None
        row["corrected_structures"] = None if review["stale"] else " ".join(review["structures"]) or None
    return row


def _summarise(
    rows: Sequence[TableRow],
    flags: Sequence[Mapping[str, str]],
    records: Sequence[Mapping[str, Any]],
    plan: Plan,
) -> dict[str, Any]:
    models = Counter(f"{row['model']} {str(row['weights_sha256'])[:12]}" for row in rows if row["model"])
    numbers = {}
    for column in ("sma_cm2", "smi_cm2_m2", "smd_hu", "psoas_area_mm2", "sat_area_mm2", "vat_area_mm2"):
        known = sorted(v for v in (_float(row[column]) for row in rows) if v is not None)
        if known:
            numbers[column] = {
                "n": len(known),
                **{name: _quantile(known, q) for name, q in (("q25", 0.25), ("median", 0.5), ("q75", 0.75))},
                "min": known[0],
                "max": known[-1],
            }
    return {
        "code_version": __version__,
        "cases": len(rows),
        "done": sum(row["status"] == "done" for row in rows),
        "failed": sum(row["status"] == "failed" for row in rows),
        "not_done": sum(row["status"] == "not done" for row in rows),
        "flagged": sum(bool(row["flagged"]) for row in rows),
        "reviewed": sum(row["reviewed_by"] is not None for row in rows),
        "flags": {name: sum(name in found for found in flags) for name in MEANINGS},
        "errors": dict(Counter(str(row["error_type"]) for row in rows if row["error_type"])),
        "models": dict(models),
        "definitions": json.loads(plan.definitions.to_json()),
        "plan": {
            "segmenter": plan.segmenter,
            "structures": list(plan.structures),
            "window": [plan.window.level, plan.window.width],
            "confidence_threshold": plan.confidence_threshold,
            "robustness_trials": plan.robustness_trials,
            "smi_cutoffs": plan.smi_cutoffs,
            "smd_cutoffs": plan.smd_cutoffs,
        },
        "numbers": numbers,
        "seconds_per_case": _mean([sum(r.get("seconds", {}).values()) for r in records if "seconds" in r]),
    }


def _remember(case: Case) -> dict[str, Any]:
    """Return what the table needs of a case besides its record; no path."""
    return {
        "case_id": case.case_id,
        "height_m": case.height_m,
        "weight_kg": case.weight_kg,
        "sex": case.sex,
        "prompts": {name: format_prompt(prompt) for name, prompt in case.prompts.items()},
    }


def _write_parquet(path: Path, rows: Sequence[TableRow]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return
    arrays = {}
    for name in TABLE_COLUMNS:
        kind = pa.string() if name in _TEXT else pa.bool_() if name in _YES_NO else pa.float64()
        arrays[name] = pa.array([row[name] for row in rows], kind)
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer)
    write_bytes(path, buffer.getvalue())


def sex_of(case: Case, record: Mapping[str, Any]) -> str | None:
    """Sex by the manifest, else by the images' header."""
    told = (record.get("acquisition") or {}).get("patient_sex")
    return case.sex or (told if told in ("M", "F") else None)


def _cell(value: Any) -> Cell:
    return math.nan if value == "nan" else value


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
