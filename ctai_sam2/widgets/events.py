"""Mouse, keys and wheel of a page, handed to a controller.

ipycanvas tells where the mouse is and not which button it holds; the companion, a
small front-end of our own, tells that too. Where the companion cannot run, ipycanvas's
events serve, and "not this" is reached by its button or key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ipywidgets import Widget

from ctai_sam2.editor import Controller, Message, text
from ctai_sam2.editor.actions import BY_NAME
from ctai_sam2.editor.tools import CLOSE_PX
from ctai_sam2.editor.viewport import MAX_PX_PER_MM, MIN_PX_PER_MM
from ctai_sam2.types import CTVolume, Window
from ctai_sam2.widgets.bundle import Bundles
from ctai_sam2.widgets.canvas import SliceCanvas
from ctai_sam2.widgets.companion import Companion, pack_pixels
from ctai_sam2.widgets.controls import Guard, key_text
from ctai_sam2.widgets.localiser import line_percent
from ctai_sam2.widgets.user_keys import read_keys, write_keys

_PIXELS_PER_STEP = 100.0
_DOES = frozenset({"press", "gesture", "double", "key"})
_FOLLOWS = frozenset({"move", "release", "hover", "wheel", "viewport", "slice"})
"""What is meant for the case that the page shows. Where it is another one by now, `_DOES` is replied to."""


class Events:
    """Connects a canvas, and its companion, to the canvas's controller.

    Parameters
    ----------
    canvas : SliceCanvas
        Whose events; the controller is the one it shows at the time.
    guard : callable
        Runs each handler and shows its errors.
    controls : callable
        Roots of the widgets that a paint changes.
    fills : bool
        Whether the canvas takes the size of what is visible on the page.
    """

    def __init__(
        self,
        canvas: SliceCanvas,
        guard: Guard,
        *,
        controls: Callable[[], Sequence[Widget]] = tuple,
        fills: bool = False,
    ) -> None:
        self._canvas, self._guard = canvas, guard
        self._touched = (0.0, 0.0)
        self._keys = canvas.controller.keys = read_keys()
        self.companion = Companion(
            width=canvas.width, height=canvas.height, shortcuts=self._keys.keys, fills=fills
        )
        self.bundles = Bundles(self.companion, controls)
        self.companion.layers = [layer.model_id for layer in (*canvas.sources, canvas.widget)]
        self.companion.on_msg(lambda _, content, buffers: guard(lambda: self.take(content, buffers)))
        self._taken = 0
        self._series, self._series_of = 0, canvas.controller
        self._held: frozenset[int] = frozenset()
        """Slices of the case in view that the page holds."""
        self._seen: int | None = None
        """Series of the case that the page shows; None before a page said so."""
        canvas.fill_on_page = self._fill_on_page
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
        self.show()

    def attach(self, controller: Controller) -> None:
        """Give the controller of another case the user's keys."""
        controller.keys = self._keys

    def _change_key(self, action: str, key: str | None) -> None:
        """Give an action another key, for all editors that are opened from now on."""
        controller = self._canvas.controller
        with controller.lock:
            keys = self._keys.changed(action, key)
            write_keys(keys)
            self._keys = controller.keys = keys
            self.companion.shortcuts = keys.keys
            controller.call("keys")
            shown = " ".join(key_text(each) for each in keys.keys_of(action))
            values = {"action": Message(BY_NAME[action].text), "keys": shown}
            controller.say(Message("view.key_changed", values))

    def show(self) -> None:
        """Send what a page needs to draw gestures itself, where it changed."""
        controller = self._canvas.controller
        self._follow(controller)
        document = controller.document
        view, viewport = document.view, document.view.viewport
        label, preview = document.labels[view.active], controller.preview
        corners = preview.points_xy if preview.kind == "polygon" else ()
        shown = {
            "tool": view.tool,
            "color": label.colour,
            "locked": label.locked,
            "brush_mm": view.brush_radius_mm,
            "px_per_mm": viewport.px_per_mm,
            "spacing": [viewport.spacing_mm[1], viewport.spacing_mm[0]],
            "pan": list(viewport.pan_xy),
            "limits": [MIN_PX_PER_MM, MAX_PX_PER_MM],
            "series": self._series,
            "count": document.slice_count,
            "level": view.window.level,
            "width": view.window.width,
            "scrolls": view.wheel_scrolls,
            "smooth": view.smooth,
            "polygon": {
                "points": [list(point) for point in corners],
                "erase": preview.erase,
                "close_px": CLOSE_PX,
            },
            "waiting": text("view.waiting", view.language),
            "title": text(f"title.{document.profile.name}", view.language),
        }
        with self.companion.hold_sync():
            self.companion.view, self.companion.taken = shown, self._taken
            self.companion.index = document.index
            if isinstance(document.source, CTVolume) and document.profile.plane == "axial":
                self.companion.line = line_percent(document.source, document.index)

    def is_early(self) -> bool:
        """Whether the page does not show the case in view yet: what it sends was meant for the one before."""
        self._follow(self._canvas.controller)
        return self._seen is not None and self._seen != self._series

    def take(self, content: Mapping[str, Any], buffers: Sequence[Any] = ()) -> None:
        """Take a message of the page side."""
        # Nobody paints in between: what is shown as taken has been done, and both go out together.
        with self._canvas.controller.lock:
            self._taken = max(self._taken, int(content.get("number", 0)))
            try:
                if self._is_of_case_in_view(content):
                    self._take(content, buffers)
                elif content["event"] in _DOES:
                    self._canvas.controller.say(Message("view.too_early"))
            finally:
                if "number" in content:
                    self._canvas.ready()

    def _is_of_case_in_view(self, content: Mapping[str, Any]) -> bool:
        self._follow(self._canvas.controller)
        kind = content.get("event")
        if kind not in _DOES and kind not in _FOLLOWS:
            return True
        return bool(content.get("series", self._series) == self._series)

    def _take(self, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        controller = self._canvas.controller
        kind = content.get("event")
        held = frozenset(content.get("modifiers", ()))
        if kind == "move":
            for x, y in content["points"]:
                controller.move(x, y)
        elif kind == "press":
            controller.press(*content["at"], button=content["button"], modifiers=held)
        elif kind == "release":
            controller.release(*content["at"])
        elif kind == "cancel":
            controller.cancel_gesture()
        elif kind == "gesture":
            dtype = "<f4" if content["dtype"] == "<f4" else "<f8"
            points = [(float(x), float(y)) for x, y in np.frombuffer(buffers[0], dtype).reshape(-1, 2)]
            scales = np.frombuffer(buffers[1], dtype).tolist() if len(buffers) > 1 else ()
            controller.gesture(points, button=content["button"], modifiers=held, brush_scales=scales)
        elif kind == "viewport":
            controller.take_viewport(float(content["px_per_mm"]), *(float(v) for v in content["pan"]))
        elif kind == "slice":
            controller.go_to(int(content["index"]))
        elif kind == "hover":
            controller.hover(*content["at"])
        elif kind == "leave":
            controller.leave()
        elif kind == "double":
            controller.double_click(*content["at"])
        elif kind == "wheel":
            controller.wheel(content["steps"], *content["at"], modifiers=held)
        elif kind == "key":
            controller.key(content["key"], held, pressed=content["pressed"])
        elif kind == "bind":
            self._change_key(str(content["action"]), content["key"])
        else:
            self._take_of_page(content)

    def _take_of_page(self, content: Mapping[str, Any]) -> None:
        """Take what the page says of itself: its screen, its size, the pixels that it holds."""
        controller, kind = self._canvas.controller, content.get("event")
        if kind == "draws":
            # A page that was loaded anew holds no pixels.
            self._canvas.page_draws, self._held = True, frozenset()
        elif kind == "unpacks":
            with controller.lock:
                if self.bundles.want(int(content["bundles"])):
                    self._canvas.require_all()
                    self._canvas.ready()
        elif kind == "shows":
            self._seen = int(content["series"])
        elif kind == "holds":
            self._take_held(content)
        elif kind == "lost":
            with controller.lock:
                self._held = frozenset()
                self._canvas.require_all()
                self._canvas.ready()
        elif kind == "screen":
            with controller.lock:
                self._canvas.set_pixel_ratio(float(content["pixel_ratio"]))
                self._canvas.ready()
        elif kind == "resize":
            with controller.lock:
                self._take_size(content)
                self._canvas.ready()

    def _take_size(self, content: Mapping[str, Any]) -> None:
        canvas, companion = self._canvas, self.companion
        before = (canvas.width, canvas.height)
        width, height = round(float(content["width"])), round(float(content["height"]))
        canvas.resize(width, height, covered_right=round(float(content["covered"])))
        with companion.hold_sync():
            companion.width, companion.height = canvas.width, canvas.height
        if (canvas.width, canvas.height) == before:
            # The page may have been handed an older state since.
            companion.send_state(["width", "height"])
            canvas.send_size()

    # Pixels that the page holds, so that it can show them in any window without a message ------------

    def _follow(self, controller: Controller) -> None:
        """Forget what the page holds where another case is shown."""
        if controller is not self._series_of:
            self._series_of, self._series, self._held = controller, self._series + 1, frozenset()

    def _take_held(self, content: Mapping[str, Any]) -> None:
        controller, series, index = self._canvas.controller, content["series"], content["next"]
        with controller.lock:
            self._follow(controller)
            if series != self._series:
                return
            self._held = frozenset(content["indices"])
            if index is None:
                return
            hu = controller.document.slice_at(int(index)).hu
        dtype, packed = pack_pixels(hu)
        message = {"event": "pixels", "series": series, "index": index, "dtype": dtype, "shape": hu.shape}
        self.companion.send(message, [packed])

    def _fill_on_page(self, index: int, window: Window) -> bool:
        """Let the page fill the grey canvas from the pixels that it holds; whether it does."""
        self._follow(self._canvas.controller)
        if index not in self._held:
            return False
        look = {"index": index, "level": window.level, "width": window.width}
        self.bundles.send(self.companion, {"event": "grey", "series": self._series, **look})
        return True

    # Where the page side cannot run: ipycanvas's events ----------------------------------------------

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
