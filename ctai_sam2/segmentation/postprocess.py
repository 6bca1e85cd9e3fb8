"""From the model's mask to one that can be measured: HU limits, islands, holes, what was clicked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.image.masks import fill_holes, grow, label_components, remove_islands
from ctai_sam2.measure.definitions import HuRange
from ctai_sam2.types import Mask, Prompt

CORTEX_MM = 1.6
"""About the thickness of the shell of a lumbar vertebral body."""

CORTEX_HU = 160.0
"""Above marrow of the old and above what a voxel shared by bone and fat shows."""

_CLICK_RADIUS_PX = 1.5


def clean_mask(
    mask: Mask,
    hu: NDArray[Any],
    *,
    pixel_area_mm2: float,
    limits: HuRange | None = None,
    forbidden: Mask | None = None,
    near: Mask | None = None,
    smallest_island_mm2: float = 20.0,
    largest_hole_mm2: float = 10.0,
    prompt: Prompt | None = None,
) -> Mask:
    """Keep the part of a prediction that can be the structure.

    Small holes are filled before the HU limits are applied and again after them, so that single noisy
    pixels inside the structure stay in, while streaks of fat stay out.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        A model's mask on the slice.
    hu : ndarray, shape (H, W)
        The slice.
    pixel_area_mm2 : float
        Row spacing times column spacing.
    limits : HuRange, optional
        Pixels outside these HU are removed.
    forbidden : ndarray of bool, shape (H, W), optional
        Where the structure cannot be, such as bone.
    near : ndarray of bool, shape (H, W), optional
        Parts that touch none of these pixels are removed.
    smallest_island_mm2, largest_hole_mm2 : float
        Smaller islands go, holes up to this area are filled.
    prompt : Prompt, optional
        A user's prompt: what the model found under its positive points is never removed.

    Returns
    -------
    ndarray of bool, shape (H, W)
        A new mask.

    Examples
    --------
    >>> hu = np.full((9, 9), 50); hu[:, 6:] = -100
    >>> mask = np.zeros((9, 9), bool); mask[2:7, 2:8] = True
    >>> int(clean_mask(mask, hu, pixel_area_mm2=1.0, limits=HuRange(low_hu=-29, high_hu=150)).sum())
    20
    """
    hole_px = int(largest_hole_mm2 / pixel_area_mm2)
    kept = fill_holes(mask, hole_px)
    if forbidden is not None:
        kept = kept & ~forbidden
    if limits is not None:
        kept = kept & limits.where(hu)
    kept = fill_holes(kept, hole_px)
    if forbidden is not None:
        kept &= ~forbidden
    if near is not None:
        kept = _touching(kept, near)
    kept = remove_islands(kept, int(np.ceil(smallest_island_mm2 / pixel_area_mm2)))
    if prompt is not None:
        kept |= mask & _under_clicks(prompt, mask.shape)
    return kept


def with_cortex(mask: Mask, hu: NDArray[Any], spacing_mm: Sequence[float]) -> Mask:
    """Add to a vertebra the bright bone that touches it: its cortex, where models like to stop short.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        A vertebral body.
    hu : ndarray, shape (H, W)
        The slice.
    spacing_mm : sequence of 2 floats
        (row, column) spacing.

    Returns
    -------
    ndarray of bool, shape (H, W)
        A new mask, at most `CORTEX_MM` wider on each side.

    Examples
    --------
    >>> hu = np.full((9, 9), 40); hu[2:7, 2:7] = 400
    >>> mask = np.zeros((9, 9), bool); mask[3:6, 3:6] = True
    >>> int(with_cortex(mask, hu, (1.0, 1.0)).sum())
    25
    """
    return mask | (grow(mask, CORTEX_MM, spacing_mm) & (hu > CORTEX_HU))


def _touching(mask: Mask, near: Mask) -> Mask:
    labels, count = label_components(mask)
    touched = np.zeros(count + 1, dtype=bool)
    touched[np.unique(labels[mask & near])] = True
    touched[0] = False
    return np.asarray(touched[labels], dtype=bool)


def _under_clicks(prompt: Prompt, shape: tuple[int, ...]) -> Mask:
    """Discs about positive points, and the pixels beneath them."""
    under = np.zeros(shape, dtype=bool)
    for (px, py), label in zip(prompt.points_xy, np.asarray(prompt.labels), strict=True):
        if label == 1:
            near = tuple(
                slice(
                    max(math.floor(at - _CLICK_RADIUS_PX), 0), min(math.ceil(at + _CLICK_RADIUS_PX) + 1, size)
                )
                for at, size in zip((py, px), shape, strict=True)
            )
            y, x = np.ogrid[near]
            under[near] |= np.hypot(x - px, y - py) <= _CLICK_RADIUS_PX
    return under
