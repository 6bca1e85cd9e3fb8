"""Tissue classes of phantom labels: for per-pixel classification, and for moving tissues' densities."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import numpy.typing as npt

from ctai_sam2.phantom import LEVEL_NAMES, Label, masks_from_labels

CLASS_NAMES: Final = (
    "background", "psoas", "vertebra_even", "vertebra_odd", "disc", "erector", "quadratus", "wall", "rectus",
    "sat", "vat", "aorta", "cava", "kidney", "liver", "spleen", "bowel", "canal", "bone", "skin", "sacrum",
)  # fmt: skip
"""Classes of the dense phase."""


@functools.cache
def class_table() -> npt.NDArray[np.int64]:
    """Return int64 (256,): phantom label to index in `CLASS_NAMES`."""
    masks = masks_from_labels(np.arange(256, dtype=np.uint8))
    table = np.zeros(256, dtype=np.int64)
    groups = {
        "psoas": ("psoas_left", "psoas_right"),
        "erector": ("erector_left", "erector_right"),
        "quadratus": ("quadratus_left", "quadratus_right"),
        "wall": ("wall_left", "wall_right"),
        "rectus": ("rectus_left", "rectus_right"),
        "kidney": ("kidney_left", "kidney_right"),
        "vertebra_even": LEVEL_NAMES[0:-1:2],
        "vertebra_odd": LEVEL_NAMES[1:-1:2],
    }
    for index, name in enumerate(CLASS_NAMES):
        for region in groups.get(name, (name,)):
            if region in masks:
                table[masks[region]] = index
    table[[int(Label.BONE), int(Label.BONE_MARROW)]] = CLASS_NAMES.index("bone")
    return table
