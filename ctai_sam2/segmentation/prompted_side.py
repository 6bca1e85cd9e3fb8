"""A psoas that a user prompted: on which side the prompt lies, and only that side of the mask."""

from __future__ import annotations

import numpy as np

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.body import body_of
from ctai_sam2.image.masks import label_components
from ctai_sam2.types import CTSlice, Mask, Prompt

_MIDLINE_MM = 5.0
"""Prompts nearer than this to the body's middle are on neither side."""


def keep_prompted_side(
    ct_slice: CTSlice, structure: str, mask: Mask, prompt: Prompt
) -> tuple[Mask, tuple[str, ...]]:
    """Drop the parts of a one-sided structure that lie on the other side than its prompt; say so.

    Parameters
    ----------
    ct_slice : CTSlice
        Axial, in display orientation: the patient's right is on the image's left.
    structure : str
        ``psoas_left`` or ``psoas_right``.
    mask : ndarray of bool, shape (H, W)
        The model's mask.
    prompt : Prompt
        The user's points or box.

    Returns
    -------
    mask : ndarray of bool, shape (H, W)
        Parts on the prompt's side, and those with a point of the user in them.
    notes : tuple of str
        If the prompt lies on the other side than the structure, or parts were dropped.
    """
    points = np.asarray(prompt.points_xy, dtype=np.float64)[np.asarray(prompt.labels) == 1]
    if len(points):
        places = points[:, 0]
    elif prompt.box_xyxy is not None:
        places = np.array([(prompt.box_xyxy[0] + prompt.box_xyxy[2]) / 2])
    else:
        return mask, ()
    try:
        columns = np.flatnonzero(body_of(ct_slice).any(axis=0))
    except AnatomyNotFound:
        return mask, ()
    middle = (columns[0] + columns[-1]) / 2
    beyond_mm = (places - middle) * ct_slice.spacing_mm[1]
    if not (np.all(beyond_mm > _MIDLINE_MM) or np.all(beyond_mm < -_MIDLINE_MM)):
        return mask, ()
    is_left = bool(beyond_mm[0] > 0)
    notes = []
    if is_left != structure.endswith("left"):
        side, other = ("left", "psoas_left") if is_left else ("right", "psoas_right")
        notes.append(f"{structure}: the prompt lies on the patient's {side}; is {other} meant?")
    labels, count = label_components(mask)
    kept = np.array(mask)
    for number in range(1, count + 1):
        part = labels == number
        place = float(np.nonzero(part)[1].mean())
        if (place > middle) == is_left or _holds_a_point(part, points):
            continue
        kept &= ~part
    if kept.sum() < mask.sum():
        notes.append(f"{structure}: parts on the other side of the body were left out")
    return kept, tuple(notes)


def _holds_a_point(part: Mask, points: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bool:
    height, width = part.shape
    return any(
        0 <= round(y) < height and 0 <= round(x) < width and part[round(y), round(x)]
        for x, y in points.tolist()
    )
