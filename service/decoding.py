"""What runs in a worker process. Imports no more than decoding needs."""

from __future__ import annotations

import importlib
import math
import sys
from typing import Any

from ctai_sam2.io.uploads import Upload, decode_upload

resource: Any
try:
    import resource
except ImportError:  # there is none on Windows
    resource = None


def prepare() -> None:
    """Import what decoders import late, which counts neither as their time nor as their memory."""
    for name in ("PIL.JpegImagePlugin", "PIL.PngImagePlugin", "pydicom.pixels"):
        importlib.import_module(name)


def decode_within(data: bytes, max_pixels: int, max_bytes: int, timeout_s: float) -> Upload:
    """Decode an image; this process may take so much more memory and processor time, and is killed beyond."""
    if resource is not None:
        used_s = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used_s + timeout_s), resource.RLIM_INFINITY))
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            used_bytes = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes + max_bytes, resource.RLIM_INFINITY))
    return decode_upload(data, max_pixels=max_pixels)
