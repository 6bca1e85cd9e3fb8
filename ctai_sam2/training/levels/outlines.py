"""From middles of vertebrae, and masks where there are any, to targets on a real slice."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from ctai_sam2.segmentation.levels.labels import S1, TISSUE_CLASSES
from ctai_sam2.training.levels.canvas import NO_LEVEL
from ctai_sam2.training.levels.known import UNKNOWN, KnownImage, level_index

ORDER = (
    "T3",
    "T4",
    "T5",
    "T6",
    "T7",
    "T8",
    "T9",
    "T10",
    "T11",
    "T12",
    "L1",
    "L2",
    "L3",
    "L4",
    "L5",
    "S1",
    "S2",
)
_DEPTH = dict(
    zip(ORDER, (20, 22.5, 24.5, 26, 27, 28, 28, 29, 29, 30, 31.5, 33, 34, 35, 35, 27, 19), strict=True)
)
_BODY, _DISC, _SACRUM, _CANAL, _POSTERIOR = range(1, len(TISSUE_CLASSES))
_HEIGHT_SHARE = 0.8
_BEHIND_MM = 62.0
_BONE_HU = 130.0

Points = Mapping[str, tuple[float, float]]
Masks = Mapping[str, NDArray[np.bool_]]


def known_slice(
    hu: NDArray[np.int16], centres: Points, masks: Masks, *, row_mm: float, patient: str
) -> KnownImage:
    """Targets of a real sagittal slice at one millimetre a pixel.

    Bodies without a mask become boxes between their neighbours with a rim that is left open; canal, arches
    and what lies above the uppermost middle are left open too.

    Parameters
    ----------
    hu : ndarray of int16, shape (h, w)
    centres : mapping of level to (column, row)
    masks : mapping of level to ndarray of bool, shape (h, w)
        Of some of those bodies.
    row_mm : float
        Distance of the acquired rows.
    patient : str
    """
    shape = hu.shape
    dense, level = np.zeros(shape, np.uint8), np.full(shape, NO_LEVEL, np.uint8)
    names = [name for name in ORDER if name in centres]
    at = {name: np.array(centres[name], float) for name in names}
    down = {name: _way_down(names, at, index) for index, name in enumerate(names)}
    line = np.array([at[name] for name in names])
    _open_behind(dense, line, at, down, names)
    boxes = {name: _box(name, names, at, down) for name in names}
    for upper, lower in itertools.pairwise(names):
        if lower == "S2" or ORDER.index(lower) != ORDER.index(upper) + 1:
            continue
        disc = _polygon(shape, [boxes[upper][3], boxes[upper][2], boxes[lower][1], boxes[lower][0]])
        dense[disc], level[disc] = _DISC, level_index(upper)
    for name in names:
        mask = masks.get(name)
        if name in ("S1", "S2"):
            inside = _polygon(shape, boxes[name])
            rim = _grown(inside, 3) & _grown(~inside, 2)
            dense[rim], level[rim] = UNKNOWN, NO_LEVEL
            dense[inside & ~rim] = _SACRUM
            level[inside & ~rim] = S1 if name == "S1" else S1 + 1
            continue
        if mask is None or not mask.any():
            inside = _polygon(shape, boxes[name])
            rim = _grown(inside, 3) & _grown(~inside, 2)
            dense[rim], level[rim] = UNKNOWN, NO_LEVEL
            inside = inside & ~rim
        else:
            inside = mask
        dense[inside], level[inside] = _BODY, level_index(name)
    if "S2" in at:
        _open_below(dense, level, hu, at["S2"])
    top = at[names[0]]
    box = (slice(0, max(int(top[1] - 9), 0)), slice(max(int(top[0] - 70), 0), int(top[0] + 90)))
    dense[box], level[box] = UNKNOWN, NO_LEVEL
    kept = [name for name in names if name != "S2"]
    points = np.array([(*at[name], level_index(name)) for name in kept], np.float32)
    return KnownImage(
        pixels=hu, contrast="hu", dense=dense, level=level, centres_xyl=points, row_mm=row_mm, patient=patient
    )


def _way_down(names: list[str], at: Mapping[str, NDArray[np.float64]], index: int) -> NDArray[np.float64]:
    """Return the unit vector along the spine at a body."""
    if names[index] == "S1" and "S2" in at:
        way = at["S2"] - at["S1"]
    else:
        # The step into S1 turns sharply: L5 follows the step above it by half.
        last = index + 1 if index + 1 < len(names) else index
        way = at[names[last]] - at[names[max(index - 1, 0)]]
    return np.asarray(way / max(float(np.linalg.norm(way)), 1e-6))


def _box(
    name: str,
    names: list[str],
    at: Mapping[str, NDArray[np.float64]],
    down: Mapping[str, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Corners: upper front, upper back, lower back, lower front."""
    index = names.index(name)
    steps = [float(np.linalg.norm(at[a] - at[b])) for a, b in itertools.pairwise(names)]
    near = [steps[i] for i in (index - 1, index) if 0 <= i < len(steps)]
    scale = float(np.median(steps)) / 30.0 if len(steps) > 3 else 1.0
    height = min(near) * _HEIGHT_SHARE
    half = _DEPTH[name] / 2 * float(np.clip(scale, 0.85, 1.15))
    d = down[name]
    back = np.array([d[1], -d[0]])
    taper = 0.72 if name in ("S1", "S2") else 1.0
    top, bottom = at[name] - d * height / 2, at[name] + d * height / 2
    return np.array(
        [top - back * half, top + back * half, bottom + back * half * taper, bottom - back * half * taper]
    )


def _open_behind(
    dense: NDArray[np.uint8], line: NDArray[np.float64], at: Mapping[str, NDArray[np.float64]],
    down: Mapping[str, NDArray[np.float64]], names: list[str],
) -> None:  # fmt: skip
    """Leave open what canal, arches and processes fill."""
    front, behind = [], []
    for name in names:
        back = np.array([down[name][1], -down[name][0]])
        front.append(at[name] + back * (_DEPTH[name] / 2 - 1))
        behind.append(at[name] + back * (_DEPTH[name] / 2 + _BEHIND_MM))
    polygon = np.array([*front, *behind[::-1]])
    dense[_polygon(dense.shape, polygon)] = UNKNOWN


def _open_below(
    dense: NDArray[np.uint8], level: NDArray[np.uint8], hu: NDArray[np.int16], s2: NDArray[np.float64]
) -> None:
    """Below S2: bright bone near its level is sacrum, the rest is left open."""
    rows, columns = np.mgrid[: dense.shape[0], : dense.shape[1]]
    region = (rows > s2[1] - 12) & (rows < s2[1] + 100) & (columns > s2[0] - 22) & (columns < s2[0] + 75)
    region &= level == NO_LEVEL
    dense[region] = UNKNOWN
    near = region & (np.hypot(rows - s2[1], columns - s2[0]) < 9) & (hu > _BONE_HU)
    dense[near], level[near] = _SACRUM, S1 + 1


def _polygon(shape: tuple[int, ...], corners: object) -> NDArray[np.bool_]:
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [np.rint(np.array(corners, float)).astype(np.int32)], 1)
    return canvas > 0


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0
