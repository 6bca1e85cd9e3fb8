"""Pointer events in, commands out: presses, moves, drags and wheels go to the tool in use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ctai_sam2.editor.changes import Change
from ctai_sam2.editor.commands import MarksCommand
from ctai_sam2.editor.document import Document
from ctai_sam2.editor.i18n import Message
from ctai_sam2.editor.measurements import Readout, describe_measurement, read_out
from ctai_sam2.editor.session import EditingSession, KeepsEvents, with_aspects
from ctai_sam2.editor.tools import Button, Outcome, Pointer, Preview, Tool, make_tools
from ctai_sam2.errors import InputError

_WHEEL_STEP = 1.15


class PointerSession(EditingSession):
    """An editing session that takes what the pointer does; see `EditingSession` for the parameters."""

    def __init__(self, document: Document, *, record: KeepsEvents | None = None) -> None:
        super().__init__(document, record=record)
        self._tools = make_tools()
        self._pressed: Tool | None = None
        self._panning = False
        self._brush_scale = 1.0
        self._wheel_steps = 0.0
        self._hover: Pointer | None = None
        self._screen_xy: tuple[float, float] | None = None

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
        return describe_measurement(self.document, self.preview.kind, self.preview.points_xy)

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

    def step_back(self) -> None:
        """Backspace: take back a polygon's last corner; it never undoes a finished step."""
        with self.lock:
            self.tool.step_back()
            self._announce("preview")

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

    # What a gesture under way does not outlive ------------------------------------------------

    def adjust(self, **changes: Any) -> Change:
        """Change how things are looked at (see `document.View`); a new tool drops the gesture under way."""
        with self.lock:
            view = self.document.view
            if (
                changes.get("tool", view.tool) != view.tool
                or changes.get("active", view.active) != view.active
            ):
                self.cancel_gesture()
            return super().adjust(**changes)

    def go_to(self, index: int) -> Change:
        """Show another slice; a gesture under way is dropped."""
        with self.lock:
            self.cancel_gesture()
            return super().go_to(index)

    def _step(self, kind: Literal["undo", "redo"], *, on: int | None = None) -> Change:
        with self.lock:
            self.cancel_gesture()
            return super()._step(kind, on=on)

    # Inside ----------------------------------------------------------------------------------

    def _pointed_at(self) -> None:
        """React to a new point or box."""

    def _gesture(self, act: Callable[[Document], Outcome]) -> None:
        """Let a tool act, then do its command and announce its preview."""
        outcome = act(self.document)
        if isinstance(outcome, Change):
            self._notify(with_aspects(outcome, "preview"))
            return
        if outcome is not None:
            pointed = isinstance(outcome, MarksCommand)
            try:
                change = self.apply(outcome)
            except InputError as error:
                self.refuse(error)
            else:
                if pointed and change:
                    self._pointed_at()
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
