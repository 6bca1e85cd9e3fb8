"""The methods paragraph of a paper, with citations and a reporting checklist, from what was really run."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctai_sam2.cohort.descriptives import usable_rows
from ctai_sam2.cohort.qc import IMPLAUSIBLE
from ctai_sam2.cohort.references import CITED_TABLES, bibtex_of
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.table import read_summary, read_table
from ctai_sam2.files.atomic import write_text
from ctai_sam2.measure.cutoffs import cutoff_table
from ctai_sam2.measure.reference_values import reference_table

if TYPE_CHECKING:
    import pandas as pd

_NOT_RECORDED = "not recorded"
_LIBRARIES = ("numpy", "scipy", "torch", "pydicom", "nibabel")


@dataclass(frozen=True, kw_only=True)
class MethodsFiles:
    """The files of a methods paragraph.

    Parameters
    ----------
    markdown : Path
        Paragraph and checklist; citations as ``[@key]``.
    bibtex : Path
        The works cited.
    """

    markdown: Path
    bibtex: Path


def write_methods(folder: str | os.PathLike[str]) -> MethodsFiles:
    """Write ``methods.md`` and ``methods.bib`` into a cohort's folder.

    Raises
    ------
    InputError
        If the folder holds no results of a cohort.
    StorageError
        If they cannot be written.
    """
    store = CohortStore(Path(folder))
    summary, table = read_summary(store), read_table(store.folder)
    text, cited = describe_methods(summary, table)
    references = [bibtex_of(key, version=str(summary["code_version"])) for key in cited]
    return MethodsFiles(
        markdown=write_text(store.folder / "methods.md", text),
        bibtex=write_text(store.folder / "methods.bib", "\n\n".join(references) + "\n"),
    )


def describe_methods(summary: Mapping[str, Any], table: pd.DataFrame) -> tuple[str, list[str]]:
    """Write paragraph and checklist of a cohort.

    Parameters
    ----------
    summary : mapping
        From ``summary.json``.
    table : DataFrame
        From `ctai_sam2.cohort.read_table`.

    Returns
    -------
    tuple of str and list of str
        Markdown, and the keys cited.
    """
    cited = ["ctai_sam2", "ravi2024"]
    done = table[table["status"] == "done"]
    analysed = table[usable_rows(table)]
    plan = summary["plan"]
    sentences = [
        f"CT studies of {len(table)} cases were segmented with ctai_sam2 {summary['code_version']} "
        f"[@ctai_sam2], which uses SAM 2 [@ravi2024] ({_models(done)}), on the axial slice through the "
        f"middle of the third lumbar vertebra, shown to the model in a window of level {plan['window'][0]:g} "
        f"and width {plan['window'][1]:g} HU.",
        _levels(done),
        f"Tissues were limited to {_ranges(summary['definitions'])} (definitions "
        f"{summary['definitions']['name']}@{summary['definitions']['version']}, "
        f"{summary['definitions']['content_hash']}).",
    ]
    if _count(analysed, "smi_cm2_m2"):
        sentences.append(
            "Skeletal muscle area (SMA, cm²) divided by height squared is the skeletal muscle index (SMI, "
            "cm²/m²); the mean attenuation of muscle in its range is the skeletal muscle density (SMD, HU)."
        )
    for column, what in (("low_smi", "Low SMI"), ("low_smd", "Low SMD")):
        if _count(analysed, column):
            for name in _names_in(analysed, "smi_cutoffs" if column == "low_smi" else "smd_cutoffs"):
                low = cutoff_table(name)
                sentences.append(f"{what} was defined by {name} ({low.source}){_cite(low.name, cited)}.")
    if _count(analysed, "nama_area_mm2"):
        cited.append("aubrey2014")
        sentences.append(
            "Muscle of 30 HU and more is of normal attenuation (NAMA), the rest of low attenuation (LAMA) "
            "[@aubrey2014]."
        )
    for name in _names_in(analysed, "reference_values"):
        reference = reference_table(name.partition("@")[0])
        sentences.append(
            f"Z-scores and percentiles are those of {name} ({reference.population}; normal distribution of "
            f"their mean and SD){_cite(reference.name, cited)}, in {_count(analysed, 'reference_values')} "
            "cases of its sexes and ages."
        )
    for name in _names_in(analysed, "contrast_source"):
        sentences.append(
            f"Values as without contrast are estimates by published mean effects{_cite(name, cited)}; all "
            "others are as measured."
        )
    if _count(analysed, "ffm_kg"):
        cited.append("mourtzakis2008")
        sentences.append("Fat-free and fat mass were estimated after Mourtzakis et al. [@mourtzakis2008].")
    if plan["robustness_trials"]:
        sentences.append(
            f"Areas were repeated with {plan['robustness_trials']} jittered prompts a structure for their "
            "coefficient of variation."
        )
    sentences.append(_exclusions(table, summary))
    sentences.append(_readers(done))
    checklist = "\n".join(f"| {item} | {value} |" for item, value in _checklist(summary, table, analysed))
    text = (
        "# Methods\n\n"
        + " ".join(filter(None, sentences))
        + "\n\n## Reporting checklist\n\n| item | in this cohort |\n|---|---|\n"
        + checklist
        + "\n\nFor research use, not for diagnosis. Items marked as not recorded have to be added by hand.\n"
    )
    return text, cited


def _cite(table: str, cited: list[str]) -> str:
    """Return the citation of a table's work, and note it as cited; nothing for a table without one."""
    key = CITED_TABLES.get(table.partition("@")[0])
    if key is None:
        return ""
    if key not in cited:
        cited.append(key)
    return f" [@{key}]"


