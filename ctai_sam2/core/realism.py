"""What an axial slice looks like in numbers: tissues, noise, sharpness, shapes.

The same measures are taken of real slices and of phantoms, so that the phantom can be held against them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ctai_sam2.core.body import body_mask
from ctai_sam2.core.masks import as_mask, as_spacing_mm, mask_to_box_xyxy, shrink
from ctai_sam2.errors import InputError
from ctai_sam2.types import Mask

MEASURES: Final[dict[str, str]] = {
    "body_width_mm": "Width of the trunk",
    "body_depth_mm": "Depth of the trunk",
    "sat_front_mm": "Subcutaneous fat before the belly",
    "sat_side_mm": "Subcutaneous fat at the sides",
    "sat_back_mm": "Subcutaneous fat behind the spine",
    "wall_mm": "Muscle wall at the sides",
    "muscle_cm2": "All skeletal muscle",
    "psoas_cm2": "One psoas",
    "psoas_aside_mm": "Psoas beside the vertebral body, centre to centre",
    "psoas_behind_mm": "Psoas behind the vertebral body, centre to centre",
    "sat_cm2": "Subcutaneous fat",
    "vat_cm2": "Visceral fat",
    "muscle_hu": "Muscle, mean",
    "muscle_hu_sd": "Muscle, spread of pixels",
    "psoas_hu": "Psoas, mean",
    "sat_hu": "Subcutaneous fat, mean",
    "vat_hu": "Visceral fat, mean",
    "vertebra_hu": "Vertebral body, mean",
    "noise_hu": "Noise in the psoas, spread without trend",
    "noise_grain_mm": "Grain of the noise: where its correlation has halved",
    "skin_edge_mm": "Edge of the skin, 10 to 90 %",
    "muscle_edge_mm": "Edge of muscle in fat, 10 to 90 %",
}
"""Measures of `measure_appearance` and what they are."""

_EDGE_REACH_MM: Final = 7.0
_EDGE_STEP_MM: Final = 0.2
_FLAT_BEYOND_MM: Final = 3.5
_LEAST_STEP_HU: Final = 40.0
_INNER_MM: Final = 2.5
_TREND_MM: Final = 6.0
_GRAIN_REACH_MM: Final = 8.0
_FEWEST_PX: Final = 60


def measure_appearance(
    hu: ArrayLike, masks: Mapping[str, ArrayLike], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Measure an axial slice with reference masks.

    Parameters
    ----------
    hu : array_like, shape (H, W)
        Hounsfield units, anterior up.
    masks : mapping of str to array_like of bool, shape (H, W)
        Of ``psoas_left``, ``psoas_right``, ``muscle``, ``vertebra``, ``sat``, ``vat`` those that are known.
    spacing_mm : sequence of 2 floats
        (row, column) spacing.

    Returns
    -------
    dict of str to float
        Of `MEASURES` those that the masks allow.

    Raises
    ------
    AnatomyNotFound
        If there is no body on the slice.
    InputError
        If shapes or spacing cannot be used.
    """
    image = np.asarray(hu, dtype=np.float32)
    spacing = as_spacing_mm(spacing_mm)
    known = {name: as_mask(mask, name=name) for name, mask in masks.items() if np.any(mask)}
    for name, mask in known.items():
        if mask.shape != image.shape:
            raise InputError(f"the mask {name} has another shape than the image", received=mask.shape)
    body = body_mask(image, spacing)
    found = _measure_body(body, spacing)
    found |= _measure_tissues(image, known, spacing)
    found |= _measure_thickness(body, known, spacing)
    found |= _measure_places(known, spacing)
    found |= _measure_noise(image, known, spacing)
    found["skin_edge_mm"] = edge_width_mm(image, body, spacing)
    if "muscle" in known:
        found["muscle_edge_mm"] = edge_width_mm(image, known["muscle"], spacing, among=_fat(image))
    return {name: found[name] for name in MEASURES if np.isfinite(found.get(name, np.nan))}


