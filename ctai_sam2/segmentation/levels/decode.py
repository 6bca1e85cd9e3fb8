"""From the network's maps to a chain of vertebral bodies and the probability of each naming of it.

First the bodies: peaks of the centre map joined from head to feet through bone and disc. Then the names: they
follow each other without a gap, so one number, where in the chain L3 stands, names all; each body's own
evidence is summed for every such number. Neighbours repeat each other's evidence, which is why the sum is
tempered before it becomes a probability.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import softmax

from ctai_sam2.segmentation.levels.image import PIXEL_MM
from ctai_sam2.segmentation.levels.labels import L3, LEVEL_CLASSES, S1, TISSUE_CLASSES

Floats = NDArray[np.float32]
_HALF_DEPTH_MM = 16.0
_FURTHEST_MM = 30.0
_LEAST_BODY_MM2 = 200.0
_BODY, _DISC, _SACRUM, _CANAL = (TISSUE_CLASSES.index(name) for name in ("body", "disc", "sacrum", "canal"))


@dataclass(frozen=True, kw_only=True)
class DecodeParameters:
    """Constants of the decode.

    Attributes
    ----------
    least_peak : float
        Height of the centre map from which a peak may be a body. Tried 0.03 to 0.2.
    apart_mm : float
        Peaks nearer than this are one; the lowest cervical bodies stand some 15 mm apart.
    step_mm, step_spread : float
        Typical distance of neighbours (20 in the upper thorax to 40 between L4 and L5) and the standard
        deviation of its logarithm.
    least_step_mm, greatest_step_mm : float
        Outside these no two peaks follow each other; the greatest step hides one body between them.
    bone_weight : float
        How much the share of spine between two peaks counts. Tried 1 to 4.
    peak_odds : float
        A peak of this height neither lengthens a chain nor costs.
    gap_ratio : float
        A step this many times the median of its neighbours hides a body that was not seen.
    temper : float
        Factor of the summed evidence. 0.2 to 1 were tried: drawn spines, which are more alike than patients,
        ask for 1; 0.3 is the largest at which no real slice without its sacrum is named wrongly and firmly.
    floor : float
        Smallest probability that a single body may give a level.
    reach_mm : float
        Evidence for a body's level is averaged up to this far from its middle.
    """

    least_peak: float = 0.06
    apart_mm: float = 11.0
    step_mm: float = 30.0
    step_spread: float = 0.3
    least_step_mm: float = 13.0
    greatest_step_mm: float = 85.0
    bone_weight: float = 2.5
    peak_odds: float = 0.15
    gap_ratio: float = 1.65
    temper: float = 0.3
    floor: float = 0.003
    reach_mm: float = 9.0


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelEvidence:
    """Probabilities from the network, at `PIXEL_MM` a pixel.

    Parameters
    ----------
    tissue : ndarray of float32, shape (len(TISSUE_CLASSES), h, w)
    centre : ndarray of float32, shape (h, w)
    level : ndarray of float32, shape (len(LEVEL_CLASSES), h, w)
    """

    tissue: Floats
    centre: Floats
    level: Floats

    @property
    def spine(self) -> Floats:
        """Probability of body, disc or sacrum, shape (h, w)."""
        return np.asarray(self.tissue[_BODY] + self.tissue[_DISC] + self.tissue[_SACRUM])


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenVertebra:
    """A vertebral body of the chain, or S1.

    Parameters
    ----------
    centre_xy : tuple of float
        In pixels of `PIXEL_MM`.
    strength : float
        Height of its peak, 0 to 1; 0 where it was put into a gap.
    levels : ndarray, shape (len(LEVEL_CLASSES),)
        What it looks like by itself.
    canal : float
        How surely the canal is seen behind it, 0 to 1.
    """

    centre_xy: tuple[float, float]
    strength: float
    levels: NDArray[np.float64]
    canal: float


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedSpine:
    """A chain from head to feet, and how likely each body is each level.

    Parameters
    ----------
    bodies : tuple of SeenVertebra
        With S1, where it is seen.
    probability : ndarray, shape (len(bodies), len(LEVEL_CLASSES))
        Of each body to be each level; rows sum to 1.
    """

    bodies: tuple[SeenVertebra, ...]
    probability: NDArray[np.float64] = field(repr=False)

    @property
    def l3_probability(self) -> NDArray[np.float64]:
        """Of each body to be L3, shape (len(bodies),); sums to 1 at most."""
        return np.asarray(self.probability[:, L3])


def find_chain(evidence: LevelEvidence, parameters: DecodeParameters) -> tuple[SeenVertebra, ...]:
    """Vertebral bodies and S1 from head to feet; empty where none is seen."""
    peaks, heights = _peaks(evidence.centre, parameters)
    if len(peaks) == 0:
        return ()
    chain = _best_chain(peaks, heights, evidence.spine, parameters)
    points = [(peaks[index], float(heights[index])) for index in chain]
    points = _fill_gaps(points, evidence.spine, parameters)
    line = np.array([point for point, _ in points])
    return tuple(
        SeenVertebra(
            centre_xy=(float(point[0]), float(point[1])),
            strength=height,
            levels=_levels_at(evidence, point, parameters),
            canal=_canal_behind(evidence, line, index),
        )
        for index, (point, height) in enumerate(points)
    )


def name_chain(bodies: tuple[SeenVertebra, ...], parameters: DecodeParameters) -> NamedSpine:
    """Probability of every level for every body of a chain."""
    count, kinds = len(bodies), len(LEVEL_CLASSES)
    if not count:
        return NamedSpine(bodies=(), probability=np.zeros((0, kinds)))
    logs = np.log(np.array([np.maximum(body.levels, parameters.floor) for body in bodies]))
    weight = np.array([max(body.strength, 0.1) for body in bodies])
    # The number is the level of the last body; anything from T10 or above to S2 or below.
    numbers = np.arange(0, kinds + count - 1)
    names = np.clip(numbers[:, None] - (count - 1) + np.arange(count)[None], 0, kinds - 1)
    sums = (logs[np.arange(count)[None], names] * weight).sum(axis=1) * parameters.temper
    # More than one body below S1 is no spine as the network is taught it.
    sums -= 4.0 * np.clip(numbers - (S1 + 1), 0, None)
    chance = softmax(sums)
    probability = np.zeros((count, kinds))
    for row, share in zip(names, chance, strict=True):
        probability[np.arange(count), row] += share
    return NamedSpine(bodies=bodies, probability=probability)


def _peaks(centre: Floats, p: DecodeParameters) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places (x, y) and heights of separate peaks, the highest first."""
    smooth = ndimage.gaussian_filter(centre, 0.7)
    reach = round(p.apart_mm / PIXEL_MM)
    footprint = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach
    top = (smooth == ndimage.maximum_filter(smooth, footprint=footprint)) & (centre > p.least_peak)
    rows, columns = np.nonzero(top)
    if rows.size == 0:
        return np.zeros((0, 2)), np.zeros(0)
    order = np.argsort(-smooth[rows, columns])[:60]
    places, heights = [], []
    for row, column in zip(rows[order], columns[order], strict=True):
        window = (slice(max(row - 3, 0), row + 4), slice(max(column - 3, 0), column + 4))
        part = centre[window].astype(np.float64) ** 1.5
        y, x = np.indices(part.shape) + np.array([window[0].start, window[1].start])[:, None, None]
        places.append(((x * part).sum() / part.sum(), (y * part).sum() / part.sum()))
        heights.append(float(centre[window].max()))
    return np.array(places), np.array(heights)


