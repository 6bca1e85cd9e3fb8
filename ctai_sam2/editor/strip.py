"""The slices of a volume as a strip: levels, gates and anchors, and what a reader decides about a slice.

All of it is read from a `Document` and done by commands: undone, journalled and replayed like a stroke.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from ctai_sam2.editor.commands import Clear, Command, Compound, SetMask, SetState
from ctai_sam2.editor.document import Document
from ctai_sam2.editor.slice_state import SliceState
from ctai_sam2.image.interpolation import interpolate_masks
from ctai_sam2.types import CTVolume

Direction: TypeAlias = Literal["up", "down"]
Step: TypeAlias = tuple[int, Command | Compound]


@dataclass(frozen=True, kw_only=True)
class StripSlice:
    """One slice of the strip.

    Parameters
    ----------
    index : int
        The slice.
    z_mm : float
        Its position.
    level : str
        The vertebra it lies at; empty between two, or where levels are not known.
    state : SliceState
        Of the label that the strip shows.
    is_outlined : bool
        Whether the label has a pixel there.
    is_inside : bool
        Whether it is in the range that counts.
    """

    index: int
    z_mm: float
    level: str
    state: SliceState
    is_outlined: bool
    is_inside: bool = True


def has_strip(document: Document) -> bool:
    """Whether the document is of several axial slices."""
    return isinstance(document.source, CTVolume) and document.profile.plane == "axial"


def strip_range(document: Document) -> range:
    """Slices of the range that counts: all of them where none was set."""
    first, last = document.span or (0, document.slice_count - 1)
    return range(first, last + 1)


def strip_slices(document: Document, label: str, *, margin: int = 0) -> list[StripSlice]:
    """Return the slices of the range and a margin from the lowest up, as a label has them."""
    positions, touched = _positions(document), document.touched
    within = strip_range(document)
    found = []
    for index in range(max(within[0] - margin, 0), min(within[-1] + margin + 1, document.slice_count)):
        at = positions[index]
        level = next((one.name for one in document.levels if one.lower_mm <= at <= one.upper_mm), "")
        found.append(
            StripSlice(
                index=index,
                z_mm=at,
                level=level,
                state=document.state(label, index) if index in touched else SliceState(),
                is_outlined=index in touched and bool(document.mask(label, index).any()),
                is_inside=index in within,
            )
        )
    return found


def next_red(document: Document, label: str) -> int | None:
    """Next red slice above the one in view, after the last one from the lowest again; None without."""
    red = [index for index in strip_range(document) if document.state(label, index).gate == "red"]
    above = [index for index in red if index > document.index]
    return next(iter([*above, *red]), None)


def stretch(document: Document, label: str, direction: Direction) -> list[int]:
    """Slices that propagation from the slice in view reaches, nearest first.

    It ends before a slice that a reader decided about, at one where it shall stop, and at the range's end.
    """
    within = strip_range(document)
    step = 1 if direction == "up" else -1
    last = within[-1] if direction == "up" else within[0]
    reached = []
    for index in range(document.index + step, last + step, step):
        state = document.state(label, index)
        if state.is_fixed:
            break
        reached.append(index)
        if state.is_end:
            break
    return reached


def lock_here(document: Document, label: str) -> Command:
    """Make the command that fixes the mask of the slice in view, or lets it be replaced again.

    An empty mask that is fixed says that the structure is absent.
    """
    state = document.state(label)
    if state.is_fixed:
        return SetState(label=label, state=SliceState(is_end=state.is_end))
    source: Literal["anchor", "absent"] = "anchor" if document.mask(label).any() else "absent"
    return SetState(label=label, state=SliceState(source=source, is_end=state.is_end))


def absent_here(document: Document, label: str) -> Compound:
    """Make the command that says the structure is not on the slice in view."""
    state = SliceState(source="absent", is_end=document.state(label).is_end)
    return Compound(
        commands=(Clear(label=label), SetState(label=label, state=state)), name="edit.absent_here"
    )


def end_here(document: Document, label: str) -> Command:
    """Make the command that ends propagation at the slice in view, or lets it pass again."""
    state = document.state(label)
    return SetState(label=label, state=replace(state, is_end=not state.is_end))


def interpolation(document: Document, label: str) -> list[Step]:
    """Make the commands that fill slices between drawn ones by their shapes, without any model.

    Only slices that are empty and undecided, or were interpolated before, are filled; nothing is filled next
    to a slice on which the structure is absent.

    Returns
    -------
    list of (int, Compound)
        Slice and command; for `EditingSession.apply_all`.
    """
    positions, spacing_mm = _positions(document), document.slice.spacing_mm
    fixed = [index for index in strip_range(document) if document.state(label, index).is_fixed]
    steps: list[Step] = []
    for below, above in itertools.pairwise(fixed):
        lower, upper = document.mask(label, below), document.mask(label, above)
        if not (lower.any() and upper.any()):
            continue
        for index in range(below + 1, above):
            state = document.state(label, index)
            if state.source != "interpolated" and document.mask(label, index).any():
                continue
            share = (positions[index] - positions[below]) / (positions[above] - positions[below])
            mask = interpolate_masks(lower, upper, float(share), spacing_mm)
            filled = SliceState(source="interpolated", is_end=state.is_end)
            steps.append(
                (
                    index,
                    Compound(
                        commands=(
                            SetMask(label=label, mask=mask, origin="interpolated"),
                            SetState(label=label, state=filled),
                        ),
                        name="edit.set_mask_interpolated",
                    ),
                )
            )
    return steps


def _positions(document: Document) -> Sequence[float]:
    source = document.source
    if isinstance(source, CTVolume):
        return [float(at) for at in np.asarray(source.slice_positions_mm)]
    return [0.0]
