"""Simulated prompts: points, boxes and rough masks."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

PAD: Final = -1
NEGATIVE: Final = 0
POSITIVE: Final = 1
BOX_FIRST: Final = 2
BOX_SECOND: Final = 3

MASK_LOGIT: Final = 10.0
"""Magnitude of a mask prompt's logits."""

Bools = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float32]


def draw_points_inside(target: Bools, count: int, *, rng: np.random.Generator) -> Points:
    """Draw points inside a mask, spread out and biased to its middle.

    Parameters
    ----------
    target : numpy.ndarray
        bool (H, W), not empty.
    count : int
        How many.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        float32 (count, 2), (x, y).
    """
    padded = cv2.copyMakeBorder(target.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(target)
    depth = distance[rows, columns]
    points = np.empty((count, 2), dtype=np.float32)
    spread = None
    for index in range(count):
        weights = depth ** float(rng.choice((0.0, 1.0, 3.0), p=(0.25, 0.4, 0.35)))
        if spread is not None:
            weights = weights * spread
        total = np.cumsum(weights, dtype=np.float64)
        chosen = int(np.searchsorted(total, rng.uniform() * total[-1]))
        chosen = min(chosen, rows.size - 1)
        points[index] = columns[chosen], rows[chosen]
        if count > 1:
            away = (rows - rows[chosen]).astype(np.float32) ** 2 + (columns - columns[chosen]).astype(
                np.float32
            ) ** 2
            reach = np.minimum(away / np.float32(0.02 * target.size), 1) + np.float32(1e-3)
            spread = reach if spread is None else spread * reach
    return points


def draw_points_around(target: Bools, count: int, *, rng: np.random.Generator) -> Points:
    """Draw points outside a mask, mostly near it.

    Parameters
    ----------
    target : numpy.ndarray
        bool (H, W), not everywhere true.
    count : int
        How many.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        float32 (count, 2), (x, y).
    """
    distance = cv2.distanceTransform((~target).astype(np.uint8), cv2.DIST_L2, 3)
    size = target.shape[0]
    near = (distance > 0.01 * size) & (distance < rng.uniform(0.04, 0.2) * size)
    rows, columns = np.nonzero(near if near.any() else ~target)
    chosen = rng.integers(0, rows.size, count)
    return np.stack([columns[chosen], rows[chosen]], axis=1).astype(np.float32)


def draw_box(target: Bools, *, rng: np.random.Generator) -> Points:
    """Draw a noisy box around a mask.

    Returns
    -------
    numpy.ndarray
        float32 (2, 2): (x, y) of the first and of the last corner.
    """
    rows, columns = np.flatnonzero(target.any(axis=1)), np.flatnonzero(target.any(axis=0))
    box = np.array([[columns[0], rows[0]], [columns[-1], rows[-1]]], dtype=np.float32)
    extent = box[1] - box[0] + 1
    noise = np.clip(rng.normal(0, 0.07, (2, 2)), -0.18, 0.18) * extent
    # People draw boxes too wide rather than too narrow.
    noise += np.array([[-1], [1]]) * np.abs(rng.normal(0, 0.04)) * extent
    corners: Points = np.clip(box + noise, 0, target.shape[0] - 1).astype(np.float32)
    return corners


def draw_rough_mask(
    target: Bools, grey: npt.NDArray[np.float32], *, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Draw what a rule or an earlier prediction might have given instead of the target.

    Parameters
    ----------
    target : numpy.ndarray
        bool (N, N).
    grey : numpy.ndarray
        float32 (N, N), the windowed image.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        float32 (N // 4, N // 4) logits within ±10.
    """
    size = target.shape[0]
    mask: npt.NDArray[Any] = target.astype(np.uint8)
    if rng.uniform() < 0.6:
        radius = max(1, int(rng.uniform(0.003, 0.02) * size))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        grown = cv2.dilate(mask, kernel) if rng.uniform() < 0.6 else cv2.erode(mask, kernel)
        mask = grown if grown.any() else mask
    if rng.uniform() < 0.3:
        inside = grey[target]
        low, high = np.quantile(inside, (0.05, 0.95))
        wide = cv2.dilate(mask, np.ones((9, 9), np.uint8))
        mask = wide & ((grey >= low - 8) & (grey <= high + 8)).astype(np.uint8)
    if rng.uniform() < 0.5:
        knots = int(rng.integers(4, 9))
        hidden = cv2.resize(
            rng.uniform(0, 1, (knots, knots)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )
        cut = hidden < rng.uniform(0.05, 0.3)
        added = (hidden > rng.uniform(0.8, 0.97)) & (cv2.dilate(mask, np.ones((15, 15), np.uint8)) > 0)
        mask = ((mask & ~cut) | added).astype(np.uint8)
    if rng.uniform() < 0.5:
        shift = np.rint(rng.normal(0, 0.008 * size, 2)).astype(int)
        mask = np.roll(mask, (int(shift[0]), int(shift[1])), axis=(0, 1))
    small = cv2.resize(mask.astype(np.float32), (size // 4, size // 4), interpolation=cv2.INTER_AREA)
    if rng.uniform() < 0.4:
        small = cv2.GaussianBlur(small, (0, 0), float(rng.uniform(0.5, 1.5)))
    logits = (small * 2 - 1) * MASK_LOGIT
    if rng.uniform() < 0.5:
        logits = np.where(logits > 0, MASK_LOGIT, -MASK_LOGIT)
    return logits.astype(np.float32)
