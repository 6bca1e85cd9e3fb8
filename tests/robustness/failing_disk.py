"""A disk whose n-th call fails, or at whose n-th change the machine stops.

Calls are Python's audit events on files, and ``fsync`` and ``write``.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

_EVENTS = frozenset({"open", "os.rename", "os.mkdir", "os.chmod", "os.link", "os.listdir", "os.scandir"})
# Removing is left out: what a failed removal leaves behind is looked at by no reader.


_CHANGES = frozenset({*_EVENTS, "os.remove", "os.rmdir", "os.truncate"}) - {"os.listdir", "os.scandir"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class FailingDisk:
    """Counts the calls on files below a folder, and lets one of them fail.

    Parameters
    ----------
    folder : Path
        What is counted is below it.
    fails_at : int, optional
        Which call fails, from 0; None lets all pass.
    number : int
        The ``errno`` of the failure.
    """

    def __init__(self, folder: Path, fails_at: int | None = None, number: int = errno.ENOSPC) -> None:
        self.calls = 0
        self._folder = os.fspath(folder)
        self._fails_at = fails_at
        self._number = number

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an audit event; raise where it is the one."""
        if event in _EVENTS:
            self._hear_paths(arguments)

    def sync(self, descriptor: int) -> None:
        """Count a call of ``fsync``; raise where it is the one."""
        self.count()

    def _hear_paths(self, arguments: tuple[Any, ...]) -> None:
        paths = [os.fsdecode(one) for one in arguments[:2] if isinstance(one, str | bytes | os.PathLike)]
        if any(path.startswith(self._folder) for path in paths):
            self.count()

    def count(self) -> None:
        """Count a call; raise where it is the one."""
        self.calls += 1
        if self.calls - 1 == self._fails_at:
            raise OSError(self._number, os.strerror(self._number))

    def written(self, data: Any) -> Any:
        """Count a call of ``write``; return what of the data reaches the disk."""
        self.count()
        return data


class Stopped(BaseException):
    """The machine has stopped: no handler of the code tried may go on from it."""


class StoppingDisk(FailingDisk):
    """Counts what changes files below a folder; from the n-th change on, nothing reaches the disk any more.

    Handlers that tidy up after an error find that they cannot, as after a power cut. The write at which the
    machine stops is torn: half of its bytes are on the disk.
    """

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an audit event that changes something; raise from the n-th on."""
        if event in _CHANGES and (event != "open" or arguments[2] & _WRITING):
            self._hear_paths(arguments)

    def count(self) -> None:
        """Count a change; raise from the n-th on."""
        self.calls += 1
        if self._fails_at is not None and self.calls > self._fails_at:
            raise Stopped

    def written(self, data: Any) -> Any:
        """Count a call of ``write``; return what of the data reaches the disk."""
        self.calls += 1
        if self._fails_at is None or self.calls <= self._fails_at:
            return data
        if self.calls > self._fails_at + 1:
            raise Stopped
        return bytes(data)[: len(data) // 2]

    @property
    def has_stopped(self) -> bool:
        """Whether the change was reached."""
        return self._fails_at is not None and self.calls > self._fails_at


class SyncedDisk(FailingDisk):
    """Notes files that take another's place before their own content is known to be on the disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.moved_unsynced: list[str] = []
        self._synced: set[int] = set()

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Look at each move of a file."""
        if event == "os.rename":
            source, target = (Path(os.fsdecode(one)) for one in arguments[:2])
            is_ours = os.fspath(target).startswith(self._folder) and source.is_file()
            if is_ours and source.stat().st_ino not in self._synced:
                self.moved_unsynced.append(target.name)

    def sync(self, descriptor: int) -> None:
        """Note that a file has reached the disk."""
        self._synced.add(os.fstat(descriptor).st_ino)


Disk = TypeVar("Disk", bound=FailingDisk)
_current: FailingDisk | None = None
_is_hooked = False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _current is not None:
        _current.hear(event, arguments)


@contextmanager
def failing(disk: Disk) -> Iterator[Disk]:
    """Let a disk fail within the block, in all threads."""
    global _current, _is_hooked
    if not _is_hooked:  # a hook stays as long as the process
        sys.addaudithook(_hear)
        _is_hooked = True
    real_fsync, real_write = os.fsync, os.write

    def fsync(descriptor: Any) -> None:
        disk.sync(descriptor)
        real_fsync(descriptor)

    def write(descriptor: int, data: Any) -> int:
        kept = disk.written(data)
        count = real_write(descriptor, kept)
        if len(kept) < len(data):
            raise Stopped
        return count

    _current = disk
    os.fsync, os.write = fsync, write
    try:
        yield disk
    finally:
        _current = None
        os.fsync, os.write = real_fsync, real_write


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let the system itself refuse what is written behind this size of a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
