"""Shapes between two slices, by signed distances to their borders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from ctai_sam2.image.distances import box_of
from ctai_sam2.types import Mask

_LARGEST_GAIN_MM = 2.0


def signed_distance_mm(mask: Mask, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
    """Distance to the border of a mask in mm, positive inside, shape (H, W); an empty mask is far outside."""
    sampling = (float(spacing_mm[0]), float(spacing_mm[1]))
    if not mask.any():
        far = float(np.hypot(mask.shape[0] * sampling[0], mask.shape[1] * sampling[1]))
        return np.full(mask.shape, -far, np.float32)
    inside = scipy.ndimage.distance_transform_edt(mask, sampling=sampling)
    outside = scipy.ndimage.distance_transform_edt(~mask, sampling=sampling)
    return np.asarray(np.where(mask, inside, -outside), np.float32)


def interpolate_masks(
    lower: Mask, upper: Mask, share: float, spacing_mm: Sequence[float], *, drifts: bool = True
) -> Mask:
    """Return the shape between two slices by blended signed distances; see `blend_masks`.

    Parameters
    ----------
    lower, upper : ndarray of bool, shape (H, W)
        The two slices.
    share : float
        0 at ``lower``, 1 at ``upper``.
    spacing_mm : (float, float)
        (row, column) spacing.
    drifts : bool
        Whether the shape moves from one to the other; False for two masks of one slice.
    """
    return blend_masks(lower, upper, [share], spacing_mm, drifts=drifts)[0]


def blend_masks(
    lower: Mask,
    upper: Mask,
    shares: Sequence[float],
    spacing_mm: Sequence[float],
    *,
    drifts: bool = True,
    within: Sequence[Mask] | None = None,
    sizes: tuple[int, int] | None = None,
) -> list[Mask]:
    """Return the shapes at several places between two slices.

    Shapes that drift are laid over each other at their centres before they are blended, and the border is
    drawn where the root of the area is between both roots: blended in place, a shape that moves or changes
    shrinks on its way (psoas outlined by eye, 9 mm from either slice: areas 4.3 % too small, with both steps
    1.2 %; Dice 0.958 and 0.965).

    Parameters
    ----------
    lower, upper, spacing_mm, drifts
        As in `interpolate_masks`; where one is empty the other decides within its half.
    shares : sequence of float
        Places, 0 at ``lower`` and 1 at ``upper``.
    within : sequence of ndarray of bool, optional
        Of each place, the pixels that can belong to the shape. What is taken from it so is made up for at its
        border, up to 2 mm: thin muscle with fat in it would shrink.
    sizes : (int, int), optional
        Pixels of ``lower`` and ``upper`` that the size is between, where not all of theirs count.

    Notes
    -----
    Raya and Udupa, IEEE Transactions on Medical Imaging 9 (1990) 32-42.
    """
    # No blend reaches further than both shapes together.
    box = box_of(lower | upper, 1, 1)
    if box is None or not lower.any() or not upper.any():
        nearer = [np.array(lower if share < 0.5 else upper) for share in shares]
        return nearer if within is None else [a & b for a, b in zip(nearer, within, strict=True)]
    below, above = (signed_distance_mm(mask[box], spacing_mm) for mask in (lower, upper))
    at_lower, at_upper = (int(lower.sum()), int(upper.sum())) if sizes is None else sizes
    centres = [np.asarray(scipy.ndimage.center_of_mass(mask[box])) for mask in (lower, upper)]
    way = centres[1] - centres[0] if drifts else np.zeros(2)
    blended = []
    for place, share in enumerate(shares):
        field = (1.0 - share) * _moved(below, share * way) + share * _moved(above, (share - 1) * way)
        side = (1.0 - share) * at_lower**0.5 + share * at_upper**0.5
        size = max(round(side**2), 1)
        mask = np.zeros(lower.shape, np.bool_)
        if within is not None:
            field = np.where(within[place][box], field, -np.inf)
        mask[box] = field >= max(np.partition(field, -size, axis=None)[-size], -_LARGEST_GAIN_MM)
        blended.append(mask)
    return blended


def _moved(distances: NDArray[np.float32], by_yx: NDArray[np.float64]) -> NDArray[np.float32]:
    if np.abs(by_yx).max() < 0.01:
        return distances
    return np.asarray(scipy.ndimage.shift(distances, by_yx, order=1, mode="nearest"), np.float32)
