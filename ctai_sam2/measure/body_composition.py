"""From masks and HU to one row of numbers.

`measure_slice` measures one slice and returns one row with the columns of
``COLUMN_TABLE``, in that order.

Rules that hold for every number:

- A mask is what was outlined. The HU range of its tissue is applied here;
  a mask limited before does not change by it. Mean HU before and after differ,
  so both are reported for muscle and psoas.
- A structure that was not segmented gives None, never 0. A structure that was
  segmented and has no pixel in its range gives 0 pixels, area 0 and NaN for HU.
- Area is row spacing x column spacing. Volume is area x the extent a slice
  stands for, which follows from slice positions, not from a nominal thickness
  (but for a single slice, which has no neighbours).
- ``major_volume_mm3`` is the psoas (major) muscles' volume and
  ``full_volume_mm3`` that of all skeletal muscle, both of the slice measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.image.masks import area_mm2, as_mask, as_spacing_mm, limit_to_hu, require_same_shape
from ctai_sam2.measure.columns import COLUMN_TABLE as COLUMN_TABLE
from ctai_sam2.measure.columns import COLUMNS as COLUMNS
from ctai_sam2.measure.columns import ORIGINAL_COLUMNS as ORIGINAL_COLUMNS
from ctai_sam2.measure.columns import SIDED_GROUPS
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, HuRange, TissueDefinitions
from ctai_sam2.measure.quality import map_quality
from ctai_sam2.types import Mask
from ctai_sam2.types.checks import require_type

Row: TypeAlias = dict[str, float | int | str | None]

MASK_NAMES: tuple[str, ...] = ("psoas_left", "psoas_right", "psoas", "muscle", "sat", "vat", "imat")
"""Structures that can be measured."""

GROUP_MASK_NAMES: tuple[str, ...] = SIDED_GROUPS
"""Muscle groups that can be measured with them: parts of ``muscle``."""


def measure_slice(
    hu: ArrayLike,
    masks: Mapping[str, ArrayLike],
    spacing_mm: Sequence[float],
    *,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    height_m: float | None = None,
    slice_extent_mm: float | None = None,
    middle_slice: int | None = None,
) -> Row:
    """Measure one axial slice.

    Parameters
    ----------
    hu : array_like, shape (H, W)
        Hounsfield units, finite.
    masks : mapping of str to array_like, shape (H, W)
        Any of ``MASK_NAMES`` and ``GROUP_MASK_NAMES``. ``muscle`` is all skeletal muscle; pixels of the psoas
        masks are added to it, so it may also be the rest without psoas. ``psoas`` may
        be left out where both sides are given, and holds both sides where all are.
        ``imat`` may be intermuscular fat itself or the whole muscle compartment: the
        HU range picks the fat.
    spacing_mm : (float, float)
        (row, column).
    definitions : TissueDefinitions
        HU ranges and density rule.
    height_m : float, optional
        Body height in metres, 0.4 to 2.6, for the indices; None or NaN if not known.
    slice_extent_mm : float, optional
        Extent along the normal the slice stands for, for volume and mass.
    middle_slice : int, optional
        The slice's index in its volume, from 0.

    Returns
    -------
    dict
        One value for each of ``COLUMNS``, in order.

    Raises
    ------
    InputError
        If an array's shape, a value, a mask's name or the height cannot be used.
    GeometryError
        If the spacing or the extent is not positive.

    Notes
    -----
    ``ffm_kg`` = 0.30 SMA + 6.06 and ``fm_kg`` = 0.042 AT + 11.2 (areas in cm² at L3):
    Mourtzakis et al., Appl Physiol Nutr Metab 33 (2008) 997-1006. They are regressions
    on whole-body DXA of patients with cancer, because L3 areas grow linearly with
    whole-body tissue; for one person they err by several kg, and they hold at L3 only.

    Examples
    --------
    >>> muscle = np.array([[1, 1, 1], [0, 0, 0]])
    >>> row = measure_slice([[50, 60, -100], [0, 0, 0]], {"muscle": muscle}, (2.0, 0.5), height_m=2.0)
    >>> row["combo_pixels"], row["combo_area_mm2"], row["smd_hu"], row["smd_roi_hu"], row["sat_pixels"]
    (2, 2.0, 55.0, 3.3333333333333335, None)
    """
    values = _checked_hu(hu)
    spacing = as_spacing_mm(spacing_mm)
    height = require_height(height_m)
    extent = None if slice_extent_mm is None else _checked_extent(slice_extent_mm)
    rois = _compose(masks, values)
    groups = {name: rois.pop(name) for name in GROUP_MASK_NAMES if name in rois}

    row: Row = dict.fromkeys(COLUMNS)
    ranges = {"sat": definitions.sat, "vat": definitions.vat, "imat": definitions.imat}
    for name, roi in rois.items():
        row.update(_measure_tissue(name, roi, values, spacing, ranges.get(name, definitions.muscle)))
    for name, roi in groups.items():
        facts = _measure_tissue(name, roi, values, spacing, definitions.muscle)
        row.update({f"{name}_{fact}": facts[f"{name}_{fact}"] for fact in ("area_mm2", "hu_mean")})
    if "combo" in rois:
        quality = map_quality(values, rois["combo"], definitions=definitions)
        row["nama_area_mm2"] = area_mm2(quality["nama"], spacing)
        row["lama_area_mm2"] = area_mm2(quality["lama"], spacing)

    for name, volume, mass, roi_mean in (
        ("psoas", "major_volume_mm3", "mass_psoas_g", "psoas_roi_hu"),
        ("combo", "full_volume_mm3", "mass_combo_g", "smd_roi_hu"),
    ):
        if name in rois:
            row[roi_mean] = _mean(values[rois[name]])
            if extent is not None:
                row[volume] = volume_mm3 = _number(row[f"{name}_area_mm2"]) * extent
                row[mass] = _mass_g(volume_mm3, _number(row[f"{name}_hu_mean"]), definitions)

    sma_cm2, adipose_cm2 = _cm2(row, "combo"), _cm2(row, "sat", "vat", "imat")
    row["sma_cm2"], row["adipose_cm2"] = sma_cm2, adipose_cm2
    row["smd_hu"] = row["combo_hu_mean"]
    row["smi_cm2_m2"] = _per_height(sma_cm2, height)
    row["pmi_cm2_m2"] = _per_height(_cm2(row, "psoas"), height)
    row["psoas_asymmetry"] = _asymmetry(row["psoas_left_area_mm2"], row["psoas_right_area_mm2"])
    row["nama_percent"] = _percent(row["nama_area_mm2"], row["combo_area_mm2"])
    row["lama_percent"] = _percent(row["lama_area_mm2"], row["combo_area_mm2"])
    compartment_cm2 = _cm2(row, "combo", "imat")
    row["imat_percent"] = _percent(_cm2(row, "imat"), compartment_cm2)
    row["smg"] = _product(row["smi_cm2_m2"], row["smd_hu"])
    row["vat_sat_ratio"] = _ratio(row["vat_area_mm2"], row["sat_area_mm2"])
    row["ffm_kg"] = None if sma_cm2 is None else estimate_fat_free_mass_kg(sma_cm2)
    row["fm_kg"] = None if adipose_cm2 is None else estimate_fat_mass_kg(adipose_cm2)
    row["height_m"] = height
    row["middle_slice"] = None if middle_slice is None else _checked_index(middle_slice)
    row["slices"], row["slice_gaps"] = 1, 0
    row["definitions"] = definitions.identifier
    return row


def estimate_fat_free_mass_kg(sma_cm2: float) -> float:
    """Whole-body fat-free mass from muscle area at L3 (Mourtzakis 2008); NaN for no muscle at all.

    Examples
    --------
    >>> round(estimate_fat_free_mass_kg(150.0), 2)
    51.06
    """
    return 0.30 * sma_cm2 + 6.06 if sma_cm2 > 0 else math.nan


def estimate_fat_mass_kg(adipose_cm2: float) -> float:
    """Whole-body fat mass from adipose tissue area at L3 (Mourtzakis 2008); NaN for none at all.

    Examples
    --------
    >>> round(estimate_fat_mass_kg(300.0), 2)
    23.8
    """
    return 0.042 * adipose_cm2 + 11.2 if adipose_cm2 > 0 else math.nan


def _compose(masks: Mapping[str, ArrayLike], hu: NDArray[Any]) -> dict[str, Mask]:
    """Masks by the columns' tissue names: psoas of both sides, combo of muscle and psoas."""
    require_type(masks, Mapping, "masks")
    known = (*MASK_NAMES, *GROUP_MASK_NAMES)
    unknown = sorted(set(masks) - set(known))
    if unknown:
        raise InputError("no such structure to measure", received=unknown, hint=f"Known: {', '.join(known)}.")
    rois: dict[str, Mask] = {}
    for name in masks:
        rois[name] = as_mask(masks[name], name=f"the mask {name!r}")
        require_same_shape(hu, rois[name], f"the image and the mask {name!r}")
    parts = [rois[name] for name in ("psoas", "psoas_left", "psoas_right") if name in rois]
    # One side alone is not "the psoas": half a value under a whole one's name misleads.
    if "psoas" in rois or len(parts) == 2:
        rois["psoas"] = np.logical_or.reduce(parts)
    if "muscle" in rois:
        rois["combo"] = np.logical_or.reduce([rois.pop("muscle"), *parts])
    return rois


