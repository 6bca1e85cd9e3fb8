"""Compressed streams, read to their end: length and checksum tell a damaged file from a whole one."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable
from typing import Any

from ctai_sam2.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"

_CHUNK = 1 << 20


def gunzip(data: bytes, *, limit: int, name: str, kind: str) -> tuple[bytes, int]:
    """Decompress a gzip stream to its end and check its checksum and length.

    Parameters
    ----------
    data : bytes
        The compressed file, from its first byte; several gzip members after each other are one stream.
    limit : int
        Bytes above which the content is refused: a small file may inflate to any size.
    name : str
        How messages call the file.
    kind : str
        What it should be, such as ``NIfTI``.

    Returns
    -------
    content : bytes
        What was compressed.
    trailing : int
        Bytes after the end of the stream that are no part of it.

    Raises
    ------
    InputError
        If the stream is damaged, ends too early or holds more than ``limit`` bytes.
    """
    return _inflate(data, lambda: zlib.decompressobj(zlib.MAX_WBITS | 16), GZIP_MAGIC, limit, name, kind)


def bunzip2(data: bytes, *, limit: int, name: str, kind: str) -> tuple[bytes, int]:
    """Decompress a bzip2 stream as `gunzip` does a gzip stream; each of its blocks has a checksum.

    Raises
    ------
    InputError
        If the stream is damaged, ends too early or holds more than ``limit`` bytes.
    """
    return _inflate(data, bz2.BZ2Decompressor, b"BZh", limit, name, kind)


def gunzip_start(data: bytes, count: int, *, name: str, kind: str) -> bytes:
    """Decompress the first ``count`` bytes of a gzip stream, to see what the rest should be.

    Raises
    ------
    InputError
        If the stream is damaged before that.
    """
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data[: count + _CHUNK], count)
    except zlib.error as error:
        raise damaged_stream(name, kind, "its compressed data does not match its checksum") from error


def surplus_warnings(body: bytes, size: int, *, name: str, kind: str) -> list[str]:
    """Hold a file's voxels against the size that its header declares; the warnings say what is left over.

    Raises
    ------
    InputError
        If the body is shorter.
    """
    if len(body) < size:
        raise InputError(
            f"{name} is not a readable {kind} file (truncated)",
            received=f"{len(body)} of {size} bytes",
            hint="Something cut it off on its way: copy or export it again.",
        )
    surplus = len(body) - size
    return [f"{surplus} bytes after the last voxel were left out"] if surplus else []


def damaged_stream(name: str, kind: str, cause: str) -> InputError:
    """Make the error for a compressed file that is not whole."""
    return InputError(
        f"{name} is not a readable {kind} file ({cause})",
        hint="It was damaged or cut off on its way: copy or export it again",
    )


def _inflate(
    data: bytes, decompressor: Callable[[], Any], magic: bytes, limit: int, name: str, kind: str
) -> tuple[bytes, int]:
    parts: list[bytes] = []
    size = 0
    rest: Any = memoryview(data)
    while True:
        stream = decompressor()
        while not stream.eof:
            piece, rest = rest[:_CHUNK], rest[_CHUNK:]
            if not piece:
                raise damaged_stream(name, kind, "its compressed data ends too early")
            try:
                while not stream.eof:
                    grown = stream.decompress(piece, max(1, limit + 1 - size))
                    size += len(grown)
                    parts.append(grown)
                    if size > limit:
                        raise InputError(
                            f"{name} holds more than its header declares",
                            received=f"more than {limit} bytes",
                            hint="Export it again.",
                        )
                    piece = getattr(stream, "unconsumed_tail", b"")
                    if not piece and getattr(stream, "needs_input", True):
                        break
            except InputError:
                raise
            except (zlib.error, OSError, EOFError, ValueError) as error:
                raise damaged_stream(name, kind, "its compressed data does not match its checksum") from error
        rest = memoryview(bytes(stream.unused_data) + bytes(rest)) if stream.unused_data else rest
        if bytes(rest[: len(magic)]) != magic:
            break
    return b"".join(parts), len(bytes(rest).rstrip(b"\0"))
