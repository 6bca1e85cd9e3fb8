"""NIfTI volumes and masks. NIfTI counts in RAS mm, this package in LPS; the change happens here."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.files.atomic import write_bytes
from ctai_sam2.io.label_tables import label_table_xml
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


def write_mask_nifti(
    path: str | os.PathLike[str],
    mask: ArrayLike,
    of: CTSlice | CTVolume,
    *,
    names: Mapping[int, str] | None = None,
    description: str | None = None,
) -> Path:
    """Write a mask as a NIfTI label image (0 and 1) that lies on the image it was drawn on.

    Parameters
    ----------
    path : path-like
        Ending in ``.nii`` or ``.nii.gz``.
    mask : array_like of bool, shape (H, W) or (D, H, W)
        On the pixels of the slice, or the voxels of the volume. Integer labels up to 255 stay as they are.
    of : CTSlice or CTVolume
        What it was drawn on. A slice becomes a volume of one slice, as thick as the slice says.
    names : mapping of int to str, optional
        What the labels mean, for the header.
    description : str, optional
        How the mask was made, for the header; 79 characters of ASCII, and nothing of the patient.

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
        return _write(Path(path), labels, of.affine, names=names, description=description)
    return _write(
        Path(path),
        labels[None],
        _slice_affine(of),
        placed=of.affine is not None,
        names=names,
        description=description,
    )


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
    path: Path,
    array_zyx: NDArray[Any],
    affine_lps: NDArray[np.float64],
    *,
    placed: bool = True,
    names: Mapping[int, str] | None = None,
    description: str | None = None,
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
    if description:
        header["descrip"] = description.encode("ascii", "replace")[:79]
    if names:
        extension: Any = nibabel.nifti1.Nifti1Extension
        header.extensions.append(extension(0, label_table_xml(names).encode("utf-8")))
    image_class: Any = nibabel.Nifti1Image
    content: bytes = image_class(array_zyx.transpose(2, 1, 0), None, header).to_bytes()
    if path.name.lower().endswith(".gz"):
        # Without a time stamp, equal volumes give equal files.
        content = gzip.compress(content, compresslevel=5, mtime=0)
    return write_bytes(path, content)
