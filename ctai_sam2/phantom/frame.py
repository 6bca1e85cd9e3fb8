"""Sample points of a phantom, and painting labels into part of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ctai_sam2.phantom.parameters import PhantomParameters

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float, float, float]

# The S of the spine is a cosine of 420 mm: lordosis turns to kyphosis 105 mm from the apex.
_SWING_MM = 420.0 / (2 * math.pi)


class Spine:
    """The centre line of the vertebral bodies: x and y (mm) as functions of z (mm).

    Parameters
    ----------
    parameters : PhantomParameters
        Gives lordosis and scoliosis.
    """

    def __init__(self, parameters: PhantomParameters) -> None:
        self._bend = parameters.lordosis_per_mm
        self._apex_mm = parameters.lordosis_apex_mm
        self._bow_mm = parameters.scoliosis_mm

    def x_at(self, z_mm: Floats) -> Floats:
        """Return the lateral offset (mm); 0 at L3."""
        swing = np.cos(z_mm * np.float32(math.pi / 160.0)) - 1
        return np.asarray(np.float32(self._bow_mm / 2) * swing)

    def y_at(self, z_mm: Floats) -> Floats:
        """Return the posterior offset (mm); 0 at L3."""
        swing = np.cos((z_mm - np.float32(self._apex_mm)) / np.float32(_SWING_MM))
        swing = np.float32(math.cos(self._apex_mm / _SWING_MM)) - swing
        return np.asarray(np.float32(2 * self._bend * _SWING_MM**2) * swing)

    def slope_at(self, z_mm: float) -> float:
        """Return dy/dz."""
        return 2.0 * self._bend * _SWING_MM * math.sin((z_mm - self._apex_mm) / _SWING_MM)


class Frame:
    """Patient coordinates of the sample points and the labels painted at them.

    Parameters
    ----------
    x_mm, y_mm, z_mm : numpy.ndarray
        float32, three dimensions each, broadcastable; coordinates after straightening the
        spine (x and y relative to its centre line).
    """

    def __init__(self, x_mm: Floats, y_mm: Floats, z_mm: Floats) -> None:
        self.coordinates = (x_mm, y_mm, z_mm)
        self.labels: npt.NDArray[np.uint8] = np.zeros(
            np.broadcast_shapes(x_mm.shape, y_mm.shape, z_mm.shape), dtype=np.uint8
        )
        # Least and greatest value along each image axis, so that a box is cut out without
        # looking at every point.
        self._bounds = [
            [
                None
                if coordinate.shape[axis] == 1
                else (
                    coordinate.min(axis=tuple(other for other in range(3) if other != axis)),
                    coordinate.max(axis=tuple(other for other in range(3) if other != axis)),
                )
                for axis in range(3)
            ]
            for coordinate in self.coordinates
        ]
        self._extent = [(float(c.min()), float(c.max())) for c in self.coordinates]

    def cut(self, box_mm: Box) -> tuple[slice, slice, slice] | None:
        """Return the smallest index block holding every point of a box (x0, x1, y0, y1, z0, z1)."""
        starts, stops = [0, 0, 0], list(self.labels.shape)
        for index in range(3):
            low, high = box_mm[2 * index], box_mm[2 * index + 1]
            if self._extent[index][0] > high or self._extent[index][1] < low:
                return None
            for axis in range(3):
                bounds = self._bounds[index][axis]
                if bounds is None:
                    continue
                hits = np.flatnonzero((bounds[1] >= low) & (bounds[0] <= high))
                if hits.size == 0:
                    return None
                starts[axis] = max(starts[axis], int(hits[0]))
                stops[axis] = min(stops[axis], int(hits[-1]) + 1)
        if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
            return None
        return (slice(starts[0], stops[0]), slice(starts[1], stops[1]), slice(starts[2], stops[2]))

    def near(self, centres_mm: npt.NDArray[np.float64], reach_mm: npt.NDArray[np.float64]) -> list[int]:
        """Return the indices of those boxes (N, 3: centre, half-size) that may hold a sample point."""
        low = np.asarray([extent[0] for extent in self._extent])
        high = np.asarray([extent[1] for extent in self._extent])
        hits = ((centres_mm + reach_mm >= low) & (centres_mm - reach_mm <= high)).all(axis=1)
        return [int(index) for index in np.flatnonzero(hits)]

    def points(self, block: tuple[slice, slice, slice]) -> tuple[Floats, Floats, Floats]:
        """Return the coordinates of a block, still broadcastable."""
        x_mm, y_mm, z_mm = (
            coordinate[
                tuple(
                    part if size > 1 else slice(None)
                    for part, size in zip(block, coordinate.shape, strict=True)
                )
            ]
            for coordinate in self.coordinates
        )
        return x_mm, y_mm, z_mm

    def paint(
        self,
        box_mm: Box,
        inside: Callable[[Floats, Floats, Floats], Bools],
        label: int,
        *,
        over: tuple[int, ...] | None = None,
    ) -> None:
        """Write a label where a shape is, optionally only over certain labels."""
        block = self.cut(box_mm)
        if block is None:
            return
        where = inside(*self.points(block))
        view = self.labels[block]
        if over is not None:
            allowed = view == over[0]
            for other in over[1:]:
                allowed |= view == other
            where = where & allowed
        view[np.broadcast_to(where, view.shape)] = label


def power(values: Floats, exponent: float) -> Floats:
    """Return ``|values| ** exponent`` in float32, fast for the square."""
    if exponent == 2.0:
        return values * values
    if exponent == 4.0:
        squares = values * values
        return squares * squares
    return np.abs(values) ** np.float32(exponent)
