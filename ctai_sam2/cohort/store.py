"""A cohort's folder: one record per case, written last and at once, and what lies beside it.

::

    out/
      records/<case>.json        row, keys and quality control; with it a case is done
      answers/<case>.zip         mid-L3 slice and the model's answers: measured again without inference
      masks/<case>.nii.gz        label map of the slice; <case>_l3.nii.gz on the sagittal one
      pictures/<case>.jpg        overlay for the report
      corrections/<case>.json    what a reader changed, with <case>.zip
      table.csv, table.parquet, summary.json, report.html

A killed run leaves whole files only; those without a record are made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctai_sam2.errors import StorageError
from ctai_sam2.io import write_json
from ctai_sam2.journal.lock import lock_file

RECORD_VERSION = 1
"""Part of every key: grows when a record's content is made otherwise."""

_FOLDERS = ("records", "answers", "masks", "pictures", "corrections")
_LEFT_BEHIND = ".writing-"


@dataclass(frozen=True)
class Store:
    """Where the files of a cohort lie.

    Parameters
    ----------
    folder : Path
        The cohort's folder.
    """

    folder: Path

    def record_path(self, case_id: str) -> Path:
        """Return the place of a case's record."""
        return self.folder / "records" / f"{case_id}.json"

    def answers_path(self, case_id: str) -> Path:
        """Return the place of a case's slice and answers."""
        return self.folder / "answers" / f"{case_id}.zip"

    def mask_path(self, case_id: str) -> Path:
        """Return the place of a case's label map."""
        return self.folder / "masks" / f"{case_id}.nii.gz"

    def l3_path(self, case_id: str) -> Path:
        """Return the place of a case's mask of L3."""
        return self.folder / "masks" / f"{case_id}_l3.nii.gz"

    def picture_path(self, case_id: str) -> Path:
        """Return the place of a case's overlay."""
        return self.folder / "pictures" / f"{case_id}.jpg"

    def correction_path(self, case_id: str) -> Path:
        """Return the place of a case's corrections."""
        return self.folder / "corrections" / f"{case_id}.json"

    def prepare(self) -> None:
        """Make the folders, and clear away what killed writers left half-written; hold the lock.

        Raises
        ------
        StorageError
            If the folder cannot be written to.
        """
        try:
            for name in _FOLDERS:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            for place in (self.folder, *(self.folder / name for name in _FOLDERS)):
                with os.scandir(place) as entries:
                    for entry in entries:
                        if entry.name.startswith(_LEFT_BEHIND):
                            with suppress(OSError):
                                os.unlink(entry.path)
        except OSError as error:
            raise StorageError(
                f"the results folder {self.folder.name} cannot be used",
                received=os.strerror(error.errno).lower() if error.errno else type(error).__name__,
                hint="Choose another, or check its permissions.",
            ) from error

    def read_record(self, case_id: str) -> dict[str, Any] | None:
        """Read a case's record; None where there is none, or it is damaged or of another version."""
        return _read_json(self.record_path(case_id))

    def write_record(self, case_id: str, record: Mapping[str, Any]) -> None:
        """Write a case's record: from now on the case is done.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        write_json(self.record_path(case_id), {"version": RECORD_VERSION, **record})

    def drop_results(self, case_id: str) -> None:
        """Take away masks and picture of a case that has no row any more; answers and corrections stay."""
        for path in (self.mask_path(case_id), self.l3_path(case_id), self.picture_path(case_id)):
            with suppress(OSError):
                path.unlink()

    def read_correction(self, case_id: str) -> dict[str, Any] | None:
        """Read what was last said of a case by a reader; None where nothing was."""
        return _read_json(self.correction_path(case_id))

    def corrected_ids(self) -> frozenset[str]:
        """Cases that a reader has looked at."""
        try:
            names = os.listdir(self.folder / "corrections")
        except OSError:
            return frozenset()
        return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one writer; the lock goes with the process that holds it.

        Raises
        ------
        StorageError
            If another run holds it, or the folder cannot be written to.
        """
        descriptor = self.try_lock()
        if descriptor is None:
            raise StorageError(
                f"another run is writing to the folder {self.folder.name}",
                hint="Wait for it, or choose another folder.",
            )
        try:
            yield
        finally:
            os.close(descriptor)

    def try_lock(self) -> int | None:
        """Lock the folder; a descriptor whose closing frees it, or None where another run holds it.

        Raises
        ------
        StorageError
            If the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return lock_file(self.folder / ".lock")
        except OSError as error:
            raise StorageError(
                f"nothing can be written to the folder {self.folder.name}",
                received=os.strerror(error.errno).lower() if error.errno else type(error).__name__,
                hint="Choose another with --out, or check its permissions.",
            ) from error


def stamp_of(path: Path) -> str:
    """Digest of the names, sizes and times of change of a file, or of all files below a folder.

    Cheap: nothing is opened. While it stays the same, content is not read again.
    """
    digest = hashlib.sha256()
    if path.is_file():
        state = path.stat()
        digest.update(f"{state.st_size} {state.st_mtime_ns}".encode())
        return digest.hexdigest()[:32]
    for parent, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            with suppress(OSError):
                state = os.stat(os.path.join(parent, name))
                relative = os.path.relpath(os.path.join(parent, name), path)
                # Names of files may hold bytes that are no UTF-8.
                digest.update(os.fsencode(f"{relative} {state.st_size} {state.st_mtime_ns}\n"))
    return digest.hexdigest()[:32]


def key_of(value: Any) -> str:
    """Digest of a plain value."""
    text = json.dumps([RECORD_VERSION, value], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and value.get("version") == RECORD_VERSION else None