def _between(spine: Floats, a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean of the spine map on the line between two places."""
    share = np.linspace(0.0, 1.0, 15)
    at = a[None] + share[:, None] * (b - a)[None]
    values = ndimage.map_coordinates(spine, at[:, ::-1].T, order=1, mode="nearest")
    return float(values.mean())


def _best_chain(
    peaks: NDArray[np.float64], heights: NDArray[np.float64], spine: Floats, p: DecodeParameters
) -> list[int]:
    order = np.argsort(peaks[:, 1])
    own = np.log(np.clip(heights, 0.01, 0.99) / (1 - np.clip(heights, 0.01, 0.99)))
    own -= np.log(p.peak_odds / (1 - p.peak_odds))
    own = np.minimum(own, 3.5)
    best, before = own.copy(), np.full(len(peaks), -1)
    for place, j in enumerate(order):
        for i in order[:place]:
            step = (peaks[j] - peaks[i]) * PIXEL_MM
            length = float(np.hypot(*step))
            if not p.least_step_mm <= length <= p.greatest_step_mm or abs(step[0]) > 1.4 * step[1] + 4:
                continue
            bone = _between(spine, peaks[i], peaks[j])
            edge = -0.5 * (np.log(length / p.step_mm) / p.step_spread) ** 2 + p.bone_weight * np.log(
                max(bone, 0.03)
            )
            if best[i] + edge + own[j] > best[j]:
                best[j], before[j] = best[i] + edge + own[j], i
    chain = [int(np.argmax(best))]
    while before[chain[-1]] >= 0:
        chain.append(int(before[chain[-1]]))
    return chain[::-1]


def _fill_gaps(
    points: list[tuple[NDArray[np.float64], float]], spine: Floats, p: DecodeParameters
) -> list[tuple[NDArray[np.float64], float]]:
    """Put a body into every step that is about twice as long as the steps near it."""
    if len(points) < 4:
        return points
    steps = np.array([np.hypot(*(b[0] - a[0])) for a, b in itertools.pairwise(points)])
    filled = [points[0]]
    for index, step in enumerate(steps):
        near = np.delete(steps[max(index - 2, 0) : index + 3], min(index, 2))
        if (
            step > p.gap_ratio * float(np.median(near))
            and _between(spine, points[index][0], points[index + 1][0]) > 0.5
        ):
            filled.append(((points[index][0] + points[index + 1][0]) / 2, 0.0))
        filled.append(points[index + 1])
    return filled


def _levels_at(
    evidence: LevelEvidence, point: NDArray[np.float64], p: DecodeParameters
) -> NDArray[np.float64]:
    reach = round(p.reach_mm / PIXEL_MM)
    row, column = round(float(point[1])), round(float(point[0]))
    window = (slice(max(row - reach, 0), row + reach + 1), slice(max(column - reach, 0), column + reach + 1))
    weight = (evidence.tissue[_BODY] + evidence.tissue[_SACRUM])[window] + 0.02
    mean = (evidence.level[(slice(None), *window)] * weight).sum(axis=(1, 2)) / weight.sum()
    return np.asarray(mean / mean.sum(), dtype=np.float64)


def _canal_behind(evidence: LevelEvidence, line: NDArray[np.float64], index: int) -> float:
    """Highest mean of the canal map across the spine, 14 to 36 mm behind a body's middle."""
    way = line[min(index + 1, len(line) - 1)] - line[max(index - 1, 0)]
    length = float(np.hypot(*way))
    down = way / length if length > 0 else np.array([0.0, 1.0])
    back = np.array([down[1], -down[0]])
    out = np.arange(14.0, 37.0, PIXEL_MM) / PIXEL_MM
    along = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])
    at = line[index] + out[:, None, None] * back + along[None, :, None] * down
    values = ndimage.map_coordinates(
        evidence.tissue[_CANAL], [at[..., 1], at[..., 0]], order=1, mode="constant", cval=0.0
    ).mean(axis=1)
    return float(values.max())


