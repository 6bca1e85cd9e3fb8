"""Uploaded images: what is taken, and that nothing is allocated for what is not."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import JPEG2000Lossless, RLELossless

from ctai_sam2.errors import InputError
from ctai_sam2.io.codestream import read_codestream_header
from ctai_sam2.io.uploads import decode_upload
from ctai_sam2.types import Window
from tests.unit.io.making import ct_dataset, save

GREY = (np.arange(40 * 32) % 256).astype(np.uint8).reshape(40, 32)


def picture(array: np.ndarray, kind: str = "PNG") -> bytes:
    target = io.BytesIO()
    Image.fromarray(array).save(target, kind)
    return target.getvalue()


def dicom(folder: Path, syntax: object = None, **changes: object) -> bytes:
    stored = np.random.default_rng(1).integers(0, 4000, (40, 32)).astype(np.int16)
    dataset = ct_dataset(stored, **changes)
    path = save(dataset, folder / "x.dcm")
    if syntax is not None:
        dataset.compress(syntax)
        save(dataset, path)
    return path.read_bytes()


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
        + chunk(b"IEND", b"")
    )


def test_a_png_comes_back_as_it_was() -> None:
    upload = decode_upload(picture(GREY))
    assert upload.kind == "png"
    np.testing.assert_array_equal(upload.to_grey(Window(level=0, width=9)), GREY)


def test_sixteen_bit_is_scaled_to_eight() -> None:
    upload = decode_upload(picture(GREY.astype(np.uint16) * 257))
    np.testing.assert_array_equal(upload.to_grey(), GREY)


def test_a_jpeg_is_taken() -> None:
    upload = decode_upload(picture(np.full((40, 32), 90, np.uint8), "JPEG"))
    assert upload.kind == "jpeg"
    assert abs(upload.to_grey().astype(int) - 90).max() <= 1


@pytest.mark.parametrize("syntax", [None, JPEG2000Lossless, RLELossless])
def test_dicom_is_windowed_from_hu(tmp_path: Path, syntax: object) -> None:
    upload = decode_upload(dicom(tmp_path, syntax))
    stored = np.random.default_rng(1).integers(0, 4000, (40, 32)).astype(int)
    np.testing.assert_array_equal(upload.pixels, stored - 1024)
    assert (upload.to_grey(Window(level=0, width=100)) == 255).mean() > 0.5
    assert upload.to_grey().dtype == np.uint8


def test_dicom_without_spacing_is_taken_because_nothing_is_measured(tmp_path: Path) -> None:
    assert decode_upload(dicom(tmp_path, PixelSpacing=None)).pixels.shape == (40, 32)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "neither PNG, JPEG nor DICOM"),
        (b"%PDF-1.7 and so on", "neither PNG, JPEG nor DICOM"),
        (picture(GREY)[:60], "not a readable"),
        (picture(np.stack([GREY, GREY // 2, GREY], 2)), "coloured"),
        (bomb(60_000, 60_000), "larger than a CT slice"),
        (bomb(8000, 8000), "larger than a CT slice"),
    ],
)
def test_what_cannot_be_used_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        decode_upload(data)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"Rows": 65535, "Columns": 65535}, "impossible image"),
        ({"Rows": 8000, "Columns": 8000}, "larger than a CT slice"),
        ({"NumberOfFrames": "2000000000"}, "several images"),
        ({"Rows": 4000, "Columns": 4000}, "truncated"),
        ({"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "cannot be used"),
    ],
)
def test_a_declared_size_costs_no_memory(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    data = dicom(tmp_path, **changes)
    tracemalloc.start()
    with pytest.raises(InputError, match=sentence):
        decode_upload(data)
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


def test_a_stream_larger_than_its_header_is_refused(tmp_path: Path) -> None:
    data = dicom(tmp_path, JPEG2000Lossless)
    at = data.index(b"\xff\x4f\xff\x51") + 8
    with pytest.raises(InputError, match="larger than a CT slice"):
        decode_upload(data[:at] + struct.pack(">2I", 60_000, 60_000) + data[at + 8 :])
    with pytest.raises(InputError, match="another size"):
        decode_upload(data[:at] + struct.pack(">2I", 60, 60) + data[at + 8 :])


def test_deflated_dicom_is_refused_unread(tmp_path: Path) -> None:
    data = dicom(tmp_path).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    with pytest.raises(InputError, match="deflated"):
        decode_upload(data)


def test_headers_of_streams() -> None:
    assert read_codestream_header(picture(GREY, "JPEG")) == ((40, 32), 8)
    assert read_codestream_header(b"\x00\x01\x02") is None
    assert read_codestream_header(b"\xff\xd8\xff\xda\x00\x08" + bytes(20)) is None


@cache
def samples() -> list[bytes]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        return [
            picture(GREY),
            picture(GREY, "JPEG"),
            dicom(folder),
            dicom(folder, JPEG2000Lossless),
            dicom(folder, RLELossless),
        ]


@settings(max_examples=300, deadline=None)
@given(
    which=st.integers(0, 4),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    cut=st.none() | st.integers(0, 10_000),
)
def test_damage_raises_one_of_our_errors(which: int, changes: list[tuple[int, int]], cut: int | None) -> None:
    damaged = bytearray(samples()[which])
    for at, value in changes:
        damaged[at % len(damaged)] = value
    try:
        upload = decode_upload(bytes(damaged[:cut]), max_pixels=100_000)
    except InputError:
        return
    assert upload.to_grey().ndim == 2
