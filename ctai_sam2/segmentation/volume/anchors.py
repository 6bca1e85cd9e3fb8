"""Slices that a reader has decided about: their masks are kept as they are, and guide their neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctai_sam2.errors import InputError
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTVolume, Mask


@dataclass(frozen=True, kw_only=True, eq=False)
class VolumeAnchor:
    """A structure's mask on one slice, drawn or confirmed by a reader.

    Parameters
    ----------
    structure : str
        One of `ctai_sam2.structures.AXIAL_STRUCTURES`.
    axial_index : int
        0 is the most inferior slice.
    mask : ndarray of bool, shape (H, W)
        The mask; an empty one says that the structure is absent on this slice.
    """

    structure: Structure
    axial_index: int
    mask: Mask

    def require_within(self, volume: CTVolume) -> None:
        """Check the anchor against the volume it is for.

        Raises
        ------
        InputError
            If there is no such slice, or the mask is not boolean or of another shape.
        """
        depth, *shape_hw = volume.shape_zyx
        if not 0 <= self.axial_index < depth:
            raise InputError(
                "an anchor's slice is outside the volume",
                received=self.axial_index,
                hint=f"The volume has slices 0 to {depth - 1}.",
            )
        mask = np.asarray(self.mask)
        if mask.dtype != np.bool_ or list(mask.shape) != shape_hw:
            raise InputError(
                "an anchor's mask must be boolean and of the slice's shape",
                received=f"{mask.dtype} {mask.shape}",
                hint=f"The slices have {shape_hw[0]} x {shape_hw[1]} pixels.",
            )
