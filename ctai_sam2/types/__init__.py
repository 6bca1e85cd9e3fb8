"""Values that travel between rooms: slices, volumes, prompts, predictions.

All are frozen, keyword-only and valid once constructed. Arrays are stored as
read-only views or copies, so a value never changes behind its holder's back.

Coordinates: ``x`` is the column, ``y`` the row, pixel (0, 0) is the first one
and integer coordinates are pixel centres. Patient coordinates are DICOM LPS in
mm: +x to the patient's left, +y posterior, +z towards the head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from ctai_sam2.types.ct import PLANES, Acquisition, CTSlice, CTVolume, Plane, Window
from ctai_sam2.types.predictions import Health, ModelIdentity, Prediction
from ctai_sam2.types.prompts import MAX_POINTS, Mask, Prompt

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with what is done, the total, and the name of what comes next: one shape for every function."""

SliceSource: TypeAlias = Literal["anchor", "automatic", "propagated", "interpolated", "absent"]
SliceGate: TypeAlias = Literal["green", "amber", "red"]
"""Where a mask of a volume comes from on a slice, and how plausible it is next to its neighbours."""

__all__ = [
    "MAX_POINTS",
    "PLANES",
    "Acquisition",
    "CTSlice",
    "CTVolume",
    "Health",
    "Mask",
    "ModelIdentity",
    "Plane",
    "Prediction",
    "Progress",
    "Prompt",
    "SliceGate",
    "SliceSource",
    "Window",
]
