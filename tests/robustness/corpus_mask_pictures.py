"""Masks in pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from tests.robustness.mask_case import LABELS, NAMES, ON_SLICE, MaskCase, Z, bytes_of, picture_of


def pictures() -> Iterator[MaskCase]:
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
        ("black and white", picture_of(Image.fromarray(grey)), single),
        ("0 and 1", picture_of(Image.fromarray(grey // 255)), single),
        ("0 and 128", picture_of(Image.fromarray(grey // 2)), single),
        ("one bit", picture_of(Image.fromarray(mask)), single),
        ("16 bits", picture_of(Image.fromarray(grey.astype(np.uint16) * 257)), single),
        ("16-bit labels", picture_of(Image.fromarray(labels.astype(np.uint16))), many),
        ("labels", picture_of(Image.fromarray(labels)), many),
        ("rgb", picture_of(Image.fromarray(rgb)), single),
        ("one color on black", picture_of(Image.fromarray(red)), single),
        ("a mask in the transparency", picture_of(Image.fromarray(np.dstack([white, grey]), "LA")), single),
        ("rgba, white, transparent outside", picture_of(Image.fromarray(np.dstack([white] * 3 + [grey]))), single),  # noqa: E501
        ("rgba, opaque", picture_of(Image.fromarray(np.dstack([rgb, white]))), single),
        ("rgba, black, transparent outside", picture_of(Image.fromarray(np.dstack([white * 0] * 3 + [grey]))), single),  # noqa: E501
        ("white made transparent", picture_of(Image.fromarray(np.where(mask, 128, 255).astype(np.uint8)), transparency=255), single),  # noqa: E501
        ("black made transparent", picture_of(Image.fromarray(grey), transparency=0), single),
        ("a colored palette", picture_of(p), many),
        ("a palette of black and white", picture_of(two), {"m": labels > 0}),
        ("a palette of white and black", picture_of(reversed_grey), {"m": labels > 0}),
        ("turned by its orientation", picture_of(Image.fromarray(np.ascontiguousarray(np.rot90(grey, 1))), exif=exif), single),  # noqa: E501
        ("two bits", picture_of(Image.fromarray(labels), bits=2), many),
        ("interlaced", picture_of(Image.fromarray(grey), interlace=1), single),
        ("a text chunk", picture_of(Image.fromarray(grey), pnginfo=_text_chunk()), single),
    )  # fmt: skip
    for name, write, expected in good:
        yield MaskCase(name=f"picture: {name}", write=write, expected=expected, on_slice=True)
    soft = grey.copy()
    soft[np.diff(mask.astype(int), axis=1, prepend=0) != 0] = 128
    half = np.dstack([rgb, np.where(mask, 128, 255).astype(np.uint8)])
    colors = np.dstack([labels * 80, 255 - labels * 80, labels * 0])
    noise = np.random.default_rng(1).integers(0, 256, grey.shape).astype(np.uint8)
    bad: tuple[tuple[str, Callable[[Path], Path]], ...] = (
        ("soft edges", picture_of(Image.fromarray(soft))),
        ("blurred", picture_of(Image.fromarray(grey).resize((22, 28), Image.Resampling.BICUBIC).resize((11, 14), Image.Resampling.BICUBIC))),  # noqa: E501
        ("noise", picture_of(Image.fromarray(noise))),
        ("half transparent", picture_of(Image.fromarray(half))),
        ("several colors", picture_of(Image.fromarray(colors.astype(np.uint8)))),
        ("a jpeg", picture_of(Image.fromarray(grey), "m.jpg", quality=70)),
        ("a printer's jpeg", picture_of(Image.fromarray(rgb).convert("CMYK"), "m.jpg")),
        ("16 bits and transparency", bytes_of(_sixteen_bit_with_alpha(labels), "m.png")),
        ("another shape", picture_of(Image.fromarray(grey[:, :-1]))),
        ("transposed", picture_of(Image.fromarray(np.ascontiguousarray(grey.T)))),
        ("all black", picture_of(Image.fromarray(grey * 0))),
        ("no picture", bytes_of(b"nothing", "m.png")),
        ("cut off", bytes_of(_png(grey)[:-30], "m.png")),
        ("several frames", picture_of(Image.fromarray(grey), save_all=True, append_images=[Image.fromarray(255 - grey)])),  # noqa: E501
    )  # fmt: skip
    for name, write in bad:
        yield MaskCase(name=f"picture: {name}", write=write, expected=None, on_slice=True)
    yield MaskCase(name="a picture on a volume", write=picture_of(Image.fromarray(grey)), expected=None)


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
