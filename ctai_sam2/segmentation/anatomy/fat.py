"""Fat by rule: where it lies relative to skin, fascia, muscle and cavity, and its HU."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.image.masks import grow, remove_islands, shrink
from ctai_sam2.measure.definitions import HuRange, TissueDefinitions
from ctai_sam2.segmentation.anatomy.axial import AxialAnatomy
from ctai_sam2.types import CTSlice, Mask

Fat: TypeAlias = Literal["sat", "vat", "imat"]

_SKIN_MM = 1.5
_BETWEEN_FIBRES_MM = 4.0
_SMALLEST_MM2 = 6.0


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
    smallest_px = int(np.ceil(_SMALLEST_MM2 / ct_slice.pixel_area_mm2))
    found: dict[Fat, Mask] = {}
    for name, place in places.items():
        fat = _within(ct_slice.hu, getattr(definitions, name)) & place & ~muscle
        found[name] = remove_islands(fat, smallest_px)
    return found


def _within(hu: NDArray[Any], limits: HuRange) -> Mask:
    return np.asarray((hu >= limits.low_hu) & (hu <= limits.high_hu), dtype=bool)
