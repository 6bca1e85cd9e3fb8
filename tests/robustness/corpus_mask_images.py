"""Masks in NIfTI and NRRD files."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Extension

from tests.robustness.mask_case import (
    AFFINE_LPS,
    AFFINE_RAS,
    LABELS,
    NAMES,
    NUMBERED,
    NUMBERED_ON_SLICE,
    ON_SLICE,
    SHAPE_ZYX,
    WHOLE,
    MaskCase,
    bytes_of,
    image_of,
    saved,
    volume,
)


def nifti() -> Iterator[MaskCase]:
    xyz = LABELS.transpose(2, 1, 0)
    for dtype in ("u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"):
        for on_slice in (False, True):
            yield MaskCase(
                name=f"nifti {dtype} {'on a slice' if on_slice else ''}",
                write=saved(image_of(xyz.astype(dtype))),
                expected=NUMBERED_ON_SLICE if on_slice else NUMBERED,
                on_slice=on_slice,
            )
    for name in ("m.nii", "m.hdr", "m.img"):
        yield MaskCase(name=f"nifti as {name}", write=_pair(xyz, name), expected=NUMBERED)
    for off in (1e-4, -1e-4, 9e-4, -9e-4):
        values = xyz + off * (xyz > 0)
        yield MaskCase(name=f"whole numbers off by {off}", write=saved(image_of(values)), expected=NUMBERED)
    scaled = image_of(xyz.astype(np.float64))
    scaled.set_data_dtype(np.int16)
    yield MaskCase(name="floats saved as scaled int16", write=saved(scaled), expected=NUMBERED)
    for dtype in ("i2", "u1", "u2"):
        scaled = image_of(xyz.astype(np.float64) / 3 * 3)
        scaled.set_data_dtype(np.dtype(dtype))
        yield MaskCase(name=f"floats saved as scaled {dtype}", write=saved(scaled), expected=NUMBERED)
    for code in ("RAS", "LAS", "LPS", "RPI", "ASR", "SAL", "IPR", "PIL", "LIA", "SRA"):
        turned = image_of(xyz)
        orientation = nibabel.orientations.axcodes2ornt(tuple(code))  # type: ignore[no-untyped-call]
        own = nibabel.orientations.io_orientation(turned.affine)  # type: ignore[no-untyped-call]
        turned = turned.as_reoriented(nibabel.orientations.ornt_transform(own, orientation))  # type: ignore[no-untyped-call]
        yield MaskCase(name=f"axes {code}", write=saved(turned), expected=NUMBERED)
        yield MaskCase(
            name=f"axes {code} on a slice", write=saved(turned), expected=NUMBERED_ON_SLICE, on_slice=True
        )
    cropped = AFFINE_LPS.copy()
    cropped[:3, 3] += AFFINE_LPS[:3, :3] @ [1, 2, 1]
    part = LABELS[1:4, 2:13, 1:10].transpose(2, 1, 0)
    yield MaskCase(
        name="a part of the volume",
        write=saved(image_of(part, np.diag([-1.0, -1.0, 1, 1]) @ cropped)),
        expected=NUMBERED,
    )
    larger = np.pad(xyz, ((2, 3), (1, 1), (4, 0)))
    origin = AFFINE_LPS.copy()
    origin[:3, 3] -= AFFINE_LPS[:3, :3] @ [2, 1, 4]
    yield MaskCase(
        name="more than the volume",
        write=saved(image_of(larger, np.diag([-1.0, -1.0, 1, 1]) @ origin)),
        expected=NUMBERED,
    )
    sticking_out = larger.copy()
    sticking_out[0, 0, 0] = 2
    yield MaskCase(
        name="one label reaches beyond the volume",
        write=saved(image_of(sticking_out, np.diag([-1.0, -1.0, 1, 1]) @ origin)),
        expected={name: mask for name, mask in NUMBERED.items() if name != "label_2"},
        said="label_2 reaches beyond",
    )
    yield MaskCase(
        name="none on the slice",
        write=saved(image_of(((np.arange(5) == 0) & np.ones((11, 14, 1), bool)).astype(np.uint8))),
        expected={"m": np.zeros(SHAPE_ZYX[1:], bool)},
        on_slice=True,
        said="nearest voxels lie 5.0 mm away",
    )
    for name, values in (
        ("probabilities", np.clip(xyz / 3 + 0.01 * (xyz > 0), 0, 1)),
        ("float 0.7", xyz * 0.7),
        ("halves", xyz * 0.5),
        ("off by 0.002", xyz + 0.002 * (xyz > 0)),
        ("not a number", np.where(xyz == 2, np.nan, xyz)),
        ("infinite", np.where(xyz == 2, np.inf, xyz)),
        ("negative", xyz.astype(np.int16) - 1),
        ("a CT", volume().hu_zyx.transpose(2, 1, 0)),
        ("above 65535", xyz.astype(np.int32) * 70000),
        ("nothing but background", xyz * 0),
        ("shades up to white", _shades()),
    ):
        yield MaskCase(name=f"nifti of {name}", write=saved(image_of(values)), expected=None)
    for name, change in (
        ("shifted by half a voxel", [0.4, 0, 0]),
        ("shifted by a third of a slice", [0, 0, 0.8]),
        ("far away", [500.0, 0, 0]),
    ):
        moved = AFFINE_RAS.copy()
        moved[:3, 3] += change
        yield MaskCase(name=name, write=saved(image_of(xyz, moved)), expected=None)
    for factor in (0.5, 1.01, 2.0):
        stretched = AFFINE_RAS.copy()
        stretched[:3, :3] *= factor
        yield MaskCase(
            name=f"voxels {factor} times as large", write=saved(image_of(xyz, stretched)), expected=None
        )
    unplaced: Any = nibabel.Nifti1Image(xyz, AFFINE_RAS)
    unplaced.set_sform(None, 0)
    unplaced.set_qform(None, 0)
    yield MaskCase(name="no orientation", write=saved(unplaced), expected=None, said="no orientation")
    yield MaskCase(name="four dimensions", write=saved(image_of(np.stack([xyz, xyz], 3))), expected=None)
    for cut in (10, 300, 352, 400):
        yield MaskCase(name=f"cut off after {cut} bytes", write=_cut(image_of(xyz), cut), expected=None)
    for at in range(0, 60, 6):
        yield MaskCase(
            name=f"gzip with byte {-at - 8} changed", write=_flipped(image_of(xyz), -at - 8), expected=None
        )
    table = "".join(f'<Label Key="{k}"><![CDATA[{name}]]></Label>' for k, name in NAMES.items())
    named = image_of(xyz)
    named.header.extensions.append(
        Nifti1Extension(
            0,
            f"<CaretExtension><VolumeInformation Index='0'><LabelTable>{table}</LabelTable></VolumeInformation></CaretExtension>".encode(),  # noqa: E501
        )  # type: ignore[no-untyped-call]
    )
    yield MaskCase(name="names in the header", write=saved(named), expected=WHOLE)


def _shades() -> np.ndarray[Any, Any]:
    values = np.zeros(SHAPE_ZYX[::-1], np.uint8)
    values[2:9, 3:9, 1:4] = 255
    values[2, 3:9, 1:4], values[8, 3:9, 1:4], values[1, 3:9, 1:4] = 128, 190, 60
    return values


def _pair(xyz: np.ndarray[Any, Any], name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        if name == "m.nii":
            nibabel.save(image_of(xyz), folder / name)
        else:
            pair: Any = nibabel.Nifti1Pair(xyz, AFFINE_RAS)
            pair.set_sform(AFFINE_RAS, 1)
            nibabel.save(pair, folder / name)
        return folder / name

    return write


def _cut(image: Any, count: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "m.nii").write_bytes(image.to_bytes()[:count])
        return folder / "m.nii"

    return write


def _flipped(image: Any, at: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        packed = bytearray(gzip.compress(image.to_bytes(), mtime=0))
        packed[at] ^= 0x10
        (folder / "m.nii.gz").write_bytes(bytes(packed))
        return folder / "m.nii.gz"

    return write


def _nrrd_bytes(
    values: np.ndarray[Any, Any],
    *,
    encoding: str = "raw",
    space: str | None = "left-posterior-superior",
    affine: np.ndarray[Any, Any] = AFFINE_LPS,
    fields: Mapping[str, str] | None = None,
) -> bytes:
    """A NRRD file by its published format; ``values`` (x, y, z), or (layers, x, y, z)."""
    layered = values.ndim == 4
    types = {"uint8": "uchar", "int16": "short", "float64": "double", "uint16": "ushort"}
    lines = [
        "NRRD0004",
        f"type: {types[values.dtype.name]}",
        f"dimension: {values.ndim}",
        f"sizes: {' '.join(map(str, values.shape))}",
        "endian: little",
        f"encoding: {encoding}",
        f"kinds: {'list ' if layered else ''}domain domain domain",
    ]
    if space is not None:
        signs = {"left-posterior-superior": (1, 1, 1), "right-anterior-superior": (-1, -1, 1)}[space]
        own = np.diag([*signs, 1.0]) @ affine
        vectors = " ".join("(" + ",".join(f"{v:.10g}" for v in own[:3, axis]) + ")" for axis in range(3))
        lines += [
            f"space: {space}",
            f"space directions: {'none ' if layered else ''}{vectors}",
            "space origin: (" + ",".join(f"{v:.10g}" for v in own[:3, 3]) + ")",
        ]
    lines += [f"{key}:={value}" for key, value in (fields or {}).items()]
    raw = values.tobytes(order="F")
    body = {
        "raw": lambda: raw,
        "gzip": lambda: gzip.compress(raw, mtime=0),
        "bzip2": lambda: bz2.compress(raw),
        "ascii": lambda: " ".join(str(v) for v in values.ravel(order="F")).encode(),
    }[encoding]()
    return ("\n".join(lines) + "\n\n").encode() + body


def nrrd() -> Iterator[MaskCase]:
    xyz = np.ascontiguousarray(LABELS.transpose(2, 1, 0))
    for encoding in ("raw", "gzip", "bzip2", "ascii"):
        for space in ("left-posterior-superior", "right-anterior-superior"):
            content = _nrrd_bytes(xyz, encoding=encoding, space=space)
            yield MaskCase(
                name=f"nrrd {encoding} {space}", write=bytes_of(content, "m.nrrd"), expected=NUMBERED
            )
    segments = {
        f"Segment{i}_{key}": value
        for i, (label, name) in enumerate(NAMES.items())
        for key, value in (("Name", name), ("LabelValue", str(label)), ("Layer", "0"))
    }
    content = _nrrd_bytes(xyz, encoding="gzip", fields=segments)
    yield MaskCase(name="segments of one layer", write=bytes_of(content, "m.seg.nrrd"), expected=WHOLE)
    yield MaskCase(
        name="segments on a slice", write=bytes_of(content, "m.seg.nrrd"), expected=ON_SLICE, on_slice=True
    )
    one, other = np.zeros(SHAPE_ZYX, np.uint8), np.zeros(SHAPE_ZYX, np.uint8)
    one[1:4, 2:8, 1:6], other[1:4, 4:12, 3:9] = 1, 1
    layered = np.stack([one.transpose(2, 1, 0), other.transpose(2, 1, 0)])
    fields = {
        "Segment0_Name": "one", "Segment0_LabelValue": "1", "Segment0_Layer": "0",
        "Segment1_Name": "two", "Segment1_LabelValue": "1", "Segment1_Layer": "1",
    }  # fmt: skip
    content = _nrrd_bytes(layered, encoding="gzip", fields=fields)
    overlapping = {"one": one > 0, "two": other > 0}
    yield MaskCase(name="overlapping layers", write=bytes_of(content, "m.seg.nrrd"), expected=overlapping)
    part = np.ascontiguousarray(LABELS[1:4, 2:13, 1:10].transpose(2, 1, 0))
    affine = AFFINE_LPS.copy()
    affine[:3, 3] += AFFINE_LPS[:3, :3] @ [1, 2, 1]
    content = _nrrd_bytes(part, affine=affine, fields=segments)
    yield MaskCase(name="segments of a smaller extent", write=bytes_of(content, "m.seg.nrrd"), expected=WHOLE)
    flipped = np.ascontiguousarray(xyz[::-1])
    affine = AFFINE_LPS.copy()
    affine[:3, 0] *= -1
    affine[:3, 3] = (AFFINE_LPS @ [xyz.shape[0] - 1, 0, 0, 1])[:3]
    content = _nrrd_bytes(flipped, affine=affine)
    yield MaskCase(name="nrrd with x backwards", write=bytes_of(content, "m.nrrd"), expected=NUMBERED)
    twice = {**segments, "Segment1_Name": "one"}
    expected = {"one": WHOLE["one"], "one_2": WHOLE["two"], "three": WHOLE["three"]}
    content = _nrrd_bytes(xyz, fields=twice)
    yield MaskCase(name="a name twice", write=bytes_of(content, "m.seg.nrrd"), expected=expected)
    good = _nrrd_bytes(xyz, encoding="gzip")
    for name, content in (
        ("truncated", good[:-20]),
        ("without its end", good[:-4]),
        ("a changed checksum", good[:-6] + bytes([good[-6] ^ 1]) + good[-5:]),
        ("fractions", _nrrd_bytes(xyz * 0.7)),
        ("no space", _nrrd_bytes(xyz, space=None)),
        ("no header", b"not a nrrd"),
        ("sizes that are too large", good.replace(b"sizes: 11 14 5", b"sizes: 99999 99999 99999")),
        ("other sizes", good.replace(b"sizes: 11 14 5", b"sizes: 11 14 6")),
        ("an unknown encoding", good.replace(b"encoding: gzip", b"encoding: zstd")),
        ("values elsewhere", good.replace(b"kinds:", b"data file: /etc/passwd\nkinds:")),
        ("half a voxel off", good.replace(b"space origin: (-30,", b"space origin: (-29.6,")),
    ):
        yield MaskCase(name=f"nrrd with {name}", write=bytes_of(content, "m.nrrd"), expected=None)
