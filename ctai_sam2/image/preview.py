"""Small pictures of a slice with its masks, quick enough for thousands in a report."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ctai_sam2.image.masks import mask_to_box_xyxy
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.structures import COLORS, rgb_of
from ctai_sam2.types import CTSlice, Mask

SIDE_PX = 320
_OUTLINED = ("muscle", "psoas_left", "psoas_right", "vertebra", "l3")
_FAT_TINTED = ("sat", "vat")
_TISSUE_HU = -300.0
_MARGIN = 0.03
_QUALITY = 82


def draw_preview(ct_slice: CTSlice, masks: Mapping[str, Mask]) -> bytes:
    """Draw a slice around the body in true proportions, fat tinted, other structures outlined, as JPEG.

    Parameters
    ----------
    ct_slice : CTSlice
        Shown in the soft-tissue window.
    masks : mapping of str to ndarray of bool, shape (H, W)
        By structure; names without a color in `ctai_sam2.structures.COLORS` are left out.

    Returns
    -------
    bytes
        A JPEG whose longer side is `SIDE_PX` pixels.
    """
    rows, columns = _around_body(ct_slice)
    row_mm, column_mm = ct_slice.spacing_mm
    high, wide = (rows.stop - rows.start) * row_mm, (columns.stop - columns.start) * column_mm
    scale = SIDE_PX / max(high, wide)
    size = (max(round(wide * scale), 8), max(round(high * scale), 8))
    grey = Image.fromarray(window_to_uint8(np.ascontiguousarray(ct_slice.hu[rows, columns])))
    # Shrinking needs an average; enlarging a small slice shows its pixels smoothly.
    shown = np.asarray(grey.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    rgb = np.repeat(shown[..., None], 3, axis=2).astype(np.float32)
    for name in _FAT_TINTED:
        if name in masks and masks[name].any():
            inside = _resized(masks[name][rows, columns], size)
            rgb[inside] = 0.6 * rgb[inside] + 0.4 * np.array(rgb_of(COLORS[name]), np.float32)
    for name in _OUTLINED:
        if name in masks and masks[name].any():
            inside = _resized(masks[name][rows, columns], size)
            rgb[inside & ~ndimage.binary_erosion(inside, iterations=1)] = rgb_of(COLORS[name])
    buffer = io.BytesIO()
    Image.fromarray(rgb.astype(np.uint8)).save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()


def preview_html(ct_slice: CTSlice, masks: Mapping[str, Mask], caption: str = "") -> str:
    """Return a preview as an HTML figure that holds its picture; ``caption`` is escaped."""
    picture = base64.b64encode(draw_preview(ct_slice, masks)).decode("ascii")
    text = html.escape(caption)
    return (
        f"<figure style='margin:0'><img alt='{text}' src='data:image/jpeg;base64,{picture}'>"
        f"<figcaption>{text}</figcaption></figure>"
    )


def _around_body(ct_slice: CTSlice) -> tuple[slice, slice]:
    height, width = ct_slice.shape_hw
    box = mask_to_box_xyxy(ndimage.binary_opening(ct_slice.hu > _TISSUE_HU, iterations=2))
    if box is None:
        return slice(0, height), slice(0, width)
    x0, y0, x1, y1 = box
    dx, dy = round(_MARGIN * (x1 - x0 + 1)), round(_MARGIN * (y1 - y0 + 1))
    return slice(max(y0 - dy, 0), min(y1 + dy + 1, height)), slice(max(x0 - dx, 0), min(x1 + dx + 1, width))


def _resized(mask: Mask, size: tuple[int, int]) -> NDArray[np.bool_]:
    picture = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(np.asarray(picture) > 127, dtype=np.bool_)
