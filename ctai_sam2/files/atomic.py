"""Writing files whole or not at all.

Everything the package writes goes through `atomic_write`: bytes go to a
temporary file in the same folder, reach the disk, and only then take the
place of the old file. A crash, a full disk or a killed process leaves either
the old file or the new one, never half of one.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ctai_sam2.errors import InputError, StorageError
from ctai_sam2.files.folders import reason_of
from ctai_sam2.files.safe_text import to_cell


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that replaces ``path`` only when the block ends without an error.

    Parameters
    ----------
    path : path-like
        Path of the file; missing folders are made.

    Yields
    ------
    binary file
        A temporary file in the same folder.

    Raises
    ------
    StorageError
        If a folder cannot be made or the file cannot be written, flushed or moved. The old file stays.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".writing-", dir=target.parent)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes private files; a result is as readable as any other new file.
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
            temporary = None
        except StorageError:
            raise
        except OSError as error:
            raise _storage_error(target, error) from error
        sync_folder(target.parent)
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


@contextmanager
def write_together(main: str | os.PathLike[str]) -> Iterator[Path]:
    """Open a folder for a file and those that describe it; they take their places when the block ends.

    Nothing is changed where writing one of them fails. At no moment does an old description stand next to a
    new file: old descriptions go first, new ones come last.

    Parameters
    ----------
    main : path-like
        Path of the file; missing folders are made. Its descriptions come to stand next to it.

    Yields
    ------
    Path
        A folder on the same disk, in which each file is written under its own name.

    Raises
    ------
    StorageError
        If a file cannot be written or moved.
    """
    target = Path(main)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(
            prefix=".writing-", dir=target.parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise _storage_error(target, error) from error
    with staging:
        folder = Path(staging.name)
        yield folder
        try:
            others = [path for path in sorted(folder.iterdir()) if path.name != target.name]
            for path in others:
                target.with_name(path.name).unlink(missing_ok=True)
            for path in (folder / target.name, *others):
                os.replace(path, target.with_name(path.name))
        except OSError as error:
            raise _storage_error(target, error) from error
    sync_folder(target.parent)


def require_writable(folder: str | os.PathLike[str]) -> Path:
    """Make a folder for results and see that files can be written to it, before any work is done for it.

    Raises
    ------
    StorageError
        If it cannot be made, is a file, or takes no files.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        raise StorageError(
            f"nothing can be written to the folder {target.name}",
            received=reason_of(error),
            hint="Choose another with --out, or check its permissions.",
        ) from error
    return target


def write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write bytes to a file at once; returns its path.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    with atomic_write(path) as file:
        file.write(content)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write text as UTF-8 with the line ends it has; returns its path.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write a value as indented JSON (UTF-8, no NaN); returns its path.

    Bytes of file names that are no UTF-8 become JSON's own escapes, which every reader undoes.

    Raises
    ------
    InputError
        If the value holds something JSON cannot say.
    StorageError
        If it cannot be written.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the value cannot be written as JSON: {error}") from error
    return write_bytes(path, (text + "\n").encode("utf-8", "backslashreplace"))


def write_table_csv(
    path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> Path:
    """Write rows as comma-separated UTF-8 with a header line; returns the path.

    Parameters
    ----------
    path : path-like
        Where to write.
    rows : sequence of mapping
        One mapping per line. None and NaN become empty cells; a missing key too.
    columns : sequence of str, optional
        Their names and order; by default all keys in order of first appearance.

    Raises
    ------
    InputError
        If a row holds a key that is not among the columns.
    StorageError
        If it cannot be written.

    Notes
    -----
    Text is written by `to_cell`, which spreadsheets do not run as a formula and `from_cell` reads back as
    it was. Numbers stay numbers.
    """
    names = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    unknown = sorted({str(key) for row in rows for key in row} - set(names))
    if unknown:
        raise InputError("a row has cells outside the table's columns", received=", ".join(unknown))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_cell(name) for name in names])
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in names])
    return write_text(path, buffer.getvalue())


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return to_cell(value) if isinstance(value, str) else value


def _umask() -> int:
    # Reading the mask means setting it; done once, before threads can notice.
    return _UMASK


def _read_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


_UMASK = _read_umask()


def sync_folder(folder: Path) -> None:
    """Have the disk keep a folder's new names through a power cut, where its file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_HINTS = {
    errno.ENOSPC: "Free some space or choose another folder; nothing was half-written.",
    errno.EDQUOT: "Your quota is used up: free some space; nothing was half-written.",
    errno.EFBIG: "The file would be larger than allowed here; nothing was half-written.",
    errno.EACCES: "Check the permissions of the folder, or choose another.",
    errno.EPERM: "Check the permissions of the folder, or choose another.",
    errno.EROFS: "The disk is read-only; choose another folder.",
}


def _storage_error(target: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{target.name} could not be written: {reason_of(error)}",
        hint=_HINTS.get(error.errno or 0, "Check that the folder exists and can be written to."),
    )
