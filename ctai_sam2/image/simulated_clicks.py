"""Simulated clicks: where a reader who knows the truth would point next."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.image.masks import require_same_shape
from ctai_sam2.types import Mask

NEGATIVE: Final = 0
POSITIVE: Final = 1


def click_centre_of_largest_error(mask: Mask, target: Mask) -> tuple[tuple[int, int], int] | None:
    """Place the next simulated click.

    The click goes to the point farthest from the border of the largest connected error, the
    usual protocol of simulated interactive segmentation.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        The current mask.
    target : ndarray of bool, shape (H, W)
        The truth.

    Returns
    -------
    tuple or None
        ((x, y) in pixels, label): 1 where the mask lacks something, 0 where it has too much;
        None if there is no error.

    Raises
    ------
    InputError
        If the shapes differ.

    Notes
    -----
    Errors are connected through edges, not corners. Of equally large ones, one that lacks
    something counts first.

    Examples
    --------
    >>> target = np.zeros((9, 9), bool); target[2:7, 3:8] = True
    >>> click_centre_of_largest_error(np.zeros((9, 9), bool), target)
    ((5, 4), 1)
    """
    require_same_shape(mask, target, "the mask and the target")
    best: tuple[int, NDArray[np.bool_], tuple[int, int], int] | None = None
    for error, label in ((target & ~mask, POSITIVE), (mask & ~target, NEGATIVE)):
        parts, count = ndimage.label(error)
        if not count:
            continue
        areas = np.bincount(parts.ravel())
        areas[0] = 0
        largest = int(areas.argmax())
        if best is None or areas[largest] > best[0]:
            # Distances are needed only within the box of the error, which is small.
            rows, columns = ndimage.find_objects(parts, max_label=largest)[largest - 1]
            corner_xy = (int(columns.start), int(rows.start))
            best = (int(areas[largest]), parts[rows, columns] == largest, corner_xy, label)
    if best is None:
        return None
    _, region, (left, top), label = best
    x, y = find_centre(region)
    return (x + left, y + top), label


def find_centre(region: NDArray[Any]) -> tuple[int, int]:
    """Return the (x, y) of the pixel of a region farthest from its border and the image's.

    Distances are Euclidean, in pixels; of equally far pixels the first in reading order is taken.

    Examples
    --------
    >>> find_centre(np.ones((3, 5), bool))
    (1, 1)
    """
    distance = ndimage.distance_transform_edt(np.pad(np.asarray(region, dtype=np.bool_), 1))
    y, x = np.unravel_index(int(np.argmax(distance)), distance.shape)
    return int(x) - 1, int(y) - 1
