"""Whether an image can be an abdominal CT in Hounsfield units, checked before anything is computed from it.

Readers check the lengths and the memory, segmentation and measurement the values and the body. Each
refusal names what was received.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ctai_sam2.errors import GeometryError, InputError, OtherRegion
from ctai_sam2.types import CTSlice, CTVolume


@dataclass(frozen=True, kw_only=True)
class PlausibilityLimits:
    """What a CT of a human body stays within; generous, since it is there to catch wrong units.

    Parameters
    ----------
    spacing_mm : (float, float)
        Distance between neighbouring pixels. Scanners give 0.2 (a small field at 1024 pixels) to 1.6 mm,
        resampled volumes and sagittal reformats up to 10 mm.
    step_mm : (float, float)
        Distance between neighbouring slices; sparse protocols take one every 20 mm.
    axial_spacing_mm : float
        Largest pixel of an axial slice that is measured: a psoas is 30 mm wide.
    field_mm : float
        Largest side of an axial slice; scanners reconstruct up to 820 mm.
    length_mm : float
        Longest stack: a whole body and its table.
    body_cm2 : (float, float)
        Cross-section of a trunk, from an infant's to the whole of the largest field of view.
    lung_share : float
        Share of the trunk that may be aerated; lungs fill 0.35 to 0.6 of a chest, bowel gas rarely 0.15.
    enclosed_share : float
        Share of the trunk that bone may enclose, itself included: 0.02 to 0.1 at L3,
        up to 0.45 in a child's rib cage, 0.7 and more within a skull.
    fat_share : float
        Smallest share of fat in a trunk, 5 mm and more below its surface; lean adults have 0.05, a water
        phantom none.
    second_body : float
        Size of a second body, by that of the first, from which on the two are legs; an arm has 0.15.
    judged_field_mm : float
        A smaller field of view shows no whole trunk to judge the region by.
    """

    spacing_mm: tuple[float, float] = (0.2, 10.0)
    step_mm: tuple[float, float] = (0.1, 30.0)
    axial_spacing_mm: float = 5.0
    field_mm: float = 1000.0
    length_mm: float = 2500.0
    body_cm2: tuple[float, float] = (60.0, 2600.0)
    lung_share: float = 0.3
    enclosed_share: float = 0.6
    fat_share: float = 0.005
    second_body: float = 0.5
    judged_field_mm: float = 150.0


LIMITS = PlausibilityLimits()

MAX_VOXELS = 2**31
"""Larger volumes (4 GiB of int16) are refused before anything is allocated."""

_BYTES_PER_VOXEL = 5
"""At the widest point of reading: what was decoded, and the same in canonical order."""

_OVERRIDE = "any_region=True (--any-region) skips this check"

_LUNG_HU = (-1000.0, -400.0)
_BONE_HU = 250.0
_SURFACE_MM = 5.0
_FAT_HU = -50.0
_PADDING_HU = -1024.0


def require_memory(voxels: int, *, bytes_per_voxel: int = _BYTES_PER_VOXEL) -> None:
    """Refuse a volume that does not fit into this machine's free memory, before anything is allocated.

    Raises
    ------
    InputError
        If it has more than `MAX_VOXELS` voxels, or needs more memory than is free.
    """
    if voxels > MAX_VOXELS:
        raise InputError(
            "the volume is larger than this package reads",
            received=f"{voxels / 1e6:.0f} million voxels",
            hint="The header may be damaged; else crop the volume.",
        )
    if voxels * bytes_per_voxel < 2**28:
        return
    import psutil

    free = int(psutil.virtual_memory().available)
    if voxels * bytes_per_voxel > 0.9 * free:
        raise InputError(
            "the volume needs more memory than is free",
            received=f"{voxels * bytes_per_voxel / 2**30:.1f} GiB for {free / 2**30:.1f} GiB",
            hint="Close other programs, or crop the volume.",
        )


def require_plausible_spacing(spacing_mm: Sequence[float], shape_hw: Sequence[int], *, axial: bool) -> None:
    """Refuse pixel spacings that no CT has, most of them written in another unit.

    Parameters
    ----------
    spacing_mm : sequence of 2 floats
        (row spacing, column spacing).
    shape_hw : sequence of 2 ints
        (rows, columns).
    axial : bool
        Whether the image is an axial slice; only then its field of view is limited.

    Raises
    ------
    GeometryError
        If a spacing or the field of view is out of `LIMITS`.

    Examples
    --------
    >>> require_plausible_spacing((0.8, 0.8), (512, 512), axial=True)
    >>> require_plausible_spacing((8, 8), (512, 512), axial=True)
    Traceback (most recent call last):
    ...
    ctai_sam2.errors.GeometryError: no CT has this field of view (received 4096 x 4096 mm). Check the unit \
