"""The labels a phantom body is made of, and the masks read from them."""

from __future__ import annotations

import enum
from typing import Final

import numpy as np
import numpy.typing as npt

from ctai_sam2.phantom.parameters import LEVEL_NAMES

FAT_STREAK: Final = 0x80
"""Bit set on a muscle label where an intramuscular fat streak runs."""


class Label(enum.IntEnum):
    """What a point of the body belongs to; bone and discs of a level add the level's index."""

    AIR = 0
    SKIN = 1
    SAT = 2
    RECTUS_LEFT = 3
    RECTUS_RIGHT = 4
    WALL_LEFT = 5
    WALL_RIGHT = 6
    ERECTOR_LEFT = 7
    ERECTOR_RIGHT = 8
    QUADRATUS_LEFT = 9
    QUADRATUS_RIGHT = 10
    PSOAS_LEFT = 11
    PSOAS_RIGHT = 12
    VAT = 13
    INTERMUSCULAR_FAT = 14
    FASCIA = 15
    AORTA = 16
    CAVA = 17
    KIDNEY_LEFT = 18
    KIDNEY_RIGHT = 19
    KIDNEY_SINUS = 20
    LIVER = 21
    SPLEEN = 22
    BOWEL_WALL = 23
    BOWEL_FLUID = 24
    BOWEL_GAS = 25
    BOWEL_CONTRAST = 26
    BOWEL_STOOL = 27
    VESSEL = 28
    TABLE_SHELL = 29
    TABLE_FOAM = 30
    BONE = 31
    BONE_MARROW = 32
    CANAL = 33
    EPIDURAL_FAT = 34
    SACRUM = 35
    SACRUM_CORTEX = 36
    KIDNEY_MEDULLA_LEFT = 37
    KIDNEY_MEDULLA_RIGHT = 38
    PANCREAS = 39
    BODY_CORTEX = 40
    BODY_TRABECULAR = 50
    DISC = 60
    CRUS = 70
    ASCITES = 71
    METAL = 72
    ARM_FAT = 73
    ARM_MUSCLE = 74
    ARM_BONE = 75
    CARTILAGE = 76


MUSCLES: Final[dict[str, Label]] = {
    "psoas_left": Label.PSOAS_LEFT,
    "psoas_right": Label.PSOAS_RIGHT,
    "rectus_left": Label.RECTUS_LEFT,
    "rectus_right": Label.RECTUS_RIGHT,
    "wall_left": Label.WALL_LEFT,
    "wall_right": Label.WALL_RIGHT,
    "erector_left": Label.ERECTOR_LEFT,
    "erector_right": Label.ERECTOR_RIGHT,
    "quadratus_left": Label.QUADRATUS_LEFT,
    "quadratus_right": Label.QUADRATUS_RIGHT,
}

_REGIONS: Final[dict[str, tuple[int, ...]]] = {
    **{name: (label,) for name, label in MUSCLES.items()},
    "muscle": tuple(MUSCLES.values()),
    "skin": (Label.SKIN,),
    "sat": (Label.SAT,),
    "vat": (Label.VAT,),
    "aorta": (Label.AORTA,),
    "cava": (Label.CAVA,),
    "kidney_left": (Label.KIDNEY_LEFT, Label.KIDNEY_MEDULLA_LEFT),
    "kidney_right": (Label.KIDNEY_RIGHT, Label.KIDNEY_MEDULLA_RIGHT),
    "liver": (Label.LIVER,),
    "spleen": (Label.SPLEEN,),
    "pancreas": (Label.PANCREAS,),
    "crus": (Label.CRUS,),
    "bowel": (
        Label.BOWEL_WALL,
        Label.BOWEL_FLUID,
        Label.BOWEL_GAS,
        Label.BOWEL_CONTRAST,
        Label.BOWEL_STOOL,
    ),
    "canal": (Label.CANAL, Label.EPIDURAL_FAT),
    "ascites": (Label.ASCITES,),
    "metal": (Label.METAL,),
    "arms": (Label.ARM_FAT, Label.ARM_MUSCLE, Label.ARM_BONE),
    "sacrum": (
        Label.SACRUM,
        Label.SACRUM_CORTEX,
        Label.BODY_CORTEX + len(LEVEL_NAMES) - 1,
        Label.BODY_TRABECULAR + len(LEVEL_NAMES) - 1,
    ),
    "vertebra": tuple(
        base + index
        for base in (Label.BODY_CORTEX, Label.BODY_TRABECULAR)
        for index in range(len(LEVEL_NAMES))
    ),
    "disc": tuple(Label.DISC + index for index in range(len(LEVEL_NAMES))),
    **{
        name: (Label.BODY_CORTEX + index, Label.BODY_TRABECULAR + index)
        for index, name in enumerate(LEVEL_NAMES)
    },
}


def masks_from_labels(labels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.bool_]]:
    """Read the masks of all regions that occur in a label image.

    Parameters
    ----------
    labels : numpy.ndarray
        uint8, any shape, from `Body.label_at`.

    Returns
    -------
    dict of str to numpy.ndarray
        Name to bool array of the same shape; a region that does not occur is left out.
        A muscle's mask is its whole compartment with the fat streaks in it; ``imat`` is the
        streaks. ``vertebra`` is all vertebral bodies (with S1's), ``L1`` … ``L5`` single ones,
        ``body`` everything inside the skin's outer surface, without the arms.

    Examples
    --------
    >>> import numpy as np
    >>> sorted(masks_from_labels(np.array([[11, 11 | 0x80, 2]], dtype=np.uint8)))
    ['body', 'imat', 'muscle', 'psoas_left', 'sat']
    """
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for name, members in _REGIONS.items():
        table = np.zeros(256, dtype=bool)
        table[list(members)] = True
        table[[member | FAT_STREAK for member in members if member < FAT_STREAK]] = True
        if table[present].any():
            masks[name] = table[labels]
    if (present >= FAT_STREAK).any():
        masks["imat"] = labels >= FAT_STREAK
    outside = (
        Label.AIR,
        Label.TABLE_SHELL,
        Label.TABLE_FOAM,
        Label.ARM_FAT,
        Label.ARM_MUSCLE,
        Label.ARM_BONE,
    )
    if not np.isin(present, outside).all():
        masks["body"] = ~np.isin(labels, outside)
    return masks
