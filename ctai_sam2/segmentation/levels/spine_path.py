"""The line through the vertebral bodies on a sagittal slice, and the spine laid straight along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.types import Mask

_BODY_HALF_MM = 13
_CANAL_FROM_MM, _CANAL_TO_MM = 18, 28
_ARCHES_MM = (33, 58)
_LEAST_FROM_BACK_MM = 52
_USUAL_FROM_BACK_MM = 95
_ARCHES_WORTH = 1.0
_CANAL_COST = 0.8
_STEEPEST = 2
_BEND_COST = 6.0
_SMOOTH_MM = 9.0
_LEAST_BONE_HU = 60.0
HALF_WIDTH_MM = 30
"""How far the straightened spine reaches before and behind the line."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StraightSpine:
    """The neighbourhood of the spine, resampled so that the spine runs straight down.

    Parameters
    ----------
    hu : ndarray of float32, shape (S, 2 * HALF_WIDTH_MM + 1)
        One row per millimetre along the line; the first column is anterior.
    line_xy : ndarray, shape (S, 2)
        The line on the grid of one millimetre.
    down_xy : ndarray, shape (S, 2)
        Unit vectors along it, towards the feet.
    """

    hu: NDArray[np.float32]
    line_xy: NDArray[np.float64]
    down_xy: NDArray[np.float64]

    def place(self, along_mm: float, across_mm: float) -> tuple[float, float]:
        """Point on the grid, (x, y), from millimetres along and behind the line."""
        index = int(np.clip(round(along_mm), 0, len(self.line_xy) - 1))
        dx, dy = self.down_xy[index]
        x, y = self.line_xy[index] + (along_mm - index) * self.down_xy[index]
        # Behind the line is to the right of it on the image, at a right angle to the way down.
        return float(x + across_mm * dy), float(y - across_mm * dx)


def straighten_spine(hu: NDArray[np.float32], body: Mask) -> StraightSpine:
    """Follow the vertebral bodies from the top of a sagittal slice to its bottom.

    A vertebral body is a broad bright patch with the darker canal behind it; the line is the path from
    top to bottom that sees most of that, bending little.

    Parameters
    ----------
    hu : ndarray of float32, shape (h, w)
        At one millimetre a pixel, anterior on the left.
    body : ndarray of bool, shape (h, w)
        The patient.

    Raises
    ------
    AnatomyNotFound
        If no spine is visible.
    """
    rows = np.flatnonzero(body.sum(axis=1) > 40)
    if rows.size < 60:
        raise AnatomyNotFound(
            "no spine is visible on the slice",
            received=f"{rows.size} mm of body",
            hint="Give a sagittal slice through the middle of the spine, 60 mm or more in height.",
        )
    first, last = int(rows[0]), int(rows[-1])
    worth, bone = _worth_of_columns(hu, body)
    columns = _best_path(worth[first : last + 1])
    if float(np.median(bone[np.arange(first, last + 1), columns])) < _LEAST_BONE_HU:
        raise AnatomyNotFound(
            "no spine is visible on the slice",
            hint="Give a sagittal slice through the middle of the spine, or place a point in L3.",
        )
    smooth = ndimage.gaussian_filter1d(columns.astype(np.float64), _SMOOTH_MM, mode="nearest")
    line = np.column_stack([smooth, np.arange(first, last + 1, dtype=np.float64)])
    steps = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    along = np.arange(0.0, steps[-1], 1.0)
    line = np.column_stack([np.interp(along, steps, line[:, 0]), np.interp(along, steps, line[:, 1])])
    down = np.gradient(ndimage.gaussian_filter1d(line, 4.0, axis=0, mode="nearest"), axis=0)
    down /= np.linalg.norm(down, axis=1, keepdims=True)
    across = np.arange(-HALF_WIDTH_MM, HALF_WIDTH_MM + 1)
    x = line[:, :1] + across * down[:, 1:]
    y = line[:, 1:] - across * down[:, :1]
    straight = ndimage.map_coordinates(hu, [y, x], order=1, mode="nearest").astype(np.float32)
    return StraightSpine(hu=straight, line_xy=line, down_xy=down)


def _worth_of_columns(hu: NDArray[np.float32], body: Mask) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Clipped, so that the thin dense arches are not worth more than the broad bodies.
    shown = np.where(body, np.clip(hu, -100, 220), -100).astype(np.float64)
    tall = ndimage.uniform_filter1d(shown, 25, axis=0, mode="nearest")
    bone = _mean_between(tall, -_BODY_HALF_MM, _BODY_HALF_MM)
    canal = _mean_between(tall, _CANAL_FROM_MM, _CANAL_TO_MM)
    arches = _mean_between(ndimage.uniform_filter1d(shown, 61, axis=0, mode="nearest"), *_ARCHES_MM)
    distance_to_back = np.cumsum(body[:, ::-1], axis=1)[:, ::-1]
    plausible = body & (distance_to_back > _LEAST_FROM_BACK_MM) & (distance_to_back < 190)
    worth = bone - _CANAL_COST * np.clip(canal, 0, None) + _ARCHES_WORTH * np.clip(arches, 0, 150)
    # Heart and aorta can be as bright: lung lies behind the heart, and both lie far from the back.
    worth -= np.clip(20 - canal, 0, None) + np.clip(distance_to_back - _USUAL_FROM_BACK_MM, 0, None)
    return np.where(plausible, worth, -300.0), bone


def _mean_between(values: NDArray[np.float64], start: int, stop: int) -> NDArray[np.float64]:
    """Mean of the columns ``start`` to ``stop`` to the right of each pixel; -100 beyond the edge."""
    padded = np.pad(values, ((0, 0), (64, 64)), constant_values=-100.0)
    total = np.cumsum(np.pad(padded, ((0, 0), (1, 0))), axis=1)
    width = values.shape[1]
    high = total[:, 64 + stop + 1 : 64 + stop + 1 + width]
    low = total[:, 64 + start : 64 + start + width]
    return np.asarray((high - low) / (stop - start + 1), dtype=np.float64)


def _best_path(worth: NDArray[np.float64]) -> NDArray[np.intp]:
    """Column per row that maximises the sum of worth, moving a little from row to row."""
    height, width = worth.shape
    best = worth[0].copy()
    came = np.zeros((height, width), dtype=np.int8)
    shifts = list(range(-_STEEPEST, _STEEPEST + 1))
    for row in range(1, height):
        options = np.full((len(shifts), width), -np.inf)
        for number, shift in enumerate(shifts):
            source = slice(max(shift, 0), width + min(shift, 0))
            target = slice(max(-shift, 0), width + min(-shift, 0))
            options[number, target] = best[source] - _BEND_COST * shift * shift
        choice = np.argmax(options, axis=0)
        came[row] = choice - _STEEPEST
        best = worth[row] + np.take_along_axis(options, choice[None], 0)[0]
    path = np.empty(height, dtype=np.intp)
    path[-1] = int(np.argmax(best))
    for row in range(height - 1, 0, -1):
        path[row - 1] = path[row] + came[row, path[row]]
    return path
