"""Tools of the pointer: presses, moves and releases become one command each.

A tool keeps only the gesture under way and shows it as a `Preview`. Drags that
leave the canvas end where they left; a polygon waits for the pointer to come back.
Shift or the right button turns a drawing tool into its eraser, and a click into
its opposite sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ctai_sam2.editor.changes import Change
from ctai_sam2.editor.commands import (
    AddBox,
    AddPoint,
    Command,
    Compound,
    FillPolygon,
    FillRectangle,
    FloodFill,
    Lasso,
    Paint,
)
from ctai_sam2.editor.comparison import take_over
from ctai_sam2.editor.shapes import pixel_of
from ctai_sam2.image.contours import Polygon
from ctai_sam2.measure.definitions import HuRange
from ctai_sam2.types import Window

if TYPE_CHECKING:
    from ctai_sam2.editor.document import Document

CLOSE_PX = 10.0
"""A polygon closes when clicked this near to its first corner, in screen pixels."""
_DOUBLE_PX = 4.0
_THIN_PX = 0.75

Points: TypeAlias = tuple[tuple[float, float], ...]
Button: TypeAlias = Literal["left", "right", "middle"]
Outcome: TypeAlias = Command | Compound | Change | None


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """Where the pointer is, on the image and on the screen, and which button is pressed.

    ``brush_scale`` is the share of the brush's radius that a pen's pressure gives.
    """

    x: float
    y: float
    screen_x: float
    screen_y: float
    button: Button = "left"
    modifiers: frozenset[str] = frozenset()
    brush_scale: float = 1.0

    @property
    def opposite(self) -> bool:
        """Whether the tool's opposite is meant: erase for draw, "not this" for "this"."""
        return self.button == "right" or "shift" in self.modifiers


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What to draw over the slice while a gesture is under way.

    Parameters
    ----------
    kind : str
        ``none``, ``stroke``, ``polygon``, ``lasso``, ``box``, ``rectangle``, ``ruler`` or ``roi``.
    points_xy : tuple of (float, float)
        Image coordinates: the line so far, or two opposite corners.
    hover_xy : (float, float), optional
        Where the pointer is.
    radius_mm : float
        Brush radius, to draw the stroke or the brush's ring; 0 where there is none.
    erase : bool
        Whether it will take away.
    closable : bool
        Whether a click here closes the polygon.
    """

    kind: str = "none"
    points_xy: Points = ()
    hover_xy: tuple[float, float] | None = None
    radius_mm: float = 0.0
    erase: bool = False
    closable: bool = False


class Tool:
    """A gesture; the base of all tools, which does nothing.

    ``edits`` says whether it may change masks or prompts and thus needs an unlocked label.
    """

    kind = "none"
    edits = True

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self.hover: Pointer | None = None
        self.erase = False

    @property
    def busy(self) -> bool:
        """Whether a gesture is under way."""
        return bool(self.points)

    def press(self, at: Pointer, document: Document) -> Outcome:
        """Take a button going down."""
        return None

    def move(self, at: Pointer, document: Document) -> Outcome:
        """Handle a movement of the pointer."""
        self.hover = at
        return None

    def release(self, at: Pointer, document: Document) -> Outcome:
        """Take the button going up."""
        return None

    def leave(self, document: Document) -> Outcome:
        """Handle the pointer leaving the canvas."""
        outcome = self.release(self.hover, document) if self.busy and self.hover is not None else None
        self.hover = None
        return outcome

    def finish(self, document: Document) -> Outcome:
        """Enter, or a double click."""
        return None

    def step_back(self) -> bool:
        """Backspace: take back the last corner; whether there was one."""
        return False

    def cancel(self) -> bool:
        """Escape: forget the gesture; whether there was one."""
        was_busy = self.busy
        self.points, self.erase = [], False
        return was_busy

    def preview(self, document: Document) -> Preview:
        """Say what to draw."""
        hover = None if self.hover is None else (self.hover.x, self.hover.y)
        kind = self.kind if self.points else "none"
        return Preview(kind=kind, points_xy=tuple(self.points), hover_xy=hover, erase=self.erase)


class ClickTool(Tool):
    """Left click "this", right click "not this"."""

    def press(self, at: Pointer, document: Document) -> Outcome:
        positive = document.view.positive != at.opposite
        return AddPoint(label=document.view.active, x=at.x, y=at.y, positive=positive)


class FloodTool(Tool):
    """Fill what is connected, within the limit or near the clicked pixel's HU."""

    def press(self, at: Pointer, document: Document) -> Outcome:
        row, column = pixel_of(at.x, at.y)
        height, width = document.shape_hw
        if not (0 <= row < height and 0 <= column < width):
            return None
        hu, tolerance = float(document.slice.hu[row, column]), document.view.flood_tolerance_hu
        limits = document.view.limit or HuRange(low_hu=hu - tolerance - 0.5, high_hu=hu + tolerance + 0.5)
        return FloodFill(
            label=document.view.active,
            x=at.x,
            y=at.y,
            limits=limits,
            erase=at.opposite,
            radius_mm=document.view.flood_radius_mm,
        )


