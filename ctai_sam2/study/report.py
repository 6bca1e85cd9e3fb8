"""One page about one study: pictures, numbers, reference values, warnings, provenance; HTML and PDF."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ctai_sam2.errors import InputError
from ctai_sam2.files.atomic import write_bytes, write_text
from ctai_sam2.files.page import render_page
from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.measure.cutoffs import Quantity, require_cutoffs_for
from ctai_sam2.measure.reference_values import DEFAULT_REFERENCE, reference_table
from ctai_sam2.measure.shown import SHOWN
from ctai_sam2.segmentation import StudyResult
from ctai_sam2.study.outputs import StudyFiles
from ctai_sam2.study.person import Person, require_person
from ctai_sam2.study.row import Cell, number_of_cell

Language: TypeAlias = Literal["en", "zh"]

TEXTS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "title": "Body composition at mid-L3",
        "use": "Research use, not diagnosis. Look at every mask.",
        "measure": "measure",
        "value": "value",
        "unit": "unit",
        "z": "z",
        "percentile": "percentile",
        "low": "low",
        "yes": "yes",
        "no": "no",
        "warnings": "Warnings",
        "none": "None.",
        "provenance": "Provenance",
        "reference": "Reference values",
        "cutoffs": "Cut-offs",
        "no_reference": "none for this sex, age and level",
        "as_unenhanced": "As without contrast (estimate by a published shift)",
        "axial": "Axial slice with masks",
        "sagittal": "Sagittal slice with L3",
        "quality": "Muscle by attenuation",
    },
    "zh": {
        "title": "L3 中部体成分",
        "use": "仅供研究，不用于诊断。请检查每个掩膜。",
        "measure": "指标",
        "value": "数值",
        "unit": "单位",
        "z": "z 值",
        "percentile": "百分位",
        "low": "偏低",
        "yes": "是",
        "no": "否",
        "warnings": "警告",
        "none": "无。",
        "provenance": "来源信息",
        "reference": "参考值",
        "cutoffs": "界值",
        "no_reference": "没有适用于该性别、年龄和层面的参考值",
        "as_unenhanced": "折算为平扫（按已发表的偏移估计）",
        "axial": "横断面与掩膜",
        "sagittal": "矢状面与 L3",
        "quality": "按密度划分的肌肉",
    },
}
"""Texts of the page by language; those of the measures are in `SHOWN`."""

_NUMBERS = (
    *("sma_cm2", "smi_cm2_m2", "smd_hu", "smg", "nama_percent", "lama_percent", "imat_percent"),
    *("psoas_area_mm2", "pmi_cm2_m2", "sat_area_mm2", "vat_area_mm2", "vat_sat_ratio", "circumference_cm"),
)
_COMPARED: tuple[Quantity, ...] = ("sma_cm2", "smi_cm2_m2", "smd_hu")
_PROVENANCE = (
    *("model", "weights_sha256", "device", "code_version", "definitions", "window", "middle_slice"),
    *("l3_certainty", "level_chosen_by", "phase_header", "phase_image", "kvp", "slice_thickness_mm"),
    *("kernel", "scanner", "height_m"),
    *("confidence_l3", "confidence_psoas_left", "confidence_psoas_right", "confidence_muscle"),
)


@dataclass(frozen=True, kw_only=True)
class ReportedNumber:
    """A line of the page: a measure, its value as shown, and what it is compared with.

    Parameters
    ----------
    column, unit : str
        Name of the column, and its unit.
    value : str
        With the digits that make sense.
    z, percentile : str
        Against people of the same sex and age; empty where there are none.
    is_low : bool or None
        By the cut-offs; None where they do not tell.
    """

    column: str
    unit: str
    value: str
    z: str = ""
    percentile: str = ""
    is_low: bool | None = None


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """What the page says.

    Parameters
    ----------
    numbers : tuple of ReportedNumber
        What was measured.
    as_unenhanced : tuple of str
        SMA and SMD less the published effect of contrast, and the source; empty where there is none.
    reference : str or None
        Source of the reference values; None where none apply.
    cutoffs : tuple of str
        Sources of the cut-offs.
    warnings : tuple of str
        Reasons for caution.
    provenance : tuple of (str, str)
        Where the numbers come from.
    pictures : mapping of str to bytes
        PNG by ``axial``, ``sagittal`` and ``quality``.
    """

    numbers: tuple[ReportedNumber, ...]
    as_unenhanced: tuple[str, ...]
    reference: str | None
    cutoffs: tuple[str, ...]
    warnings: tuple[str, ...]
    provenance: tuple[tuple[str, str], ...]
    pictures: Mapping[str, bytes]


def describe_report(
    study: StudyResult,
    row: Mapping[str, Cell],
    written: StudyFiles,
    *,
    sex: str | None = None,
    age_years: float | None = None,
    weight_kg: float | None = None,
    smi_cutoffs: str = "prado-2008",
    smd_cutoffs: str = "martin-2013",
    reference: str = DEFAULT_REFERENCE,
) -> StudyReport:
    """Put together what the page says.

    Parameters
    ----------
    study : StudyResult
        From `segment_study`.
    row : mapping
        From `measure_study`.
    written : StudyFiles
        From `write_study`; the pictures.
    sex, age_years, weight_kg : optional
        Of the patient; those of the header when omitted.
    smi_cutoffs, smd_cutoffs : str
        Names in `CUTOFF_TABLES`.
    reference : str
        Name in `REFERENCE_TABLES`.

    Raises
    ------
    InputError
        If there are no such cut-offs or reference values, or nobody has such an age or weight.
    """
    require_person(sex=sex, age_years=age_years, weight_kg=weight_kg)
    person = Person(
        sex=sex,
        age_years=age_years,
        weight_kg=weight_kg,
        height_m=number_of_cell(row.get("height_m")),
    ).completed_by(study.axial.ct_slice.acquisition)
    tables = {
        "smi_cm2_m2": require_cutoffs_for("smi_cm2_m2", smi_cutoffs),
        "smd_hu": require_cutoffs_for("smd_hu", smd_cutoffs),
    }
    known_reference = reference_table(reference)
    numbers: list[ReportedNumber] = []
    is_compared = False
    for column in _NUMBERS:
        shown = SHOWN[column]
        value = number_of_cell(row.get(column))
        if value is None:
            continue
        z = percentile = ""
        is_low = None
        if column in _COMPARED:
            found = person.compare(row, column, known_reference)
            if found is not None:
                is_compared = True
                z = "" if found.z is None else f"{found.z:+.1f}"
                below = "" if found.is_below_p5 is None else ("< 5" if found.is_below_p5 else "≥ 5")
                percentile = below if found.percentile is None else f"{found.percentile:.0f}"
        if column in tables:
            is_low = person.is_low(column, value, tables[column])  # type: ignore[arg-type]
        numbers.append(
            ReportedNumber(
                column=column,
                unit=shown.unit,
                value=f"{value * shown.factor:.{shown.digits}f}",
                z=z,
                percentile=percentile,
                is_low=is_low,
            )
        )
    return StudyReport(
        numbers=tuple(numbers),
        as_unenhanced=_as_unenhanced(row),
        reference=f"{known_reference.identifier}: {known_reference.source}; {known_reference.checked}"
        if is_compared
        else None,
        cutoffs=tuple(f"{table.identifier}: {table.source}; {table.checked}" for table in tables.values()),
        warnings=tuple(filter(None, str(row.get("warnings") or "").split(" | "))),
        provenance=(
            *((name, _plain(row[name])) for name in _PROVENANCE if row.get(name) is not None),
            ("image_sha256", fingerprint(study.volume)),
        ),
        pictures={
            name: path.read_bytes()
            for name, path in (
                ("sagittal", written.sagittal_overlay),
                ("axial", written.overlay),
                ("quality", written.quality_map),
            )
            if path is not None
        },
    )


def write_study_report(
    report: StudyReport, folder: str | Path, *, language: Language = "en"
) -> dict[str, Path]:
    """Write ``report.html``, which needs no other file, and ``report.pdf``; returns the paths by kind.

    Parameters
    ----------
    report : StudyReport
        From `describe_report`.
    folder : path-like
        Made if missing.
    language : {"en", "zh"}
        Of the page; the PDF is in English.

    Raises
    ------
    InputError
        If there is no such language, or jinja2 is not installed.
    StorageError
        If they cannot be written.
    """
    folder = Path(folder)
    return {
        "report": write_text(folder / "report.html", render_html(report, language=language)),
        "pdf": write_bytes(folder / "report.pdf", render_pdf(report)),
    }


def require_language(language: str) -> Language:
    """Return a language of the page.

    Raises
    ------
    InputError
        If the page is not written in it.
    """
    if language not in TEXTS:
        raise InputError("no such language", received=language, hint=f"One of {', '.join(TEXTS)}.")
    return "zh" if language == "zh" else "en"


def render_html(report: StudyReport, *, language: Language = "en") -> str:
    """Make the page, with its pictures in it.

    Raises
    ------
    InputError
        If there is no such language, or jinja2 is not installed.
    """
    require_language(language)
    return render_page(
        "ctai_sam2.study",
        report=report,
        texts=TEXTS[language],
        names={one.column: SHOWN[one.column].name(language) for one in report.numbers},
        language={"zh": "zh-CN"}.get(language, language),
        pictures={
            name: base64.b64encode(content).decode("ascii") for name, content in report.pictures.items()
        },
    )


_HEADINGS = ("measure", "value", "unit", "z", "percentile", "low")
_NUMBER_COLUMNS = tuple(_HEADINGS.index(name) for name in ("value", "z", "percentile"))


def render_pdf(report: StudyReport) -> bytes:
    """Make the page as a PDF of one sheet of A4, in English."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    texts = TEXTS["en"]
    figure = Figure(figsize=(8.27, 11.69))
    FigureCanvasPdf(figure)
    figure.text(0.06, 0.965, texts["title"], fontsize=15, weight="bold")
    figure.text(0.06, 0.95, texts["use"], fontsize=8)
    _place_pictures(figure, report.pictures)
    axes = figure.add_axes((0.06, 0.34, 0.88, 0.3))
    axes.set_axis_off()
    table = axes.table(
        cellText=[
            [
                *(SHOWN[one.column].en, one.value, one.unit, one.z, one.percentile),
                _yes_no(one.is_low, texts),
            ]
            for one in report.numbers
        ],
        colLabels=[texts[name] for name in _HEADINGS],
        colWidths=[0.42, 0.12, 0.16, 0.08, 0.12, 0.1],
        cellLoc="left",
        loc="upper left",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.scale(1, 1.15)
    for (_, column), cell in table.get_celld().items():
        if column in _NUMBER_COLUMNS:
            cell.set_text_props(horizontalalignment="right")
    lines = [
        *(f"{texts['as_unenhanced']}: {text}" for text in report.as_unenhanced),
        f"{texts['reference']}: {report.reference or texts['no_reference']}",
        *(f"{texts['cutoffs']}: {text}" for text in report.cutoffs),
        "",
        f"{texts['warnings']}:",
        *(report.warnings or (texts["none"],)),
        "",
        f"{texts['provenance']}: " + ", ".join(f"{name} {value}" for name, value in report.provenance),
    ]
    figure.text(0.06, 0.325, "\n".join(_wrapped(lines, 125)), fontsize=6.5, va="top")
    buffer = io.BytesIO()
    # No date, so that equal reports are equal files.
    figure.savefig(buffer, format="pdf", metadata={"Creator": "ctai-sam2", "CreationDate": None})
    return buffer.getvalue()


def _place_pictures(figure: Any, pictures: Mapping[str, bytes]) -> None:
    from matplotlib.image import imread

    count = max(len(pictures), 1)
    for place, (name, content) in enumerate(pictures.items()):
        axes = figure.add_axes((0.06 + place * 0.88 / count, 0.66, 0.86 / count, 0.27))
        axes.set_axis_off()
        axes.imshow(imread(io.BytesIO(content), format="png"))
        axes.set_title(TEXTS["en"][name], fontsize=8)


def _wrapped(lines: Sequence[str], width: int) -> list[str]:
    import textwrap

    return [part for line in lines for part in (textwrap.wrap(line, width) or [""])]


def _as_unenhanced(row: Mapping[str, Cell]) -> tuple[str, ...]:
    if not row.get("contrast_source"):
        return ()
    parts = [
        f"{SHOWN[measure].short} {value:.1f} {SHOWN[measure].unit}"
        for measure, column in (("sma_cm2", "sma_as_unenhanced_cm2"), ("smd_hu", "smd_as_unenhanced_hu"))
        if (value := number_of_cell(row.get(column))) is not None
    ]
    return (f"{', '.join(parts)}; {row['contrast_source']}",)


def _yes_no(value: bool | None, texts: Mapping[str, str]) -> str:
    return "" if value is None else texts["yes" if value else "no"]


def _plain(value: Cell) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
