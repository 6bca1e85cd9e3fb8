"""The strip next to the picture of a volume: levels, gates and anchors of every slice, and its verbs.

It is drawn with ipycanvas, so that it works without the page side; a press or a drag on it goes to the slice,
and the ends of the range are dragged in the column of the levels.
What it shows is also said in words, for screen readers and as a tooltip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as ipw
import numpy as np
from ipycanvas import Canvas

from ctai_sam2.editor import Controller, Message
from ctai_sam2.editor.strip import StripSlice, has_strip, strip_slices
from ctai_sam2.widgets.canvas_manager import drawing
from ctai_sam2.widgets.controls import ControlFactory, set_shown

WIDTH_PX = 66
VERBS = (
    *("from_here_up", "from_here_down", "from_here_both", "segment_range", "interpolate", "next_red"),
    *("lock_here", "absent_here", "end_here", "undo_slice"),
)
_BUTTONS_PX = 30 * ((len(VERBS) + 1) // 2) + 8
_LEAST_HEIGHT_PX = 80

GATE_COLOURS = {"green": "#009E73", "amber": "#E69F00", "red": "#D55E00"}
"""Okabe and Ito (2008). The width of a slice's bar says the same: narrow, wider, whole."""
_GATE_WIDTHS = {"green": 14.0, "amber": 22.0, "red": 30.0}
_UNJUDGED, _EMPTY, _DECIDED = "#9A9A9A", "#2C2C2C", "#FFFFFF"
_HERE = "#F0E442"
_BAR_X, _MARK_X = 26.0, 60.0
_MARGIN = 4
"""Slices shown beyond each end of a range, into which it can be dragged."""
_GRIP_PX = 7.0
_BEYOND = "rgba(22, 22, 22, 0.65)"


