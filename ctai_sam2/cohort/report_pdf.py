"""A cohort's report for printing and word processors: a PDF, and table one as an HTML page they can open."""

from __future__ import annotations

import html
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ctai_sam2.cohort.descriptives import GroupSummary, describe_cohort, usable_rows
from ctai_sam2.measure.shown import SHOWN

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_A4 = (8.27, 11.69)
_GROUPS = ("all", "men", "women")
_CHARTS = (
    *("sma_cm2", "smi_cm2_m2", "smd_hu", "lama_percent", "imat_percent"),
    *("psoas_area_mm2", "sat_area_mm2", "vat_area_mm2"),
)
_COLORS: Mapping[str, str] = {"M": "#0072B2", "F": "#D55E00", "": "#777777"}
_SEXES: Mapping[str, str] = {"M": "men", "F": "women", "": "sex not known"}


def render_cohort_pdf(summary: Mapping[str, Any], table: pd.DataFrame, methods: str = "") -> bytes:
    """Make the PDF: counts and table one, distributions by sex, those left out, and the methods paragraph.

    Parameters
    ----------
    summary : mapping
        From ``summary.json``.
    table : DataFrame
        From `ctai_sam2.cohort.read_table`.
    methods : str
        Markdown from `describe_methods`; left out where empty.

    Returns
    -------
    bytes
        The file; equal tables give equal files.
    """
    from matplotlib.backends.backend_pdf import PdfPages

    buffer = io.BytesIO()
    with PdfPages(buffer, metadata={"Creator": "ctai-sam2", "CreationDate": None}) as pages:
        for figure in (
            _table_page(summary, describe_cohort(table)),
            _chart_page(table[usable_rows(table)]),
            *_text_pages(_left_out(table), "Cases left out"),
            *_text_pages(methods.splitlines(), "Methods"),
        ):
            pages.savefig(figure)
    return buffer.getvalue()


def render_table_one(found: Sequence[GroupSummary]) -> str:
    """Make table one as a page of its own that a word processor opens as a table.

    Parameters
    ----------
    found : sequence of GroupSummary
        From `describe_cohort`.
    """
    rows = _rows_of(found)
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in ("Measure", *_GROUPS))
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    note = "Table 1. Mean ± SD; median (quartiles), or number (per cent); n: cases with a value."
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Table 1</title></head><body>\n'
        f'<p>{note}</p>\n<table border="1" cellspacing="0" cellpadding="4">\n<tr>{heads}</tr>\n{body}\n'
        "</table>\n</body></html>\n"
    )


def _rows_of(found: Sequence[GroupSummary]) -> list[list[str]]:
    cells: dict[str, dict[str, str]] = {}
    for one in found:
        name = one.measure + (f", {one.unit}" if one.unit else "")
        cells.setdefault(name, {})[one.group] = f"{one.text} (n = {one.n})" if one.n else "–"
    return [[name, *(groups.get(group, "–") for group in _GROUPS)] for name, groups in cells.items()]


def _table_page(summary: Mapping[str, Any], found: Sequence[GroupSummary]) -> Figure:
    figure = _page("Cohort report")
    counts = ", ".join(
        f"{summary.get(name, 0)} {text}"
        for name, text in (
            ("cases", "cases"),
            ("done", "measured"),
            ("failed", "failed"),
            ("flagged", "flagged"),
        )
    )
    definitions = summary["definitions"]
    lines = [
        f"{counts}. ctai_sam2 {summary['code_version']}; {', '.join(summary['models']) or 'no model'}.",
        f"Definitions {definitions['name']}@{definitions['version']}#{definitions['content_hash']}.",
        "Research use, not diagnosis. Cases that failed or are implausible are not in the numbers.",
    ]
    figure.text(0.07, 0.945, "\n".join(lines), fontsize=8, va="top")
    rows = _rows_of(found)
    if rows:
        axes = figure.add_axes((0.07, 0.05, 0.86, 0.83))
        axes.set_axis_off()
        drawn = axes.table(
            cellText=rows,
            colLabels=["Table 1", *_GROUPS],
            colWidths=[0.28, 0.25, 0.25, 0.25],
            cellLoc="left",
            loc="upper left",
        )
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(5.5)
        drawn.scale(1, 1.5)
    return figure


def _chart_page(usable: pd.DataFrame) -> Figure:
    figure = _page("Distributions")
    panels = figure.subplots(
        4, 2, gridspec_kw={"left": 0.1, "right": 0.95, "top": 0.92, "bottom": 0.06, "hspace": 0.45}
    )
    sexes = usable["sex"].fillna("")
    for panel, shown in zip(panels.ravel(), map(SHOWN.__getitem__, _CHARTS), strict=True):
        groups = {
            sex: values
            for sex in _SEXES
            # Tables of earlier versions lack some columns.
            if shown.column in usable
            and len(values := (usable[shown.column][sexes == sex].dropna() * shown.factor).to_numpy(float))
        }
        panel.set(xlabel=shown.label, ylabel="cases")
        panel.yaxis.get_major_locator().set_params(integer=True)
        if groups:
            panel.hist(
                list(groups.values()),
                bins=12,
                stacked=True,
                color=[_COLORS[sex] for sex in groups],
                label=[f"{_SEXES[sex]} (n = {len(values)})" for sex, values in groups.items()],
            )
            panel.legend(fontsize=6, frameon=False)
    return figure


def _left_out(table: pd.DataFrame) -> list[str]:
    rows = table[~usable_rows(table)]
    reasons = rows["error"].fillna(rows["flag_details"]).fillna("")
    return [f"{case_id}: {reason}" for case_id, reason in zip(rows["case_id"], reasons, strict=True)]


def _text_pages(lines: Sequence[str], title: str) -> list[Figure]:
    """Pages of plain text; none where there is nothing to say."""
    wrapped = [part for line in lines for part in (textwrap.wrap(line, 110) or [""])]
    per_page = 78
    pages = []
    for start in range(0, len(wrapped), per_page):
        figure = _page(title)
        figure.text(0.07, 0.93, "\n".join(wrapped[start : start + per_page]), fontsize=8, va="top")
        pages.append(figure)
    return pages


def _page(title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_A4)
    figure.text(0.07, 0.96, title, fontsize=14, weight="bold")
    return figure
