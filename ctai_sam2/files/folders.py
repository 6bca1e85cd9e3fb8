"""Files to read: one that is named, or all below a folder, and what could not be opened or followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ctai_sam2.errors import InputError


def files_below(folder: Path, skipped: list[tuple[str, str]]) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders in order of their names; hidden ones are left out.

    Links are followed, each folder once. A link to nothing, a link to a folder that contains this one and a
    folder that cannot be opened are put down in ``skipped``.

    Parameters
    ----------
    folder : Path
        Where to look.
    skipped : list of (str, str)
        Gets a name and a reason for each entry that could not be followed.

    Raises
    ------
    InputError
        If the folder itself cannot be listed.
    """
    try:
        os.listdir(folder)
    except OSError as error:
        raise InputError(
            f"the folder {folder.name} cannot be opened: {reason_of(error)}",
            hint="Check the path and its permissions.",
        ) from error
    seen = {os.path.realpath(folder)}
    yield from _walk(folder, skipped, seen)


def as_path(path: str | os.PathLike[str]) -> Path:
    """Path of what a user names; ``~`` is the home folder.

    Raises
    ------
    InputError
        If it is no path, or an empty one, which would be the working directory.
    """
    try:
        text = os.fspath(path)
    except TypeError as error:
        raise InputError("a path is text or a pathlib.Path", received=type(path).__name__) from error
    if not text:
        raise InputError("the path is empty", hint="Give the path of a file or folder.")
    try:
        return Path(text).expanduser()
    except RuntimeError:  # a home folder that is not known: there is nothing at that path
        return Path(text)


def require_file(path: Path) -> None:
    """Refuse to open what is no file: nothing, a folder, a pipe that never ends, a device.

    Raises
    ------
    InputError
        If there is no file of this name.
    """
    try:
        is_file = path.is_file()
    except OSError:  # what is in the way, opening it says
        return
    if not is_file:
        raise InputError(f"there is no file {path.name}", hint="Check the path.")


def read_file(path: Path) -> bytes:
    """Read a whole file.

    Raises
    ------
    InputError
        If there is no file of this name, or it cannot be opened.
    """
    require_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable_file(path.name, error) from error


def unreadable_file(name: str, error: OSError) -> InputError:
    """Make the error for a file that cannot be opened."""
    return InputError(
        f"{name} cannot be opened: {reason_of(error)}", hint="Check the path and its permissions."
    )


def reason_of(error: OSError) -> str:
    """Say what the operating system reports, without the file's name.

    Examples
    --------
    >>> reason_of(PermissionError(13, "Permission denied", "a-name"))
    'permission denied'
    """
    return os.strerror(error.errno).lower() if error.errno else type(error).__name__


def why_not_followed(entry: Path) -> str | None:
    """Say why an entry of a folder leads to no file and no folder; None where it does."""
    try:
        if entry.is_symlink() and not entry.exists():
            return "a link to nothing"
        if entry.is_dir() or entry.is_file():
            return None
    except OSError as error:
        return reason_of(error)
    return "neither a file nor a folder"


def _walk(folder: Path, skipped: list[tuple[str, str]], seen: set[str]) -> Iterator[Path]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        skipped.append((folder.name, reason_of(error)))
        return
    folders: list[Path] = []
    for name in names:
        path = folder / name
        reason = why_not_followed(path)
        if reason is not None:
            skipped.append((name, reason))
        elif path.is_dir():
            folders.append(path)
        else:
            yield path
    # Folders before links to them, so that what is read twice is the link.
    for path in sorted(folders, key=os.path.islink):
        real = os.path.realpath(path)
        if path.is_symlink() and os.path.realpath(folder).startswith(real.rstrip(os.sep) + os.sep):
            skipped.append((path.name, "a link to a folder that contains it"))
        elif real in seen:
            skipped.append((path.name, "a link to a folder that was read already"))
        else:
            seen.add(real)
            yield from _walk(path, skipped, seen)
