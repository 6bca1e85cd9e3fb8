"""Mouse, keys and wheel of a page, handed to a controller.

ipycanvas tells where the mouse is and not which button it holds; the companion, a
small front-end of our own, tells that too. Where the companion cannot run, ipycanvas's
events serve, and "not this" is reached by its button or key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from ctai_sam2.editor import text
from ctai_sam2.editor.actions import BY_KEY
from ctai_sam2.editor.viewport import MAX_PX_PER_MM, MIN_PX_PER_MM
from ctai_sam2.widgets.canvas import SliceCanvas

_PIXELS_PER_STEP = 100.0

Guard = Callable[[Callable[[], object]], None]
"""Runs something and shows what it raises."""


class Companion(anywidget.AnyWidget):
    """The front-end that reports buttons, modifiers, wheel and keys; it shows nothing itself."""

    _esm = Path(__file__).with_name("companion.js").read_text(encoding="utf-8")
    width = traitlets.Int().tag(sync=True)
    height = traitlets.Int().tag(sync=True)
    shortcuts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    fills = traitlets.Bool().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    layers = traitlets.List(traitlets.Unicode()).tag(sync=True)


class Events:
    """Connects a canvas, and its companion, to the canvas's controller.

    Parameters
    ----------
    canvas : SliceCanvas
        Whose events; the controller is the one it shows at the time.
    guard : callable
        Runs each handler and shows its errors.
    fills : bool
        Whether the canvas takes the size of what is visible on the page.
    """

    def __init__(self, canvas: SliceCanvas, guard: Guard, *, fills: bool = False) -> None:
        self._canvas, self._guard = canvas, guard
        self._touched = (0.0, 0.0)
        self.companion = Companion(
            width=canvas.width, height=canvas.height, shortcuts=sorted(BY_KEY), fills=fills
        )
        self.companion.layers = [layer.model_id for layer in canvas.sources]
        self.companion.on_msg(lambda _, content, buffers: guard(lambda: self.take(content, buffers)))
        self._taken = 0
        page = canvas.widget
        page.on_mouse_down(lambda x, y: self._at(canvas.controller.press, x, y))
        page.on_mouse_move(lambda x, y: self._at(canvas.controller.move, x, y))
        page.on_mouse_up(lambda x, y: self._at(canvas.controller.release, x, y))
        page.on_mouse_out(lambda x, y: guard(canvas.controller.leave))
        page.on_mouse_wheel(lambda dx, dy: guard(lambda: self._wheel(dx, dy)))
        page.on_key_down(self._key)
        page.on_touch_start(lambda touches: self._touch(canvas.controller.press, touches))
        page.on_touch_move(lambda touches: self._touch(canvas.controller.move, touches))
        page.on_touch_end(lambda _: guard(lambda: canvas.controller.release(*self._touched)))
        page.on_touch_cancel(lambda _: guard(canvas.controller.cancel_gesture))

    def show(self) -> None:
        """Send what a page needs to draw gestures itself, where it changed."""
        controller = self._canvas.controller
        document = controller.document
        view, viewport = document.view, document.view.viewport
        label = document.labels[view.active]
        self.companion.view = {
            "tool": view.tool,
            "color": label.colour,
            "locked": label.locked,
            "brush_mm": view.brush_radius_mm,
            "px_per_mm": viewport.px_per_mm,
            "spacing": [viewport.spacing_mm[1], viewport.spacing_mm[0]],
            "pan": list(viewport.pan_xy),
            "limits": [MIN_PX_PER_MM, MAX_PX_PER_MM],
            "scrolls": view.wheel_scrolls and document.slice_count > 1,
            "smooth": view.smooth,
            "waiting": text("view.waiting", view.language),
            "taken": self._taken,
        }

    def take(self, content: Mapping[str, Any], buffers: Sequence[Any] = ()) -> None:
        """Take a message of the companion."""
        controller = self._canvas.controller
        self._taken = max(self._taken, int(content.get("number", 0)))
        kind = content.get("event")
        held = frozenset(content.get("modifiers", ()))
        if kind == "move":
            for x, y in content["points"]:
                controller.move(x, y)
        elif kind == "press":
            controller.press(*content["at"], button=content["button"], modifiers=held)
        elif kind == "release":
            controller.release(*content["at"])
        elif kind == "gesture":
            points = [(float(x), float(y)) for x, y in np.frombuffer(buffers[0], "<f8").reshape(-1, 2)]
            self._canvas.require_pointer()
            controller.gesture(points, button=content["button"], modifiers=held)
        elif kind == "viewport":
            self._canvas.require_pointer()
            controller.take_viewport(float(content["px_per_mm"]), *(float(v) for v in content["pan"]))
        elif kind == "hover":
            controller.hover(*content["at"])
        elif kind == "draws":
            self._canvas.page_draws = True
        elif kind == "leave":
            controller.leave()
        elif kind == "double":
            controller.double_click(*content["at"])
        elif kind == "wheel":
            controller.wheel(content["steps"], *content["at"], modifiers=held)
        elif kind == "key":
            controller.key(content["key"], held, pressed=content["pressed"])
        elif kind == "screen":
            with controller.lock:
                self._canvas.set_pixel_ratio(float(content["pixel_ratio"]))
                self._canvas.ready()
        elif kind == "resize":
            with controller.lock:
                width, height = round(float(content["width"])), round(float(content["height"]))
                self._canvas.resize(width, height, covered_right=round(float(content["covered"])))
                self.companion.width, self.companion.height = self._canvas.width, self._canvas.height
                self._canvas.ready()

    def _wheel(self, dx: float, dy: float) -> None:
        # Browsers turn the wheel sideways while Shift is held; ipycanvas does not report the key itself.
        sideways = dy == 0 and dx != 0
        steps = -(dx if sideways else dy) / _PIXELS_PER_STEP
        self._canvas.controller.wheel(steps, scroll_slices=True if sideways else None)

    def _at(self, act: Callable[[float, float], None], x: float, y: float) -> None:
        self._guard(lambda: act(*self._canvas.to_page(x, y)))

    def _touch(self, act: Callable[[float, float], None], touches: list[tuple[float, float]]) -> None:
        # Two fingers are no drawing.
        if len(touches) == 1:
            self._touched = self._canvas.to_page(*touches[0])
            self._guard(lambda: act(*self._touched))

    def _key(self, key: str, shift: bool, ctrl: bool, meta: bool) -> None:
        pairs = (("shift", shift), ("ctrl", ctrl), ("meta", meta))
        held = frozenset(name for name, is_held in pairs if is_held)
        # Without a key-up, space would pan for ever.
        if key != " ":
            self._guard(lambda: self._canvas.controller.key(key, held))
