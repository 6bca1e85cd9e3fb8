"""Classes of the dense head, and how labels and reference masks map to them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from ctai_sam2.models.dense_head import DENSE_CLASSES
from ctai_sam2.phantom import FAT_STREAK, LEVEL_NAMES, Label

_LABELS: Final[Mapping[str, tuple[int, ...]]] = {
    "outside": (
        Label.AIR, Label.TABLE_SHELL, Label.TABLE_FOAM, Label.ARM_FAT, Label.ARM_MUSCLE, Label.ARM_BONE,
    ),
    "skin": (Label.SKIN,),
    "sat": (Label.SAT,),
    "psoas": (Label.PSOAS_LEFT, Label.PSOAS_RIGHT),
    "quadratus": (Label.QUADRATUS_LEFT, Label.QUADRATUS_RIGHT),
    "paraspinal": (Label.ERECTOR_LEFT, Label.ERECTOR_RIGHT),
    "wall": (Label.RECTUS_LEFT, Label.RECTUS_RIGHT, Label.WALL_LEFT, Label.WALL_RIGHT),
    "between": (Label.INTERMUSCULAR_FAT, Label.FASCIA),
    "vertebra": tuple(
        base + index
        for base in (Label.BODY_CORTEX, Label.BODY_TRABECULAR)
        for index in range(len(LEVEL_NAMES))
    ),
    "disc": tuple(Label.DISC + index for index in range(len(LEVEL_NAMES))),
    "bone": (
        Label.BONE, Label.BONE_MARROW, Label.CANAL, Label.EPIDURAL_FAT, Label.SACRUM, Label.SACRUM_CORTEX,
        Label.METAL, Label.CARTILAGE,
    ),
    "vat": (Label.VAT, Label.VESSEL),
    "organ": (
        Label.AORTA, Label.CAVA, Label.KIDNEY_LEFT, Label.KIDNEY_RIGHT, Label.KIDNEY_SINUS,
        Label.KIDNEY_MEDULLA_LEFT, Label.KIDNEY_MEDULLA_RIGHT, Label.LIVER, Label.SPLEEN, Label.PANCREAS,
        Label.CRUS,
    ),
    "bowel": (
        Label.BOWEL_WALL, Label.BOWEL_FLUID, Label.BOWEL_GAS, Label.BOWEL_CONTRAST, Label.BOWEL_STOOL,
        Label.ASCITES,
    ),
}  # fmt: skip


@functools.cache
def label_table() -> npt.NDArray[np.uint8]:
    """Return uint8 (256,): phantom label to index in `DENSE_CLASSES`."""
    table = np.zeros(256, dtype=np.uint8)
    for name, labels in _LABELS.items():
        index = DENSE_CLASSES.index(name)
        for label in labels:
            table[label] = index
            if label < FAT_STREAK:
                table[label | FAT_STREAK] = index
    return table


def bits(*names: str) -> int:
    """Return the set of classes as a bit mask."""
    return sum(1 << DENSE_CLASSES.index(name) for name in names)


def allowed_classes(
    hu: npt.NDArray[np.int16], masks: Mapping[str, npt.NDArray[np.bool_]]
) -> npt.NDArray[np.uint16]:
    """Return for every pixel of a real slice which classes its reference masks leave possible.

    Reference masks are limited to HU ranges, compartments are not: a dark pixel that no mask holds may be
    fat within a muscle, a bright one a vessel in fat.

    Parameters
    ----------
    hu : numpy.ndarray
        int16 (H, W).
    masks : mapping of str to numpy.ndarray
        bool (H, W); of ``psoas_left``, ``psoas_right``, ``muscle``, ``vertebra``, ``sat``, ``vat``,
        ``paraspinal``, ``organ``, ``bone`` those that were drawn.

    Returns
    -------
    numpy.ndarray
        uint16 (H, W), bit ``i`` for class ``i``.
    """
    every = (1 << len(DENSE_CLASSES)) - 1
    muscles = bits("psoas", "quadratus", "paraspinal", "wall")
    allowed = np.full(hu.shape, every, dtype=np.uint16)
    like_muscle = (hu >= -29) & (hu <= 150)
    if "muscle" in masks:
        # Within the limits, what is not in the mask is no muscle.
        allowed[like_muscle & ~masks["muscle"]] &= every & ~muscles
    if "sat" in masks:
        allowed[(hu >= -190) & (hu <= -30) & ~masks["sat"]] &= every & ~bits("sat")
    if "vat" in masks:
        allowed[(hu >= -150) & (hu <= -50) & ~masks["vat"]] &= every & ~bits("vat")
    if "vertebra" in masks:
        allowed[~masks["vertebra"]] &= every & ~bits("vertebra")
    psoas = [masks[name] for name in ("psoas_left", "psoas_right") if name in masks]
    both = np.any(psoas, axis=0) if psoas else None
    if both is not None:
        allowed[like_muscle & ~both] &= every & ~bits("psoas")
    if "paraspinal" in masks:
        allowed[like_muscle & ~masks["paraspinal"]] &= every & ~bits("paraspinal")
    for name, classes in (
        ("sat", bits("sat")),
        ("vat", bits("vat")),
        ("bone", bits("bone", "vertebra")),
        ("organ", bits("organ", "bowel")),
        ("vertebra", bits("vertebra", "disc")),
        ("paraspinal", bits("paraspinal")),
    ):
        if name in masks:
            allowed[masks[name]] = classes
    if "muscle" in masks:
        groups = muscles if both is None else muscles & ~bits("psoas")
        allowed[masks["muscle"]] = groups
    if both is not None:
        allowed[both] = bits("psoas")
    allowed[hu < -700] &= bits("outside", "bowel", "vat", "skin")
    allowed[allowed == 0] = every
    return allowed
