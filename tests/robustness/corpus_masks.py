"""Mask, label and table files in many shapes, each with what it means: the right masks, or a refusal.

The right masks are written down here by index arithmetic on small arrays; no reader of the package takes
part.
"""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension
from PIL import Image, PngImagePlugin

from ctai_sam2.errors import CtaiError
from ctai_sam2.exchange import import_masks
from ctai_sam2.types import CTSlice, CTVolume

SHAPE_ZYX = (5, 14, 11)
SPACING_XYZ = (0.8, 0.7, 2.5)
ORIGIN_LPS = (-30.0, 12.0, -400.0)
Z = 2
_MOST_SECONDS = 10.0
_MOST_BYTES = 2 * 1024**3

AFFINE_LPS = np.diag([*SPACING_XYZ, 1.0])
AFFINE_LPS[:3, 3] = ORIGIN_LPS
AFFINE_RAS = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE_LPS


@dataclass(frozen=True, kw_only=True)
class MaskCase:
    """A file, on what it is read, and what it means.

    ``expected`` holds the set pixels by structure; None where the file has to be refused. ``said`` is a word
    of the note or of the refusal that a user has to see.
    """

    name: str
    write: Callable[[Path], Path]
    expected: Mapping[str, np.ndarray[Any, Any]] | None
    on_slice: bool = False
    said: str | None = None
    options: Mapping[str, Any] | None = None


def assert_right_or_refused(case: MaskCase, folder: Path) -> None:
    """Read a case: the masks are those expected and the note is there, or it is refused in time and room."""
    path = case.write(folder)
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.process_time()
    of = the_slice() if case.on_slice else volume()
    if case.expected is None:
        with pytest.raises(CtaiError) as refused:
            import_masks(path, of, **(case.options or {}))
        assert case.said is None or case.said in str(refused.value)
    else:
        found = import_masks(path, of, **(case.options or {}))
        assert list(found) == list(case.expected)
        for name, mask in case.expected.items():
            np.testing.assert_array_equal(found[name], mask, err_msg=name)
        if case.said is not None:
            assert any(case.said in note for note in found.warnings), found.warnings
    assert time.process_time() - started < _MOST_SECONDS
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert (after.ru_maxrss - before.ru_maxrss) * 1024 < _MOST_BYTES


def volume() -> CTVolume:
    rng = np.random.default_rng(5)
    return CTVolume(hu_zyx=rng.integers(-200, 200, SHAPE_ZYX).astype(np.int16), affine=AFFINE_LPS)


def the_slice() -> CTSlice:
    return volume().axial(Z)


def labels_zyx() -> np.ndarray[Any, Any]:
    """Three boxes, none like its mirror image."""
    labels = np.zeros(SHAPE_ZYX, np.uint8)
    labels[1:4, 2:6, 1:4] = 1
    labels[2:4, 7:10, 5:10] = 2
    labels[2, 10:13, 1:9] = 3
    return labels


NAMES = {1: "one", 2: "two", 3: "three"}
LABELS = labels_zyx()
WHOLE = {name: label == LABELS for label, name in NAMES.items()}
ON_SLICE = {name: LABELS[Z] == label for label, name in NAMES.items()}
NUMBERED = {f"label_{label}": mask for label, mask in ((k, k == LABELS) for k in NAMES)}
NUMBERED_ON_SLICE = {name: mask[Z] for name, mask in NUMBERED.items()}


def cases() -> Iterator[MaskCase]:
    """All of them."""
    yield from _nifti()
    yield from _nrrd()
    yield from _pictures()
    yield from _tables()
    yield from _coco()


