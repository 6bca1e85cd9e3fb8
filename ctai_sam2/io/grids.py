"""Whether arrays lie on one grid, and putting masks from one to another without resampling.

A mask travels between a slice or a volume as shown, the images as stored and
another program's frames. All are compared in patient space: a voxel goes where
it lies in the patient or, if the grids differ, nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.geometry import axis_correspondence, canonicalise
from ctai_sam2.image.masks import as_mask
from ctai_sam2.types import CTSlice, CTVolume, Mask

TOLERANCE_VOXELS = 0.05
"""Voxels whose centres differ by less than this share of a voxel are the same."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Where the voxels of a canonical array (D, H, W) lie; its axes follow those of `CTVolume`.

    Parameters
    ----------
    shape_zyx : tuple of int
        (D, H, W).
    affine : ndarray, shape (4, 4)
        Maps (x, y, z, 1) to LPS mm, with the usual slice step.
    z_offsets : ndarray, shape (D,)
        Where each slice lies along z, in steps; 0, 1, 2 … without gaps.
    """

    shape_zyx: tuple[int, int, int]
    affine: NDArray[np.float64]
    z_offsets: NDArray[np.float64]


def grid_of(of: CTSlice | CTVolume) -> Grid:
    """Grid of a volume, or of a slice as a volume one voxel thick.

    Raises
    ------
    GeometryError
        If the slice does not know where it lies.
    """
    if isinstance(of, CTVolume):
        return Grid(shape_zyx=of.shape_zyx, affine=of.affine, z_offsets=of.slice_offsets)
    return plane_grid(of.shape_hw, slice_affine(of), of.row_offsets)


def slice_affine(of: CTSlice) -> NDArray[np.float64]:
    """Affine of a slice.

    Raises
    ------
    GeometryError
        If the slice does not know where it lies.
    """
    if of.affine is None:
        raise GeometryError(
            "where the slice lies in the patient is unknown, so the mask has no place",
            hint="Use PNG or COCO, or read the slice from DICOM or NIfTI.",
        )
    return of.affine


def plane_grid(
    shape_hw: tuple[int, int], affine: NDArray[np.float64], row_offsets: NDArray[np.float64] | None = None
) -> Grid:
    """Grid of a plane of pixels in any orientation, as a canonical volume one voxel thick.

    Parameters
    ----------
    shape_hw : tuple of int
        (rows, columns).
    affine : ndarray, shape (4, 4)
        Maps (x, y, 0, 1) to LPS mm.
    row_offsets : ndarray, shape (H,), optional
        As for `CTSlice`.

    Raises
    ------
    GeometryError
        If rows are uneven and do not follow the patient's length.
    """
    view, canonical = canonicalise(np.broadcast_to(False, (1, *shape_hw)), affine)
    depth, height, width = view.shape
    z_offsets = np.arange(depth, dtype=np.float64)
    if row_offsets is not None:
        permutation, signs = axis_correspondence(affine)
        if permutation[2] != 1:
            raise GeometryError("rows with gaps must follow each other along the patient's length")
        z_offsets = row_offsets
        if signs[2] < 0:
            z_offsets = row_offsets[-1] - row_offsets[::-1]
            # The last row is the lowest slice; gaps put it further down than even steps would.
            canonical[:3, 3] -= canonical[:3, 2] * (row_offsets[-1] - (depth - 1))
    return Grid(shape_zyx=(depth, height, width), affine=canonical, z_offsets=z_offsets)


def mask_to_canonical(mask: ArrayLike, of: CTSlice | CTVolume, *, name: str = "the mask") -> Mask:
    """Turn a mask drawn on a slice or volume to the axes of its grid, shape (D, H, W).

    Raises
    ------
    InputError
        If it is not a mask or has another shape than what it was drawn on.
    GeometryError
        If the slice does not know where it lies.
    """
    checked = checked_mask(mask, of, name=name)
    if isinstance(of, CTVolume):
        return checked
    return canonicalise(checked[None], slice_affine(of))[0]


def mask_from_canonical(mask_zyx: Mask, of: CTSlice | CTVolume) -> Mask:
    """Turn a mask on the grid of a slice or volume back to the pixels shown; undoes `mask_to_canonical`."""
    if isinstance(of, CTVolume):
        return mask_zyx
    stored: Mask = plane_from_canonical(mask_zyx, (1, *of.shape_hw), slice_affine(of))[0]
    return stored


def plane_from_canonical(
    array_zyx: NDArray[Any], shape: tuple[int, int, int], affine: NDArray[np.float64]
) -> NDArray[Any]:
    """Undo `canonicalise`: the array as stored with this shape and affine."""
    stored = np.zeros(shape, dtype=array_zyx.dtype)
    view, _ = canonicalise(stored, affine)
    view[...] = array_zyx
    return stored


def checked_mask(mask: ArrayLike, of: CTSlice | CTVolume, *, name: str = "the mask") -> Mask:
    """Return a bool mask of the shape of what it was drawn on, (H, W) or (D, H, W).

    Raises
    ------
    InputError
        If it is not a mask or has another shape.
    """
    array = np.asarray(mask)
    if isinstance(of, CTVolume):
        if array.shape != of.shape_zyx:
            raise _other_shape(name, array.shape, of.shape_zyx)
        # as_mask looks at two dimensions; voxels are pixels to it.
        return as_mask(array.reshape(array.shape[0], -1), name=name).reshape(array.shape)
    if array.shape != of.shape_hw:
        raise _other_shape(name, array.shape, of.shape_hw)
    return as_mask(array, name=name)


def put(target_zyx: Mask, target: Grid, block_zyx: Mask, block: Grid, *, what: str = "the mask") -> bool:
    """Set the voxels of ``target_zyx`` that ``block_zyx`` has set, where they lie in the patient.

    Parameters
    ----------
    target_zyx : ndarray of bool, shape of ``target``
        Changed in place.
    target, block : Grid
        The block may be smaller and may stick out where it is empty. Where the target is one voxel thick,
        what is next to it is left out.
    block_zyx : ndarray of bool, shape of ``block``
        What to set.
    what : str
        How messages call the block.

    Returns
    -------
    bool
        Whether the block touches the target at all.

    Raises
    ------
    GeometryError
        If voxels do not fall on voxels, or set ones would be lost.
    """
    overlap = overlap_of(target, block, what=what)
    if overlap is None:
        return False
    if _lost(block_zyx, overlap.block_zyx, target.shape_zyx):
        raise _outside(what)
    inside = block_zyx[overlap.block_zyx]
    if inside.size == 0:
        return False
    target_zyx[overlap.target_zyx] |= inside
    return True


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlap:
    """Which voxels of two grids are the same.

    Parameters
    ----------
    target_zyx, block_zyx : tuple
        Index of the common voxels in arrays on either grid; both give one shape.
    """

    target_zyx: tuple[NDArray[np.intp], slice, slice]
    block_zyx: tuple[NDArray[np.intp], slice, slice]


def overlap_of(target: Grid, block: Grid, *, what: str = "the mask") -> Overlap | None:
    """Find the voxels that two grids share.

    How far apart the planes of a grid one voxel thick would be is not compared: a slice lies on a volume
    of any step.

    Returns
    -------
    Overlap or None
        None where the target is one voxel thick and the block lies next to it.

    Raises
    ------
    GeometryError
        If voxels do not fall on voxels.
    """
    relative = np.linalg.solve(target.affine, block.affine)[:3]
    start = np.array(relative[:, 3])
    target_xyz, block_xyz = target.shape_zyx[::-1], block.shape_zyx[::-1]
    thin = [axis for axis in range(3) if target_xyz[axis] == 1]
    chosen: dict[int, int] = {}
    for axis in thin:
        step = float(relative[axis, axis])
        offsets = block.z_offsets if axis == 2 else np.arange(block_xyz[axis], dtype=np.float64)
        distances = np.abs(start[axis] + step * offsets)
        nearest = int(distances.argmin())
        if distances[nearest] > TOLERANCE_VOXELS * min(1.0, abs(step) or 1.0):
            return None
        chosen[axis] = nearest
        start += relative[:, axis] * offsets[nearest]
        start[axis] = 0.0
    for axis in range(3):
        if axis in chosen:
            continue
        drift = relative[:, axis] * (block_xyz[axis] - 1)
        drift[axis] -= block_xyz[axis] - 1
        if np.abs(drift).max() > TOLERANCE_VOXELS:
            raise _other_grid(what, block, target)
    if np.abs(start[:2] - np.rint(start[:2])).max() > TOLERANCE_VOXELS:
        raise _other_grid(what, block, target)
    if 2 in chosen:
        z_to, z_from = np.zeros(1, np.intp), np.array([chosen[2]], np.intp)
    else:
        z = _slices(start[2] + block.z_offsets, target)
        z_from = np.flatnonzero(z >= 0)
        z_to = z[z_from]
    (y_to, y_from), (x_to, x_from) = (
        (slice(0, 1), slice(chosen[axis], chosen[axis] + 1))
        if axis in chosen
        else _overlap(round(start[axis]), block_xyz[axis], target_xyz[axis])
        for axis in (1, 0)
    )
    return Overlap(target_zyx=(z_to, y_to, x_to), block_zyx=(z_from, y_from, x_from))


def same_places(first: NDArray[np.float64], second: NDArray[np.float64], shape_zyx: tuple[int, ...]) -> bool:
    """Tell whether two affines put every voxel of a grid at the same place, within the tolerance."""
    relative = np.linalg.solve(first, second)[:3]
    sizes = np.asarray(shape_zyx[::-1], dtype=np.float64)
    drift = (relative[:, :3] - np.eye(3)) * (sizes - 1)
    return bool(np.abs(relative[:, 3]).max() <= TOLERANCE_VOXELS and np.abs(drift).max() <= TOLERANCE_VOXELS)


def _slices(z: NDArray[np.float64], target: Grid) -> NDArray[np.intp]:
    """Index of the target's slice at each place along z, -1 where there is none."""
    distance = np.abs(z[:, None] - target.z_offsets[None, :])
    nearest = distance.argmin(axis=1)
    found = distance[np.arange(z.size), nearest] <= TOLERANCE_VOXELS
    return np.where(found, nearest, -1)


