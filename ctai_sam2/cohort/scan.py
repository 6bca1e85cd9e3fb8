"""Finding the studies below a folder, describing their series and proposing one of each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctai_sam2.cohort.case import Case
from ctai_sam2.errors import CtaiError, InputError
from ctai_sam2.files.folders import files_below, why_not_followed
from ctai_sam2.files.safe_text import is_device_name
from ctai_sam2.io import SeriesInfo
from ctai_sam2.io.dicom_headers import looks_like_dicom
from ctai_sam2.io.study import is_volume_name, list_series
from ctai_sam2.types.checks import renamed_argument

_CASE_FILE = ".npz"
_FEWEST_IMAGES = 2
_ENDINGS = re.compile(r"\.(nii\.gz|nii|nrrd|nhdr|hdr\.gz|hdr|npz|dcm)$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ScannedSeries:
    """A DICOM series that was found, and what becomes of it.

    Parameters
    ----------
    entry : str
        Name of the entry of the folder that it lies in.
    info : SeriesInfo
        Plane, slices, thickness, kernel, phase, kV, sex and description.
    case_id : str, optional
        The case that measures it.
    left_out : str, optional
        Why no case does.
    """

    entry: str
    info: SeriesInfo
    case_id: str | None = None
    left_out: str | None = None

    def to_row(self) -> dict[str, object]:
        """Put into a row of a table what one chooses by."""
        info = self.info
        return {
            "entry": self.entry,
            "case_id": self.case_id,
            "series_uid": info.uid,
            "plane": info.plane,
            "slices": info.image_count,
            "thickness_mm": info.thickness_mm,
            "step_mm": None if info.step_mm is None else round(info.step_mm, 3),
            "kernel": info.kernel,
            "phase": info.phase,
            "kvp": info.kvp,
            "sex": info.sex,
            "description": info.description,
            "left_out": self.left_out,
        }


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a folder holds.

    Parameters
    ----------
    cases : tuple of Case
        One for each study, volume file or ``.npz`` slice; of each axial stack where all were wanted.
    skipped : tuple of (str, str)
        What was left out, and why: entries of the folder, files in them and links that could not be followed.
    series : tuple of ScannedSeries
        All DICOM series that were found, measured or left out.
    """

    cases: tuple[Case, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    series: tuple[ScannedSeries, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A case to be: a path and a series in it, with what its header says of the patient."""

    path: Path
    info: SeriesInfo | None = None
    series_uid: str | None = None


def scan_cases(
    folder: str | os.PathLike[str],
    *,
    ids_from_names: bool = False,
    all_series: bool = False,
    progress: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """List the studies of a folder: DICOM folders and files, NIfTI and NRRD volumes, ``.npz`` slices.

    Of a study with several axial stacks one is proposed, see `propose_series`; the others are described and
    left out. A folder that holds DICOM files itself is one study. Links are followed.

    Parameters
    ----------
    folder : path-like
        Where to look.
    ids_from_names : bool
        Name cases after their folders and files. Otherwise they are numbered, because names of folders
        are often names of patients.
    all_series : bool
        Make a case of every axial stack, to delete the rows that are not wanted by hand.
    progress : callable, optional
        Called with (entries looked at, entries in all).
    on_progress : callable, optional
        Deprecated name of ``progress``.

    Raises
    ------
    InputError
        If there is no such folder, or nothing in it can be used.
    """
    progress = renamed_argument(progress, "progress", on_progress, "on_progress")
    root = Path(folder)
    try:
        entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"the folder {root.name} cannot be opened", hint="Check the path.") from error
    studies, skipped = _entries_of(root, entries)
    found: list[_Found] = []
    series: list[tuple[str, SeriesInfo, str | None]] = []
    for done, entry in enumerate(studies, start=1):
        stacks, described, reasons = _stacks_of(entry, all_series=all_series)
        found += stacks
        series += [(entry.name, info, reason) for info, reason in described]
        skipped += reasons
        if progress is not None:
            progress(done, len(studies))
    if not found:
        raise InputError(
            "the folder holds no study that can be used",
            received="; ".join(reason for _, reason in skipped[:3])
            or "no DICOM folder, NIfTI, NRRD or npz file",
            hint="Give the folder whose entries are the studies.",
        )
    names = _ids([one.path for one in found], ids_from_names)
    cases = [
        Case(
            case_id=name,
            path=one.path,
            series_uid=one.series_uid,
            sex=None if one.info is None else one.info.sex,
        )
        for name, one in zip(names, found, strict=True)
    ]
    case_of = {id(one.info): name for name, one in zip(names, found, strict=True) if one.info is not None}
    return Scan(
        cases=tuple(cases),
        skipped=tuple(skipped),
        series=tuple(
            ScannedSeries(entry=entry, info=info, case_id=case_of.get(id(info)), left_out=reason)
            for entry, info, reason in series
        ),
    )


def _entries_of(root: Path, entries: list[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Entries that may be studies, and those that are none; a folder of loose DICOM files is one itself."""
    skipped: list[tuple[str, str]] = []
    studies: list[Path] = []
    loose: list[Path] = []
    seen: dict[str, str] = {}
    for entry in sorted(entries, key=os.path.islink):
        reason = why_not_followed(entry)
        real = os.path.realpath(entry)
        if reason is None and real in seen:
            reason = f"a link to {seen[real]}, which is read already"
        if reason is not None:
            skipped.append((entry.name, reason))
            continue
        seen[real] = entry.name
        if entry.is_dir() or is_volume_name(entry.name) or entry.name.lower().endswith(_CASE_FILE):
            # The header of a pair stands for both of its files.
            if not entry.name.lower().endswith((".img", ".img.gz")) or entry.is_dir():
                studies.append(entry)
        else:
            loose.append(entry)
    if loose and not studies:
        return [root], skipped
    images, others = _separate(loose)
    if others:
        skipped.append((_names_of(others), "no DICOM, NIfTI, NRRD or npz file"))
    alone, reasons = _loose_images(images)
    return sorted([*studies, *alone]), [*skipped, *reasons]


def _separate(loose: list[Path]) -> tuple[list[Path], list[Path]]:
    images: list[Path] = []
    others: list[Path] = []
    for path in loose:
        try:
            is_image = looks_like_dicom(path) and path.name.upper() != "DICOMDIR"
        except CtaiError:
            is_image = False
        (images if is_image else others).append(path)
    return images, others


def _loose_images(images: list[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Images next to folders: a file that is a series of its own is a case, parts of a series are not."""
    by_series: dict[str, list[Path]] = {}
    for path in images:
        try:
            infos = list_series(path)
        except CtaiError:
            infos = []
        by_series.setdefault(infos[0].uid if infos else path.name, []).append(path)
    alone = [paths[0] for paths in by_series.values() if len(paths) == 1]
    return alone, [
        (
            _names_of(paths),
            f"{len(paths)} images of one series lie next to folders: put them into a folder of their own",
        )
        for paths in by_series.values()
        if len(paths) > 1
    ]


def _names_of(paths: list[Path]) -> str:
    return paths[0].name + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _stacks_of(
    entry: Path, *, all_series: bool
) -> tuple[list[_Found], list[tuple[SeriesInfo, str | None]], list[tuple[str, str]]]:
    """Cases of a folder's entry, its series with why each was left out, and what else was."""
    if entry.is_file() and not _is_dicom(entry):
        return [_Found(path=entry)], [], []
    skipped: list[tuple[str, str]] = []
    try:
        series = list_series(entry, skipped=skipped)
        volumes = [] if entry.is_file() else _volumes_below(entry)
    except CtaiError as error:
        return [], [], [(entry.name, error.problem)]
    notes = [(f"{entry.name}: {name}", reason) for name, reason in skipped]
    if not series:
        none = [] if volumes else [(entry.name, "no DICOM, NIfTI, NRRD or npz file in it")]
        return [_Found(path=path) for path in volumes], [], [*notes, *none]
    if volumes:
        notes.append((f"{entry.name}: {_names_of(volumes)}", "a volume next to DICOM images"))
    usable = [one for one in series if one.usable]
    axial = [one for one in usable if one.plane == "axial" and one.image_count >= _FEWEST_IMAGES]
    chosen = axial or usable
    if not all_series:
        chosen = [one for one in axial if one.proposed] or chosen[:1]
    if not chosen:
        notes.append((entry.name, series[0].refusal or "no usable series"))
    # Alone it needs no name, unless another series would be taken for a rival.
    needs_name = len(usable) > 1
    found = [_Found(path=entry, info=one, series_uid=one.uid if needs_name else None) for one in chosen]
    described = [(one, None if one in chosen else _why_left_out(one, chosen)) for one in series]
    return found, described, notes


def _why_left_out(info: SeriesInfo, chosen: list[SeriesInfo]) -> str:
    if info.refusal is not None:
        return info.refusal
    if info.plane != "axial":
        return f"{info.plane} images"
    if info.image_count < _FEWEST_IMAGES:
        return "a single image next to a stack"
    of_study = next((one.uid for one in chosen if one.study_uid == info.study_uid), None)
    return f"series {of_study} of the study is proposed" if of_study else "another stack is proposed"


def _is_dicom(path: Path) -> bool:
    return not is_volume_name(path.name) and not path.name.lower().endswith(_CASE_FILE)


def _volumes_below(folder: Path) -> list[Path]:
    names = (path for path in files_below(folder, []) if not path.name.lower().endswith((".img", ".img.gz")))
    return [path for path in names if is_volume_name(path.name) or path.name.lower().endswith(_CASE_FILE)]


def _ids(paths: list[Path], from_names: bool) -> list[str]:
    if not from_names:
        width = max(4, len(str(len(paths))))
        return [f"case-{number:0{width}d}" for number in range(1, len(paths) + 1)]
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        base = re.sub(r"[^A-Za-z0-9._-]+", "_", _ENDINGS.sub("", path.name)).lstrip("._-")[:70] or "case"
        if is_device_name(base):
            base = f"case-{base}"
        name, number = base, 1
        while name.lower() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.lower())
        names.append(name)
    return names
