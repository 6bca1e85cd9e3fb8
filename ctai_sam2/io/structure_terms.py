"""What structures are called in other programs: SNOMED CT codes for DICOM, and who made a mask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from ctai_sam2.errors import InputError
from ctai_sam2.types import ModelIdentity

Code: TypeAlias = tuple[str, str]
"""A SNOMED CT code and its meaning."""

Codes: TypeAlias = tuple[str | None, str | None, str | None]
"""SNOMED CT codes of a structure's type, side and region, as far as a file states them."""

NO_CODES: Codes = (None, None, None)

MadeBy: TypeAlias = Literal["manual", "semiautomatic", "automatic"]

ANATOMICAL_STRUCTURE: Code = ("91723000", "Anatomical Structure")
TISSUE: Code = ("85756007", "Tissue")
LEFT: Code = ("7771000", "Left")
RIGHT: Code = ("24028007", "Right")

_LABEL = re.compile(r"[^\x00-\x1f\\]{1,64}")


@dataclass(frozen=True, kw_only=True)
class StructureTerm:
    """How DICOM names a structure.

    Parameters
    ----------
    category, type : tuple of (str, str)
        SNOMED CT code and meaning: Segmented Property Category and Type (PS3.16 CID 7150, 7166 and others).
    side : tuple of (str, str), optional
        Type modifier: left or right.
    region : tuple of (str, str), optional
        Anatomic region, where the type alone does not say which.
    """

    category: Code
    type: Code
    side: Code | None = None
    region: Code | None = None


# SNOMED CT has no psoas major in the sets DICOM shares; TotalSegmentator and 3D Slicer use iliopsoas too.
_ILIOPSOAS: Code = ("68455001", "Iliopsoas muscle")
_SKELETAL_MUSCLE: Code = ("127954009", "Skeletal muscle")
_FAT: Code = ("55603005", "Fat")

TERMS: Mapping[str, StructureTerm] = MappingProxyType(
    {
        "l3": StructureTerm(category=ANATOMICAL_STRUCTURE, type=("36470004", "L3 vertebra")),
        "psoas_left": StructureTerm(category=ANATOMICAL_STRUCTURE, type=_ILIOPSOAS, side=LEFT),
        "psoas_right": StructureTerm(category=ANATOMICAL_STRUCTURE, type=_ILIOPSOAS, side=RIGHT),
        "psoas": StructureTerm(category=ANATOMICAL_STRUCTURE, type=_ILIOPSOAS),
        "muscle": StructureTerm(category=TISSUE, type=_SKELETAL_MUSCLE),
        "sat": StructureTerm(category=TISSUE, type=("67769002", "Subcutaneous fatty tissue")),
        "vat": StructureTerm(category=TISSUE, type=_FAT, region=("818987002", "Abdominopelvic cavity")),
        "imat": StructureTerm(category=TISSUE, type=_FAT, region=_SKELETAL_MUSCLE),
    }
)
"""The structures this package knows, by name."""


OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "iliopsoas_left": "psoas_left",
        "iliopsoas_right": "psoas_right",
        "left_psoas": "psoas_left",
        "right_psoas": "psoas_right",
        "psoas_major_left": "psoas_left",
        "psoas_major_right": "psoas_right",
        "left_psoas_major": "psoas_left",
        "right_psoas_major": "psoas_right",
        "left_iliopsoas": "psoas_left",
        "right_iliopsoas": "psoas_right",
        "vertebrae_l3": "l3",
        "l3_vertebra": "l3",
        "vertebra_l3": "l3",
        "skeletal_muscle": "muscle",
        "subcutaneous_fat": "sat",
        "torso_fat": "vat",
        "visceral_fat": "vat",
        "intermuscular_fat": "imat",
    }
)
"""Names of TotalSegmentator and of common protocols, in lower case with underscores, by ours."""


