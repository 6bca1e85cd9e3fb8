"""Where to point for the psoas: next to the vertebral body, before its transverse processes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.distances import box_of, depth_of, within_distance
from ctai_sam2.segmentation.anatomy.trunk import Trunk
from ctai_sam2.segmentation.anatomy.vertebra import disc_close, disc_open
from ctai_sam2.types import Mask

Side = Literal["left", "right"]

_LEAST_THICKNESS_MM = 3.0
_STREAK_MM = 1.0
_BACK_LIMIT = (2.5, 0.4)
"""The transverse processes and quadratus lie behind a line that comes forward away from the midline."""
_EXPECTED_XY = (2.0, 0.45)
"""Usual centre of the muscle from the vertebral body's, in its radii: away from the midline, back."""

_HALF_WIDTH_IN_RADII = 1.4
_SPREAD = 0.9
_NECK = 0.55
"""Bridges narrower than this part of the muscle's thickness are cut."""


def find_psoas(hu: NDArray[np.float32], trunk: Trunk, side: Side) -> Mask:
    """Outline the psoas of one side roughly, to take a box and points from.

    Parameters
    ----------
    hu : ndarray of float32, shape (h, w)
        Axial slice at one millimetre a pixel, anterior up, patient's left on the right.
    trunk : Trunk
        Its layers.
    side : {"left", "right"}
        The patient's side.

    Returns
    -------
    ndarray of bool, shape (h, w)
        One region.

    Raises
    ------
    AnatomyNotFound
        If there is no muscle next to the vertebral body.
    """
    away, back = _radii_from_vertebra(hu.shape, trunk, side)
    window = (away > 0.8) & (away < 3.7) & (back > -1.2) & (back < _BACK_LIMIT[0] - _BACK_LIMIT[1] * away)
    bone = within_distance(trunk.vertebra.bone | trunk.vertebra.mask, 1.0)
    dense = (hu > trunk.muscle_hu - 45) & (hu < trunk.muscle_hu + 45)
    # Streaks of fat run through the muscle; closing bridges them.
    muscle = disc_close(dense & window & ~trunk.deep_inside, _STREAK_MM) & window & trunk.fascia & ~bone
    thickness, row, column = 0.0, 0, 0
    box = box_of(muscle)
    if box is not None:
        depth = depth_of(muscle)[box]
        off = np.hypot(away[:, box[1]] - _EXPECTED_XY[0], back[box[0]] - _EXPECTED_XY[1])
        likely = np.minimum(depth, 12.0) * np.exp(-0.5 * (off / _SPREAD) ** 2)
        at = np.unravel_index(int(np.argmax(likely)), likely.shape)
        thickness = float(depth[at])
        row, column = int(at[0]) + box[0].start, int(at[1]) + box[1].start
    if thickness < _LEAST_THICKNESS_MM:
        raise AnatomyNotFound(
            f"no {side} psoas is visible next to the vertebral body",
            hint="It begins at L1/L2: choose a lower slice, or click on the muscle yourself.",
        )
    opened = disc_open(muscle, _NECK * thickness)
    labels, _ = ndimage.label(opened)
    psoas: Mask = labels == labels[row, column]
    return psoas


def _radii_from_vertebra(
    shape: tuple[int, ...], trunk: Trunk, side: Side
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances from the vertebral body's centre in its radii: away from the midline, and backwards."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    sign = 1.0 if side == "left" else -1.0
    # The circle may sit off the middle of a wide body; the body's own middle does not.
    columns = np.flatnonzero(trunk.vertebra.mask.any(axis=0))
    middle = (columns[0] + columns[-1]) / 2
    radius = max(trunk.vertebra.radius_mm, (columns[-1] - columns[0]) / 2 / _HALF_WIDTH_IN_RADII)
    return sign * (x - middle) / radius, (y - trunk.vertebra.centre_xy[1]) / radius
