"""Overlap and distance of two masks.

Conventions for masks without a pixel: two empty masks agree (Dice and Jaccard 1,
distances 0); one empty mask does not (Dice and Jaccard 0, distances infinite).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.image.masks import as_mask, as_spacing_mm, require_same_shape
from ctai_sam2.types import Mask


def dice(first: ArrayLike, second: ArrayLike) -> float:
    """Dice coefficient of two masks: twice the overlap over the sum of both, 0 to 1.

    Raises
    ------
    InputError
        If an argument is not a mask or the shapes differ.

    Notes
    -----
    Dice, Ecology 26 (1945) 297-302.

    Examples
    --------
    >>> dice([[1, 1, 0]], [[0, 1, 1]])
    0.5
    """
    a, b = _masks(first, second)
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def jaccard(first: ArrayLike, second: ArrayLike) -> float:
    """Jaccard index of two masks (intersection over union), 0 to 1.

    Raises
    ------
    InputError
        If an argument is not a mask or the shapes differ.

    Examples
    --------
    >>> jaccard([[1, 1, 0, 0]], [[0, 1, 1, 1]])
    0.25
    """
    a, b = _masks(first, second)
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def hausdorff_mm(
    first: ArrayLike, second: ArrayLike, spacing_mm: Sequence[float], *, percentile: float = 95.0
) -> float:
    """Distance within which ``percentile`` per cent of each outline lies from the other, in mm.

    The outline is the mask's pixels with a neighbour above, below, left or right that
    is outside (of the mask or of the image); distances run between pixel centres. The
    percentile is taken in each direction, and the larger of the two is returned.

    Parameters
    ----------
    first, second : array_like, shape (H, W)
        Masks.
    spacing_mm : (float, float)
        (row, column).
    percentile : float
        95 by default (HD95); 100 gives the Hausdorff distance itself.

    Returns
    -------
    float
        0 if both are empty, infinite if one is.

    Raises
    ------
    InputError
        If an argument is not a mask, the shapes differ or the percentile is not within 0 … 100.
    GeometryError
        If the spacing is not positive.

    Examples
    --------
    >>> hausdorff_mm([[1, 0, 0]], [[0, 0, 1]], (1.0, 0.5))
    1.0
    """
    if not 0 <= percentile <= 100:
        raise InputError("a percentile lies between 0 and 100", received=percentile)
    distances = _outline_distances_mm(first, second, spacing_mm)
    if not isinstance(distances, tuple):
        return distances
    return max(float(np.percentile(each, percentile)) for each in distances)


def _masks(first: ArrayLike, second: ArrayLike) -> tuple[Mask, Mask]:
    a, b = as_mask(first, name="the first mask"), as_mask(second, name="the second mask")
    require_same_shape(a, b, "the two masks")
    return a, b


def _outline(mask: Mask) -> Mask:
    cross = scipy.ndimage.generate_binary_structure(2, 1)
    return np.asarray(
        mask & ~scipy.ndimage.binary_erosion(mask, structure=cross, border_value=0), dtype=np.bool_
    )


def _outline_distances_mm(
    first: ArrayLike, second: ArrayLike, spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | float:
    """Distances of the first outline's pixels to the second and back; one number where a mask is empty."""
    a, b = _masks(first, second)
    spacing = as_spacing_mm(spacing_mm)
    if not (a.any() and b.any()):
        return np.inf if a.any() or b.any() else 0.0
    outline_a, outline_b = _outline(a), _outline(b)
    to_a = scipy.ndimage.distance_transform_edt(~outline_a, sampling=spacing)
    to_b = scipy.ndimage.distance_transform_edt(~outline_b, sampling=spacing)
    return np.asarray(to_b[outline_a], dtype=np.float64), np.asarray(to_a[outline_b], dtype=np.float64)
