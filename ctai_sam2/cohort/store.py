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
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ctai_sam2.cohort.case_record import CaseRecord, read_case_record, write_case_record
from ctai_sam2.errors import DamagedFile, StorageError
from ctai_sam2.files.atomic import write_text
from ctai_sam2.files.folders import reason_of
from ctai_sam2.files.json_text import parse_json
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

FileState: TypeAlias = tuple[int, int]
"""Size in bytes and time of change in ns: while they stay the same, content is not read again."""


class IndexEntry(NamedTuple):
    """What planning needs of a record: its key, whether it has numbers, and whether it is to be retried.

    ``size`` and ``changed_ns`` are those of its file; without them the entry holds nothing.
    """

    size: int
    changed_ns: int
    key: str
    is_done: bool
    retry: bool

    @property
    def state(self) -> FileState:
        """State of the record's file when it was read."""
        return self.size, self.changed_ns


@dataclass(frozen=True, kw_only=True)
class RecordIndex:
    """The records of a folder as they were last read. It only saves time: records are what counts.

    Parameters
    ----------
    records : mapping of str to IndexEntry
        By case.
    finished : mapping or None
        What the last run found where nothing is left to do; see `ctai_sam2.cohort.finished`.
    """

    records: Mapping[str, IndexEntry] = field(default_factory=dict)
    finished: Mapping[str, Any] | None = None


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
                received=reason_of(error),
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

    def record_states(self) -> dict[str, FileState]:
        """Return the state of every record's file, by case."""
        states = {}
        with suppress(OSError), os.scandir(self.folder / "records") as entries:
            for entry in entries:
                if not entry.name.endswith(".json"):
                    continue
                try:
                    state = entry.stat()
                except OSError:  # it has just been moved
                    continue
                states[entry.name[: -len(".json")]] = (state.st_size, state.st_mtime_ns)
        return states

    def index_entry(
        self, case_id: str, index: RecordIndex, states: Mapping[str, FileState]
    ) -> IndexEntry | None:
        """Return what planning needs of a record: from the index where it still holds, else from the record.

        Parameters
        ----------
        case_id : str
            Name of the case.
        index : RecordIndex
            See `read_index`.
        states : mapping of str to FileState
            See `record_states`.

        Raises
        ------
        DamagedFile, StorageError
            As in `read_record`.
        """
        entry, state = index.records.get(case_id), states.get(case_id)
        if entry is not None and entry.state == state:
            return entry
        record = self.read_record(case_id) if state is not None else None
        if record is None or state is None:
            return None
        return IndexEntry(*state, record.key, record.is_done, record.retry)

    @property
    def has_index(self) -> bool:
        """Whether there is an index."""
        return (self.folder / _INDEX).is_file()

    def read_index(self) -> RecordIndex:
        """Read the index; empty where there is none, or one that cannot be read: it only saves time."""
        try:
            content = parse_json((self.folder / _INDEX).read_bytes())
            records = {name: IndexEntry(*entry) for name, entry in content["records"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return RecordIndex()
        finished = content.get("finished")
        return RecordIndex(records=records, finished=finished if isinstance(finished, dict) else None)

    def write_index(self, index: RecordIndex) -> None:
        """Write the index of records that were just read.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        content = {"version": 1, "records": index.records, "finished": index.finished}
        write_text(self.folder / _INDEX, json.dumps(content, separators=(",", ":")))

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
                received=reason_of(error),
                hint="Choose another with --out, or check its permissions.",
            ) from error


def stamp_of(path: str | os.PathLike[str]) -> str:
    """Digest of the names, sizes and times of change of a file, or of all files below a folder.

    Cheap: nothing is opened. While it stays the same, content is not read again.
    """
    digest = hashlib.sha256()
    state = state_of(path)
    if state is not None:
        digest.update(b"%d %d" % state)
    else:
        _add_folder(digest, os.fsencode(path), b"")
    return digest.hexdigest()[:32]


def state_of(path: str | os.PathLike[str]) -> FileState | None:
    """Return the state of a file; None where there is no such file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _add_folder(digest: hashlib._Hash, folder: bytes, prefix: bytes) -> None:
    """Add the states of all files below a folder, in the order of their names; hidden ones are left out."""
    try:
        with os.scandir(folder) as listed:
            # As bytes: names need not be UTF-8.
            entries = sorted((one for one in listed if not one.name.startswith(b".")), key=_name_of)
    except OSError:
        return
    folders = []
    for entry in entries:
        with suppress(OSError):
            if entry.is_dir():
                folders += [] if entry.is_symlink() else [entry]
                continue
            state = entry.stat()
            digest.update(prefix + entry.name + b" %d %d\n" % (state.st_size, state.st_mtime_ns))
    for entry in folders:
        _add_folder(digest, entry.path, prefix + entry.name + os.sep.encode())


def _name_of(entry: os.DirEntry[bytes]) -> str:
    return os.fsdecode(entry.name)


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
