"""A page to look a cohort over: flagged cases first, overlays, distributions, a table that sorts."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctai_sam2.cohort.columns import COHORT_SHOWN
from ctai_sam2.cohort.descriptives import GROUP_COLUMNS, describe_cohort, to_rows, usable_rows
from ctai_sam2.cohort.methods import describe_methods
from ctai_sam2.cohort.qc import MEANINGS
from ctai_sam2.cohort.report_pdf import render_cohort_pdf, render_table_one
from ctai_sam2.cohort.store import CohortStore, state_of
from ctai_sam2.cohort.table import read_summary, read_table
from ctai_sam2.files.atomic import write_bytes, write_table_csv, write_text
from ctai_sam2.files.page import render_page, require_page_writer
from ctai_sam2.measure.cutoffs import cutoff_table
from ctai_sam2.measure.shown import ShownMeasure

if TYPE_CHECKING:
    import pandas as pd

MAX_PICTURES = 300
"""Overlays in the page, each some 15 kB; the others are in ``pictures/``."""

MAX_ROWS = 3000
"""Rows in the page; all are in ``table.csv``."""

_BINS = 24
_CHART_WIDTH, _CHART_HEIGHT = 270.0, 74.0

_CHARTS = (
    *("sma_cm2", "smi_cm2_m2", "smd_hu", "lama_percent", "imat_percent", "psoas_area_mm2"),
    *("psoas_hu_mean", "sat_area_mm2", "vat_area_mm2", "psoas_asymmetry"),
)
_TABLE = (
    *("sma_cm2", "smi_cm2_m2", "smd_hu", "smi_z", "smd_z", "lama_percent", "imat_percent"),
    *("psoas_left_area_mm2", "psoas_right_area_mm2", "pmi_cm2_m2", "imat_area_mm2"),
    *("sat_area_mm2", "vat_area_mm2", "confidence_muscle", "middle_slice"),
)
_TILE = ("sma_cm2", "smi_cm2_m2", "smd_hu", "psoas_left_area_mm2", "psoas_right_area_mm2")
"""Numbers under a case's picture."""


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, which needs no other file and no network, and what goes with it.

    ``report.pdf`` is for printing; spreadsheets and word processors open ``table_one.csv`` and
    ``table_one.html``.

    Parameters
    ----------
    folder : path-like
        What `run_cohort` wrote.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If the folder holds no results, or jinja2 is not installed.
    StorageError
        If it cannot be written.
    """
    store = CohortStore(Path(folder))
    page = render_report(store)
    summary, table = read_summary(store), read_table(store.folder)
    groups = describe_cohort(table)
    write_table_csv(store.folder / "table_one.csv", to_rows(groups), GROUP_COLUMNS)
    write_text(store.folder / "table_one.html", render_table_one(groups))
    methods, _ = describe_methods(summary, table)
    write_bytes(store.folder / "report.pdf", render_cohort_pdf(summary, table, methods))
    return write_text(store.folder / "report.html", page)


def write_report_of_table(folder: str | os.PathLike[str]) -> Path:
    """Write the report as `write_report`, unless the one that is there was written after the table.

    Raises
    ------
    InputError, StorageError
        As in `write_report`.
    """
    page = Path(folder) / "report.html"
    table, report = state_of(Path(folder) / "table.csv"), state_of(page)
    is_current = table is not None and report is not None and table[1] <= report[1]
    return page if is_current else write_report(folder)


def render_report(store: CohortStore) -> str:
    """Make the page; see `write_report`.

    Raises
    ------
    InputError
        If the folder holds no results, or jinja2 is not installed.
    """
    require_page_writer()

    # Summaries of earlier versions lack some counts.
    summary: dict[str, Any] = {
        "incomplete": 0,
        "partial": False,
        "set_aside": [],
        "not_in_manifest": [],
        "replaced": [],
        "cautions": [],
    }
    summary |= read_summary(store)
    table = read_table(store.folder)
    usable = set(table["case_id"][usable_rows(table)])
    rows = sorted(_plain_rows(table), key=_gravity)
    return render_page(
        "ctai_sam2.cohort",
        summary=summary,
        models=list(summary["models"]) or ["no model"],
        definitions=_identify(summary["definitions"]),
        meanings=MEANINGS,
        charts=[
            chart
            for column in _CHARTS
            if (chart := _draw_chart([r for r in rows if r["case_id"] in usable], COHORT_SHOWN[column]))
            is not None
        ],
        cutoffs=[_describe_cutoffs(summary["plan"][name]) for name in ("smi_cutoffs", "smd_cutoffs")],
        groups=_table_one(table),
        left_out=[row for row in rows if row["case_id"] not in usable],
        tiles=[_make_tile(store, row) for row in rows[:MAX_PICTURES]],
        hidden_tiles=max(0, len(rows) - MAX_PICTURES),
        heads=[
            {"name": "case", "unit": "", "meaning": "Case", "text": True},
            {"name": "flags", "unit": "", "meaning": "Why to look at it", "text": True},
            {"name": "sex", "unit": "", "meaning": "Sex", "text": True},
            *(
                {"name": shown.short, "unit": shown.unit, "meaning": shown.en, "text": False}
                for shown in map(COHORT_SHOWN.__getitem__, _TABLE)
            ),
            {"name": "level", "unit": "", "meaning": "How L3 is known", "text": True},
            {"name": "reviewed by", "unit": "", "meaning": "Reader", "text": True},
        ],
        rows=[_make_cells(row, place < MAX_PICTURES) for place, row in enumerate(rows[:MAX_ROWS])],
        hidden_rows=max(0, len(rows) - MAX_ROWS),
    )


def _table_one(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of table one: a measure with one cell and one number of cases for each group."""
    rows: dict[str, dict[str, Any]] = {}
    for one in describe_cohort(table):
        row = rows.setdefault(one.measure, {"name": one.measure, "unit": one.unit})
        row[one.group] = {"n": one.n, "text": one.text}
    return list(rows.values())