def _overlap(start: int, size: int, target_size: int) -> tuple[slice, slice]:
    """Part of the target and part of the block that coincide along one axis."""
    first, last = max(start, 0), max(min(start + size, target_size), max(start, 0))
    return slice(first, last), slice(first - start, last - start)


def _lost(block_zyx: Mask, kept: tuple[Any, slice, slice], target_shape: tuple[int, int, int]) -> bool:
    """Tell whether set voxels lie outside along an axis on which the target is more than one voxel thick."""
    for axis, (part, size) in enumerate(zip(kept, target_shape, strict=True)):
        if size > 1:
            outside = np.ones(block_zyx.shape[axis], dtype=np.bool_)
            outside[part] = False
            if outside.any() and np.compress(outside, block_zyx, axis=axis).any():
                return True
    return False


def _other_shape(name: str, received: tuple[int, ...], expected: tuple[int, ...]) -> InputError:
    return InputError(
        f"{name} has another shape than the image it was drawn on",
        received=f"{received} for {expected}",
        hint="Use the mask that was drawn on this image.",
    )


def _other_grid(what: str, block: Grid, target: Grid) -> GeometryError:
    return GeometryError(
        f"{what} lies on another grid than the image",
        received=f"voxels of {_spacing(block)} mm for {_spacing(target)} mm, or shifted or turned",
        hint="Nothing is resampled: export it on the CT's own grid, or choose the series it was drawn on.",
    )


def _outside(what: str) -> GeometryError:
    return GeometryError(
        f"{what} lies outside of the image",
        hint="It belongs to another part of the body or another series: choose the one it was drawn on.",
    )


def _spacing(grid: Grid) -> str:
    return " x ".join(f"{step:.3g}" for step in np.linalg.norm(grid.affine[:3, :3], axis=0))