def body_extent(
    evidence: LevelEvidence, line_xy: Sequence[tuple[float, float]], index: int
) -> tuple[float, float]:
    """Rows between which a body of a chain lies, in pixels of the evidence: upper and lower edge.

    Up to half-way to its neighbours; where the body map says more exactly, as it says.
    """
    line = np.array(line_xy)
    centre = line[index]
    ways = [line[i] - centre for i in (index - 1, index + 1) if 0 <= i < len(line)]
    usual = float(np.median(np.hypot(*np.diff(line, axis=0).T))) if len(line) > 1 else 16.0
    up = line[index - 1] - centre if index > 0 else -ways[0] / max(float(np.hypot(*ways[0])), 1e-6) * usual
    down = line[index + 1] - centre if index + 1 < len(line) else -up
    edges = []
    for way in (up, down):
        share = np.linspace(0.0, 0.62, 32)
        at = centre[None] + share[:, None] * way[None]
        bone = evidence.tissue[_BODY] + evidence.tissue[_SACRUM]
        seen = ndimage.map_coordinates(bone, [at[:, 1], at[:, 0]], order=1, mode="nearest")
        outside = np.flatnonzero(seen < 0.5)
        # Discs take a fifth of the way: less than a quarter of it cannot be a body's half.
        end = share[outside[0]] if outside.size and share[outside[0]] > 0.25 else 0.42
        edges.append(float(centre[1] + end * way[1]))
    return edges[0], edges[1]


