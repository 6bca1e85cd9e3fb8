"""What is being edited: a slice or a volume, masks and prompts by label, and how they are looked at.

Masks are read-only arrays, replaced and never changed in place: a caller that holds one
(an inference under way, a view, a test) keeps what it saw. Masks and prompts change
through `commands.apply`, `Document.undo` and `Document.redo` alone; how things are
looked at changes through `Document.adjust` and is not undone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ctai_sam2.editor.changes import Aspect, Box, Change
from ctai_sam2.editor.comparison import References
from ctai_sam2.editor.history import DEFAULT_HISTORY_BYTES, Edit, History, Marks
from ctai_sam2.editor.labels import Label, Profile
from ctai_sam2.editor.levels import LevelSpan
from ctai_sam2.editor.sheet import Author, Sheet
from ctai_sam2.editor.slice_state import SliceState
from ctai_sam2.editor.view import View
from ctai_sam2.editor.viewport import Viewport
from ctai_sam2.errors import InputError
from ctai_sam2.geometry import slice_letters
from ctai_sam2.image.contours import Polygon, mask_to_polygons
from ctai_sam2.image.masks import as_mask, label_components, mask_to_box_xyxy, require_same_shape
from ctai_sam2.types import CTSlice, CTVolume, Mask


class Document:
    """A slice, or a volume with the slice in view, and everything outlined on it.

    Parameters
    ----------
    source : CTSlice or CTVolume
        What to outline on. Of a volume, slices along the profile's plane.
    profile : Profile
        `labels.L3` or `labels.MIDDLE`.
    index : int, optional
        Of a volume, the first slice shown; the middle one when omitted.
    language : str
        ``en`` or ``zh``.
    history_bytes : int
        Memory bound of undo and redo.

    Raises
    ------
    InputError
        If the slice is of another plane than the profile's, or there is no such slice.
    """

    def __init__(
        self,
        source: CTSlice | CTVolume,
        profile: Profile,
        *,
        index: int | None = None,
        language: str = "en",
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> None:
        self.source = source
        self.profile = profile
        self.history = History(history_bytes)
        self.revision = 0
        """Grows with every change of masks or prompts."""
        self.labels: dict[str, Label] = {label.name: label for label in profile.labels}
        self.sheets: dict[int, Sheet] = {}
        """What is on each slice that something was ever done on."""
        self.levels: tuple[LevelSpan, ...] = ()
        """Vertebral levels along a volume, from the lowest up, where they are known."""
        self.span: tuple[int, int] | None = None
        """First and last slice of the range that counts; None for all."""
        self.index, self.slice = self._open(self._first_index() if index is None else index)
        viewport = Viewport(shape_hw=self.slice.shape_hw, spacing_mm=self.slice.spacing_mm).fitted()
        self.view = View(
            viewport=viewport,
            active=profile.labels[0].name,
            tool=profile.tools[0],
            window=profile.window,
            language=language,
        )
        self._empty = np.zeros(self.shape_hw, dtype=np.bool_)
        self._empty.setflags(write=False)
        self.reference_store = References(profile, self.shape_hw, self.slice_count)
        """Another reader's masks of all slices."""

    @property
    def shape_hw(self) -> tuple[int, int]:
        """(rows, columns), of every slice alike."""
        return self.slice.shape_hw

    @property
    def references(self) -> Mapping[str, Mask]:
        """Another reader's masks of the slice in view, by label or group, to compare with; never edited."""
        return self.reference_store.on(self.index)

    @property
    def slice_count(self) -> int:
        """How many slices can be scrolled through."""
        if isinstance(self.source, CTSlice):
            return 1
        return self.source.shape_zyx[0 if self.profile.plane == "axial" else 2]

    @property
    def indices(self) -> tuple[int, ...]:
        """Slices on which something is outlined or pointed at, in order."""
        return tuple(
            sorted(
                index
                for index, sheet in self.sheets.items()
                if any(mask.any() for mask in sheet.masks.values()) or any(sheet.marks.values())
            )
        )

    @property
    def touched(self) -> frozenset[int]:
        """Slices that something was ever done on; all others are empty and undecided."""
        return frozenset(self.sheets)

    def slice_at(self, index: int) -> CTSlice:
        """Return a slice by its index.

        Raises
        ------
        InputError
            If there is none.
        """
        if not 0 <= index < self.slice_count:
            raise InputError("no such slice", received=index, hint=f"Give 0 to {self.slice_count - 1}.")
        if isinstance(self.source, CTSlice):
            return self.source
        return self.source.axial(index) if self.profile.plane == "axial" else self.source.sagittal(index)

    def mask(self, label: str, index: int | None = None) -> Mask:
        """Mask of a label, shape (H, W), read-only; of the slice in view unless another is named."""
        sheet = self.sheets.get(self.index if index is None else index)
        self.require_label(label)
        return self._empty if sheet is None else sheet.masks.get(label, self._empty)

    def marks(self, label: str, index: int | None = None) -> Marks:
        """Return what was pointed at for a label."""
        sheet = self.sheets.get(self.index if index is None else index)
        self.require_label(label)
        return Marks() if sheet is None else sheet.marks.get(label, Marks())

    def masks(self, index: int | None = None) -> dict[str, Mask]:
        """Masks of all labels that have a pixel on a slice."""
        found = {label: self.mask(label, index) for label in self.labels}
        return {label: mask for label, mask in found.items() if mask.any()}

    def revision_of(self, label: str, index: int | None = None) -> int:
        """Return a number that changes whenever the label's mask or prompts do, on one slice."""
        sheet = self.sheets.get(self.index if index is None else index)
        return 0 if sheet is None else sheet.revisions.get(label, 0)

    def recorded_state(self, label: str, index: int | None = None) -> SliceState | None:
        """State of a label on a slice of a volume as it was set; None where it was not."""
        sheet = self.sheets.get(self.index if index is None else index)
        return None if sheet is None else sheet.states.get(label)

    def state(self, label: str, index: int | None = None) -> SliceState:
        """State of a label on a slice; what a reader drew before any was set is an anchor."""
        recorded = self.recorded_state(label, index)
        if recorded is not None:
            return recorded
        return SliceState(source="anchor" if self.mask(label, index).any() else None)

    def set_levels(self, levels: Iterable[LevelSpan], span: tuple[int, int] | None) -> Change:
        """Set the vertebral levels along a volume and the first and last slice of the range that counts.

        Raises
        ------
        InputError
            If the range is outside the volume.
        """
        if span is not None and not 0 <= span[0] <= span[1] < self.slice_count:
            raise InputError(
                "the range is outside the volume",
                received=span,
                hint=f"Slices are 0 to {self.slice_count - 1}.",
            )
        self.levels, self.span = tuple(levels), span
        return Change(aspects=frozenset({"states"}), index=self.index)

    def polygons(self, label: str, *, tolerance_px: float = 0.0) -> list[Polygon]:
        """Outlines of a mask with their holes; exact at tolerance 0 (see `image.contours`)."""
        return mask_to_polygons(self.mask(label), tolerance_px=tolerance_px)

    def rectangles(self, label: str) -> list[Box]:
        """Boxes around the separate parts of a mask, corners on pixel centres, inclusive."""
        parts, count = label_components(self.mask(label))
        boxes = (mask_to_box_xyxy(parts == part) for part in range(1, count + 1))
        return [box for box in boxes if box is not None]

    def edge_letters(self) -> tuple[str, str, str, str]:
        """Letters for the left, right, top and bottom edge; empty where the geometry does not say."""
        return slice_letters(self.slice)

    def require_label(self, name: str) -> Label:
        """Return a label by its name.

        Raises
        ------
        InputError
            If there is none.
        """
        if name not in self.labels:
            raise InputError("no such label", received=name, hint=f"Known: {', '.join(self.labels)}.")
        return self.labels[name]

    def set_references(self, masks: Mapping[str, ArrayLike | None]) -> Change:
        """Show another reader's masks next to the labels; see `References.put`."""
        self.reference_store.put(masks, self.index)
        return Change(aspects=frozenset({"labels"}), index=self.index)

    def mask_of(self, group: str, index: int | None = None) -> Mask:
        """Masks of a group's labels on a slice together; of a label, its own."""
        masks = [self.mask(label, index) for label in self.profile.labels_of(group)]
        return np.asarray(np.logical_or.reduce(masks), dtype=np.bool_)

    def adjust(self, **changes: Any) -> Change:
        """Change how the document is looked at; names and values as in `View`.

        Raises
        ------
        InputError
            If a value cannot be used.
        """
        unknown = set(changes) - {f.name for f in fields(View)}
        if unknown:
            raise InputError("no such setting of the view", received=", ".join(sorted(unknown)))
        if "active" in changes:
            self.require_label(changes["active"])
        if changes.get("tool", self.view.tool) not in self.profile.tools:
            raise InputError(
                "no such tool", received=changes["tool"], hint=f"One of {', '.join(self.profile.tools)}."
            )
        before, self.view = self.view, replace(self.view, **changes)
        return Change(aspects=frozenset({"view"} if self.view != before else ()), index=self.index)

    def adjust_label(self, name: str, **changes: Any) -> Change:
        """Change a label's ``colour``, ``visible`` or ``locked``.

        Raises
        ------
        InputError
            If there is no such label or field.
        """
        label = self.require_label(name)
        if not set(changes) <= {"colour", "visible", "locked"}:
            raise InputError("no such setting of a label", received=", ".join(sorted(changes)))
        self.labels[name] = replace(label, **changes)
        return Change(aspects=frozenset({"labels"} if self.labels[name] != label else ()), index=self.index)

    def go_to(self, index: int) -> Change:
        """Show another slice of the volume, at the same zoom and place.

        Raises
        ------
        InputError
            If there is none.
        """
        if index == self.index:
            return Change(index=index)
        self.index, self.slice = self._open(index)
        return Change(aspects=frozenset({"slice", "mask", "prompts", "labels"}), index=index)

    def open_with(
        self,
        masks: Mapping[str, ArrayLike],
        author: Author = "reader",
        *,
        index: int | None = None,
        states: Mapping[str, SliceState] | None = None,
    ) -> Change:
        """Start from masks of a slice, the one in view when omitted: undo never goes below them.

        Where ``states`` says that a reader decided about a mask, it counts as a reader's.

        Raises
        ------
        InputError
            If something was edited already, or a label or mask does not fit.
        """
        if self.history.done or self.history.undone:
            raise InputError("masks to start from come before the first edit")
        index, sheet = self.index if index is None else index, Sheet(states=dict(states or {}))
        for label, mask in masks.items():
            self.require_label(label)
            start = np.array(as_mask(mask))
            require_same_shape(start, self._empty, "the mask and the slice")
            start.setflags(write=False)
            is_fixed = label in sheet.states and sheet.states[label].is_fixed
            sheet.masks[label], sheet.opening[label] = start, "reader" if is_fixed else author
        self.revision += 1
        sheet.revisions = dict.fromkeys(self.labels, self.revision)
        self.sheets[index] = sheet
        return Change(aspects=frozenset({"mask", "prompts", "history", "states"}), index=index)

    def commit(self, edit: Edit, *, drop: int | None = None) -> tuple[Change, int]:
        """Perform an edit and remember it; `commands.apply` makes the edits.

        Returns
        -------
        Change
            What changed.
        int
            How many old edits were forgotten for it.
        """
        change = self.perform(edit, forward=True)
        return change, self.history.push(edit, drop=drop)

    def undo(self) -> Change:
        """Take the newest edit back and show the slice it was made on; an empty change if there is none."""
        edit = self.history.take_back()
        return Change(index=self.index) if edit is None else self._show(edit, forward=False)

    def undo_on(self, index: int) -> Change:
        """Take the newest edit of one slice back; later ones on other slices stay."""
        edit = self.history.take_back_on(index)
        return Change(index=self.index) if edit is None else self._show(edit, forward=False)

    def redo(self) -> Change:
        """Do the last undone edit again; an empty change if there is none."""
        edit = self.history.take_again()
        return Change(index=self.index) if edit is None else self._show(edit, forward=True)

    def _show(self, edit: Edit, *, forward: bool) -> Change:
        moved = self.go_to(edit.index)
        change = self.perform(edit, forward=forward)
        return replace(change, aspects=change.aspects | moved.aspects)

    def perform(self, edit: Edit, *, forward: bool) -> Change:
        """Do an edit, or take it back, and leave the history as it is."""
        sheet = self.sheets.setdefault(edit.index, Sheet())
        aspects: set[Aspect] = {"history"}
        for flips in edit.masks:
            sheet.masks[flips.label] = flips.apply(sheet.masks.get(flips.label, self._empty))
            aspects.add("mask")
        for marks in edit.marks:
            sheet.marks[marks.label] = marks.after if forward else marks.before
            aspects.add("prompts")
        for patch in edit.states:
            state = patch.after if forward else patch.before
            if state is None:
                sheet.states.pop(patch.label, None)
            else:
                sheet.states[patch.label] = state
            aspects.add("states")
        self.revision += 1
        for label in edit.labels:
            sheet.revisions[label] = self.revision
        return Change(
            aspects=frozenset(aspects),
            index=edit.index,
            boxes={patch.label: patch.box_xyxy for patch in edit.masks},
            prompts=tuple(marks.label for marks in edit.marks),
        )

    def _first_index(self) -> int:
        return self.slice_count // 2 if isinstance(self.source, CTVolume) else 0

    def _open(self, index: int) -> tuple[int, CTSlice]:
        opened = self.slice_at(index)
        if opened.plane in ("axial", "sagittal", "coronal") and opened.plane != self.profile.plane:
            raise InputError(
                f"this editor outlines on {self.profile.plane} slices",
                received=opened.plane,
                hint="Give such a slice, or use the other editor.",
            )
        return index, opened