def _image(values_xyz: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] = AFFINE_RAS) -> Any:
    image: Any = nibabel.Nifti1Image(values_xyz, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return image


def _save(image: Any, name: str = "m.nii.gz") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        nibabel.save(image, folder / name)
        return folder / name

    return write


def _nifti() -> Iterator[MaskCase]:
    xyz = LABELS.transpose(2, 1, 0)
    for dtype in ("u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"):
        for on_slice in (False, True):
            yield MaskCase(
                name=f"nifti {dtype} {'on a slice' if on_slice else ''}",
                write=_save(_image(xyz.astype(dtype))),
                expected=NUMBERED_ON_SLICE if on_slice else NUMBERED,
                on_slice=on_slice,
            )
    for name in ("m.nii", "m.hdr", "m.img"):
        yield MaskCase(name=f"nifti as {name}", write=_pair(xyz, name), expected=NUMBERED)
    for off in (1e-4, -1e-4, 9e-4, -9e-4):
        values = xyz + off * (xyz > 0)
        yield MaskCase(name=f"whole numbers off by {off}", write=_save(_image(values)), expected=NUMBERED)
    scaled = _image(xyz.astype(np.float64))
    scaled.set_data_dtype(np.int16)
    yield MaskCase(name="floats saved as scaled int16", write=_save(scaled), expected=NUMBERED)
    for dtype in ("i2", "u1", "u2"):
        scaled = _image(xyz.astype(np.float64) / 3 * 3)
        scaled.set_data_dtype(np.dtype(dtype))
        yield MaskCase(name=f"floats saved as scaled {dtype}", write=_save(scaled), expected=NUMBERED)
    for code in ("RAS", "LAS", "LPS", "RPI", "ASR", "SAL", "IPR", "PIL", "LIA", "SRA"):
        turned = _image(xyz)
        orientation = nibabel.orientations.axcodes2ornt(tuple(code))  # type: ignore[no-untyped-call]
        own = nibabel.orientations.io_orientation(turned.affine)  # type: ignore[no-untyped-call]
        turned = turned.as_reoriented(nibabel.orientations.ornt_transform(own, orientation))  # type: ignore[no-untyped-call]
        yield MaskCase(name=f"axes {code}", write=_save(turned), expected=NUMBERED)
        yield MaskCase(
            name=f"axes {code} on a slice", write=_save(turned), expected=NUMBERED_ON_SLICE, on_slice=True
        )
    cropped = AFFINE_LPS.copy()
    cropped[:3, 3] += AFFINE_LPS[:3, :3] @ [1, 2, 1]
    part = LABELS[1:4, 2:13, 1:10].transpose(2, 1, 0)
    yield MaskCase(
        name="a part of the volume",
        write=_save(_image(part, np.diag([-1.0, -1.0, 1, 1]) @ cropped)),
        expected=NUMBERED,
    )
    larger = np.pad(xyz, ((2, 3), (1, 1), (4, 0)))
    origin = AFFINE_LPS.copy()
    origin[:3, 3] -= AFFINE_LPS[:3, :3] @ [2, 1, 4]
    yield MaskCase(
        name="more than the volume",
        write=_save(_image(larger, np.diag([-1.0, -1.0, 1, 1]) @ origin)),
        expected=NUMBERED,
    )
    sticking_out = larger.copy()
    sticking_out[0, 0, 0] = 2
    yield MaskCase(
        name="one label reaches beyond the volume",
        write=_save(_image(sticking_out, np.diag([-1.0, -1.0, 1, 1]) @ origin)),
        expected={name: mask for name, mask in NUMBERED.items() if name != "label_2"},
        said="label_2 reaches beyond",
    )
    yield MaskCase(
        name="none on the slice",
        write=_save(_image(((np.arange(5) == 0) & np.ones((11, 14, 1), bool)).astype(np.uint8))),
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
        yield MaskCase(name=f"nifti of {name}", write=_save(_image(values)), expected=None)
    for name, change in (
        ("shifted by half a voxel", [0.4, 0, 0]),
        ("shifted by a third of a slice", [0, 0, 0.8]),
        ("far away", [500.0, 0, 0]),
    ):
        moved = AFFINE_RAS.copy()
        moved[:3, 3] += change
        yield MaskCase(name=name, write=_save(_image(xyz, moved)), expected=None)
    for factor in (0.5, 1.01, 2.0):
        stretched = AFFINE_RAS.copy()
        stretched[:3, :3] *= factor
        yield MaskCase(
            name=f"voxels {factor} times as large", write=_save(_image(xyz, stretched)), expected=None
        )
    unplaced: Any = nibabel.Nifti1Image(xyz, AFFINE_RAS)
    unplaced.set_sform(None, 0)
    unplaced.set_qform(None, 0)
    yield MaskCase(name="no orientation", write=_save(unplaced), expected=None, said="no orientation")
    yield MaskCase(name="four dimensions", write=_save(_image(np.stack([xyz, xyz], 3))), expected=None)
    for cut in (10, 300, 352, 400):
        yield MaskCase(name=f"cut off after {cut} bytes", write=_cut(_image(xyz), cut), expected=None)
    for at in range(0, 60, 6):
        yield MaskCase(
            name=f"gzip with byte {-at - 8} changed", write=_flipped(_image(xyz), -at - 8), expected=None
        )
    table = "".join(f'<Label Key="{k}"><![CDATA[{name}]]></Label>' for k, name in NAMES.items())
    named = _image(xyz)
    named.header.extensions.append(
        Nifti1Extension(
            0,
            f"<CaretExtension><VolumeInformation Index='0'><LabelTable>{table}</LabelTable></VolumeInformation></CaretExtension>".encode(),  # noqa: E501
        )  # type: ignore[no-untyped-call]
    )
    yield MaskCase(name="names in the header", write=_save(named), expected=WHOLE)


def _shades() -> np.ndarray[Any, Any]:
    values = np.zeros(SHAPE_ZYX[::-1], np.uint8)
    values[2:9, 3:9, 1:4] = 255
    values[2, 3:9, 1:4], values[8, 3:9, 1:4], values[1, 3:9, 1:4] = 128, 190, 60
    return values


def _pair(xyz: np.ndarray[Any, Any], name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        if name == "m.nii":
            nibabel.save(_image(xyz), folder / name)
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


def _bytes(content: bytes, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _nrrd() -> Iterator[MaskCase]:
    xyz = np.ascontiguousarray(LABELS.transpose(2, 1, 0))
    for encoding in ("raw", "gzip", "bzip2", "ascii"):
        for space in ("left-posterior-superior", "right-anterior-superior"):
            content = _nrrd_bytes(xyz, encoding=encoding, space=space)
            yield MaskCase(
                name=f"nrrd {encoding} {space}", write=_bytes(content, "m.nrrd"), expected=NUMBERED
            )
    segments = {
        f"Segment{i}_{key}": value
        for i, (label, name) in enumerate(NAMES.items())
        for key, value in (("Name", name), ("LabelValue", str(label)), ("Layer", "0"))
    }
    content = _nrrd_bytes(xyz, encoding="gzip", fields=segments)
    yield MaskCase(name="segments of one layer", write=_bytes(content, "m.seg.nrrd"), expected=WHOLE)
    yield MaskCase(
        name="segments on a slice", write=_bytes(content, "m.seg.nrrd"), expected=ON_SLICE, on_slice=True
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
    yield MaskCase(name="overlapping layers", write=_bytes(content, "m.seg.nrrd"), expected=overlapping)
    part = np.ascontiguousarray(LABELS[1:4, 2:13, 1:10].transpose(2, 1, 0))
    affine = AFFINE_LPS.copy()
    affine[:3, 3] += AFFINE_LPS[:3, :3] @ [1, 2, 1]
    content = _nrrd_bytes(part, affine=affine, fields=segments)
    yield MaskCase(name="segments of a smaller extent", write=_bytes(content, "m.seg.nrrd"), expected=WHOLE)
    flipped = np.ascontiguousarray(xyz[::-1])
    affine = AFFINE_LPS.copy()
    affine[:3, 0] *= -1
    affine[:3, 3] = (AFFINE_LPS @ [xyz.shape[0] - 1, 0, 0, 1])[:3]
    content = _nrrd_bytes(flipped, affine=affine)
    yield MaskCase(name="nrrd with x backwards", write=_bytes(content, "m.nrrd"), expected=NUMBERED)
    twice = {**segments, "Segment1_Name": "one"}
    expected = {"one": WHOLE["one"], "one_2": WHOLE["two"], "three": WHOLE["three"]}
    content = _nrrd_bytes(xyz, fields=twice)
    yield MaskCase(name="a name twice", write=_bytes(content, "m.seg.nrrd"), expected=expected)
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
        yield MaskCase(name=f"nrrd with {name}", write=_bytes(content, "m.nrrd"), expected=None)


def _picture(image: Any, name: str = "m.png", **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        image.save(folder / name, **options)
        return folder / name

    return write


def _pictures() -> Iterator[MaskCase]:
    mask = ON_SLICE["one"] | ON_SLICE["two"]
    grey = np.where(mask, 255, 0).astype(np.uint8)
    white = np.full_like(grey, 255)
    single = {"m": mask}
    labels = LABELS[Z]
    many = {f"label_{k}": labels == k for k in NAMES}
    exif = Image.Exif()
    exif[0x0112] = 6
    p = Image.fromarray(labels).convert("P")
    p.putdata(labels.ravel().tolist())
    p.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 756)
    two = Image.fromarray(labels).convert("P")
    two.putdata((labels > 0).ravel().astype(int).tolist())
    two.putpalette([0, 0, 0, 255, 255, 255] + [0] * 762)
    reversed_grey = Image.fromarray(labels).convert("P")
    reversed_grey.putdata((labels == 0).ravel().astype(int).tolist())
    reversed_grey.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)
    rgb = np.dstack([grey] * 3)
    red = np.dstack([grey, grey * 0, grey * 0])
    good: tuple[tuple[str, Callable[[Path], Path], Mapping[str, Any]], ...] = (
        ("black and white", _picture(Image.fromarray(grey)), single),
        ("0 and 1", _picture(Image.fromarray(grey // 255)), single),
        ("0 and 128", _picture(Image.fromarray(grey // 2)), single),
        ("one bit", _picture(Image.fromarray(mask)), single),
        ("16 bits", _picture(Image.fromarray(grey.astype(np.uint16) * 257)), single),
        ("16-bit labels", _picture(Image.fromarray(labels.astype(np.uint16))), many),
        ("labels", _picture(Image.fromarray(labels)), many),
        ("rgb", _picture(Image.fromarray(rgb)), single),
        ("one color on black", _picture(Image.fromarray(red)), single),
        ("a mask in the transparency", _picture(Image.fromarray(np.dstack([white, grey]), "LA")), single),
        ("rgba, white, transparent outside", _picture(Image.fromarray(np.dstack([white] * 3 + [grey]))), single),  # noqa: E501
        ("rgba, opaque", _picture(Image.fromarray(np.dstack([rgb, white]))), single),
        ("rgba, black, transparent outside", _picture(Image.fromarray(np.dstack([white * 0] * 3 + [grey]))), single),  # noqa: E501
        ("white made transparent", _picture(Image.fromarray(np.where(mask, 128, 255).astype(np.uint8)), transparency=255), single),  # noqa: E501
        ("black made transparent", _picture(Image.fromarray(grey), transparency=0), single),
        ("a colored palette", _picture(p), many),
        ("a palette of black and white", _picture(two), {"m": labels > 0}),
        ("a palette of white and black", _picture(reversed_grey), {"m": labels > 0}),
        ("turned by its orientation", _picture(Image.fromarray(np.ascontiguousarray(np.rot90(grey, 1))), exif=exif), single),  # noqa: E501
        ("two bits", _picture(Image.fromarray(labels), bits=2), many),
        ("interlaced", _picture(Image.fromarray(grey), interlace=1), single),
        ("a text chunk", _picture(Image.fromarray(grey), pnginfo=_text_chunk()), single),
    )  # fmt: skip
    for name, write, expected in good:
        yield MaskCase(name=f"picture: {name}", write=write, expected=expected, on_slice=True)
    soft = grey.copy()
    soft[np.diff(mask.astype(int), axis=1, prepend=0) != 0] = 128
    half = np.dstack([rgb, np.where(mask, 128, 255).astype(np.uint8)])
    colors = np.dstack([labels * 80, 255 - labels * 80, labels * 0])
    noise = np.random.default_rng(1).integers(0, 256, grey.shape).astype(np.uint8)
    bad: tuple[tuple[str, Callable[[Path], Path]], ...] = (
        ("soft edges", _picture(Image.fromarray(soft))),
        ("blurred", _picture(Image.fromarray(grey).resize((22, 28), Image.Resampling.BICUBIC).resize((11, 14), Image.Resampling.BICUBIC))),  # noqa: E501
        ("noise", _picture(Image.fromarray(noise))),
        ("half transparent", _picture(Image.fromarray(half))),
        ("several colors", _picture(Image.fromarray(colors.astype(np.uint8)))),
        ("a jpeg", _picture(Image.fromarray(grey), "m.jpg", quality=70)),
        ("a printer's jpeg", _picture(Image.fromarray(rgb).convert("CMYK"), "m.jpg")),
        ("16 bits and transparency", _bytes(_sixteen_bit_with_alpha(labels), "m.png")),
        ("another shape", _picture(Image.fromarray(grey[:, :-1]))),
        ("transposed", _picture(Image.fromarray(np.ascontiguousarray(grey.T)))),
        ("all black", _picture(Image.fromarray(grey * 0))),
        ("no picture", _bytes(b"nothing", "m.png")),
        ("cut off", _bytes(_png(grey)[:-30], "m.png")),
        ("several frames", _picture(Image.fromarray(grey), save_all=True, append_images=[Image.fromarray(255 - grey)])),  # noqa: E501
    )  # fmt: skip
    for name, write in bad:
        yield MaskCase(name=f"picture: {name}", write=write, expected=None, on_slice=True)
    yield MaskCase(name="a picture on a volume", write=_picture(Image.fromarray(grey)), expected=None)


def _text_chunk() -> Any:
    info: Any = PngImagePlugin.PngInfo()
    info.add_text("Description", "made by hand")
    return info


def _png(grey: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG")
    return buffer.getvalue()


def _sixteen_bit_with_alpha(labels: np.ndarray[Any, Any]) -> bytes:
    """A 16-bit grey PNG with transparency, put together by hand: Pillow cannot write one."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = labels.shape
    pixels = np.dstack([labels.astype(">u2"), np.full(labels.shape, 65535, ">u2")])
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">2I5B", width, height, 16, 4, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def _tables() -> Iterator[MaskCase]:
    itksnap = '# comment\n0 0 0 0 0 0 0 "Clear Label"\n' + "".join(
        f'{k} 255 0 0 1 1 1 "{name}"\n' for k, name in NAMES.items()
    )
    slicer = "# Color table file\n0 background 0 0 0 0\n" + "".join(
        f"{k} {name} 10 20 30 255\n" for k, name in NAMES.items()
    )
    numbered = {str(k): name for k, name in NAMES.items()}
    good = (
        (".labels.json", json.dumps({"labels": numbered})),
        (".json", json.dumps(numbered)),
        (".json", json.dumps({"labels": {"background": 0, **{name: k for k, name in NAMES.items()}}})),
        (".json", "\ufeff" + json.dumps(numbered)),
        (".txt", itksnap),
        (".label", itksnap),
        (".ctbl", slicer),
        (".txt", slicer),
        (".tsv", "index\tname\n" + "".join(f"{k}\t{name}\n" for k, name in NAMES.items())),
    )
    image = _image(LABELS.transpose(2, 1, 0))
    for number, (ending, text) in enumerate(good):
        yield MaskCase(
            name=f"table {number} {ending}", write=_with_table(image, ending, text), expected=WHOLE
        )
    partly = json.dumps({"labels": {"1": "one", "2": "two"}})
    expected = {"one": WHOLE["one"], "two": WHOLE["two"], "label_3": WHOLE["three"]}
    yield MaskCase(
        name="a table that lacks a label",
        write=_with_table(image, ".labels.json", partly),
        expected=expected,
        said="no name for label_3",
    )
    more = json.dumps({"labels": {**numbered, "9": "nine"}})
    yield MaskCase(
        name="a table with more labels",
        write=_with_table(image, ".labels.json", more),
        expected={**WHOLE, "nine": np.zeros(SHAPE_ZYX, bool)},
    )
    for name, text in (
        ("no JSON", "{"),
        ("a list", "[1, 2]"),
        ("no labels", '{"labels": {}}'),
        ("names that are numbers", '{"labels": {"1": 1}}'),
        ("a label that is text", '{"labels": {"one": "one"}}'),
        ("a name of control characters", '{"labels": {"1": "a\\nb"}}'),
        ("deep nesting", "[" * 100_000),
    ):
        yield MaskCase(
            name=f"a table of {name}", write=_with_table(image, ".labels.json", text), expected=None
        )
    yield MaskCase(
        name="something else under the table's name",
        write=_with_table(image, ".json", '{"patient": "notes", "dose": 3}'),
        expected=NUMBERED,
    )


def _with_table(image: Any, ending: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        nibabel.save(image, folder / "m.nii.gz")
        (folder / f"m{ending}").write_text(text, encoding="utf-8")
        return folder / "m.nii.gz"

    return write


def _box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    """A rectangle whose corners lie between pixels, as COCO counts."""
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def _coco() -> Iterator[MaskCase]:
    height, width = SHAPE_ZYX[1:]
    one, two = np.zeros((height, width), bool), np.zeros((height, width), bool)
    one[2:6, 1:4], two[7:10, 5:10] = True, True
    base: dict[str, Any] = {
        "images": [{"id": 1, "width": width, "height": height, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [_box(1, 2, 4, 6)]},
            {"id": 2, "image_id": 1, "category_id": 2, "segmentation": [_box(5, 7, 10, 10)]},
        ],
    }

    def case(
        name: str,
        change: Callable[[dict[str, Any]], object],
        expected: Any,
        said: str | None = None,
        **options: Any,
    ) -> MaskCase:
        content = copy.deepcopy(base)
        change(content)
        text = json.dumps(content).encode(options.pop("encoding", "utf-8"))
        return MaskCase(
            name=f"coco: {name}",
            write=_bytes(text, "m.json"),
            expected=expected,
            on_slice=True,
            said=said,
            options=options,
        )

    both = {"one": one, "two": two}
    only_one = {"one": one}

    def second(**changes: Any) -> Callable[[dict[str, Any]], object]:
        return lambda content: content["annotations"][1].update(changes)

    def more(**entry: Any) -> Callable[[dict[str, Any]], object]:
        return lambda content: content["annotations"].append(
            {"id": 3, "image_id": 1, "category_id": 2, **entry}
        )

    yield case("plain", lambda c: None, both)
    yield case("a byte order mark", lambda c: None, both, encoding="utf-8-sig")
    yield case(
        "ids as text",
        lambda c: [a.update(image_id="1", category_id=str(a["category_id"])) for a in c["annotations"]],
        both,
    )
    yield case(
        "an image by its id as text",
        lambda c: c["images"].append({"id": 2, "width": width, "height": height, "file_name": "b.png"}),
        both,
        image="1",
    )
    yield case(
        "an image by its name",
        lambda c: c["images"].append({"id": 2, "width": width, "height": height, "file_name": "b.png"}),
        both,
        image="a.png",
    )
    yield case(
        "no word which of two images",
        lambda c: c["images"].append({"id": 2, "width": width, "height": height, "file_name": "b.png"}),
        None,
    )
    for name, segmentation in (
        ("two corners", [[1, 1, 5, 5]]),
        ("an empty polygon", [[]]),
        ("no outline", None),
        ("an empty list", []),
        ("an odd number of values", [[1, 2, 3]]),
        ("a corner that is not a number", [[1, 2, float("nan"), 3, 4, 5]]),
        ("text", [["a", "b", "c", "d", "e", "f"]]),
        ("run lengths of another size", {"size": [3, 3], "counts": [0, 9]}),
        ("run lengths that do not fill it", {"size": [height, width], "counts": [5, 7]}),
        ("negative run lengths", {"size": [height, width], "counts": [-1, height * width + 1]}),
        ("a huge size", {"size": [10**9, 10**9], "counts": [0, 10**18]}),
        ("broken compressed text", {"size": [height, width], "counts": "\u00ff"}),
        ("an object without counts", {"size": [height, width]}),
    ):
        yield case(name, second(segmentation=segmentation), only_one, "left out")
        yield case(name + " next to a good one", more(segmentation=segmentation), both, "left out")
    yield case(
        "an unlisted category", more(category_id=7, segmentation=[_box(0, 0, 2, 2)]), both, "category 7"
    )
    yield case("an unlisted image", more(image_id=9, segmentation=[_box(0, 0, 2, 2)]), both, "not listed")
    yield case("no category", lambda c: c["annotations"].append({"id": 3, "image_id": 1}), both, "left out")
    yield case("the same annotation twice", more(segmentation=[_box(5, 7, 10, 10)]), both, "united")
    yield case("a polygon without its list", second(segmentation=_box(5, 7, 10, 10)), both)
    yield case("two parts", second(segmentation=[_box(5, 7, 8, 10), _box(8, 7, 10, 10)]), both)
    yield case(
        "a category twice",
        lambda c: c["categories"][1].update(name="one"),
        {"one": one, "one_2": two},
        "twice",
    )
    yield case("another size", lambda c: c["images"][0].update(width=width + 1), None)
    for key in ("images", "annotations", "categories"):
        yield case(f"no {key}", lambda c, key=key: c.pop(key), None)
    yield case("images that are no list", lambda c: c.update(images={}), None)
    yield MaskCase(
        name="coco: deep nesting", write=_bytes(b"[" * 100_000, "m.json"), expected=None, on_slice=True
    )
