"""An image of which the vertebrae are known: the one form that drawn, phantom and real images share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.segmentation.levels.labels import LEVEL_CLASSES, TISSUE_CLASSES
from ctai_sam2.training.levels.canvas import NO_LEVEL, Tissue
from ctai_sam2.training.levels.drawn import DrawnSpine

UNKNOWN = 254
"""Where a target is not known and nothing is learnt."""

_BODY, _DISC, _SACRUM, _CANAL, _POSTERIOR = range(1, len(TISSUE_CLASSES))
_DENSE_OF_DRAWN = np.zeros(256, np.uint8)
_DENSE_OF_DRAWN[[Tissue.BODY, Tissue.BODY_CORTEX]] = _BODY
_DENSE_OF_DRAWN[[Tissue.DISC]] = _DISC
_DENSE_OF_DRAWN[[Tissue.SACRUM, Tissue.SACRUM_CORTEX]] = _SACRUM
_DENSE_OF_DRAWN[[Tissue.CANAL, Tissue.EPIDURAL_FAT]] = _CANAL
_DENSE_OF_DRAWN[[Tissue.POSTERIOR, Tissue.POSTERIOR_CORTEX]] = _POSTERIOR


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownImage:
    """One image at one millimetre a pixel with its targets.

    Parameters
    ----------
    pixels : ndarray of int16 or uint8, shape (h, w)
        HU, or labels of which `contrast` says what they are.
    contrast : {"hu", "drawn", "tissue"}
        ``drawn``: values of `Tissue`; ``tissue``: arbitrary labels that get random contrast.
    dense : ndarray of uint8, shape (h, w)
        Index into `TISSUE_CLASSES`, or `UNKNOWN`.
    level : ndarray of uint8, shape (h, w)
        Index into `LEVEL_CLASSES`, `NO_LEVEL` or `UNKNOWN`.
    centres_xyl : ndarray of float32, shape (n, 3)
        Column, row and level of bodies and S1; -1 where the level is not known.
    row_mm : float
        Distance of the rows it was acquired with.
    patient : str
        Whom to leave out; empty for phantoms.
    """

    pixels: NDArray[np.int16] | NDArray[np.uint8]
    contrast: str
    dense: NDArray[np.uint8]
    level: NDArray[np.uint8]
    centres_xyl: NDArray[np.float32]
    row_mm: float = 1.0
    patient: str = ""


def from_drawn(spine: DrawnSpine) -> KnownImage:
    """Targets of a drawn spine."""
    dense = _DENSE_OF_DRAWN[spine.tissue]
    dense[(dense == _DISC) & (spine.level == NO_LEVEL)] = _SACRUM
    return KnownImage(
        pixels=spine.tissue, contrast="drawn", dense=dense, level=spine.level, centres_xyl=spine.centres_xyl
    )


def level_index(name: str) -> int:
    """Index into `LEVEL_CLASSES`; 0 for all above T11."""
    return LEVEL_CLASSES.index(name) if name in LEVEL_CLASSES else 0
