"""Where the patient is in a slice: without table, sheets, arms and air."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import scipy
from numpy.typing import NDArray

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.distances import deeper_than, within_distance
from ctai_sam2.image.masks import fill_holes
from ctai_sam2.types import CTSlice, Mask

TISSUE_HU = -300.0
"""Above air, lung and table foam, below fat even where it shares a pixel with air."""

_SHELL_MM = 4.0
_ARM_CONTACT_MM = 14.0
_SMALLEST_BODY_MM2 = 4000.0
_GRAZED_MM = 110.0
_FAT_BELOW_HU = -45.0
_CIRCLE_REACH_PX = 2.0
_CIRCLE_PART = (0.47, 0.505)
"""Radius of the reconstructed circle by the side of its image."""

_found: WeakKeyDictionary[CTSlice, Mask] = WeakKeyDictionary()
_cut: WeakKeyDictionary[CTSlice, Mask] = WeakKeyDictionary()


def body_of(ct_slice: CTSlice) -> Mask:
    """Find the trunk on a slice as `body_mask` does, once for as long as the slice lives; read-only.

    Raises
    ------
    AnatomyNotFound
        If nothing on the slice is as large as a trunk.
    """
    body = _found.get(ct_slice)
    if body is None:
        body = body_mask(ct_slice.hu, ct_slice.spacing_mm)
        body.setflags(write=False)
        _found[ct_slice] = body
    return body


def body_mask(hu: NDArray[Any], spacing_mm: Sequence[float]) -> Mask:
    """Find the patient's trunk, with gas and lungs filled.

    Thin things are lost (table shell, sheets, cables) and so are separate ones (arms, table); a body
    cut off by the field of view is closed along the image's edge.

    Parameters
    ----------
    hu : ndarray, shape (H, W)
        Hounsfield units of an axial, sagittal or coronal slice.
    spacing_mm : sequence of 2 floats
        (row spacing, column spacing).

    Returns
    -------
    ndarray of bool, shape (H, W)
        One connected region without holes.

    Raises
    ------
    AnatomyNotFound
        If nothing on the slice is as large as a trunk.

    Examples
    --------
    >>> hu = np.full((60, 60), -1000)
    >>> hu[10:50, 10:50] = 40
    >>> hu[25:35, 25:35] = -900
    >>> int(body_mask(hu, (3.0, 3.0)).sum())
    1600
    """
    sampling = (float(spacing_mm[0]), float(spacing_mm[1]))
    tissue = np.asarray(hu) > TISSUE_HU
    if tissue.all():
        return tissue
    core = deeper_than(tissue, _SHELL_MM, sampling)
    pixel_mm2 = sampling[0] * sampling[1]
    core = _largest(_filled_to_edges(_largest(core)))
    if float(core.sum()) * pixel_mm2 < _SMALLEST_BODY_MM2:
        raise AnatomyNotFound(
            "no body is visible on the slice",
            received=f"largest region of tissue {core.sum() * pixel_mm2 / 100:.0f} cm²",
            hint="Check that the values are Hounsfield units and that the slice shows a trunk.",
        )
    # The distance runs between pixel centres, so what was taken off is one pixel less than it says.
    near = within_distance(core, _SHELL_MM + 0.5 * max(sampling), sampling)
    return _without_arms(_filled_to_edges(_largest((near & tissue) | core)), sampling)


def cut_border_of(ct_slice: CTSlice) -> Mask:
    """Find where the trunk is cut off, by an edge of the image or of the circle that was reconstructed.

    Found once for as long as the slice lives, as `body_of` does.

    Parameters
    ----------
    ct_slice : CTSlice
        The slice.

    Returns
    -------
    ndarray of bool, shape (H, W)
        The trunk's pixels there; read-only.

    Raises
    ------
    AnatomyNotFound
        If nothing on the slice is as large as a trunk.
    """
    known = _cut.get(ct_slice)
    if known is not None:
        return known
    body = body_of(ct_slice)
    border = np.zeros_like(body)
    for edge in ((0, slice(None)), (-1, slice(None)), (slice(None), 0), (slice(None), -1)):
        border[edge] = body[edge]
    circle = _beyond_circle(ct_slice.hu)
    if circle is not None:
        border |= body & within_distance(circle, _CIRCLE_REACH_PX)
    border.setflags(write=False)
    _cut[ct_slice] = border
    return border


def cut_lengths_mm(ct_slice: CTSlice) -> list[float]:
    """Length in mm of each stretch over which the trunk is cut off; see `cut_border_of`.

    A short one that shows skin, no fat, belongs to an image cropped to the patient.

    Raises
    ------
    AnatomyNotFound
        If nothing on the slice is as large as a trunk.
    """
    labels, _ = scipy.ndimage.label(cut_border_of(ct_slice), np.ones((3, 3)))
    row_mm, column_mm = ct_slice.spacing_mm
    lengths = []
    for label, part in enumerate(scipy.ndimage.find_objects(labels), start=1):
        rows, columns = (axis.stop - axis.start for axis in part)
        length = float(np.hypot(rows * row_mm, columns * column_mm))
        if length > _GRAZED_MM or np.median(ct_slice.hu[part][labels[part] == label]) < _FAT_BELOW_HU:
            lengths.append(length)
    return lengths


def _beyond_circle(hu: NDArray[Any]) -> Mask | None:
    """Return the pixels outside the reconstructed circle; None where the corners are not of one value."""
    height, width = hu.shape
    corners = hu[[0, 0, -1, -1], [0, -1, 0, -1]]
    if height != width or (corners != corners[0]).any():
        return None
    y, x = np.ogrid[:height, :width]
    middle = (height - 1) / 2
    radius = np.hypot(y - middle, x - middle)
    farthest = float(radius.max(where=hu != corners[0], initial=0.0))
    low, high = _CIRCLE_PART
    return radius > farthest if low * height <= farthest <= high * height else None


def separate_areas(hu: NDArray[Any], spacing_mm: Sequence[float]) -> list[float]:
    """Areas in mm² of the thick things that lie apart on a slice, without their outer 4 mm, largest first.

    Parameters
    ----------
    hu : ndarray, shape (H, W)
        Hounsfield units.
    spacing_mm : sequence of 2 floats
        (row spacing, column spacing).

    Examples
    --------
    >>> hu = np.full((60, 60), -1000)
    >>> hu[10:50, 5:25] = hu[20:40, 35:50] = 40
    >>> separate_areas(hu, (3.0, 3.0))
    [6156.0, 2106.0]
    """
    sampling = (float(spacing_mm[0]), float(spacing_mm[1]))
    core = deeper_than(np.asarray(hu) > TISSUE_HU, _SHELL_MM, sampling)
    labels, _ = scipy.ndimage.label(fill_holes(core))
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
    return [float(size) * sampling[0] * sampling[1] for size in sizes]


def _without_arms(body: Mask, sampling: tuple[float, float]) -> Mask:
    """Cut off what hangs on the trunk by a contact narrower than twice `_ARM_CONTACT_MM`."""
    deep = deeper_than(body, _ARM_CONTACT_MM, sampling)
    if not deep.any():
        return _largest(body)
    # Half as much again as was taken off, so that the trunk keeps its corners.
    near = within_distance(_largest(deep), 1.5 * _ARM_CONTACT_MM, sampling)
    return _largest(body & near)


def _largest(mask: Mask) -> Mask:
    labels, count = scipy.ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: Mask = labels == int(np.argmax(sizes))
    return largest


def _filled_to_edges(mask: Mask) -> Mask:
    """Fill holes, taking a body that is cut off by an edge of the image as closed there."""
    padded = np.pad(mask, 1)
    for edge, border in ((padded[0], mask[0]), (padded[-1], mask[-1])):
        _bridge(edge[1:-1], border)
    for edge, border in ((padded[:, 0], mask[:, 0]), (padded[:, -1], mask[:, -1])):
        _bridge(edge[1:-1], border)
    filled: Mask = fill_holes(padded)[1:-1, 1:-1]
    return filled


def _bridge(edge: Mask, border: Mask) -> None:
    touched = np.flatnonzero(border)
    if touched.size:
        edge[touched[0] : touched[-1] + 1] = True
