"""From labels to Hounsfield units: means, texture within tissues, blur, noise."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctai_sam2.phantom.labels import FAT_STREAK, MUSCLES, Label
from ctai_sam2.phantom.parameters import LEVEL_NAMES, PhantomParameters

AIR_HU: Final = -1000
FLOOR_HU: Final = -1024

# Label -> HU for unenhanced, arterial and portal-venous phase.
_ENHANCED: Final[dict[int, tuple[float, float, float]]] = {
    Label.AORTA: (42, 320, 165),
    Label.CAVA: (40, 70, 150),
    Label.KIDNEY_LEFT: (34, 190, 190),
    Label.KIDNEY_RIGHT: (34, 190, 190),
    Label.KIDNEY_MEDULLA_LEFT: (32, 80, 160),
    Label.KIDNEY_MEDULLA_RIGHT: (32, 80, 160),
    Label.LIVER: (57, 70, 112),
    Label.SPLEEN: (48, 120, 120),
    Label.BOWEL_WALL: (38, 75, 85),
    Label.VESSEL: (35, 120, 120),
    Label.PANCREAS: (40, 100, 90),
    Label.CRUS: (50, 58, 62),
    Label.SKIN: (10, 20, 25),
}
_FIXED: Final[dict[int, float]] = {
    Label.AIR: AIR_HU,
    Label.FASCIA: 22,
    Label.BOWEL_FLUID: 28,
    Label.BOWEL_GAS: -940,
    Label.BOWEL_CONTRAST: 260,
    Label.BOWEL_STOOL: 45,
    Label.TABLE_SHELL: 350,
    Label.TABLE_FOAM: -985,
    Label.CANAL: 24,
    Label.EPIDURAL_FAT: -60,
    Label.ASCITES: 10,
    Label.METAL: 3071,
    Label.ARM_BONE: 480,
    Label.CARTILAGE: 105,
}


_BONY: Final[npt.NDArray[np.bool_]] = np.isin(
    np.arange(256),
    (
        Label.BONE,
        Label.BONE_MARROW,
        Label.SACRUM,
        Label.SACRUM_CORTEX,
        *range(Label.BODY_CORTEX, Label.BODY_CORTEX + len(LEVEL_NAMES)),
        *range(Label.BODY_TRABECULAR, Label.BODY_TRABECULAR + len(LEVEL_NAMES)),
    ),
)


def mean_hu(parameters: PhantomParameters) -> npt.NDArray[np.float32]:
    """Return the mean HU of every label.

    Parameters
    ----------
    parameters : PhantomParameters
        Gives phase and tissue means.

    Returns
    -------
    numpy.ndarray
        float32 (256,), indexed by label.

    Examples
    --------
    >>> from ctai_sam2.phantom.parameters import reference_parameters
    >>> float(mean_hu(reference_parameters())[Label.AORTA])
    165.0
    """
    p = parameters
    rng = np.random.default_rng([p.detail_seed, 4])
    column = ("unenhanced", "arterial", "portal_venous").index(p.phase)
    table = np.full(256, p.fat_hu, dtype=np.float32)
    for label, by_phase in _ENHANCED.items():
        table[label] = by_phase[column]
    for label, value in _FIXED.items():
        table[label] = value
    table[[int(label) for label in MUSCLES.values()]] = p.muscle_hu
    for label in MUSCLES.values():
        table[label] += rng.normal(0, 2.5)
        table[label | FAT_STREAK] = 0.25 * p.muscle_hu + 0.75 * p.fat_hu + 12
    table[[Label.ERECTOR_LEFT, Label.ERECTOR_RIGHT]] -= 2
    for index in range(len(LEVEL_NAMES)):
        table[Label.BODY_CORTEX + index] = p.cortex_hu
        table[Label.BODY_TRABECULAR + index] = p.trabecular_hu + rng.normal(0, 8)
        table[Label.DISC + index] = 82 + rng.normal(0, 6)
    table[Label.BONE] = 0.95 * p.cortex_hu
    table[Label.BONE_MARROW] = 1.25 * p.trabecular_hu
    table[Label.SACRUM_CORTEX] = 0.75 * p.cortex_hu
    table[Label.SACRUM] = 0.85 * p.trabecular_hu
    table[Label.VAT] = p.fat_hu + 4
    table[Label.INTERMUSCULAR_FAT] = p.fat_hu + 14
    table[Label.ARM_MUSCLE] = p.muscle_hu
    return table


def render_hu(
    labels: npt.NDArray[np.uint8],
    parameters: PhantomParameters,
    *,
    spacing_mm: tuple[float, float],
    rng: np.random.Generator,
    oversampling: tuple[int, int] = (1, 1),
) -> npt.NDArray[np.int16]:
    """Render one plane of labels as a CT image.

    Parameters
    ----------
    labels : numpy.ndarray
        uint8 (H, W) from `Body.label_at`.
    parameters : PhantomParameters
        Gives intensities, blur and noise.
    spacing_mm : tuple of float
        Distance between the rows and between the columns of the image.
    rng : numpy.random.Generator
        Source of texture and noise.
    oversampling : tuple of int, default (1, 1)
        How many rows and columns of `labels` are averaged into one pixel, as partial volume.

    Returns
    -------
    numpy.ndarray
        int16 (H / oversampling, W / oversampling) in HU, at least -1024.
    """
    p = parameters
    rows_mm, columns_mm = spacing_mm[0] / oversampling[0], spacing_mm[1] / oversampling[1]
    image = mean_hu(p)[labels]
    soft = image > -200
    coarse = _smooth_noise(rng, labels.shape, (4.5 / rows_mm, 4.5 / columns_mm))
    image[soft] += 4.0 * coarse[soft]
    # Septa: the zero lines of a smooth field make a net of thin strands in the fat.
    fat = (labels == Label.SAT) | (labels == Label.VAT)
    strands = fat & (np.abs(coarse) < 0.07)
    image[strands] += 24.0
    image[labels == Label.VAT] += 7.0 * np.abs(coarse[labels == Label.VAT])
    if p.oedema > 0:
        wet = labels == Label.SAT
        net = np.abs(_smooth_noise(rng, labels.shape, (2.4 / rows_mm, 2.4 / columns_mm))[wet])
        image[wet] += p.oedema * (14 + 60 * np.exp(-((net / 0.28) ** 2)))
    muscle = (labels >= Label.RECTUS_LEFT) & (labels <= Label.PSOAS_RIGHT)
    fibres = _smooth_noise(rng, labels.shape, (1.3 / rows_mm, 1.3 / columns_mm))[muscle]
    # Marbling too fine to be a streak of its own darkens more than it brightens.
    image[muscle] += (3.0 + 45.0 * p.imat_share) * np.where(fibres < 0, 1.4, 0.6) * fibres
    bone = _BONY[labels]
    grain = _smooth_noise(rng, labels.shape, (0.7 / rows_mm, 0.7 / columns_mm))
    image[bone] *= 1 + 0.11 * grain[bone]
    if p.blur_mm > 0:
        image = ndimage.gaussian_filter(
            image, (p.blur_mm / rows_mm, p.blur_mm / columns_mm), mode="nearest", truncate=3.0
        )
    if oversampling != (1, 1):
        (height, width), (by_rows, by_columns) = image.shape, oversampling
        parts = image.reshape(height // by_rows, by_rows, width // by_columns, by_columns)
        image = parts.mean(axis=(1, 3), dtype=np.float32)
        rows_mm, columns_mm = spacing_mm
    if p.noise_hu > 0:
        sigma = (0.45 * p.noise_grain_mm / rows_mm, 0.45 * p.noise_grain_mm / columns_mm)
        image += p.noise_hu * _smooth_noise(rng, image.shape, sigma, low_cut=True)
    if p.metal_mm > 0:
        metal = labels[oversampling[0] // 2 :: oversampling[0], oversampling[1] // 2 :: oversampling[1]]
        _add_metal_streaks(image, metal == Label.METAL, p.metal_mm, (rows_mm, columns_mm), rng)
    if p.streak_hu > 0:
        image += p.streak_hu * _smooth_noise(rng, image.shape, (0.8 / rows_mm, 40.0 / columns_mm))
    return np.clip(np.rint(image), FLOOR_HU, 3071).astype(np.int16)


def _add_metal_streaks(
    image: npt.NDArray[np.float32],
    metal: npt.NDArray[np.bool_],
    radius_mm: float,
    spacing_mm: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Add rays that start at each piece of metal, and shade between the pieces."""
    pieces, count = ndimage.label(ndimage.binary_dilation(metal, iterations=2))
    if count == 0:
        return
    centres = np.asarray(ndimage.center_of_mass(metal, pieces, range(1, count + 1))) * spacing_mm
    rows = np.arange(image.shape[0], dtype=np.float32)[:, None] * np.float32(spacing_mm[0])
    columns = np.arange(image.shape[1], dtype=np.float32)[None, :] * np.float32(spacing_mm[1])
    strength = 28.0 * radius_mm
    for y, x in centres:
        turn = (np.arctan2(rows - y, columns - x) / (2 * np.pi) + 0.5) * 720
        ray = ndimage.gaussian_filter1d(rng.standard_normal(720), 3.0, mode="wrap")
        ray = np.append(ray, ray[0]) / ray.std()
        away = np.hypot(rows - y, columns - x)
        fall = np.exp(-away / 55.0) * np.minimum(away / (2 * radius_mm), 1.0)
        image += (strength * fall * np.interp(turn, np.arange(721), ray)).astype(np.float32)
    for (y, x), (other_y, other_x) in itertools.pairwise(centres):
        span = max(float(np.hypot(other_y - y, other_x - x)), 1.0)
        uy, ux = (other_y - y) / span, (other_x - x) / span
        along, across = (
            (rows - y) * uy + (columns - x) * ux,
            (rows - y) * ux - (columns - x) * uy,
        )
        shade = np.exp(-((across / 4.0) ** 2)) * ((along > 0) & (along < span))
        image -= (2.2 * strength * shade).astype(np.float32)
    image[metal] = 3071


