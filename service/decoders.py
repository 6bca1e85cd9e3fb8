"""What runs in a worker process. Imports no more than decoding needs."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ctai_sam2.io.uploads import Upload, decode_upload

resource: Any
try:
    import resource
except ImportError:  # there is none on Windows
    resource = None

_LONG_BYTES = 1 << 16
_NICENESS = 5
"""The model gets three times as much of a processor. Much more, and other programs on a busy machine would
keep an image from being decoded at all.
"""


def prepare() -> None:
    """Import what decoders import late, which counts neither as their time nor as their memory; give way.

    Where processors are scarce, the model and its clients come before what has still to be read.
    """
    for name in ("PIL.JpegImagePlugin", "PIL.PngImagePlugin", "pydicom.pixels", f"{__package__}.bodies"):
        importlib.import_module(name)
    if hasattr(os, "setpriority") and os.getpriority(os.PRIO_PROCESS, 0) < _NICENESS:
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)


def decode_within(data: bytes, max_pixels: int, max_bytes: int, timeout_s: float) -> Upload:
    """Decode an image; this process may take so much more memory and processor time, and is killed beyond."""
    with _bounded(max_bytes, timeout_s):
        return decode_upload(data, max_pixels=max_pixels)


def parse_within(body: bytes, content_type: str | None, max_bytes: int, timeout_s: float) -> Any:
    """Parse a form, or JSON where there is no content type, within the same bounds.

    What is long stays where it is: in its place stands a slice of the body. The way back is slow.
    """
    from .bodies import FilePart, parse_form, parse_json

    with _bounded(max_bytes, timeout_s):
        if content_type is not None:
            return [
                (name, part if isinstance(part, str) else FilePart(_slice_of(body, part.content)))
                for name, part in parse_form(body, content_type)
            ]
        value = parse_json(body)
        if not isinstance(value, dict):
            return value
        texts = {name: one for name, one in value.items() if isinstance(one, str)}
        return {**value, **{name: _slice_of(body, one.encode(), one) for name, one in texts.items()}}


def _slice_of(body: bytes, content: bytes, otherwise: Any = None) -> Any:
    start = body.find(content) if len(content) > _LONG_BYTES else -1
    if start < 0:  # short, or written with escapes
        return content if otherwise is None else otherwise
    return slice(start, start + len(content))


@contextmanager
def _bounded(max_bytes: int, timeout_s: float) -> Iterator[None]:
    if resource is not None:
        used_s = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used_s + timeout_s), resource.RLIM_INFINITY))
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            used_bytes = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes + max_bytes, resource.RLIM_INFINITY))
    try:
        yield
    except Exception:
        raise
    except BaseException as error:  # what is written in Rust panics without memory, and that cannot be sent
        raise MemoryError(type(error).__name__) from None
