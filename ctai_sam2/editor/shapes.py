"""What a hand draws, as pixels: strokes, rectangles, connected regions.

Coordinates are image coordinates (x = column, y = row, integer = pixel centre).
Nothing here fails because a hand left the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.geometry import xy_to_rc
from ctai_sam2.image.masks import label_components
from ctai_sam2.types import Mask

# A slip of 1e-6 mm must not decide whether the pixel just at the brush's edge is painted.
_SLACK = 1e-6


def stroke_to_mask(
    points_xy: ArrayLike,
    radius: tuple[float, float],
    shape_hw: tuple[int, int],
    *,
    scales: Sequence[float] = (),
) -> Mask:
    """Pixels whose centre lies within a brush drawn along a line, and every pixel the line itself crosses.

    Parameters
    ----------
    points_xy : array_like, shape (N, 2)
        The line; one point is a dab.
    radius : (float, float)
        Radius of the brush in pixels along x and along y; they differ where pixels are not square.
    shape_hw : (int, int)
        Rows and columns.
    scales : sequence of float, optional
        Share of the radius at each point, above 0 to 1, as a pen's pressure gives it: the way to a point is
        as wide as the point. The whole radius when omitted.

    Raises
    ------
    InputError
        If there is no point, one is not finite, a radius is negative, or the scales do not fit.

    Examples
    --------
    >>> stroke_to_mask([[0, 1], [2, 1]], (0, 0), (3, 4)).astype(int)
    array([[0, 0, 0, 0],
           [1, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    points = checked_points(points_xy, least=1)
    rx, ry = radius
    if not (np.isfinite([rx, ry]).all() and rx >= 0 and ry >= 0):
        raise InputError("a brush's radius must be finite and not negative", received=radius)
    height, width = shape_hw
    # A hand that strays further than this draws nothing there; the cut keeps the work bounded.
    margin = np.array([width + 2 * rx, height + 2 * ry])
    points = np.clip(points, -margin, 2 * margin)
    painted = np.zeros(shape_hw, dtype=np.bool_)
    starts, ends = (points[:-1], points[1:]) if len(points) > 1 else (points, points)
    for start, end, scale in zip(starts, ends, _checked_scales(scales, len(points)), strict=True):
        reach = np.array([rx, ry]) * scale
        unit = np.maximum(reach, _SLACK)
        low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
        x0, y0 = np.maximum(np.ceil(low - _SLACK), 0).astype(int)
        x1, y1 = np.minimum(np.floor(high + _SLACK) + 1, (width, height)).astype(int)
        if x0 < x1 and y0 < y1:
            offset_x = (np.arange(x0, x1) - start[0])[None, :] / unit[0]
            offset_y = (np.arange(y0, y1) - start[1])[:, None] / unit[1]
            along = (end - start) / unit
            length = float(along @ along)
            nearest = np.clip((offset_x * along[0] + offset_y * along[1]) / length, 0, 1) if length else 0.0
            distance = (offset_x - nearest * along[0]) ** 2 + (offset_y - nearest * along[1]) ** 2
            painted[y0:y1, x0:x1] |= distance <= (1 + _SLACK) ** 2
        _mark_line(painted, start, end)
    return painted


def box_to_mask(box_xyxy: Sequence[float], shape_hw: tuple[int, int]) -> Mask:
    """Pixels whose centre lies in a box, edges included.

    Examples
    --------
    >>> box_to_mask((0.6, 0, 9, 0.4), (2, 3)).astype(int)
    array([[0, 1, 1],
           [0, 0, 0]])
    """
    [low, high] = checked_points(np.reshape(box_xyxy, (2, 2)), least=2)
    x0, y0 = np.minimum(low, high)
    x1, y1 = np.maximum(low, high)
    columns, rows = np.arange(shape_hw[1]), np.arange(shape_hw[0])
    return np.asarray(
        ((rows >= y0) & (rows <= y1))[:, None] & ((columns >= x0) & (columns <= x1))[None, :], dtype=np.bool_
    )


def connected_region(within: Mask, x: float, y: float) -> Mask:
    """Find the part of ``within``, joined by steps up, down, left or right, that holds a point; may be empty.

    Examples
    --------
    >>> connected_region(np.array([[True, False, True]]), 2, 0).astype(int)
    array([[0, 0, 1]])
    """
    row, column = pixel_of(x, y)
    if not (0 <= row < within.shape[0] and 0 <= column < within.shape[1] and within[row, column]):
        return np.zeros_like(within)
    labels, _ = label_components(within, diagonal=False)
    return np.asarray(labels == labels[row, column], dtype=np.bool_)


def pixel_of(x: float, y: float) -> tuple[int, int]:
    """[row, column] of the pixel a point lies in; it may be outside of the image."""
    [[row, column]] = np.floor(xy_to_rc([[x, y]]) + 0.5)
    return int(row), int(column)


def checked_points(points_xy: ArrayLike, *, least: int) -> NDArray[np.float64]:
    """Points as floats (N, 2).

    Raises
    ------
    InputError
        If they are no pairs, fewer than ``least``, or not finite.
    """
    try:
        points = np.array(points_xy, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("points must be pairs of numbers (x, y)") from error
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < least or not np.isfinite(points).all():
        raise InputError(
            f"at least {least} finite points (x, y) are needed", received=f"shape {points.shape}"
        )
    return points


def _checked_scales(scales: Sequence[float], count: int) -> NDArray[np.float64]:
    """Return the scale of each part of a line of ``count`` points."""
    checked = np.asarray(scales if len(scales) else np.ones(count), dtype=np.float64)
    if checked.shape != (count,) or not ((checked > 0) & (checked <= 1)).all():
        raise InputError("a brush's scales must lie above 0 and up to 1, one for each point")
    return checked if count == 1 else checked[1:]


def _mark_line(painted: Mask, start: NDArray[np.float64], end: NDArray[np.float64]) -> None:
    steps = int(np.ceil(2 * np.abs(end - start).max())) + 1
    samples = np.floor(np.linspace(start, end, steps + 1) + 0.5).astype(int)
    inside = ((samples >= 0) & (samples < painted.shape[::-1])).all(axis=1)
    painted[samples[inside, 1], samples[inside, 0]] = True