@dataclass(frozen=True, kw_only=True)
class Authorship:
    """Who made the masks.

    Parameters
    ----------
    made_by : {"manual", "semiautomatic", "automatic"}
        ``semiautomatic`` for a model's mask that a person prompted or corrected.
    model : ModelIdentity, optional
        The model; needed unless made by hand.

    Raises
    ------
    InputError
        If a model is missing or there is one too many.
    """

    made_by: MadeBy = "manual"
    model: ModelIdentity | None = None

    def __post_init__(self) -> None:
        if self.made_by not in ("manual", "semiautomatic", "automatic"):
            raise InputError(
                "masks are made manual, semiautomatic or automatic", received=str(self.made_by)[:40]
            )
        if (self.made_by == "manual") != (self.model is None):
            raise InputError(
                "a mask made by hand has no model, any other has one",
                received=f"{self.made_by} {'without' if self.model is None else 'with'} a model",
                hint="Pass the identity of the prediction.",
            )


def term_of(name: str, terms: Mapping[str, StructureTerm] | None = None) -> StructureTerm:
    """Look up how DICOM names a structure.

    Raises
    ------
    InputError
        If the structure is unknown here and was not described.

    Examples
    --------
    >>> term_of("psoas_left").type
    ('68455001', 'Iliopsoas muscle')
    """
    if terms is not None and name in terms:
        return terms[name]
    if name not in TERMS:
        raise InputError(
            "a label has no DICOM term",
            received=name[:64],
            hint=f"Known are {', '.join(TERMS)}; describe others with terms={{name: StructureTerm(...)}}",
        )
    return TERMS[name]


def checked_label(name: str) -> str:
    """Return a label that every format can hold: 1 to 64 characters, no control character, no backslash.

    Raises
    ------
    InputError
        If it cannot.
    """
    if not _LABEL.fullmatch(name) or name.strip() != name:
        raise InputError("a label is 1 to 64 plain characters", received=repr(name[:64]))
    return name


def structure_of(label: str, type_code: str | None, side_code: str | None, region_code: str | None) -> str:
    """Name by which this package knows a label or its codes; the label itself where it does not.

    Examples
    --------
    >>> structure_of("Left psoas", "68455001", "7771000", None)
    'psoas_left'
    >>> structure_of("Muscle 1", None, None, None)
    'Muscle 1'
    """
    plain = label.strip().lower().replace(" ", "_")
    if plain in TERMS:
        return plain
    for name, term in TERMS.items():
        codes = (term.type[0], term.side and term.side[0], term.region and term.region[0])
        if codes == (type_code, side_code, region_code):
            return name
    return label.strip()


def renamed_notes(label: str, name: str) -> list[str]:
    """Say that a label was read as another name; nothing where it is the same.

    Examples
    --------
    >>> renamed_notes("Left psoas", "psoas_left"), renamed_notes("muscle", "muscle")
    (['Left psoas was read as psoas_left'], [])
    """
    return [] if label.strip() == name else [f"{label.strip()} was read as {name}"]


def known_by_other_name(label: str) -> str | None:
    """Return our name of a structure that other programs call by this label; None where there is none.

    Examples
    --------
    >>> known_by_other_name("iliopsoas_left"), known_by_other_name("liver")
    ('psoas_left', None)
    """
    return OTHER_NAMES.get(label.strip().lower().replace(" ", "_").replace("-", "_"))


def add_name(
    names: dict[int, str], number: int, label: str, codes: Codes, entries: str, notes: list[str]
) -> None:
    """Put a structure of a file under its number, by our name; notes say what was renamed or stands twice.

    Parameters
    ----------
    names : dict of int to str
        Gets the name.
    number : int
        Number of the entry in the file.
    label : str
        What the file calls it.
    codes : tuple of str or None
        Its codes, which count where the label is not one of ours.
    entries : str
        What the file's entries are called, such as ``segments``.
    notes : list of str
        Gets a sentence for each difference from the file.
    """
    known = structure_of(label, *codes)
    notes += renamed_notes(label, known)
    name = unique_name(known, dict.fromkeys(names.values()))
    if name != known:
        notes.append(f"{known} stands twice in the file; the second is called {name}")
    if number in names:
        notes.append(f"two {entries} have the number {number}; only the second was read")
    names[number] = name


def unique_name(name: str, taken: Mapping[str, object]) -> str:
    """Return the name, or the name with the first free number behind it.

    Examples
    --------
    >>> unique_name("fat", {"fat": 1, "fat_2": 2})
    'fat_3'
    """
    number, result = 1, name
    while result in taken:
        number += 1
        result = f"{name}_{number}"
    return result
