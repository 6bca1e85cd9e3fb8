"""NRRD volumes, as 3D Slicer and ITK write them.

The format is read here and not by a library: those at hand follow any path that a header names, do not check
the end of a compressed stream, and leave the space that the directions are in to their callers. Source:
https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.files.folders import read_file
from ctai_sam2.image.plausibility import require_memory
from ctai_sam2.io.compressed import bunzip2, gunzip, surplus_warnings
from ctai_sam2.io.stored_volume import StoredVolume, require_invertible, to_ct_volume
from ctai_sam2.types import CTVolume

NRRD_SUFFIXES = (".nrrd", ".nhdr")
"""Endings of NRRD files: with their voxels attached, and with voxels in a file of their own."""

_MAX_HEADER_BYTES = 1 << 22
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        "longlong", "long long", "long long int", "signed long long", "signed long long int",
        "int64", "int64_t",
    ),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}  # fmt: skip
_DTYPES = {word: code for code, words in _TYPES.items() for word in words}
_LPS_SIGNS = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
_MM_PER_UNIT = {
    "mm": 1.0,
    "millimeter": 1.0,
    "m": 1000.0,
    "meter": 1000.0,
    "cm": 10.0,
    "um": 0.001,
    "µm": 0.001,
}
_MM_PER_UNIT |= {"micron": 0.001, "micrometer": 0.001}


@dataclass(frozen=True, kw_only=True, eq=False)
class NrrdContent:
    """What a NRRD file holds, an image or labels, as it is stored.

    Parameters
    ----------
    stored : ndarray, shape (L, X, Y, Z)
        Values; one layer unless the file keeps several in one volume.
    affine : ndarray, shape (4, 4)
        Maps (x, y, z, 1) to LPS mm.
    is_placed : bool
        Whether the header states an orientation.
    fields : mapping of str to str
        Fields of the header, by their name in small letters, and its pairs of key and value, among them the
        segments of a ``.seg.nrrd`` (``Segment0_Name``).
    warnings : tuple of str
        Irregularities of the file.
    """

    stored: NDArray[Any]
    affine: NDArray[np.float64]
    is_placed: bool
    fields: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def is_nrrd_name(name: str) -> bool:
    """Tell whether a file's name is one of a NRRD file."""
    return name.lower().endswith(NRRD_SUFFIXES)


def read_nrrd(path: str | os.PathLike[str]) -> CTVolume:
    """Read a NRRD volume of HU in any orientation; values as `read_nifti` takes them.

    Parameters
    ----------
    path : path-like
        ``.nrrd``, or ``.nhdr`` with its voxels in a file next to it.

    Raises
    ------
    InputError
        If the file is damaged, too large, not one scalar volume or holds values that are not finite.
    GeometryError
        If its directions are missing or no CT has voxels of this size.
    """
    path = Path(path)
    content = load_nrrd(path)
    if len(content.stored) != 1:
        raise _not_one_volume(path.name, content.stored.shape)
    return to_ct_volume(
        path.name,
        StoredVolume(
            stored=content.stored[0],
            affine=content.affine,
            is_placed=content.is_placed,
            warnings=content.warnings,
        ),
    )


def load_nrrd(path: Path) -> NrrdContent:
    """Read a NRRD file with three dimensions in space, and at most one of layers.

    Raises
    ------
    InputError
        If it is missing, damaged, too large, or written in a way that is not read.
    GeometryError
        If its directions are not those of a volume.
    """
    name = path.name
    raw = read_file(path)
    fields, notes, at = _parse_header(name, raw)
    dtype, sizes = _checked_layout(name, fields)
    directions, origin, is_placed, found = _space(name, fields, len(sizes))
    spatial = [axis for axis, direction in enumerate(directions) if direction is not None]
    layers = [axis for axis in range(len(sizes)) if axis not in spatial and sizes[axis] > 1]
    if len(spatial) != 3 or len(layers) > 1:
        raise _not_one_volume(name, sizes)
    affine = np.eye(4)
    affine[:3, :3] = np.array([directions[axis] for axis in spatial], dtype=np.float64).T
    affine[:3, 3] = origin
    require_invertible(affine, name)
    data_name = fields.get("data file") or fields.get("datafile")
    body = raw[at:] if data_name is None else read_file(_data_path(path, data_name))
    body, warnings = _decoded(name, body, fields, math.prod(sizes) * dtype.itemsize)
    values = _values(name, body, fields, dtype, math.prod(sizes)).reshape(sizes, order="F")
    kept = [axis for axis in range(len(sizes)) if axis in spatial or axis in layers]
    values = values.reshape(tuple(sizes[axis] for axis in kept), order="F")
    stored = np.moveaxis(values, kept.index(layers[0]), 0) if layers else values[None]
    return NrrdContent(
        stored=stored,
        affine=affine,
        is_placed=is_placed,
        fields={**fields, **notes},
        warnings=(*warnings, *found),
    )


