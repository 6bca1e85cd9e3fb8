"""Where a slice lies: its position along the patient, and lines where other slices cut it."""

from __future__ import annotations

import numpy as np

from ctai_sam2.editor.document import Document
from ctai_sam2.types import CTVolume

_AXES = {"axial": ("z", 2), "sagittal": ("x", 0), "coronal": ("y", 1)}


def position_mm(document: Document) -> tuple[str, float] | None:
    """Patient axis along which the slices of a volume follow, and the slice's place on it in mm.

    Axes are those of `CTVolume`: +x to the patient's left, +y to the back, +z towards the head. None where
    the geometry is not known.
    """
    ct_slice = document.slice
    if ct_slice.affine is None or ct_slice.plane not in _AXES:
        return None
    letter, axis = _AXES[ct_slice.plane]
    return letter, float(np.asarray(ct_slice.affine)[axis, 3])


def row_of_axial(volume: CTVolume, axial_index: int) -> int:
    """Row of the volume's sagittal and coronal slices at which an axial slice cuts them."""
    return int(volume.shape_zyx[0]) - 1 - axial_index
