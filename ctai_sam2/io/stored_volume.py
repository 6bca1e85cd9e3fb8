"""A scalar volume as a NIfTI or NRRD file stores it, and the CT volume that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.geometry import TILT_DEGREES, canonicalise, plane_of, tilt_deg
from ctai_sam2.image.padding import AIR_HU, fill_slices_with_air
from ctai_sam2.image.plausibility import implausible_values, require_plausible_grid
from ctai_sam2.types import CTVolume

_MAX_HU = 32767

_MOST_SHEAR_DEG = 1.0
"""Up to here an area is wrong by less than 0.02 %."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredVolume:
    """Stored values, how to scale them, and where they lie.

    Parameters
    ----------
    stored : ndarray, shape (X, Y, Z)
        As in the file.
    slope, intercept : float
        Value = stored * slope + intercept.
    affine : ndarray, shape (4, 4)
        Maps (x, y, z, 1) to LPS mm.
    is_placed : bool
        Whether the header states an orientation.
    warnings : tuple of str
        Irregularities of the file.
    description : str, optional
        What the writer of the file put into its header.
    """

    stored: NDArray[Any]
    slope: float = 1.0
    intercept: float = 0.0
    affine: NDArray[np.float64]
    is_placed: bool = True
    warnings: tuple[str, ...] = ()
    description: str | None = None


def require_invertible(affine: NDArray[np.float64], name: str) -> None:
    """Refuse a header's affine that maps a volume onto a plane or less.

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        Maps (x, y, z, 1) to mm.
    name : str
        How the message calls the file.

    Raises
    ------
    GeometryError
        If it is singular, not finite or not 4 x 4.
    """
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise GeometryError(f"{name} gives a singular affine", hint="Convert the images again.")


def to_ct_volume(name: str, content: StoredVolume, *, unit_hint: str | None = None) -> CTVolume:
    """Turn stored values to HU and to canonical order.

    Parameters
    ----------
    name : str
        How messages call the file.
    content : StoredVolume
        What it holds.
    unit_hint : str, optional
        What to check where the voxels have a size that no CT has.

    Raises
    ------
    InputError
        If values are not finite or out of the range of HU.
    GeometryError
        If voxels or extents are those of no CT.
    """
    shape_zyx, affine = _canonical_shape(content)
    try:
        require_plausible_grid(shape_zyx, np.linalg.norm(affine[:3, :3], axis=0)[::-1].tolist())
    except GeometryError as error:
        raise GeometryError(
            f"{name} cannot be used: {error.problem}", received=error.received, hint=unit_hint or error.hint
        ) from error
    _require_right_angles(name, affine)
    hu_xyz = _to_hu(name, content)
    array_zyx, canonical = canonicalise(hu_xyz.transpose(2, 1, 0), content.affine)
    hu_zyx, cautions = fill_slices_with_air(np.ascontiguousarray(array_zyx))
    warnings = [*content.warnings, *cautions, *implausible_values(hu_zyx)]
    plane, angle = plane_of(canonical)
    lean = tilt_deg(canonical)
    if lean > TILT_DEGREES:
        warnings.append(f"gantry tilt: slices lean {lean:.1f} degrees against the stacking direction")
    if plane == "oblique":
        warnings.append(f"the slices are oblique, {angle:.1f} degrees from the nearest anatomical plane")
    return CTVolume(hu_zyx=hu_zyx, affine=canonical, warnings=tuple(warnings))


def _require_right_angles(name: str, affine: NDArray[np.float64]) -> None:
    """Refuse pixels that are no rectangles, as registration writes them: their sides say too much."""
    across, down = (affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (0, 1))
    off = 90.0 - float(np.degrees(np.arccos(np.clip(abs(across @ down), 0.0, 1.0))))
    if off > _MOST_SHEAR_DEG:
        raise GeometryError(
            f"{name} cannot be used: rows and columns of its axial slices are not at right angles",
            received=f"{off:.1f} degrees off",
            hint="It was registered to another image: give the original, or resample it to a straight grid.",
        )


def _canonical_shape(content: StoredVolume) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    view, canonical = canonicalise(np.broadcast_to(np.False_, content.stored.shape[::-1]), content.affine)
    return view.shape, canonical


def _to_hu(name: str, content: StoredVolume) -> NDArray[np.int16]:
    stored = content.stored
    if (
        stored.dtype.kind == "i"
        and stored.dtype.itemsize == 2
        and (content.slope, content.intercept) == (1, 0)
    ):
        raised: NDArray[np.int16] = np.maximum(stored, AIR_HU).astype(np.int16, copy=False)
        return raised
    hu = np.empty(stored.shape, dtype=np.int16, order="F")
    bad = 0
    for k in range(stored.shape[2]):
        # One slice at a time: scaling makes doubles, four times the size of the result.
        plane = stored[:, :, k].astype(np.float64) * content.slope + content.intercept
        finite = np.isfinite(plane)
        bad += int(plane.size - finite.sum())
        whole = np.rint(np.where(finite, plane, 0.0))
        if float(whole.max()) > _MAX_HU:
            raise InputError(
                f"{name} holds values beyond the range of Hounsfield units",
                received=f"{float(whole.max()):.6g}",
                hint="Give the CT in HU.",
            )
        hu[:, :, k] = np.maximum(whole, AIR_HU).astype(np.int16)
    if bad:
        raise InputError(
            f"{name} holds values that are not finite",
            received=f"{bad} of {stored.size} voxels are NaN or infinite",
            hint="Replace them by air (-1024 HU) if they are padding.",
        )
    return hu
