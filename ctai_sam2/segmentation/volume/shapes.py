"""Shapes between slices: prompts made from a neighbour's mask, and interpolation by signed distances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.errors import InputError
from ctai_sam2.image.distances import box_of
from ctai_sam2.image.masks import label_components, mask_to_box_xyxy
from ctai_sam2.image.simulated_clicks import find_centre
from ctai_sam2.types import Mask, Prompt

_MOST_POINTS = 6
_SMALLEST_PIECE_MM2 = 60.0


def prompt_from_neighbour(
    mask: Mask, structure: str, spacing_mm: Sequence[float], *, margin_mm: float
) -> Prompt:
    """Return the prompt for the next slice: its structure's name, a point in each large piece, a box.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        The neighbour's mask, not empty.
    structure : str
        Named in the prompt.
    spacing_mm : (float, float)
        (row, column) spacing.
    margin_mm : float
        How far the box is larger than the mask on each side.

    Raises
    ------
    InputError
        If the mask is empty.
    """
    box = mask_to_box_xyxy(mask)
    if box is None:
        raise InputError("an empty mask gives no prompt for the next slice")
    labels, count = label_components(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    smallest = min(_SMALLEST_PIECE_MM2 / (spacing_mm[0] * spacing_mm[1]), areas.max())
    pieces = [int(i) for i in np.argsort(-areas)[:_MOST_POINTS] if areas[i] >= smallest]
    points = []
    for piece in pieces:
        rows, columns = ndimage.find_objects(labels, max_label=piece)[piece - 1]
        x, y = find_centre(labels[rows, columns] == piece)
        points.append((x + columns.start, y + rows.start))
    pad_y, pad_x = margin_mm / spacing_mm[0], margin_mm / spacing_mm[1]
    height, width = mask.shape
    return Prompt(
        points_xy=np.array(points, np.float32),
        labels=np.ones(len(points), np.int32),
        box_xyxy=(
            max(box[0] - pad_x, -0.5),
            max(box[1] - pad_y, -0.5),
            min(box[2] + pad_x, width - 0.5),
            min(box[3] + pad_y, height - 0.5),
        ),
        structure=structure,
    )


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
    """Return the shape between two slices by blended signed distances; see `blend_masks`.

    Parameters
    ----------
    lower, upper : ndarray of bool, shape (H, W)
        The two slices.
    share : float
        0 at ``lower``, 1 at ``upper``.
    spacing_mm : (float, float)
        (row, column) spacing.
    """
    return blend_masks(lower, upper, [share], spacing_mm)[0]


def blend_masks(lower: Mask, upper: Mask, shares: Sequence[float], spacing_mm: Sequence[float]) -> list[Mask]:
    """Return the shapes at several places between two slices.

    Parameters
    ----------
    lower, upper, spacing_mm
        As in `interpolate_masks`; where one is empty the other decides within its half.
    shares : sequence of float
        Places, 0 at ``lower`` and 1 at ``upper``.

    Notes
    -----
    Raya and Udupa, IEEE Transactions on Medical Imaging 9 (1990) 32-42.
    """
    # No blend reaches further than both shapes together.
    box = box_of(lower | upper, 1, 1)
    if box is None or not lower.any() or not upper.any():
        return [np.array(lower if share < 0.5 else upper) for share in shares]
    below, above = (signed_distance_mm(mask[box], spacing_mm) for mask in (lower, upper))
    blended = []
    for share in shares:
        mask = np.zeros(lower.shape, np.bool_)
        mask[box] = (1.0 - share) * below + share * above > 0
        blended.append(mask)
    return blended
