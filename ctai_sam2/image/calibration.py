"""Whether a CT is calibrated: what air around the patient and the fat beneath the skin read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.image.distances import deeper_than
from ctai_sam2.image.masks import grow
from ctai_sam2.image.padding import AIR_HU
from ctai_sam2.types import Mask

_AWAY_MM: Final = 10.0
_AIR_RANGE_HU: Final = (-1024, -850)
_AIR_SEEN_HU: Final = (-1021.0, -960.0)
"""What may be air: below it noise is cut off, above it lie blankets."""

_LEAST_AIR_PIXELS: Final = 400
_LEAST_AIR_SHARE: Final = 0.1
_SMOOTHING_HU: Final = 3.0
_FAT_RANGE_HU: Final = (-200.0, -40.0)
_FAT_DEPTH_MM: Final = (3.0, 15.0)
_LEAST_FAT_MM2: Final = 500.0


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What two well-known substances read on a slice.

    Parameters
    ----------
    air_hu : float or None
        The most frequent value of the air around the patient, -1000 by definition; None where too little is
        seen, it was masked, or cannot be distinguished from padding or blankets.
    fat_hu : float or None
        Median of the fat 3 to 15 mm beneath the skin; None where there is too little.
    """

    air_hu: float | None
    fat_hu: float | None


def measure_calibration(hu: NDArray[Any], body: Mask, spacing_mm: Sequence[float]) -> Calibration:
    """Measure what air and fat read on an axial slice.

    Parameters
    ----------
    hu : ndarray, shape (H, W)
        The slice.
    body : ndarray of bool, shape (H, W)
        The patient.
    spacing_mm : sequence of 2 floats
        (row, column).
    """
    outside = ~grow(body, _AWAY_MM, spacing_mm)
    return Calibration(air_hu=_air_of(hu[outside]), fat_hu=_fat_of(hu, body, spacing_mm))


def _air_of(outside: NDArray[Any]) -> float | None:
    """Return the mode of air; blankets and the table are above it, padding is one value."""
    if outside.size == 0:
        return None
    lowest = max(float(outside.min()), float(AIR_HU))
    air = outside[(outside > lowest) & (outside < _AIR_RANGE_HU[1])]
    if air.size < max(_LEAST_AIR_PIXELS, _LEAST_AIR_SHARE * outside.size):
        return None
    counts = np.bincount(np.rint(air - _AIR_RANGE_HU[0]).astype(np.intp))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), _SMOOTHING_HU)
    mode = float(np.argmax(smooth) + _AIR_RANGE_HU[0])
    return mode if _AIR_SEEN_HU[0] <= mode <= _AIR_SEEN_HU[1] else None


def _fat_of(hu: NDArray[Any], body: Mask, spacing_mm: Sequence[float]) -> float | None:
    sampling = (float(spacing_mm[0]), float(spacing_mm[1]))
    beneath = deeper_than(body, _FAT_DEPTH_MM[0], sampling) & ~deeper_than(body, _FAT_DEPTH_MM[1], sampling)
    rim = hu[beneath]
    fat = rim[(rim > _FAT_RANGE_HU[0]) & (rim < _FAT_RANGE_HU[1])]
    if fat.size * sampling[0] * sampling[1] < _LEAST_FAT_MM2:
        return None
    return float(np.median(fat))
