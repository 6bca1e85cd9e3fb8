"""The page side's widget: its JavaScript modules as one, and what they exchange with Python in bulk."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray

_FOLDER = Path(__file__).with_name("page")
_MODULES = (
    "input",
    "greys",
    "session",
    "picture",
    "pointer",
    "keys",
    "layout",
    "bundle",
    "roles",
    "companion",
)
"""In the order in which they need each other; no two have a name at their top level in common."""

_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)


def joined_modules() -> str:
    """Return the page side's modules as the single one that a widget can have."""
    sources = [(_FOLDER / f"{name}.mjs").read_text(encoding="utf-8") for name in _MODULES]
    return "\n".join(_IMPORT.sub("", source) for source in sources)


class Companion(anywidget.AnyWidget):
    """The front-end that draws gestures and reports pointers, wheel and keys; it shows no controls itself."""

    _esm = joined_modules()
    width = traitlets.Int().tag(sync=True)
    height = traitlets.Int().tag(sync=True)
    shortcuts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    fills = traitlets.Bool().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    """What changes now and then: tool, window, zoom; in one piece."""
    index = traitlets.Int().tag(sync=True)
    """Slice in view."""
    line = traitlets.Float().tag(sync=True)
    """Where it cuts the localiser, in percent of its height."""
    taken = traitlets.Int().tag(sync=True)
    """Number of the last message that was taken."""
    bundles = traitlets.Int().tag(sync=True)
    """Number of the last bundle that was sent."""
    layers = traitlets.List(traitlets.Unicode()).tag(sync=True)


def pack_pixels(hu: NDArray[Any]) -> tuple[str, bytes]:
    """Pack Hounsfield units for the page, without loss for what `window_to_uint8` makes of them.

    Parameters
    ----------
    hu : ndarray, shape (H, W)
        Hounsfield units, finite.

    Returns
    -------
    dtype : {"int16", "float32"}
        int16 where all values are such integers.
    packed : bytes
        Deflated: of int16 all low bytes, then all high ones, which makes them smaller.
    """
    whole = hu.astype("<i2") if np.abs(hu).max(initial=0) < 2**15 else None
    if whole is not None and np.array_equal(whole, hu):
        planes = np.ascontiguousarray(whole).view(np.uint8).reshape(-1, 2).T
        return "int16", zlib.compress(planes.tobytes(), 1)
    return "float32", zlib.compress(hu.astype("<f4").tobytes(), 1)
