"""The picture: a slice with masks, marks and the gesture under way, drawn from a controller.

Grey pixels and masks lie on hidden canvases, one canvas pixel per image pixel. The
visible canvas has four layers (image, masks, furniture, pointer); zoom and pan draw the hidden ones
through a transform and send no pixels. Positions are CSS pixels everywhere but in the
transform, which multiplies by the screen's pixel ratio: sharp on any screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from ipycanvas import Canvas, MultiCanvas
from ipywidgets import Layout

from ctai_sam2.editor import Box, Change, Controller, Preview, render_grey, render_overlay, text
from ctai_sam2.types import Window
from ctai_sam2.widgets.canvas_manager import drawing

POSITIVE, NEGATIVE = "#009E73", "#D55E00"
"""Points that say "this" and "not this": green and red that people with any colour vision tell apart."""

_HINT, _DARK, _LIGHT = "#56B4E9", "#000000", "#FFFFFF"
_GUIDE = "#F0E442"
_FONT = "13px sans-serif"
_POINT_PX, _CORNER_PX = 6.0, 3.5
_MARGIN_PX = 8.0

Guide: TypeAlias = tuple[Literal["row", "column"], int]
"""A row or column of the slice at which another editor's slice cuts it."""

_ALL: Box = (0, 0, 1_000_000, 1_000_000)


