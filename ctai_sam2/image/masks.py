"""What can be done to a mask: components, holes, growth in mm, boxes, run lengths, area.

A mask is a bool array of shape (H, W), True inside. Every function also takes
integers that are exactly {0, 1} or {0, 255} (what image files hold) and refuses
anything else: a soft mask or a label map silently cast to bool is a wrong
measurement. No function changes its argument.

``spacing_mm`` is (distance between rows, distance between columns). Pixels are
points at their centres: distances run from centre to centre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.image.distances import box_of, within_distance
from ctai_sam2.types import Mask

# Distances are roots of sums of squares: without slack, growing by just one pixel would depend on rounding.
_SLACK_MM = 1e-6


class Rle(TypedDict):
    """Run lengths as in COCO's uncompressed form: ``size`` (H, W) and ``counts``."""

    size: list[int]
    counts: list[int]


def as_mask(mask: ArrayLike, *, name: str = "the mask") -> Mask:
    """Return ``mask`` as a bool array, or say why it is not one.

    Parameters
    ----------
    mask : array_like, shape (H, W)
        bool, or integers that are exactly {0, 1} or {0, 255}.
    name : str
        What to call it in a message.

    Returns
    -------
    ndarray of bool, shape (H, W)
        The argument itself where it already was bool; treat it as read-only.

    Raises
    ------
    InputError
        If it is not two-dimensional, holds no pixel, or has other values.

    Examples
    --------
    >>> as_mask(np.array([[0, 255]], dtype=np.uint8))
    array([[False,  True]])
    """
    array = np.asarray(mask)
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{name} must be two-dimensional with at least one pixel", received=str(array.shape))
    if array.dtype == np.bool_:
        return array
    if np.issubdtype(array.dtype, np.integer):
        top = int(array.max())
        inside = array == top
        if top in (0, 1, 255) and bool((inside | (array == 0)).all()):
            return np.asarray(inside if top else np.zeros_like(inside), dtype=np.bool_)
    raise InputError(
        f"{name} must be bool, or integers that are all 0 and 1 or all 0 and 255",
        received=str(array.dtype),
        hint="Choose a threshold or a label yourself, as in mask = labels == 3.",
    )


