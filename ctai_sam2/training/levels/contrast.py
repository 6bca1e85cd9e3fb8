"""From label maps to HU: as CT shows tissues, or with any contrast at all."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ctai_sam2.training.levels.canvas import Tissue

Floats = NDArray[np.float32]
_TEXTURES, _TEXTURE_PX = 12, 768

# Mean HU and how far it varies between patients (standard deviation).
_TYPICAL = {
    Tissue.SKIN: (10, 25), Tissue.SAT: (-102, 9), Tissue.BACK_MUSCLE: (45, 18), Tissue.WALL_MUSCLE: (45, 18),
    Tissue.VAT: (-98, 10), Tissue.LIVER: (75, 30), Tissue.HEART: (90, 55), Tissue.BOWEL_WALL: (50, 22),
    Tissue.BOWEL_FLUID: (15, 15), Tissue.BOWEL_CONTRAST: (320, 150), Tissue.CANAL: (25, 14),
    Tissue.DISC: (85, 22), Tissue.BLADDER: (10, 12), Tissue.CALCIFICATION: (600, 250),
    Tissue.METAL: (2400, 500),
    Tissue.EPIDURAL_FAT: (-70, 30), Tissue.PSOAS: (50, 14), Tissue.KIDNEY: (110, 70), Tissue.SOFT: (50, 20),
    Tissue.STOOL: (10, 60), Tissue.LIGAMENT: (90, 35), Tissue.TABLE: (-300, 350),
}  # fmt: skip
# Local variation within a tissue, HU.
_GRAIN = {
    Tissue.BODY: 38, Tissue.POSTERIOR: 60, Tissue.SACRUM: 42, Tissue.VAT: 16, Tissue.SAT: 8, Tissue.STOOL: 90,
    Tissue.BOWEL_CONTRAST: 60, Tissue.LUNG: 60, Tissue.BACK_MUSCLE: 22, Tissue.BODY_CORTEX: 80,
    Tissue.POSTERIOR_CORTEX: 110, Tissue.SACRUM_CORTEX: 80, Tissue.SOFT: 16, Tissue.OTHER_BONE: 45,
}  # fmt: skip


def typical_hu(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw mean and grain in HU of every `Tissue`, as one CT may show them, each of shape (256,)."""
    mean, grain = np.full(256, 0, np.float32), np.full(256, 8, np.float32)
    for tissue, (middle, spread) in _TYPICAL.items():
        mean[tissue] = rng.normal(middle, spread)
    for tissue, value in _GRAIN.items():
        grain[tissue] = value * rng.uniform(0.4, 1.5)
    mean[[Tissue.AIR]] = -1010
    mean[Tissue.GAS], mean[Tissue.LUNG] = rng.normal(-950, 40), rng.normal(-800, 60)
    mean[Tissue.VESSEL] = rng.normal(42, 8) if rng.uniform() < 0.4 else rng.uniform(90, 330)
    marrow = float(np.clip(rng.gamma(4.0, 42.0), 25, 420))
    shell = marrow + float(rng.uniform(120, 600))
    mean[Tissue.BODY], mean[Tissue.BODY_CORTEX] = marrow, shell
    mean[Tissue.SACRUM] = marrow * rng.uniform(0.45, 1.05)
    mean[Tissue.SACRUM_CORTEX] = shell * rng.uniform(0.6, 1.1)
    mean[Tissue.POSTERIOR] = marrow + rng.uniform(0, 350)
    mean[Tissue.POSTERIOR_CORTEX] = shell + rng.uniform(0, 350)
    mean[Tissue.OTHER_BONE], mean[Tissue.OTHER_CORTEX] = (
        marrow * rng.uniform(0.5, 1.4),
        shell * rng.uniform(0.7, 1.3),
    )
    return mean, grain


def any_hu(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw any contrast: every label gets a mean of its own."""
    mean = rng.uniform(-150, 450, 256).astype(np.float32)
    grain = rng.uniform(3, 60, 256).astype(np.float32)
    mean[Tissue.AIR] = -1010
    if rng.uniform() < 0.7:
        mean[Tissue.GAS], mean[Tissue.LUNG] = rng.uniform(-1000, -600), rng.uniform(-900, -500)
    return mean, grain


def paint(labels: NDArray[np.uint8], mean: Floats, grain: Floats, rng: np.random.Generator) -> Floats:
    """HU of a label map with grain of two sizes, shape of the labels."""
    fine, coarse = texture(rng, labels.shape), texture(rng, labels.shape, coarse=True)
    return mean[labels] + grain[labels] * (0.7 * fine + 0.8 * coarse)


def texture(rng: np.random.Generator, shape: tuple[int, ...], *, coarse: bool = False) -> Floats:
    """Cut a window out of the stored noise fields, about unit variance."""
    field = _fields(coarse)[int(rng.integers(_TEXTURES))]
    top, left = (int(rng.integers(0, _TEXTURE_PX - size + 1)) for size in shape)
    window = field[top : top + shape[0], left : left + shape[1]]
    if rng.uniform() < 0.5:
        window = window[:, ::-1]
    return window if rng.uniform() < 0.5 else window[::-1]


@lru_cache(maxsize=2)
def _fields(coarse: bool) -> tuple[Floats, ...]:
    rng = np.random.default_rng(77 + coarse)
    fields = []
    for number in range(_TEXTURES):
        sigma = (4.0 + 0.8 * number) if coarse else (0.6 + 0.15 * number)
        field = cv2.GaussianBlur(
            rng.normal(size=(_TEXTURE_PX, _TEXTURE_PX)).astype(np.float32), (0, 0), sigma
        )
        fields.append(field / field.std())
    return tuple(fields)