def edge_width_mm(
    hu: ArrayLike, mask: ArrayLike, spacing_mm: Sequence[float], *, among: Mask | None = None
) -> float:
    """Width of the border of a mask: 10 to 90 % of the step between its two sides, in mm.

    The median over all places at the same distance from the border is taken, which noise hardly moves.

    Parameters
    ----------
    hu : array_like, shape (H, W)
        Hounsfield units.
    mask : array_like of bool, shape (H, W)
        One side of the border.
    spacing_mm : sequence of 2 floats
        (row, column) spacing.
    among : ndarray of bool, shape (H, W), optional
        What must lie within reach outside: elsewhere the border is not looked at.

    Returns
    -------
    float
        NaN where the sides do not differ or no border is left.

    Examples
    --------
    >>> image = np.where(np.arange(60) < 30, 100.0, 0.0) * np.ones((60, 1))
    >>> blurred = ndimage.gaussian_filter1d(image, 1.5, axis=1)
    >>> bool(abs(edge_width_mm(blurred, image > 50, (1, 1)) - 2.563 * 1.5) < 0.8)
    True
    """
    image = np.asarray(hu, dtype=np.float32)
    inside = as_mask(mask)
    spacing = as_spacing_mm(spacing_mm)
    out_mm = ndimage.distance_transform_edt(~inside, sampling=spacing)
    in_mm = ndimage.distance_transform_edt(inside, sampling=spacing)
    # The border runs half a pixel from the centres on either side.
    half = float(np.mean(spacing)) / 2
    distance = np.where(inside, half - in_mm, out_mm - half)
    near = np.abs(distance) <= _EDGE_REACH_MM
    if among is not None:
        near &= _far_side_is(among, inside, distance, spacing)
    if near.sum() < _FEWEST_PX:
        return float("nan")
    centres = np.arange(-_EDGE_REACH_MM, _EDGE_REACH_MM + _EDGE_STEP_MM / 2, _EDGE_STEP_MM)
    values, places = image[near], distance[near]
    order = np.argsort(places)
    values, places = values[order], places[order]
    width = max(2 * half, 2 * _EDGE_STEP_MM)
    profile = np.full(len(centres), np.nan)
    for index, centre in enumerate(centres):
        low, high = np.searchsorted(places, (centre - width / 2, centre + width / 2))
        if high - low >= 8:
            profile[index] = np.median(values[low:high])
    return _rise_mm(centres, profile)


def noise_grain_mm(residual: NDArray[Any], region: Mask, spacing_mm: Sequence[float]) -> float:
    """Distance at which the correlation of noise within a region has fallen to a half, in mm.

    Parameters
    ----------
    residual : ndarray, shape (H, W)
        Values without their trend.
    region : ndarray of bool, shape (H, W)
        Where they count.
    spacing_mm : sequence of 2 floats
        (row, column) spacing.

    Returns
    -------
    float
        NaN where the region is too small.
    """
    if region.sum() < _FEWEST_PX:
        return float("nan")
    weight = region.astype(np.float64)
    signal = np.where(region, residual - residual[region].mean(), 0.0)
    reach = [max(1, round(_GRAIN_REACH_MM / step)) for step in spacing_mm]
    distances, correlations = [0.0], [1.0]
    zero = float((signal**2).sum() / weight.sum())
    if zero == 0:
        return float("nan")
    for axis, steps in enumerate(reach):
        for lag in range(1, steps + 1):
            first = np.take(signal, range(lag, signal.shape[axis]), axis=axis)
            second = np.take(signal, range(signal.shape[axis] - lag), axis=axis)
            both = np.take(weight, range(lag, weight.shape[axis]), axis=axis) * np.take(
                weight, range(weight.shape[axis] - lag), axis=axis
            )
            if both.sum() < _FEWEST_PX:
                break
            distances.append(lag * float(spacing_mm[axis]))
            correlations.append(float((first * second * both).sum() / both.sum()) / zero)
    order = np.argsort(distances)
    away, correlation = np.array(distances)[order], np.array(correlations)[order]
    below = np.flatnonzero(correlation < 0.5)
    if below.size == 0:
        return float("nan")
    last = below[0]
    share = (correlation[last - 1] - 0.5) / (correlation[last - 1] - correlation[last])
    return float(away[last - 1] + share * (away[last] - away[last - 1]))


def _measure_body(body: Mask, spacing: tuple[float, float]) -> dict[str, float]:
    box = mask_to_box_xyxy(body)
    if box is None:
        return {}
    x0, y0, x1, y1 = box
    return {"body_width_mm": (x1 - x0) * spacing[1], "body_depth_mm": (y1 - y0) * spacing[0]}


def _measure_tissues(
    image: NDArray[np.float32], known: Mapping[str, Mask], spacing: tuple[float, float]
) -> dict[str, float]:
    pixel_cm2 = spacing[0] * spacing[1] / 100
    found: dict[str, float] = {}
    for name in ("muscle", "sat", "vat"):
        if name in known:
            found[f"{name}_cm2"] = float(known[name].sum()) * pixel_cm2
    sides = _sides(known)
    if sides:
        found["psoas_cm2"] = float(np.mean([known[side].sum() for side in sides])) * pixel_cm2
        found["psoas_hu"] = float(np.mean([image[known[side]].mean() for side in sides]))
    for name in ("muscle", "sat", "vat", "vertebra"):
        if name in known:
            found[f"{name}_hu"] = float(image[known[name]].mean())
    if "muscle" in known:
        found["muscle_hu_sd"] = float(image[known["muscle"]].std())
    return found


