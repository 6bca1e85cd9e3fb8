"""Hounsfield units to grey values."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.types import Window

SOFT_TISSUE = Window(level=40.0, width=400.0)
"""The default window of every segmenter."""

PRESETS = MappingProxyType(
    {
        "soft tissue": SOFT_TISSUE,
        "muscle": Window(level=50.0, width=250.0),
        "fat": Window(level=-70.0, width=250.0),
        "bone": Window(level=400.0, width=1800.0),
        "lung": Window(level=-600.0, width=1500.0),
    }
)
"""Windows offered by name in the editors."""


def window_to_uint8(hu: NDArray[Any], window: Window = SOFT_TISSUE) -> NDArray[np.uint8]:
    """Map HU linearly to 0…255, clipping outside the window.

    Parameters
    ----------
    hu : ndarray, any shape
        Hounsfield units, integer or float, finite.
    window : Window
        ``window.low_hu`` becomes 0 and ``window.high_hu`` becomes 255.

    Returns
    -------
    ndarray of uint8
        Same shape, rounded to the nearest grey value.

    Examples
    --------
    >>> window_to_uint8(np.array([-1024, -160, 40, 240, 3000]))
    array([  0,   0, 128, 255, 255], dtype=uint8)
    """
    scaled = (np.asarray(hu, dtype=np.float32) - window.low_hu) * (255.0 / window.width)
    grey: NDArray[np.uint8] = np.floor(np.clip(scaled, 0.0, 255.0) + 0.5).astype(np.uint8)
    return grey
