"""Random framing and appearance: from a bank image to a network input with its code map."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from ctai_sam2.training.bank import NOMINAL_SHARE, LabelledImage
from ctai_sam2.training.tissue_classes import CLASS_NAMES

_MEAN: Final = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_STD: Final = np.array([0.229, 0.224, 0.225], dtype=np.float32)
_AIR_HU: Final = -1024
_MUSCLES: Final = frozenset({"psoas", "erector", "quadratus", "wall", "rectus"})
_TISSUE_SPREAD_HU: Final = {
    "vertebra_even": 50, "vertebra_odd": 50, "bone": 50, "sacrum": 50, "disc": 18, "canal": 8, "skin": 15,
    "sat": 8, "vat": 10, "aorta": 50, "cava": 40, "kidney": 45, "liver": 28, "spleen": 28, "bowel": 25,
}  # fmt: skip
# Above this ratio of bank to network pixels the image is averaged, as at run time.
_SHRINK: Final = 1.15


def frame_at_random(
    image: LabelledImage,
    *,
    size_px: int,
    rng: np.random.Generator,
    most_bend: float = 0.012,
    zoom: float = 1.0,
    about_xy: tuple[float, float] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], bool]:
    """Cut a random square: scale, shift, rotation, aspect, flip and a smooth warp.

    Parameters
    ----------
    image : LabelledImage
        From the bank.
    size_px : int
        Side of the result.
    rng : numpy.random.Generator
        Source of randomness.
    most_bend : float
        Greatest standard deviation of the smooth warp's knots, as a part of the image's side.
    zoom : float
        Side of the square as a part of its usual side.
    about_xy : tuple of float, optional
        Pixel of the image to shift the square's middle about, instead of the image's own middle.

    Returns
    -------
    hu : numpy.ndarray
        float32 (size_px, size_px).
    codes : numpy.ndarray
        Codes at the same pixels (nearest).
    mirrored : bool
        Whether left and right were exchanged.
    """
    side = image.hu.shape[0]
    share = zoom * NOMINAL_SHARE * float(rng.uniform(0.86, 1.15))
    aspect = float(np.exp(rng.normal(0, 0.04)))
    angle = float(np.deg2rad(np.clip(rng.normal(0, 5), -15, 15)))
    step = share * side / size_px
    flip = rng.uniform() < (0.5 if image.plane == "axial" else 0.25)
    middle = (side / 2 if about_xy is None else np.asarray(about_xy) + 0.5) + rng.normal(0, 0.03, 2) * side
    offsets = ((np.arange(size_px, dtype=np.float32) + 0.5) - size_px / 2) * np.float32(step)
    x, y = np.meshgrid(offsets * np.float32(aspect), offsets / np.float32(aspect))
    if flip:
        x = -x
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    map_x = cos * x - sin * y + np.float32(middle[0] - 0.5)
    map_y = sin * x + cos * y + np.float32(middle[1] - 0.5)
    if rng.uniform() < 0.5:
        knots = int(rng.integers(4, 8))
        bend = rng.normal(0, rng.uniform(0.003, most_bend) * side, (2, knots, knots)).astype(np.float32)
        map_x += cv2.resize(bend[0], (size_px, size_px), interpolation=cv2.INTER_CUBIC)
        map_y += cv2.resize(bend[1], (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    hu: npt.NDArray[Any] = image.hu.astype(np.float32)
    if step > _SHRINK:
        hu = cv2.GaussianBlur(hu, (0, 0), 0.4 * step)
    framed = cv2.remap(
        hu, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=float(_AIR_HU)
    )
    # Beyond the bank image lies air; its code is that of the corner.
    codes = cv2.remap(
        image.codes.astype(np.float32),
        map_x,
        map_y,
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=float(image.codes[0, 0]),
    )
    return framed.astype(np.float32, copy=False), codes.astype(image.codes.dtype), bool(flip)


def vary_tissues(
    hu: npt.NDArray[np.float32], classes: npt.NDArray[np.int64], *, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Move the density of each tissue of a phantom: wasting, oedema, ascites, contrast phases, bone loss.

    Parameters
    ----------
    hu : numpy.ndarray
        float32 (N, N).
    classes : numpy.ndarray
        int64 (N, N), index in `CLASS_NAMES`; below 0 where not known.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        float32 (N, N); borders between tissues stay as soft as they were.
    """
    offsets = np.zeros(len(CLASS_NAMES) + 1, dtype=np.float32)
    muscle = rng.normal(-4, 12)
    for index, name in enumerate(CLASS_NAMES):
        if name in _MUSCLES:
            offsets[index] = muscle + rng.normal(0, 5)
        else:
            offsets[index] = rng.normal(0, _TISSUE_SPREAD_HU.get(name, 0.0))
    if rng.uniform() < 0.2:
        # Fluid in the subcutaneous fat.
        offsets[CLASS_NAMES.index("sat")] += rng.uniform(5, 60)
    if rng.uniform() < 0.25:
        # Hazy mesentery, up to ascites that takes the fat's place.
        offsets[CLASS_NAMES.index("vat")] += rng.uniform(5, 120)
    shift = cv2.GaussianBlur(offsets[classes], (0, 0), 0.7)
    if rng.uniform() < 0.5:
        # Streaky muscle and hazy fat: patches of some millimetres, each tissue its own strength.
        strength = np.zeros_like(offsets)
        for index, name in enumerate(CLASS_NAMES):
            if name in _MUSCLES or name in ("sat", "vat", "vertebra_even", "vertebra_odd", "bowel", "liver"):
                strength[index] = abs(rng.normal(0, 14))
        grain = rng.standard_normal(hu.shape, dtype=np.float32)
        size = float(rng.uniform(1.0, 4.0))
        patches = cv2.GaussianBlur(grain, (0, 0), size) * np.float32(2 * size)
        shift = shift + strength[classes] * patches
    varied: npt.NDArray[np.float32] = (hu + shift).astype(np.float32)
    return varied


