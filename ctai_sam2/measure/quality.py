"""Muscle quality: how much of a muscle is normal, how much is pale with fat, how much is fat.

Within the muscle range of the definitions, muscle of 30 HU and more is of normal attenuation (NAMA), the rest
of low attenuation (LAMA); intermuscular fat (IMAT) lies in the fat range: Aubrey et al., Acta Physiol 210
(2014) 489-497. Contrast and tube voltage move muscle across these limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.body import body_of, cut_border_of
from ctai_sam2.image.masks import as_mask, as_spacing_mm, limit_to_hu, require_same_shape
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.types import CTSlice, Mask

NORMAL_FROM_HU = 30.0
"""Muscle from here on is of normal attenuation."""

QUALITY_COLORS: Mapping[str, str] = MappingProxyType(
    {"nama": "#009E73", "lama": "#F0E442", "imat": "#D55E00"}
)
"""Colors of the map, as ``#RRGGBB``."""


def map_quality(
    hu: ArrayLike,
    muscle: ArrayLike,
    imat: ArrayLike | None = None,
    *,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
) -> dict[str, Mask]:
    """Divide muscle into normal and low attenuation, and find the fat within it.

    Parameters
    ----------
    hu : array_like, shape (H, W)
        Hounsfield units.
    muscle : array_like, shape (H, W)
        All skeletal muscle as outlined.
    imat : array_like, shape (H, W), optional
        Intermuscular fat, or the compartment that it lies in.
    definitions : TissueDefinitions
        HU ranges of muscle and fat.

    Returns
    -------
    dict of str to ndarray of bool, shape (H, W)
        ``nama``, ``lama`` and, where it was given, ``imat``; they do not overlap.

    Raises
    ------
    InputError
        If shapes differ or an array is no mask.

    Examples
    --------
    >>> found = map_quality([[50, 29, -40]], [[1, 1, 0]], [[0, 0, 1]])
    >>> {name: mask.tolist() for name, mask in found.items()}
    {'nama': [[True, False, False]], 'lama': [[False, True, False]], 'imat': [[False, False, True]]}
    """
    values = np.asarray(hu)
    outlined = as_mask(muscle, name="the muscle mask")
    require_same_shape(values, outlined, "the image and the muscle mask")
    limits = definitions.muscle
    within = limit_to_hu(outlined, values, limits.low_hu, limits.high_hu)
    is_normal = values >= NORMAL_FROM_HU
    found: dict[str, Mask] = {"nama": within & is_normal, "lama": within & ~is_normal}
    if imat is not None:
        place = as_mask(imat, name="the mask of intermuscular fat")
        require_same_shape(values, place, "the image and the mask of intermuscular fat")
        found["imat"] = (
            limit_to_hu(place, values, definitions.imat.low_hu, definitions.imat.high_hu) & ~within
        )
    return found


def measure_circumference_mm(body: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """Length of a tape around the body: the perimeter of its convex outline.

    Parameters
    ----------
    body : array_like, shape (H, W)
        The trunk on an axial slice.
    spacing_mm : (float, float)
        (row, column).

    Returns
    -------
    float
        Millimetres; a tape bridges hollows such as that of the back, so the convex outline is measured.

    Raises
    ------
    InputError
        If the mask is empty.
    GeometryError
        If the spacing is not positive.

    Examples
    --------
    >>> measure_circumference_mm(np.ones((3, 5), dtype=bool), (2.0, 1.0))
    22.0
    """
    mask = as_mask(body, name="the body")
    row_mm, column_mm = as_spacing_mm(spacing_mm)
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        raise InputError("the mask of the body is empty")
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - mask[rows][:, ::-1].argmax(axis=1)
    # The four corners of each row's outermost pixels: a pixel is an area, not a point.
    corners = np.concatenate(
        [
            np.stack([(rows + down) * row_mm, column * column_mm], axis=1)
            for down in (0, 1)
            for column in (first, last)
        ]
    )
    return _perimeter_of_hull(corners)


def body_circumference_cm(ct_slice: CTSlice) -> float | None:
    """Circumference of the body on an axial slice in cm; None where it is cut off or there is none."""
    try:
        body = body_of(ct_slice)
    except AnatomyNotFound:
        return None
    if cut_border_of(ct_slice).any():
        return None
    return measure_circumference_mm(body, ct_slice.spacing_mm) / 10.0


def _perimeter_of_hull(points: NDArray[np.float64]) -> float:
    from scipy.spatial import ConvexHull

    # In the plane, scipy's "area" of a hull is its perimeter.
    return float(ConvexHull(points).area)