def _measure_tissue(
    name: str, roi: Mask, hu: NDArray[Any], spacing_mm: tuple[float, float], limits: HuRange
) -> Row:
    mask = limit_to_hu(roi, hu, limits.low_hu, limits.high_hu)
    inside = hu[mask].astype(np.float64)
    return {
        f"{name}_pixels": int(inside.size),
        f"{name}_hu_mean": _mean(inside),
        f"{name}_hu_min": float(inside.min()) if inside.size else math.nan,
        f"{name}_hu_max": float(inside.max()) if inside.size else math.nan,
        f"{name}_hu_sum": float(inside.sum()) if inside.size else math.nan,
        f"{name}_area_mm2": area_mm2(mask, spacing_mm),
    }


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean(dtype=np.float64)) if values.size else math.nan


def _mass_g(volume_mm3: float, hu_mean: float, definitions: TissueDefinitions) -> float:
    # Nothing weighs nothing, though the mean HU of nothing is not a number.
    return volume_mm3 / 1000.0 * definitions.muscle_density_g_cm3(hu_mean) if volume_mm3 else 0.0


def _cm2(row: Row, *tissues: str) -> float | None:
    areas = [row[f"{tissue}_area_mm2"] for tissue in tissues]
    return None if None in areas else math.fsum(_number(area) for area in areas) / 100.0