def _models(done: pd.DataFrame) -> str:
    models = done[["model", "weights_sha256"]].dropna().drop_duplicates()
    named = [f"{row.model}, weights SHA-256 {str(row.weights_sha256)[:12]}" for row in models.itertuples()]
    return "; ".join(named) or "no model was used"


def _levels(done: pd.DataFrame) -> str:
    if done.empty:
        return ""
    counts = done["l3_certainty"].fillna("unknown").value_counts()
    words = {
        "user": "chosen by the user",
        "counted": "counted from the sacrum by the software",
        "estimated": "estimated by the software",
        "unknown": "of unknown certainty",
    }
    parts = [f"{words.get(str(name), str(name))} in {count}" for name, count in counts.items()]
    return f"The level was {', '.join(parts)} of {len(done)} cases."


def _ranges(definitions: Mapping[str, Any]) -> str:
    names = {"muscle": "muscle", "imat": "IMAT", "sat": "SAT", "vat": "VAT"}
    return ", ".join(
        f"{shown} {definitions[name]['low_hu']:g} to {definitions[name]['high_hu']:g} HU"
        for name, shown in names.items()
    )


def _exclusions(table: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    counts = table["status"].value_counts()
    flags = table["flags"].fillna("").str.split()
    implausible = int(flags.map(lambda names: IMPLAUSIBLE in names).astype(bool).sum())
    duplicates = int(flags.map(lambda names: "duplicate" in names).astype(bool).sum())
    parts = [
        f"{int(counts.get(status, 0))} {text}"
        for status, text in (
            ("failed", "could not be measured"),
            ("incomplete", "were incomplete"),
            ("not done", "were not processed"),
        )
        if counts.get(status, 0)
    ]
    if implausible:
        parts.append(f"{implausible} had implausible values")
    sentence = f"Of {len(table)} cases, {', '.join(parts)}." if parts else "No case was excluded."
    if duplicates:
        sentence += f" {duplicates} cases share images with another and are flagged as duplicates."
    return sentence


def _readers(done: pd.DataFrame) -> str:
    reviewed = done[done["reviewed_by"].notna()]
    if reviewed.empty:
        return "No case was reviewed by a reader."
    corrected = int(reviewed["corrected_structures"].notna().sum())
    readers = reviewed["reviewed_by"].nunique()
    who = "reader" if readers == 1 else "readers"
    what = "case" if len(reviewed) == 1 else "cases"
    return f"{readers} {who} reviewed {len(reviewed)} {what} and corrected the masks of {corrected}."


def _checklist(
    summary: Mapping[str, Any], table: pd.DataFrame, analysed: pd.DataFrame
) -> list[tuple[str, str]]:
    return [
        ("Cases in the manifest, analysed", f"{len(table)}, {len(analysed)}"),
        ("Sex (men, women, unknown)", _sexes(analysed)),
        ("Vertebral level", "mid-L3, one slice"),
        ("Level chosen by", _values(analysed, "level_chosen_by")),
        ("Contrast agent (header)", _values(analysed, "contrast")),
        ("Contrast phase (header)", _values(analysed, "phase_header")),
        ("Contrast phase (aorta and cava)", _values(analysed, "phase_image")),
        ("Scanner", _values(analysed, "scanner")),
        ("Tube voltage, kV", _values(analysed, "kvp")),
        ("Slice thickness, mm", _values(analysed, "slice_thickness_mm")),
        ("Reconstruction kernel", _values(analysed, "kernel")),
        ("HU ranges", _ranges(summary["definitions"])),
        ("Cut-offs of SMI, SMD", f"{_values(analysed, 'smi_cutoffs')}; {_values(analysed, 'smd_cutoffs')}"),
        ("Reference values", _values(analysed, "reference_values")),
        ("Model and weights", _models(analysed)),
        ("Device", _values(analysed, "device")),
        ("Software", _software(summary)),
        (
            "Height, age known",
            f"{_count(analysed, 'height_m')}, {_count(analysed, 'age_years')} of {len(analysed)}",
        ),
        ("Cases flagged, reviewed", f"{summary['flagged']}, {summary['reviewed']}"),
        ("Ethics approval, period, inclusion criteria", _NOT_RECORDED),
    ]


def _count(table: pd.DataFrame, column: str) -> int:
    return int(table[column].notna().sum()) if column in table else 0


def _names_in(table: pd.DataFrame, column: str) -> list[str]:
    """Return the different texts of a column, sorted."""
    return sorted(table[column].dropna().unique()) if column in table else []


def _sexes(table: pd.DataFrame) -> str:
    counts = table["sex"].value_counts()
    men, women = int(counts.get("M", 0)), int(counts.get("F", 0))
    return f"{men}, {women}, {len(table) - men - women}"


def _values(table: pd.DataFrame, column: str) -> str:
    if not _count(table, column):
        return _NOT_RECORDED
    known = table[column].dropna()
    counts = known.value_counts()
    shown = [f"{_plain(value)} ({count})" for value, count in counts.head(6).items()]
    if len(counts) > len(shown):
        shown.append(f"{len(counts) - len(shown)} more values")
    missing = len(table) - len(known)
    if missing:
        shown.append(f"{_NOT_RECORDED} ({missing})")
    return ", ".join(shown)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("|", "/")


def _software(summary: Mapping[str, Any]) -> str:
    found = [f"ctai_sam2 {summary['code_version']}", f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found) + " (Python and libraries: of the machine that wrote this text)"
