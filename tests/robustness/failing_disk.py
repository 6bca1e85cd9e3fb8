"""A disk whose n-th call fails: calls are Python's audit events on files, and ``fsync`` and ``write``."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_EVENTS = frozenset({"open", "os.rename", "os.mkdir", "os.chmod", "os.link", "os.listdir", "os.scandir"})
# Removing is left out: what a failed removal leaves behind is looked at by no reader.


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
        if event not in _EVENTS:
            return
        paths = [os.fsdecode(one) for one in arguments[:2] if isinstance(one, str | bytes | os.PathLike)]
        if any(path.startswith(self._folder) for path in paths):
            self.count()

    def count(self) -> None:
        """Count a call; raise where it is the one."""
        self.calls += 1
        if self.calls - 1 == self._fails_at:
            raise OSError(self._number, os.strerror(self._number))


_current: FailingDisk | None = None
_is_hooked = False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _current is not None:
        _current.hear(event, arguments)


@contextmanager
def failing(disk: FailingDisk) -> Iterator[FailingDisk]:
    """Let a disk fail within the block, in all threads."""
    global _current, _is_hooked
    if not _is_hooked:  # a hook stays as long as the process
        sys.addaudithook(_hear)
        _is_hooked = True
    real_fsync, real_write = os.fsync, os.write

    def fsync(descriptor: Any) -> None:
        disk.count()
        real_fsync(descriptor)

    def write(descriptor: int, data: Any) -> int:
        disk.count()
        return real_write(descriptor, data)

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
