"""NIfTI images, plain, compressed, with odd headers and damaged."""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.io import read_slice, read_study
from tests.robustness.image_case import PIXEL_MM, SIZE, STEP_MM, ImageCase, put, stack, volume


def nifti_bytes(
    hu_zyx: np.ndarray[Any, Any], *, order: str = "<", dtype: Any = np.int16, **fields: Any
) -> bytes:
    """A NIfTI-1 file made field by field: in LPS order of the array, so that x and y run against RAS."""
    affine = np.diag([-PIXEL_MM[1], -PIXEL_MM[0], STEP_MM])
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    header.set_data_shape(hu_zyx.shape[::-1])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = affine, (20, 30, 0)
    header.set_sform(matrix, 1)
    header.set_qform(matrix, 1)
    header.set_xyzt_units("mm")
    raw = header.structarr.copy()
    raw["vox_offset"], raw["magic"] = 352, b"n+1"
    raw["scl_slope"], raw["scl_inter"] = 1, 0
    for name, value in fields.items():
        raw[name] = value
    data = hu_zyx.astype(np.dtype(dtype).newbyteorder(order)).tobytes()
    return raw.tobytes() + bytes(4) + data


def nifti() -> Iterator[ImageCase]:
    hu = stack()
    right = volume(hu)
    plain = nifti_bytes(hu)

    def add(name: str, content: bytes, expected: Any = right, file: str = "a.nii", **more: Any) -> ImageCase:
        return ImageCase(
            name=f"NIfTI, {name}",
            write=lambda folder: put(folder / file, content),
            read=read_study,
            expected=None if "error" in more else expected,
            **more,
        )

    yield add("plain", plain)
    yield add("gzip", gzip.compress(plain), file="a.nii.gz")
    yield add("big endian", nifti_bytes(hu, order=">"))
    for dtype in (np.float32, np.float64, np.int32):
        yield add(f"as {np.dtype(dtype).name}", nifti_bytes(hu, dtype=dtype))
    yield add("voxels from byte 0", nifti_bytes(hu, vox_offset=0), words="voxels begin at byte 0")
    yield add("voxels from byte 100", nifti_bytes(hu, vox_offset=100), error=InputError)
    yield add("voxels from nowhere", nifti_bytes(hu, vox_offset=np.nan), error=InputError)
    yield add(
        "voxels from behind the end", nifti_bytes(hu, vox_offset=1e6), error=InputError, words="truncated"
    )
    shifted = nifti_bytes(hu, vox_offset=368)
    yield add("voxels from byte 368", shifted[:352] + bytes(16) + shifted[352:])
    extended = nifti_bytes(hu, vox_offset=368)
    extension = struct.pack("<ii", 16, 6) + b"note\0\0\0\0"
    yield add("with an extension", extended[:348] + b"\1\0\0\0" + extension + extended[352:])
    yield add("an extension within the voxels", plain[:348] + b"\1\0\0\0" + extension + plain[352:],
              error=InputError, words="extended")  # fmt: skip
    for scale, offset in ((0.5, -1000.0), (2.0, 10.0)):
        yield add(
            f"slope {scale}", nifti_bytes(hu, scl_slope=scale, scl_inter=offset),
            volume(np.maximum(np.rint(hu * scale + offset), -1024).astype(np.int16)),
        )  # fmt: skip
    yield add("slope NaN", nifti_bytes(hu, scl_slope=np.nan, scl_inter=np.nan))
    yield add("slope 0", nifti_bytes(hu, scl_slope=0, scl_inter=5))
    yield add("slope infinite", nifti_bytes(hu, scl_slope=np.inf), error=InputError)
    yield add("intercept NaN", nifti_bytes(hu, scl_inter=np.nan), error=InputError)
    yield add("in metres that are mm", nifti_bytes(hu, xyzt_units=1), error=GeometryError, words="xyzt_units")
    yield add(
        "in micrometres that are mm", nifti_bytes(hu, xyzt_units=3), error=GeometryError, words="xyzt_units"
    )
    for unit, factor in ((1, 0.001), (3, 1000.0)):
        yield add(f"in unit {unit}", _rescaled_nifti(hu, factor, unit), words="lengths are stated in")
    yield add("in no unit", nifti_bytes(hu, xyzt_units=0))
    mirrored = np.diag([PIXEL_MM[1], -PIXEL_MM[0], STEP_MM, 1.0])
    mirrored[:3, 3] = (20, 30, 0)
    for code in (1, 2):
        yield add(f"sform {code} mirrored against qform", _with_sform(plain, mirrored, code),
                  error=GeometryError, words="contradict")  # fmt: skip
    atlas = np.diag([-1.5, -1.5, 4.0, 1.0])
    yield add("sform in an atlas", _with_sform(plain, atlas, 4), words="atlas")
    coarse = np.diag([-1.6, -1.5, 5.0, 1.0])
    yield add("sform of another size", _with_sform(plain, coarse, 1), error=GeometryError, words="contradict")
    yield add("sform alone, of another size than pixdim", _with_sform(plain, coarse, 1, qform=0),
              error=GeometryError, words="two voxel sizes")  # fmt: skip
    yield add("sform singular", _with_sform(plain, np.zeros((4, 4)), 1, qform=0), error=GeometryError)
    yield add("sform NaN", _with_sform(plain, np.full((4, 4), np.nan), 1, qform=0), error=GeometryError)
    for name, dims in {
        "four phases": (4, SIZE, SIZE, 5, 4, 1, 1, 1), "no size": (3, SIZE, 0, 5, 1, 1, 1, 1),
        "a negative size": (3, SIZE, -4, 5, 1, 1, 1, 1), "30000 slices": (3, SIZE, SIZE, 30000, 1, 1, 1, 1),
        "32767 voxels a side": (3, 32767, 32767, 32767, 1, 1, 1, 1), "9 dimensions": (9, 1, 1, 1, 1, 1, 1, 1),
    }.items():  # fmt: skip
        yield add(name, nifti_bytes(hu, dim=dims), error=InputError)
    for code, name in ((128, "colours"), (32, "complex numbers"), (9999, "no type")):
        yield add(name, nifti_bytes(hu, datatype=code, bitpix=64), error=InputError)
    floats = hu.astype(np.float32)
    floats[2, 3, 3] = np.nan
    yield add(
        "a value that is no number",
        nifti_bytes(floats, dtype=np.float32),
        error=InputError,
        words="not finite",
    )
    huge = hu.astype(np.float32)
    huge[2, 3, 3] = 1e6
    yield add(
        "a value beyond HU", nifti_bytes(huge, dtype=np.float32), error=InputError, words="beyond the range"
    )
    yield add("bytes after the last voxel", plain + b"x" * 40, words="40 bytes after the last voxel")
    packed = gzip.compress(plain, mtime=0)
    yield add("bytes after the stream", packed + b"x" * 40, file="a.nii.gz", words="40 bytes after the end")
    yield add("two members", gzip.compress(plain[:900]) + gzip.compress(plain[900:]), file="a.nii.gz")
    yield add("gzip under .nii", packed, file="a.nii")
    yield add("plain under .nii.gz", plain, file="a.nii.gz")
    rng = np.random.default_rng(3)
    for number in range(24):
        at = int(rng.integers(12, len(packed) - 8))
        flipped = bytearray(packed)
        flipped[at] ^= 1 << int(rng.integers(8))
        yield add(f"bit {number} flipped", bytes(flipped), file="a.nii.gz", error=InputError)
    for keep in (0, 1, 10, 200, len(packed) // 2, len(packed) - 8, len(packed) - 1):
        yield add(f"{keep} bytes of the stream", packed[:keep], file="a.nii.gz", error=InputError)
    for keep in (0, 4, 300, 352, 1000, len(plain) - 1):
        yield add(f"{keep} bytes", plain[:keep], error=InputError)
    bomb = gzip.compress(plain + bytes(1 << 22))
    yield add("a bomb", bomb, file="a.nii.gz", error=InputError, words="more than its header declares")
    for ends in ((".hdr", ".img"), (".hdr.gz", ".img.gz"), (".hdr", ".img.gz")):
        for given in ends:
            yield ImageCase(
                name=f"pair {ends}, given {given}", read=read_study, expected=right,
                write=lambda folder, ends=ends, given=given: _pair(folder, plain, ends, given),
            )  # fmt: skip
    yield ImageCase(
        name="half a pair", write=lambda folder: put(folder / "a.hdr", plain[:348]), read=read_study,
        error=InputError, words="half of a pair",
    )  # fmt: skip
    yield ImageCase(
        name="one slice", write=lambda folder: put(folder / "a.nii", nifti_bytes(hu[:1])), read=read_slice,
        expected=hu[0],
    )  # fmt: skip
    yield ImageCase(
        name="several slices for one", write=lambda folder: put(folder / "a.nii", plain), read=read_slice,
        error=InputError, words="is a volume",
    )  # fmt: skip
    yield add("0 to 255", nifti_bytes(np.clip((hu + 160) * 255 // 400, 0, 255)),
              volume(np.clip((hu + 160) * 255 // 400, 0, 255).astype(np.int16)), words="do not look like")  # fmt: skip
    offset = (hu + 1024).astype(np.int16)
    offset[:, 0] = -2000
    yield add(
        "from 0, padded", nifti_bytes(offset), volume(np.maximum(offset, -1024)), words="but for padding"
    )
    yield add("all one value", nifti_bytes(np.full_like(hu, 7)), volume(np.full_like(hu, 7)), words="empty")


def _pair(folder: Path, plain: bytes, ends: tuple[str, str], given: str) -> Path:
    header = bytearray(plain[:348])
    header[344:348] = b"ni1\0"
    header[108:112] = struct.pack("<f", 0)
    for end, content in zip(ends, (bytes(header), plain[352:]), strict=True):
        (folder / f"a{end}").write_bytes(gzip.compress(content) if end.endswith("gz") else content)
    return folder / f"a{given}"


def _rescaled_nifti(hu: np.ndarray[Any, Any], factor: float, unit: int) -> bytes:
    matrix = np.diag([-PIXEL_MM[1] * factor, -PIXEL_MM[0] * factor, STEP_MM * factor, 1.0])
    matrix[:3, 3] = np.array([20, 30, 0]) * factor
    header = nibabel.Nifti1Header()
    header.set_data_shape(hu.shape[::-1])
    header.set_data_dtype(np.int16)
    header.set_sform(matrix, 1)
    header.set_qform(matrix, 1)
    raw = header.structarr.copy()
    raw["xyzt_units"], raw["vox_offset"], raw["magic"], raw["scl_slope"] = unit, 352, b"n+1", 0
    return bytes(raw.tobytes() + bytes(4) + hu.tobytes())


def _with_sform(plain: bytes, matrix: np.ndarray[Any, Any], code: int, qform: int = 1) -> bytes:
    content = bytearray(plain)
    content[252:256] = struct.pack("<hh", qform, code)
    content[280:328] = np.asarray(matrix[:3], "<f4").tobytes()
    return bytes(content)
