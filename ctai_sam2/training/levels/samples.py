"""Training samples: a known image warped, cut as scans are cut, blurred and given noise, with its targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ctai_sam2.segmentation.levels.image import AIR_HU, PIXEL_MM, to_channels
from ctai_sam2.training.levels import contrast
from ctai_sam2.training.levels.canvas import NO_LEVEL
from ctai_sam2.training.levels.known import KnownImage

Floats = NDArray[np.float32]
CROP_MM = (448, 256)
"""Height and width of a sample."""

_CENTRE_SIGMA_PX = 2.0
_PX = int(PIXEL_MM)


class Sample(NamedTuple):
    """One training example.

    Attributes
    ----------
    image : ndarray of float32, shape (2, h, w)
    dense : ndarray of uint8, shape (h, w)
    centre : ndarray of float32, shape (h, w)
        Bumps of height 1 about the middles of bodies.
    level : ndarray of uint8, shape (h / 2, w / 2)
    """

    image: Floats
    dense: NDArray[np.uint8]
    centre: Floats
    level: NDArray[np.uint8]


def make_sample(known: KnownImage, rng: np.random.Generator, *, crop_mm: tuple[int, int] = CROP_MM) -> Sample:
    """Draw one example from a known image."""
    map_x, map_y = _warp(known, rng, crop_mm)
    inside = _field(rng, crop_mm)
    dense = _read(known.dense, map_x, map_y, 0)
    level = _read(known.level, map_x, map_y, NO_LEVEL)
    if known.contrast == "hu":
        hu = _read(known.pixels.astype(np.float32), map_x, map_y, AIR_HU)
        hu = _vary_real(hu, rng)
    else:
        labels = _read(known.pixels, map_x, map_y, 0)
        chance = rng.uniform()
        realistic = chance < 0.72 and known.contrast == "drawn"
        mean, grain = contrast.typical_hu(rng) if realistic else contrast.any_hu(rng)
        if realistic and chance < 0.15:
            mean = mean + rng.normal(0, 45, 256).astype(np.float32) * (mean > -300)
        hu = contrast.paint(labels, mean, grain, rng)
        hu = np.asarray(cv2.GaussianBlur(hu, (0, 0), float(rng.uniform(0.5, 1.1))), np.float32)
    hu = _acquire(np.ascontiguousarray(hu, np.float32), rng, known.row_mm)
    hu[~inside], dense[~inside], level[~inside] = AIR_HU, 0, NO_LEVEL
    small = _resize(hu, crop_mm[1] // _PX, crop_mm[0] // _PX, cv2.INTER_AREA)
    if rng.uniform() < 0.5:
        small = small + contrast.texture(rng, small.shape) * np.float32(rng.gamma(1.5, 7.0))
    return Sample(
        image=to_channels(small),
        dense=dense[1::_PX, 1::_PX],
        centre=_bumps(
            known.centres_xyl, map_x[1::_PX, 1::_PX], map_y[1::_PX, 1::_PX], inside[1::_PX, 1::_PX]
        ),
        level=level[2 :: 2 * _PX, 2 :: 2 * _PX],
    )


def _read(image: NDArray[Any], map_x: Floats, map_y: Floats, outside: float) -> NDArray[Any]:
    """Read an image at the places of a warp: HU linearly, labels as they are."""
    how = cv2.INTER_NEAREST if image.dtype == np.uint8 else cv2.INTER_LINEAR
    return np.asarray(cv2.remap(image, map_x, map_y, how, borderValue=outside), image.dtype)


def _resize(image: Floats, width: int, height: int, how: int) -> Floats:
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.float32)


def _warp(known: KnownImage, rng: np.random.Generator, crop_mm: tuple[int, int]) -> tuple[Floats, Floats]:
    """Where each pixel of the crop comes from on the known image."""
    height, width = crop_mm
    x, y, _ = _anchor(known, rng)
    to_x, to_y = rng.uniform(0.4, 0.8) * width, rng.uniform(0.2, 0.8) * height
    angle = float(rng.normal(0, 0.07))
    scale = float(np.exp(rng.normal(0, 0.08)))
    stretch = float(np.exp(rng.normal(0, 0.05)))
    shear = float(rng.normal(0, 0.04))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = turn @ np.array([[1.0 / (scale * stretch), shear], [0.0, 1.0 / scale]])
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32) - to_x, np.arange(height, dtype=np.float32) - to_y
    )
    map_x = matrix[0, 0] * columns + matrix[0, 1] * rows + x
    map_y = matrix[1, 0] * columns + matrix[1, 1] * rows + y
    for grid, amplitude in (((5, 4), rng.uniform(0, 9)), ((10, 7), rng.uniform(0, 2.5))):
        for target in (map_x, map_y):
            bend = rng.normal(0, amplitude, grid).astype(np.float32)
            target += cv2.resize(bend, (width, height), interpolation=cv2.INTER_CUBIC)
    return map_x.astype(np.float32), map_y.astype(np.float32)


def _anchor(known: KnownImage, rng: np.random.Generator) -> tuple[float, float, float]:
    """Choose the body that the crop is laid about: lumbar mostly."""
    centres = known.centres_xyl
    if len(centres) == 0:
        height, width = known.pixels.shape
        return width * 0.5, float(rng.uniform(0.2, 0.8)) * height, 0.0
    weight = np.where(centres[:, 2] >= 2, 1.0, 0.08)
    index = int(rng.choice(len(centres), p=weight / weight.sum()))
    x, y, level = (float(v) for v in centres[index])
    return x, y, level


def _field(rng: np.random.Generator, crop_mm: tuple[int, int]) -> NDArray[np.bool_]:
    """Draw what the scan covers of the crop."""
    height, width = crop_mm
    inside = np.ones(crop_mm, bool)
    if rng.uniform() < 0.35:
        inside[: int(rng.uniform(0, 0.4) * height)] = False
    if rng.uniform() < 0.4:
        inside[height - int(rng.uniform(0, 0.4) * height) :] = False
    if rng.uniform() < 0.2:
        inside[:, : int(rng.uniform(0, 0.25) * width)] = False
    if rng.uniform() < 0.15:
        inside[:, width - int(rng.uniform(0, 0.15) * width) :] = False
    return inside


def _vary_real(hu: Floats, rng: np.random.Generator) -> Floats:
    """Move the grey values of a real image: linear, then a bend for bone."""
    soft = hu * np.float32(rng.normal(1, 0.08)) + np.float32(rng.normal(0, 14))
    bone = np.clip(soft - 90, 0, None)
    soft = np.where(soft > 90, 90 + bone * np.float32(np.exp(rng.normal(0, 0.3))), soft)
    return np.where(hu < -700, hu, soft).astype(np.float32)


def _acquire(hu: Floats, rng: np.random.Generator, row_mm: float) -> Floats:
    """Thick rows, blur, noise, streaks, shadows."""
    height, width = hu.shape
    if rng.uniform() < 0.6:
        thick = float(rng.choice([1.5, 2, 2.5, 3, 4, 5, 5, 6]))
        if thick > row_mm:
            rows = max(round(height / thick), 8)
            hu = _resize(hu, width, rows, cv2.INTER_AREA)
            if rng.uniform() < 0.7:
                hu = hu + rng.normal(0, rng.gamma(1.5, 8.0), hu.shape).astype(np.float32)
            hu = _resize(hu, width, height, cv2.INTER_LINEAR)
    if rng.uniform() < 0.3:
        hu = np.asarray(cv2.GaussianBlur(hu, (0, 0), float(rng.uniform(0.5, 1.6))), np.float32)
    if rng.uniform() < 0.7:
        hu = hu + contrast.texture(rng, hu.shape) * np.float32(rng.gamma(1.6, 11.0))
    if rng.uniform() < 0.25:
        grain = rng.normal(0, 1, (height, 1)).astype(np.float32)
        streaks = np.asarray(cv2.GaussianBlur(grain, (1, 0), 0, sigmaY=rng.uniform(1, 4)), np.float32)
        hu = hu + streaks.reshape(height, 1) / max(float(streaks.std()), 1e-3) * np.float32(
            rng.uniform(3, 22)
        )
    if rng.uniform() < 0.25:
        hu = hu + contrast.texture(rng, hu.shape, coarse=True) * np.float32(rng.uniform(3, 15))
    if rng.uniform() < 0.1:
        top, left = int(rng.uniform(0, height * 0.9)), int(rng.uniform(0, width * 0.8))
        hu = hu.copy()
        hu[top : top + int(rng.uniform(10, 70)), left : left + int(rng.uniform(10, 70))] = rng.uniform(
            -200, 600
        )
    return np.asarray(hu, np.float32)


def _bumps(centres: Floats, map_x: Floats, map_y: Floats, inside: NDArray[np.bool_]) -> Floats:
    target = np.zeros(map_x.shape, np.float32)
    height, width = map_x.shape
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    for x, y, _ in centres:
        distance = (map_x - x) ** 2 + (map_y - y) ** 2
        at = int(np.argmin(distance))
        row, column = divmod(at, width)
        if distance[row, column] > 2.5**2 or not inside[row, column]:
            continue
        bump = np.exp(
            -0.5 * ((rows[:, None] - row) ** 2 + (columns[None] - column) ** 2) / _CENTRE_SIGMA_PX**2
        )
        np.maximum(target, bump, out=target)
    return target


def draw_known(groups: Sequence[tuple[float, Sequence[KnownImage]]], rng: np.random.Generator) -> KnownImage:
    """Choose a group by weight, then one of its images."""
    weights = np.array([weight for weight, _ in groups])
    _, images = groups[int(rng.choice(len(groups), p=weights / weights.sum()))]
    return images[int(rng.integers(len(images)))]
