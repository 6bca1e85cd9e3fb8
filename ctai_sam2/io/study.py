"""The readers people call: a study as a volume, one file as a slice, a folder's list of series."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import CtaiError, DicomError, GeometryError, InputError
from ctai_sam2.files.folders import as_path, files_below
from ctai_sam2.geometry import affine_from_dicom, axis_correspondence, canonicalise, plane_of
from ctai_sam2.image.plausibility import implausible_values, require_plausible_spacing
from ctai_sam2.io.dicom_headers import FrameHeader, looks_like_dicom, read_headers
from ctai_sam2.io.dicom_pixels import read_hu_frames
from ctai_sam2.io.dicom_series import (
    Folder,
    Series,
    SeriesInfo,
    group_series,
    scan_folder,
    skipped_warning,
)
from ctai_sam2.io.dicom_volume import read_series
from ctai_sam2.io.nifti import read_nifti
from ctai_sam2.io.nifti_file import is_nifti_name
from ctai_sam2.io.nrrd import is_nrrd_name, read_nrrd
from ctai_sam2.io.pictures import PICTURE_SUFFIXES, read_picture
from ctai_sam2.types import CTSlice, CTVolume, Plane, Window
from ctai_sam2.types.checks import renamed_argument

_CHOICES_SHOWN = 20


def read_study(
    path: str | os.PathLike[str],
    *,
    series_uid: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CTVolume:
    """Read a CT study as a volume in canonical orientation.

    Parameters
    ----------
    path : path-like
        A folder of DICOM files (searched through all levels), one DICOM file (a single slice, or an
        enhanced multi-frame object), a NIfTI or NRRD file, or a folder with one of these.
    series_uid : str, optional
        Which DICOM series, as `list_series` names it. Needed only where several fit.
    progress : callable, optional
        Called with (files looked at, files in all) while headers are read.
    on_progress : callable, optional
        Deprecated name of ``progress``.

    Returns
    -------
    CTVolume
        With ``warnings`` for files that could not be read, gaps, tilt and the like.

    Raises
    ------
    InputError
        If nothing usable is there, or several series fit and none was chosen; the message lists them.
    DicomError
        If a file is damaged or is not a CT in HU, and no other makes up for it.
    GeometryError
        If positions, directions or spacings are missing or contradict each other.

    Notes
    -----
    Slices are ordered by position along their normal, never by name or number.
    Without pixel spacing a CT is refused: ``ImagerPixelSpacing`` holds at the
    detector, not in the patient. Messages name files by the last part of
    their path only.
    """
    progress = renamed_argument(progress, "progress", on_progress, "on_progress")
    path = as_path(path)
    _require_there(path)
    if path.is_dir():
        return _read_folder(path, series_uid, progress)
    if is_volume_name(path.name):
        return read_volume(path)
    _refuse_other_kinds(path)
    groups = group_series(read_headers(path))
    return read_series(_require_geometry(_choose(groups, series_uid)))


def is_volume_name(name: str) -> bool:
    """Tell whether a file's name is one of a NIfTI, Analyze or NRRD volume."""
    return is_nifti_name(name) or is_nrrd_name(name)


def read_volume(path: Path) -> CTVolume:
    """Read a NIfTI, Analyze or NRRD volume of HU.

    Raises
    ------
    InputError, GeometryError
        As `read_nifti` and `read_nrrd`.
    """
    return read_nrrd(path) if is_nrrd_name(path.name) else read_nifti(path)


def list_series(
    path: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    skipped: list[tuple[str, str]] | None = None,
) -> list[SeriesInfo]:
    """List the DICOM series of a folder or file; usable ones first, larger before smaller.

    Parameters
    ----------
    path : path-like
        A folder, searched through all levels, or a file.
    progress : callable, optional
        Called with (files looked at, files in all).
    on_progress : callable, optional
        Deprecated name of ``progress``.
    skipped : list of (str, str), optional
        Gets a name and a reason for each file that should have been readable, and for each link that leads
        nowhere.

    Raises
    ------
    InputError
        If there is nothing at the path.
    DicomError
        If a single file was given and it is damaged.
    """
    progress = renamed_argument(progress, "progress", on_progress, "on_progress")
    path = as_path(path)
    _require_there(path)
    if path.is_dir():
        found = scan_folder(path, progress=progress)
        if skipped is not None:
            skipped += found.skipped
        return [series.info for series in found.series]
    return [series.info for series in group_series(read_headers(path))]