class TakeTool(Tool):
    """Take over the region of the difference to another reader's masks that is clicked."""

    def press(self, at: Pointer, document: Document) -> Outcome:
        return take_over(document, (at.x, at.y))


class DragTool(Tool):
    """From press to release, two opposite corners."""

    def press(self, at: Pointer, document: Document) -> Outcome:
        self.points, self.erase, self.hover = [(at.x, at.y), (at.x, at.y)], at.opposite, at
        return None

    def move(self, at: Pointer, document: Document) -> Outcome:
        self.hover = at
        if self.points:
            self.points[1] = (at.x, at.y)
        return None

    def release(self, at: Pointer, document: Document) -> Outcome:
        if not self.points:
            return None
        (x0, y0), end, erase = self.points[0], (at.x, at.y), self.erase
        self.cancel()
        x1, y1 = end
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        return self.done(box, erase, document)

    def done(self, box: tuple[float, float, float, float], erase: bool, document: Document) -> Outcome:
        """Make the command for a finished drag."""
        return None


class BoxTool(DragTool):
    """A box prompt."""

    kind = "box"

    def done(self, box: tuple[float, float, float, float], erase: bool, document: Document) -> Outcome:
        return AddBox(label=document.view.active, box_xyxy=box)


class RectangleTool(DragTool):
    """A filled rectangle; a mere click draws none."""

    kind = "rectangle"

    def done(self, box: tuple[float, float, float, float], erase: bool, document: Document) -> Outcome:
        if box[0] == box[2] or box[1] == box[3]:
            return None
        return FillRectangle(label=document.view.active, box_xyxy=box, erase=erase)


class MeasuringTool(DragTool):
    """A ruler or an elliptic region, kept in sight until the next press; `measuring` makes the numbers."""

    edits = False

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.dragging = False

    @property
    def busy(self) -> bool:
        return self.dragging

    def press(self, at: Pointer, document: Document) -> Outcome:
        self.dragging = True
        return super().press(at, document)

    def move(self, at: Pointer, document: Document) -> Outcome:
        return super().move(at, document) if self.dragging else Tool.move(self, at, document)

    def release(self, at: Pointer, document: Document) -> Outcome:
        if self.dragging:
            self.points[1] = (at.x, at.y)
            self.dragging = False
        return None

    def cancel(self) -> bool:
        shown = bool(self.points)
        self.dragging = False
        super().cancel()
        return shown


class BrushTool(Tool):
    """Paint along the way; one drag is one step."""

    kind = "stroke"

    def __init__(self, *, erases: bool = False) -> None:
        super().__init__()
        self.erases = erases
        self.scales: list[float] = []

    def press(self, at: Pointer, document: Document) -> Outcome:
        self.points, self.erase, self.hover = [(at.x, at.y)], self.erases != at.opposite, at
        self.scales = [at.brush_scale]
        return None

    def move(self, at: Pointer, document: Document) -> Outcome:
        self.hover = at
        if self.points and _screen_distance(self.points[-1], at, document) >= _THIN_PX:
            self.points.append((at.x, at.y))
            self.scales.append(at.brush_scale)
        return None

    def release(self, at: Pointer, document: Document) -> Outcome:
        if not self.points:
            return None
        if self.points[-1] != (at.x, at.y):
            self.points.append((at.x, at.y))
            self.scales.append(at.brush_scale)
        points, scales, erase = tuple(self.points), tuple(self.scales), self.erase
        self.cancel()
        return Paint(
            label=document.view.active,
            points_xy=points,
            radius_mm=document.view.brush_radius_mm,
            erase=erase,
            scales=() if set(scales) == {1.0} else scales,
        )

    def preview(self, document: Document) -> Preview:
        erase = self.erase if self.points else self.erases
        return replace(super().preview(document), radius_mm=document.view.brush_radius_mm, erase=erase)


