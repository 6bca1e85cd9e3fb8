"""The table of a cohort: one row per case, from its records."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctai_sam2._version import __version__
from ctai_sam2.cohort.case import Case, format_prompt
from ctai_sam2.cohort.case_record import CaseError, CaseRecord
from ctai_sam2.cohort.columns import (
    COMPARED,
    REFERENCE_COLUMNS,
    TEXT_COLUMNS,
    YES_NO_COLUMNS,
)
from ctai_sam2.cohort.columns import TABLE_COLUMNS as TABLE_COLUMNS
from ctai_sam2.cohort.columns import data_dictionary as data_dictionary
from ctai_sam2.cohort.config import CohortConfig
from ctai_sam2.cohort.qc import MEANINGS, find_flags
from ctai_sam2.cohort.store import CohortStore, IndexEntry, RecordIndex, state_of
from ctai_sam2.cohort.volumes import write_levels_table
from ctai_sam2.errors import DamagedFile, InputError
from ctai_sam2.files.atomic import write_bytes, write_json, write_table_csv
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.files.safe_text import from_cell
from ctai_sam2.measure.cutoffs import cutoff_table, parse_cutoff_choice
from ctai_sam2.measure.reference_values import reference_table
from ctai_sam2.study.person import Person
from ctai_sam2.study.row import TableRow, number_of_cell

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class CohortFiles:
    """Where a cohort's results are.

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
    def of(cls, store: CohortStore) -> CohortFiles:
        """Name the files of a folder."""
        parquet = store.folder / "table.parquet"
        return cls(
            folder=store.folder,
            csv=store.folder / "table.csv",
            summary=store.folder / "summary.json",
            parquet=parquet if parquet.is_file() else None,
        )


def write_results(
    store: CohortStore,
    cases: Sequence[Case],
    config: CohortConfig,
    *,
    key: str,
    case_keys: Mapping[str, str],
    model_token: str,
    notes: Mapping[str, Any] | None = None,
    finished: Mapping[str, Any] | None = None,
) -> tuple[CohortFiles, dict[str, Any]]:
    """Make the table from the records and write it as CSV and Parquet, with ``summary.json``.

    Parameters
    ----------
    store : CohortStore
        The cohort's folder.
    cases : sequence of Case
        Rows, in this order.
    config : CohortConfig
        Cut-offs and confidence threshold.
    key : str
        Digest of all the table follows from; empty while cases are undone.
    case_keys : mapping of str to str
        The key that each case's record has to have, where it is known: numbers made otherwise are left out.
    model_token : str
        Which model the run was made with.
    notes : mapping, optional
        Further entries of the summary.
    finished : mapping, optional
        What makes the next call quick where nothing is left to do; see `ctai_sam2.cohort.finished`.

    Returns
    -------
    tuple of CohortFiles and dict
        Their paths, and the summary.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    states = store.record_states()
    records = [current_record(store, case.case_id, case_keys) for case in cases]
    sexes = [person_of(case, record).sex for case, record in zip(cases, records, strict=True)]
    flags = find_flags(
        records,
        confidence_threshold=config.settings.confidence_threshold,
        sexes=sexes,
        same_patient=(notes or {}).get("same_patient"),
        contradictions=[contradictions_of(case, record) for case, record in zip(cases, records, strict=True)],
    )
    own = own_columns(cases)
    rows = [
        _make_row(case, record, found, config, own)
        for case, record, found in zip(cases, records, flags, strict=True)
    ]
    write_table_csv(store.folder / "table.csv", rows, (*TABLE_COLUMNS, *own.values()))
    _write_parquet(store.folder / "table.parquet", rows, tuple(own.values()))
    write_levels_table(store, records, config)
    summary = _summarize(rows, flags, records, config)
    summary |= {
        "key": key,
        "table_state": state_of(store.folder / "table.csv"),
        "model_token": model_token,
        "set_aside": store.files_set_aside(),
        "not_in_manifest": _left_over(store, {case.case_id for case in cases}),
        "own_columns": list(own.values()),
        **(notes or {}),
        "manifest": [_remember(case, case_keys) for case in cases],
    }
    write_json(store.folder / "summary.json", summary)
    write_table_csv(store.folder / "data_dictionary.csv", data_dictionary(list(own.values())))
    entries = {
        one.case_id: IndexEntry(*states[one.case_id], one.key, one.is_done, one.retry)
        for one in records
        # States from before the records were read: one that changed in between is read again.
        if one is not None and one.case_id in states
    }
    store.write_index(RecordIndex(records=entries, finished=finished))
    return CohortFiles.of(store), summary


def current_record(store: CohortStore, case_id: str, case_keys: Mapping[str, str]) -> CaseRecord | None:
    """Read a case's record if its numbers are those wanted; None where it is not done, or made otherwise.

    A record that is damaged counts as failed.

    Raises
    ------
    StorageError
        If a newer version wrote it.
    """
    try:
        record = store.read_record(case_id)
    except DamagedFile as error:
        reason = CaseError(type=type(error).__name__, sentence=str(error))
        return CaseRecord(case_id=case_id, status="failed", key="", retry=True, error=reason)
    wanted = case_keys.get(case_id)
    # A review writes an empty key: its numbers hold until the next run has looked at the case.
    return record if record is None or wanted is None or record.key in ("", wanted) else None


def own_columns(cases: Sequence[Case]) -> dict[str, str]:
    """Map the manifest's further columns to their names in the table, which has names of its own."""
    names = dict.fromkeys(name for case in cases for name in case.extra)
    taken = set(TABLE_COLUMNS)
    columns: dict[str, str] = {}
    for name in names:
        column = name if name not in taken else f"manifest_{name}"
        while column in taken:
            column += "_"
        taken.add(column)
        columns[name] = column
    return columns


