"""An annotation journal: append-only, it survives kill -9, a full disk and a lock that does not hold."""

from __future__ import annotations

import copy
import errno
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from ctai_sam2.errors import RecordError, StorageError
from ctai_sam2.files.atomic import atomic_write, sync_folder
from ctai_sam2.files.folders import reason_of
from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.journal.lines import CLOSED, FIRST_CHECK, encode_line, make_header, read_lines
from ctai_sam2.journal.lock import lock_file
from ctai_sam2.types import CTSlice, CTVolume
from ctai_sam2.types.context import ClosedByWith

_BINARY = getattr(os, "O_BINARY", 0)
_Lines: TypeAlias = list[tuple[dict[str, Any], str, int]]


class AnnotationJournal(ClosedByWith):
    """Events of one slice or volume, on disk as soon as `append` returns.

    Open one with `AnnotationJournal.open`. May be used from several threads. Where an event
    cannot be written it stays in memory, in order, and the next `append`, `flush` or
    `compact` writes it too.

    A lock keeps a second writer out. Where it does not hold, as on some network file systems, nothing that
    either writer confirmed is lost: both only append, an event counts as saved once it was read back from
    its place, and a writer whose file grew by another one's hand writes no more.

    Parameters
    ----------
    path : Path
        The file, JSON lines.
    slice_sha256 : str
        What it belongs to; see `fingerprint`.
    """

    def __init__(self, path: Path, slice_sha256: str) -> None:
        self.path = path
        self._slice = slice_sha256
        self._mutex = threading.RLock()
        self._lock: int | None = None
        self._file: int | None = None
        self._closed = False
        self._count, self._check, self._size = 0, FIRST_CHECK, 0
        """Lines that can be trusted, the last one's digest, and the file's size when it was last seen."""
        self._pending: list[dict[str, Any]] = []

    @classmethod
    def open(cls, path: str | os.PathLike[str], source: CTSlice | CTVolume) -> AnnotationJournal:
        """Open a journal, or prepare a new one; a torn last line is left out.

        A folder that cannot be written to is no error yet: what the journal holds is read, and `append` says
        why it cannot save.

        Parameters
        ----------
        path : path-like
            The file, such as ``case7.record.jsonl``; it need not exist. A lock file is kept next to it.
        source : CTSlice or CTVolume
            What it belongs to.

        Raises
        ------
        RecordError
            If it is open elsewhere, belongs to another slice, is damaged before its last line, or is none.
        StorageError
            If it exists and cannot be read.
        """
        journal = cls(Path(path), fingerprint(source))
        try:
            # In a folder that cannot be written to there is no other writer either.
            with suppress(OSError):
                journal._take_lock()
            lines, _ = journal._trusted_lines()
            journal._remember(lines)
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def peek(cls, path: str | os.PathLike[str], source: CTSlice | CTVolume) -> list[dict[str, Any]]:
        """Read the events of a journal that another editor may have open; nothing is locked or written.

        Raises
        ------
        RecordError
            If it belongs to another slice, is damaged before its last line, or is none.
        StorageError
            If it exists and cannot be read.
        """
        journal = cls(Path(path), fingerprint(source))
        return [event for event, _, _ in journal._trusted_lines()[0]][1:]

    @property
    def unsaved(self) -> int:
        """How many events wait for being written."""
        return len(self._pending)

    def append(self, event: Mapping[str, Any]) -> None:
        """Keep an event: plain values only. On return it, and all before, have reached the disk.

        Raises
        ------
        InputError
            If the event cannot be written as JSON; it is then not kept.
        StorageError
            If the disk is full or cannot be written to; the event waits in memory.
        RecordError
            If the journal is closed or another writer changed it; the event waits in memory.
        """
        with self._mutex:
            encode_line(0, event, FIRST_CHECK)
            self._pending.append(copy.deepcopy(dict(event)))
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises
        ------
        StorageError, RecordError
            As for `append`.
        """
        with self._mutex:
            if not self._pending:
                return
            try:
                self._write_pending()
            except OSError as error:
                self._close_file()
                raise _storage_error(self.path, error) from error

    def replay(self) -> list[dict[str, Any]]:
        """Every event in order, those that wait in memory too.

        Raises
        ------
        RecordError, StorageError
            As for `open`.
        """
        with self._mutex:
            lines, _ = self._trusted_lines()
            waiting = self._waiting()[self._already_written(lines) :] if lines else list(self._pending)
            return [event for event, _, _ in lines][1:] + copy.deepcopy(waiting)

    def compact(self, snapshot: Mapping[str, Any]) -> None:
        """Put one event ``{"type": "snapshot", "state": snapshot}`` in place of all, atomically.

        A crash leaves either the old journal or the new one. What waited in memory is taken to be part of
        the snapshot.

        Raises
        ------
        StorageError
            If it cannot be written; the old journal and what waits are kept.
        RecordError
            If the journal is closed, open elsewhere, damaged, or another writer changed it.
        """
        with self._mutex:
            header, check = encode_line(0, make_header(self._slice), FIRST_CHECK)
            line, check = encode_line(1, {"type": "snapshot", "state": snapshot}, check)
            self._require_open()
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._take_lock()
            except OSError as error:
                raise _storage_error(self.path, error) from error
            replaced = self._open_replaced()
            try:
                known = 0
                if replaced is not None:
                    lines, tail = self._trusted_lines()
                    self._already_written(lines)
                    known = (lines[-1][2] if lines else 0) + len(tail)
                self._close_file()
                with atomic_write(self.path) as file:
                    file.write(header + line)
                if replaced is not None:
                    self._keep_what_came_between(replaced, known)
            finally:
                if replaced is not None:
                    os.close(replaced)
            self._count, self._check, self._size = 2, check, len(header) + len(line)
            self._pending.clear()

    def _open_replaced(self) -> int | None:
        """Open the journal that is about to be replaced; None where there is none."""
        try:
            return os.open(self.path, os.O_RDONLY | _BINARY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _storage_error(self.path, error, verb="read") from error

    def _keep_what_came_between(self, replaced: int, known: int) -> None:
        """Put aside a journal to which another writer added after it was read, where the lock does not hold.

        Raises
        ------
        RecordError
            If that is so.
        StorageError
            If it cannot be put aside.
        """
        size = os.fstat(replaced).st_size
        if size <= known:
            return
        aside = self.path.with_name(f"{self.path.name}.other-{os.urandom(4).hex()}")
        with atomic_write(aside) as file, os.fdopen(os.dup(replaced), "rb") as old:
            old.seek(0)
            file.write(old.read())
        raise RecordError(
            "the annotation journal was changed by another writer at the same time",
            received=self.path.name,
            hint=f"What the other wrote is kept in {aside.name}. Close the other editor.",
        )

    def close(self) -> None:
        """Release file and lock; may be called twice. What still waits in memory is lost: `flush` first."""
        with self._mutex:
            self._close_file()
            self._closed = True
            if self._lock is not None:
                with suppress(OSError):
                    os.close(self._lock)
                self._lock = None

    # Reading ---------------------------------------------------------------------------------

    def _trusted_lines(self) -> tuple[_Lines, bytes]:
        """Read the lines of the file and what follows the last one that can be trusted."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return [], b""
        except OSError as error:
            raise _storage_error(self.path, error, verb="read") from error
        lines = list(read_lines(content))
        expected = make_header(self._slice)
        if not lines:
            # Killed while the first line was written, perhaps several times, or not ours at all?
            if not _is_start_of_header(content, expected):
                raise RecordError(
                    "the file is no annotation journal of this slice",
                    received=self.path.name,
                    hint="Choose another file name; nothing was changed.",
                )
            return [], content
        header = lines[0][0]
        if header.get("format") != expected["format"] or header.get("version") != expected["version"]:
            raise RecordError(
                "the annotation journal is of another version",
                received=str(header.get("version"))[:20],
                hint=f"This package reads version {expected['version']}.",
            )
        if header.get("slice_sha256") != self._slice:
            raise RecordError(
                "the annotation journal belongs to another slice",
                received=self.path.name,
                hint="Open it with the slice it was made on, or choose another file name.",
            )
        return lines, content[lines[-1][2] :]

    def _remember(self, lines: _Lines) -> None:
        self._count = len(lines)
        _, self._check, self._size = lines[-1] if lines else ({}, FIRST_CHECK, 0)

    def _waiting(self) -> list[dict[str, Any]]:
        return [make_header(self._slice), *self._pending] if self._count == 0 else list(self._pending)

    def _already_written(self, lines: _Lines) -> int:
        """Count the waiting events that a write reported as failed left on disk whole after all.

        Raises
        ------
        RecordError
            If the lines are others than this writer knows.
        """
        waiting, extra = self._waiting(), len(lines) - self._count
        is_known = extra >= 0 and (self._count == 0 or lines[self._count - 1][1] == self._check)
        if is_known and extra <= len(waiting):
            found = [event for event, _, _ in lines[self._count :]]
            if all(_encoded(one) == _encoded(other) for one, other in zip(found, waiting, strict=False)):
                return extra
        raise RecordError(
            "the annotation journal was moved, deleted or changed by another writer",
            received=self.path.name,
            hint="Save, then open the case again; what the file holds is kept.",
        )

    # Writing ---------------------------------------------------------------------------------

    def _write_pending(self) -> None:
        self._require_open()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        if self._file is not None and not self._is_same_file(self._file):
            self._close_file()
        skip, start, descriptor = 0, b"", self._file
        if descriptor is None:
            descriptor, tail = self._open_file()
            # A torn end is closed, so that it never becomes a line; the next line says how much to skip.
            start = CLOSED if tail and not tail.endswith(b"\n") else b""
            skip = len(tail) + len(start)
        if not self._pending:
            return
        content, count, check = start, self._count, self._check
        for event in self._waiting():
            line, check = encode_line(count, event, check, skip_bytes=skip)
            content, count, skip = content + line, count + 1, 0
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
        self._require_in_place(content)
        self._count, self._check, self._size = count, check, self._size + len(content)
        self._pending.clear()

    def _open_file(self) -> tuple[int, bytes]:
        """Open to append, if the file is still the known one; return it and what follows the last line."""
        is_new = not self.path.exists()
        lines, tail = self._trusted_lines()
        written = self._already_written(lines)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _BINARY, 0o666)
        try:
            if is_new:
                sync_folder(self.path.parent)
            if written:
                os.fsync(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._file = descriptor
        if written:
            headers = int(self._count == 0)
            del self._pending[: written - headers]
            self._remember(lines)
        self._size = (lines[-1][2] if lines else 0) + len(tail)
        return descriptor, tail

    def _require_in_place(self, content: bytes) -> None:
        """Read back what was written: with a second writer at work it may lie elsewhere, or not at all."""
        with self.path.open("rb") as file:
            file.seek(self._size)
            found = file.read(len(content))
        if found != content:
            self._close_file()
            raise RecordError(
                "the annotation journal was changed by another writer at the same time",
                received=self.path.name,
                hint="Close the other editor. Save, then open the case again.",
            )

    def _is_same_file(self, descriptor: int) -> bool:
        try:
            found, ours = os.stat(self.path), os.fstat(descriptor)
        except FileNotFoundError:
            return False
        return (found.st_ino, found.st_dev) == (ours.st_ino, ours.st_dev) and ours.st_size == self._size

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        descriptor = lock_file(self.path.with_name(f".{self.path.name}.lock"))
        if descriptor is None:
            raise RecordError(
                "the annotation journal is open in another editor",
                received=self.path.name,
                hint="Close the other editor or its notebook's kernel, or choose another file name.",
            )
        self._lock = descriptor

    def _require_open(self) -> None:
        if self._closed:
            raise RecordError("the annotation journal is closed", received=self.path.name)

    def _close_file(self) -> None:
        descriptor, self._file = self._file, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)


def _is_start_of_header(content: bytes, header: Mapping[str, Any]) -> bool:
    begin = 0
    for piece in content.split(CLOSED):
        whole = encode_line(0, header, FIRST_CHECK, skip_bytes=begin)[0]
        # Of the mark that closes a torn line the first half may have been all that was written.
        if not whole.startswith(piece.rstrip(CLOSED[:-1])):
            return False
        begin += len(piece) + len(CLOSED)
    return True


def _encoded(event: Mapping[str, Any]) -> bytes:
    return encode_line(0, event, FIRST_CHECK)[0]


_HINTS = {
    errno.ENOSPC: "Free some space; everything is kept in memory and the next edit tries again.",
    errno.EDQUOT: "Your quota is used up; free some space. The next edit tries again.",
    errno.EACCES: "Check the permissions of the folder; the next edit tries again.",
    errno.EROFS: "The disk is read-only; choose another folder.",
}


def _storage_error(path: Path, error: OSError, *, verb: str = "written") -> StorageError:
    return StorageError(
        f"{path.name} could not be {verb}: {reason_of(error)}",
        hint=_HINTS.get(error.errno or 0, "Check that the folder exists and can be reached."),
    )