def _describe_cutoffs(name: str) -> dict[str, Any]:
    """Name, source and values of a table of cut-offs."""
    cutoffs = cutoff_table(name)
    lines = []
    for line in cutoffs.cutoffs:
        sex = {"M": "men ", "F": "women "}.get(line.sex or "", "")
        bmi = ""
        if line.bmi_from > 0:
            bmi += f", BMI from {line.bmi_from:g}"
        if math.isfinite(line.bmi_below):
            bmi += f", BMI below {line.bmi_below:g}"
        lines.append(f"{sex}{line.quantity} < {line.low_below:g}{bmi}")
    return {"name": cutoffs.identifier, "source": f"{cutoffs.source}; {cutoffs.checked}", "lines": lines}


def _plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values; None where a cell is empty."""
    plain = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]


def _gravity(row: Mapping[str, Any]) -> tuple[int, int]:
    """Sort key: the most serious flag first, then those with more flags; reviewed cases after the others."""
    names = _flag_names(row)
    order = list(MEANINGS)
    worst = min((order.index(name) for name in names if name in order), default=len(order))
    return worst + (len(order) if row["reviewed_by"] and names else 0), -len(names)


def _flag_names(row: Mapping[str, Any]) -> list[str]:
    return str(row["flags"] or "").split()


def _identify(definitions: Mapping[str, Any]) -> str:
    ranges = {name: definitions[name] for name in ("muscle", "imat", "sat", "vat")}
    shown = ", ".join(f"{name} {r['low_hu']:g}…{r['high_hu']:g}" for name, r in ranges.items())
    name, version, digest = (definitions[key] for key in ("name", "version", "content_hash"))
    return f"{name}@{version}#{digest} ({shown} HU)"


def _make_tile(store: CohortStore, row: Mapping[str, Any]) -> dict[str, Any]:
    details = [text.split(": ", 1) for text in str(row["flag_details"] or "").split(" | ") if ": " in text]
    known = set(_flag_names(row))
    numbers = [
        f"{shown.short} {_format(row[shown.column], shown.factor)} {shown.unit}"
        for shown in map(COHORT_SHOWN.__getitem__, _TILE)
        if row.get(shown.column) is not None
    ]
    return {
        "case_id": row["case_id"],
        "flags": [(name, text) for name, text in details if name in known],
        "reviewed": row["reviewed_by"],
        "picture": _picture(store.picture_path(str(row["case_id"]))),
        "sagittal": _picture(store.l3_picture_path(str(row["case_id"]))),
        "numbers": " · ".join(numbers),
    }


def _picture(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError:
        return ""


def _make_cells(row: Mapping[str, Any], has_tile: bool) -> list[dict[str, Any]]:
    flags = _flag_names(row)
    cells = [
        _cell(row["case_id"], "t", link=has_tile),
        {**_cell(len(flags), "t flags"), "shown": "", "flags": flags},
        _cell(row["sex"], "t"),
    ]
    for column in _TABLE:
        value: Any = row.get(column)
        factor = COHORT_SHOWN[column].factor
        known = value is not None and math.isfinite(value)
        cells.append({**_cell(value * factor if known else None, ""), "shown": _format(value, factor)})
    cells += [_cell(row["l3_certainty"], "t"), _cell(row["reviewed_by"], "t")]
    return cells


def _cell(value: Any, kind: str, *, link: bool = False) -> dict[str, Any]:
    shown = "" if value is None else value
    return {"value": shown, "shown": shown, "kind": kind, "flags": [], "link": link}


def _format(value: Any, factor: float) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    number = float(value) * factor
    return f"{number:.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"


def _draw_chart(rows: Sequence[Mapping[str, Any]], shown: ShownMeasure) -> dict[str, Any] | None:
    """Bars of a histogram, flagged cases as a part of each; None where fewer than two cases have a number."""
    known = [
        (float(value) * shown.factor, bool(row["flagged"]))
        for row in rows
        if (value := row.get(shown.column)) is not None and math.isfinite(value)
    ]
    if len(known) < 2:
        return None
    values = sorted(value for value, _ in known)
    low, high = values[0], values[-1]
    bins = min(_BINS, max(6, round(math.sqrt(len(values)) * 2)))
    width = (high - low) / bins or 1.0
    counts, flagged = [0] * bins, [0] * bins
    for value, is_flagged in known:
        place = min(int((value - low) / width), bins - 1)
        counts[place] += 1
        flagged[place] += is_flagged
    top, step = max(counts), _CHART_WIDTH / bins
    bars = []
    for place, (count, part) in enumerate(zip(counts, flagged, strict=True)):
        if not count:
            continue
        tall, small = count / top * _CHART_HEIGHT, part / top * _CHART_HEIGHT
        bars.append(
            {
                "x": round(place * step + 0.5, 2),
                "w": round(step - 1, 2),
                "y": round(76 - tall, 2),
                "h": round(tall, 2),
                "fy": round(76 - small, 2),
                "fh": round(small, 2),
                "text": f"{low + place * width:.4g} to {low + (place + 1) * width:.4g}: "
                f"{count} cases, {part} flagged",
            }
        )
    middle = values[len(values) // 2] if len(values) % 2 else sum(values[len(values) // 2 - 1 :][:2]) / 2
    return {
        "title": shown.short,
        "unit": shown.unit,
        "n": len(values),
        "median": f"{middle:.3g}",
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "top": top,
        "bars": bars,
    }
