"""One writer at a time, known to the operating system, so that a killed writer leaves no lock behind."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


def lock_file(path: Path) -> int | None:
    """Lock a file next to a journal; return its descriptor, or None where another process holds it.

    On some network file systems a lock does not hold: what is written must be verified anyway.
    The file itself stays: it carries nothing, and removing it would let two writers hold two locks.

    Raises
    ------
    OSError
        If the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _TAKEN:
            return None
        raise
    return descriptor
