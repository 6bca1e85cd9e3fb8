"""Whole-number labels out of whatever numbers a file holds: checked, rounded where that is safe, or refused.

A label map that went through a scaled or floating-point format holds 1.9999999995 for 2; cutting that off
would turn every structure into another. A probability map or a picture with soft edges holds numbers that
are no labels at all, and where its structure ends is for a person to say.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.types import Mask

ROUNDING = 1e-3
"""Values nearer than this to a whole number are that number; scaled files are off by less than 1e-4."""

LARGEST_LABEL = 65535
_MOST_LABELS = (
    512  # TotalSegmentator has 117, atlases of the brain a few hundred; a CT has thousands of values
)


def as_labels(values: ArrayLike, *, what: str = "the label map") -> NDArray[np.uint16]:
    """Return labels as whole numbers from 0, or say why the values are none.

    Parameters
    ----------
    values : array_like of bool, integer or float, any shape
        What a file holds.
    what : str
        What to call it in a message; a file's name without its folder.

    Returns
    -------
    ndarray of uint16, same shape
        Values within `ROUNDING` of a whole number are rounded to it.

    Raises
    ------
    InputError
        If a value is not finite, not whole, negative or above 65535, or there are more labels than
        structures can be.

    Examples
    --------
    >>> as_labels([0.0, 0.9999999998, 1.9999999995]).tolist()
    [0, 1, 2]
    """
    array = np.asarray(values)
    if array.dtype == np.bool_:
        return array.astype(np.uint16)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{what} holds no numbers", received=str(array.dtype)[:40])
    if array.size == 0:
        raise InputError(f"{what} holds no value")
    if array.dtype.kind == "f":
        array = _rounded(array, what)
    low, high = array.min(), array.max()
    if low < 0:
        raise InputError(
            f"{what} holds negative values, which are no labels",
            received=f"{low:g} to {high:g}",
            hint="If it is an image, give the file with the masks instead; mask it out where it is padding.",
        )
    if high > LARGEST_LABEL:
        raise InputError(f"{what} holds labels above {LARGEST_LABEL}", received=f"up to {high:g}")
    labels = array.astype(np.uint16)
    count = int(np.count_nonzero(np.bincount(labels.ravel())[1:]))
    if count > _MOST_LABELS:
        raise InputError(
            f"{what} holds more labels than structures can be: it looks like an image or a probability map",
            received=f"{count} different values",
            hint="Give the file with the masks; cut a probability map at one half before.",
        )
    return labels


def soft_edge_problem(labels: NDArray[Any], *, white: int | None = None) -> InputError | None:
    """Say whether whole numbers are shades along an edge rather than labels; None where they are labels.

    Numbers that follow each other from 1 are labels. Others are suspect if white is among them with
    shades between, or if most never fill two pixels by two, as the steps of a blurred edge do not.

    Parameters
    ----------
    labels : ndarray of unsigned int, shape (..., H, W)
        Values without a table of names.
    white : int, optional
        The largest value the file's format can hold, where that means white.
    """
    present = [int(value) for value in np.unique(labels) if value > 0]
    if len(present) < 2 or present == list(range(1, len(present) + 1)):
        return None
    shades_of_white = white is not None and present[-1] == white
    if not shades_of_white:
        thin = sum(not _fills_a_block(labels == value) for value in present)
        if 2 * thin < len(present):
            return None
    return InputError(
        "the mask has soft edges: between 0 and its largest value there are shades, and where it ends"
        " is not clear",
        received=f"{len(present)} values, {', '.join(str(value) for value in present[:6])}"
        + (" …" if len(present) > 6 else ""),
        hint="Cut it at one half, or export it without smoothing; if these are labels, put a table of their"
        " names next to the file",
    )


def as_single_mask(values: ArrayLike, *, what: str = "the mask") -> Mask:
    """Return a mask of one structure: 0 outside, one other value inside.

    Raises
    ------
    InputError
        If the values are no whole numbers, or there are several labels.

    Examples
    --------
    >>> as_single_mask(np.array([[0.0, 1.0]])).tolist()
    [[False, True]]
    """
    array = np.asarray(values)
    if array.dtype == np.bool_:
        return np.asarray(array, dtype=np.bool_)
    labels = as_labels(array, what=what)
    present = np.unique(labels[labels > 0])
    if present.size > 1:
        raise InputError(
            f"{what} holds several labels, not one structure",
            received=", ".join(str(int(value)) for value in present[:8]),
            hint="Choose a label yourself, as in mask = labels == 3.",
        )
    return np.asarray(labels > 0)


def _rounded(array: NDArray[Any], what: str) -> NDArray[Any]:
    finite = np.isfinite(array)
    if not finite.all():
        raise InputError(
            f"{what} holds values that are not finite, which are no labels",
            received=f"{int(array.size - finite.sum())} NaN or infinite",
            hint="Set them to 0 where they are outside of the masks.",
        )
    whole = np.rint(array)
    off = np.abs(array - whole)
    worst = float(off.max())
    if worst > ROUNDING:
        example = float(array.ravel()[int(off.argmax())])
        between = float(array.min()) >= -ROUNDING and float(array.max()) <= 1 + ROUNDING
        raise InputError(
            f"{what} holds fractions, which are no labels: it looks like a probability map"
            if between
            else f"{what} holds values that are not whole numbers, which are no labels",
            received=f"{example:.6g} and {int((off > ROUNDING).sum())} more like it",
            hint="Cut a probability map at one half, and resample label maps by nearest neighbour only.",
        )
    return np.asarray(whole)


def _fills_a_block(mask: Mask) -> bool:
    """Tell whether a mask holds two by two pixels in some plane."""
    if min(mask.shape[-2:]) < 2:
        return bool(mask.any())
    rows = mask[..., 1:, :] & mask[..., :-1, :]
    return bool((rows[..., 1:] & rows[..., :-1]).any())
