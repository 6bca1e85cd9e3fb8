"""Cutting a square out of a slice for the bank, at one size in pixels and with room to turn it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_AIR_HU: Final = -1024


def resample_square(
    hu: npt.NDArray[Any],
    *,
    square: tuple[float, float, float],
    spacing_mm: tuple[float, float],
    size_px: int,
    fill: int = _AIR_HU,
) -> npt.NDArray[np.int16]:
    """Cut a square out of a slice and resample it.

    Parameters
    ----------
    hu : numpy.ndarray
        (H, W).
    square : tuple of float
        Middle x, middle y and side in mm; the centre of pixel (0, 0) is the origin.
    spacing_mm : tuple of float
        Distance between rows, between columns of `hu`.
    size_px : int
        Side of the result in pixels.
    fill : int
        Value beyond the slice.

    Returns
    -------
    numpy.ndarray
        int16 (size_px, size_px), bilinear; averaged first where it shrinks.
    """
    x_mm, y_mm, side_mm = square
    step_mm = side_mm / size_px
    image = hu.astype(np.float32)
    blur = [max(0.0, 0.4 * (step_mm / spacing - 1)) for spacing in spacing_mm]
    if any(blur):
        image = ndimage.gaussian_filter(image, blur, mode="nearest")
    offsets = (np.arange(size_px) + 0.5) * step_mm - side_mm / 2
    rows = (y_mm + offsets) / spacing_mm[0]
    columns = (x_mm + offsets) / spacing_mm[1]
    grid = np.meshgrid(rows, columns, indexing="ij")
    result = ndimage.map_coordinates(image, grid, order=1, mode="constant", cval=fill)
    return np.rint(result).astype(np.int16)
