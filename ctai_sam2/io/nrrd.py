"""NRRD files, ``.nrrd`` and ``.nhdr``: values, place in the patient and fields, of images and of labels.

The header is parsed by pynrrd. Values are decoded here, since a stream has to be read to its end and held
against the size that the header declares before memory is set aside for it.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import CtaiError, GeometryError, InputError
from ctai_sam2.io.dicom_volume import MAX_VOXELS

NRRD_SUFFIXES = (".nrrd", ".nhdr")

_LPS_FROM_SPACE = {
    "left-posterior-superior": (1.0, 1.0, 1.0),
    "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0),
    "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0),
    "las": (1.0, -1.0, 1.0),
}
_MM_PER_UNIT = {"": 1.0, "mm": 1.0, "millimeter": 1.0, "m": 1000.0, "cm": 10.0, "um": 0.001, "µm": 0.001}
_LIST_KINDS = ("list", "vector", "covariant-vector", "scalar", "none")
_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class NrrdContent:
    """What an NRRD file holds.

    Parameters
    ----------
    stored : ndarray, shape (L, X, Y, Z)
        Values; one layer unless the file keeps several in one volume.
    affine : ndarray, shape (4, 4)
        Maps (x, y, z, 1) to LPS mm.
    is_placed : bool
        Whether the header says where the volume lies.
    fields : mapping of str to str
        Key and value pairs, as ``Segment0_Name`` of 3D Slicer.
    """

    stored: NDArray[Any]
    affine: NDArray[np.float64]
    is_placed: bool
    fields: Mapping[str, str]


def load_nrrd(path: Path) -> NrrdContent:
    """Read an NRRD file with three dimensions, or with layers as a fourth.

    Raises
    ------
    InputError
        If the file is missing, damaged, too large, of a kind that holds no numbers, or its values lie in a
        file outside of its folder.
    GeometryError
        If its directions are singular.
    """
    import nrrd

    try:
        with path.open("rb") as file:
            header = dict(nrrd.read_header(file))
            layout = _layout_of(path, header)
            values = _values_of(path, header, layout, file)
        affine, is_placed = _affine_of(header, layout.spatial)
    except CtaiError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path.name}", hint="Check the path.") from error
    except PermissionError as error:
        raise InputError(
            f"{path.name} cannot be opened: permission denied", hint="Check its permissions."
        ) from error
    except Exception as error:  # pynrrd, zlib and bz2 raise many kinds for damaged files
        raise InputError(
            f"{path.name} is not a readable NRRD file ({type(error).__name__})",
            hint="It may be truncated, or something else under this name; export it again.",
        ) from error
    stored = values if layout.list_axis is not None else values[None]
    if layout.list_axis not in (None, 0):
        stored = np.moveaxis(values, layout.list_axis or 0, 0)
    known = {str(key): value for key, value in header.items() if isinstance(value, str)}
    return NrrdContent(stored=stored, affine=affine, is_placed=is_placed, fields=known)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    sizes: tuple[int, ...]
    dtype: np.dtype[Any]
    spatial: tuple[int, ...]
    list_axis: int | None


def _layout_of(path: Path, header: Mapping[str, Any]) -> _Layout:
    import nrrd

    sizes = tuple(int(size) for size in header["sizes"])
    kinds = [str(kind).lower() for kind in header.get("kinds", ["domain"] * len(sizes))]
    lists = [axis for axis, kind in enumerate(kinds) if kind in _LIST_KINDS]
    spatial = tuple(axis for axis in range(len(sizes)) if axis not in lists)
    if len(sizes) == 2 and not lists:
        sizes, spatial = (*sizes, 1), (0, 1, 2)
    if len(spatial) != 3 or len(lists) > 1 or min(sizes) < 1:
        raise InputError(f"{path.name} is not a three-dimensional volume", received=f"sizes {sizes}")
    dtype = np.dtype(nrrd.reader._determine_datatype(header))
    if dtype.kind not in "iuf":
        raise InputError(f"{path.name} holds no numbers", received=str(header["type"])[:40])
    if int(np.prod(sizes, dtype=np.float64)) > MAX_VOXELS:
        raise InputError(
            f"{path.name} declares a volume larger than this package reads",
            received=f"sizes {sizes}",
            hint="The header may be damaged; else crop the volume.",
        )
    return _Layout(sizes=sizes, dtype=dtype, spatial=spatial, list_axis=lists[0] if lists else None)


def _values_of(path: Path, header: Mapping[str, Any], layout: _Layout, file: BinaryIO) -> NDArray[Any]:
    detached = header.get("data file", header.get("datafile"))
    if detached is None:
        return _decoded(path, header, layout, file)
    name = str(detached)
    if Path(name).name != name or name.split()[:1] == ["LIST"] or "%" in name:
        raise InputError(
            f"the values of {path.name} are not in one file next to it", hint="Save it as one .nrrd file."
        )
    with path.with_name(name).open("rb") as values:
        return _decoded(path, header, layout, values)


def _decoded(path: Path, header: Mapping[str, Any], layout: _Layout, file: BinaryIO) -> NDArray[Any]:
    count = int(np.prod(layout.sizes))
    expected = count * layout.dtype.itemsize
    for _ in range(int(header.get("line skip", header.get("lineskip", 0)))):
        file.readline()
    encoding = str(header["encoding"]).lower()
    skip = int(header.get("byte skip", header.get("byteskip", 0)))
    if encoding == "raw":
        content = file.read()
        content = content[-expected:] if skip == -1 else content[skip:]
    elif encoding in ("gzip", "gz"):
        content = _unpacked(path, file, zlib.decompressobj(zlib.MAX_WBITS | 16), expected + max(skip, 0))
        content = content[-expected:] if skip == -1 else content[skip:]
    elif encoding in ("bzip2", "bz2"):
        content = _unpacked(path, file, bz2.BZ2Decompressor(), expected + max(skip, 0))
        content = content[-expected:] if skip == -1 else content[skip:]
    elif encoding in ("ascii", "text", "txt"):
        text = file.read(40 * count + 1)
        numbers = np.array(text.split(), dtype=np.float64)
        if numbers.size != count:
            raise _other_size(path)
        return numbers.reshape(layout.sizes, order="F")
    else:
        raise InputError(f"{path.name} has an encoding this package does not read", received=encoding[:20])
    if len(content) != expected:
        raise _other_size(path)
    return np.frombuffer(content, dtype=layout.dtype).reshape(layout.sizes, order="F")


def _unpacked(path: Path, file: BinaryIO, unpacker: Any, expected: int) -> bytes:
    """Unpack a stream to its end, checksum included, but never more than expected."""
    pieces, total = [], 0
    while not unpacker.eof:
        packed = getattr(unpacker, "unconsumed_tail", b"") or (
            file.read(_PIECE) if getattr(unpacker, "needs_input", True) else b""
        )
        if not packed and getattr(unpacker, "needs_input", True):
            break
        piece = unpacker.decompress(packed, min(_PIECE * 16, expected + 1 - total))
        pieces.append(piece)
        total += len(piece)
        if total > expected:
            raise _other_size(path)
    if not unpacker.eof:
        raise InputError(f"{path.name} is truncated", hint="Copy or export it again.")
    return b"".join(pieces)


def _affine_of(header: Mapping[str, Any], spatial: tuple[int, ...]) -> tuple[NDArray[np.float64], bool]:
    """Affine in LPS mm, and whether the header says where the volume lies."""
    space = str(header.get("space", "")).lower()
    signs = _LPS_FROM_SPACE.get(space)
    directions = header.get("space directions")
    affine = np.eye(4)
    if directions is None:
        spacings = header.get("spacings")
        if spacings is not None:
            steps = [float(spacings[axis]) if axis < len(spacings) else 1.0 for axis in spatial]
            affine[:3, :3] = np.diag([step if np.isfinite(step) and step > 0 else 1.0 for step in steps])
        return affine, False
    rows = [row for row in directions if row is not None and np.isfinite(np.asarray(row, float)).all()]
    vectors = np.asarray(rows, dtype=np.float64)
    if vectors.shape != (3, 3) or abs(np.linalg.det(vectors)) < 1e-9:
        raise GeometryError("the NRRD header gives singular directions", hint="Export it again.")
    affine[:3, :3] = vectors.T
    origin = header.get("space origin")
    if origin is not None:
        affine[:3, 3] = np.asarray(origin, dtype=np.float64)
    if not np.isfinite(affine).all():
        raise GeometryError("the NRRD header gives an origin that is not finite", hint="Export it again.")
    units = {str(unit).strip('"').lower() for unit in header.get("space units", [""])}
    scale = _MM_PER_UNIT.get(units.pop(), 1.0) if len(units) == 1 else 1.0
    affine[:3] *= scale
    if signs is not None:
        affine = np.diag([*signs, 1.0]) @ affine
    return affine, signs is not None and origin is not None


def _other_size(path: Path) -> InputError:
    return InputError(
        f"{path.name} holds another number of values than its header declares",
        hint="It may be truncated; export it again.",
    )
