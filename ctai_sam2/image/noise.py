"""How noisy a slice is, measured in its own fat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.image.distances import box_of
from ctai_sam2.image.masks import shrink
from ctai_sam2.types import Mask

_FINE_MM: Final = 1.0
_COARSE_MM: Final = 2.5
_EDGE_MM: Final = 1.5
_LEAST_MM2: Final = 150.0
_MAD_TO_STD: Final = 1.4826


def measure_noise_hu(hu: NDArray[Any], tissue: Mask, spacing_mm: Sequence[float]) -> float | None:
    """Measure the graininess of an even tissue at the scale of thin muscles and fat planes.

    The slice is smoothed over a millimetre, so that pixels of another size or a sharper kernel change little,
    and what changes slowly is taken off. The spread is robust, so that vessels and septa hardly count.

    Parameters
    ----------
    hu : ndarray, shape (H, W)
        The slice.
    tissue : ndarray of bool, shape (H, W)
        Subcutaneous fat, where there is any: nothing in the trunk is more even.
    spacing_mm : (float, float)
        (row, column).

    Returns
    -------
    float or None
        Standard deviation in HU; None where there is too little of the tissue away from its edge.
    """
    box = box_of(tissue, *(int(np.ceil(_EDGE_MM / spacing)) + 1 for spacing in spacing_mm))
    if box is None:
        return None
    inner = shrink(tissue[box], _EDGE_MM, spacing_mm)
    if inner.sum() * spacing_mm[0] * spacing_mm[1] < _LEAST_MM2:
        return None
    values = np.where(inner, hu[box], 0).astype(np.float32)
    grain = _smooth(values, inner, _FINE_MM, spacing_mm) - _smooth(values, inner, _COARSE_MM, spacing_mm)
    return float(_MAD_TO_STD * np.median(np.abs(grain - np.median(grain))))


def _smooth(
    values: NDArray[np.float32], where: Mask, size_mm: float, spacing_mm: Sequence[float]
) -> NDArray[np.float32]:
    """Return the mean around each pixel of a mask, of the mask's own pixels only."""
    sizes = [size_mm / spacing for spacing in spacing_mm]
    total, share = (
        ndimage.gaussian_filter(part, sizes, mode="constant") for part in (values, where.astype(np.float32))
    )
    mean: NDArray[np.float32] = total[where] / share[where]
    return mean
