"""Pixels a view sends: the grey slice, and the overlay of a box. Pure arrays, no canvas."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from ctai_sam2.editor.changes import Box
from ctai_sam2.editor.comparison import differences
from ctai_sam2.editor.document import Document
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.types import Mask

_REFERENCE_RGB = (255, 255, 255)
MINE_RGB, THEIRS_RGB = (213, 94, 0), (0, 158, 115)
"""Pixels that only the reader's masks have, and those that only the reference has (Okabe and Ito 2008)."""
_DIFFERENCE_ALPHA = 170


def render_grey(document: Document) -> NDArray[np.uint8]:
    """Render the slice in the current window, uint8 (H, W)."""
    return window_to_uint8(document.slice.hu, document.view.window)


def render_overlay(
    document: Document, box_xyxy: Box | None = None, *, references: bool = False
) -> tuple[NDArray[np.uint8], int, int]:
    """Visible masks as RGBA, for a box of pixels or for all of the slice.

    Parameters
    ----------
    document : Document
        What to draw.
    box_xyxy : Box, optional
        A change's dirty box; widened by a pixel, since an outline depends on neighbours.
    references : bool
        Draw another reader's masks instead of those being edited: their outlines, in white, and what differs
        where `View.differences` says so.

    Returns
    -------
    rgba : ndarray of uint8, shape (h, w, 4)
        Transparent where there is no mask; not premultiplied. Earlier labels lie over later ones.
    x0, y0 : int
        Where its first pixel belongs; clear that rectangle before.
    """
    height, width = document.shape_hw
    x0, y0, x1, y1 = (0, 0, width - 1, height - 1) if box_xyxy is None else box_xyxy
    x0, y0, x1, y1 = max(x0 - 1, 0), max(y0 - 1, 0), min(x1 + 1, width - 1), min(y1 + 1, height - 1)
    rgba = np.zeros((y1 - y0 + 1, x1 - x0 + 1, 4), dtype=np.uint8)
    view = document.view
    outline_only = view.outline_only or references
    fill = 0 if outline_only else round(255 * view.opacity)
    edge = max(round(255 * view.opacity), 220)
    # Muscle, a later label, holds psoas: drawn first, it leaves the smaller ones in sight.
    if references:
        layers = [(mask, _REFERENCE_RGB) for mask in document.references.values()]
        if view.differences:
            box = (slice(y0, y1 + 1), slice(x0, x1 + 1))
            for differs, rgb in zip(differences(document), (MINE_RGB, THEIRS_RGB), strict=True):
                rgba[differs[box]] = (*rgb, _DIFFERENCE_ALPHA)
    else:
        shown = [label for label in reversed(document.labels.values()) if label.visible]
        layers = [(document.mask(label.name), label.rgb) for label in shown]
    for mask, rgb in layers:
        inside = mask[y0 : y1 + 1, x0 : x1 + 1]
        if not inside.any():
            continue
        outline = _outline(mask, (x0, y0, x1, y1))
        if not outline_only:
            rgba[inside] = (*rgb, fill)
        rgba[outline] = (*rgb, edge)
    return rgba, x0, y0


def _outline(mask: Mask, box: Box) -> Mask:
    """Mask pixels next to background, within a box; what is beyond the image is background."""
    x0, y0, x1, y1 = box
    left, top = min(x0, 1), min(y0, 1)
    part = mask[y0 - top : y1 + 2, x0 - left : x1 + 2]
    eroded = scipy.ndimage.binary_erosion(part)
    inner = (part & ~eroded)[top : top + y1 - y0 + 1, left : left + x1 - x0 + 1]
    return np.asarray(inner, dtype=np.bool_)