def body_box(
    evidence: LevelEvidence, line_xy: Sequence[tuple[float, float]], index: int
) -> tuple[float, float, float, float]:
    """Box (x0, y0, x1, y1) about a body of a chain, in pixels of the evidence, edges at half pixels.

    Of what the tissue map calls body between the planes half-way to the neighbours; a body that is hardly
    seen gets a box of usual depth.
    """
    line = np.array(line_xy)
    centre = line[index]
    way = line[min(index + 1, len(line) - 1)] - line[max(index - 1, 0)]
    down = way / max(float(np.hypot(*way)), 1e-6) if len(line) > 1 else np.array([0.0, 1.0])
    top, bottom = body_extent(evidence, line_xy, index)
    half = _HALF_DEPTH_MM / PIXEL_MM
    usual = (centre[0] - half, top, centre[0] + half, bottom)
    reach = int(_FURTHEST_MM / PIXEL_MM)
    row, column = round(float(centre[1])), round(float(centre[0]))
    rows = slice(max(row - reach, 0), row + reach + 1)
    columns = slice(max(column - reach, 0), column + reach + 1)
    bone = evidence.tissue[_BODY][rows, columns] > 0.5
    y, x = np.indices(bone.shape)
    dx, dy = x + columns.start - centre[0], y + rows.start - centre[1]
    along, across = dx * down[0] + dy * down[1], dx * down[1] - dy * down[0]
    above = (float(np.hypot(*(line[index - 1] - centre))) if index else np.inf) / 2
    below = (float(np.hypot(*(line[index + 1] - centre))) if index + 1 < len(line) else np.inf) / 2
    most = _FURTHEST_MM / PIXEL_MM
    bone &= (along > -min(above, most)) & (along < min(below, most)) & (np.abs(across) < most)
    labels, _ = ndimage.label(bone)
    at = labels[row - rows.start, column - columns.start] if 0 <= row - rows.start < bone.shape[0] else 0
    bone = labels == at if at else bone
    if bone.sum() * PIXEL_MM**2 < _LEAST_BODY_MM2:
        return tuple(float(v) for v in usual)  # type: ignore[return-value]
    seen_y, seen_x = np.nonzero(bone)
    return (
        float(seen_x.min() + columns.start - 0.5),
        float(seen_y.min() + rows.start - 0.5),
        float(seen_x.max() + columns.start + 0.5),
        float(seen_y.max() + rows.start + 0.5),
    )
