"""Discs and vertebral bodies along a straightened spine, numbered upwards from the sacrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.oneclick.spine_path import HALF_WIDTH_MM, StraightSpine

_CORE_MM = 9
_LEAST_STEP_MM, _GREATEST_STEP_MM = 20, 48
_PLATE_NEAR_MM, _PLATE_FAR_MM = 3, 11
_FAINT = 0.35
_SACRAL_TILT_DEG = 27.0
_PAST_BONE_HU = 70.0
_LEVELS_UP = ("L5", "L4", "L3", "L2", "L1", "T12", "T11", "T10")


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
    """

    top_mm: float
    bottom_mm: float
    tilt_deg: float
    level: str | None = None


def find_bodies(spine: StraightSpine) -> tuple[SpineBody, ...]:
    """Find the vertebral bodies of a straightened spine, from the top down.

    A disc is a dark band between two bright end plates; the discs are the chain of such bands, 20 to
    48 mm apart, that is darkest in all. The first body whose discs lead backwards by 27 degrees or more
    belongs to the sacrum, and so does bone below the last disc where the line then leaves the bone.

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
    places = np.array([spine.place(float(d), 0.0) for d in discs])
    steps = np.diff(places, axis=0)
    tilts = np.degrees(np.arctan2(steps[:, 0], steps[:, 1]))
    tilted = np.flatnonzero(tilts >= _SACRAL_TILT_DEG)
    count = len(tilts)
    sacrum_seen = False
    # Thoracic kyphosis leads backwards too, but upwards of a lordosis, never at the end.
    for index in tilted[::-1]:
        if (tilts[index:] >= _SACRAL_TILT_DEG * 0.8).all():
            count, sacrum_seen = int(index), True
    if not sacrum_seen:
        sacrum_seen = _bone_ends_below(spine, int(discs[-1]))
    return tuple(
        SpineBody(
            top_mm=float(discs[i]),
            bottom_mm=float(discs[i + 1]),
            tilt_deg=float(tilts[i]),
            level=_LEVELS_UP[count - 1 - i] if sacrum_seen and count - 1 - i < len(_LEVELS_UP) else None,
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


def _bone_ends_below(spine: StraightSpine, disc_mm: int) -> bool:
    """Whether the line leaves the bone well before the image ends: S1 is then below the last disc."""
    core = spine.hu[disc_mm:, HALF_WIDTH_MM - _CORE_MM : HALF_WIDTH_MM + _CORE_MM + 1].mean(axis=1)
    bone = core[8:20]
    dark = core[20:] < _PAST_BONE_HU
    return bool(bone.size == 12 and bone.mean() > _PAST_BONE_HU + 30 and dark.sum() >= 25)