class SliceCanvas:
    """Draws a controller's slice; holds no state that the controller does not have.

    Parameters
    ----------
    controller : Controller
        What is drawn. Its viewport takes this canvas's size.
    width, height : int
        Size on the page in CSS pixels.
    on_ready : callable, optional
        Called when a page shows the canvas anew and it must be painted.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        width: int = 640,
        height: int = 560,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self.width, self.height = width, height
        self.pixel_ratio = 1.0
        size = {"width": f"{width}px", "height": f"{height}px"}
        fixed = {f"{bound}_{side}": value for side, value in size.items() for bound in ("min", "max")}
        self.widget = MultiCanvas(
            4, width=width, height=height, layout=Layout(flex="0 0 auto", **size, **fixed)
        )
        self.widget.add_class("ctai-sam2-canvas")
        self.controller = controller
        self._grey, self._masks, self._others = Canvas(), Canvas(), Canvas()
        self._on_ready = on_ready
        self.page_draws = False
        """Whether the page itself draws the brush's ring and the gestures under way."""
        self.fill_on_page: Callable[[int, Window], bool] | None = None
        """Has the page fill the grey canvas, of a slice and a window; False where it cannot."""
        self.guide: Guide | None = None
        """Where another editor's slice lies; drawn as a line."""
        self._pointer_shown: object = None
        self._covered_right = 0
        self._dirty: Box | None = _ALL
        self._others_stale = True
        self._grey_shown: tuple[int, Window] | None = None
        self._smooth_shown = True
        self._furniture_shown: object = None
        self._look_shown: tuple[float, bool, bool] | None = None
        self._transform: tuple[float, ...] = ()
        self._boxes: list[Box] = []
        self._boxes_of: tuple[int, int] | None = None
        for canvas in (self._grey, self._masks, self._others, self.widget):
            canvas.on_client_ready(self._repaint)
        self.show(controller)

    def show(self, controller: Controller) -> None:
        """Draw another controller's slice from now on; `paint` sends it."""
        self.controller = controller
        height, width = controller.document.shape_hw
        for canvas in (self._grey, self._masks, self._others):
            canvas.width, canvas.height = width, height
        controller.resize(self.width, self.height, covered_right=self._covered_right)
        self.require_all()

    def set_pixel_ratio(self, ratio: float) -> None:
        """Take the screen's pixels per CSS pixel; values outside of 0.5 to 4 are ignored."""
        if not 0.5 <= ratio <= 4 or ratio == self.pixel_ratio:
            return
        self.pixel_ratio = ratio
        self.widget.width, self.widget.height = round(self.width * ratio), round(self.height * ratio)
        self.require_all()

    @property
    def sources(self) -> tuple[Canvas, Canvas, Canvas]:
        """The hidden canvases in image pixels: grey, masks, another reader's masks."""
        return self._grey, self._masks, self._others

    def resize(self, width: int, height: int, *, covered_right: int = 0) -> None:
        """Take another size on the page in CSS pixels; sizes that no screen has are ignored."""
        if not (60 <= width <= 10_000 and 60 <= height <= 10_000):
            return
        self._covered_right = covered_right
        if (width, height) != (self.width, self.height):
            self.width, self.height = width, height
            for bound in ("", "min_", "max_"):
                setattr(self.widget.layout, f"{bound}width", f"{width}px")
                setattr(self.widget.layout, f"{bound}height", f"{height}px")
            self.widget.width = round(width * self.pixel_ratio)
            self.widget.height = round(height * self.pixel_ratio)
        self.controller.resize(width, height, covered_right=covered_right)
        self.require_all()

    def send_size(self) -> None:
        """Tell the page the size again."""
        self.widget.layout.send_state()
        self.widget.send_state(["width", "height"])

    def ready(self) -> None:
        """Paint, or notify the owner, who decides when to paint."""
        if self._on_ready is None:
            self.paint()
        else:
            self._on_ready()

    def to_page(self, x: float, y: float) -> tuple[float, float]:
        """Place an event of ipycanvas, given in canvas pixels, in CSS pixels."""
        return x / self.pixel_ratio, y / self.pixel_ratio

    def require(self, change: Change) -> None:
        """Note what a change makes untrue; `paint` draws it again."""
        aspects = change.aspects
        if "slice" in aspects:
            self._dirty, self._others_stale = _ALL, True
        if change.dirty_box is not None and change.index == self.controller.document.index:
            self._dirty = _union(self._dirty, change.dirty_box)
        if "labels" in aspects:
            self._dirty, self._others_stale = _ALL, True
        if "mask" in aspects and not change.boxes:
            self._dirty = _ALL
        if "mask" in aspects and self.controller.document.view.differences:
            self._others_stale = True

    def require_all(self) -> None:
        """Note that nothing on the page can be trusted."""
        self._grey_shown, self._look_shown = None, None
        self._dirty, self._others_stale, self._transform = _ALL, True, ()
        self._boxes_of, self._pointer_shown, self._furniture_shown = None, None, None

    def paint(self) -> None:
        """Send what is not on the page yet, in one message."""
        with self.controller.lock, drawing(self._grey):
            self._paint_grey()
            self._paint_masks()
            self._paint_furniture()
            self._paint_pointer()

    # Layers ----------------------------------------------------------------------------------

    def _paint_grey(self) -> None:
        document = self.controller.document
        shown, smooth = (document.index, document.view.window), document.view.smooth
        transform = self._page_transform()
        if shown != self._grey_shown:
            if self.fill_on_page is None or not self.fill_on_page(*shown):
                self._grey.put_image_data(render_grey(document), 0, 0)
        elif (transform, smooth) == (self._transform, self._smooth_shown):
            return
        self._draw_through(self.widget[0], transform, self._grey, smooth=smooth)
        self._grey_shown, self._smooth_shown = shown, smooth

    def _paint_masks(self) -> None:
        document, view = self.controller.document, self.controller.document.view
        look = (view.opacity, view.outline_only, view.differences)
        transform = self._page_transform()
        if look != self._look_shown:
            self._dirty, self._others_stale = _ALL, True
        if self._dirty is None and not self._others_stale and transform == self._transform:
            return
        if self._dirty is not None:
            height, width = document.shape_hw
            x0, y0, x1, y1 = self._dirty
            rgba, x, y = render_overlay(document, (x0, y0, min(x1, width - 1), min(y1, height - 1)))
            self._masks.clear_rect(x, y, rgba.shape[1], rgba.shape[0])
            if rgba.any():
                self._masks.put_image_data(rgba, x, y)
        if self._others_stale:
            self._others.clear()
            if document.references:
                self._others.put_image_data(render_overlay(document, references=True)[0], 0, 0)
        self._draw_through(self.widget[1], transform, self._masks, self._others)
        self._look_shown, self._dirty, self._others_stale, self._transform = look, None, False, transform

    def _paint_pointer(self) -> None:
        shown = self._pointer_state()
        if shown == self._pointer_shown:
            return
        self._pointer_shown = shown
        layer = self._cleared(3)
        self._draw_rectangles(layer)
        self._draw_guide(layer)
        self._draw_marks(layer)
        self._draw_preview(layer, self._preview())
        self._draw_banner(layer)

    def _paint_furniture(self) -> None:
        """Draw letters and scale bar, which stay where they are while the slice moves."""
        zoom = self.controller.document.view.viewport.px_per_mm
        letters = self.controller.document.edge_letters()
        shown = (zoom, letters, self.width, self._covered_right, self.height, self.pixel_ratio)
        if shown != self._furniture_shown:
            self._draw_furniture(self._cleared(2))
            self._furniture_shown = shown

    def _preview(self) -> Preview:
        """Return what is drawn of the gesture under way: nothing of those that the page draws."""
        preview = self.controller.preview
        drawn = ("ruler", "roi") if self.page_draws else (preview.kind,)
        return preview if preview.kind in drawn else Preview()

    def _cleared(self, number: int) -> Canvas:
        """Return an empty layer that takes CSS pixels."""
        layer = self.widget[number]
        layer.reset_transform()
        layer.clear()
        layer.scale(self.pixel_ratio, self.pixel_ratio)
        layer.font, layer.line_cap, layer.line_join = _FONT, "round", "round"
        return layer

    def _pointer_state(self) -> object:
        """All that the uppermost layer depends on; where it is the same nothing is sent."""
        document, preview = self.controller.document, self._preview()
        view, status = document.view, self.controller.inference.status
        size = (self.width, self.height, self.pixel_ratio)
        has_marks = document.profile.name == "l3" or any(document.marks(name) for name in document.labels)
        empty = not has_marks and preview == Preview() and self.guide is None
        if empty and status.state != "running":
            # Nothing is drawn, whatever slice and place are in view.
            return size
        marks = tuple(document.marks(name) for name in document.labels)
        revisions = tuple(document.revision_of(name) for name in document.labels)
        return (
            *(document.index, view.viewport, view.active, view.language, tuple(document.labels.values())),
            *(marks, revisions if document.profile.name == "l3" else (), preview, status.state),
            *(*size, self.guide),
        )

    def _draw_through(
        self, layer: Canvas, transform: tuple[float, ...], *sources: Canvas, smooth: bool = False
    ) -> None:
        layer.reset_transform()
        layer.clear()
        layer.image_smoothing_enabled = smooth
        layer.set_transform(*transform)
        for source in sources:
            layer.draw_image(source, 0, 0)

    def _page_transform(self) -> tuple[float, ...]:
        return tuple(float(v) * self.pixel_ratio for v in self.controller.document.view.viewport.transform)

    # What lies over the pixels ---------------------------------------------------------------

    def _draw_furniture(self, layer: Canvas) -> None:
        left, right, top, bottom = self.controller.document.edge_letters()
        middle_x, middle_y = self.width / 2, self.height / 2
        for letter, x, y in (
            (left, _MARGIN_PX + 4, middle_y),
            (right, self.width - self._covered_right - _MARGIN_PX - 4, middle_y),
            (top, middle_x, _MARGIN_PX + 6),
            (bottom, middle_x, self.height - _MARGIN_PX - 6),
        ):
            if letter:
                _write(layer, letter, x, y)
        length_mm, length_px = self.controller.document.view.viewport.scale_bar()
        x, y = _MARGIN_PX + 4, self.height - _MARGIN_PX - 4
        for colour, width in ((_DARK, 5), (_LIGHT, 2)):
            _pen(layer, colour, width)
            layer.stroke_lines([(x, y - 5), (x, y), (x + length_px, y), (x + length_px, y - 5)])
        words = f"{length_mm / 10:g} cm" if length_mm >= 10 else f"{length_mm:g} mm"
        _write(layer, words, x + length_px / 2, y - 14)

    def _draw_rectangles(self, layer: Canvas) -> None:
        """Draw what the L3 editor gives next to the mask: the boxes around its parts, and its middle."""
        document = self.controller.document
        if document.profile.name != "l3" or not document.labels["l3"].visible:
            return
        now = (document.index, document.revision_of("l3"))
        if self._boxes_of != now:
            self._boxes, self._boxes_of = document.rectangles("l3"), now
        for x0, y0, x1, y1 in self._boxes:
            box = (x0 - 0.5, y0 - 0.5, x1 + 0.5, y1 + 0.5)
            self._draw_box(layer, box, document.labels["l3"].colour, dashed=False)
        if self._boxes:
            mid_row = (min(box[1] for box in self._boxes) + max(box[3] for box in self._boxes)) // 2
            _, y = document.view.viewport.to_screen(0, mid_row)
            viewport = document.view.viewport
            left, right = (viewport.to_screen(x, 0)[0] for x in (-0.5, document.shape_hw[1] - 0.5))
            _pen(layer, _HINT, 1.0)
            layer.set_line_dash([8, 5])
            layer.stroke_line(left, y, right, y)
            layer.set_line_dash([])
            words = text("view.l3_middle", document.view.language)
            _write(layer, words, min(max(left, 0) + 40, self.width - 40), y - 8)

    def _draw_guide(self, layer: Canvas) -> None:
        if self.guide is None:
            return
        viewport, (height, width) = self.controller.document.view.viewport, self.controller.document.shape_hw
        kind, at = self.guide
        ends = ((-0.5, at), (width - 0.5, at)) if kind == "row" else ((at, -0.5), (at, height - 0.5))
        (x0, y0), (x1, y1) = (viewport.to_screen(*end) for end in ends)
        for shade, line_width in ((_DARK, 2.5), (_GUIDE, 1.0)):
            _pen(layer, shade, line_width)
            layer.stroke_line(x0, y0, x1, y1)

    def _draw_marks(self, layer: Canvas) -> None:
        document = self.controller.document
        for name, label in document.labels.items():
            if not label.visible:
                continue
            marks = document.marks(name)
            if marks.box_xyxy is not None:
                self._draw_box(layer, marks.box_xyxy, _HINT, dashed=True)
            for point in marks.points:
                x, y = document.view.viewport.to_screen(point.x, point.y)
                layer.fill_style = POSITIVE if point.positive else NEGATIVE
                layer.fill_circle(x, y, _POINT_PX)
                _pen(layer, _LIGHT, 1.5)
                layer.stroke_circle(x, y, _POINT_PX)
                arm = _POINT_PX - 2.5
                layer.stroke_line(x - arm, y, x + arm, y)
                if point.positive:
                    layer.stroke_line(x, y - arm, x, y + arm)

    def _draw_preview(self, layer: Canvas, preview: Preview) -> None:
        document = self.controller.document
        viewport = document.view.viewport
        points = [viewport.to_screen(x, y) for x, y in preview.points_xy]
        hover = None if preview.hover_xy is None else viewport.to_screen(*preview.hover_xy)
        colour = NEGATIVE if preview.erase else document.labels[document.view.active].colour
        radius = preview.radius_mm * viewport.px_per_mm
        if preview.kind == "stroke":
            layer.global_alpha = 0.6
            _pen(layer, colour, max(2 * radius, 1.0))
            # A line of length zero is not drawn at all; a dab needs a very short one.
            way = points if len(points) > 1 else [*points, (points[0][0] + 0.01, points[0][1])]
            layer.stroke_lines(np.array(way))
            layer.global_alpha = 1.0
        elif preview.kind in ("polygon", "lasso"):
            self._draw_outline(layer, preview, points, hover, colour)
        elif preview.kind in ("box", "rectangle"):
            (x0, y0), (x1, y1) = preview.points_xy
            is_prompt = preview.kind == "box"
            self._draw_box(layer, (x0, y0, x1, y1), _HINT if is_prompt else colour, dashed=is_prompt)
        elif preview.kind in ("ruler", "roi"):
            self._draw_measure(layer, preview.kind, points)
        if radius > 0 and hover is not None:
            for shade, width in ((_DARK, 2.5), (NEGATIVE if preview.erase else _LIGHT, 1.0)):
                _pen(layer, shade, width)
                layer.stroke_circle(*hover, max(radius, 1.0))

    def _draw_outline(
        self,
        layer: Canvas,
        preview: Preview,
        points: list[tuple[float, float]],
        hover: tuple[float, float] | None,
        colour: str,
    ) -> None:
        line = [*points, hover] if preview.kind == "polygon" and hover is not None else points
        for shade, width in ((_DARK, 3.5), (colour, 1.5)):
            _pen(layer, shade, width)
            if len(line) > 1:
                layer.stroke_lines(np.array(line))
        if preview.kind == "polygon":
            layer.fill_style = _LIGHT
            for x, y in points:
                layer.fill_circle(x, y, _CORNER_PX)
            if preview.closable:
                _pen(layer, _LIGHT, 2)
                layer.stroke_circle(*points[0], 2.5 * _CORNER_PX)

    def _draw_measure(self, layer: Canvas, kind: str, points: list[tuple[float, float]]) -> None:
        (x0, y0), (x1, y1) = points
        for shade, width in ((_DARK, 3.5), (_HINT, 1.5)):
            _pen(layer, shade, width)
            if kind == "ruler":
                layer.stroke_line(x0, y0, x1, y1)
            else:
                layer.begin_path()
                layer.ellipse(
                    (x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) / 2, abs(y1 - y0) / 2, 0, 0, 2 * math.pi
                )
                layer.stroke()
        numbers = self.controller.measurement
        if numbers is not None:
            words = numbers.text(self.controller.document.view.language)
            _write(layer, words, min(max((x0 + x1) / 2, 130), self.width - 130), max(y0, y1) + 16)

    def _draw_box(
        self, layer: Canvas, box: tuple[float, float, float, float], colour: str, *, dashed: bool
    ) -> None:
        viewport = self.controller.document.view.viewport
        (x0, y0), (x1, y1) = viewport.to_screen(*box[:2]), viewport.to_screen(*box[2:])
        ring = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
        _pen(layer, _DARK, 3.5)
        layer.stroke_lines(ring)
        _pen(layer, colour, 1.5)
        layer.set_line_dash([6, 4] if dashed else [])
        layer.stroke_lines(ring)
        layer.set_line_dash([])

    def _draw_banner(self, layer: Canvas) -> None:
        status = self.controller.inference.status
        if status.state != "running" or status.message is None:
            return
        layer.fill_style = "rgba(0, 0, 0, 0.6)"
        layer.fill_rect(0, self.height / 2 - 22, self.width, 44)
        _write(
            layer,
            status.message.text(self.controller.document.view.language),
            self.width / 2,
            self.height / 2,
        )

    def _repaint(self) -> None:
        with self.controller.lock:
            self.require_all()
        self.ready()


def _pen(layer: Canvas, colour: str, width: float) -> None:
    layer.stroke_style, layer.line_width = colour, float(width)


def _write(layer: Canvas, words: str, x: float, y: float) -> None:
    """Write centred, light on a dark rim, readable on any grey."""
    layer.text_align, layer.text_baseline = "center", "middle"
    _pen(layer, _DARK, 3)
    layer.stroke_text(words, float(x), float(y))
    layer.fill_style = _LIGHT
    layer.fill_text(words, float(x), float(y))


def _union(one: Box | None, other: Box) -> Box:
    if one is None:
        return other
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
