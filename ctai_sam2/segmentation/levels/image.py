"""What the level network sees of a slice: two grey windows at two millimetres a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.segmentation.levels.network import STRIDE
from ctai_sam2.types import CTSlice

PIXEL_MM = 2.0
AIR_HU = -1024.0
_SOFT = (-200.0, 300.0)
_BONE = (-100.0, 1100.0)


def to_channels(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """Soft-tissue and bone window of HU, each -1 to 1, shape (2, ...)."""
    soft, bone = (
        np.clip((hu - low) / (high - low), 0.0, 1.0) * 2.0 - 1.0 for low, high in (_SOFT, _BONE)
    )
    return np.stack([soft, bone]).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelImage:
    """A slice at `PIXEL_MM`, padded with air, and the way back.

    Parameters
    ----------
    hu : ndarray of float32, shape (h, w)
        Sides are multiples of the network's stride.
    spacing_mm : tuple of float
        (row, column) spacing of the slice.
    """

    hu: NDArray[np.float32]
    spacing_mm: tuple[float, float]

    @classmethod
    def of(cls, ct_slice: CTSlice) -> LevelImage:
        """Resample a slice; pixels finer than the grid are averaged, its upper left corner stays."""
        return cls.from_hu(ct_slice.hu, ct_slice.spacing_mm)

    @classmethod
    def from_hu(cls, hu: NDArray[np.generic], spacing_mm: tuple[float, float]) -> LevelImage:
        """Resample HU of shape (H, W)."""
        image = np.clip(hu.astype(np.float32), AIR_HU, 2000.0)
        sigma = [0.42 * np.sqrt(max((PIXEL_MM / s) ** 2 - 1.0, 0.0)) for s in spacing_mm]
        image = ndimage.gaussian_filter(image, sigma, mode="nearest")
        for axis, spacing in enumerate(spacing_mm):
            image = _resample(image, axis, spacing)
        padding = [(0, -size % STRIDE) for size in image.shape]
        return cls(hu=np.pad(image, padding, constant_values=AIR_HU), spacing_mm=spacing_mm)

    def to_slice_xy(self, points_xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (x, y) in pixels of this image to pixels of the slice, shape (N, 2)."""
        return np.asarray((points_xy + 0.5) * PIXEL_MM / np.array(self.spacing_mm[::-1]) - 0.5)


def _resample(image: NDArray[np.float32], axis: int, spacing: float) -> NDArray[np.float32]:
    size = image.shape[axis]
    count = max(round(size * spacing / PIXEL_MM), 1)
    at = np.clip((np.arange(count) + 0.5) * PIXEL_MM / spacing - 0.5, 0, size - 1)
    low = np.floor(at).astype(np.intp)
    part = (at - low).astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
    high = np.minimum(low + 1, size - 1)
    return np.asarray(np.take(image, low, axis) * (1 - part) + np.take(image, high, axis) * part)
