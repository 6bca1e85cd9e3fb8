"""Segmenters: a slice and a prompt go in, candidate masks come out.

Importing this loads neither torch nor sam2; `open_segmenter` builds what the
settings ask for, and the model is loaded with the first prediction.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctai_sam2.segmenters.base import Prefetching, Segmenter
    from ctai_sam2.segmenters.cached import CachedSegmenter
    from ctai_sam2.segmenters.fallback import FallbackSegmenter
    from ctai_sam2.segmenters.local import LocalSegmenter
    from ctai_sam2.segmenters.opening import SegmenterKind, open_segmenter
    from ctai_sam2.segmenters.remote import RemoteSegmenter
    from ctai_sam2.segmenters.weights import ModelStore

_HOME = {
    "CachedSegmenter": "cached",
    "FallbackSegmenter": "fallback",
    "LocalSegmenter": "local",
    "ModelStore": "weights",
    "Prefetching": "base",
    "RemoteSegmenter": "remote",
    "Segmenter": "base",
    "SegmenterKind": "opening",
    "open_segmenter": "opening",
}

__all__ = [
    "CachedSegmenter",
    "FallbackSegmenter",
    "LocalSegmenter",
    "ModelStore",
    "Prefetching",
    "RemoteSegmenter",
    "Segmenter",
    "SegmenterKind",
    "open_segmenter",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