of the spacing: it is in mm.
    """
    low, high = LIMITS.spacing_mm
    if not all(low <= value <= high for value in spacing_mm):
        raise GeometryError(
            f"no CT has this pixel spacing; {low:g} to {high:g} mm are read",
            received=f"{spacing_mm[0]:.4g} x {spacing_mm[1]:.4g} mm",
            hint="Check the unit: it is in mm.",
        )
    height_mm, width_mm = (float(n) * float(s) for n, s in zip(shape_hw, spacing_mm, strict=True))
    longest = LIMITS.field_mm if axial else LIMITS.length_mm
    if max(height_mm, width_mm) > longest:
        raise GeometryError(
            "no CT has this field of view",
            received=f"{width_mm:.0f} x {height_mm:.0f} mm",
            hint="Check the unit of the spacing: it is in mm.",
        )


def require_plausible_grid(
    shape_zyx: Sequence[int], spacing_zyx_mm: Sequence[float], *, length_mm: float = 0.0
) -> None:
    """Refuse volumes with voxels or a field of view that no CT has.

    Parameters
    ----------
    shape_zyx : sequence of 3 ints
        Of a canonical volume.
    spacing_zyx_mm : sequence of 3 floats
        Distance between neighbours along z, y and x.
    length_mm : float
        From the first slice to the last, gaps included, where that is known.

    Raises
    ------
    GeometryError
        If a spacing or an extent is out of `LIMITS`.
    """
    step_mm, row_mm, column_mm = (float(v) for v in spacing_zyx_mm)
    size = f"{column_mm:.4g} x {row_mm:.4g} x {step_mm:.4g} mm"
    low, high = LIMITS.spacing_mm
    # One axis may be that of the slices, whichever way they were acquired.
    odd = [float(v) for v in spacing_zyx_mm if not low <= v <= high]
    if len(odd) > 1 or not all(LIMITS.step_mm[0] <= v <= LIMITS.step_mm[1] for v in odd):
        raise GeometryError(
            f"no CT has voxels of this size; {low:g} to {high:g} mm are read",
            received=size,
            hint="Check the unit: it is in mm.",
        )
    extents = [float(n) * float(s) for n, s in zip(shape_zyx, spacing_zyx_mm, strict=True)]
    extents[0] = max(extents[0], length_mm)
    if extents[0] > LIMITS.length_mm or max(extents[1:]) > LIMITS.field_mm:
        raise GeometryError(
            "no CT has this field of view",
            received=f"{extents[2]:.0f} x {extents[1]:.0f} x {extents[0]:.0f} mm",
            hint="Check the unit of the spacing: it is in mm.",
        )


def unlike_hounsfield(hu: NDArray[Any]) -> str | None:
    """Say why values cannot be those of a body in HU; None where they can.

    A body has fat, below -50 HU, and water and muscle, above 0 HU.

    Examples
    --------
    >>> import numpy as np
    >>> unlike_hounsfield(np.array([0, 128, 255]))
    'values from 0 to 255 do not look like Hounsfield units: HU limits will not fit'
    >>> unlike_hounsfield(np.array([7, 7]))
    'all values are 7: the image is empty'
    >>> unlike_hounsfield(np.array([-1000, 60])) is None
    True
    """
    if hu.size == 0:
        return None
    low, high = float(hu.min()), float(hu.max())
    if low == high:
        return f"all values are {low:g}: the image is empty"
    if low >= _FAT_HU or high <= 0:
        return f"values from {low:g} to {high:g} do not look like Hounsfield units: HU limits will not fit"
    if low <= _PADDING_HU:
        # Padding around values that begin at 0, or at 24 for air, is no air.
        thinned = hu[..., ::4, ::4] if hu.ndim > 1 else hu
        if not ((thinned > low) & (thinned < 0)).any() and not ((hu > low) & (hu < 0)).any():
            lowest = float(hu.min(where=hu > low, initial=high))
            return f"values from {lowest:g} to {high:g}, but for padding, do not look like Hounsfield units"
    return None


def implausible_values(hu: NDArray[Any]) -> list[str]:
    """Warn where no body could have these values; empty where one could."""
    reason = unlike_hounsfield(hu)
    return [] if reason is None else [reason]


def require_hounsfield(hu: NDArray[Any]) -> None:
    """Refuse to compute anything from values that are no Hounsfield units.

    Raises
    ------
    InputError
        If no body could have these values.
    """
    reason = unlike_hounsfield(hu)
    if reason is not None:
        raise InputError(
            "nothing is computed from this image: " + reason,
            hint="Give the CT in Hounsfield units; for a picture, state its window.",
        )


def require_measurable_slice(ct_slice: CTSlice) -> None:
    """Refuse to measure an axial slice on which no HU limit or area could be right.

    Raises
    ------
    GeometryError
        If its pixels are out of `LIMITS`.
    InputError
        If its values are no Hounsfield units.
    """
    require_plausible_spacing(ct_slice.spacing_mm, ct_slice.shape_hw, axial=ct_slice.plane == "axial")
    if ct_slice.plane == "axial" and max(ct_slice.spacing_mm) > LIMITS.axial_spacing_mm:
        row_mm, column_mm = ct_slice.spacing_mm
        raise GeometryError(
            f"pixels of an axial slice are too coarse to measure; {LIMITS.axial_spacing_mm:g} mm at most",
            received=f"{row_mm:.4g} x {column_mm:.4g} mm",
            hint="Check the unit of the spacing, or give the original images.",
        )
    require_hounsfield(ct_slice.hu)


def require_measurable_volume(volume: CTVolume) -> None:
    """Refuse to work on a volume on which no HU limit, area or level could be right.

    Raises
    ------
    GeometryError
        If its voxels or its extents are out of `LIMITS`.
    InputError
        If its values are no Hounsfield units.
    """
    require_plausible_grid(volume.shape_zyx, volume.spacing_zyx_mm)
    require_hounsfield(volume.hu_zyx)


def require_abdomen(ct_slice: CTSlice) -> None:
    """Refuse an axial slice that shows, by its body alone, something other than an abdomen.

    Parameters
    ----------
    ct_slice : CTSlice
        Axial.

    Raises
    ------
    AnatomyNotFound
        If there is no body on it.
    OtherRegion
        If the body is larger or smaller than any trunk, is filled with lung or with bone, has no fat, or
        is one of two.
    """
    from scipy import ndimage

    from ctai_sam2.image.body import body_of, separate_areas

    body = body_of(ct_slice)
    area_cm2 = float(body.sum()) * ct_slice.pixel_area_mm2 / 100
    low, high = LIMITS.body_cm2
    if not low <= area_cm2 <= high:
        raise OtherRegion(
            "the body on the slice has the size of no trunk",
            received=f"{area_cm2:.0f} cm²",
            hint=f"Check the pixel spacing, and that the slice shows an abdomen; {_OVERRIDE}.",
        )
    inside = ct_slice.hu[body]
    lung = float(((inside > _LUNG_HU[0]) & (inside < _LUNG_HU[1])).mean())
    if lung > LIMITS.lung_share:
        raise _other_region("a chest", f"{100 * lung:.0f} % of the body is lung")
    # At the surface fat, skin and air share pixels.
    margin = max(1, math.ceil(_SURFACE_MM / min(ct_slice.spacing_mm)))
    deep = ct_slice.hu[ndimage.binary_erosion(body, iterations=margin, border_value=1)]
    fat = float(((deep > _LUNG_HU[1]) & (deep < _FAT_HU)).sum()) / max(deep.size, 1)
    if fat < LIMITS.fat_share:
        raise _other_region("a body without fat", f"{100 * fat:.1f} % of it")
    bone = body & (ct_slice.hu > _BONE_HU)
    skull = ndimage.binary_fill_holes(ndimage.binary_closing(bone, iterations=2))
    enclosed = float(skull.sum()) / float(body.sum())
    if enclosed > LIMITS.enclosed_share:
        raise _other_region("a head or a limb", f"{100 * enclosed:.0f} % of the body lies within bone")
    areas = separate_areas(ct_slice.hu, ct_slice.spacing_mm)
    if len(areas) > 1 and areas[1] > LIMITS.second_body * areas[0]:
        raise _other_region("two legs", f"two bodies of {areas[0] / 100:.0f} and {areas[1] / 100:.0f} cm²")


def require_region(ct_slice: CTSlice, *, prompted: bool = False, any_region: bool = False) -> list[str]:
    """Refuse what is no abdomen, and say where that was not checked.

    Parameters
    ----------
    ct_slice : CTSlice
        Axial.
    prompted : bool
        Whether the user drew or clicked on the slice; it may then be cropped to less than a trunk.
    any_region : bool
        Go on whatever the slice shows.

    Returns
    -------
    list of str
        That the region was not checked, on request or because the field of view is too small.

    Raises
    ------
    AnatomyNotFound
        As `require_abdomen`.
    """
    if any_region:
        return ["whether the slice shows an abdomen was not checked, as requested"]
    height_mm, width_mm = (n * s for n, s in zip(ct_slice.shape_hw, ct_slice.spacing_mm, strict=True))
    if prompted and min(height_mm, width_mm) < LIMITS.judged_field_mm:
        return [
            f"a field of view of {width_mm:.0f} x {height_mm:.0f} mm shows no whole trunk: "
            "whether it is an abdomen was not checked"
        ]
    require_abdomen(ct_slice)
    return []


def _other_region(what: str, received: str) -> OtherRegion:
    return OtherRegion(
        f"the slice shows {what}, no abdomen",
        received=received,
        hint=f"Choose a slice at L3; {_OVERRIDE}.",
    )
