"""NIfTI volumes and masks. NIfTI counts in RAS mm, this package in LPS; the change happens here."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import CtaiError, GeometryError, InputError
from ctai_sam2.geometry import canonicalise, plane_of
from ctai_sam2.io.atomic import write_bytes
from ctai_sam2.io.dicom_pixels import AIR_HU, implausible_values
from ctai_sam2.io.dicom_volume import MAX_VOXELS
from ctai_sam2.io.label_tables import label_table_xml
from ctai_sam2.io.library_messages import quiet
from ctai_sam2.types import CTSlice, CTVolume

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MM_PER_UNIT = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
_SHEAR_TOLERANCE = 1e-4


def read_nifti(path: str | os.PathLike[str]) -> CTVolume:
    """Read a NIfTI volume of HU in any orientation.

    Values are rounded to whole HU; those below -1024 become -1024.

    Parameters
    ----------
    path : path-like
        ``.nii`` or ``.nii.gz`` with three dimensions (a fourth of length 1 is allowed).

    Returns
    -------
    CTVolume
        Canonical; with a warning where values do not look like HU or the header states no orientation.

    Raises
    ------
    InputError
        If the file is damaged, too large, not a scalar volume or holds values that are not finite.
    GeometryError
        If its affine is singular.
    """
    path = Path(path)
    content = load_nifti(path)
    warnings = [*content.warnings]
    hu_xyz = _to_hu(path, content)
    warnings += implausible_values(hu_xyz)
    array_zyx, canonical = canonicalise(hu_xyz.transpose(2, 1, 0), content.affine)
    plane, angle = plane_of(canonical)
    if plane == "oblique":
        warnings.append(f"the slices are oblique, {angle:.1f} degrees from the nearest anatomical plane")
    return CTVolume(hu_zyx=np.ascontiguousarray(array_zyx), affine=canonical, warnings=tuple(warnings))


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
        On the pixels of the slice, or the voxels of the volume. Integer labels up to 255 are kept.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class NiftiContent:
    """A NIfTI file's stored values (x, y, z), how to scale them, and its affine in LPS mm.

    ``is_placed`` tells whether the header states an orientation.
    """

    stored: NDArray[Any]
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    is_placed: bool
    warnings: tuple[str, ...]
    description: str | None = None


def load_nifti(path: Path) -> NiftiContent:
    """Read what a NIfTI file holds, an image or labels, as it is stored.

    Raises
    ------
    InputError
        If the file is missing, damaged, too large or no scalar volume.
    GeometryError
        If its affine is singular.
    """
    import nibabel

    try:
        # nibabel would write its remarks on odd headers to the terminal.
        with quiet("nibabel.global"):
            image: Any = nibabel.load(path)
            affine, is_placed, warnings = _affine_lps(image)
            stored, slope, intercept = _stored_values(path, image)
            description = _description_of(image)
    except CtaiError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path.name}", hint="Check the path.") from error
    except PermissionError as error:
        raise InputError(
            f"{path.name} cannot be opened: permission denied", hint="Check its permissions."
        ) from error
    except Exception as error:  # nibabel and zlib raise many kinds for damaged files
        raise InputError(
            f"{path.name} is not a readable NIfTI file ({type(error).__name__})",
            hint="It may be truncated, or something else under this name; export it again.",
        ) from error
    return NiftiContent(
        stored=stored,
        slope=slope,
        intercept=intercept,
        affine=affine,
        is_placed=is_placed,
        warnings=tuple(warnings),
        description=description,
    )


def _description_of(image: Any) -> str | None:
    try:
        text = bytes(image.header["descrip"].tobytes()).rstrip(b"\0").decode("ascii", "replace")
    except (KeyError, ValueError, AttributeError):
        return None
    return text or None


def _stored_values(path: Path, image: Any) -> tuple[NDArray[Any], float, float]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or min(shape) == 0:
        raise InputError(
            f"{path.name} is not a three-dimensional volume", received=f"shape {tuple(image.shape)}"
        )
    if int(np.prod(shape, dtype=np.float64)) > MAX_VOXELS:
        raise InputError(
            f"{path.name} declares a volume larger than this package reads",
            received=f"shape {shape}",
            hint="The header may be damaged; else crop the volume.",
        )
    dtype = image.get_data_dtype()
    if dtype.names is not None or np.issubdtype(dtype, np.complexfloating):
        raise InputError(f"{path.name} holds colours or complex numbers, not HU", received=str(dtype))
    slope, intercept = 1.0, 0.0
    if hasattr(image.dataobj, "get_unscaled"):
        stored = np.asanyarray(image.dataobj.get_unscaled())
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    else:
        stored = np.asanyarray(image.dataobj)
    return stored.reshape(shape, order="F"), slope, intercept


def _to_hu(path: Path, content: NiftiContent) -> NDArray[np.int16]:
    stored = content.stored
    hu = np.empty(stored.shape, dtype=np.int16, order="F")
    bad = 0
    for k in range(stored.shape[2]):
        # One slice at a time: scaling makes doubles, four times the size of the result.
        plane = stored[:, :, k].astype(np.float64) * content.slope + content.intercept
        finite = np.isfinite(plane)
        bad += int(plane.size - finite.sum())
        hu[:, :, k] = np.clip(np.rint(np.where(finite, plane, 0.0)), AIR_HU, 32767).astype(np.int16)
    if bad:
        raise InputError(
            f"{path.name} holds values that are not finite",
            received=f"{bad} of {stored.size} voxels are NaN or infinite",
            hint="Replace them by air (-1024 HU) if they are padding.",
        )
    return hu


def _affine_lps(image: Any) -> tuple[NDArray[np.float64], bool, list[str]]:
    warnings: list[str] = []
    is_placed = True
    affine = np.asarray(image.affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise GeometryError("the NIfTI header gives a singular affine", hint="Convert the images again.")
    header = image.header
    if hasattr(header, "get_xyzt_units"):
        unit = str(header.get_xyzt_units()[0])
        affine = np.diag([*[_MM_PER_UNIT.get(unit, 1.0)] * 3, 1.0]) @ affine
        sform, qform = int(header["sform_code"]), int(header["qform_code"])
        is_placed = sform > 0 or qform > 0
        if not is_placed:
            warnings.append("the header states no orientation: left and right are assumed, check them")
        elif sform > 0 and qform > 0:
            difference = float(np.abs(header.get_sform() - header.get_qform()).max())
            if difference > 0.1:
                warnings.append("the header's two orientations (sform, qform) differ; sform was taken")
    return _RAS_FROM_LPS @ affine, is_placed, warnings


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
    affine = _RAS_FROM_LPS @ affine_lps
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
