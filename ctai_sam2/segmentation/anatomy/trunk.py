"""The layers of the trunk on an axial slice: fascia, muscle wall, cavity.

The fascia is what is left of the body once skin and the fat beneath it are
taken off. The cavity's outline is the closed curve around a point before the
spine that best leaves muscle and bone outside and everything else inside,
found by dynamic programming over rays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.distances import box_of, deeper_than, depth_of, within_distance
from ctai_sam2.image.masks import fill_holes
from ctai_sam2.segmentation.anatomy.vertebra import VertebralBody, disc_close, disc_open
from ctai_sam2.types import Mask

FAT_HU = (-190.0, -30.0)
MUSCLE_HU = (-29.0, 150.0)

_SKIN_MM = 2.0
_SURE_BALL_MM = 7.0
_FINE_BALL_MM = 2.0
_FINE_REACH_MM = 12.0
_BULGE_MM = 40
_RAYS = 360
_STEP_MM = 1.0
_STEEPEST_STEPS = 7
_STEEPNESS_COST = 0.4
_PREVERTEBRAL_MM = 6.0
_LEAST_FASCIA_PART = 0.2
_OUTLINE_ERROR_MM = 10.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Trunk:
    """Layers of an axial slice on the grid of one millimetre.

    Parameters
    ----------
    body : ndarray of bool, shape (h, w)
        The patient with skin.
    fascia : ndarray of bool, shape (h, w)
        Everything inside the subcutaneous fat.
    cavity : ndarray of bool, shape (h, w)
        Peritoneal and retroperitoneal space: organs and visceral fat.
    muscle_hu : float
        Usual density of the muscles of this patient's back.
    vertebra : VertebralBody
        The landmark.
    """

    body: Mask
    fascia: Mask
    cavity: Mask
    muscle_hu: float
    vertebra: VertebralBody

    @cached_property
    def deep_inside(self) -> Mask:
        """The cavity further from its outline than that can be wrong: where no psoas lies."""
        return deeper_than(self.cavity, _OUTLINE_ERROR_MM)


def find_trunk(hu: NDArray[np.float32], body: Mask, vertebra: VertebralBody) -> Trunk:
    """Find fascia and cavity of an axial slice.

    Raises
    ------
    AnatomyNotFound
        If no muscle wall can be distinguished from the fat beneath the skin.
    """
    fascia = _find_fascia(hu, body, vertebra)
    if fascia.sum() < _LEAST_FASCIA_PART * body.sum():
        raise AnatomyNotFound(
            "the muscle wall of the trunk is not visible on the slice",
            hint="Choose a slice of the abdomen, or place points or a box yourself.",
        )
    muscle_hu = _usual_muscle_hu(hu, fascia, vertebra)
    cavity = _find_cavity(hu, fascia, vertebra, muscle_hu)
    return Trunk(body=body, fascia=fascia, cavity=cavity, muscle_hu=muscle_hu, vertebra=vertebra)


def _usual_muscle_hu(hu: NDArray[np.float32], fascia: Mask, vertebra: VertebralBody) -> float:
    """Median density of muscle behind the vertebral body, where there is no organ to mistake for it."""
    y = np.arange(hu.shape[0])[:, None]
    x = np.arange(hu.shape[1])[None, :]
    behind = (y > vertebra.centre_xy[1] + 1.3 * vertebra.radius_mm) & (
        np.abs(x - vertebra.centre_xy[0]) < 4 * vertebra.radius_mm
    )
    sample = hu[fascia & behind & (hu > 0) & (hu < 110)]
    return float(np.median(sample)) if sample.size else 50.0


def _find_fascia(hu: NDArray[np.float32], body: Mask, vertebra: VertebralBody) -> Mask:
    depth = depth_of(np.pad(body, 1))[1:-1, 1:-1]
    skin = body & (depth <= _SKIN_MM)
    fat = (hu > FAT_HU[0] - 60) & (hu < FAT_HU[1]) & body
    # A large disc rolling in from the skin passes no gap of the fascia, but leaves fat in the corners; a
    # small one fetches that, and may not go far, for it does pass.
    sure = _rolled_from(skin, fat | skin | ~body, _SURE_BALL_MM, depth)
    fine = _rolled_from(skin, fat | skin | ~body, _FINE_BALL_MM, depth)
    fine &= within_distance(sure | skin | ~body, _FINE_REACH_MM)
    outside = sure | fine
    inside = body & ~outside & ~skin
    inside = fill_holes(disc_close(inside, 6.0))
    inside = disc_open(inside & body & ~skin, 5.0)
    # The belly bulges outwards: a dent in its wall is a gap between muscles that fat was followed through.
    bulging = disc_close(np.pad(inside, _BULGE_MM), _BULGE_MM)[_BULGE_MM:-_BULGE_MM, _BULGE_MM:-_BULGE_MM]
    bulging[round(vertebra.centre_xy[1]) :] = False
    inside |= bulging & body & ~skin
    labels, _ = ndimage.label(inside)
    x, y = (round(v) for v in vertebra.centre_xy)
    if labels[y, x] == 0:
        return np.zeros_like(body)
    fascia: Mask = labels == labels[y, x]
    return fascia


def _rolled_from(skin: Mask, free: Mask, radius_mm: float, depth: NDArray[np.float64]) -> Mask:
    rolled = disc_open(free, radius_mm)
    labels, _ = ndimage.label(rolled)
    touching = np.unique(labels[(depth <= _SKIN_MM + 1) & rolled])
    reached: Mask = np.isin(labels, touching[touching > 0])
    return reached | skin


def _find_cavity(hu: NDArray[np.float32], fascia: Mask, vertebra: VertebralBody, muscle_hu: float) -> Mask:
    centre = _ray_centre(fascia, vertebra)
    angles: NDArray[np.float64] = np.asarray(np.arange(_RAYS) * (2 * np.pi / _RAYS), dtype=np.float64)
    # No ray needs to go further than the fascia reaches.
    rows, columns = np.nonzero(fascia)
    farthest = float(np.hypot(columns - centre[0], rows - centre[1]).max())
    steps = min(int(np.hypot(*hu.shape) / _STEP_MM), int(farthest / _STEP_MM) + 3)
    distance = np.arange(steps) * _STEP_MM
    x = centre[0] + distance[None, :] * np.cos(angles)[:, None]
    y = centre[1] + distance[None, :] * np.sin(angles)[:, None]
    at = np.stack([y, x])
    inside = ndimage.map_coordinates(fascia.astype(np.float32), at, order=1, mode="constant") >= 0.5
    inside &= np.cumprod(inside, axis=1).astype(bool) | _reaches_outwards(inside)
    score = ndimage.map_coordinates(_wall_score(hu, vertebra, muscle_hu), at, order=1, mode="constant")
    score = np.where(inside, score, 0.0)
    # Value of placing the outline at a distance: everything from there out to the fascia is called wall.
    value = np.cumsum(score[:, ::-1], axis=1)[:, ::-1] * _STEP_MM
    outermost = inside.shape[1] - 1 - np.argmax(inside[:, ::-1], axis=1)
    thickness = (outermost[:, None] - np.arange(steps)[None, :]) * _STEP_MM
    usual, slack = _usual_thickness(angles)
    excess = np.clip(thickness - usual[:, None], 0.0, None)
    value = value - slack[:, None] * excess
    value[thickness < 0] = -1e6
    outline = np.asarray(_best_closed_path(value) * _STEP_MM, dtype=np.float64)
    cavity = np.zeros_like(fascia)
    box = box_of(fascia)
    if box is not None:
        cavity[box] = fascia[box] & _fill_outline(centre, angles, outline, box)
    return cavity


def _ray_centre(fascia: Mask, vertebra: VertebralBody) -> tuple[float, float]:
    """Half-way between the vertebra's front and the belly's, but not far from the spine."""
    x, y = vertebra.centre_xy
    front = y - 1.1 * vertebra.radius_mm
    column = np.flatnonzero(fascia[:, round(x)])
    belly = float(column.min()) if column.size else front
    return x, max(front - 35.0, (front + belly) / 2)


def _reaches_outwards(inside: Mask) -> Mask:
    """Everything up to the outermost pixel of the fascia on each ray."""
    reaching: Mask = np.cumsum(inside[:, ::-1], axis=1)[:, ::-1] > 0
    return reaching


def _wall_score(hu: NDArray[np.float32], vertebra: VertebralBody, muscle_hu: float) -> NDArray[np.float32]:
    """How well a pixel fits outside the cavity: muscle and bone do, fat, gas and brighter organs do not."""
    score = np.interp(
        hu,
        [-200, -60, -30, 0, 10, muscle_hu + 25, muscle_hu + 45, muscle_hu + 70],
        [-1.5, -1.5, -0.8, 0.2, 1, 1, -0.3, -1],
    )
    score = np.where(hu < -250, -3.0, score)
    score = np.where(hu > 260, 0.3, score)
    score = np.where(_connected_to(vertebra.bone, vertebra), 1.0, score)
    y, x = np.mgrid[: hu.shape[0], : hu.shape[1]]
    before = y < vertebra.centre_xy[1] - 1.15 * vertebra.radius_mm - _PREVERTEBRAL_MM
    # The great vessels lie here, and without contrast they look like muscle.
    vessels = before & (np.abs(x - vertebra.centre_xy[0]) < 2.5 * vertebra.radius_mm)
    score = np.where(vessels, np.minimum(score, -1.0), score)
    spine = within_distance(vertebra.mask, 2.0)
    return np.where(spine, 3.0, score).astype(np.float32)


def _connected_to(bone: Mask, vertebra: VertebralBody) -> Mask:
    labels, _ = ndimage.label(bone)
    x, y = (round(v) for v in vertebra.centre_xy)
    connected: Mask = labels == labels[y, x]
    return connected


def _usual_thickness(angles: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thickness in mm that costs nothing, and the cost of each mm beyond, by direction.

    The belly's wall is thin, the flank's three layers thicker; behind lie the deep muscles of the back,
    where the wall may reach the vertebra.
    """
    # Angle from straight back, 0 to 180 degrees: image y grows to the back.
    from_back = np.degrees(np.abs(np.angle(np.exp(1j * (angles - np.pi / 2)))))
    usual = np.interp(from_back, [0, 25, 40, 60, 90, 120, 180], [160, 120, 65, 32, 20, 14, 9])
    cost = np.interp(from_back, [0, 25, 40, 60, 90, 180], [0.0, 0.2, 0.6, 0.9, 1.0, 1.1])
    return usual, cost