def vary_appearance(
    hu: npt.NDArray[np.float32], *, plane: str, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Vary scanner and window, and return the uint8-like grey image in 0 … 255.

    Parameters
    ----------
    hu : numpy.ndarray
        float32 (N, N).
    plane : {"axial", "sagittal"}
        Sagittal images may get thick rows.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        float32 (N, N) of whole numbers, 0 to 255.
    """
    size = hu.shape[0]
    drawn: npt.NDArray[Any] = hu * np.float32(rng.normal(1, 0.03)) + np.float32(rng.normal(0, 6))
    if rng.uniform() < 0.25:
        # A slow drift, as of beam hardening.
        drift = rng.normal(0, 10, (3, 3)).astype(np.float32)
        drawn = drawn + cv2.resize(drift, (size, size), interpolation=cv2.INTER_CUBIC)
    if rng.uniform() < 0.45:
        drawn = cv2.GaussianBlur(drawn, (0, 0), float(rng.uniform(0.4, 1.5)))
    if plane == "sagittal" and rng.uniform() < 0.25:
        rows = max(24, int(size / rng.uniform(2, 7)))
        drawn = cv2.resize(drawn, (size, rows), interpolation=cv2.INTER_AREA)
        drawn = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_LINEAR)
    elif rng.uniform() < 0.12:
        small = int(size / rng.uniform(1.5, 3.2))
        drawn = cv2.resize(drawn, (small, small), interpolation=cv2.INTER_AREA)
        drawn = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.uniform() < 0.6:
        noise: npt.NDArray[Any] = rng.standard_normal((size, size), dtype=np.float32)
        if rng.uniform() < 0.5:
            noise = cv2.GaussianBlur(noise, (0, 0), 0.8) * 2.5
        drawn = drawn + noise * np.float32(rng.gamma(2.0, 6.0))
    level, width = float(rng.uniform(20, 70)), float(rng.uniform(300, 600))
    if rng.uniform() < 0.4:
        level, width = 40.0, 400.0
    grey = np.clip((drawn - (level - width / 2)) / width, 0, 1)
    if rng.uniform() < 0.3:
        grey = grey ** np.float32(np.exp(rng.normal(0, 0.2)))
    if rng.uniform() < 0.03:
        grey = 1 - grey
    return np.floor(grey * np.float32(255.999)).astype(np.float32, copy=False)


def normalise(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Turn grey values 0 … 255 into the network's input, as SAM2's transform does.

    Parameters
    ----------
    grey : numpy.ndarray
        (N, N).

    Returns
    -------
    numpy.ndarray
        float32 (3, N, N), ImageNet mean and deviation taken off each channel.
    """
    scaled = grey.astype(np.float32) / np.float32(255)
    return np.stack([(scaled - mean) / std for mean, std in zip(_MEAN, _STD, strict=True)])
