"""A document being edited: steps done, undone and recorded, and observers notified of each.

All methods may be called from any thread and run under one re-entrant lock,
`EditingSession.lock`; observers are called while it is held, possibly from the inference's
worker thread, and must not wait for another thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import ArrayLike

from ctai_sam2.editor import commands as editing
from ctai_sam2.editor.changes import Aspect, Change
from ctai_sam2.editor.commands import Command, Compound
from ctai_sam2.editor.document import Document
from ctai_sam2.editor.history import IMPORT_EDIT
from ctai_sam2.editor.i18n import Message
from ctai_sam2.editor.levels import LevelSpan
from ctai_sam2.editor.replay import levels_event, restore, snapshot
from ctai_sam2.editor.sheet import Author
from ctai_sam2.editor.slice_state import SliceState
from ctai_sam2.errors import CtaiError, RecordError, StorageError

_log = logging.getLogger(__name__)

Observer: TypeAlias = Callable[[Change], None]


class KeepsEvents(Protocol):
    """What the editor needs of an annotation record (``ctai_sam2.journal.AnnotationJournal`` is one)."""

    def append(self, event: Mapping[str, Any]) -> None:
        """Keep an event; it is on disk on return.

        Raises
        ------
        StorageError, RecordError
            If it is not; it is then kept in memory and written by the next call that can.
        """
        ...

    def replay(self) -> Sequence[Mapping[str, Any]]:
        """Every event kept, in order."""
        ...

    def compact(self, snapshot: Mapping[str, Any]) -> None:
        """Replace all events by one."""
        ...


class EditingSession:
    """A document with its lock, its record and those who are notified of changes.

    Parameters
    ----------
    document : Document
        What is edited; untouched if a record is given.
    record : KeepsEvents, optional
        Replayed now; every later step is written to it.

    Raises
    ------
    RecordError
        If the record does not fit the document.
    """

    def __init__(self, document: Document, *, record: KeepsEvents | None = None) -> None:
        self.lock = threading.RLock()
        self.document: Document = document
        self.message: Message | None = None
        """The status line."""
        self.unsaved = False
        """Whether the record lags behind what is in memory."""
        self._observers: list[Observer] = []
        self._kept_back: list[Change] | None = None
        self._batch: list[Mapping[str, Any]] | None = None
        self._record = record
        if record is not None:
            restore(document, record.replay())
        self.opened_revision = document.revision
        """Of the document, before anything was done here."""

    @property
    def has_record(self) -> bool:
        """Whether steps are written to disk as they are made."""
        return self._record is not None

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Call ``observer`` after every change; the function returned unsubscribes."""
        with self.lock:
            self._observers.append(observer)

        def unsubscribe() -> None:
            with self.lock:
                if observer in self._observers:
                    self._observers.remove(observer)

        return unsubscribe

    def open_with(self, masks: Mapping[str, ArrayLike], author: Author = "reader") -> Change:
        """Start from masks of the slice in view; undo never goes below them.

        Raises
        ------
        InputError
            If something was edited already, or a label or mask does not fit.
        """
        with self.lock:
            change = self.document.open_with(masks, author)
            self.opened_revision = self.document.revision
            self._write({"type": "snapshot", "state": snapshot(self.document)})
            self._notify(change)
            return change

    def open_volume(
        self,
        masks: Mapping[int, Mapping[str, ArrayLike]],
        states: Mapping[int, Mapping[str, SliceState]],
        author: Author = "reader",
    ) -> None:
        """Start from masks of several slices, and where each comes from; undo never goes below them.

        Raises
        ------
        InputError
            As in `open_with`.
        """
        with self.lock:
            aspects: frozenset[Aspect] = frozenset()
            for index in sorted(masks):
                change = self.document.open_with(masks[index], author, index=index, states=states.get(index))
                aspects |= change.aspects
            self.opened_revision = self.document.revision
            self._write({"type": "snapshot", "state": snapshot(self.document)})
            self._notify(Change(aspects=aspects, index=self.document.index))

    def keep_opening(self) -> None:
        """Make masks that an earlier version imported as first steps the ones that undo stops at."""
        with self.lock:
            if self.document.history.forget_start(IMPORT_EDIT):
                self.compact_record()

    def apply(
        self,
        command: Command | Compound,
        *,
        index: int | None = None,
        joined: bool = False,
        made_by: str = "",
    ) -> Change:
        """Do a command as one undoable step, write it to the journal and notify observers.

        Parameters
        ----------
        command : Command or Compound
            What to do.
        index : int, optional
            On which slice; the one in view when omitted.
        joined : bool
            Whether it is undone together with the step before it.
        made_by : str
            The model whose mask it is.
        """
        with self.lock:
            change, edit, dropped = editing.apply(
                self.document, command, index=index, joined=joined, made_by=made_by
            )
            if change.refused:
                label = Message(f"label.{change.refused[0]}")
                self.message = Message("status.locked", {"label": label})
            elif dropped:
                self.message = Message("status.forgotten", {"count": dropped})
            elif edit is not None:
                self.message = None
            if edit is not None:
                self._write({"type": "edit", "edit": edit.to_json(), "dropped": dropped})
            self._notify(with_aspects(change, "status"))
            return change

    def undo(self) -> Change:
        """Take the last step back, unless its label is locked; inference under way becomes stale."""
        return self._step("undo")

    def apply_all(self, steps: Iterable[tuple[int, Command | Compound]], *, made_by: str = "") -> int:
        """Do commands on several slices as one undoable step; return on how many slices something changed."""
        with self.lock, self._one_notice(), self._one_event():
            count = 0
            for index, command in steps:
                before = len(self.document.history.done) + self.document.history.dropped
                self.apply(command, index=index, joined=count > 0, made_by=made_by)
                count += len(self.document.history.done) + self.document.history.dropped > before
            return count

    def set_levels(self, levels: Iterable[LevelSpan], span: tuple[int, int] | None) -> Change:
        """Set the levels and the range of a volume, and record them; see `Document.set_levels`."""
        with self.lock:
            change = self.document.set_levels(levels, span)
            self._write({"type": "levels", **levels_event(self.document)})
            self._notify(change)
            return change

    def set_range(self, first: int, last: int) -> Change:
        """Choose the slices of a volume that count, and record it; levels stay. See `Document.set_levels`."""
        with self.lock:
            change = self.set_levels(self.document.levels, (first, last))
            self.say(Message("status.range", {"first": first, "last": last, "count": last - first + 1}))
            return change

    def undo_slice(self) -> Change:
        """Take back the last step on the slice in view, whatever was done on other slices since."""
        with self.lock:
            return self._step("undo", on=self.document.index)

    def redo(self) -> Change:
        """Do the last undone step again."""
        return self._step("redo")

    def adjust(self, **changes: Any) -> Change:
        """Change how things are looked at; see `document.View`."""
        with self.lock:
            change = self.document.adjust(**changes)
            self._notify(change)
            return change

    def adjust_label(self, name: str, **changes: Any) -> Change:
        """Change a label's ``colour``, ``visible`` or ``locked``."""
        with self.lock:
            change = self.document.adjust_label(name, **changes)
            self._notify(change)
            return change

    def go_to(self, index: int) -> Change:
        """Show another slice."""
        with self.lock:
            change = self.document.go_to(index)
            self._notify(change)
            return change

    def scroll(self, steps: int) -> Change:
        """Go so many slices up (positive) or down, as far as there are any."""
        with self.lock:
            last = self.document.slice_count - 1
            return self.go_to(min(max(self.document.index + steps, 0), last))

    def resize(self, width: int, height: int, *, covered_right: int = 0) -> None:
        """Take another size of the canvas: a slice that was fitted is fitted again, another keeps its zoom.

        ``covered_right`` is the width of what covers the canvas at its right edge; a fitted slice moves
        out from under it as far as there is room.
        """
        with self.lock:
            viewport = self.document.view.viewport
            changed = replace(viewport, canvas_hw=(height, width), covered_right=covered_right)
            if viewport == viewport.fitted():
                changed = changed.fitted()
            else:
                by_x, by_y = width - viewport.canvas_hw[1], height - viewport.canvas_hw[0]
                changed = changed.panned(by_x / 2, by_y / 2)
            self.adjust(viewport=changed)

    def say(self, message: Message) -> None:
        """Show a text in the status line."""
        with self.lock:
            self.message = message
            self._announce("status")

    def refuse(self, error: CtaiError) -> None:
        """Say in the status line why something was not done."""
        self.say(Message("status.refused", {"why": str(error)}))

    def compact_record(self) -> bool:
        """Rewrite the record as one snapshot with its history; also saves what could not be saved before."""
        with self.lock:
            return self._try_record(lambda record: record.compact(snapshot(self.document)))

    # Inside ----------------------------------------------------------------------------------

    def _step(self, kind: Literal["undo", "redo"], *, on: int | None = None) -> Change:
        """Undo or redo the newest step; with ``on``, the newest one of that slice."""
        with self.lock:
            document, history = self.document, self.document.history
            stack = history.done if kind == "undo" else history.undone
            newest = next((edit for edit in reversed(stack) if on is None or edit.index == on), None)
            if newest is None:
                self.say(Message(f"status.nothing_to_{kind}"))
                return Change(index=document.index)
            locked = [name for name in sorted(newest.labels) if document.labels[name].locked]
            if locked:
                self.say(Message("status.locked", {"label": Message(f"label.{locked[0]}")}))
                return Change(index=document.index, refused=tuple(locked))
            while True:
                if kind == "redo":
                    change = document.redo()
                else:
                    change = document.undo() if on is None else document.undo_on(on)
                self.message = Message(
                    "status.undone" if kind == "undo" else "status.redone", {"edit": Message(newest.name)}
                )
                self._write({"type": kind} if on is None else {"type": kind, "index": on})
                self._notify(with_aspects(change, "status"))
                # A click and the mask that the model made of it are one step.
                if not stack or not history.undone or not history.undone[-1].joined:
                    return change

    def _write(self, event: Mapping[str, Any]) -> None:
        if self._batch is None:
            self._try_record(lambda record: record.append(event))
        else:
            self._batch.append(event)

    @contextmanager
    def _one_event(self) -> Iterator[None]:
        """Write what is done in the block as one event: all of it is on disk, or none."""
        self._batch = []
        try:
            yield
        finally:
            events, self._batch = self._batch, None
            if events:
                self._write({"type": "batch", "events": events})

    def _try_record(self, write: Callable[[KeepsEvents], None]) -> bool:
        if self._record is None:
            return False
        try:
            write(self._record)
        except (StorageError, RecordError) as error:
            self.unsaved = True
            self.say(Message("status.unsaved", {"why": str(error)}))
            return False
        if self.unsaved:
            self.unsaved = False
            self.say(Message("status.saved"))
        return True

    def _announce(self, *aspects: Aspect) -> None:
        self._notify(Change(aspects=frozenset(aspects), index=self.document.index))

    @contextmanager
    def _one_notice(self) -> Iterator[None]:
        """Keep back what observers of a gesture under way need not see, until it is done."""
        self._kept_back = []
        try:
            yield
        finally:
            kept, self._kept_back = self._kept_back, None
            for change in kept:
                if change.aspects - {"preview"}:
                    self._notify(change)
            self._announce("preview")

    def _notify(self, change: Change) -> None:
        if not change:
            return
        if self._kept_back is not None:
            self._kept_back.append(change)
            return
        for observer in tuple(self._observers):
            try:
                observer(change)
            except Exception:
                # One view that cannot draw must not cost the others, nor the edit.
                _log.exception("an observer of the editor failed")


def with_aspects(change: Change, *aspects: Aspect) -> Change:
    """Return a change of these aspects too."""
    return replace(change, aspects=change.aspects | set(aspects))
