"""Exact Euclidean distances of masks, at the cost of the part of the image that matters.

A full distance transform takes longer than a network's pass over the slice. Where only a limit matters, rows
widened as far as a pixel reaches, shifted by each row within reach, give the same pixels; where the values
matter, the transform runs on the mask's box.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from ctai_sam2.types import Mask


def within_distance(mask: Mask, distance: float, sampling: tuple[float, float] = (1.0, 1.0)) -> Mask:
    """Return the pixels whose centre lies within a distance of a mask pixel's centre.

    The same pixels as ``distance_transform_edt(~mask, sampling=sampling) <= distance``; an empty mask
    stays empty.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        The mask.
    distance : float
        At least 0, in units of ``sampling``.
    sampling : (float, float)
        Spacing of rows and of columns.

    Examples
    --------
    >>> within_distance(np.array([[False, False, True, False, False]]), 2.0, (1.0, 2.0)).astype(int)
    array([[0, 1, 1, 1, 0]])
    """
    reach_y, reach_x = (int(distance / step) + 1 for step in sampling)
    box = box_of(mask, reach_y, reach_x)
    found = np.zeros(mask.shape, np.bool_)
    if box is not None:
        found[box] = _dilated(np.ascontiguousarray(mask[box]), distance, sampling)
    return found


def deeper_than(mask: Mask, distance: float, sampling: tuple[float, float] = (1.0, 1.0)) -> Mask:
    """Return the mask's pixels that are further than a distance from every pixel outside of it.

    The same pixels as ``distance_transform_edt(mask, sampling=sampling) > distance``; what is
    beyond the image is not outside of the mask.

    Parameters
    ----------
    mask, distance, sampling
        As in `within_distance`.

    Examples
    --------
    >>> deeper_than(np.array([[True, True, True, False]]), 1.0).astype(int)
    array([[1, 1, 0, 0]])
    """
    # A pixel outside of the box is never nearer than the one where the way to it enters the box's rim.
    box = box_of(mask, 1, 1)
    deep = np.zeros(mask.shape, np.bool_)
    if box is not None:
        inside = mask[box]
        deep[box] = inside & ~within_distance(~inside, distance, sampling)
    return deep


def depth_of(mask: Mask, sampling: tuple[float, float] = (1.0, 1.0)) -> NDArray[np.float64]:
    """Return each pixel's distance to the nearest pixel outside of the mask; 0 outside, shape (H, W).

    Parameters
    ----------
    mask, sampling
        As in `within_distance`. At least one pixel must be outside.

    Examples
    --------
    >>> depth_of(np.array([[False, True, True, True, False]]), (1.0, 0.5))
    array([[0. , 0.5, 1. , 0.5, 0. ]])
    """
    box = box_of(mask, 1, 1)
    depth = np.zeros(mask.shape, np.float64)
    if box is not None:
        depth[box] = scipy.ndimage.distance_transform_edt(mask[box], sampling=sampling)
    return depth


def box_of(mask: Mask, margin_y: int = 0, margin_x: int = 0) -> tuple[slice, slice] | None:
    """Return the rows and columns of a mask's box with a margin, as far as the image reaches.

    None for an empty mask.

    Examples
    --------
    >>> box_of(np.eye(4, dtype=bool)[:, :2])
    (slice(0, 2, None), slice(0, 2, None))
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return (
        slice(max(int(rows[0]) - margin_y, 0), min(int(rows[-1]) + 1 + margin_y, mask.shape[0])),
        slice(max(int(columns[0]) - margin_x, 0), min(int(columns[-1]) + 1 + margin_x, mask.shape[1])),
    )


def _dilated(mask: Mask, distance: float, sampling: tuple[float, float]) -> Mask:
    height, width = mask.shape
    # The limit is tested in the order in which a distance transform adds and takes roots, to round alike.
    squares_x = (np.arange(width) * sampling[1]) ** 2
    found = np.zeros_like(mask)
    near, reached = mask, 0
    # From the farthest row, where pixels reach least far aside, to their own, where they reach furthest.
    for shift in range(min(int(distance / sampling[0]) + 1, height - 1), -1, -1):
        reach = int(np.count_nonzero(np.sqrt((shift * sampling[0]) ** 2 + squares_x) <= distance)) - 1
        if reach < 0:
            continue
        while reached < reach:
            # Each run is longer than it has been widened on one side: a shift by so much leaves no gap.
            step = min(reach - reached, reached + 1)
            near, reached = _widened(near, step), reached + step
        found[shift:] |= near[: height - shift]
        found[: height - shift] |= near[shift:]
    return found


def _widened(mask: Mask, step: int) -> Mask:
    """Add the pixels so many columns to the right and to the left of each."""
    wider = mask.copy()
    wider[:, step:] |= mask[:, :-step]
    wider[:, :-step] |= mask[:, step:]
    return wider
