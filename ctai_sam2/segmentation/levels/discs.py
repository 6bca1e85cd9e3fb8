"""Discs and vertebral bodies along a straightened spine, numbered upwards from the sacrum."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.segmentation.levels.spine_path import HALF_WIDTH_MM, StraightSpine
from ctai_sam2.structures import LEVELS

_CORE_MM = 9
_LEAST_STEP_MM, _GREATEST_STEP_MM = 23, 48
_PLATE_NEAR_MM, _PLATE_FAR_MM = 3, 11
_FAINT = 0.35
_SACRAL_LEAD_DEG = 27.0
_SURE_LEAD_DEG = 34.0
_SURE_LUMBAR_DEG = 20.0
_GREATEST_BEND_DEG = 35.0
_LEVELS_UP = LEVELS[::-1]


@dataclass(frozen=True, kw_only=True)
class SpineBody:
    """A vertebral body between two discs, along a straightened spine.

    Parameters
    ----------
    top_mm, bottom_mm : float
        Where the discs above and below it are, along the line.
    tilt_deg : float
        How far the way down from disc to disc leads backwards; large in the sacrum.
    level : str or None
        Numbered from the sacrum, where it was seen.
    sure : bool
        False where the body above or below could be L5 as well.
    """

    top_mm: float
    bottom_mm: float
    tilt_deg: float
    level: str | None = None
    sure: bool = True


def find_bodies(hu: NDArray[np.float32], spine: StraightSpine) -> tuple[SpineBody, ...]:
    """Find the vertebral bodies of a straightened spine, from the top down.

    A disc is a dark band between two bright end plates; the discs are the chain of such bands, 23 to
    48 mm apart, that is darkest in all. Where the bone below one of the last discs leads backwards by
    `_SACRAL_LEAD_DEG` or more, it is the sacrum, and the body above is L5.

    Parameters
    ----------
    hu : ndarray of float32, shape (h, w)
        The slice at one millimetre a pixel.
    spine : StraightSpine
        From `straighten_spine`.

    Raises
    ------
    AnatomyNotFound
        If fewer than two discs are visible.
    """
    contrast = disc_contrast(spine)
    discs = _best_chain(contrast)
    if len(discs) < 2:
        raise AnatomyNotFound(
            "no discs are visible between the vertebrae",
            hint="Give a sagittal slice through the middle of the spine, or place a point in L3.",
        )
    discs = _while_bone(spine, discs)
    leads = [_lead_deg(hu, spine, disc) for disc in discs]
    # Thoracic kyphosis leads backwards as well, but far from the last disc.
    tilted = [i for i in range(max(len(discs) - 3, 1), len(discs)) if leads[i] >= _SACRAL_LEAD_DEG]
    sacrum_seen = bool(tilted)
    count = tilted[0] if sacrum_seen else len(discs) - 1
    # At L4/L5 the bone below leads hardly backwards: where it does, the sacrum may begin a level higher.
    sure = not sacrum_seen or (leads[count] >= _SURE_LEAD_DEG and leads[count - 1] < _SURE_LUMBAR_DEG)
    places = np.array([spine.place(float(d), 0.0) for d in discs])
    steps = np.diff(places, axis=0)
    tilts = np.degrees(np.arctan2(steps[:, 0], steps[:, 1]))
    if (np.abs(np.diff(tilts[:count][-5:])) > _GREATEST_BEND_DEG).any():
        raise AnatomyNotFound(
            "the spine could not be followed on the slice",
            hint="Give a sagittal slice nearer to the midline, or place a point in L3.",
        )
    return tuple(
        SpineBody(
            top_mm=float(discs[i]),
            bottom_mm=float(discs[i + 1]),
            tilt_deg=float(tilts[i]),
            level=_LEVELS_UP[count - 1 - i] if sacrum_seen and count - 1 - i < len(_LEVELS_UP) else None,
            sure=sure,
        )
        for i in range(count)
    )


def disc_contrast(spine: StraightSpine) -> NDArray[np.float64]:
    """How much darker than its two neighbouring plates the core of the spine is, per mm, in HU."""
    core = spine.hu[:, HALF_WIDTH_MM - _CORE_MM : HALF_WIDTH_MM + _CORE_MM + 1]
    profile = np.clip(core, -150, 500).mean(axis=1).astype(np.float64)
    band = ndimage.uniform_filter1d(profile, 5, mode="nearest")
    width = _PLATE_FAR_MM - _PLATE_NEAR_MM + 1
    highest = ndimage.maximum_filter1d(ndimage.uniform_filter1d(profile, 3), width, mode="nearest")
    shift = (_PLATE_FAR_MM + _PLATE_NEAR_MM) // 2
    above = np.pad(highest, (shift, 0), mode="edge")[: len(profile)]
    below = np.pad(highest, (0, shift), mode="edge")[shift:]
    return np.asarray(np.minimum(np.minimum(above, below), 350) - band, dtype=np.float64)


def _best_chain(contrast: NDArray[np.float64]) -> list[int]:
    inner = contrast[1:-1]
    peaks = np.flatnonzero((inner >= contrast[:-2]) & (inner > contrast[2:]) & (inner > 0)) + 1
    peaks = peaks[(peaks > 4) & (peaks < len(contrast) - 5)]
    if peaks.size == 0:
        return []
    strength = contrast[peaks]
    usual = float(np.percentile(strength, 75))
    worth = np.minimum(strength, 1.5 * usual) - _FAINT * usual
    best, before = worth.copy(), np.full(len(peaks), -1)
    for i in range(len(peaks)):
        gaps = peaks[i] - peaks[:i]
        allowed = np.flatnonzero((gaps >= _LEAST_STEP_MM) & (gaps <= _GREATEST_STEP_MM))
        if allowed.size:
            j = int(allowed[np.argmax(best[allowed])])
            if best[j] > 0:
                best[i] += best[j]
                before[i] = j
    chain = [int(np.argmax(best))]
    while before[chain[-1]] >= 0:
        chain.append(int(before[chain[-1]]))
    return [int(peaks[i]) for i in reversed(chain)]


def _while_bone(spine: StraightSpine, discs: list[int]) -> list[int]:
    """Drop discs below which the line had already left the bone: the pelvis has dark bands too."""
    core = spine.hu[:, HALF_WIDTH_MM - _CORE_MM : HALF_WIDTH_MM + _CORE_MM + 1].mean(axis=1)
    between = np.array([float(core[a + 4 : b - 3].mean()) for a, b in pairwise(discs)])
    least = 0.6 * float(np.median(between))
    start = len(between) // 2
    failing = [i for i in range(start, len(between)) if between[i] < least]
    return discs[: failing[0] + 1] if failing and failing[0] > 0 else discs


def _lead_deg(hu: NDArray[np.float32], spine: StraightSpine, disc_mm: int) -> float:
    """Where the bone below a disc leads: degrees from straight down, backwards positive."""
    x, y = spine.place(float(disc_mm), 0.0)
    angles = np.arange(-40.0, 71.0, 5.0)
    reach = np.arange(12.0, 40.0)
    side = np.arange(-5.0, 6.0)
    sine, cosine = np.sin(np.radians(angles)), np.cos(np.radians(angles))
    px = x + sine[:, None, None] * reach[None, :, None] + cosine[:, None, None] * side[None, None, :]
    py = y + cosine[:, None, None] * reach[None, :, None] - sine[:, None, None] * side[None, None, :]
    bone = np.clip(ndimage.map_coordinates(hu, [py, px], order=1, mode="constant", cval=-100), 0, 250)
    seen = bone.mean(axis=(1, 2))
    weight = np.clip(seen - 0.8 * seen.max(), 0, None)
    return float((weight * angles).sum() / max(float(weight.sum()), 1e-6))
