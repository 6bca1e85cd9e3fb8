"""DICOM folders: which series are there and whether each can be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import CtaiError, GeometryError, InputError
from ctai_sam2.geometry import affine_from_dicom, plane_of
from ctai_sam2.io.dicom_headers import FileSource, FrameHeader, is_dicom_named, looks_like_dicom, read_headers
from ctai_sam2.types import Plane

SAME_PLACE_MM = 1e-4
"""Images nearer to each other than this lie at one place."""

NAMES_SHOWN = 5
"""How many file names a message lists."""

_ORIENTATION_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class SeriesInfo:
    """One series of a folder, without anything that names a patient.

    Parameters
    ----------
    uid : str
        What to pass as ``series_uid``: the SeriesInstanceUID, with ``#2``, ``#3`` … behind it for further
        parts of a series that holds images of several shapes, directions or phases; ``no-uid-1`` … where
        the files give none.
    modality : str
        As recorded, ``CT`` for usable ones.
    image_count : int
        Images (frames), before repeats are dropped.
    plane : {"axial", "sagittal", "coronal", "oblique", "unknown"}
        Plane of its images.
    spacing_mm : tuple of float, optional
        (row spacing, column spacing).
    step_mm : float, optional
        Median distance between neighbouring images.
    thickness_mm : float, optional
        Nominal slice thickness.
    shape_hw : tuple of int
        (rows, columns).
    kernel : str, optional
        Reconstruction kernel.
    contrast : bool, optional
        Whether a contrast agent is recorded.
    refusal : str, optional
        Why it cannot be read as a CT volume; None where it can.
    """

    uid: str
    modality: str
    image_count: int
    plane: Plane = "unknown"
    spacing_mm: tuple[float, float] | None = None
    step_mm: float | None = None
    thickness_mm: float | None = None
    shape_hw: tuple[int, int] = (0, 0)
    kernel: str | None = None
    contrast: bool | None = None
    refusal: str | None = None

    @property
    def usable(self) -> bool:
        """True where the series can be read as a CT volume."""
        return self.refusal is None

    def __str__(self) -> str:
        facts = [f"{self.image_count} {self.plane} images of {self.shape_hw[1]} x {self.shape_hw[0]}"]
        if self.thickness_mm is not None:
            facts.append(f"{self.thickness_mm:g} mm thick")
        if self.step_mm is not None:
            facts.append(f"{self.step_mm:.4g} mm apart")
        if self.kernel:
            facts.append(f"kernel {self.kernel}")
        return f"{self.uid}: {self.refusal or ', '.join(facts)}"


@dataclass(frozen=True, kw_only=True)
class Series:
    """A `SeriesInfo` and the images it describes."""

    info: SeriesInfo
    frames: tuple[FrameHeader, ...]


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a folder holds.

    Parameters
    ----------
    series : tuple of Series
        Usable ones first, larger before smaller.
    skipped : tuple of (str, str)
        File name and reason, for files that should have been readable and were not.
    nifti_files, other_names : tuple
        NIfTI files, and names of files of other kinds.
    """

    series: tuple[Series, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    nifti_files: tuple[Path, ...] = ()
    other_names: tuple[str, ...] = ()


def scan_folder(folder: Path, *, on_progress: Callable[[int, int], None] | None = None) -> Folder:
    """Read the headers of all files below a folder and group them into series.

    Parameters
    ----------
    folder : Path
        Searched through all levels; hidden files are left out.
    on_progress : callable, optional
        Called with (files read, files in all).

    Raises
    ------
    InputError
        If the folder itself cannot be listed.
    """
    headers: list[FrameHeader] = []
    skipped: list[tuple[str, str]] = []
    nifti: list[Path] = []
    others: list[str] = []
    paths = list(_files_below(folder, skipped))
    for done, path in enumerate(paths, start=1):
        if path.name.lower().endswith((".nii", ".nii.gz")):
            nifti.append(path)
        else:
            try:
                if looks_like_dicom(path) and path.name.upper() != "DICOMDIR":
                    headers += read_headers(path)
                elif is_dicom_named(path) and path.suffix:
                    skipped.append((path.name, "not a DICOM file"))
                else:
                    others.append(path.name)
            except CtaiError as error:
                skipped.append((path.name, cause_of(error, path)))
        if on_progress is not None:
            on_progress(done, len(paths))
    return Folder(
        series=tuple(group_series(headers)),
        skipped=tuple(skipped),
        nifti_files=tuple(nifti),
        other_names=tuple(others),
    )


def group_series(headers: Sequence[FrameHeader]) -> list[Series]:
    """Put images together that make one stack; usable stacks come first, larger before smaller.

    Images of one SeriesInstanceUID are split where they differ in size,
    direction or spacing, and, if several lie at the same place, by phase.
    """
    by_uid: dict[str, list[FrameHeader]] = {}
    for header in headers:
        folder = header.path.parent if isinstance(header.path, Path) else ""
        by_uid.setdefault(header.series_uid or f"\0{folder}", []).append(header)
    result: list[Series] = []
    unnamed = 0
    for uid, members in by_uid.items():
        if uid.startswith("\0"):
            unnamed += 1
            uid = f"no-uid-{unnamed}"
        parts = [piece for part in _split_by_grid(members) for piece in _split_by_phase(part)]
        parts.sort(key=lambda part: (part[0].refusal is not None, -len(part)))
        for number, part in enumerate(parts, start=1):
            info = _describe(uid if number == 1 else f"{uid}#{number}", part)
            result.append(Series(info=info, frames=tuple(part)))
    return sorted(result, key=lambda s: (not s.info.usable, -s.info.image_count, s.info.uid))


def skipped_warning(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """One sentence on files that could not be read, or nothing.

    Examples
    --------
    >>> skipped_warning([("a.dcm", "truncated pixel data")])
    ['1 file could not be read: a.dcm (truncated pixel data)']
    """
    if not skipped:
        return []
    shown = ", ".join(f"{name} ({reason})" for name, reason in skipped[:NAMES_SHOWN])
    more = f" and {len(skipped) - NAMES_SHOWN} more" if len(skipped) > NAMES_SHOWN else ""
    noun = "file" if len(skipped) == 1 else "files"
    return [f"{len(skipped)} {noun} could not be read: {shown}{more}"]


def cause_of(error: CtaiError, path: FileSource) -> str:
    """Get the cause an error names, without the file name in front."""
    text = error.problem
    for start in (f"{path.name} cannot be read: ", f"{path.name} cannot be opened: ", f"{path.name} "):
        if text.startswith(start):
            return text[len(start) :].removeprefix("is ")
    return text


def normal_of(header: FrameHeader) -> NDArray[np.float64]:
    """Compute an image's unit normal in LPS, shape (3,): row direction times column direction."""
    directions = np.asarray(header.orientation, dtype=np.float64)
    normal = np.cross(directions[:3], directions[3:])
    unit: NDArray[np.float64] = normal / np.linalg.norm(normal)
    return unit


def projections(members: Sequence[FrameHeader]) -> NDArray[np.float64]:
    """Compute positions in mm along the first image's normal, shape (N,)."""
    normal = normal_of(members[0])
    return np.array([float(np.dot(normal, np.asarray(m.position_mm))) for m in members])


def _files_below(folder: Path, skipped: list[tuple[str, str]]) -> Iterator[Path]:
    try:
        os.listdir(folder)
    except OSError as error:
        raise InputError(
            f"the folder {folder.name} cannot be opened: {os.strerror(error.errno or 0).lower()}",
            hint="Check the path and its permissions.",
        ) from error

    def note(error: OSError) -> None:
        name = Path(str(error.filename)).name
        skipped.append((name, os.strerror(error.errno or 0).lower()))

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _split_by_grid(members: Sequence[FrameHeader]) -> list[list[FrameHeader]]:
    parts: list[list[FrameHeader]] = []
    for header in members:
        for part in parts:
            if _same_grid(part[0], header):
                part.append(header)
                break
        else:
            parts.append([header])
    return parts


def _same_grid(a: FrameHeader, b: FrameHeader) -> bool:
    return (
        a.refusal == b.refusal
        and a.shape_hw == b.shape_hw
        and _close(a.orientation, b.orientation, _ORIENTATION_TOLERANCE)
        and _close(a.spacing_mm, b.spacing_mm, _SPACING_TOLERANCE)
    )


def _close(a: tuple[float, ...] | None, b: tuple[float, ...] | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return max(abs(u - v) for u, v in zip(a, b, strict=True)) <= tolerance


def _split_by_phase(members: list[FrameHeader]) -> list[list[FrameHeader]]:
    """Split where several images lie at each place and one header value tells them apart."""
    if members[0].refusal is not None or not _has_collisions(members):
        return [members]
    for which in range(len(members[0].phase)):
        phases: dict[str, list[FrameHeader]] = {}
        for header in members:
            phases.setdefault(header.phase[which], []).append(header)
        if len(phases) > 1 and not any(_has_collisions(part) for part in phases.values()):
            return list(phases.values())
    return [members]


def _has_collisions(members: Sequence[FrameHeader]) -> bool:
    distinct = {(header.instance_uid, header.frame): header for header in members if header.instance_uid}
    places = [_place(header) for header in (distinct.values() if distinct else members)]
    return len(set(places)) < len(places)


def _place(header: FrameHeader) -> tuple[float, ...] | None:
    return None if header.position_mm is None else tuple(round(v, 3) for v in header.position_mm)


def _describe(uid: str, members: Sequence[FrameHeader]) -> SeriesInfo:
    first = members[0]
    info = SeriesInfo(
        uid=uid,
        modality=first.modality,
        image_count=len(members),
        shape_hw=first.shape_hw,
        spacing_mm=None if first.spacing_mm is None else (first.spacing_mm[0], first.spacing_mm[1]),
        thickness_mm=first.acquisition.slice_thickness_mm,
        kernel=first.acquisition.kernel,
        contrast=first.acquisition.contrast,
        refusal=first.refusal,
    )
    if first.refusal is not None:
        return info
    missing = _missing_geometry(members)
    if first.orientation is not None:
        try:
            affine = affine_from_dicom(first.orientation, (0.0, 0.0, 0.0), (1.0, 1.0))
        except GeometryError as error:
            return replace(info, refusal=error.problem)
        info = replace(info, plane=plane_of(affine)[0])
    if missing:
        return replace(info, refusal=missing)
    if len(members) > 1:
        gaps = np.diff(np.sort(projections(members)))
        gaps = gaps[gaps > SAME_PLACE_MM]
        distinct = {(m.instance_uid, m.frame) for m in members}
        if gaps.size == 0 and len(distinct) > 1:
            return replace(
                info, refusal=f"its {len(members)} images lie at one place: a time series, not a stack"
            )
        if gaps.size:
            info = replace(info, step_mm=float(np.median(gaps)))
    return info


def _missing_geometry(members: Sequence[FrameHeader]) -> str | None:
    if any(m.spacing_mm is None for m in members):
        # ImagerPixelSpacing is measured at the detector, not in the patient: areas from it would be wrong.
        return "no pixel spacing, so nothing can be measured in mm"
    if any(m.orientation is None for m in members):
        return "no image orientation, so left and right are unknown"
    if any(m.position_mm is None for m in members):
        return "no image position, so the order of the slices is unknown"
    return None
