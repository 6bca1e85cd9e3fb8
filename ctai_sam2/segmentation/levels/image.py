"""What the level network sees of a slice: two gray windows at two millimetres a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.types import CTSlice

Floats = NDArray[np.float32]

PIXEL_MM: Final = 2.0
"""Side of a pixel of what the network sees."""

STRIDE: Final = 32
"""Height and width of the network's input are multiples of this."""

AIR_HU: Final = -1024.0
_SOFT = (-200.0, 300.0)
_BONE = (-100.0, 1100.0)
_HIGHEST_HU = 2000.0


def to_channels(hu: Floats) -> Floats:
    """Soft-tissue and bone window of HU, each -1 to 1, shape (2, h, w)."""
    soft, bone = (np.clip((hu - low) / (high - low), 0.0, 1.0) * 2.0 - 1.0 for low, high in (_SOFT, _BONE))
    return np.stack([soft, bone]).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelImage:
    """A slice at `PIXEL_MM`, padded with air, and the way back.

    Parameters
    ----------
    hu : ndarray of float32, shape (h, w)
        Sides are multiples of `STRIDE`.
    rows_mm, columns_mm : ndarray
        Where the slice's rows and columns lie, in mm from the first edge.
    """

    hu: Floats
    rows_mm: NDArray[np.float64]
    columns_mm: NDArray[np.float64]

    @classmethod
    def of(cls, ct_slice: CTSlice) -> LevelImage:
        """Resample a slice; pixels finer than the grid are averaged, gaps between rows are bridged."""
        height, width = ct_slice.shape_hw
        row_mm, column_mm = ct_slice.spacing_mm
        offsets = np.arange(height) if ct_slice.row_offsets is None else ct_slice.row_offsets
        rows: NDArray[np.float64] = (np.asarray(offsets, dtype=np.float64) + 0.5) * row_mm
        columns: NDArray[np.float64] = (np.arange(width, dtype=np.float64) + 0.5) * column_mm
        hu = smooth_to_grid(ct_slice.hu, (row_mm, column_mm))
        return cls(
            hu=pad_to_stride(_resample(_resample(hu, 0, rows), 1, columns)), rows_mm=rows, columns_mm=columns
        )

    def to_slice_xy(self, points_xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (x, y) in pixels of this image to pixels of the slice, shape (N, 2)."""
        points_mm = (np.asarray(points_xy, dtype=np.float64).reshape(-1, 2) + 0.5) * PIXEL_MM
        return np.column_stack(
            [_index_at(points_mm[:, 0], self.columns_mm), _index_at(points_mm[:, 1], self.rows_mm)]
        )


def smooth_to_grid(hu: NDArray[Any], spacing_mm: tuple[float, ...]) -> Floats:
    """Clip HU and average pixels that are finer than the grid."""
    image = np.clip(hu.astype(np.float32), AIR_HU, _HIGHEST_HU)
    sigma = [0.42 * float(np.sqrt(max((PIXEL_MM / s) ** 2 - 1.0, 0.0))) for s in spacing_mm]
    return np.asarray(ndimage.gaussian_filter(image, sigma, mode="nearest"))


def pad_to_stride(hu: Floats) -> Floats:
    """Pad with air to the right and below, up to multiples of `STRIDE`."""
    return np.pad(hu, [(0, -size % STRIDE) for size in hu.shape], constant_values=AIR_HU)


def _resample(image: Floats, axis: int, at_mm: NDArray[np.float64]) -> Floats:
    """Read an image linearly at the grid's pixel centres along one axis."""
    size = image.shape[axis]
    step = at_mm[1] - at_mm[0] if size > 1 else PIXEL_MM
    count = max(round((float(at_mm[-1]) + step / 2) / PIXEL_MM), 1)
    at = np.interp((np.arange(count) + 0.5) * PIXEL_MM, at_mm, np.arange(size))
    low = np.floor(at).astype(np.intp)
    part = (at - low).astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
    high = np.minimum(low + 1, size - 1)
    return np.asarray(np.take(image, low, axis) * (1 - part) + np.take(image, high, axis) * part)


def _index_at(points_mm: NDArray[np.float64], at_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fractional index of places along an axis, beyond its ends too."""
    if len(at_mm) < 2:
        return np.zeros(len(points_mm))
    index = np.interp(points_mm, at_mm, np.arange(len(at_mm)))
    first, last = at_mm[1] - at_mm[0], at_mm[-1] - at_mm[-2]
    below, above = np.minimum(points_mm - at_mm[0], 0) / first, np.maximum(points_mm - at_mm[-1], 0) / last
    return np.asarray(index + below + above)
