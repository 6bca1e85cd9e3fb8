"""Pictures and uploads."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.io import decode_upload, read_slice
from ctai_sam2.types import Window
from tests.robustness.dicom_making import dataset, pack, save
from tests.robustness.image_case import NAME, SIZE, ImageCase, body, put


def _png(array: np.ndarray[Any, Any], mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def pictures() -> Iterator[ImageCase]:
    grey = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
    window = Window(level=40, width=400)
    right = (window.low_hu + grey.astype(np.float64) * (400 / 255)).astype(np.float32)
    png = _png(grey)

    def read_with(spacing: Any, **options: Any) -> Callable[[Path], Any]:
        return lambda path: read_slice(path, **{"window": window, "spacing_mm": spacing, **options})

    def add(
        name: str, content: bytes, read: Callable[[Path], Any], expected: Any = None, **more: Any
    ) -> ImageCase:
        return ImageCase(
            name=f"picture, {name}",
            write=lambda folder: put(folder / "a.png", content),
            read=read,
            expected=expected,
            **more,
        )

    yield add("plain", png, read_with((0.8, 0.8)), right)
    wide = grey.astype(np.uint16) * 257
    yield add("of 16 bits", _png(wide), read_with((0.8, 0.8)), right)
    for spacing in ((8, 8), (80, 80), (0.08, 0.08), (0, 1), (-1, 1), (float("nan"), 1), (1, float("inf"))):
        yield add(f"spacing {spacing}", png, read_with(spacing), error=(GeometryError, InputError))
    yield add("no spacing", png, read_with(None), error=InputError, words="not specified: spacing_mm")
    yield add(
        "no window", png, read_with((1, 1), window=None), error=InputError, words="not specified: window"
    )
    colour = np.stack([grey, grey, 255 - grey], axis=-1)
    yield add("in colour", _png(colour), read_with((1, 1)), error=InputError, words="coloured")
    for keep in (0, 10, 40, len(png) // 2, len(png) - 20):
        yield add(f"{keep} bytes", png[:keep], read_with((1, 1)), error=InputError)
    for number in range(8):
        broken = bytearray(png)
        broken[50 + 12 * number] ^= 0x10
        yield add(f"byte {number} broken", bytes(broken), read_with((1, 1)), error=InputError)
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    bomb = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    yield add(
        "60000 pixels a side", bomb, read_with((1, 1)), error=InputError, words="larger than a CT slice"
    )

    def upload(name: str, content: bytes, expected: Any = None, **more: Any) -> ImageCase:
        return ImageCase(
            name=f"upload, {name}",
            write=lambda folder: put(folder / "a", content),
            read=lambda path: decode_upload(path.read_bytes()).pixels,
            expected=expected,
            **more,
        )

    yield upload("PNG", png, grey)
    yield upload("in colour", _png(colour), error=InputError)
    yield upload("nothing", b"", error=InputError)
    yield upload("text", b"hello" * 40, error=InputError)
    yield upload("large", bomb, error=InputError)
    yield upload("half", png[: len(png) // 2], error=InputError)
    hu = body()
    top = pack(hu.astype(np.int32) + 1024, 12, 4)
    for name, changes, expected in (
        ("DICOM", {}, hu),
        ("DICOM of 12 bits at the top", {"BitsStored": 12, "HighBit": 15, "PixelData": top}, hu),
        ("DICOM without a slope", {"RescaleSlope": None}, hu),
        ("DICOM without an intercept", {"RescaleIntercept": None}, None),
        ("DICOM of another kind", {"Modality": NAME}, None),
        ("DICOM of several frames", {"NumberOfFrames": 3}, None),
        ("DICOM larger than it is", {"Rows": 4000, "Columns": 3500}, None),
        ("DICOM without pixels", {"Rows": 0}, None),
    ):
        yield ImageCase(
            name=f"upload, {name}",
            write=lambda folder, changes=changes: save(dataset(hu, **changes), folder / "a"),
            read=lambda path: decode_upload(path.read_bytes()).pixels,
            expected=expected,
            error=InputError if expected is None else None,
        )
