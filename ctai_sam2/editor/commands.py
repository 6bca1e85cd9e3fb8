"""Everything that can be done to masks and prompts, each as one undoable step.

`apply` is the only way in. Two rules hold for every command:

- A **locked** label keeps its mask and prompts; the change names it as refused.
- A **limit** (`View.limit`) decides which pixels may be *added*: none outside the
  range ever is. Taking pixels away is never limited, so what lies outside can be erased.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from ctai_sam2.editor.changes import Change
from ctai_sam2.editor.history import Edit, Marks, MarksPatch, MaskPatch, PointMark
from ctai_sam2.editor.shapes import box_to_mask, connected_region, stroke_to_mask
from ctai_sam2.editor.slice_state import SliceState, StatePatch
from ctai_sam2.errors import InputError
from ctai_sam2.image import masks as pixels
from ctai_sam2.image.contours import Polygon, polygons_to_mask
from ctai_sam2.measure.definitions import HuRange
from ctai_sam2.types import MAX_POINTS, CTSlice, Mask

if TYPE_CHECKING:
    from ctai_sam2.editor.document import Document


@dataclass(frozen=True, kw_only=True)
class Command:
    """A change of one label; the base of all below.

    Parameters
    ----------
    label : str
        Whose mask or prompts.
    """

    label: str

    @property
    def name(self) -> str:
        """What it is called in the history: a key of `strings`."""
        return "edit." + "".join("_" + c.lower() if c.isupper() else c for c in type(self).__name__)[1:]


@dataclass(frozen=True, kw_only=True)
class MaskCommand(Command, ABC):
    """A command that draws a new mask from the old one."""

    @abstractmethod
    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        """Make the mask as it is afterwards, before limits; the argument stays as it is."""


@dataclass(frozen=True, kw_only=True)
class MarksCommand(Command, ABC):
    """A command that changes what is pointed at."""

    @abstractmethod
    def place(self, marks: Marks, ct_slice: CTSlice) -> Marks:
        """Make the marks as they are afterwards."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Paint(MaskCommand):
    """Draw or erase a stroke.

    Parameters
    ----------
    points_xy : sequence of (float, float)
        The pen's way in image coordinates; it may leave the image.
    radius_mm : float
        Radius of the brush; in pixels instead if ``radius_px`` is given.
    radius_px : float, optional
        Radius in pixels.
    erase : bool
        Take away instead of adding.
    scales : tuple of float
        Share of the radius at each point, from a pen's pressure; the whole radius when empty.
    """

    points_xy: tuple[tuple[float, float], ...]
    radius_mm: float = 0.0
    radius_px: float | None = None
    erase: bool = False
    scales: tuple[float, ...] = ()

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        row_mm, column_mm = ct_slice.spacing_mm
        radius = (
            (self.radius_mm / column_mm, self.radius_mm / row_mm)
            if self.radius_px is None
            else (self.radius_px, self.radius_px)
        )
        stroke = stroke_to_mask(self.points_xy, radius, ct_slice.shape_hw, scales=self.scales)
        return _joined(mask, stroke, self.erase)


