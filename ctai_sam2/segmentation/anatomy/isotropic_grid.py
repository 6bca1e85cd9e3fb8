"""The grid on which anatomy is looked for: one millimetre a pixel, whatever the slice had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ctai_sam2.image.distances import box_of
from ctai_sam2.types import CTSlice, Mask

GRID_MM = 1.0
"""Side of a grid pixel. Distances in mm are pixel counts in this room."""

_NOISE_SIGMA_MM = 0.6


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """A slice resampled to `GRID_MM`, and the way back.

    Parameters
    ----------
    hu : ndarray of float32, shape (h, w)
        Slightly smoothed Hounsfield units.
    spacing_mm : tuple of float
        (row spacing, column spacing) of the slice.
    slice_shape_hw : tuple of int
        Shape of the slice.
    """

    hu: NDArray[np.float32]
    spacing_mm: tuple[float, float]
    slice_shape_hw: tuple[int, int]

    @classmethod
    def of(cls, ct_slice: CTSlice) -> Grid:
        """Resample a slice linearly; its edges stay where they are."""
        spacing, shape = ct_slice.spacing_mm, ct_slice.shape_hw
        hu = np.clip(ct_slice.hu.astype(np.float32), -1024, 2000)
        # Pixels finer than the grid are averaged; coarser ones need no smoothing.
        hu = ndimage.gaussian_filter(hu, [_NOISE_SIGMA_MM / s if s < GRID_MM else 0.0 for s in spacing])
        size = [max(round(n * s / GRID_MM), 1) for n, s in zip(shape, spacing, strict=True)]
        rows, columns = ((np.arange(n) + 0.5) * GRID_MM / s - 0.5 for n, s in zip(size, spacing, strict=True))
        at = np.meshgrid(rows, columns, indexing="ij")
        return cls(
            hu=ndimage.map_coordinates(hu, at, order=1, mode="nearest").astype(np.float32),
            spacing_mm=spacing,
            slice_shape_hw=shape,
        )

    def points_to_slice(self, points_xy: ArrayLike) -> NDArray[np.float64]:
        """Points (x, y) on the grid to points on the slice, shape (N, 2)."""
        points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
        return np.asarray((points + 0.5) * GRID_MM / np.array(self.spacing_mm[::-1]) - 0.5)

    def mask_to_slice(self, mask: Mask) -> Mask:
        """Sample a mask of the grid at the slice's pixel centres, shape (H, W)."""
        rows, columns = (
            (np.arange(n) + 0.5) * s / GRID_MM - 0.5
            for n, s in zip(self.slice_shape_hw, self.spacing_mm, strict=True)
        )
        sampled = np.zeros(self.slice_shape_hw, np.bool_)
        box = box_of(mask, 1, 1)
        if box is not None:
            # Further than a grid pixel from the mask, all that is interpolated is 0.
            near = tuple(
                slice(*np.searchsorted(at, [part.start - 0.5, part.stop]).tolist())
                for at, part in zip((rows, columns), box, strict=True)
            )
            at = np.meshgrid(rows[near[0]], columns[near[1]], indexing="ij")
            values = ndimage.map_coordinates(mask.astype(np.float32), at, order=1, mode="nearest")
            sampled[near] = values >= 0.5
        return sampled

    def mask_to_grid(self, mask: Mask) -> Mask:
        """Sample a mask of the slice at the grid's pixel centres, shape (h, w), by nearest pixel."""
        rows, columns = (
            np.clip(np.floor((np.arange(n) + 0.5) * GRID_MM / s).astype(np.intp), 0, size - 1)
            for n, s, size in zip(self.hu.shape, self.spacing_mm, self.slice_shape_hw, strict=True)
        )
        sampled: Mask = mask[np.ix_(rows, columns)]
        return sampled
