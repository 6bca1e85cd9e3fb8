"""The vertebral body on an axial slice: the landmark everything else is found from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.distances import deeper_than, depth_of, within_distance
from ctai_sam2.image.masks import fill_holes
from ctai_sam2.types import Mask

_ATTEMPTS = ((150.0, 2.0), (150.0, 5.0), (110.0, 2.0), (110.0, 5.0))
"""(HU above which bone is, gap in the cortex to close in mm): firm bone first, then porous or coarse."""

_CERTAIN_RADIUS_MM = 13.0
_LEAST_RADIUS_MM = 11.0
_GREATEST_RADIUS_MM = 30.0
_MIDLINE_SIGMA_MM = 30.0
_MARROW_HU = 60.0
_GREATEST_HOLE_MM2 = 1500


@dataclass(frozen=True, kw_only=True, eq=False)
class VertebralBody:
    """A vertebral body on the grid of one millimetre.

    Parameters
    ----------
    centre_xy : tuple of float
        Centre of the largest circle that fits in, (column, row).
    radius_mm : float
        Radius of that circle.
    mask : ndarray of bool, shape (h, w)
        The body without its processes, roughly.
    bone : ndarray of bool, shape (h, w)
        All bone of the slice, with marrow.
    """

    centre_xy: tuple[float, float]
    radius_mm: float
    mask: Mask
    bone: Mask

    @property
    def width_mm(self) -> float:
        """Width of the body without its processes."""
        columns = np.flatnonzero(self.mask.any(axis=0))
        return float(columns[-1] - columns[0] + 1) if columns.size else 0.0


def find_vertebral_body(hu: NDArray[np.float32], body: Mask) -> VertebralBody:
    """Find the vertebral body by the largest circle of bone near the back's midline.

    Parameters
    ----------
    hu : ndarray of float32, shape (h, w)
        An axial slice at one millimetre a pixel, anterior up.
    body : ndarray of bool, shape (h, w)
        The patient.

    Raises
    ------
    AnatomyNotFound
        If no bone of that size lies there.
    """
    rows, columns = np.nonzero(body)
    if rows.size == 0:
        raise AnatomyNotFound("no body is visible on the slice")
    top, bottom = float(rows.min()), float(rows.max())
    middle_x = (float(columns.min()) + float(columns.max())) / 2
    y, x = np.mgrid[: hu.shape[0], : hu.shape[1]]
    part = (y - top) / max(bottom - top, 1.0)
    prior = np.exp(-0.5 * ((x - middle_x) / _MIDLINE_SIGMA_MM) ** 2)
    prior = prior * ((part > 0.3) & (part < 0.9))
    best: tuple[float, int, int, Mask] | None = None
    for threshold_hu, close_mm in _ATTEMPTS:
        bone = _bone_with_marrow(hu, body, threshold_hu, close_mm)
        depth = np.minimum(depth_of(bone), _GREATEST_RADIUS_MM)
        row, column = np.unravel_index(int(np.argmax(depth * prior)), depth.shape)
        radius = float(depth[row, column])
        if best is None or radius > best[0]:
            best = radius, int(row), int(column), bone
        if radius >= _CERTAIN_RADIUS_MM:
            break
    if best is None or best[0] < _LEAST_RADIUS_MM:
        raise AnatomyNotFound(
            "no vertebral body is visible near the midline of the back",
            hint="Choose a slice through a vertebral body, or place a box or points yourself.",
        )
    radius, cy, cx, bone = best
    return VertebralBody(
        centre_xy=(float(cx), float(cy)),
        radius_mm=radius,
        mask=_without_processes(bone, (int(cx), int(cy)), radius),
        bone=bone,
    )


def _bone_with_marrow(hu: NDArray[np.float32], body: Mask, threshold_hu: float, close_mm: float) -> Mask:
    hard = (hu > threshold_hu) & body
    closed = disc_close(hard, close_mm)
    holes = fill_holes(closed) & ~closed
    labels, count = ndimage.label(holes)
    bone = closed.copy()
    if count:
        index = np.arange(1, count + 1)
        mean = ndimage.mean(hu, labels, index)
        size = ndimage.sum_labels(holes, labels, index)
        # The canal is a hole in the ring of bone as well: it holds water and fat, marrow is denser.
        marrow = (np.asarray(mean) > _MARROW_HU) & (np.asarray(size) < _GREATEST_HOLE_MM2)
        bone |= np.isin(labels, index[marrow | (np.asarray(size) < 30)])
    return np.asarray(bone, dtype=bool)


def _without_processes(bone: Mask, centre_xy: tuple[int, int], radius: float) -> Mask:
    """Keep what a disc of two thirds of the radius reaches without leaving the bone, near the centre."""
    y, x = np.mgrid[: bone.shape[0], : bone.shape[1]]
    # A body is wider than deep, so the circle spans its depth: what lies further in front is a vessel.
    near = (np.abs(x - centre_xy[0]) < 1.8 * radius) & (np.abs(y - centre_xy[1]) < 1.25 * radius)
    opened = disc_open(bone & near, 0.6 * radius)
    labels, _ = ndimage.label(opened)
    kept: Mask = labels == labels[centre_xy[1], centre_xy[0]]
    return kept


def disc_open(mask: Mask, radius_mm: float) -> Mask:
    """Open a mask by a disc on the grid of one millimetre."""
    return within_distance(deeper_than(mask, radius_mm), radius_mm) & mask


def disc_close(mask: Mask, radius_mm: float) -> Mask:
    """Close a mask by a disc on the grid of one millimetre."""
    return deeper_than(within_distance(mask, radius_mm), radius_mm) | mask
