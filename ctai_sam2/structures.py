"""The structures and vertebral levels of this package: names, sides and colors, in one table.

Every other module takes a structure's name, color or mirrored counterpart from here. Hounsfield limits are
declared in `ctai_sam2.measure.definitions`, DICOM terms in `ctai_sam2.io.structure_terms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from ctai_sam2.errors import InputError

Structure: TypeAlias = Literal[
    "l3", "psoas_left", "psoas_right", "psoas", "muscle", "vertebra", "sat", "vat", "imat"
]
"""What can be segmented: ``l3`` on a sagittal slice, the others on an axial one."""

AXIAL_STRUCTURES: tuple[Structure, ...] = (
    "psoas_left",
    "psoas_right",
    "psoas",
    "muscle",
    "vertebra",
    "sat",
    "vat",
    "imat",
)
STRUCTURES: tuple[Structure, ...] = ("l3", *AXIAL_STRUCTURES)


MUSCLES: tuple[Structure, ...] = ("psoas_left", "psoas_right", "psoas", "muscle")
LEVELS = ("T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5")
"""Vertebral levels from the top down; the sacrum follows."""

MIRRORED: Mapping[str, str] = MappingProxyType({"psoas_left": "psoas_right", "psoas_right": "psoas_left"})
"""The same structure on the patient's other side."""

PALETTE: tuple[str, ...] = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#CC79A7",
    "#D55E00",
    "#0072B2",
    "#FFFFFF",
)
"""Colors that people with any color vision can tell apart (Okabe and Ito 2008), bright ones first."""

COLORS: Mapping[str, str] = MappingProxyType(
    {
        "muscle": "#E69F00",
        "psoas": "#56B4E9",
        "psoas_left": "#56B4E9",
        "psoas_right": "#009E73",
        "l3": "#F0E442",
        "vertebra": "#F0E442",
        "sat": "#0072B2",
        "vat": "#CC79A7",
        "imat": "#D55E00",
        "quadratus_left": "#DDCC77",
        "quadratus_right": "#999933",
        "paraspinal_left": "#44AA99",
        "paraspinal_right": "#88CCEE",
        "wall_left": "#CC6677",
        "wall_right": "#AA4499",
    }
)
"""One structure has one color in every picture, as ``#RRGGBB``; muscle groups in Tol's muted scheme."""


def require_structures(
    names: str | Iterable[str], known: Iterable[str] = AXIAL_STRUCTURES
) -> tuple[Structure, ...]:
    """Check names of structures; one name alone will do for a list of one.

    Raises
    ------
    InputError
        If a name is not known, or there is none.

    Examples
    --------
    >>> require_structures("muscle"), require_structures(["psoas", "vat"])
    (('muscle',), ('psoas', 'vat'))
    """
    try:
        given = (names,) if isinstance(names, str) else tuple(names)
    except TypeError as error:
        raise InputError("structures are a list of names", received=type(names).__name__) from error
    allowed: dict[str, Structure] = {name: name for name in STRUCTURES if name in set(known)}
    unknown = [name for name in given if not isinstance(name, str) or name not in allowed]
    if unknown or not given:
        raise InputError(
            "no such structure",
            received=", ".join(str(name)[:40] for name in unknown) or "none",
            hint=f"Some of {', '.join(allowed)}.",
        )
    return tuple(allowed[name] for name in given)


def rgb_of(color: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of ``#RRGGBB``.

    Examples
    --------
    >>> rgb_of("#E69F00")
    (230, 159, 0)
    """
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue


def level_below_l3(steps: int) -> str | None:
    """Name of the vertebra so many below L3 (above, if negative); None outside `LEVELS`.

    Examples
    --------
    >>> level_below_l3(1), level_below_l3(-3), level_below_l3(3)
    ('L4', 'T12', None)
    """
    index = LEVELS.index("L3") + steps
    return LEVELS[index] if 0 <= index < len(LEVELS) else None


COHORT_MASK_LABELS: Mapping[str, int] = {
    "vertebra": 7,
    "sat": 5,
    "vat": 6,
    "imat": 4,
    "muscle": 3,
    "psoas_right": 2,
    "psoas_left": 1,
}
"""Labels in a cohort's mask files, in the order they are laid over each other: psoas over all others."""
