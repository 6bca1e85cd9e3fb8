"""Events in, commands out: what a view talks to.

A view forwards presses, moves, releases, wheels and keys, calls `Controller.do` for
its buttons, and redraws what a `Change` names; everything it shows can be read
again from here. All methods may be called from any thread and run under one
re-entrant lock, `Controller.lock`; observers are called while it is held, possibly
from the inference's worker thread, and must not wait for another thread.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import ArrayLike

from ctai_sam2.editor import commands as editing
from ctai_sam2.editor.actions import BY_NAME, key_combination
from ctai_sam2.editor.changes import Aspect, Change
from ctai_sam2.editor.commands import Command, Compound
from ctai_sam2.editor.document import Author, Document
from ctai_sam2.editor.history import IMPORT_EDIT
from ctai_sam2.editor.i18n import Message
from ctai_sam2.editor.inference import Confirmation, Inference, MaskSource
from ctai_sam2.editor.keys import KeyMap
from ctai_sam2.editor.measurements import Readout, measure_roi, measure_ruler, read_out
from ctai_sam2.editor.tools import Button, Outcome, Pointer, Preview, Tool, make_tools
from ctai_sam2.errors import CtaiError, InputError, RecordError, StorageError

_log = logging.getLogger(__name__)
_WHEEL_STEP = 1.15

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


class Controller:
    """The editor behind a view.

    Parameters
    ----------
    document : Document
        What is edited; untouched if a record is given.
    mask_source : MaskSource, optional
        Makes masks; without it one click is disabled with a reason.
    record : KeepsEvents, optional
        Replayed now; every later step is written to it.
    auto_run : bool
        Whether each click and box starts inference at once.

    Raises
    ------
    RecordError
        If the record does not fit the document.
    """

    def __init__(
        self,
        document: Document,
        *,
        mask_source: MaskSource | None = None,
        record: KeepsEvents | None = None,
        auto_run: bool = False,
    ) -> None:
        self.lock = threading.RLock()
        self.handlers: dict[str, Callable[[], object]] = {}
        """What the view does for actions that are not about the document: ``save``, ``accept``, ``help`` …"""
        self.keys = KeyMap()
        """Which key does what."""
        self.document: Document = document
        self.auto_run = auto_run
        self.message: Message | None = None
        """The status line."""
        self.unsaved = False
        """Whether the record lags behind what is in memory."""
        self._observers: list[Observer] = []
        self._kept_back: list[Change] | None = None
        self._record = record
        self._tools = make_tools()
        self._pressed: Tool | None = None
        self._panning = False
        self._brush_scale = 1.0
        self._wheel_steps = 0.0
        self._hover: Pointer | None = None
        self._screen_xy: tuple[float, float] | None = None
        if record is not None:
            document.restore(record.replay())
        self.opened_revision = document.revision
        """Of the document, before anything was done here."""
        self.inference: Inference = Inference(
            document, mask_source, lock=self.lock, perform=self.apply, notify=self._announce
        )

    # What a view shows -----------------------------------------------------------------------

    @property
    def tool(self) -> Tool:
        """The chosen tool, also while space or the middle button pans."""
        return self._tools[self.document.view.tool]

    @property
    def preview(self) -> Preview:
        """The gesture under way and the brush's ring."""
        return self.tool.preview(self.document)

    @property
    def readout(self) -> Readout | None:
        """What is under the pointer; None outside of the image."""
        return None if self._hover is None else read_out(self.document, self._hover.x, self._hover.y)

    @property
    def measurement(self) -> Message | None:
        """The ruler's or the region's numbers, while one is shown."""
        preview = self.preview
        if preview.kind not in ("ruler", "roi"):
            return None
        start, end = preview.points_xy
        measure = measure_ruler if preview.kind == "ruler" else measure_roi
        numbers = measure(self.document, start, end)
        values = {
            "length": f"{numbers.length_mm:.1f}",
            "area": f"{numbers.area_mm2:.0f}",
            "mean": _rounded(numbers.mean_hu),
            "sd": _rounded(numbers.sd_hu),
            "low": _rounded(numbers.min_hu),
            "high": _rounded(numbers.max_hu),
        }
        return Message(f"status.{preview.kind}", values)

    @property
    def has_record(self) -> bool:
        """Whether steps are written to disk as they are made."""
        return self._record is not None

    @property
    def confirmation(self) -> Confirmation | None:
        """The pending confirmation, until `resolve_confirmation`."""
        return self.inference.confirmation

    @property
    def run_message(self) -> Message:
        """Text of the run button: one click, or how many points there are to run."""
        marks = self.document.marks(self.document.view.active)
        count = len(marks.points) + (marks.box_xyxy is not None)
        return Message("action.run_points", {"count": count}) if count else Message("action.run")

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Call ``observer`` after every change; the function returned unsubscribes."""
        with self.lock:
            self._observers.append(observer)

        def unsubscribe() -> None:
            with self.lock:
                if observer in self._observers:
                    self._observers.remove(observer)

        return unsubscribe

    # Events ----------------------------------------------------------------------------------

    def press(
        self,
        x: float,
        y: float,
        *,
        button: Button = "left",
        modifiers: frozenset[str] = frozenset(),
        space: Literal["screen", "image"] = "screen",
    ) -> None:
        """Take a button going down, at canvas (or, with ``space="image"``, image) coordinates."""
        with self.lock:
            at = self._pointer(x, y, space, button, modifiers)
            if at is None:
                return
            if self._pressed is not None:
                # The release was lost, as when the button went up outside of the page.
                self._gesture(self._pressed.leave)
            panning = button == "middle" or self._panning
            tool = self._tools["pan"] if panning else self.tool
            active = self.document.view.active
            if tool.edits and self.document.labels[active].locked:
                self.say(Message("status.locked", {"label": Message(f"label.{active}")}))
                return
            self._pressed = tool
            self._gesture(lambda document: tool.press(at, document))

    def move(self, x: float, y: float, *, space: Literal["screen", "image"] = "screen") -> None:
        """Handle a movement of the pointer, with or without a button."""
        with self.lock:
            at = self._pointer(x, y, space)
            if at is not None:
                tool = self._pressed or self.tool
                self._gesture(lambda document: tool.move(at, document))

    def release(self, x: float, y: float, *, space: Literal["screen", "image"] = "screen") -> None:
        """Take the button going up."""
        with self.lock:
            at, tool = self._pointer(x, y, space), self._pressed
            self._pressed = None
            if tool is not None:
                self._gesture(tool.leave if at is None else lambda document: tool.release(at, document))

    def hover(self, x: float, y: float) -> None:
        """Take where the pointer is, for the read-out alone: a page that draws its own preview sends it."""
        with self.lock:
            if self._pointer(x, y, "screen") is not None:
                self._announce("status")

    def gesture(
        self,
        points: Sequence[tuple[float, float]],
        *,
        button: Button = "left",
        modifiers: frozenset[str] = frozenset(),
        brush_scales: Sequence[float] = (),
    ) -> None:
        """Take a whole drag, from press to release, in canvas coordinates: the same as its single events.

        Observers are notified once it is done.

        Parameters
        ----------
        points : sequence of (float, float)
            Of the pointer.
        button, modifiers
            As they were when it began.
        brush_scales : sequence of float, optional
            Share of the brush's radius at each point, from a pen's pressure.

        Raises
        ------
        InputError
            If there is not one scale, above 0 and up to 1, for each point.
        """
        if not points:
            return
        scales = tuple(brush_scales) or (1.0,) * len(points)
        if len(scales) != len(points) or not all(0 < scale <= 1 for scale in scales):
            raise InputError("each point of a gesture needs a brush's scale, above 0 and up to 1")
        with self.lock, self._one_notice():
            hover = self._hover
            for number, (point, self._brush_scale) in enumerate(zip(points, scales, strict=True)):
                if number == 0:
                    self.press(*point, button=button, modifiers=modifiers)
                elif number < len(points) - 1:
                    self.move(*point)
            self.release(*points[-1])
            # The page says where the pointer is; until then the read-out stays as it was.
            self._hover, self._brush_scale = hover, 1.0
            self.tool.hover = None

    def take_viewport(self, px_per_mm: float, pan_x: float, pan_y: float) -> None:
        """Take zoom and pan as a page left them; a strip of the slice always stays in sight."""
        with self.lock:
            viewport = self.document.view.viewport
            self.adjust(viewport=viewport.placed(px_per_mm, pan_x, pan_y))

    def leave(self) -> None:
        """Handle the pointer leaving the canvas: a drag ends where it left, a polygon waits."""
        with self.lock:
            tool, self._pressed, self._hover = self._pressed or self.tool, None, None
            self._gesture(tool.leave)

    def double_click(self, x: float, y: float, *, space: Literal["screen", "image"] = "screen") -> None:
        """Two clicks at one place, after both presses were forwarded: closes a polygon."""
        with self.lock:
            if self._pointer(x, y, space) is not None:
                self._gesture(self.tool.finish)

    def wheel(
        self,
        steps: float,
        x: float | None = None,
        y: float | None = None,
        *,
        modifiers: frozenset[str] = frozenset(),
        scroll_slices: bool | None = None,
    ) -> None:
        """Take the wheel turning by ``steps`` (up is positive): scroll slices, or zoom about the pointer.

        `View.wheel_scrolls` decides; Shift always scrolls and Ctrl always zooms. Parts of a step add up.
        Without a position (ipycanvas reports none) the pointer's last one is taken, else the canvas's middle.
        """
        with self.lock:
            if not math.isfinite(steps):
                return
            if scroll_slices is None:
                scroll_slices = "shift" in modifiers or (
                    self.document.view.wheel_scrolls
                    and self.document.slice_count > 1
                    and not modifiers & {"ctrl", "meta"}
                )
            if scroll_slices:
                if self._wheel_steps * steps < 0:
                    self._wheel_steps = 0.0
                self._wheel_steps += max(-100.0, min(steps, 100.0))
                whole = math.trunc(self._wheel_steps)
                self._wheel_steps -= whole
                if whole:
                    self.scroll(whole)
                return
            viewport = self.document.view.viewport
            middle = viewport.canvas_hw[1] / 2, viewport.canvas_hw[0] / 2
            at = self._screen_xy or middle
            if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
                at = (x, y)
            factor = _WHEEL_STEP ** max(-20.0, min(steps, 20.0))
            self.adjust(viewport=viewport.zoomed(factor, *at))

    def key(self, key: str, modifiers: frozenset[str] = frozenset(), *, pressed: bool = True) -> bool:
        """Take a key, named as browsers do (``"z"``, ``"Escape"``); return whether it means anything."""
        with self.lock:
            action = self.keys.action_of(key_combination(key, modifiers))
            if action is None:
                return False
            if pressed:
                self.do(action.name)
            elif action.name == "hold_pan":
                self.hold_pan(False)
            return True

    def do(self, action: str) -> None:
        """Do what a button says: an action of `actions.ACTIONS` by its name.

        Raises
        ------
        InputError
            If there is no such action.
        """
        with self.lock:
            if action not in BY_NAME:
                raise InputError("no such action", received=action)
            if action.startswith("tool.") and action.removeprefix("tool.") not in self.document.profile.tools:
                return
            BY_NAME[action].perform(self)

    # Doing -----------------------------------------------------------------------------------

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
            self._write({"type": "snapshot", "state": self.document.snapshot()})
            self._notify(change)
            return change

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
            self._notify(_with(change, "status"))
            return change

    def undo(self) -> Change:
        """Take the last step back, unless its label is locked; inference under way becomes stale."""
        return self._step("undo")

    def redo(self) -> Change:
        """Do the last undone step again."""
        return self._step("redo")

    def adjust(self, **changes: Any) -> Change:
        """Change how things are looked at (see `document.View`); a new tool drops the gesture under way."""
        with self.lock:
            if changes.get("tool", self.document.view.tool) != self.document.view.tool or (
                changes.get("active", self.document.view.active) != self.document.view.active
            ):
                self.cancel_gesture()
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
        """Show another slice; a gesture under way is dropped."""
        with self.lock:
            self.cancel_gesture()
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

    def run(self, group: str | None = None, *, refine: bool = False, joined: bool = False) -> bool:
        """Request masks of a group or label; see `Inference.request`.

        When omitted: of the active label alone where it was pointed at or is refined, else of the group it
        belongs to, as one click.
        """
        with self.lock:
            return self.inference.request(group or self._meant(refine), refine=refine, joined=joined)

    def confirm(self, message: Message, proceed: Callable[[], object]) -> None:
        """Ask the reader for a confirmation; `resolve_confirmation` proceeds or changes nothing."""
        self.inference.confirm(message, proceed)

    def call(self, name: str) -> None:
        """Do what the view offers under this name; nothing where it offers no such thing."""
        handler = self.handlers.get(name)
        if handler is not None:
            handler()

    def resolve_confirmation(self, accepted: bool) -> None:
        """Close the `confirmation`; a refusal changes nothing."""
        self.inference.resolve_confirmation(accepted)

    def finish(self) -> None:
        """Enter: close the polygon under way; where there is none, accept the case."""
        with self.lock:
            if self.tool.busy:
                self._gesture(self.tool.finish)
            else:
                self.call("accept")

    def step_back(self) -> None:
        """Backspace: take back a polygon's last corner; it never undoes a finished step."""
        with self.lock:
            self.tool.step_back()
            self._announce("preview")

    def cancel(self) -> None:
        """Escape: refuse the confirmation, else drop the gesture, else cancel inference."""
        with self.lock:
            if self.confirmation is not None:
                self.resolve_confirmation(False)
            elif not self.cancel_gesture():
                self.inference.cancel()

    def cancel_gesture(self) -> bool:
        """Forget the gesture under way; whether there was one."""
        with self.lock:
            pressed, self._pressed = self._pressed, None
            dropped = self.tool.cancel() | (pressed is not None and pressed.cancel())
            if dropped:
                self._announce("preview")
            return dropped

    def hold_pan(self, held: bool) -> None:
        """Pan with any tool while space is held; a view without key-up calls it from a button."""
        with self.lock:
            self._panning = held
            self._announce("view")

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
            return self._try_record(lambda record: record.compact(self.document.snapshot()))

    def close(self) -> None:
        """Stop the worker. The record stays open: its owner closes it."""
        self.inference.close()

    # Inside ----------------------------------------------------------------------------------

    def _step(self, kind: Literal["undo", "redo"]) -> Change:
        with self.lock:
            self.cancel_gesture()
            stack = self.document.history.done if kind == "undo" else self.document.history.undone
            if not stack:
                self.say(Message(f"status.nothing_to_{kind}"))
                return Change(index=self.document.index)
            locked = [name for name in sorted(stack[-1].labels) if self.document.labels[name].locked]
            if locked:
                self.say(Message("status.locked", {"label": Message(f"label.{locked[0]}")}))
                return Change(index=self.document.index, refused=tuple(locked))
            name = Message(stack[-1].name)
            while True:
                is_joined = stack[-1].joined
                change = self.document.undo() if kind == "undo" else self.document.redo()
                self.message = Message("status.undone" if kind == "undo" else "status.redone", {"edit": name})
                self._write({"type": kind})
                self._notify(_with(change, "status"))
                # A click and the mask that the model made of it are one step.
                if not stack or not (is_joined if kind == "undo" else stack[-1].joined):
                    return change

    @property
    def _runs_by_itself(self) -> bool:
        """Whether a click runs the model: not where there is none, nor before there is a point."""
        marks = self.document.marks(self.document.view.active)
        return self.auto_run and self.inference.status.state != "disabled" and bool(marks)

    def _meant(self, refine: bool) -> str:
        document, active = self.document, self.document.view.active
        if refine or document.marks(active):
            return active
        groups = document.profile.groups.items()
        return next((group for group, labels in groups if active in labels), active)

    def _gesture(self, act: Callable[[Document], Outcome]) -> None:
        """Let a tool act, then do its command and announce its preview."""
        outcome = act(self.document)
        if isinstance(outcome, Change):
            self._notify(_with(outcome, "preview"))
            return
        if outcome is not None:
            pointed = isinstance(outcome, editing.MarksCommand)
            try:
                change = self.apply(outcome)
            except InputError as error:
                self.refuse(error)
            else:
                if pointed and change and self._runs_by_itself:
                    self.run(joined=True)
        self._announce("preview")

    def _pointer(
        self,
        x: float,
        y: float,
        space: str,
        button: Button = "left",
        modifiers: frozenset[str] = frozenset(),
    ) -> Pointer | None:
        """Return the pointer in both coordinates; None where they are not finite."""
        if not (math.isfinite(x) and math.isfinite(y)):
            return None
        viewport = self.document.view.viewport
        screen = (float(x), float(y)) if space == "screen" else viewport.to_screen(x, y)
        image = viewport.to_image(*screen) if space == "screen" else (float(x), float(y))
        if not all(abs(value) < 1e9 for value in (*screen, *image)):
            return None
        self._screen_xy = screen
        self._hover = Pointer(
            x=image[0],
            y=image[1],
            screen_x=screen[0],
            screen_y=screen[1],
            button=button,
            modifiers=frozenset(modifiers),
            brush_scale=self._brush_scale,
        )
        return self._hover

    def _write(self, event: Mapping[str, Any]) -> None:
        self._try_record(lambda record: record.append(event))

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


def _with(change: Change, *aspects: Aspect) -> Change:
    return replace(change, aspects=change.aspects | set(aspects))


def _rounded(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}"