def _smooth_noise(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    sigma_px: tuple[float, float],
    *,
    low_cut: bool = False,
) -> npt.NDArray[np.float32]:
    """Return Gaussian-filtered white noise of unit standard deviation."""
    # Coarse noise is drawn on a coarse grid: same look, a fraction of the time.
    factors = tuple(max(1, int(sigma // 2)) for sigma in sigma_px)
    small = tuple(-(-size // factor) + 2 for size, factor in zip(shape, factors, strict=True))
    noise = rng.standard_normal(small, dtype=np.float32)
    reduced = tuple(sigma / factor for sigma, factor in zip(sigma_px, factors, strict=True))
    smooth = ndimage.gaussian_filter(noise, reduced, mode="wrap", truncate=3.0)
    if low_cut:
        smooth -= 0.75 * ndimage.uniform_filter(smooth, 7, mode="wrap")
    for axis, factor in enumerate(factors):
        if factor > 1:
            smooth = _stretch(smooth, axis, factor, shape[axis])
    smooth = smooth[: shape[0], : shape[1]]
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), dtype=np.float32)


def _stretch(image: npt.NDArray[np.float32], axis: int, factor: int, size: int) -> npt.NDArray[np.float32]:
    """Return the image linearly interpolated to `size` samples along one axis."""
    position = np.arange(size, dtype=np.float32) / np.float32(factor)
    index = position.astype(np.intp)
    share = (position - index).reshape((-1, 1) if axis == 0 else (1, -1))
    return np.asarray(
        np.take(image, index, axis=axis) * (1 - share) + np.take(image, index + 1, axis=axis) * share
    )
