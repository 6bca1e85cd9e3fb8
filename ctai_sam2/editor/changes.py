"""Notifications to a view: which parts of the picture are out of date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

Box: TypeAlias = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels, all four inclusive."""

Aspect: TypeAlias = Literal[
    "mask",
    "prompts",
    "preview",
    "view",
    "labels",
    "slice",
    "history",
    "inference",
    "confirm",
    "status",
    "states",
]
"""What changed: pixels; points and boxes; what is under the pointer; zoom, window or tool; label list;
the slice shown; what can be undone; the state of inference; a confirmation by the user; the status line;
sources, gates and levels of a volume's slices."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one event changed.

    Parameters
    ----------
    aspects : frozenset of str
        Empty if nothing changed.
    index : int
        The slice whose pixels or prompts changed.
    boxes : mapping of str to Box
        By label, a box that holds every changed pixel; no entry where none changed.
    prompts : tuple of str
        Labels whose prompts changed.
    refused : tuple of str
        Labels that stayed as they were because they are locked.
    """

    aspects: frozenset[Aspect] = frozenset()
    index: int = 0
    boxes: Mapping[str, Box] = field(default_factory=lambda: MappingProxyType({}))
    prompts: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything changed."""
        return bool(self.aspects)

    @property
    def dirty_box(self) -> Box | None:
        """A box that holds every changed pixel of every label; None where no pixel changed."""
        if not self.boxes:
            return None
        x0, y0, x1, y1 = zip(*self.boxes.values(), strict=True)
        return min(x0), min(y0), max(x1), max(y1)

    @property
    def label(self) -> str | None:
        """The label that changed; None where none or several did."""
        names = {*self.boxes, *self.prompts}
        return next(iter(names)) if len(names) == 1 else None