def _best_closed_path(value: NDArray[np.float64]) -> NDArray[np.intp]:
    """Index per row that maximises the sum, moving at most `_STEEPEST_STEPS` from row to row."""
    rays, steps = value.shape
    # Run round twice and keep the middle: its ends then meet.
    doubled = np.concatenate([value, value])
    best = np.empty_like(doubled)
    came = np.zeros(doubled.shape, dtype=np.int8)
    best[0] = doubled[0]
    shifts = np.arange(-_STEEPEST_STEPS, _STEEPEST_STEPS + 1)
    cost = (_STEEPNESS_COST * np.abs(shifts))[:, None]
    padded = np.full(steps + 2 * _STEEPEST_STEPS, -np.inf)
    shifted = sliding_window_view(padded, steps)
    for row in range(1, len(doubled)):
        padded[_STEEPEST_STEPS:-_STEEPEST_STEPS] = best[row - 1]
        options = shifted - cost
        choice = np.argmax(options, axis=0)
        came[row] = choice - _STEEPEST_STEPS
        best[row] = doubled[row] + options[choice, np.arange(steps)]
    path = np.empty(len(doubled), dtype=np.intp)
    path[-1] = int(np.argmax(best[-1]))
    for row in range(len(doubled) - 1, 0, -1):
        path[row - 1] = path[row] + came[row, path[row]]
    half = rays // 2
    return np.roll(path[half : half + rays], half)


def _fill_outline(
    centre_xy: tuple[float, float],
    angles: NDArray[np.float64],
    radii_mm: NDArray[np.float64],
    box: tuple[slice, slice],
) -> Mask:
    y, x = np.ogrid[box]
    angle = np.mod(np.arctan2(y - centre_xy[1], x - centre_xy[0]), 2 * np.pi)
    radius = np.interp(angle, np.append(angles, 2 * np.pi), np.append(radii_mm, radii_mm[0]))
    filled: Mask = np.hypot(x - centre_xy[0], y - centre_xy[1]) < radius
    return filled
