"""Arrays in a zip file, each as numpy's own format: what a cohort stores of predictions and drawn masks."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import DamagedFile

MAX_BYTES = 1 << 30
"""Size above which an archive is not unpacked: predictions of a slice take some MB."""

_ENDING = ".npy"
_LAST_CHARACTER = 0x10FFFF


def pack_arrays(
    arrays: Mapping[str, NDArray[np.generic]],
    *,
    texts: Mapping[str, str] | None = None,
    compression: int | None = None,
) -> bytes:
    """Write arrays, and texts under their names, as the content of a zip file.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        By name; not of objects.
    texts : mapping of str to str, optional
        By the name of the member.
    compression : int, optional
        From 1, fast, to 9, small.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=compression) as archive:
        for name, text in (texts or {}).items():
            archive.writestr(name, text)
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(f"{name}{_ENDING}", content.getvalue())
    return buffer.getvalue()


def unpack_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """Read what `pack_arrays` wrote: arrays by name, and texts by member.

    Raises
    ------
    DamagedFile
        If it is missing, damaged, or larger than any; names the kind of error alone.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    texts: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            # No more is unpacked of a member than its entry says.
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise ValueError("too large")
            for name in archive.namelist():
                content = archive.read(name)
                if not name.endswith(_ENDING):
                    texts[name] = content.decode()
                    continue
                array = np.asarray(np.lib.format.read_array(io.BytesIO(content), allow_pickle=False))
                _require_characters(array)
                arrays[name.removesuffix(_ENDING)] = array
    except Exception as error:  # zip files, what packs them and headers of arrays break in many ways
        raise DamagedFile("the archive cannot be read back", received=type(error).__name__) from error
    return arrays, texts


def _require_characters(array: NDArray[np.generic]) -> None:
    # NumPy takes any 32 bits for a character; Python fails at such a text, later and elsewhere.
    if array.dtype.kind == "U" and array.size and array.dtype.itemsize:
        codes = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(-1).view(np.uint32)
        if codes.max() > _LAST_CHARACTER:
            raise ValueError("no characters")