@dataclass(frozen=True, kw_only=True, eq=False)
class FillPolygon(MaskCommand):
    """Fill or erase polygons; fewer than three corners fill nothing.

    Parameters
    ----------
    polygons : tuple of Polygon
        In image coordinates; a ring that crosses itself is filled by the even-odd rule.
    erase : bool
        Take away instead of adding.
    """

    polygons: tuple[Polygon, ...]
    erase: bool = False

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        return _joined(mask, polygons_to_mask(self.polygons, ct_slice.shape_hw), self.erase)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lasso(FillPolygon):
    """A polygon drawn in one sweep."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FillRectangle(MaskCommand):
    """Fill or erase the pixels whose centres lie in a box (x0, y0, x1, y1), edges included."""

    box_xyxy: tuple[float, float, float, float]
    erase: bool = False

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        return _joined(mask, box_to_mask(self.box_xyxy, ct_slice.shape_hw), self.erase)


@dataclass(frozen=True, kw_only=True, eq=False)
class FloodFill(MaskCommand):
    """Fill or erase the connected pixels in a HU range around a point.

    Parameters
    ----------
    x, y : float
        Where; nothing happens outside the image or where the pixel lies outside the range.
    limits : HuRange
        Bounds of the region.
    erase : bool
        Take away instead of adding; the region is then also bounded by the mask.
    radius_mm : float, optional
        How far from the point it may reach; as far as it is connected when omitted.
    """

    x: float
    y: float
    limits: HuRange
    erase: bool = False
    radius_mm: float | None = None

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        within = self.limits.where(ct_slice.hu)
        if self.radius_mm is not None:
            row_mm, column_mm = ct_slice.spacing_mm
            radius = (self.radius_mm / column_mm, self.radius_mm / row_mm)
            within &= stroke_to_mask(((self.x, self.y),), radius, ct_slice.shape_hw)
        if self.erase:
            within &= mask
        return _joined(mask, connected_region(within, self.x, self.y), self.erase)


@dataclass(frozen=True, kw_only=True, eq=False)
class FillHoles(MaskCommand):
    """Fill all holes."""

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        return pixels.fill_holes(mask)


@dataclass(frozen=True, kw_only=True, eq=False)
class KeepLargest(MaskCommand):
    """Keep the largest part."""

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        return pixels.keep_largest(mask)


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoveIslands(MaskCommand):
    """Remove parts smaller than ``min_area_mm2``."""

    min_area_mm2: float = 20.0

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        return pixels.remove_islands(mask, int(np.ceil(self.min_area_mm2 / ct_slice.pixel_area_mm2)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Grow(MaskCommand):
    """Grow by ``distance_mm``."""

    distance_mm: float = 1.0

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        return pixels.grow(mask, self.distance_mm, ct_slice.spacing_mm)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shrink(MaskCommand):
    """Shrink by ``distance_mm``."""

    distance_mm: float = 1.0

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        return pixels.shrink(mask, self.distance_mm, ct_slice.spacing_mm)


@dataclass(frozen=True, kw_only=True, eq=False)
class Smooth(MaskCommand):
    """Round off the outline with a Gaussian of ``sigma_mm``."""

    sigma_mm: float = 1.0

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        return pixels.smooth(mask, self.sigma_mm, ct_slice.spacing_mm)


@dataclass(frozen=True, kw_only=True, eq=False)
class LimitToHu(MaskCommand):
    """Take away the pixels outside a HU range."""

    limits: HuRange

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        return pixels.limit_to_hu(mask, ct_slice.hu, self.limits.low_hu, self.limits.high_hu)


@dataclass(frozen=True, kw_only=True, eq=False)
class SetMask(MaskCommand):
    """Replace the mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        The new one; copied.
    origin : {"ai", "copy", "import", "redrawn", "reference", "interpolated"}
        Where it comes from, for the history.

    Raises
    ------
    InputError
        When applied, if the shape is not the slice's.
    """

    mask: Mask
    origin: Literal["ai", "copy", "import", "redrawn", "reference", "interpolated"] = "import"

    def __post_init__(self) -> None:
        mask = np.array(pixels.as_mask(self.mask))
        mask.setflags(write=False)
        object.__setattr__(self, "mask", mask)

    @property
    def name(self) -> str:
        return f"edit.set_mask_{self.origin}"

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        pixels.require_same_shape(self.mask, mask, "the mask and the slice")
        return self.mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Clear(MaskCommand, MarksCommand):
    """Empty the mask and take back what was pointed at."""

    def draw(self, mask: Mask, ct_slice: CTSlice) -> Mask:
        return np.zeros_like(mask)

    def place(self, marks: Marks, ct_slice: CTSlice) -> Marks:
        return Marks()


@dataclass(frozen=True, kw_only=True)
class AddPoint(MarksCommand):
    """Point at "this" or "not this"; a point outside the image is not taken."""

    x: float
    y: float
    positive: bool = True

    def place(self, marks: Marks, ct_slice: CTSlice) -> Marks:
        height, width = ct_slice.shape_hw
        inside = -0.5 <= self.x <= width - 0.5 and -0.5 <= self.y <= height - 0.5
        if not inside or len(marks.points) >= MAX_POINTS:
            return marks
        point = PointMark(x=float(self.x), y=float(self.y), positive=self.positive)
        return replace(marks, points=(*marks.points, point))


@dataclass(frozen=True, kw_only=True)
class AddBox(MarksCommand):
    """Point with a box, instead of the label's earlier one; cut to the image, ignored without an area."""

    box_xyxy: tuple[float, float, float, float]

    def place(self, marks: Marks, ct_slice: CTSlice) -> Marks:
        height, width = ct_slice.shape_hw
        x0, x1 = sorted(min(max(float(x), -0.5), width - 0.5) for x in self.box_xyxy[::2])
        y0, y1 = sorted(min(max(float(y), -0.5), height - 0.5) for y in self.box_xyxy[1::2])
        # Prompts hold float32: corners that are equal there have no area.
        if np.float32(x1) <= np.float32(x0) or np.float32(y1) <= np.float32(y0):
            return marks
        return replace(marks, box_xyxy=(x0, y0, x1, y1))