def _parse_header(name: str, raw: bytes) -> tuple[dict[str, str], dict[str, str], int]:
    if not re.match(rb"NRRD000[1-5]\r?\n", raw):
        raise _unreadable(name, "no header of that kind")
    end = re.search(rb"\r?\n\r?\n", raw[:_MAX_HEADER_BYTES])
    head, at = (raw, len(raw)) if end is None else (raw[: end.start()], end.end())
    if len(head) > _MAX_HEADER_BYTES:
        raise _unreadable(name, "its header has no end")
    fields: dict[str, str] = {}
    notes: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").splitlines()[1:]:
        if line.startswith("#") or not line.strip():
            continue
        key, mark, value = line.partition(":")
        if mark and value.startswith("="):
            notes[key] = value[1:]
        elif mark:
            field = key.strip().lower()
            if field in fields:
                raise _unreadable(name, "a field stands twice in its header")
            fields[field] = value.strip()
        else:
            raise _unreadable(name, "a line of its header is no field")
    return fields, notes, at


def _checked_layout(name: str, fields: Mapping[str, str]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    kind = fields.get("type", "").lower()
    if kind not in _DTYPES:
        raise _unreadable(name, "its type is missing or none of numbers")
    dtype = np.dtype(_DTYPES[kind])
    encoding = fields.get("encoding", "").lower()
    if dtype.itemsize > 1 and encoding not in ("ascii", "text", "txt"):
        endian = fields.get("endian", "").lower()
        if endian not in ("little", "big"):
            raise _unreadable(name, "it does not say which byte comes first (endian)")
        dtype = dtype.newbyteorder("<" if endian == "little" else ">")
    try:
        sizes = tuple(int(text) for text in fields.get("sizes", "").split())
        dimension = int(fields.get("dimension", "0"))
    except ValueError as error:
        raise _unreadable(name, "its sizes are no whole numbers") from error
    if not sizes or len(sizes) != dimension or min(sizes) <= 0 or dimension > 16:
        raise _unreadable(name, "its sizes do not fit its dimension")
    require_memory(math.prod(sizes), bytes_per_voxel=dtype.itemsize + 3)
    return dtype, sizes


def _data_path(path: Path, data_name: str) -> Path:
    if data_name.upper().startswith("LIST") or re.search(r"%\d*d", data_name):
        raise InputError(
            f"{path.name} names several files of voxels",
            hint="Save the volume as one .nrrd file.",
        )
    inner = PurePosixPath(data_name.replace("\\", "/"))
    if inner.is_absolute() or ".." in inner.parts or re.match(r"[A-Za-z]:", data_name):
        raise InputError(
            f"{path.name} names a file of voxels outside of its folder",
            hint="Put both into one folder, and name the file without a path.",
        )
    return path.parent / inner


def _decoded(name: str, body: bytes, fields: Mapping[str, str], size: int) -> tuple[bytes, list[str]]:
    encoding = fields.get("encoding", "").lower()
    line_skip, byte_skip = (_skip(name, fields, key) for key in ("line skip", "byte skip"))
    for _ in range(line_skip):
        _, mark, body = body.partition(b"\n")
        if not mark:
            raise _unreadable(name, "truncated")
    warnings: list[str] = []
    if encoding in ("gzip", "gz", "bzip2", "bz2"):
        unpack = gunzip if encoding.startswith("g") else bunzip2
        body, trailing = unpack(body, limit=size + max(0, byte_skip) + (1 << 20), name=name, kind="NRRD")
        if trailing:
            warnings.append(f"{trailing} bytes after the end of the compressed data were left out")
    elif encoding not in ("raw", "ascii", "text", "txt"):
        raise _unreadable(name, "its encoding is none of raw, gzip, bzip2 and ascii")
    if byte_skip == -1 and encoding == "raw":
        body = body[max(0, len(body) - size) :]
    elif byte_skip >= 0:
        body = body[byte_skip:]
    else:
        raise _unreadable(name, "its byte skip is negative")
    if encoding in ("ascii", "text", "txt"):
        return body, warnings
    return body, warnings + surplus_warnings(body, size, name=name, kind="NRRD")


def _skip(name: str, fields: Mapping[str, str], key: str) -> int:
    try:
        value = int(fields.get(key, fields.get(key.replace(" ", ""), "0")))
    except ValueError as error:
        raise _unreadable(name, f"its {key} is no whole number") from error
    if value < (-1 if key == "byte skip" else 0):
        raise _unreadable(name, f"its {key} is negative")
    return value


def _values(
    name: str, body: bytes, fields: Mapping[str, str], dtype: np.dtype[Any], count: int
) -> NDArray[Any]:
    if fields["encoding"].lower() not in ("ascii", "text", "txt"):
        return np.frombuffer(body, dtype=dtype, count=count)
    words = body.split()
    if len(words) != count:
        raise InputError(
            f"{name} is not a readable NRRD file (truncated)", received=f"{len(words)} of {count} values"
        )
    try:
        return np.array([float(word) for word in words]).astype(np.float64)
    except ValueError as error:
        raise _unreadable(name, "a value is no number") from error


def _space(
    name: str, fields: Mapping[str, str], dimension: int
) -> tuple[list[tuple[float, ...] | None], tuple[float, ...], bool, list[str]]:
    """Directions of the axes in LPS mm, None for axes that are not in space; the origin; whether placed."""
    space = fields.get("space", "").lower()
    if "space directions" not in fields:
        return _unplaced(name, fields, dimension)
    signs = _LPS_SIGNS.get(space.removesuffix("-time"))
    warnings: list[str] = []
    if signs is None:
        warnings.append("the header states no orientation: left and right are assumed, check them")
    scale = _unit_scale(name, fields)
    factors = [sign * scale for sign in signs or (1, 1, 1)]
    words = re.findall(r"none|\([^()]*\)", fields["space directions"].lower())
    if len(words) != dimension:
        raise GeometryError(
            f"{name} does not give one direction for each axis", received=f"{len(words)} for {dimension}"
        )
    directions = [None if word == "none" else _vector(name, word, factors) for word in words]
    origin = fields.get("space origin")
    if origin is None:
        warnings.append("the header states no origin: where the volume lies is unknown")
    return directions, _vector(name, origin or "(0,0,0)", factors), signs is not None, warnings


def _unplaced(
    name: str, fields: Mapping[str, str], dimension: int
) -> tuple[list[tuple[float, ...] | None], tuple[float, ...], bool, list[str]]:
    words = fields.get("spacings", "").split()
    try:
        spacings = [float(word) for word in words]
    except ValueError:
        spacings = []
    known = [value if math.isfinite(value) and value > 0 else None for value in spacings]
    if len(known) != dimension or sum(value is not None for value in known) != 3:
        raise GeometryError(
            f"{name} states no spacing, so nothing can be measured in mm",
            hint="Save the volume with its space directions, as 3D Slicer does.",
        )
    directions: list[tuple[float, ...] | None] = []
    axes = iter(np.eye(3))
    for value in known:
        directions.append(None if value is None else tuple((next(axes) * value).tolist()))
    return (
        directions,
        (0.0, 0.0, 0.0),
        False,
        ["the header states no orientation: left and right are assumed, check them"],
    )


def _unit_scale(name: str, fields: Mapping[str, str]) -> float:
    units = {unit.strip().lower() for unit in re.findall(r'"([^"]*)"', fields.get("space units", ""))} - {""}
    if not units:
        return 1.0
    if len(units) > 1 or not units <= set(_MM_PER_UNIT):
        raise GeometryError(f"{name} states lengths in a unit that is not read", hint="Save it in mm.")
    return _MM_PER_UNIT[units.pop()]


def _vector(name: str, word: str, factors: list[float]) -> tuple[float, ...]:
    try:
        numbers = [float(text) for text in word.strip("() ").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise GeometryError(f"{name} gives a direction or an origin that is not three numbers")
    return tuple(number * factor for number, factor in zip(numbers, factors, strict=True))


def _not_one_volume(name: str, sizes: Sequence[int]) -> InputError:
    return InputError(
        f"{name} is not a three-dimensional volume",
        received=f"sizes {tuple(sizes)}",
        hint="Give one volume: a file of several phases or of colours has to be split first.",
    )


def _unreadable(name: str, cause: str) -> InputError:
    return InputError(
        f"{name} is not a readable NRRD file ({cause})",
        hint="It may be truncated, or something else under this name; export it again.",
    )