def find_series(path: str | os.PathLike[str], *, series_uid: str | None = None) -> Series:
    """Find the DICOM series that `read_study` would read, without decoding an image.

    Parameters
    ----------
    path : path-like
        A DICOM folder or file.
    series_uid : str, optional
        Which series of a folder.

    Raises
    ------
    InputError, DicomError, GeometryError
        As `read_study`.
    """
    path = as_path(path)
    _require_there(path)
    if path.is_dir():
        found = scan_folder(path)
        if not found.series and found.volume_files:
            raise InputError(
                "the folder holds NIfTI or NRRD files, no DICOM", hint="Give the folder of DICOM images."
            )
        if not found.series:
            _refuse_folder(found)
        return _require_geometry(_choose(found.series, series_uid, found.skipped))
    _refuse_other_kinds(path)
    return _require_geometry(_choose(group_series(read_headers(path)), series_uid))


def first_header(path: str | os.PathLike[str], *, series_uid: str | None = None) -> FrameHeader | None:
    """Read the header of a study's first CT image, without looking at those behind it.

    Parameters
    ----------
    path : path-like
        A folder or a file.
    series_uid : str, optional
        Which series of a folder.

    Returns
    -------
    FrameHeader or None
        None where there is no DICOM object, or none that can be read: reading the study says why. A localizer
        or report is given only where there is nothing else; it may say nothing of the patient.
    """
    path = Path(path)
    other: FrameHeader | None = None
    try:
        for file in files_below(path, []) if path.is_dir() else (path,):
            header = None if is_volume_name(file.name) else _header_of(file)
            if header is not None and (series_uid or "").split("#")[0] in ("", header.series_uid):
                if header.refusal is None:
                    return header
                other = other or header
    except CtaiError:
        pass
    return other


def _header_of(file: Path) -> FrameHeader | None:
    try:
        return next(iter(read_headers(file)), None) if looks_like_dicom(file) else None
    except CtaiError:
        return None


def read_slice(
    path: str | os.PathLike[str],
    *,
    window: Window | None = None,
    spacing_mm: Sequence[float] | None = None,
    plane: Plane = "axial",
) -> CTSlice:
    """Read one image as a slice in display orientation.

    Axial slices come out with anterior up and the patient's right on image
    left, sagittal ones with superior up and anterior on image left, coronal
    ones with superior up and the patient's right on image left.

    Parameters
    ----------
    path : path-like
        A DICOM file with one image, a NIfTI or NRRD file of one slice, or a PNG or JPEG picture.
    window : Window
        For pictures only, and needed there: which HU black and white stand for.
    spacing_mm : sequence of 2 floats
        (row spacing, column spacing): needed for pictures; for DICOM only where the file states none.
    plane : {"axial", "sagittal", "coronal"}
        For pictures only.

    Raises
    ------
    InputError
        If the file is missing, is a picture without window or spacing, or holds several images.
    DicomError
        If it is damaged or is not a CT in HU.
    GeometryError
        If it states no pixel spacing and none was given.
    """
    path = as_path(path)
    _require_there(path)
    if path.is_dir():
        raise InputError(
            "a folder was given where one image is needed",
            hint="Read it with read_study and take a slice of the volume.",
        )
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return read_picture(path, window=window, spacing_mm=spacing_mm, plane=plane)
    if is_volume_name(path.name):
        return _only_slice(path, read_volume(path))
    _refuse_other_kinds(path)
    headers = read_headers(path)
    if len(headers) > 1 and headers[0].refusal is None:
        raise InputError(
            f"{path.name} holds several images",
            received=f"{len(headers)} frames",
            hint="Read it with read_study and take a slice, for example .axial(0).",
        )
    stated = headers[0].spacing_mm or spacing_mm
    if stated is not None and headers[0].refusal is None:
        require_plausible_spacing(stated, headers[0].shape_hw, axial=_is_axial(headers[0]))
    return slice_of_header(headers[0], spacing_mm)