def as_spacing_mm(spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Return (row spacing, column spacing) in mm as floats, or say why it cannot be one.

    Raises
    ------
    GeometryError
        If there are not two finite positive numbers.

    Examples
    --------
    >>> as_spacing_mm([5, 0.8])
    (5.0, 0.8)
    """
    try:
        values = np.asarray(spacing_mm, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (2,) or not np.isfinite(values).all() or (values <= 0).any():
        raise GeometryError(
            "spacing must be two positive numbers in mm",
            received=str(spacing_mm),
            hint="Give (row spacing, column spacing).",
        )
    return float(values[0]), float(values[1])


def label_components(mask: ArrayLike, *, diagonal: bool = True) -> tuple[NDArray[np.int32], int]:
    """Label the connected parts of a mask with numbers from 1.

    Parameters
    ----------
    mask : array_like, shape (H, W)
    diagonal : bool
        Whether pixels that touch at a corner belong together.

    Returns
    -------
    labels : ndarray of int32, shape (H, W)
        0 outside, 1 … count inside, in reading order of each part's first pixel.
    count : int
        How many parts; 0 for an empty mask.

    Examples
    --------
    >>> label_components(np.eye(2, dtype=bool))[1], label_components(np.eye(2, dtype=bool), diagonal=False)[1]
    (1, 2)
    """
    structure = scipy.ndimage.generate_binary_structure(2, 2 if diagonal else 1)
    labels, count = scipy.ndimage.label(as_mask(mask), structure=structure)
    return labels.astype(np.int32, copy=False), int(count)


def keep_largest(mask: ArrayLike, n: int = 1) -> Mask:
    """Keep the ``n`` parts with most pixels; of equal ones, those first in reading order.

    Fewer than ``n`` parts are all kept; an empty mask stays empty.

    Raises
    ------
    InputError
        If ``n`` is less than 1.

    Examples
    --------
    >>> keep_largest(np.array([[1, 0, 1, 1]])).astype(int)
    array([[0, 0, 1, 1]])
    """
    if n < 1:
        raise InputError("at least one part must be kept", received=n)
    inside = as_mask(mask)
    kept = np.zeros_like(inside)
    box = box_of(inside)
    if box is not None:
        labels, count = label_components(inside[box])
        is_large = np.zeros(count + 1, dtype=np.bool_)
        is_large[np.argsort(-_sizes(labels, count), kind="stable")[:n] + 1] = True
        kept[box] = is_large[labels]
    return kept


def remove_islands(mask: ArrayLike, min_area_px: int) -> Mask:
    """Remove parts with fewer than ``min_area_px`` pixels.

    Examples
    --------
    >>> remove_islands(np.array([[1, 0, 1, 1]]), 2).astype(int)
    array([[0, 0, 1, 1]])
    """
    inside = as_mask(mask)
    kept = np.zeros_like(inside)
    box = box_of(inside)
    if box is not None:
        labels, count = label_components(inside[box])
        kept[box] = np.concatenate([[False], _sizes(labels, count) >= min_area_px])[labels]
    return kept


def fill_holes(mask: ArrayLike, max_area_px: int | None = None) -> Mask:
    """Fill background that the mask encloses.

    A hole is background which no path of steps up, down, left or right leads out
    of the image: a ring closed by touching corners does enclose its inside.

    Parameters
    ----------
    mask : array_like, shape (H, W)
    max_area_px : int, optional
        Larger holes stay; all are filled when None.

    Examples
    --------
    >>> ring = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    >>> int(fill_holes(ring).sum()), int(fill_holes(ring, max_area_px=0).sum())
    (5, 4)
    """
    filled = as_mask(mask).copy()
    # A hole is smaller than the mask's box: background that reaches the box's edge leads out of the image.
    box = box_of(filled)
    if box is None:
        return filled
    labels, count = label_components(~filled[box], diagonal=False)
    fill = np.ones(count + 1, dtype=np.bool_)
    fill[0] = False
    if max_area_px is not None:
        fill[1:] = _sizes(labels, count) <= max_area_px
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        fill[edge] = False
    filled[box] |= fill[labels]
    return filled


def grow(mask: ArrayLike, distance_mm: float, spacing_mm: Sequence[float]) -> Mask:
    """Add every pixel whose centre lies within ``distance_mm`` of a mask pixel's centre.

    An empty mask stays empty.

    Parameters
    ----------
    mask : array_like, shape (H, W)
    distance_mm : float
        At least 0; less than the smaller spacing changes nothing.
    spacing_mm : (float, float)
        (row, column).

    Raises
    ------
    InputError
        If the distance is negative or not finite.
    GeometryError
        If the spacing is not positive.

    Examples
    --------
    >>> grow(np.array([[0, 0, 1, 0, 0]]), 2, (1, 2)).astype(int)
    array([[0, 1, 1, 1, 0]])
    """
    inside, spacing = as_mask(mask), as_spacing_mm(spacing_mm)
    if not (np.isfinite(distance_mm) and distance_mm >= 0):
        raise InputError("a distance must be finite and not negative", received=distance_mm)
    if not inside.any():
        return inside.copy()
    return within_distance(inside, distance_mm + _SLACK_MM, spacing)


def shrink(mask: ArrayLike, distance_mm: float, spacing_mm: Sequence[float]) -> Mask:
    """Remove every pixel whose centre lies within ``distance_mm`` of a background pixel's centre.

    The exact counterpart of `grow`: shrinking a mask is growing its background.
    What lies beyond the image is not background, so a body cut off by the field of
    view is not eaten from the image's edge. Parameters and errors as in `grow`.

    Examples
    --------
    >>> shrink(np.array([[1, 1, 1, 0, 0]]), 1, (1, 1)).astype(int)
    array([[1, 1, 0, 0, 0]])
    """
    return ~grow(~as_mask(mask), distance_mm, spacing_mm)


def smooth(mask: ArrayLike, sigma_mm: float, spacing_mm: Sequence[float]) -> Mask:
    """Round off a mask's outline: blur it with a Gaussian and cut at one half.

    Straight edges stay where they are; corners, spurs and clefts narrower than about
    ``2 * sigma_mm`` go. The image is continued by its edge pixels, so a mask that
    runs out of the image keeps its full width there. ``sigma_mm`` 0 changes nothing.

    Raises
    ------
    InputError
        If ``sigma_mm`` is negative or not finite.

    Examples
    --------
    >>> smooth(np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]), 0.8, (1, 1)).astype(int)
    array([[1, 1, 1, 1],
           [0, 0, 0, 0],
           [0, 0, 0, 0],
           [0, 0, 0, 0]])
    """
    inside, spacing = as_mask(mask), as_spacing_mm(spacing_mm)
    if not (np.isfinite(sigma_mm) and sigma_mm >= 0):
        raise InputError("sigma must be finite and not negative", received=sigma_mm)
    if sigma_mm == 0:
        return inside.copy()
    sigmas = [sigma_mm / step for step in spacing]
    blurred = scipy.ndimage.gaussian_filter(inside.astype(np.float32), sigmas, mode="nearest")
    return np.asarray(blurred > 0.5, dtype=np.bool_)


def limit_to_hu(mask: ArrayLike, hu: ArrayLike, low_hu: float, high_hu: float) -> Mask:
    """Keep the pixels whose value lies in ``low_hu`` … ``high_hu``, both included.

    Parameters
    ----------
    mask : array_like, shape (H, W)
    hu : array_like, shape (H, W)
        Hounsfield units; NaN lies in no range.
    low_hu, high_hu : float
        Bounds, both included.

    Raises
    ------
    InputError
        If the shapes differ or the range is empty.

    Examples
    --------
    >>> limit_to_hu(np.ones((1, 4), bool), np.array([[-30, -29, 150, 151]]), -29, 150).astype(int)
    array([[0, 1, 1, 0]])
    """
    inside, values = as_mask(mask), np.asarray(hu)
    require_same_shape(inside, values, "the mask and the image")
    if not low_hu <= high_hu:
        raise InputError("a HU range needs its lower bound first", received=(low_hu, high_hu))
    return np.asarray(inside & (values >= low_hu) & (values <= high_hu), dtype=np.bool_)


def area_mm2(mask: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """Area of a mask: pixels times row spacing times column spacing.

    Examples
    --------
    >>> area_mm2(np.ones((2, 3), bool), (5.0, 0.5))
    15.0
    """
    row_mm, column_mm = as_spacing_mm(spacing_mm)
    return int(np.count_nonzero(as_mask(mask))) * row_mm * column_mm


def mask_to_box_xyxy(mask: ArrayLike, *, pad_px: int = 0) -> tuple[int, int, int, int] | None:
    """Return the smallest box that holds all mask pixels' centres, or None for an empty mask.

    Both corners are inclusive and lie on pixel centres: ``mask[y0:y1 + 1, x0:x1 + 1]``
    holds the whole mask, and a single pixel gives ``x0 == x1`` and ``y0 == y1``. A box
    prompt needs an area; ``pad_px`` gives it one.

    Parameters
    ----------
    mask : array_like, shape (H, W)
    pad_px : int
        Pixels added on each side, as far as the image reaches.

    Returns
    -------
    (x0, y0, x1, y1) : tuple of int, or None
        x is the column, y the row, from 0.

    Raises
    ------
    InputError
        If ``pad_px`` is negative.

    Examples
    --------
    >>> mask_to_box_xyxy(np.array([[0, 0, 0], [0, 1, 1]]))
    (1, 1, 2, 1)
    """
    inside = as_mask(mask)
    if pad_px < 0:
        raise InputError("a box cannot be padded by less than 0 pixels", received=pad_px)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if rows.size == 0:
        return None
    height, width = inside.shape
    return (
        max(int(columns[0]) - pad_px, 0),
        max(int(rows[0]) - pad_px, 0),
        min(int(columns[-1]) + pad_px, width - 1),
        min(int(rows[-1]) + pad_px, height - 1),
    )


def changed_box(before: ArrayLike, after: ArrayLike) -> tuple[int, int, int, int] | None:
    """Return the box of pixels that differ, as `mask_to_box_xyxy` does, or None if none does.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> changed_box(np.zeros((3, 4), bool), np.eye(3, 4, dtype=bool))
    (0, 0, 2, 2)
    """
    first, second = as_mask(before), as_mask(after)
    require_same_shape(first, second, "the two masks")
    return mask_to_box_xyxy(first ^ second)


def mask_to_rle(mask: ArrayLike) -> Rle:
    """Encode a mask as run lengths, in COCO's uncompressed form.

    Pixels are taken column by column (top to bottom, then left to right). ``counts``
    alternates lengths of background and foreground and begins with background, so it
    begins with 0 where pixel (0, 0) is inside. It sums to H x W.

    Source: COCO data format, https://cocodataset.org/#format-data (``segmentation`` of a crowd).

    Examples
    --------
    >>> mask_to_rle(np.array([[0, 1], [1, 1]]))
    {'size': [2, 2], 'counts': [1, 3]}
    """
    inside = as_mask(mask)
    height, width = inside.shape
    return {"size": [height, width], "counts": mask_to_runs(inside).tolist()}


def mask_to_runs(mask: Mask) -> NDArray[np.int64]:
    """Return the run lengths of a mask, column by column and background first, as in `mask_to_rle`.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        At least one pixel.

    Returns
    -------
    ndarray of int64, shape (N,)
    """
    height, width = mask.shape
    # Where a pixel differs from the one above it, and the first of a column from the last of the one before:
    # to lay a mask out by columns takes several times as long.
    rows, columns = np.divmod(np.flatnonzero(mask[1:] != mask[:-1]), width)
    turns = np.flatnonzero(mask[0, 1:] != mask[-1, :-1]) + 1
    ends = np.concatenate([columns * height + rows + 1, turns * height])
    ends.sort()
    starts = np.concatenate([[0, 0] if mask[0, 0] else [0], ends])
    return np.diff(starts, append=height * width)


def rle_to_mask(rle: Mapping[str, Any]) -> Mask:
    """Decode run lengths written by `mask_to_rle` or by COCO's uncompressed form.

    Raises
    ------
    InputError
        If a key is missing, a length is negative, the lengths do not sum to H x W, or
        the counts are compressed text.

    Examples
    --------
    >>> rle_to_mask({"size": [2, 2], "counts": [1, 3]}).astype(int)
    array([[0, 1],
           [1, 1]])
    """
    try:
        size, counts = rle["size"], rle["counts"]
    except (KeyError, TypeError, IndexError) as error:
        raise InputError("run lengths need the keys 'size' and 'counts'") from error
    if isinstance(counts, str | bytes):
        raise InputError(
            "compressed run lengths cannot be read",
            hint="Expand them with pycocotools first, or write lists.",
        )
    if not (_are_counts(size) and _are_counts(counts) and len(size) == 2):
        raise InputError("run lengths must be whole numbers of at least 0, and the size two of them")
    height, width = int(size[0]), int(size[1])
    total = sum(counts.tolist() if isinstance(counts, np.ndarray) else map(int, counts))
    if total == 0 or total != height * width:
        raise InputError(
            "the run lengths do not fill the mask", received=f"{total} pixels for {height} x {width}"
        )
    values = np.arange(len(counts)) % 2 == 1
    pixels = np.repeat(values, np.asarray(counts, dtype=np.int64))
    return np.ascontiguousarray(pixels.reshape((height, width), order="F"))


def require_same_shape(first: NDArray[Any], second: NDArray[Any], what: str) -> None:
    """Raise `InputError` unless two arrays have one shape; ``what`` names them both."""
    if first.shape != second.shape:
        raise InputError(f"{what} differ in shape", received=f"{first.shape} and {second.shape}")


def _sizes(labels: NDArray[np.int32], count: int) -> NDArray[np.intp]:
    return np.bincount(labels.ravel(), minlength=count + 1)[1:]


def _are_counts(values: object) -> bool:
    if isinstance(values, np.ndarray):
        return values.ndim == 1 and values.dtype.kind in "iu" and bool((values >= 0).all())
    return isinstance(values, Sequence) and all(
        isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 0
        for value in values
    )
