"""Where the slice lies on the screen, in true millimetres.

Image coordinates are those of the whole package: integer = pixel centre. Screen
coordinates are canvas pixels from its top-left corner. One millimetre is equally
long in both directions of the screen, whatever the pixels' shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ctai_sam2.errors import InputError

MIN_PX_PER_MM, MAX_PX_PER_MM = 0.05, 200.0
_BARS_MM = (200.0, 100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1)
_KEEP_IN_SIGHT_PX = 24.0


@dataclass(frozen=True, kw_only=True)
class Viewport:
    """A view of a slice on a canvas.

    Parameters
    ----------
    shape_hw : (int, int)
        Rows and columns of the slice.
    spacing_mm : (float, float)
        (row, column).
    canvas_hw : (int, int)
        Height and width of the canvas in screen pixels.
    px_per_mm : float
        Zoom.
    pan_xy : (float, float)
        Where on the canvas the slice's outer top-left corner lies.
    covered_right : int
        Width of what covers the canvas at its right edge, in screen pixels.

    Raises
    ------
    InputError
        If a number is not finite, or zoom or canvas not positive.
    """

    shape_hw: tuple[int, int]
    spacing_mm: tuple[float, float]
    canvas_hw: tuple[int, int] = (512, 512)
    px_per_mm: float = 1.0
    pan_xy: tuple[float, float] = (0.0, 0.0)
    covered_right: int = 0

    def __post_init__(self) -> None:
        numbers = (*self.canvas_hw, self.px_per_mm, *self.pan_xy)
        if not all(math.isfinite(n) for n in numbers) or self.px_per_mm <= 0 or min(self.canvas_hw) < 1:
            raise InputError("a view needs finite numbers, and a positive zoom and canvas", received=numbers)

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Screen pixels per image pixel, along columns' and rows' direction."""
        return self.px_per_mm * self.spacing_mm[1], self.px_per_mm * self.spacing_mm[0]

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """The canvas transform (a, b, c, d, e, f) that draws the slice's pixels from (0, 0)."""
        sx, sy = self.scale_xy
        return sx, 0.0, 0.0, sy, self.pan_xy[0], self.pan_xy[1]

    def to_screen(self, x: float, y: float) -> tuple[float, float]:
        """Image point to canvas."""
        sx, sy = self.scale_xy
        return (x + 0.5) * sx + self.pan_xy[0], (y + 0.5) * sy + self.pan_xy[1]

    def to_image(self, screen_x: float, screen_y: float) -> tuple[float, float]:
        """Canvas point to image: the inverse of `to_screen`."""
        sx, sy = self.scale_xy
        return (screen_x - self.pan_xy[0]) / sx - 0.5, (screen_y - self.pan_xy[1]) / sy - 0.5

    def fitted(self) -> Viewport:
        """Show the whole slice, as large as the canvas allows: in the middle, or left of what covers it."""
        height_mm = self.shape_hw[0] * self.spacing_mm[0]
        width_mm = self.shape_hw[1] * self.spacing_mm[1]
        zoom = _clamp(
            min(self.canvas_hw[0] / height_mm, self.canvas_hw[1] / width_mm), MIN_PX_PER_MM, MAX_PX_PER_MM
        )
        free = self.canvas_hw[1] - width_mm * zoom
        left = min(free / 2, max(free - self.covered_right, 0.0)) if self.covered_right else free / 2
        pan = left, (self.canvas_hw[0] - height_mm * zoom) / 2
        return replace(self, px_per_mm=zoom, pan_xy=pan)

    def zoomed(self, factor: float, screen_x: float, screen_y: float) -> Viewport:
        """Zoom by ``factor``; what lies under the given canvas point stays there."""
        zoom = _clamp(self.px_per_mm * factor, MIN_PX_PER_MM, MAX_PX_PER_MM)
        ratio = zoom / self.px_per_mm
        pan = (
            screen_x + (self.pan_xy[0] - screen_x) * ratio,
            screen_y + (self.pan_xy[1] - screen_y) * ratio,
        )
        return self._in_sight(zoom, pan)

    def panned(self, by_x: float, by_y: float) -> Viewport:
        """Move the slice on the canvas; a strip of it always stays in sight."""
        return self._in_sight(self.px_per_mm, (self.pan_xy[0] + by_x, self.pan_xy[1] + by_y))

    def placed(self, px_per_mm: float, pan_x: float, pan_y: float) -> Viewport:
        """Zoom and pan as given, within what is allowed; numbers that are not finite change nothing."""
        if not all(math.isfinite(number) for number in (px_per_mm, pan_x, pan_y)) or px_per_mm <= 0:
            return self
        return self._in_sight(_clamp(px_per_mm, MIN_PX_PER_MM, MAX_PX_PER_MM), (pan_x, pan_y))

    def scale_bar(self, at_most_px: float = 120.0) -> tuple[float, float]:
        """Length of a scale bar: (mm, screen pixels), a round number of mm that fits."""
        for length in _BARS_MM:
            if length * self.px_per_mm <= at_most_px:
                return length, length * self.px_per_mm
        return _BARS_MM[-1], _BARS_MM[-1] * self.px_per_mm

    def _in_sight(self, px_per_mm: float, pan_xy: tuple[float, float]) -> Viewport:
        """Another zoom and pan, moved so far that a strip of the slice is seen; too far is no error."""
        width = self.shape_hw[1] * self.spacing_mm[1] * px_per_mm
        height = self.shape_hw[0] * self.spacing_mm[0] * px_per_mm
        strip_x, strip_y = min(_KEEP_IN_SIGHT_PX, width), min(_KEEP_IN_SIGHT_PX, height)
        pan = (
            _clamp(pan_xy[0], strip_x - width, self.canvas_hw[1] - strip_x),
            _clamp(pan_xy[1], strip_y - height, self.canvas_hw[0] - strip_y),
        )
        return replace(self, px_per_mm=px_per_mm, pan_xy=pan)


def _clamp(value: float, low: float, high: float) -> float:
    return max(low, min(value, high))
