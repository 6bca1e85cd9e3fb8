"""What the labels of a label map mean, from the tables that programs write next to it or into it.

Next to ``masks.nii.gz``: our ``masks.labels.json``; a JSON object of numbers and names either way round, as
nnU-Net and TotalSegmentator have them; ITK-SNAP's label descriptions (``.txt``, ``.label``); 3D Slicer's
color tables (``.ctbl``, ``.txt``); BIDS tables (``.tsv``). In a NIfTI header: the label table that
TotalSegmentator writes. In a ``.seg.nrrd``: 3D Slicer's segments.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

from ctai_sam2.errors import InputError
from ctai_sam2.files.folders import require_file
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.image.label_values import LARGEST_LABEL
from ctai_sam2.io.structure_terms import (
    NO_CODES,
    Codes,
    checked_label,
    renamed_notes,
    structure_of,
    unique_name,
)
from ctai_sam2.structures import COHORT_MASK_LABELS

LABEL_MAP_ENDINGS = (
    ".seg.nrrd",
    ".nii.gz",
    ".nii",
    ".nrrd",
    ".nhdr",
    ".hdr",
    ".img.gz",
    ".img",
    ".png",
    ".jpeg",
    ".jpg",
)
_NEXT_TO_IT = (
    ".labels.json",
    ".json",
    ".txt",
    ".label",
    ".ctbl",
    ".tsv",
)
_ITKSNAP = re.compile(
    r'\s*(\d+)\s+\d+\s+\d+\s+\d+\s+[\d.]+\s+\d+\s+\d+\s+"(.*)"\s*',
)
_SLICER = re.compile(r"\s*(\d+)\s+(\S+)(?:\s+\d+){3,4}\s*")
_BACKGROUND = ("background", "clear label", "clear_label")
_LARGEST_TABLE = 1 << 20


class LabelNames(dict[int, str]):
    """Names by label, with a note on each that the table has in other words."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []


COHORT_LABELS: Mapping[int, str] = MappingProxyType(
    {value: name for name, value in COHORT_MASK_LABELS.items()}
)
"""Labels of a cohort's mask files, in the order they are laid over each other: psoas over muscle over the
rest."""


def stem_of(path: Path) -> Path:
    """Return a label map's path without its ending, ``.nii.gz`` being one."""
    for ending in LABEL_MAP_ENDINGS:
        if path.name.lower().endswith(ending):
            return path.with_name(path.name[: -len(ending)])
    return path.with_suffix("")


def find_label_table(path: Path) -> Path | None:
    """Find the table next to a label map; None where there is none."""
    stem = stem_of(path)
    for ending in _NEXT_TO_IT:
        table = stem.with_name(stem.name + ending)
        if table == path or not table.is_file():
            continue
        if ending == ".labels.json" or _looks_like_table(table):
            return table
    return None


def is_cohort_mask(path: Path) -> bool:
    """Tell whether a file is a case's label map in a cohort's results folder.

    Those of earlier versions have no table in their header.
    """
    folder = path.absolute().parent
    return (
        folder.name == "masks"
        and path.name.endswith(".nii.gz")
        and (folder.parent / "records" / f"{stem_of(path).name}.json").is_file()
    )


def label_table_xml(names: Mapping[int, str]) -> str:
    """Write names by label as the label table that `names_in_nifti` reads, for a NIfTI header."""
    root = ElementTree.Element("CaretExtension")
    ElementTree.SubElement(root, "Date").text = ""
    volume = ElementTree.SubElement(root, "VolumeInformation", {"Index": "0"})
    table = ElementTree.SubElement(volume, "LabelTable")
    for label, name in names.items():
        ElementTree.SubElement(table, "Label", {"Key": str(label)}).text = name
    return ElementTree.tostring(root, encoding="unicode")