@dataclass(frozen=True, kw_only=True)
class ClearPrompts(MarksCommand):
    """Take back every point and the box; the mask stays."""

    def place(self, marks: Marks, ct_slice: CTSlice) -> Marks:
        return Marks()


@dataclass(frozen=True, kw_only=True)
class SetState(Command):
    """Say where a label's mask on a slice of a volume comes from, and how plausible it is."""

    state: SliceState | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Compound:
    """Several commands as one undoable step, each on what the one before left.

    Parameters
    ----------
    commands : tuple of Command
        In order; they may be of several labels.
    name : str
        What the step is called: a key of `strings`.
    """

    commands: tuple[Command, ...]
    name: str = "edit.compound"


def apply(
    document: Document,
    command: Command | Compound,
    *,
    index: int | None = None,
    joined: bool = False,
    made_by: str = "",
) -> tuple[Change, Edit | None, int]:
    """Do a command on a slice.

    Parameters
    ----------
    document : Document
        Changed in place.
    command : Command or Compound
        What to do.
    index : int, optional
        The slice; the one in view when omitted.
    joined : bool
        Whether it is one step with the edit before it.
    made_by : str
        The model whose mask it is.

    Returns
    -------
    change : Change
        What changed; empty if nothing did, and then there is nothing to undo either.
    edit : Edit or None
        The step, for a record.
    dropped : int
        How many old steps can no longer be undone for want of memory.

    Raises
    ------
    InputError
        If a label is unknown or a parameter cannot be used; the document is then unchanged.
    """
    steps = command.commands if isinstance(command, Compound) else (command,)
    index = document.index if index is None else index
    ct_slice = document.slice if index == document.index else document.slice_at(index)
    masks: dict[str, Mask] = {}
    marks: dict[str, Marks] = {}
    states: dict[str, SliceState | None] = {}
    refused: dict[str, None] = {}
    for step in steps:
        if document.require_label(step.label).locked:
            refused[step.label] = None
            continue
        if isinstance(step, MaskCommand):
            before = masks.get(step.label, document.mask(step.label, index))
            masks[step.label] = _limited(before, step.draw(before, ct_slice), ct_slice, document.view.limit)
        if isinstance(step, MarksCommand):
            placed = marks.get(step.label, document.marks(step.label, index))
            marks[step.label] = step.place(placed, ct_slice)
        if isinstance(step, SetState):
            states[step.label] = step.state
    patches = [MaskPatch.between(name, document.mask(name, index), mask) for name, mask in masks.items()]
    edit = Edit(
        name=command.name,
        index=index,
        masks=tuple(patch for patch in patches if patch is not None),
        marks=tuple(
            MarksPatch(label=name, before=document.marks(name, index), after=after)
            for name, after in marks.items()
            if after != document.marks(name, index)
        ),
        states=_state_patches(document, index, [patch.label for patch in patches if patch], states),
        joined=joined,
        made_by=made_by,
    )
    if not edit.labels:
        return Change(index=index, refused=tuple(refused)), None, 0
    change, dropped = document.commit(edit)
    return replace(change, refused=tuple(refused)), edit, dropped


def copied_mask(document: Document, label: str, index: int) -> SetMask:
    """Make the command that copies a label's mask from another slice of the volume.

    Raises
    ------
    InputError
        If there is no such slice, or nothing is outlined there.
    """
    document.slice_at(index)
    mask = document.mask(label, index)
    if not mask.any():
        raise InputError(f"nothing is outlined for {label} on that slice", received=index)
    return SetMask(label=label, mask=mask, origin="copy")


def _state_patches(
    document: Document, index: int, changed: Sequence[str], states: dict[str, SliceState | None]
) -> tuple[StatePatch, ...]:
    """Return the states that a step changes; a mask that a reader changes becomes an anchor."""
    for label in changed:
        before = document.recorded_state(label, index)
        if before is not None and label not in states:
            states[label] = SliceState(source="anchor", is_end=before.is_end)
    return tuple(
        StatePatch(label=label, before=document.recorded_state(label, index), after=after)
        for label, after in states.items()
        if after != document.recorded_state(label, index)
    )


def _joined(mask: Mask, drawn: Mask, erase: bool) -> Mask:
    return mask & ~drawn if erase else mask | drawn


def _limited(before: Mask, after: Mask, ct_slice: CTSlice, limit: HuRange | None) -> Mask:
    return after if limit is None else after & (before | limit.where(ct_slice.hu))
