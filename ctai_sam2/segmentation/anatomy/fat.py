"""Fat by rule: where it lies relative to skin, fascia, muscle and cavity, and its HU."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ctai_sam2.image.masks import grow, shrink
from ctai_sam2.measure.definitions import TissueDefinitions
from ctai_sam2.segmentation.anatomy.axial import AxialAnatomy
from ctai_sam2.segmentation.compartments import fat_within
from ctai_sam2.types import CTSlice, Mask

Fat: TypeAlias = Literal["sat", "vat", "imat"]

_SKIN_MM = 1.5
_BETWEEN_FIBRES_MM = 4.0


def find_fat(
    ct_slice: CTSlice, anatomy: AxialAnatomy, muscle: Mask, definitions: TissueDefinitions
) -> dict[Fat, Mask]:
    """Divide a slice's fat into subcutaneous, visceral and intermuscular.

    No model is used: subcutaneous is fat between skin and fascia, visceral fat inside the cavity,
    intermuscular fat between fascia and cavity no further than 4 mm from muscle.

    Parameters
    ----------
    ct_slice : CTSlice
        The slice.
    anatomy : AxialAnatomy
        Its layers.
    muscle : ndarray of bool, shape (H, W)
        Skeletal muscle on the slice.
    definitions : TissueDefinitions
        HU ranges.

    Returns
    -------
    dict of str to ndarray of bool, shape (H, W)
        ``sat``, ``vat`` and ``imat``; they do not overlap each other nor the muscle.
    """
    grid, trunk = anatomy.grid, anatomy.trunk
    body = shrink(grid.mask_to_slice(trunk.body), _SKIN_MM, ct_slice.spacing_mm)
    fascia, cavity = grid.mask_to_slice(trunk.fascia), grid.mask_to_slice(trunk.cavity)
    spine = grid.mask_to_slice(anatomy.spine)
    compartment = muscle | grid.mask_to_slice(anatomy.muscle)
    compartment = shrink(
        grow(compartment, _BETWEEN_FIBRES_MM, ct_slice.spacing_mm), _BETWEEN_FIBRES_MM, ct_slice.spacing_mm
    )
    between = fascia & ~cavity & ~spine & compartment
    places: dict[Fat, Mask] = {"sat": body & ~fascia, "vat": cavity, "imat": between}
    return fat_within(places, ct_slice.hu, muscle, ct_slice.spacing_mm, definitions)
