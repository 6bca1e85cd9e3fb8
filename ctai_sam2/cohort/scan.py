"""Finding the studies below a folder and listing them as cases."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctai_sam2.cohort.manifest import Case
from ctai_sam2.errors import CtaiError, InputError
from ctai_sam2.io import SeriesInfo, list_series
from ctai_sam2.io.safe_text import is_device_name

_VOLUMES = (".nii", ".nii.gz", ".npz")
_FEWEST_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a folder holds.

    Parameters
    ----------
    cases : tuple of Case
        One for each usable axial stack, NIfTI file or ``.npz`` slice.
    skipped : tuple of (str, str)
        Entry of the folder, and why nothing in it can be used.
    """

    cases: tuple[Case, ...]
    skipped: tuple[tuple[str, str], ...] = ()


def scan_cases(
    folder: str | os.PathLike[str],
    *,
    ids_from_names: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """List the studies of a folder, one per entry: a DICOM folder, a NIfTI file or an ``.npz`` slice.

    Of a study with several axial stacks each becomes a case with its ``series_uid``: delete the rows you do
    not want. A folder that holds DICOM files itself is one study.

    Parameters
    ----------
    folder : path-like
        Where to look.
    ids_from_names : bool
        Name cases after their folders and files. Otherwise they are numbered, because names of folders
        are often names of patients.
    on_progress : callable, optional
        Called with (entries looked at, entries in all).

    Raises
    ------
    InputError
        If there is no such folder, or nothing in it can be used.
    """
    root = Path(folder)
    try:
        entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"the folder {root.name} cannot be opened", hint="Check the path.") from error
    loose = [e for e in entries if e.is_file() and not e.name.lower().endswith(_VOLUMES)]
    studies = [e for e in entries if e.is_dir() or e.name.lower().endswith(_VOLUMES)]
    if loose and not any(entry.is_dir() for entry in entries) and not studies:
        studies = [root]
    found: list[tuple[Path, str | None]] = []
    skipped: list[tuple[str, str]] = []
    for done, entry in enumerate(studies, start=1):
        stacks, reason = _stacks_of(entry)
        found += stacks
        if reason is not None:
            skipped.append((entry.name, reason))
        if on_progress is not None:
            on_progress(done, len(studies))
    if not found:
        raise InputError(
            "the folder holds no study that can be used",
            received="; ".join(reason for _, reason in skipped[:3]) or "no DICOM folder, NIfTI or npz file",
            hint="Give the folder whose entries are the studies.",
        )
    names = _ids([path for path, _ in found], ids_from_names)
    cases = [
        Case(case_id=name, path=path, series_uid=uid) for name, (path, uid) in zip(names, found, strict=True)
    ]
    return Scan(cases=tuple(cases), skipped=tuple(skipped))


def _stacks_of(entry: Path) -> tuple[list[tuple[Path, str | None]], str | None]:
    """Return the stacks of a folder's entry, or why there is none."""
    if entry.is_file():
        return [(entry, None)], None
    try:
        series = list_series(entry)
    except CtaiError as error:
        return [], error.problem
    if not series:
        volumes = sorted(p for p in entry.rglob("*") if p.name.lower().endswith(_VOLUMES) and p.is_file())
        return [(p, None) for p in volumes], None if volumes else "no DICOM, NIfTI or npz file in it"
    usable = [one for one in series if one.usable]
    axial = [one for one in usable if one.plane == "axial" and one.image_count >= _FEWEST_IMAGES]
    chosen: list[SeriesInfo] = axial or usable
    if not chosen:
        return [], series[0].refusal or "no usable series"
    if len(chosen) == 1:
        # Alone it needs no name, unless another series would be taken for a rival.
        return [(entry, None if len(usable) == 1 else chosen[0].uid)], None
    return [(entry, one.uid) for one in chosen], None


def _ids(paths: list[Path], from_names: bool) -> list[str]:
    if not from_names:
        width = max(4, len(str(len(paths))))
        return [f"case-{number:0{width}d}" for number in range(1, len(paths) + 1)]
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        stem = re.sub(r"\.(nii\.gz|nii|npz)$", "", path.name, flags=re.IGNORECASE)
        base = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip("._-")[:70] or "case"
        if is_device_name(base):
            base = f"case-{base}"
        name, number = base, 1
        while name.lower() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.lower())
        names.append(name)
    return names
