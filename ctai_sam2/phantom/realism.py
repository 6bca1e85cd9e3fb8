"""Measurements that say how near a phantom is to a real slice; both are measured alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.body import body_mask

_TISSUES: Final[tuple[str, ...]] = ("muscle", "psoas", "sat", "vat", "vertebra", "air")
_EDGE_REACH_MM: Final = 6.0
_EDGE_STEP_MM: Final = 0.1
_PLATEAU_MM: Final = (2.5, 4.5)
_FEWEST_EDGES: Final = 20

Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TissueHu:
    """The HU in the inside of a tissue.

    Attributes
    ----------
    pixels : int
        How many were counted.
    mean, std : float
        In HU.
    p5, p25, p50, p75, p95 : float
        Quantiles in HU.
    """

    pixels: int
    mean: float
    std: float
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NoisePower:
    """The radially averaged noise power spectrum of flat patches of one tissue.

    Attributes
    ----------
    frequency_per_mm : numpy.ndarray
        float64 (N,), rising, up to the Nyquist frequency of the coarser direction.
    power_hu2_mm2 : numpy.ndarray
        float64 (N,).
    std_hu : float
        Standard deviation within a patch after removal of its plane.
    mean_frequency_per_mm : float
        Mean of the frequency, weighted by power over the plane of frequencies: small for coarse grain.
    patches : int
        How many patches were averaged.
    """

    frequency_per_mm: npt.NDArray[np.float64]
    power_hu2_mm2: npt.NDArray[np.float64]
    std_hu: float
    mean_frequency_per_mm: float
    patches: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """Lengths (mm) and areas (mm²) of an axial slice, anterior up, patient left on the image's right.

    A measure is NaN where its structure is not among the masks.

    Attributes
    ----------
    psoas_left_mm2, psoas_right_mm2 : float
        Areas.
    psoas_lateral_mm, psoas_posterior_mm : float
        Mean distance of the psoas' centroids from the vertebra's: to the side, and backward.
    wall_mm : float
        Muscle met on horizontal lines through the loin, 10 to 45 mm in front of the vertebra's centroid.
    sat_anterior_mm, sat_lateral_mm, sat_posterior_mm : float
        Subcutaneous fat met on lines from the vertebra: forward, sideward, and backward next to the furrow.
    body_width_mm, body_depth_mm : float
        Extent of the trunk.
    """

    psoas_left_mm2: float
    psoas_right_mm2: float
    psoas_lateral_mm: float
    psoas_posterior_mm: float
    wall_mm: float
    sat_anterior_mm: float
    sat_lateral_mm: float
    sat_posterior_mm: float
    body_width_mm: float
    body_depth_mm: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SliceRealism:
    """Everything measured on one slice.

    Attributes
    ----------
    tissues : mapping of str to TissueHu
        By tissue, without those that are missing or too thin.
    noise : mapping of str to NoisePower
        By tissue, without those that hold no patch.
    edges_mm : mapping of str to float
        10 to 90 % widths, without those that could not be measured.
    shape : Shape
        Lengths and areas.
    """

    tissues: Mapping[str, TissueHu]
    noise: Mapping[str, NoisePower]
    edges_mm: Mapping[str, float]
    shape: Shape

    def row(self) -> dict[str, float]:
        """Return the scalar measures as one flat row; a measure that is missing is left out."""
        values: dict[str, float] = {}
        for name, tissue in self.tissues.items():
            for field in ("p5", "p50", "p95"):
                values[f"{name}_{field}_hu"] = getattr(tissue, field)
        for name, noise in self.noise.items():
            values[f"{name}_noise_hu"] = noise.std_hu
            values[f"{name}_noise_per_mm"] = noise.mean_frequency_per_mm
        values |= {f"{name}_edge_mm": width for name, width in self.edges_mm.items()}
        values |= {name: value for name, value in vars(self.shape).items() if np.isfinite(value)}
        return {name: float(value) for name, value in values.items()}


def measure_realism(hu: npt.NDArray[Any], masks: Mapping[str, Mask], spacing_mm: Spacing) -> SliceRealism:
    """Measure tissues, noise, edges and shapes of an axial slice.

    Parameters
    ----------
    hu : numpy.ndarray
        (H, W) in HU, anterior up.
    masks : mapping of str to numpy.ndarray
        bool (H, W); of ``psoas_left``, ``psoas_right``, ``muscle``, ``vertebra``, ``sat``, ``vat``
        those that are known. ``imat``, where given, is taken out of the muscles.
    spacing_mm : tuple of float
        Distance between rows, between columns.

    Returns
    -------
    SliceRealism
        What could be measured.

    Raises
    ------
    InputError
        Where a mask has another shape than the image.
    """
    hu = np.asarray(hu, dtype=np.float64)
    for name, mask in masks.items():
        if mask.shape != hu.shape:
            raise InputError(
                f"mask {name} has another shape than the image", received=f"{mask.shape} for {hu.shape}"
            )
    try:
        body = body_mask(hu, spacing_mm)
    except AnatomyNotFound:
        body = np.zeros(hu.shape, dtype=bool)
    regions = dict(masks)
    if "psoas_left" in masks and "psoas_right" in masks:
        regions["psoas"] = masks["psoas_left"] | masks["psoas_right"]
    if "imat" in masks:
        for name in ("muscle", "psoas"):
            if name in regions:
                regions[name] = regions[name] & ~masks["imat"]
    # Not the table, which lies close, and not padding.
    regions["air"] = ~body & (hu < -900) & (hu > -1024)
    tissues = {
        name: found
        for name in _TISSUES
        if name in regions and (found := measure_tissue(hu, regions[name], spacing_mm)) is not None
    }
    noise: dict[str, NoisePower] = {}
    for name in ("muscle", "sat"):
        power = measure_noise_power(hu, regions[name], spacing_mm) if name in regions else None
        if power is not None:
            noise[name] = power
    pairs = {"skin": (body, ~body)}
    if "muscle" in regions and "sat" in regions:
        pairs["muscle_fat"] = (regions["muscle"], regions["sat"])
    edges = {
        name: width
        for name, (inside, outside) in pairs.items()
        if (width := measure_edge_width_mm(hu, inside, outside, spacing_mm)) is not None
    }
    return SliceRealism(
        tissues=tissues, noise=noise, edges_mm=edges, shape=measure_shape(masks, body, spacing_mm)
    )


def measure_tissue(
    hu: npt.NDArray[Any], mask: Mask, spacing_mm: Spacing, *, margin_mm: float = 1.0
) -> TissueHu | None:
    """Return the HU quantiles of a mask's inside, or None where fewer than 20 pixels are left.

    Parameters
    ----------
    hu, mask : numpy.ndarray
        (H, W); HU and bool.
    spacing_mm : tuple of float
        Distance between rows, between columns.
    margin_mm : float, default 1
        Rim that is left out, so that partial volume does not count.

    Examples
    --------
    >>> measure_tissue(np.full((9, 9), 50), np.ones((9, 9), bool), (1.0, 1.0)).p50
    50.0
    """
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1]
    values = np.asarray(hu, dtype=np.float64)[mask & (depth > margin_mm)]
    if values.size < 20:
        return None
    p5, p25, p50, p75, p95 = (float(value) for value in np.percentile(values, (5, 25, 50, 75, 95)))
    return TissueHu(
        pixels=int(values.size),
        mean=float(values.mean()),
        std=float(values.std()),
        p5=p5,
        p25=p25,
        p50=p50,
        p75=p75,
        p95=p95,
    )


def measure_noise_power(
    hu: npt.NDArray[Any], mask: Mask, spacing_mm: Spacing, *, patch_mm: float = 9.0
) -> NoisePower | None:
    """Return the noise power spectrum of a tissue, or None where no patch fits in it.

    Of the patches that lie wholly in the mask and do not overlap, the flatter half is used, so that
    septa and vessels do not count as noise. Each loses its least-squares plane.

    Parameters
    ----------
    hu, mask : numpy.ndarray
        (H, W); HU and bool.
    spacing_mm : tuple of float
        Distance between rows, between columns.
    patch_mm : float, default 9
        Side of a patch; at least 6 pixels are taken.

    Returns
    -------
    NoisePower or None
        Spectrum in HU² mm², whose integral over the plane of frequencies is the variance.
    """
    size = tuple(max(6, round(patch_mm / step)) for step in spacing_mm)
    free = mask.copy()
    # Corners at which a whole patch starts, from sums over windows.
    sums = np.pad(mask.astype(np.int64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    corners = sums[size[0] :, size[1] :] - sums[: -size[0], size[1] :]
    corners = corners - sums[size[0] :, : -size[1]] + sums[: -size[0], : -size[1]]
    patches = []
    image = np.asarray(hu, dtype=np.float64)
    plane = np.stack(
        [np.ones(size), *np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")], axis=-1
    ).reshape(-1, 3)
    for row, column in np.argwhere(corners == size[0] * size[1]):
        window = (slice(row, row + size[0]), slice(column, column + size[1]))
        if not free[window].all():
            continue
        free[window] = False
        flat = image[window].ravel()
        rest = flat - plane @ np.linalg.lstsq(plane, flat, rcond=None)[0]
        patches.append(rest.reshape(size))
    if not patches:
        return None
    patches.sort(key=lambda patch: float(patch.std()))
    patches = patches[: max(1, (len(patches) + 1) // 2)]
    scale = spacing_mm[0] * spacing_mm[1] / (size[0] * size[1])
    power = np.mean([np.abs(np.fft.fft2(patch)) ** 2 for patch in patches], axis=0) * scale
    frequency = np.hypot(
        np.fft.fftfreq(size[0], spacing_mm[0])[:, None], np.fft.fftfreq(size[1], spacing_mm[1])[None, :]
    )
    nyquist = 0.5 / max(spacing_mm)
    edges = np.linspace(0, nyquist, max(3, min(size) // 2 + 1))
    # The plane's removal has taken the zero frequency.
    which = np.digitize(frequency, edges, right=True)
    bins = [index for index in range(1, edges.size) if (which == index).any()]
    total = float(power.sum())
    return NoisePower(
        frequency_per_mm=np.asarray([frequency[which == index].mean() for index in bins]),
        power_hu2_mm2=np.asarray([power[which == index].mean() for index in bins]),
        std_hu=float(np.sqrt(np.mean([patch.var() for patch in patches]))),
        mean_frequency_per_mm=float((power * frequency).sum() / total) if total > 0 else 0.0,
        patches=len(patches),
    )


def measure_edge_width_mm(
    hu: npt.NDArray[Any], inside: Mask, outside: Mask, spacing_mm: Spacing, *, least_contrast_hu: float = 60.0
) -> float | None:
    """Return the 10 to 90 % width of the edge between two tissues, or None where it is too short.

    Profiles run across the border where they lead from one tissue to the other; each is scaled to its
    own plateaus and moved to where it passes half its height, so that an outline drawn a little off
    the edge does not widen it. A Gaussian blur of standard deviation s gives 2.563 s.

    Parameters
    ----------
    hu, inside, outside : numpy.ndarray
        (H, W); HU and two bool masks.
    spacing_mm : tuple of float
        Distance between rows, between columns.
    least_contrast_hu : float, default 60
        Profiles with less are left out.

    Returns
    -------
    float or None
        Width in mm; None where fewer than 20 profiles are usable.
    """
    soft = ndimage.gaussian_filter(inside.astype(np.float64), [1.5 / step for step in spacing_mm])
    gradient: npt.NDArray[np.float64] = np.asarray(np.gradient(soft, *spacing_mm))
    border = inside & ~ndimage.binary_erosion(inside, border_value=1)
    rows, columns = np.nonzero(border)
    normal = gradient[:, rows, columns]
    length = np.linalg.norm(normal, axis=0)
    kept = length > 1e-3
    rows, columns, normal = rows[kept], columns[kept], (normal / np.maximum(length, 1e-12))[:, kept]
    if rows.size < _FEWEST_EDGES:
        return None
    along = np.arange(-_EDGE_REACH_MM, _EDGE_REACH_MM + _EDGE_STEP_MM / 2, _EDGE_STEP_MM)
    points = np.stack(
        (
            rows[:, None] + normal[0][:, None] * along / spacing_mm[0],
            columns[:, None] + normal[1][:, None] * along / spacing_mm[1],
        )
    )
    profiles = ndimage.map_coordinates(np.asarray(hu, dtype=np.float64), points, order=3, mode="nearest")
    low, high = _PLATEAU_MM
    before, after = (along > -high) & (along < -low), (along > low) & (along < high)
    in_inside, in_outside = (
        ndimage.map_coordinates(mask.astype(np.uint8), points, order=0, mode="nearest") > 0
        for mask in (inside, outside)
    )
    outer, inner = profiles[:, before].mean(axis=1), profiles[:, after].mean(axis=1)
    usable = in_outside[:, before].all(axis=1) & in_inside[:, after].all(axis=1)
    usable &= np.abs(inner - outer) > least_contrast_hu
    scaled = (profiles[usable] - outer[usable, None]) / (inner - outer)[usable, None]
    moved = []
    grid = np.arange(-4.0, 4.0 + _EDGE_STEP_MM / 2, _EDGE_STEP_MM)
    for profile in scaled:
        crossings = np.flatnonzero((profile[:-1] < 0.5) & (profile[1:] >= 0.5))
        if crossings.size == 0:
            continue
        at = along[crossings[np.argmin(np.abs(along[crossings]))]]
        if abs(at) <= 2.0:
            moved.append(np.interp(grid + at, along, profile))
    if len(moved) < _FEWEST_EDGES:
        return None
    mean = np.median(moved, axis=0)
    middle = grid.size // 2
    above, below = (
        np.flatnonzero(mean[middle:] >= 0.9),
        np.flatnonzero(mean[: middle + 1] <= 0.1),
    )
    if above.size == 0 or below.size == 0:
        return None
    return float(
        _crossing(grid, mean, middle + int(above[0]), 0.9) - _crossing(grid, mean, int(below[-1]) + 1, 0.1)
    )


def measure_shape(masks: Mapping[str, Mask], body: Mask, spacing_mm: Spacing) -> Shape:
    """Return lengths and areas of an axial slice.

    Parameters
    ----------
    masks : mapping of str to numpy.ndarray
        bool (H, W); see `measure_realism`.
    body : numpy.ndarray
        bool (H, W), the trunk.
    spacing_mm : tuple of float
        Distance between rows, between columns.
    """
    row_mm, column_mm = spacing_mm
    values = dict.fromkeys((field.name for field in dataclasses.fields(Shape)), float("nan"))
    if body.any():
        values["body_depth_mm"] = float(np.ptp(np.flatnonzero(body.any(axis=1))) + 1) * row_mm
        values["body_width_mm"] = float(np.ptp(np.flatnonzero(body.any(axis=0))) + 1) * column_mm
    centre = _centroid_mm(masks.get("vertebra"), spacing_mm)
    psoas = []
    for side in ("left", "right"):
        mask = masks.get(f"psoas_{side}")
        found = _centroid_mm(mask, spacing_mm)
        if mask is not None and found is not None:
            values[f"psoas_{side}_mm2"] = float(mask.sum()) * row_mm * column_mm
            psoas.append(found)
    if centre is not None:
        if psoas:
            values["psoas_lateral_mm"] = float(np.mean([abs(x - centre[1]) for _, x in psoas]))
            values["psoas_posterior_mm"] = float(np.mean([y - centre[0] for y, _ in psoas]))
        shape = next(iter(masks.values())).shape
        y = np.arange(shape[0])[:, None] * row_mm - centre[0]
        x = np.arange(shape[1])[None, :] * column_mm - centre[1]
        if "muscle" in masks:
            loin = masks["muscle"] & (y < -10) & (y > -45) & (np.abs(x) > 60)
            values["wall_mm"] = _met(np.concatenate([(loin & (x > 0)), (loin & (x < 0))]), 1, column_mm)
        if "sat" in masks:
            sat = masks["sat"]
            side = sat & (np.abs(y) < 20)
            back = sat & (y > 0) & (np.abs(x) > 25) & (np.abs(x) < 60)
            values["sat_anterior_mm"] = _met(sat & (y < 0) & (np.abs(x) < 20), 0, row_mm)
            values["sat_lateral_mm"] = _met(np.concatenate([side & (x > 0), side & (x < 0)]), 1, column_mm)
            values["sat_posterior_mm"] = _met(back, 0, row_mm)
    return Shape(**values)


def _crossing(grid: npt.NDArray[Any], profile: npt.NDArray[Any], index: int, level: float) -> float:
    """Return where a profile reaches a level between the sample before an index and the index."""
    before, after = profile[index - 1], profile[index]
    share = (level - before) / (after - before) if after != before else 1.0
    return float(grid[index - 1] + share * (grid[index] - grid[index - 1]))


def _centroid_mm(mask: Mask | None, spacing_mm: Spacing) -> tuple[float, float] | None:
    if mask is None or not mask.any():
        return None
    rows, columns = np.nonzero(mask)
    return float(rows.mean() * spacing_mm[0]), float(columns.mean() * spacing_mm[1])


def _met(mask: Mask, axis: int, step_mm: float) -> float:
    """Return the median length of a mask along the lines of an axis that meet it."""
    counts = mask.sum(axis=axis)
    counts = counts[counts > 0]
    return float(np.median(counts)) * step_mm if counts.size else float("nan")