def _left_over(store: CohortStore, case_ids: Collection[str]) -> list[str]:
    """Cases whose results of an earlier manifest are in the folder and not in the table."""
    return sorted(store.recorded_ids().difference(case_ids))


def read_summary(store: CohortStore) -> dict[str, Any]:
    """Read ``summary.json``.

    Raises
    ------
    InputError
        If the folder holds no results of a cohort.
    DamagedFile
        If it is there and cannot be read.
    """
    path = store.folder / "summary.json"
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"the folder {store.folder.name} holds no results of a cohort",
            hint="Give the folder that 'ctai-sam2 cohort run' wrote.",
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged_summary(type(error).__name__) from error
    if not isinstance(value, dict) or "manifest" not in value:
        raise _damaged_summary(type(value).__name__)
    return value


def _damaged_summary(reason: str) -> DamagedFile:
    return DamagedFile(
        "summary.json is damaged",
        received=reason,
        hint="Delete it and run the cohort again: it is made from the records.",
    )


def current_summary(store: CohortStore, key: str) -> dict[str, Any]:
    """Return the summary if the table on disk is the one that would be made, else an empty one."""
    try:
        summary = read_summary(store)
    except (InputError, DamagedFile):
        return {}
    state = state_of(store.folder / "table.csv")
    # Of an earlier version's table only the key is known.
    known = summary.get("table_state", state)
    is_current = state is not None and known is not None and tuple(known) == state
    return summary if is_current and summary.get("key") == key else {}


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
    types = dict.fromkeys(TEXT_COLUMNS, "string") | dict.fromkeys(YES_NO_COLUMNS, "boolean")
    # Words such as NA are text here; only empty cells are missing.
    frame: pd.DataFrame = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])
    for name in frame.columns.intersection([*TEXT_COLUMNS]):
        # Where every cell of a column is empty, a map loses its type.
        frame[name] = frame[name].map(from_cell, na_action="ignore").astype("string")
    return frame


def _make_row(
    case: Case,
    record: CaseRecord | None,
    flags: Mapping[str, str],
    config: CohortConfig,
    own: Mapping[str, str],
) -> TableRow:
    row: TableRow = dict.fromkeys(TABLE_COLUMNS)
    person = person_of(case, record)
    row.update(
        {
            "case_id": case.case_id,
            "status": "not done" if record is None else record.status,
            "flagged": bool(flags),
            "flags": " ".join(flags) or None,
            "flag_details": " | ".join(f"{name}: {text}" for name, text in flags.items()) or None,
            "sex": person.sex,
            "weight_kg": person.weight_kg,
            "bmi_kg_m2": person.bmi_kg_m2,
            "age_years": person.age_years,
        }
    )
    row.update({column: case.extra.get(name) for name, column in own.items()})
    if record is None or not record.is_done:
        error = CaseError() if record is None or record.error is None else record.error
        row["error_type"], row["error"] = error.type, error.sentence
        return row
    row.update(record.row)
    own_choice = parse_cutoff_choice(case.cut_offs) if case.cut_offs else {}
    smi_table = cutoff_table(own_choice.get("smi", config.smi_cutoffs))
    smd_table = cutoff_table(own_choice.get("smd", config.smd_cutoffs))
    row["low_smi"] = person.is_low("smi_cm2_m2", number_of_cell(row["smi_cm2_m2"]), smi_table)
    row["low_smd"] = person.is_low("smd_hu", number_of_cell(row["smd_hu"]), smd_table)
    row["smi_cutoffs"], row["smd_cutoffs"] = smi_table.identifier, smd_table.identifier
    row.update(compare_row(row, person, reference=config.reference))
    for name, value in record.quality.area_cv.items():
        row[f"area_cv_{name}"] = value
    row["level_gap_mm"], row["body_at_edge_mm"] = record.quality.level_gap_mm, record.quality.edge_mm
    row["acquisition_warnings"] = " | ".join(record.acquisition_warnings) or None
    review = record.review
    if review is not None:
        row["reviewed_by"], row["reviewed_at"] = review.who, review.when
        row["review_note"] = review.what or None
        row["corrected_structures"] = None if review.stale else " ".join(review.structures) or None
    return row