class SliceStrip:
    """The strip and its buttons; not shown for a single slice.

    Parameters
    ----------
    controls : ControlFactory
        Makes its buttons.
    pixel_ratio : callable
        Returns the screen's pixels per CSS pixel.
    """

    def __init__(self, controls: ControlFactory, pixel_ratio: Callable[[], float]) -> None:
        self._controls, self._pixel_ratio = controls, pixel_ratio
        self._height, self._ratio = _LEAST_HEIGHT_PX, 1.0
        self._slices: list[StripSlice] = []
        self._shown: object = None
        self._is_dragging = False
        self._moved: tuple[str, int] | None = None
        """Which end of the range is being dragged, and to which slice."""
        self.canvas = Canvas(width=WIDTH_PX, height=_LEAST_HEIGHT_PX)
        self.canvas.on_mouse_down(self._press)
        self.canvas.on_mouse_move(self._drag)
        self.canvas.on_mouse_up(self._release)
        self.canvas.on_mouse_out(self._release)
        self.canvas.on_client_ready(self._draw)
        self._words = ipw.HTML()
        self._words.add_class("ctai-sam2-unseen")
        buttons = ipw.Box([controls.action(name, is_icon=True) for name in VERBS])
        buttons.add_class("ctai-sam2-steps")
        self.widget = ipw.Box([self.canvas, self._words, buttons])
        self.widget.add_class("ctai-sam2-strip")

    def refresh(self, controller: Controller) -> None:
        """Show the active label's slices; only what changed is drawn."""
        document = controller.document
        set_shown(self.widget, has_strip(document))
        if not has_strip(document):
            return
        height = max(document.view.viewport.canvas_hw[0] - _BUTTONS_PX, _LEAST_HEIGHT_PX)
        label = document.view.active
        shown = (
            *(id(document), document.revision, document.levels, document.span, label, document.index),
            *(height, self._pixel_ratio(), self._controls.language),
        )
        if shown == self._shown:
            return
        self._shown = shown
        self._slices = strip_slices(document, label, margin=_MARGIN)
        self._resize(height, self._pixel_ratio())
        self._say(controller)
        self._draw()

    def index_at(self, y: float) -> int | None:
        """Slice at a height of the strip, in CSS pixels from its top; None where there is none."""
        if not self._slices or not 0 <= y < self._height:
            return None
        return self._slices[-1 - int(y * len(self._slices) / self._height)].index

    def _resize(self, height: int, ratio: float) -> None:
        if (height, ratio) == (self._height, self._ratio):
            return
        self._height, self._ratio = height, ratio
        self.canvas.layout.width, self.canvas.layout.height = f"{WIDTH_PX}px", f"{height}px"
        self.canvas.width, self.canvas.height = round(WIDTH_PX * ratio), round(height * ratio)

    def _say(self, controller: Controller) -> None:
        document = controller.document
        inside = [one for one in self._slices if one.is_inside]
        gates = [one.state.gate for one in inside]
        values = {
            "label": Message(f"label.{document.view.active}"),
            "count": len(inside),
            "outlined": sum(one.is_outlined for one in inside),
            "anchors": sum(one.state.is_fixed for one in inside),
            "amber": gates.count("amber"),
            "red": gates.count("red"),
        }
        words = [Message("view.strip", values).text(self._controls.language)]
        here = next((one for one in self._slices if one.index == document.index), None)
        if here is not None:
            state = here.state
            parts = {
                "level": here.level,
                "source": Message(f"source.{state.source or 'none'}"),
                "gate": Message(f"gate.{state.gate or 'none'}"),
            }
            words.append(Message("view.strip_here", parts).text(self._controls.language))
            words += state.reasons
        said = escape(". ".join(words))
        self._words.value = f'<span role="img" aria-label="{said}">{said}</span>'

    # Drawing ---------------------------------------------------------------------------------

    def _draw(self) -> None:
        slices, height = self._slices, float(self._height)
        if not slices:
            return
        step = height / len(slices)
        tops = {one.index: height - (place + 1) * step for place, one in enumerate(slices)}
        with drawing(self.canvas):
            layer = self.canvas
            layer.clear()
            layer.save()
            layer.scale(self._ratio, self._ratio)
            layer.fill_style = "#161616"
            layer.fill_rect(0, 0, WIDTH_PX, height)
            self._draw_levels(tops, step)
            for colour, width, members in _bars(slices):
                layer.fill_style = colour
                at = np.array([tops[one.index] for one in members])
                gap = 1.0 if step >= 4 else 0.0
                layer.fill_rects(np.full(at.size, _BAR_X), at, width, max(step - gap, 0.5))
            for one in slices:
                middle = tops[one.index] + step / 2
                if one.state.source == "anchor":
                    layer.fill_style = _DECIDED
                    layer.fill_circle(_MARK_X, middle, min(max(step / 2, 1.5), 3.5))
                elif one.state.source == "absent":
                    layer.stroke_style, layer.line_width = _DECIDED, 1.0
                    layer.stroke_circle(_MARK_X, middle, min(max(step / 2, 1.5), 3.5))
                if one.state.is_end:
                    layer.stroke_style, layer.line_width = _DECIDED, 2.0
                    layer.stroke_line(_BAR_X, middle, float(WIDTH_PX), middle)
            self._draw_range(tops, step)
            here = tops.get(self._controls.controller.document.index)
            if here is not None:
                layer.stroke_style, layer.line_width = _HERE, 2.0
                # To the right of the level's name: the frame would cross it.
                layer.stroke_rect(_BAR_X - 1, max(here, 1.0), WIDTH_PX - _BAR_X, max(step, 3.0))
            layer.restore()

    def _draw_levels(self, tops: dict[int, float], step: float) -> None:
        layer = self.canvas
        layer.font, layer.text_align, layer.text_baseline = "11px sans-serif", "left", "middle"
        for name in dict.fromkeys(one.level for one in self._slices if one.level):
            members = [tops[one.index] for one in self._slices if one.level == name]
            top, bottom = min(members), max(members) + step
            layer.fill_style = "#303030"
            layer.fill_rect(0, top, _BAR_X - 2, max(bottom - top - 1, 1.0))
            layer.fill_style = "#EEEEEE"
            layer.fill_text(name, 2, (top + bottom) / 2)

    def _draw_range(self, tops: dict[int, float], step: float) -> None:
        """Dim what is beyond the range, and draw its ends where they are or are being dragged to."""
        layer, (first, last) = self.canvas, self._ends()
        layer.fill_style = _BEYOND
        layer.fill_rect(0, 0, WIDTH_PX, tops[last])
        layer.fill_rect(0, tops[first] + step, WIDTH_PX, self._height - tops[first] - step)
        layer.stroke_style, layer.line_width = _DECIDED, 2.0
        for y in (max(tops[last], 1.0), min(tops[first] + step, self._height - 1.0)):
            layer.stroke_line(0, y, _BAR_X - 2, y)

    def _ends(self) -> tuple[int, int]:
        """First and last slice of the range, as it is being dragged."""
        inside = [one.index for one in self._slices if one.is_inside]
        first, last = inside[0], inside[-1]
        if self._moved is not None:
            end, index = self._moved
            return (min(index, last), last) if end == "first" else (first, max(index, first))
        return first, last

    # Pointer ---------------------------------------------------------------------------------

    def _press(self, x: float, y: float) -> None:
        end = self._end_at(x / self._ratio, y / self._ratio)
        if end is not None:
            first, last = self._ends()
            self._moved = (end, first if end == "first" else last)
            return
        self._is_dragging = True
        self._go_to(y)

    def _drag(self, _: float, y: float) -> None:
        if self._moved is not None:
            index = self.index_at(y / self._ratio)
            if index is not None and index != self._moved[1]:
                self._moved = (self._moved[0], index)
                self._draw()
        elif self._is_dragging:
            self._go_to(y)

    def _release(self, *_: float) -> None:
        self._is_dragging = False
        if self._moved is None:
            return
        span, controller = self._ends(), self._controls.controller
        self._moved = None
        if span != (controller.document.span or self._ends()):
            self._controls.guarded(lambda: controller.set_range(*span))

    def _end_at(self, x: float, y: float) -> str | None:
        """Which end of the range is gripped in the column of the levels; None where none is."""
        if not self._slices or x >= _BAR_X:
            return None
        first, last = self._ends()
        places = {one.index: place for place, one in enumerate(self._slices)}
        step = self._height / len(self._slices)
        distances = {
            "first": abs(y - (self._height - places[first] * step)),
            "last": abs(y - (self._height - (places[last] + 1) * step)),
        }
        end = min(distances, key=lambda name: distances[name])
        return end if distances[end] <= _GRIP_PX else None

    def _go_to(self, y: float) -> None:
        index = self.index_at(y / self._ratio)
        if index is not None:
            self._controls.guarded(lambda: self._controls.controller.go_to(index))


def _bars(slices: Sequence[StripSlice]) -> list[tuple[str, float, list[StripSlice]]]:
    """Group slices by how their bar is drawn: colour and width."""
    groups: dict[tuple[str, float], list[StripSlice]] = {}
    for one in slices:
        gate = one.state.gate
        if gate is not None:
            look = (GATE_COLOURS[gate], _GATE_WIDTHS[gate])
        else:
            look = (_UNJUDGED, _GATE_WIDTHS["green"]) if one.is_outlined else (_EMPTY, 30.0)
        groups.setdefault(look, []).append(one)
    return [(colour, width, members) for (colour, width), members in groups.items()]
