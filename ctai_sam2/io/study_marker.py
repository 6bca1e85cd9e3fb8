"""Which study a results folder belongs to, so that results of two never mix.

A folder that a command writes into holds a small hidden file with fingerprints of the study's slices. They
are made from pixels; nothing in them leads back to a patient.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from ctai_sam2.errors import InputError
from ctai_sam2.io.atomic import write_json
from ctai_sam2.types import CTSlice, CTVolume

MARKER_NAME = ".ctai-sam2-study.json"
_VERSION = 1
_HEX_DIGITS = 16


def claim_folder(folder: Path, image: CTSlice | CTVolume) -> None:
    """Mark a results folder as that of an image's study.

    A slice belongs to the study whose volume holds it. A marker that cannot be read is replaced.

    Raises
    ------
    InputError
        If the folder holds results of another study.
    StorageError
        If the marker cannot be written.
    """
    own = slice_fingerprints(image)
    marker = folder / MARKER_NAME
    stated = _stated(marker)
    if stated is not None:
        if stated & set(own):
            own = sorted(stated | set(own))
        else:
            raise InputError(
                f"the folder {folder.name} holds results of another study",
                hint="Choose another folder with --out, so that results of two patients do not mix.",
            )
    write_json(marker, {"version": _VERSION, "slices": own})


def slice_fingerprints(image: CTSlice | CTVolume) -> list[str]:
    """Return fingerprints of a slice or of a volume's axial slices, in hex, sorted; empty slices left out.

    Examples
    --------
    >>> len(slice_fingerprints(CTSlice(hu=np.eye(4), spacing_mm=(1.0, 1.0))))
    1
    """
    planes = [image.hu] if isinstance(image, CTSlice) else list(image.hu_zyx)
    found = {
        hashlib.sha256(
            f"{plane.shape} ".encode() + np.ascontiguousarray(plane, dtype="<f4").tobytes()
        ).hexdigest()[:_HEX_DIGITS]
        for plane in planes
        if plane.min() != plane.max()
    }
    # A study of nothing but empty slices is told from others by its shape alone.
    return sorted(found) or [f"empty {len(planes)} {planes[0].shape}"]


def _stated(marker: Path) -> set[str] | None:
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        if content["version"] == _VERSION:
            return {str(one) for one in content["slices"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None