def _per_height(area_cm2: float | None, height_m: float | None) -> float | None:
    return None if area_cm2 is None or height_m is None else area_cm2 / height_m**2


def _ratio(part: float | int | str | None, whole: float | int | str | None) -> float | None:
    """Part over whole: None where one was not measured, NaN where there is none of the whole."""
    if part is None or whole is None:
        return None
    return _number(part) / _number(whole) if _number(whole) else math.nan


def _percent(part: float | int | str | None, whole: float | int | str | None) -> float | None:
    ratio = _ratio(part, whole)
    return None if ratio is None else 100.0 * ratio


def _product(first: float | int | str | None, second: float | int | str | None) -> float | None:
    return None if first is None or second is None else _number(first) * _number(second)


def _asymmetry(left: float | int | str | None, right: float | int | str | None) -> float | None:
    if left is None or right is None:
        return None
    difference, total = _number(left) - _number(right), _number(left) + _number(right)
    return 2.0 * difference / total if total else math.nan


def _number(value: float | int | str | None) -> float:
    return math.nan if value is None else float(value)


def _checked_hu(hu: ArrayLike) -> NDArray[Any]:
    values = np.asarray(hu)
    if values.ndim != 2 or values.size == 0 or not np.issubdtype(values.dtype, np.number):
        raise InputError(
            "Hounsfield units must be a non-empty (H, W) array",
            received=f"shape {values.shape}" if values.ndim else type(hu).__name__,
            hint="Of a CTSlice pass its .hu and .spacing_mm.",
        )
    if np.iscomplexobj(values) or not np.isfinite(values).all():
        raise InputError("Hounsfield units must be finite", hint="Replace padding by air (-1024 HU).")
    return values


def require_height(height_m: float | None) -> float | None:
    """Return a body height in metres as float; None where it is not known (None or NaN).

    Raises
    ------
    InputError
        If it is no height of a person in metres.
    """
    try:
        if height_m is None or math.isnan(height_m):
            return None
    except TypeError as error:
        raise InputError("a body height is a number of metres", received=height_m) from error
    if not 0.4 <= height_m <= 2.6:
        raise InputError(
            "a body height lies between 0.4 and 2.6 m", received=height_m, hint="Give it in metres."
        )
    return float(height_m)


def _checked_extent(extent_mm: float) -> float:
    if not (math.isfinite(extent_mm) and extent_mm > 0):
        raise GeometryError("a slice's extent must be a positive number of mm", received=extent_mm)
    return float(extent_mm)


def _checked_index(index: int) -> int:
    if isinstance(index, bool) or not isinstance(index, int | np.integer) or index < 0:
        raise InputError("a slice index is a whole number from 0", received=index)
    return int(index)