def _only_slice(path: Path, volume: CTVolume) -> CTSlice:
    """Take the slice of a volume that is one pixel thick, by its plane."""
    thin = [axis for axis, size in enumerate(volume.shape_zyx) if size == 1]
    if not thin:
        raise InputError(
            f"{path.name} is a volume",
            received=f"{volume.shape_zyx[0]} axial slices",
            hint="Read it with read_study and take a slice, for example .axial(40).",
        )
    taken = (volume.axial, volume.coronal, volume.sagittal)[thin[0]](0)
    return replace(taken, index=None)


def slice_of_header(header: FrameHeader, spacing_mm: Sequence[float] | None = None) -> CTSlice:
    """Read the image that a header stands for, in display orientation; see `read_slice`.

    Raises
    ------
    DicomError
        If it is damaged or is not a CT in HU.
    GeometryError
        If it states no pixel spacing and none was given.
    """
    name = header.path.name
    if header.refusal is not None:
        raise DicomError(f"{name} cannot be used: {header.refusal}", hint="Give a CT image in HU.")
    warnings = list(header.cautions)
    spacing = header.spacing_mm
    if spacing is None:
        if spacing_mm is None:
            raise GeometryError(
                f"{name} states no pixel spacing, so nothing can be measured in mm",
                hint="Pass spacing_mm=(row, column) if it is known for certain.",
            )
        spacing = (float(spacing_mm[0]), float(spacing_mm[1]))
        warnings.append("the pixel spacing is not the file's own but was given by hand")
    content = read_hu_frames(header.path, [header.frame])
    hu = content.frames[0]
    warnings += [*content.cautions, *implausible_values(hu)]
    thickness = header.acquisition.slice_thickness_mm
    if header.orientation is None:
        warnings.append("no image orientation: plane, left and right are unknown")
        return CTSlice(
            hu=hu,
            spacing_mm=(spacing[0], spacing[1]),
            plane="unknown",
            thickness_mm=thickness,
            acquisition=header.acquisition,
            warnings=tuple(warnings),
        )
    if header.position_mm is None:
        warnings.append("no image position: where the slice lies in the patient is unknown")
    normal = np.cross(header.orientation[:3], header.orientation[3:])
    affine = affine_from_dicom(
        header.orientation, header.position_mm or (0.0, 0.0, 0.0), spacing, normal * (thickness or 1.0)
    )
    plane, angle = plane_of(affine)
    if plane == "oblique":
        warnings.append(f"the slice is oblique, {angle:.1f} degrees from the nearest anatomical plane")
    shown = _display_oriented(hu, affine)
    return replace(
        shown,
        plane=plane,
        affine=shown.affine if header.position_mm is not None else None,
        thickness_mm=thickness,
        index=None,
        acquisition=header.acquisition,
        warnings=tuple(warnings),
    )


def _is_axial(header: FrameHeader) -> bool:
    if header.orientation is None:
        return False
    try:
        return plane_of(affine_from_dicom(header.orientation, (0.0, 0.0, 0.0), (1.0, 1.0)))[0] == "axial"
    except GeometryError:
        return False  # said where the slice is placed


def _display_oriented(hu: NDArray[np.int16], affine: NDArray[np.float64]) -> CTSlice:
    slice_axis = axis_correspondence(affine)[0].index(2)
    hu_zyx, canonical = canonicalise(hu[None], affine)
    volume = CTVolume(hu_zyx=hu_zyx, affine=canonical)
    shown = (volume.sagittal, volume.coronal, volume.axial)[slice_axis](0)
    return replace(shown, hu=np.ascontiguousarray(shown.hu))


def _read_folder(
    folder: Path, series_uid: str | None, progress: Callable[[int, int], None] | None
) -> CTVolume:
    found = scan_folder(folder, progress=progress)
    if not found.series:
        if series_uid is None and len(found.volume_files) == 1:
            return _with_warnings(read_volume(found.volume_files[0]), skipped_warning(found.skipped))
        _refuse_folder(found)
    chosen = _choose(found.series, series_uid, found.skipped)
    cautions = skipped_warning(found.skipped)
    if found.volume_files:
        noun = "file was" if len(found.volume_files) == 1 else "files were"
        cautions.append(f"{len(found.volume_files)} NIfTI or NRRD {noun} left aside")
    others = [s for s in found.series if s is not chosen]
    if others and series_uid is None:
        shown = [f"{s.info.image_count} images: {s.info.refusal or s.info.plane}" for s in others]
        noun = "other series was" if len(others) == 1 else "other series were"
        cautions.append(f"{len(others)} {noun} left aside ({'; '.join(shown[:_CHOICES_SHOWN])})")
    return read_series(_require_geometry(chosen), cautions=cautions)