def _measure_thickness(
    body: Mask, known: Mapping[str, Mask], spacing: tuple[float, float]
) -> dict[str, float]:
    found: dict[str, float] = {}
    rows, columns = np.nonzero(body)
    if "sat" in known:
        middle = round(
            float(known["vertebra"].nonzero()[1].mean()) if "vertebra" in known else columns.mean()
        )
        behind = rows.mean() if "vertebra" not in known else known["vertebra"].nonzero()[0].mean()
        band = slice(middle - round(20 / spacing[1]), middle + round(20 / spacing[1]) + 1)
        sat = known["sat"]
        found["sat_front_mm"] = float(np.median(sat[: round(behind), band].sum(axis=0))) * spacing[0]
        found["sat_back_mm"] = float(np.median(sat[round(behind) :, band].sum(axis=0))) * spacing[0]
        level = slice(round(rows.mean() - 15 / spacing[0]), round(rows.mean() + 15 / spacing[0]) + 1)
        found["sat_side_mm"] = float(np.median(sat[level].sum(axis=1))) / 2 * spacing[1]
    if "muscle" in known and "vertebra" in known:
        # At the height of the vertebral body's front lie psoas and wall; before it the wall alone.
        front = known["vertebra"].nonzero()[0].min() - round(35 / spacing[0])
        level = slice(max(front - round(12 / spacing[0]), 0), max(front + round(12 / spacing[0]), 1))
        found["wall_mm"] = float(np.median(known["muscle"][level].sum(axis=1))) / 2 * spacing[1]
    return found


def _measure_places(known: Mapping[str, Mask], spacing: tuple[float, float]) -> dict[str, float]:
    sides = _sides(known)
    if not sides or "vertebra" not in known:
        return {}
    row, column = (float(axis.mean()) for axis in known["vertebra"].nonzero())
    centres = [known[side].nonzero() for side in sides]
    return {
        "psoas_aside_mm": float(np.mean([abs(c.mean() - column) for _, c in centres])) * spacing[1],
        "psoas_behind_mm": float(np.mean([r.mean() - row for r, _ in centres])) * spacing[0],
    }


def _measure_noise(
    image: NDArray[np.float32], known: Mapping[str, Mask], spacing: tuple[float, float]
) -> dict[str, float]:
    sides = _sides(known)
    if not sides:
        return {}
    spreads, grains = [], []
    for side in sides:
        inner = shrink(known[side], _INNER_MM, spacing) & (image > -20) & (image < 140)
        if inner.sum() < _FEWEST_PX:
            continue
        sigma = [_TREND_MM / step for step in spacing]
        weight = ndimage.gaussian_filter(inner.astype(np.float64), sigma)
        trend = ndimage.gaussian_filter(np.where(inner, image, 0).astype(np.float64), sigma)
        residual = image - trend / np.maximum(weight, 1e-6)
        spreads.append(float(residual[inner].std()))
        grains.append(noise_grain_mm(residual, inner, spacing))
    found: dict[str, float] = {}
    if spreads:
        found["noise_hu"] = float(np.mean(spreads))
    if np.isfinite(grains).any():
        found["noise_grain_mm"] = float(np.nanmean(grains))
    return found


def _sides(known: Mapping[str, Mask]) -> list[str]:
    return [side for side in ("psoas_left", "psoas_right") if side in known]


def _fat(image: NDArray[np.float32]) -> Mask:
    return np.asarray((image > -150) & (image < -60))


def _far_side_is(
    among: Mask, inside: Mask, distance: NDArray[Any], spacing: tuple[float, float]
) -> NDArray[np.bool_]:
    """Places whose nearest piece of border has nothing but the wanted tissue outside within reach."""
    foreign = ~inside & ~among & (distance > _FLAT_BEYOND_MM / 2)
    edge = inside & ~ndimage.binary_erosion(inside)
    clear = edge & (ndimage.distance_transform_edt(~foreign, sampling=spacing) > _EDGE_REACH_MM)
    nearest = ndimage.distance_transform_edt(
        ~edge, sampling=spacing, return_distances=False, return_indices=True
    )
    return np.asarray(clear[tuple(nearest)])


def _rise_mm(centres: NDArray[np.float64], profile: NDArray[np.float64]) -> float:
    known = np.isfinite(profile)
    if known.sum() < 10:
        return float("nan")
    place, value = centres[known], profile[known]
    before, behind = value[place < -_FLAT_BEYOND_MM], value[place > _FLAT_BEYOND_MM]
    if not (before.size and behind.size):
        return float("nan")
    start, end = float(np.median(before)), float(np.median(behind))
    if abs(start - end) < _LEAST_STEP_HU:
        return float("nan")
    share = (value - start) / (end - start)
    first = np.flatnonzero(share >= 0.1)
    last = np.flatnonzero(share < 0.9)
    if first.size == 0 or last.size == 0 or first[0] == 0 or last[-1] + 1 >= len(share):
        return float("nan")
    a, b = first[0], last[-1]
    low = np.interp(0.1, share[a - 1 : a + 1], place[a - 1 : a + 1])
    high = np.interp(0.9, share[b : b + 2], place[b : b + 2])
    return float(high - low)
