"""What is being edited: a slice or a volume, masks and prompts by label, and how they are looked at.

Masks are read-only arrays, replaced and never changed in place: a caller that holds one
(an inference under way, a view, a test) keeps what it saw. Masks and prompts change
through `commands.apply`, `Document.undo` and `Document.redo` alone; how things are
looked at changes through `Document.adjust` and is not undone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from ctai_sam2.editor.changes import Aspect, Box, Change
from ctai_sam2.editor.history import DEFAULT_HISTORY_BYTES, MODEL_EDIT, Edit, History, Marks, MaskPatch
from ctai_sam2.editor.i18n import LANGUAGES
from ctai_sam2.editor.labels import Label, Profile
from ctai_sam2.editor.viewport import Viewport
from ctai_sam2.errors import InputError, RecordError
from ctai_sam2.geometry import edge_letters
from ctai_sam2.image.contours import Polygon, mask_to_polygons
from ctai_sam2.image.masks import as_mask, label_components, mask_to_box_xyxy, require_same_shape
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.definitions import HuRange
from ctai_sam2.types import CTSlice, CTVolume, Mask, Window

MIN_BRUSH_MM, MAX_BRUSH_MM = 0.2, 100.0
Author: TypeAlias = Literal["model", "reader"]
"""Who a mask is from: the model alone, or a person who drew or changed it."""
_LETTERS = {"axial": ("R", "L", "A", "P"), "sagittal": ("A", "P", "S", "I"), "coronal": ("R", "L", "S", "I")}


@dataclass(frozen=True, kw_only=True)
class View:
    """How the document is looked at and which tool is active; nothing here is undone.

    Parameters
    ----------
    viewport : Viewport
        Zoom and pan.
    window : Window
        Grey window.
    opacity : float
        Of the overlay, 0 to 1.
    outline_only : bool
        Draw masks' outlines instead of filling them.
    tool : str
        Name of the tool in hand.
    brush_radius_mm : float
        Of brush and eraser.
    positive : bool
        Whether a plain click means "this" rather than "not this".
    limit : HuRange or None
        Only pixels in this range are ever added; None for all.
    flood_tolerance_hu : float
        Without a limit, a flood fill takes pixels this close to the one clicked.
    flood_radius_mm : float or None
        How far from the click a flood fill reaches; None for as far as it is connected.
    smooth : bool
        Whether grey pixels are interpolated on the screen; masks never are.
    wheel_scrolls : bool
        Whether the wheel alone scrolls a volume's slices, and Ctrl and the wheel zoom; else the other way
        round, with Shift. Of a single slice the wheel always zooms.
    active : str
        The label being edited.
    language : str
        One of `strings.LANGUAGES`.

    Raises
    ------
    InputError
        If a number lies outside its range, or the language is unknown.
    """

    viewport: Viewport
    active: str
    tool: str
    window: Window = SOFT_TISSUE
    opacity: float = 0.4
    outline_only: bool = False
    brush_radius_mm: float = 4.0
    positive: bool = True
    limit: HuRange | None = None
    flood_tolerance_hu: float = 30.0
    flood_radius_mm: float | None = None
    smooth: bool = True
    wheel_scrolls: bool = True
    language: str = "en"

    def __post_init__(self) -> None:
        if not 0 <= self.opacity <= 1:
            raise InputError("opacity lies between 0 and 1", received=self.opacity)
        if not MIN_BRUSH_MM <= self.brush_radius_mm <= MAX_BRUSH_MM:
            raise InputError(
                f"a brush's radius lies between {MIN_BRUSH_MM:g} and {MAX_BRUSH_MM:g} mm",
                received=self.brush_radius_mm,
            )
        if not 0 <= self.flood_tolerance_hu <= 5000:
            raise InputError("a tolerance lies between 0 and 5000 HU", received=self.flood_tolerance_hu)
        if self.flood_radius_mm is not None and not 0 < self.flood_radius_mm <= 1000:
            raise InputError("a fill's radius lies between 0 and 1000 mm", received=self.flood_radius_mm)
        if self.language not in LANGUAGES:
            raise InputError("no such language", received=self.language, hint=f"One of {LANGUAGES}.")


@dataclass
class _Sheet:
    """Masks, prompts and revisions of one slice; a label that is missing is empty."""

    masks: dict[str, Mask] = field(default_factory=dict)
    marks: dict[str, Marks] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    opening: dict[str, Author] = field(default_factory=dict)


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
        self._references: dict[int, dict[str, Mask]] = {}
        self._sheets: dict[int, _Sheet] = {}
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

    @property
    def shape_hw(self) -> tuple[int, int]:
        """(rows, columns), of every slice alike."""
        return self.slice.shape_hw

    @property
    def references(self) -> Mapping[str, Mask]:
        """Another reader's masks of the slice in view, by label or group, to compare with; never edited."""
        return self._references.get(self.index, {})

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
                for index, sheet in self._sheets.items()
                if any(mask.any() for mask in sheet.masks.values()) or any(sheet.marks.values())
            )
        )

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
        sheet = self._sheets.get(self.index if index is None else index)
        self.require_label(label)
        return self._empty if sheet is None else sheet.masks.get(label, self._empty)

    def marks(self, label: str, index: int | None = None) -> Marks:
        """Return what was pointed at for a label."""
        sheet = self._sheets.get(self.index if index is None else index)
        self.require_label(label)
        return Marks() if sheet is None else sheet.marks.get(label, Marks())

    def masks(self, index: int | None = None) -> dict[str, Mask]:
        """Masks of all labels that have a pixel on a slice."""
        found = {label: self.mask(label, index) for label in self.labels}
        return {label: mask for label, mask in found.items() if mask.any()}

    def revision_of(self, label: str, index: int | None = None) -> int:
        """Return a number that changes whenever the label's mask or prompts do, on one slice."""
        sheet = self._sheets.get(self.index if index is None else index)
        return 0 if sheet is None else sheet.revisions.get(label, 0)

    def author_of(self, label: str, index: int | None = None) -> Author | None:
        """Who the mask on a slice is from; None where it is empty.

        What can no longer be traced, because the steps it came from were dropped, counts as a reader's.
        """
        index = self.index if index is None else index
        mask, model = self.mask(label, index), self.model_mask(label, index)
        if not mask.any():
            return None
        return "model" if model is not None and np.array_equal(model, mask) else "reader"

    def model_mask(self, label: str, index: int | None = None) -> Mask | None:
        """Mask as the model left it last, before a reader went on, on a slice; None where it left none."""
        index = self.index if index is None else index
        mask = self.mask(label, index)
        for edit in reversed(self.history.done):
            patch = next((p for p in edit.masks if p.label == label), None)
            if edit.index != index or patch is None:
                continue
            if edit.name == MODEL_EDIT:
                return mask
            mask = patch.apply(mask)
        sheet = self._sheets.get(index)
        return mask if sheet is not None and sheet.opening.get(label) == "model" else None

    def model_of(self, index: int | None = None) -> str:
        """Name of the model that made masks of a slice last; empty where none did."""
        index = self.index if index is None else index
        edits = (edit.made_by for edit in reversed(self.history.done) if edit.index == index and edit.made_by)
        return next(edits, "")

    def hand_share(self, index: int | None = None) -> float | None:
        """Share of a slice's pixels that a reader drew or erased since the model, of all in either's masks.

        1 where the model had no part in them, 0 where they are as the model made them; None where nothing was
        ever outlined.
        """
        changed = either = 0
        for label in self.labels:
            mask, model = self.mask(label, index), self.model_mask(label, index)
            before = self._empty if model is None else model
            changed += int(np.count_nonzero(mask ^ before))
            either += int(np.count_nonzero(mask | before))
        return changed / either if either else None

    def polygons(self, label: str, *, tolerance_px: float = 0.0) -> list[Polygon]:
        """Outlines of a mask with their holes; exact at tolerance 0 (see `core.contours`)."""
        return mask_to_polygons(self.mask(label), tolerance_px=tolerance_px)

    def rectangles(self, label: str) -> list[Box]:
        """Boxes around the separate parts of a mask, corners on pixel centres, inclusive."""
        parts, count = label_components(self.mask(label))
        boxes = (mask_to_box_xyxy(parts == part) for part in range(1, count + 1))
        return [box for box in boxes if box is not None]

    def edge_letters(self) -> tuple[str, str, str, str]:
        """Letters for the left, right, top and bottom edge; empty where the geometry does not say."""
        if self.slice.affine is not None:
            return edge_letters(self.slice.affine)
        return _LETTERS.get(self.slice.plane, ("", "", "", ""))

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
        """Show another reader's masks of the slice in view next to the labels; None takes one away.

        A group's mask, such as ``psoas``, is compared with its labels together, and left out where masks of
        those labels are given too. References stay with their slice.

        Raises
        ------
        InputError
            If there is no such label or group, or a mask is none of this slice; nothing is changed then.
        """
        found = dict(self.references)
        for name, mask in masks.items():
            labels = self.profile.labels_of(name)
            found.pop(name, None)
            if mask is None or (
                name not in self.labels and any(masks.get(each) is not None for each in labels)
            ):
                continue
            reference = np.array(as_mask(mask))
            require_same_shape(reference, self._empty, "the reference and the slice")
            reference.setflags(write=False)
            found[name] = reference
        self._references[self.index] = found
        return Change(aspects=frozenset({"labels"}), index=self.index)

    def mask_of(self, group: str) -> Mask:
        """Masks of a group's labels on the slice in view together; of a label, its own."""
        masks = [self.mask(label) for label in self.profile.labels_of(group)]
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

    def open_with(self, masks: Mapping[str, ArrayLike], author: Author = "reader") -> Change:
        """Start from masks of the slice in view: undo never goes below them.

        Raises
        ------
        InputError
            If something was edited already, or a label or mask does not fit.
        """
        if self.history.done or self.history.undone:
            raise InputError("masks to start from come before the first edit")
        sheet = _Sheet()
        for label, mask in masks.items():
            self.require_label(label)
            start = np.array(as_mask(mask))
            require_same_shape(start, self._empty, "the mask and the slice")
            start.setflags(write=False)
            sheet.masks[label], sheet.opening[label] = start, author
        self.revision += 1
        sheet.revisions = dict.fromkeys(self.labels, self.revision)
        self._sheets[self.index] = sheet
        return Change(aspects=frozenset({"mask", "prompts", "history"}), index=self.index)

    def commit(self, edit: Edit, *, drop: int | None = None) -> tuple[Change, int]:
        """Perform an edit and remember it; `commands.apply` makes the edits.

        Returns
        -------
        Change
            What changed.
        int
            How many old edits were forgotten for it.
        """
        change = self._perform(edit, forward=True)
        return change, self.history.push(edit, drop=drop)

    def undo(self) -> Change:
        """Take the newest edit back and show the slice it was made on; an empty change if there is none."""
        edit = self.history.take_back()
        return Change(index=self.index) if edit is None else self._show(edit, forward=False)

    def redo(self) -> Change:
        """Do the last undone edit again; an empty change if there is none."""
        edit = self.history.take_again()
        return Change(index=self.index) if edit is None else self._show(edit, forward=True)

    def snapshot(self) -> dict[str, Any]:
        """Masks, prompts and history as plain values, from which `restore` makes them again bit for bit."""
        before = [edit.to_json() for edit in self.history.done]
        sheets = []
        for index, sheet in sorted(self._sheets.items()):
            patches = [MaskPatch.between(name, self._empty, mask) for name, mask in sheet.masks.items()]
            sheets.append(
                {
                    "index": index,
                    "masks": [patch.to_json() for patch in patches if patch is not None],
                    "marks": {name: marks.to_json() for name, marks in sheet.marks.items() if marks},
                    "opening": dict(sheet.opening),
                }
            )
        return {
            "sheets": sheets,
            "done": before,
            "undone": [edit.to_json() for edit in self.history.undone],
            "dropped": self.history.dropped,
        }

    def restore(self, events: Iterable[Mapping[str, Any]]) -> Change:
        """Replay recorded events on this document, which must be untouched.

        Parameters
        ----------
        events : iterable of mapping
            ``{"type": "snapshot", "state": …}``, ``{"type": "edit", "edit": …, "dropped": n}``,
            ``{"type": "undo"}`` and ``{"type": "redo"}``, in order.

        Raises
        ------
        RecordError
            If an event cannot be read or does not fit the slice or the labels.
        InputError
            If the document has been edited already.
        """
        if self._sheets or self.history.done or self.history.undone:
            raise InputError("a record is replayed on an untouched document")
        try:
            for event in events:
                self._replay(event)
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                "a recorded change does not fit this editor",
                received=type(error).__name__,
                hint="Open it with the editor and the version it was made with.",
            ) from error
        return Change(aspects=frozenset({"mask", "prompts", "history"}), index=self.index)

    def _replay(self, event: Mapping[str, Any]) -> None:
        kind = event["type"]
        if kind == "edit":
            self.commit(self._checked(Edit.from_json(event["edit"], self.shape_hw)), drop=event["dropped"])
        elif kind in ("undo", "redo"):
            edit = self.history.take_back() if kind == "undo" else self.history.take_again()
            if edit is None:
                raise ValueError(f"nothing to {kind}")
            self._perform(edit, forward=kind == "redo")
        elif kind == "snapshot":
            self._load(event["state"])
        else:
            raise ValueError("unknown event")

    def _load(self, state: Mapping[str, Any]) -> None:
        self._sheets.clear()
        for sheet in state["sheets"]:
            index = int(sheet["index"])
            self.slice_at(index)
            opened = self._sheets.setdefault(index, _Sheet())
            for value in sheet["masks"]:
                patch = MaskPatch.from_json(value, self.shape_hw)
                self.require_label(patch.label)
                opened.masks[patch.label] = patch.apply(self._empty)
            for name, value in sheet["marks"].items():
                self.require_label(name)
                opened.marks[name] = Marks.from_json(value)
            for name, author in sheet.get("opening", {}).items():
                self.require_label(name)
                opened.opening[name] = "model" if author == "model" else "reader"
        for stack, name in ((self.history.done, "done"), (self.history.undone, "undone")):
            stack[:] = [self._checked(Edit.from_json(value, self.shape_hw)) for value in state[name]]
        self.history.dropped = int(state["dropped"])
        self.revision += 1

    def _checked(self, edit: Edit) -> Edit:
        self.slice_at(edit.index)
        for label in edit.labels:
            self.require_label(label)
        return edit

    def _show(self, edit: Edit, *, forward: bool) -> Change:
        moved = self.go_to(edit.index)
        change = self._perform(edit, forward=forward)
        return replace(change, aspects=change.aspects | moved.aspects)

    def _perform(self, edit: Edit, *, forward: bool) -> Change:
        sheet = self._sheets.setdefault(edit.index, _Sheet())
        aspects: set[Aspect] = {"history"}
        for patch in edit.masks:
            sheet.masks[patch.label] = patch.apply(sheet.masks.get(patch.label, self._empty))
            aspects.add("mask")
        for marks in edit.marks:
            sheet.marks[marks.label] = marks.after if forward else marks.before
            aspects.add("prompts")
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