def _with_warnings(volume: CTVolume, more: Sequence[str]) -> CTVolume:
    return replace(volume, warnings=(*more, *volume.warnings)) if more else volume


def _choose(
    groups: Sequence[Series], series_uid: str | None, skipped: Sequence[tuple[str, str]] = ()
) -> Series:
    if series_uid is not None:
        for series in groups:
            if series.info.uid == series_uid:
                return series
        raise InputError(
            "there is no such series",
            received=series_uid,
            hint=f"There are: {_listed(groups)}",
        )
    if len(groups) == 1:
        return groups[0]
    usable = [series for series in groups if series.info.usable]
    # A stack is what a study is read for; single images next to it do not compete.
    # Nor do sagittal and coronal reformats next to the axial stack.
    stacks = [series for series in usable if series.info.image_count > 1] or usable
    candidates = [series for series in stacks if series.info.plane == "axial"] or stacks
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        proposed = [series.info.uid for series in candidates if series.info.proposed]
        raise InputError(
            f"{len(candidates)} series fit{_why_apart(candidates)}",
            received=_listed(candidates),
            hint="Pass series_uid= with the one you want"
            + (f"; for muscle and fat {proposed[0]} is proposed." if len(proposed) == 1 else "."),
        )
    raise DicomError(
        "no series can be read as a CT volume",
        received=_listed(groups) + "; ".join(["", *skipped_warning(skipped)]),
        hint="Give axial CT images in HU.",
    )


def _why_apart(candidates: Sequence[Series]) -> str:
    """Say what distinguishes stacks under one SeriesInstanceUID, as a part of a sentence."""
    names = list(dict.fromkeys(name for series in candidates for name in series.info.distinguished_by))
    return f"; one series holds several stacks, distinguished by {', '.join(names)}" if names else ""


def _listed(groups: Sequence[Series]) -> str:
    lines = [str(series.info) for series in groups[:_CHOICES_SHOWN]]
    if len(groups) > _CHOICES_SHOWN:
        lines.append(f"and {len(groups) - _CHOICES_SHOWN} more")
    return "; ".join(lines)


def _require_geometry(series: Series) -> Series:
    info, first = series.info, series.frames[0]
    if info.refusal is not None and first.refusal is None:
        # The images are CT in HU; only what is known of their place is not enough.
        raise GeometryError(
            f"the images cannot be stacked: {info.refusal}",
            hint="One image alone can be read with read_slice.",
        )
    return series


def _require_there(path: Path) -> None:
    try:
        there = path.exists()
    except OSError:
        there = False
    if not there:
        raise InputError(
            f"there is nothing at {path.name or path}",
            hint="Check the path; a relative one starts at the working directory.",
        )
    if not (path.is_dir() or path.is_file()):
        raise InputError(f"{path.name} is neither a file nor a folder", hint="Check the path.")


def _refuse_other_kinds(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        raise InputError(
            f"{path.name} is a picture, not a study",
            hint="Read it with read_slice(path, window=..., spacing_mm=...); on the command line, give "
            "--structure, --window level,width and --spacing-mm row,column.",
        )
    if suffix == ".npz" and not looks_like_dicom(path):
        raise InputError(f"{path.name} is a case file", hint="Read it with read_case_npz.")


def _refuse_folder(found: Folder) -> NoReturn:
    if len(found.volume_files) > 1:
        kinds = "NIfTI or NRRD" if any(is_nrrd_name(path.name) for path in found.volume_files) else "NIfTI"
        raise InputError(
            f"the folder holds {len(found.volume_files)} {kinds} files",
            received=", ".join(sorted(path.name for path in found.volume_files)[:_CHOICES_SHOWN]),
            hint="Give the path of the CT itself.",
        )
    if found.skipped:
        raise DicomError(
            "the folder holds no readable DICOM image",
            received=skipped_warning(found.skipped)[0],
            hint="Export the study again.",
        )
    if found.other_names:
        raise InputError(
            "the folder holds neither DICOM nor NIfTI files",
            received=f"{len(found.other_names)} files of other kinds",
            hint="Give the folder of CT images as exported by the scanner or PACS.",
        )
    raise InputError("the folder is empty", hint="Give the folder of CT images.")
