"""What can be outlined: labels with their colours, and the two editors' profiles.

Names are those of ``ctai_sam2.structures.STRUCTURES``. Labels may overlap
(psoas is part of muscle), so a lock protects a label's own mask and prompts and
says nothing about the others.

The psoas is two labels, left and right, because asymmetry is measured; the group
``psoas`` stands for both, as the original system's psoas mode did. ``muscle`` is
the original's "combo". A rectangle in the L3 profile is pixels like anything
else: the rectangles handed on are the boxes around the mask's separate parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ctai_sam2.errors import InputError
from ctai_sam2.image.windowing import PRESETS, SOFT_TISSUE
from ctai_sam2.measure.columns import SIDED_GROUPS
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, HuRange
from ctai_sam2.structures import COLORS, rgb_of
from ctai_sam2.types import Plane, Window


@dataclass(frozen=True, kw_only=True)
class Label:
    """One structure and how it is shown.

    Parameters
    ----------
    name : str
        A structure's name.
    colour : str
        ``#RRGGBB``, from a palette people with any colour vision can tell apart (Okabe and Ito 2008).
    visible : bool
        Whether its mask is drawn.
    locked : bool
        Whether its mask and prompts are protected from every command.
    """

    name: str
    colour: str
    visible: bool = True
    locked: bool = False

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255."""
        return rgb_of(self.colour)


TISSUE_LIMITS: Mapping[str, HuRange] = MappingProxyType(
    {
        "muscle": DEFAULT_DEFINITIONS.muscle,
        "sat": DEFAULT_DEFINITIONS.sat,
        "vat": DEFAULT_DEFINITIONS.vat,
        "imat": DEFAULT_DEFINITIONS.imat,
        "skeleton": HuRange(low_hu=151, high_hu=3071),
    }
)
"""HU of each tissue, as it is measured; bone is whatever is denser than muscle."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What an editor is for.

    Parameters
    ----------
    name : str
        ``l3`` or ``middle``; its title is in `editor.i18n`.
    plane : Plane
        The plane of its slices; one of unknown or oblique plane is taken too.
    labels : tuple of Label
        First one active at the start.
    groups : mapping of str to tuple of str
        Labels that one click finds together, as one undoable step.
    tools : tuple of str
        Offered tools, the first one chosen at the start.
    window : Window
        Grey window at the start.
    limits : mapping of str to HuRange
        Ranges offered for painting within one tissue, by its name.
    """

    name: str
    plane: Plane
    labels: tuple[Label, ...]
    groups: Mapping[str, tuple[str, ...]]
    tools: tuple[str, ...]
    window: Window = SOFT_TISSUE
    limits: Mapping[str, HuRange] = field(default_factory=lambda: TISSUE_LIMITS)

    def limit_of(self, label: str) -> HuRange | None:
        """HU range in which a label is measured; None where all its pixels count."""
        if label.startswith("psoas") or label in SIDED_GROUPS:
            return self.limits.get("muscle")
        return self.limits.get(label)

    def labels_of(self, group: str) -> tuple[str, ...]:
        """Labels a group or a single label stands for.

        Raises
        ------
        InputError
            If there is no such group or label.
        """
        names = {label.name for label in self.labels}
        if group in self.groups:
            return self.groups[group]
        if group not in names:
            raise InputError(
                "no such label", received=group, hint=f"Known: {', '.join(sorted(names | set(self.groups)))}."
            )
        return (group,)


# A label is drawn over those after it: parts of the muscle first.
_AXIAL_LABELS = ("psoas_left", "psoas_right", *SIDED_GROUPS, "muscle", "imat", "vat", "sat")
_DRAWING = ("brush", "eraser", "polygon", "lasso", "rectangle", "flood")
_LOOKING = ("take", "ruler", "roi", "pan", "window")

L3 = Profile(
    name="l3",
    plane="sagittal",
    labels=(Label(name="l3", colour=COLORS["l3"]),),
    groups=MappingProxyType({"l3": ("l3",)}),
    window=PRESETS["bone"],
    tools=("rectangle", "click", "box", *(tool for tool in _DRAWING if tool != "rectangle"), *_LOOKING),
)
"""Sagittal slice: the body of the third lumbar vertebra."""

MIDDLE = Profile(
    name="middle",
    plane="axial",
    labels=tuple(Label(name=name, colour=COLORS[name]) for name in _AXIAL_LABELS),
    groups=MappingProxyType(
        {
            "psoas": ("psoas_left", "psoas_right"),
            "muscle": ("muscle",),
            "fat": ("imat", "vat", "sat"),
            "groups": SIDED_GROUPS,
            "all": ("psoas_left", "psoas_right", "muscle"),
        }
    ),
    tools=("click", "box", "polygon", *(tool for tool in _DRAWING if tool != "polygon"), *_LOOKING),
)
"""Axial slice through the middle of L3: psoas, all skeletal muscle, three kinds of fat, muscle groups."""
