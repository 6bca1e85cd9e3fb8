"""DICOM folders: which series are there and whether each can be used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ctai_sam2.errors import CtaiError, GeometryError
from ctai_sam2.files.folders import files_below
from ctai_sam2.geometry import affine_from_dicom, plane_of
from ctai_sam2.io.dicom_groups import SAME_PLACE_MM, ImageGroup, group_images, projections
from ctai_sam2.io.dicom_headers import FileSource, FrameHeader, is_dicom_named, looks_like_dicom, read_headers
from ctai_sam2.io.dicom_text import shown_kernel
from ctai_sam2.io.nifti_file import is_nifti_name
from ctai_sam2.io.nrrd import is_nrrd_name
from ctai_sam2.types import Plane

NAMES_SHOWN = 5
"""How many file names a message lists."""

_PROPOSED_THICKNESS_MM = (1.9, 5.1)
_WHOLE_ABDOMEN_MM = 150.0
_SHARP_KERNEL = re.compile(
    # Siemens B60 and more, Br59 and more; Canon FC30 and more; Philips D, E, L and Y; GE by name.
    r"(?:[BHIUJ][A-Z]?(?:5[5-9]|[6-9]\d).*|FC(?:[3-9]\d).*|[DEL]|Y[A-D]?|.*(?:LUNG|BONE|EDGE|SHARP|DETAIL).*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, repr=False)
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
    kvp : float, optional
        Tube voltage in kV.
    sex : {"M", "F"}, optional
        As recorded.
    acquisition, temporal_position : str, optional
        Numbers of the acquisition and of the phase in a time series, as recorded.
    description : str, optional
        Description of the series. It is free text: show it to its user, never put it into a log or an error.
    study_uid : str
        The study that it belongs to; empty where the files give none.
    distinguished_by : tuple of str
        What distinguishes it from other stacks under the same SeriesInstanceUID.
    proposed : bool
        Whether it is the one to measure muscle and fat on, of its study: see `propose_series`.
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
    kvp: float | None = None
    sex: str | None = None
    acquisition: str | None = None
    temporal_position: str | None = None
    description: str | None = None
    study_uid: str = ""
    distinguished_by: tuple[str, ...] = ()
    proposed: bool = False
    refusal: str | None = None

    @property
    def phase(self) -> str | None:
        """What is recorded of the contrast phase, in words; None where nothing is."""
        words = []
        if self.contrast is not None:
            words.append("contrast" if self.contrast else "native")
        if self.temporal_position:
            words.append(f"time {self.temporal_position}")
        if self.acquisition and "acquisition" in self.distinguished_by:
            words.append(f"acquisition {self.acquisition}")
        return ", ".join(words) or None

    @property
    def usable(self) -> bool:
        """True where the series can be read as a CT volume."""
        return self.refusal is None

    def __repr__(self) -> str:
        return f"SeriesInfo({self})"

    def __str__(self) -> str:
        facts = [f"{self.image_count} {self.plane} images of {self.shape_hw[1]} x {self.shape_hw[0]}"]
        if self.thickness_mm is not None:
            facts.append(f"{self.thickness_mm:g} mm thick")
        if self.step_mm is not None:
            facts.append(f"{self.step_mm:.4g} mm apart")
        kernel = shown_kernel(self.kernel)
        if kernel:
            facts.append(f"kernel {kernel}")
        if self.kvp is not None:
            facts.append(f"{self.kvp:g} kV")
        if self.phase:
            facts.append(self.phase)
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
    volume_files, other_names : tuple
        NIfTI and NRRD files, and names of files of other kinds.
    """

    series: tuple[Series, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    volume_files: tuple[Path, ...] = ()
    other_names: tuple[str, ...] = ()


def scan_folder(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> Folder:
    """Read the headers of all files below a folder and group them into series.

    Parameters
    ----------
    folder : Path
        Searched through all levels, through links too; hidden files are left out.
    progress : callable, optional
        Called with (files read, files in all).

    Raises
    ------
    InputError
        If the folder itself cannot be listed.
    """
    headers: list[FrameHeader] = []
    skipped: list[tuple[str, str]] = []
    volumes: list[Path] = []
    others: list[str] = []
    paths = list(files_below(folder, skipped))
    for done, path in enumerate(paths, start=1):
        if is_nifti_name(path.name) or is_nrrd_name(path.name):
            # The header of a pair stands for both of its files.
            if not path.name.lower().endswith((".img", ".img.gz")):
                volumes.append(path)
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
        if progress is not None:
            progress(done, len(paths))
    return Folder(
        series=tuple(group_series(headers)),
        skipped=tuple(skipped),
        volume_files=tuple(volumes),
        other_names=tuple(others),
    )


def group_series(headers: Sequence[FrameHeader]) -> list[Series]:
    """Put images together that make one stack; usable stacks come first, larger before smaller.

    Of the images of one SeriesInstanceUID `group_images` makes as many stacks as they are. One axial stack of
    each study is proposed.
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
        for number, group in enumerate(group_images(members), start=1):
            info = _describe(uid if number == 1 else f"{uid}#{number}", group)
            result.append(Series(info=info, frames=group.frames))
    proposed = {id(info) for info in propose_series([series.info for series in result])}
    result = [replace(s, info=replace(s.info, proposed=id(s.info) in proposed)) for s in result]
    return sorted(result, key=lambda s: (not s.info.usable, -s.info.image_count, s.info.uid))


def propose_series(infos: Sequence[SeriesInfo]) -> list[SeriesInfo]:
    """Choose the axial stack of each study that muscle and fat are best measured on.

    It covers an abdomen, has a soft kernel and slices of 2 to 5 mm, as the published cut-offs were measured
    on, and is the larger one.

    Parameters
    ----------
    infos : sequence of SeriesInfo
        Of one or several studies.
    """
    best: dict[tuple[str, str], SeriesInfo] = {}
    for info in infos:
        if info.usable and info.plane == "axial":
            # Patients mixed up under one study are as many studies.
            study = (info.study_uid, info.uid if "patient" in info.distinguished_by else "")
            held = best.get(study)
            if held is None or _rank(info) > _rank(held):
                best[study] = info
    return list(best.values())


def _rank(info: SeriesInfo) -> tuple[float, ...]:
    step = info.step_mm or info.thickness_mm or 0.0
    thickness = info.thickness_mm or info.step_mm or 0.0
    low, high = _PROPOSED_THICKNESS_MM
    return (
        min(info.image_count * step, _WHOLE_ABDOMEN_MM) // 50,
        not (info.kernel and _SHARP_KERNEL.fullmatch(info.kernel.strip())),
        low <= thickness <= high,
        info.image_count,
    )


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


def _describe(uid: str, group: ImageGroup) -> SeriesInfo:
    members = group.frames
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
        kvp=first.acquisition.kvp,
        sex=first.acquisition.patient_sex,
        acquisition=_most_common([m.keys.acquisition for m in members]),
        temporal_position=_most_common([m.keys.temporal_position for m in members]),
        description=first.description,
        study_uid=first.keys.study_uid,
        distinguished_by=group.distinguished_by,
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


def _most_common(values: Sequence[str]) -> str | None:
    counted = Counter(value for value in values if value.isdigit())
    return counted.most_common(1)[0][0] if counted else None


def _missing_geometry(members: Sequence[FrameHeader]) -> str | None:
    if any(m.spacing_mm is None for m in members):
        # ImagerPixelSpacing is measured at the detector, not in the patient: areas from it would be wrong.
        return "no pixel spacing, so nothing can be measured in mm"
    if any(m.orientation is None for m in members):
        return "no image orientation, so left and right are unknown"
    if any(m.position_mm is None for m in members):
        return "no image position, so the order of the slices is unknown"
    return None
