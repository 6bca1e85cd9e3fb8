"""NIfTI volumes and masks. NIfTI counts in RAS mm, this package in LPS; the change happens here."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.geometry import canonicalise
from ctai_sam2.io.atomic import write_bytes
from ctai_sam2.io.grids import Grid, same_places
from ctai_sam2.io.nifti_file import RAS_FROM_LPS, load_nifti
from ctai_sam2.io.stored_volume import to_ct_volume
from ctai_sam2.types import CTSlice, CTVolume

_SHEAR_TOLERANCE = 1e-4


def read_nifti(path: str | os.PathLike[str]) -> CTVolume:
    """Read a NIfTI volume of HU in any orientation.

    Values are rounded to whole HU; those below -1024 become -1024. Compressed files are read to their end
    and held against their checksum.

    Parameters
    ----------
    path : path-like
        ``.nii`` or ``.nii.gz``, or one of a pair of ``.hdr`` and ``.img``, with three dimensions (a fourth of
        length 1 is allowed).

    Returns
    -------
    CTVolume
        Canonical; with a warning where values do not look like HU, the header states no orientation or a
        field of it had to be put right.

    Raises
    ------
    InputError
        If the file is damaged, too large, not a scalar volume or holds values that are not finite.
    GeometryError
        If its affine is singular, its header contradicts itself, or no CT has voxels of this size.
    """
    path = Path(path)
    content = load_nifti(path)
    in_metres = any(warning.startswith("lengths are stated in") for warning in content.warnings)
    return to_ct_volume(
        path.name,
        content,
        unit_hint="The header states a unit that its numbers do not fit: correct xyzt_units."
        if in_metres
        else None,
    )


def write_volume_nifti(path: str | os.PathLike[str], volume: CTVolume) -> Path:
    """Write a volume's HU as NIfTI (``.nii`` or ``.nii.gz``), lossless; returns the path.

    Gaps between slices cannot be written in this format: the median step is.

    Raises
    ------
    StorageError
        If it cannot be written.
    InputError
        If the name does not end in ``.nii`` or ``.nii.gz``.
    """
    return _write(Path(path), volume.hu_zyx, volume.affine)


def write_mask_nifti(path: str | os.PathLike[str], mask: ArrayLike, of: CTSlice | CTVolume) -> Path:
    """Write a mask as a NIfTI label image (0 and 1) that lies on the image it was drawn on.

    Parameters
    ----------
    path : path-like
        Ending in ``.nii`` or ``.nii.gz``.
    mask : array_like of bool, shape (H, W) or (D, H, W)
        On the pixels of the slice, or the voxels of the volume. Integer labels up to 255 are kept.
    of : CTSlice or CTVolume
        What it was drawn on. A slice becomes a volume of one slice, as thick as the slice says.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    InputError
        If the shapes differ, the values are no labels or the name has another ending.
    StorageError
        If it cannot be written.
    """
    labels = _checked_labels(mask)
    expected = of.shape_hw if isinstance(of, CTSlice) else of.shape_zyx
    if labels.shape != expected:
        raise InputError(
            "the mask has another shape than its image", received=f"{labels.shape} for {expected}"
        )
    if isinstance(of, CTVolume):
        return _write(Path(path), labels, of.affine)
    return _write(Path(path), labels[None], _slice_affine(of), placed=of.affine is not None)


def read_mask_nifti(path: str | os.PathLike[str], of: CTSlice | CTVolume) -> NDArray[np.uint8]:
    """Read a label image and put it on the pixels of a slice or volume it was drawn on.

    Parameters
    ----------
    path : path-like
        A NIfTI file in any orientation.
    of : CTSlice or CTVolume
        What it belongs to.

    Returns
    -------
    ndarray of uint8, shape (H, W) or (D, H, W)
        Labels.

    Raises
    ------
    InputError
        If the file cannot be read or holds no labels.
    GeometryError
        If it lies on another grid.
    """
    path = Path(path)
    content = load_nifti(path)
    values = np.asarray(content.stored, dtype=np.float64) * content.slope + content.intercept
    if isinstance(of, CTSlice) and of.affine is None and not content.is_placed:
        # Neither says where it lies: the file is as `write_mask_nifti` stored it, row by row.
        return _unplaced_labels(path, values, of.shape_hw)
    target = of.affine if isinstance(of, CTVolume) else _slice_affine(of)
    target_shape = of.shape_zyx if isinstance(of, CTVolume) else (1, *of.shape_hw)
    labels, canonical = canonicalise(values.transpose(2, 1, 0), content.affine)
    # The target's own axes in canonical order tell how to turn the labels back.
    index_zyx, target_canonical = canonicalise(np.arange(np.prod(target_shape)).reshape(target_shape), target)
    place_matters = not (isinstance(of, CTSlice) and of.affine is None)
    if labels.shape != index_zyx.shape or (
        place_matters and not same_places(target_canonical, canonical, labels.shape)
    ):
        raise GeometryError(
            f"{path.name} lies on another grid than the image",
            received=f"shape {labels.shape} for {index_zyx.shape}",
            hint="Export the labels on the CT's own grid.",
        )
    turned = np.empty(int(np.prod(target_shape)))
    turned[index_zyx.ravel()] = labels.ravel()
    result = _checked_labels(turned.reshape(target_shape).astype(np.int64))
    return result if isinstance(of, CTVolume) else result[0]


def _unplaced_labels(path: Path, values: NDArray[Any], shape_hw: tuple[int, int]) -> NDArray[np.uint8]:
    if values.shape != (shape_hw[1], shape_hw[0], 1):
        raise GeometryError(
            f"{path.name} lies on another grid than the image",
            received=f"shape {values.shape[::-1]} for {(1, *shape_hw)}",
            hint="Export the labels on the CT's own grid.",
        )
    return _checked_labels(values[:, :, 0].T.astype(np.int64))


def read_label_block(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], Grid]:
    """Read a label image as it lies in the patient, whatever it was drawn on.

    Returns
    -------
    labels : ndarray of uint8, shape (D, H, W)
        In canonical order.
    grid : Grid
        Where it lies.

    Raises
    ------
    InputError
        If the file cannot be read, holds no labels or states no orientation.
    GeometryError
        If its affine is singular.
    """
    path = Path(path)
    content = load_nifti(path)
    if any("no orientation" in warning for warning in content.warnings):
        raise InputError(
            f"{path.name} states no orientation, so the mask has no place",
            hint="Read it onto the slice it was drawn on.",
        )
    values = np.asarray(content.stored, dtype=np.float64) * content.slope + content.intercept
    labels, canonical = canonicalise(
        _checked_labels(values.astype(np.int64)).transpose(2, 1, 0), content.affine
    )
    depth, height, width = labels.shape
    grid = Grid(
        shape_zyx=(depth, height, width), affine=canonical, z_offsets=np.arange(depth, dtype=np.float64)
    )
    return labels, grid


def _checked_labels(mask: ArrayLike) -> NDArray[np.uint8]:
    labels = np.asarray(mask)
    if labels.dtype == np.bool_:
        return labels.astype(np.uint8)
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError("a mask holds booleans or whole-number labels", received=str(labels.dtype))
    if labels.size and (labels.min() < 0 or labels.max() > 255):
        raise InputError("labels go from 0 to 255", received=(int(labels.min()), int(labels.max())))
    return labels.astype(np.uint8)


def _slice_affine(of: CTSlice) -> NDArray[np.float64]:
    if of.affine is None:
        return np.diag([of.spacing_mm[1], of.spacing_mm[0], of.thickness_mm or 1.0, 1.0])
    affine = np.array(of.affine)
    if of.thickness_mm:
        affine[:3, 2] *= of.thickness_mm / np.linalg.norm(affine[:3, 2])
    return affine


def _write(
    path: Path, array_zyx: NDArray[Any], affine_lps: NDArray[np.float64], *, placed: bool = True
) -> Path:
    import nibabel

    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError("a NIfTI file's name ends in .nii or .nii.gz", received=path.suffix or "no ending")
    affine = RAS_FROM_LPS @ affine_lps
    header_class: Any = nibabel.Nifti1Header
    header = header_class()
    header.set_data_dtype(array_zyx.dtype)
    header.set_data_shape(array_zyx.shape[::-1])
    header.set_xyzt_units("mm")
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    if placed:
        header.set_sform(affine, code="scanner")
        unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        # A tilted stack is sheared, which the quaternion form cannot say.
        if np.abs(unit.T @ unit - np.eye(3)).max() < _SHEAR_TOLERANCE:
            header.set_qform(affine, code="scanner")
    image_class: Any = nibabel.Nifti1Image
    content: bytes = image_class(array_zyx.transpose(2, 1, 0), None, header).to_bytes()
    if path.name.lower().endswith(".gz"):
        # Without a time stamp, equal volumes give equal files.
        content = gzip.compress(content, compresslevel=5, mtime=0)
    return write_bytes(path, content)