class LassoTool(Tool):
    """Outline in one sweep."""

    kind = "lasso"

    def press(self, at: Pointer, document: Document) -> Outcome:
        self.points, self.erase, self.hover = [(at.x, at.y)], at.opposite, at
        return None

    def move(self, at: Pointer, document: Document) -> Outcome:
        self.hover = at
        if self.points and _screen_distance(self.points[-1], at, document) >= _THIN_PX:
            self.points.append((at.x, at.y))
        return None

    def release(self, at: Pointer, document: Document) -> Outcome:
        points, erase = self.points, self.erase
        self.cancel()
        if len(points) < 3:
            return None
        return Lasso(
            label=document.view.active, polygons=(Polygon(exterior_xy=np.array(points)),), erase=erase
        )


class PolygonTool(Tool):
    """Click corner by corner; click near the first one, double-click or press Enter to close."""

    kind = "polygon"

    def press(self, at: Pointer, document: Document) -> Outcome:
        self.hover = at
        if not self.points:
            self.erase = at.opposite
        elif self._closes(at, document):
            return self.finish(document)
        self.points.append((at.x, at.y))
        return None

    def leave(self, document: Document) -> Outcome:
        self.hover = None
        return None

    def finish(self, document: Document) -> Outcome:
        points = [
            point
            for i, point in enumerate(self.points)
            if i == 0 or _apart(self.points[i - 1], point, document)
        ]
        if len(points) < 3:
            if len(points) == 1:
                # The second half of a double click that closed the polygon before.
                self.cancel()
            return None
        erase = self.erase
        self.cancel()
        return FillPolygon(
            label=document.view.active, polygons=(Polygon(exterior_xy=np.array(points)),), erase=erase
        )

    def step_back(self) -> bool:
        had = bool(self.points)
        self.points = self.points[:-1]
        return had

    def preview(self, document: Document) -> Preview:
        closable = self.hover is not None and self._closes(self.hover, document)
        return replace(super().preview(document), closable=closable)

    def _closes(self, at: Pointer, document: Document) -> bool:
        return len(self.points) >= 3 and _screen_distance(self.points[0], at, document) <= CLOSE_PX


class PanTool(Tool):
    """Move the slice under the pointer."""

    edits = False

    def press(self, at: Pointer, document: Document) -> Outcome:
        self.points, self.hover = [(at.screen_x, at.screen_y)], at
        return None

    def move(self, at: Pointer, document: Document) -> Outcome:
        self.hover = at
        if not self.points:
            return None
        [(x, y)] = self.points
        self.points = [(at.screen_x, at.screen_y)]
        return document.adjust(viewport=document.view.viewport.panned(at.screen_x - x, at.screen_y - y))

    def release(self, at: Pointer, document: Document) -> Outcome:
        self.cancel()
        return None

    def preview(self, document: Document) -> Preview:
        return Preview()


class WindowTool(Tool):
    """Drag right for more contrast range, down for a higher level; 1 screen pixel is 2 HU and 1 HU."""

    edits = False

    def __init__(self) -> None:
        super().__init__()
        self.start: Window | None = None

    def press(self, at: Pointer, document: Document) -> Outcome:
        self.points, self.hover, self.start = [(at.screen_x, at.screen_y)], at, document.view.window
        return None

    def move(self, at: Pointer, document: Document) -> Outcome:
        self.hover = at
        if not self.points or self.start is None:
            return None
        [(x, y)] = self.points
        width = min(max(self.start.width + 2.0 * (at.screen_x - x), 1.0), 10_000.0)
        level = min(max(self.start.level + (at.screen_y - y), -5000.0), 5000.0)
        return document.adjust(window=Window(level=level, width=width))

    def release(self, at: Pointer, document: Document) -> Outcome:
        self.cancel()
        return None

    def preview(self, document: Document) -> Preview:
        return Preview()


def make_tools() -> dict[str, Tool]:
    """One of each tool, by the names profiles use."""
    return {
        "click": ClickTool(),
        "box": BoxTool(),
        "brush": BrushTool(),
        "eraser": BrushTool(erases=True),
        "polygon": PolygonTool(),
        "lasso": LassoTool(),
        "rectangle": RectangleTool(),
        "flood": FloodTool(),
        "take": TakeTool(),
        "ruler": MeasuringTool("ruler"),
        "roi": MeasuringTool("roi"),
        "pan": PanTool(),
        "window": WindowTool(),
    }


def _screen_distance(point: tuple[float, float], at: Pointer, document: Document) -> float:
    x, y = document.view.viewport.to_screen(*point)
    return math.hypot(x - at.screen_x, y - at.screen_y)


def _apart(one: tuple[float, float], other: tuple[float, float], document: Document) -> bool:
    """Whether two corners are more than a double click's two presses, as seen on the screen."""
    (x0, y0), (x1, y1) = (document.view.viewport.to_screen(*point) for point in (one, other))
    return math.hypot(x1 - x0, y1 - y0) > _DOUBLE_PX
