"""The header of a compressed image: size and bits of a value, read without decoding it."""

from __future__ import annotations

import struct
from typing import NamedTuple

_JPEG_2000 = b"\xff\x4f\xff\x51"
_JPEG = b"\xff\xd8"
_FILL, _START_OF_SCAN, _JPEG_LS_FRAME = 0xFF, 0xDA, 0xF7


class CodestreamHeader(NamedTuple):
    """What a stream says of its image: (rows, columns), and bits of a value where it says so."""

    shape_hw: tuple[int, int]
    precision: int | None


def read_codestream_header(stream: bytes) -> CodestreamHeader | None:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 stream.

    Markers are those of ITU-T T.81 (SOF), T.87 (SOF55) and T.800 (SIZ).

    Returns
    -------
    CodestreamHeader or None
        None for other streams, such as RLE, whose size the DICOM header alone states.

    Examples
    --------
    >>> read_codestream_header(bytes.fromhex("ffd8ffc0000b080200010001011100"))
    CodestreamHeader(shape_hw=(512, 256), precision=8)
    """
    if stream[:4] == _JPEG_2000 and len(stream) >= 24:
        right, bottom, left, top = struct.unpack(">4I", stream[8:24])
        precision = (stream[42] & 0x7F) + 1 if len(stream) > 42 else None
        return CodestreamHeader((max(0, bottom - top), max(0, right - left)), precision)
    if stream[:2] != _JPEG:
        return None
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if _is_frame(marker):
            rows, columns = struct.unpack(">2H", stream[at + 5 : at + 9])
            return CodestreamHeader((rows, columns), stream[at + 4])
        if marker == _START_OF_SCAN:
            return None
        at += 1 if marker == _FILL else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None


def _is_frame(marker: int) -> bool:
    return (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == _JPEG_LS_FRAME