def compare_row(row: Mapping[str, Any], person: Person, *, reference: str) -> TableRow:
    """Compare SMA, SMI and SMD of a row with people of the same sex and age; cells are None where none apply.

    Raises
    ------
    InputError
        If there are no such reference values.
    """
    cells: TableRow = dict.fromkeys(REFERENCE_COLUMNS)
    for name, column in COMPARED:
        found = person.compare(row, column, reference)
        if found is not None:
            cells[f"{name}_z"], cells[f"{name}_percentile"] = found.z, found.percentile
            cells[f"{name}_below_p5"] = found.is_below_p5
            cells["reference_values"] = reference_table(reference).identifier
    return cells


def _summarize(
    rows: Sequence[TableRow],
    flags: Sequence[Mapping[str, str]],
    records: Sequence[CaseRecord | None],
    config: CohortConfig,
) -> dict[str, Any]:
    models = Counter(f"{row['model']} {str(row['weights_sha256'])[:12]}" for row in rows if row["model"])
    numbers = {}
    for column in ("sma_cm2", "smi_cm2_m2", "smd_hu", "psoas_area_mm2", "sat_area_mm2", "vat_area_mm2"):
        known = sorted(v for v in (number_of_cell(row[column]) for row in rows) if v is not None)
        if known:
            numbers[column] = {
                "n": len(known),
                **{name: _quantile(known, q) for name, q in (("q25", 0.25), ("median", 0.5), ("q75", 0.75))},
                "min": known[0],
                "max": known[-1],
            }
    counts = Counter(str(row["status"]) for row in rows)
    seconds = [sum(record.seconds.values()) for record in records if record is not None and record.seconds]
    return {
        "code_version": __version__,
        "cases": len(rows),
        "done": counts["done"],
        "failed": counts["failed"],
        "incomplete": counts["incomplete"],
        "not_done": counts["not done"],
        "partial": counts["incomplete"] + counts["not done"] > 0,
        "flagged": sum(bool(row["flagged"]) for row in rows),
        "reviewed": sum(row["reviewed_by"] is not None for row in rows),
        "flags": {name: sum(name in found for found in flags) for name in MEANINGS},
        "errors": dict(Counter(str(row["error_type"]) for row in rows if row["error_type"])),
        "models": dict(models),
        "definitions": json.loads(config.definitions.to_json()),
        "plan": {
            "segmenter": config.segmenter,
            "structures": list(config.structures),
            "window": [config.window.level, config.window.width],
            "confidence_threshold": config.settings.confidence_threshold,
            "robustness_trials": config.robustness_trials,
            "smi_cutoffs": config.smi_cutoffs,
            "smd_cutoffs": config.smd_cutoffs,
            "reference": config.reference,
            "levels": None if config.levels is None else list(config.levels),
        },
        "numbers": numbers,
        "seconds_per_case": _mean(seconds),
    }


def _remember(case: Case, case_keys: Mapping[str, str]) -> dict[str, Any]:
    """Return what the table needs of a case in addition to its record; no path."""
    return {
        "case_id": case.case_id,
        "key": case_keys.get(case.case_id),
        "height_m": case.height_m,
        "weight_kg": case.weight_kg,
        "sex": case.sex,
        "age_years": case.age_years,
        "cut_offs": case.cut_offs,
        "prompts": {name: format_prompt(prompt) for name, prompt in case.prompts.items()},
        "extra": dict(case.extra),
    }


def _write_parquet(path: Path, rows: Sequence[TableRow], own: Sequence[str]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return
    arrays = {}
    for name in TABLE_COLUMNS:
        kind = pa.string() if name in TEXT_COLUMNS else pa.bool_() if name in YES_NO_COLUMNS else pa.float64()
        arrays[name] = pa.array([row[name] for row in rows], kind)
    for name in own:
        arrays[name] = pa.array([row.get(name) or None for row in rows], pa.string())
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer)
    write_bytes(path, buffer.getvalue())


def person_of(case: Case, record: CaseRecord | None) -> Person:
    """Return what is known of the patient from the manifest, else from the images' header."""
    known = _stated_by(case)
    return known if record is None else known.completed_by(record.acquisition)


def contradictions_of(case: Case, record: CaseRecord | None) -> tuple[str, ...]:
    """Name what the manifest states of the patient otherwise than the images' header."""
    return () if record is None else _stated_by(case).contradicts(record.acquisition)


def _stated_by(case: Case) -> Person:
    return Person(sex=case.sex, age_years=case.age_years, weight_kg=case.weight_kg, height_m=case.height_m)


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
