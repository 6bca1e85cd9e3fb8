"""Shapes between slices: prompts made from a neighbour's mask, and interpolation by signed distances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ctai_sam2.errors import InputError
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
