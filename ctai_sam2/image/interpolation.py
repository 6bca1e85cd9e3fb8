"""Shapes between two slices, by signed distances to their borders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.types import Mask


def signed_distance_mm(mask: Mask, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
    """Distance to the border of a mask in mm, positive inside, shape (H, W); an empty mask is far outside."""
    sampling = (float(spacing_mm[0]), float(spacing_mm[1]))
    if not mask.any():
        far = float(np.hypot(mask.shape[0] * sampling[0], mask.shape[1] * sampling[1]))
        return np.full(mask.shape, -far, np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling=sampling)
    outside = ndimage.distance_transform_edt(~mask, sampling=sampling)
    return np.asarray(np.where(mask, inside, -outside), np.float32)


def interpolate_masks(lower: Mask, upper: Mask, share: float, spacing_mm: Sequence[float]) -> Mask:
    """Return the shape between two slices by blended signed distances.

    Parameters
    ----------
    lower, upper : ndarray of bool, shape (H, W)
        The two slices; where one is empty the other decides within its half.
    share : float
        0 at ``lower``, 1 at ``upper``.
    spacing_mm : (float, float)
        (row, column) spacing.

    Notes
    -----
    Raya and Udupa, IEEE Transactions on Medical Imaging 9 (1990) 32-42.
    """
    if not lower.any() or not upper.any():
        return np.array(lower if share < 0.5 else upper)
    blended = (1.0 - share) * signed_distance_mm(lower, spacing_mm) + share * signed_distance_mm(
        upper, spacing_mm
    )
    return np.asarray(blended > 0)
