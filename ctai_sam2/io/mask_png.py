"""Masks as pictures, without loss."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.files.atomic import write_bytes


def write_mask_png(path: str | os.PathLike[str], mask: ArrayLike, *, description: str | None = None) -> Path:
    """Write a mask as an 8-bit grey PNG of the same size: 255 inside, 0 outside; returns the path.

    Parameters
    ----------
    path : path-like
        Ending in ``.png``.
    mask : array_like of bool, shape (H, W)
        The mask.
    description : str, optional
        How the mask was made, for the header; nothing of the patient.

    Raises
    ------
    InputError
        If the mask is not a two-dimensional array of booleans, or the name has another ending.
    StorageError
        If it cannot be written.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype != np.bool_ or array.size == 0:
        raise InputError(
            "a mask is a boolean array (H, W)",
            received=f"{array.dtype} of shape {array.shape}",
            hint="Compare with a threshold first, for example mask > 0.",
        )
    return _write_png(path, array.astype(np.uint8) * np.uint8(255), description)


def write_label_png(path: str | os.PathLike[str], labels: ArrayLike) -> Path:
    """Write a label map as an 8-bit grey PNG whose grey values are the labels; returns the path.

    Parameters
    ----------
    path : path-like
        Ending in ``.png``.
    labels : array_like of int, shape (H, W)
        0 is background; up to 255.

    Raises
    ------
    InputError
        If the values are not whole numbers from 0 to 255, or the name has another ending.
    StorageError
        If it cannot be written.
    """
    array = np.asarray(labels)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or array.size == 0:
        raise InputError(
            "a label map is a whole-number array (H, W)", received=f"{array.dtype} of shape {array.shape}"
        )
    if array.min() < 0 or array.max() > 255:
        raise InputError("labels go from 0 to 255", received=(int(array.min()), int(array.max())))
    return _write_png(path, array.astype(np.uint8))


def _write_png(path: str | os.PathLike[str], grey: NDArray[Any], description: str | None = None) -> Path:
    from PIL import Image, PngImagePlugin

    if Path(path).suffix.lower() != ".png":
        raise InputError(
            "a mask picture's name ends in .png",
            received=Path(path).suffix or "no ending",
            hint="JPEG would blur the mask.",
        )
    buffer = io.BytesIO()
    notes = PngImagePlugin.PngInfo()
    if description:
        notes.add_text("Description", description)
    Image.fromarray(grey).save(buffer, format="PNG", optimize=False, pnginfo=notes)
    return write_bytes(path, buffer.getvalue())