def read_label_table(table: Path) -> LabelNames:
    """Read names by label from a table of a kind the module's docstring lists.

    Raises
    ------
    InputError
        If it is no such table, a label or a name stands twice, or one cannot be a label.
    """
    require_file(table)
    try:
        text = _text_of(table)
        pairs = list(_pairs_in(table, text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the table {table.name} cannot be read",
            hint="Correct or remove it; without it labels are called label_1 and so on.",
        ) from error
    if not pairs:
        raise InputError(
            f"the table {table.name} names no label",
            hint="Correct or remove it; without it labels are called label_1 and so on.",
        )
    return _checked(table.name, pairs)


def names_in_nifti(path: Path) -> LabelNames:
    """Read names by label from a NIfTI header's label table; empty where there is none."""
    import nibabel

    from ctai_sam2.io.library_messages import quiet

    try:
        with quiet("nibabel.global"):
            extensions = list(getattr(nibabel.load(path).header, "extensions", []))
    except Exception:  # nibabel raises many kinds; whether the file is readable, its reader says
        return LabelNames()
    pairs: list[tuple[int, str]] = []
    for extension in extensions:
        try:
            content = extension.get_content()
            text = content.decode("utf-8") if isinstance(content, bytes) else str(content)
            if "<LabelTable" not in text or "<!ENTITY" in text:
                continue
            root = ElementTree.fromstring(text.strip().rstrip("\0"))
            for label in root.iter("Label"):
                pairs.append((int(label.attrib["Key"]), (label.text or "").strip()))
        except (ValueError, KeyError, ElementTree.ParseError, AttributeError):
            continue
    return _checked(path.name, pairs)


def names_in_segments(fields: Mapping[str, str], name: str) -> dict[int, LabelNames]:
    """Read 3D Slicer's segments from the fields of an NRRD file: names by label, by layer.

    Raises
    ------
    InputError
        If a segment's fields cannot be parsed.
    """
    layers: dict[int, list[tuple[int, str, Codes]]] = {}
    numbers = sorted(
        {int(found.group(1)) for key in fields if (found := re.fullmatch(r"Segment(\d+)_\w+", key))}
    )
    for number in numbers:
        key = f"Segment{number}"
        try:
            layer = int(fields.get(f"{key}_Layer", "0"))
            # Files of Slicer before 4.11 keep each segment as a layer of zeros and ones.
            value = int(fields.get(f"{key}_LabelValue", "1"))
            if f"{key}_Layer" not in fields and f"{key}_LabelValue" not in fields:
                layer = number
        except ValueError as error:
            raise InputError(f"the segments of {name} cannot be parsed", hint="Export it again.") from error
        label = fields.get(f"{key}_Name") or fields.get(f"{key}_ID") or f"segment_{number + 1}"
        codes = _codes_in_tags(fields.get(f"{key}_Tags", ""))
        layers.setdefault(layer, []).append((value, label, codes))
    return {layer: _named(name, pairs) for layer, pairs in layers.items()}


def _codes_in_tags(tags: str) -> Codes:
    """Type, side and region codes in a segment's terminology entry."""
    found = re.search(r"TerminologyEntry:([^|]*)", tags)
    parts = found.group(1).split("~") if found else []
    # context ~ category(3) ~ type(3) ~ modifier(3) ~ context ~ region(3) ~ modifier(3), each split by ^
    codes = [part.split("^")[1] if part.count("^") == 2 else "" for part in parts]
    codes += [""] * (7 - len(codes))
    return codes[2] or None, codes[3] or None, codes[5] or None


def _text_of(table: Path) -> str:
    if table.stat().st_size > _LARGEST_TABLE:
        raise ValueError
    return table.read_text(encoding="utf-8-sig")


def _looks_like_table(table: Path) -> bool:
    """Tell whether a file next to a label map names labels; others of the same name may be anything."""
    try:
        text = _text_of(table)
        return any(True for _ in _pairs_in(table, text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _pairs_in(table: Path, text: str) -> Iterable[tuple[int, str]]:
    if table.suffix.lower() == ".json":
        return _pairs_in_json(table, parse_json(text, unique_keys=True))
    if table.suffix.lower() == ".tsv":
        rows = csv.DictReader(text.splitlines(), delimiter="\t")
        return [(int(row["index"]), row["name"]) for row in rows]
    return _pairs_in_lines(text)


def _pairs_in_json(table: Path, content: Any) -> list[tuple[int, str]]:
    labels = content["labels"] if isinstance(content, dict) and "labels" in content else content
    if not isinstance(labels, dict):
        raise ValueError
    if all(isinstance(value, str) for value in labels.values()):
        return [(int(key), value) for key, value in labels.items()]
    is_ours = table.name.lower().endswith(".labels.json")
    if not is_ours and all(
        isinstance(value, int) and not isinstance(value, bool) for value in labels.values()
    ):
        return [(value, key) for key, value in labels.items()]
    raise ValueError


def _pairs_in_lines(text: str) -> list[tuple[int, str]]:
    pairs = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _ITKSNAP.fullmatch(line) or _SLICER.fullmatch(line)
        if found is None:
            raise ValueError
        pairs.append((int(found.group(1)), found.group(2)))
    return pairs


def _checked(source: str, pairs: Iterable[tuple[int, str]]) -> LabelNames:
    return _named(source, ((label, name, NO_CODES) for label, name in pairs))


def _named(source: str, described: Iterable[tuple[int, str, Codes]]) -> LabelNames:
    names = LabelNames()
    for label, name, codes in described:
        if label == 0 or name.strip().lower() in _BACKGROUND:
            continue
        if not 0 < label <= LARGEST_LABEL:
            raise InputError(f"{source} names a label that cannot be one", received=label)
        if label in names:
            raise InputError(f"{source} names a label twice", received=label, hint="Correct its table.")
        known = structure_of(checked_label(name.strip()), *codes)
        names.notes += renamed_notes(name, known)
        names[label] = unique_name(known, dict.fromkeys(names.values()))
    return names
