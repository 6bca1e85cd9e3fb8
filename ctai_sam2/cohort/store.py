"""A cohort's folder: one record per case, written last and at once, and the files next to it.

::

    out/
      records/<case>.json        row, keys and quality control; with it a case is done
      PREDICTIONS_FOLDER/<case>.zip  mid-L3 slice and the model's predictions, for measuring again
      masks/<case>.nii.gz        label map of the slice; <case>_l3.nii.gz on the sagittal one
      pictures/<case>.jpg        overlay for the report
      volumes/<case>/            masks and tables of a range of levels, where one is wanted
      corrections/<case>.json    what a reader changed, with <case>.zip
      table.csv, table.parquet, summary.json, report.html
      index.json                 keys of the records: a finished cohort is planned without opening each

A killed run leaves whole files only; those without a record are made again. A record or predictions that
are damaged are moved aside (``<name>.damaged-<digest>``), reported, and made again; corrections, which
cannot be made again, are left where they are, and the case fails until they are restored.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctai_sam2.cohort.case_record import CaseRecord, read_case_record, write_case_record
from ctai_sam2.errors import DamagedFile, StorageError
from ctai_sam2.io import write_text
from ctai_sam2.io.json_text import parse_json
from ctai_sam2.journal.lock import lock_file

_KEY_VERSION = 1
"""Part of every digest: grows when all predictions are to be made again."""

PREDICTIONS_FOLDER = "answers"
"""Folder of the stored predictions, under the name that earlier versions gave it."""

_FOLDERS = ("records", PREDICTIONS_FOLDER, "masks", "pictures", "corrections")
_LEFT_BEHIND = ".writing-"
_ASIDE = ".damaged-"
_OWNER = ".owner"
_INDEX = "index.json"
_ENTRY_LENGTH = 5


@dataclass(frozen=True, kw_only=True)
class RecordKey:
    """What planning needs of a record: its key, whether it has numbers, and whether it is to be retried."""

    key: str
    is_done: bool
    retry: bool


@dataclass(frozen=True)
class CohortStore:
    """Where the files of a cohort are.

    Parameters
    ----------
    folder : Path
        The cohort's folder.
    """

    folder: Path

    def record_path(self, case_id: str) -> Path:
        """Return the place of a case's record."""
        return self.folder / "records" / f"{case_id}.json"

    def predictions_path(self, case_id: str) -> Path:
        """Return the place of a case's slice and predictions."""
        return self.folder / PREDICTIONS_FOLDER / f"{case_id}.zip"

    def mask_path(self, case_id: str) -> Path:
        """Return the place of a case's label map."""
        return self.folder / "masks" / f"{case_id}.nii.gz"

    def l3_path(self, case_id: str) -> Path:
        """Return the place of a case's mask of L3."""
        return self.folder / "masks" / f"{case_id}_l3.nii.gz"

    def picture_path(self, case_id: str) -> Path:
        """Return the place of a case's overlay."""
        return self.folder / "pictures" / f"{case_id}.jpg"

    def l3_picture_path(self, case_id: str) -> Path:
        """Return the place of a case's sagittal overlay."""
        return self.folder / "pictures" / f"{case_id}_l3.jpg"

    def volume_folder(self, case_id: str) -> Path:
        """Return the place of a case's range of levels."""
        return self.folder / "volumes" / case_id

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

    def read_record(self, case_id: str) -> CaseRecord | None:
        """Read a case's record; None where there is none.

        Raises
        ------
        DamagedFile
            If it is there and cannot be read, or is another case's.
        StorageError
            If a newer version wrote it.
        """
        record = read_case_record(self.record_path(case_id))
        if record is not None and record.case_id != case_id:
            raise DamagedFile(
                f"the record {case_id}.json is that of another case", hint="Restore it from a copy."
            )
        return record

    def write_record(self, record: CaseRecord) -> None:
        """Write a case's record: from now on the case is done.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        write_case_record(self.record_path(record.case_id), record)

    def record_key(self, case_id: str, index: Mapping[str, Sequence[Any]]) -> RecordKey | None:
        """Return what planning needs of a record: from the index where it still holds, else from the record.

        Raises
        ------
        DamagedFile, StorageError
            As in `read_record`.
        """
        entry = index.get(case_id)
        if entry is not None:
            try:
                state = os.stat(self.record_path(case_id))
            except OSError:
                return None
            if (state.st_size, state.st_mtime_ns) == tuple(entry[:2]):
                return RecordKey(key=entry[2], is_done=entry[3], retry=entry[4])
        record = self.read_record(case_id)
        return (
            None if record is None else RecordKey(key=record.key, is_done=record.is_done, retry=record.retry)
        )

    def read_index(self) -> dict[str, list[Any]]:
        """Read the index; empty where there is none, or one that cannot be read: it only saves time."""
        try:
            entries = parse_json((self.folder / _INDEX).read_bytes())["records"]
            known = {str(name): list(entry) for name, entry in entries.items() if len(entry) == _ENTRY_LENGTH}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        return known

    def write_index(self, records: Iterable[CaseRecord | None]) -> None:
        """Write the index of records that were just read.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        entries = {}
        for record in records:
            if record is None:
                continue
            with suppress(OSError):
                state = os.stat(self.record_path(record.case_id))
                entries[record.case_id] = [
                    *(state.st_size, state.st_mtime_ns),
                    *(record.key, record.is_done, record.retry),
                ]
        text = json.dumps({"version": 1, "records": entries}, separators=(",", ":"))
        write_text(self.folder / _INDEX, text)

    def set_aside(self, path: Path) -> None:
        """Move a damaged file out of the way, so that it can be made again and is still there to look at.

        Raises
        ------
        StorageError
            If it cannot be moved.
        """
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        except OSError:
            digest = "unreadable"
        try:
            path.rename(path.with_name(f"{path.name}{_ASIDE}{digest}"))
        except OSError as error:
            raise StorageError(
                f"the damaged file {path.name} cannot be moved aside",
                received=type(error).__name__,
                hint="Delete it, or check the permissions of the folder.",
            ) from error

    def files_set_aside(self) -> list[str]:
        """Names of damaged files that were moved aside and are still there, sorted."""
        names = [name for folder in _FOLDERS for name in names_in(self.folder / folder) if _ASIDE in name]
        return sorted(names)

    def drop_results(self, case_id: str) -> None:
        """Delete masks and picture of a case that has no row any more; predictions and corrections stay."""
        for path in (
            self.mask_path(case_id),
            self.l3_path(case_id),
            self.picture_path(case_id),
            self.l3_picture_path(case_id),
        ):
            with suppress(OSError):
                path.unlink()

    def recorded_ids(self) -> frozenset[str]:
        """Cases that have a record."""
        names = names_in(self.folder / "records")
        return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def corrected_ids(self) -> frozenset[str]:
        """Cases that a reader has looked at."""
        names = names_in(self.folder / "corrections")
        return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def take_ownership(self, run_id: str) -> None:
        """Sign the folder with a run's identifier; hold the lock.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        write_text(self.folder / _OWNER, run_id)

    def require_ownership(self, run_id: str) -> None:
        """Check that no other run has signed the folder since: on some network disks locks do not hold.

        Raises
        ------
        StorageError
            If another run has.
        """
        try:
            owner = (self.folder / _OWNER).read_text(encoding="utf-8")
        except OSError:
            owner = ""
        if owner != run_id:
            raise StorageError(
                f"another run has taken over the folder {self.folder.name}",
                hint="What was done is stored. Let one run at a time write to a folder.",
            )

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
                # Names need not be UTF-8.
                relative = os.fsencode(os.path.relpath(os.path.join(parent, name), path))
                digest.update(relative + f" {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def key_of(value: Any) -> str:
    """Digest of a plain value."""
    text = json.dumps([_KEY_VERSION, value], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def names_in(folder: Path) -> frozenset[str]:
    """Names in a folder; none where there is no such folder."""
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
