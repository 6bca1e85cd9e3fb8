"""NRRD images, attached and detached, with odd headers and damaged."""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

import bz2
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.io import read_study
from ctai_sam2.types import CTVolume
from tests.robustness.image_case import PIXEL_MM, SIZE, STEP_MM, ImageCase, put, stack, volume


def nrrd_bytes(hu_zyx: np.ndarray[Any, Any], data: bytes | None = None, **fields: str | None) -> bytes:
    """A NRRD file, its header line by line; a field set to None is left out."""
    values = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(str(n) for n in hu_zyx.shape[::-1]),
        "space directions": f"({PIXEL_MM[1]},0,0) (0,{PIXEL_MM[0]},0) (0,0,{STEP_MM})",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(-20,-30,0)",
    }
    values.update({key.replace("_", " "): value for key, value in fields.items()})  # type: ignore[misc]
    lines = [f"{key}: {value}" for key, value in values.items() if value is not None]
    head = "\n".join(["NRRD0004", "# made by hand", *lines]) + "\n\n"
    return head.encode() + (hu_zyx.astype("<i2").tobytes() if data is None else data)


def nrrd() -> Iterator[ImageCase]:
    hu = stack()
    right = volume(hu)
    raw = hu.astype("<i2").tobytes()

    def add(name: str, content: bytes, expected: Any = right, file: str = "a.nrrd", **more: Any) -> ImageCase:
        return ImageCase(
            name=f"NRRD, {name}",
            write=lambda folder: put(folder / file, content),
            read=read_study,
            expected=None if "error" in more else expected,
            **more,
        )

    yield add("raw", nrrd_bytes(hu))
    yield add("gzip", nrrd_bytes(hu, gzip.compress(raw), encoding="gzip"))
    yield add("bzip2", nrrd_bytes(hu, bz2.compress(raw), encoding="bzip2"))
    yield add("text", nrrd_bytes(hu, " ".join(map(str, hu.ravel())).encode(), encoding="ascii", endian=None))
    yield add("big endian", nrrd_bytes(hu, hu.astype(">i2").tobytes(), endian="big"))
    for word, dtype in {
        "float": "<f4",
        "double": "<f8",
        "int": "<i4",
        "int64": "<i8",
        "signed short": "<i2",
    }.items():
        yield add(f"as {word}", nrrd_bytes(hu, hu.astype(dtype).tobytes(), type=word))
    ras = f"(-{PIXEL_MM[1]},0,0) (0,-{PIXEL_MM[0]},0) (0,0,{STEP_MM})"
    yield add("RAS", nrrd_bytes(hu, space="RAS", space_directions=ras, space_origin="(20,30,0)"))
    yield add("LAS", nrrd_bytes(
        hu, space="left-anterior-superior", space_origin="(-20,30,0)",
        space_directions=f"({PIXEL_MM[1]},0,0) (0,-{PIXEL_MM[0]},0) (0,0,{STEP_MM})"))  # fmt: skip
    flipped = nrrd_bytes(
        hu[::-1], space_origin=f"(-20,-30,{4 * STEP_MM})",
        space_directions=f"({PIXEL_MM[1]},0,0) (0,{PIXEL_MM[0]},0) (0,0,-{STEP_MM})",
    )  # fmt: skip
    yield add("from head to foot", flipped)
    turned = np.ascontiguousarray(hu.transpose(1, 2, 0))
    yield add("slices along the first axis", nrrd_bytes(
        turned, space_directions=f"(0,0,{STEP_MM}) ({PIXEL_MM[1]},0,0) (0,{PIXEL_MM[0]},0)"))  # fmt: skip
    listed = f"none {nrrd_directions()}"
    yield add("with a list of one", nrrd_bytes(
        hu, dimension="4", sizes=f"1 {SIZE} {SIZE} 5", space_directions=listed, kinds="list domain domain domain"))  # fmt: skip
    two = np.stack([hu, hu], axis=-1).astype("<i2").tobytes()
    yield add("with a list of two", nrrd_bytes(
        hu, two, dimension="4", sizes=f"2 {SIZE} {SIZE} 5", space_directions=listed, kinds=None),
        error=InputError, words="three-dimensional")  # fmt: skip
    yield add("in metres", nrrd_bytes(
        hu, space_units='"m" "m" "m"', space_origin="(-0.02,-0.03,0)",
        space_directions="(0.0008,0,0) (0,0.00075,0) (0,0,0.005)"))  # fmt: skip
    yield add("in metres that are mm", nrrd_bytes(hu, space_units='"m" "m" "m"'), error=GeometryError)
    yield add("in miles", nrrd_bytes(hu, space_units='"mi" "mi" "mi"'), error=GeometryError)
    yield add(
        "without a space", nrrd_bytes(hu, space=None, space_dimension="3"), words="left and right are assumed"
    )
    yield add("with spacings alone", nrrd_bytes(
        hu, space=None, space_directions=None, space_origin=None, spacings=f"{PIXEL_MM[1]} {PIXEL_MM[0]} {STEP_MM}"),
        CTVolume(hu_zyx=hu, affine=np.diag([PIXEL_MM[1], PIXEL_MM[0], STEP_MM, 1])), words="are assumed")  # fmt: skip
    yield add("without any spacing", nrrd_bytes(hu, space=None, space_directions=None, space_origin=None),
              error=GeometryError, words="no spacing")  # fmt: skip
    bad: dict[str, dict[str, Any]] = {
        "two directions": {"space_directions": "(1,0,0) (0,1,0)"},
        "a direction of two numbers": {"space_directions": "(1,0) (0,1,0) (0,0,1)"},
        "a direction that is no number": {"space_directions": "(x,0,0) (0,1,0) (0,0,1)"},
        "a direction that is nan": {"space_directions": "(nan,0,0) (0,1,0) (0,0,1)"},
        "directions in one plane": {"space_directions": "(1,0,0) (0,1,0) (1,1,0)"},
        "sizes that are none": {"sizes": "16 x 5"},
        "a size of 0": {"sizes": "16 0 5"},
        "two sizes": {"sizes": "16 16"},
        "too large a size": {"sizes": "99999 99999 99999"},
        "no type": {"type": None},
        "blocks": {"type": "block"},
        "no endian": {"endian": None},
        "no encoding": {"encoding": None},
        "an unknown encoding": {"encoding": "zstd"},
        "a file elsewhere": {"data_file": "../secret.raw"},
        "an absolute file": {"data_file": "/etc/passwd"},
        "a file that is not there": {"data_file": "gone.raw"},
        "a list of files": {"data_file": "LIST"},
        "a bad skip": {"byte_skip": "x"},
        "a negative skip": {"line_skip": "-3"},
    }
    for name, fields in bad.items():
        yield add(name, nrrd_bytes(hu, **fields), error=(InputError, GeometryError))
    yield add("skipped bytes", nrrd_bytes(hu, b"12345" + raw, byte_skip="5"))
    yield add("skipped lines", nrrd_bytes(hu, b"one\ntwo\n" + raw, line_skip="2"))
    yield add("at the end", nrrd_bytes(hu, b"12345" + raw, byte_skip="-1"))
    yield add("bytes after the last voxel", nrrd_bytes(hu) + b"x" * 7, words="7 bytes after the last voxel")
    packed = gzip.compress(raw, mtime=0)
    for keep in (0, 20, len(packed) // 2, len(packed) - 8, len(packed) - 1):
        yield add(
            f"{keep} bytes of the stream", nrrd_bytes(hu, packed[:keep], encoding="gzip"), error=InputError
        )
    rng = np.random.default_rng(4)
    for number in range(12):
        broken = bytearray(packed)
        broken[int(rng.integers(12, len(packed) - 8))] ^= 1 << int(rng.integers(8))
        yield add(f"bit {number} flipped", nrrd_bytes(hu, bytes(broken), encoding="gz"), error=InputError)
    squeezed = bz2.compress(raw)
    yield add("bzip2 cut", nrrd_bytes(hu, squeezed[:-20], encoding="bz2"), error=InputError)
    yield add("bytes cut", nrrd_bytes(hu)[:-1], error=InputError, words="truncated")
    yield add("no header", b"NRRD0004", error=InputError)
    yield add("another version", b"NRRD0009" + nrrd_bytes(hu)[8:], error=InputError)
    yield add("a line that is no field", nrrd_bytes(hu).replace(b"# made", b"made"), error=InputError)
    for encoding, content in (("raw", raw), ("gzip", packed)):
        yield ImageCase(
            name=f"NRRD, detached {encoding}", read=read_study, expected=right,
            write=lambda folder, encoding=encoding, content=content: _detached(folder, hu, encoding, content),
        )  # fmt: skip


def nrrd_directions() -> str:
    return f"({PIXEL_MM[1]},0,0) (0,{PIXEL_MM[0]},0) (0,0,{STEP_MM})"


def _detached(folder: Path, hu: np.ndarray[Any, Any], encoding: str, content: bytes) -> Path:
    (folder / "a.raw").write_bytes(content)
    head = nrrd_bytes(hu, b"", encoding=encoding, data_file="a.raw")
    return put(folder / "a.nhdr", head)
