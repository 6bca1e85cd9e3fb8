"""Which level each vertebral body of a spine is, as probabilities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ctai_sam2.errors import WeightsError
from ctai_sam2.segmentation.levels.spine_walk import SeenBody
from ctai_sam2.structures import LEVELS

BEYOND = 4
"""How many places below the last piece seen the sacrum is allowed to begin at."""

FEATURES = (
    *("seen", "share", "trust", "taper", "worth", "score"),
    *("has_above", "share_above", "turn", "plate_turn", "tilt", "lead", "height", "area", "worth_above"),
    *(f"unseen_{place}" for place in range(BEYOND)),
    *("share_last", "tilt_last", "plate_last", "room_below"),
    *("tilts_fit", "lowest_tilt_fits", "wedges_fit"),
)
"""What each place the sacrum may begin at is judged by; see `describe_places`."""

_SEEN, _ABOVE = 6, 9
_BELOW_THORAX = LEVELS.index("L1")
_L3_TO_SACRUM = len(LEVELS) - LEVELS.index("L3")
_GREATEST_MISFIT = 9.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbering:
    """What numbering a spine needs to know, fitted to spines of which the levels are known.

    Parameters
    ----------
    coefficients : ndarray, shape (len(FEATURES),)
        Of a conditional logit over the places where the sacrum may begin.
    tilts_deg, wedges_deg : ndarray, shape (len(LEVELS), 2)
        Mean and standard deviation, by level, of a body's tilt and of the angle between its end plates.
    """

    coefficients: NDArray[np.float64]
    tilts_deg: NDArray[np.float64]
    wedges_deg: NDArray[np.float64]


@lru_cache(maxsize=1)
def load_numbering() -> Numbering:
    """Read the numbering that ships; ``python -m ctai_sam2.training levels`` made it.

    Raises
    ------
    WeightsError
        If the file does not fit this code.
    """
    known = json.loads(
        files("ctai_sam2.segmentation.levels").joinpath("levels.json").read_text(encoding="utf-8")
    )
    if tuple(known["features"]) != FEATURES or tuple(known["levels"]) != LEVELS:
        raise WeightsError(
            "the numbering of vertebrae belongs to other code", hint="Install the package anew."
        )
    return Numbering(
        coefficients=np.array(known["coefficients"]),
        tilts_deg=np.array(known["tilts_deg"]),
        wedges_deg=np.array(known["wedges_deg"]),
    )


def l3_probabilities(
    bodies: Sequence[SeenBody], extent_mm: float, numbering: Numbering | None = None
) -> NDArray[np.float64]:
    """Probability of each body of a spine to be L3, the third above the sacrum.

    Parameters
    ----------
    bodies : sequence of SeenBody
        From the top down, with what is seen of the sacrum.
    extent_mm : float
        Height of the slice.
    numbering : Numbering, optional
        Another than the one that ships.

    Returns
    -------
    ndarray, shape (len(bodies),)
        Sums to 1 at most; the rest is the probability that L3 is not among them.
    """
    numbering = load_numbering() if numbering is None else numbering
    places = describe_places(bodies, extent_mm, numbering)
    probability = softmax(places @ numbering.coefficients)
    shifted = np.zeros(len(bodies))
    # The last place stands for "there or further down", so what lies above it is no longer L3 alone.
    known = probability[_L3_TO_SACRUM:-1]
    shifted[: min(len(known), len(bodies))] = known[: len(bodies)]
    return shifted


def describe_places(
    bodies: Sequence[SeenBody], extent_mm: float, numbering: Numbering
) -> NDArray[np.float64]:
    """Features of every place where the sacrum may begin, shape (len(bodies) + BEYOND, len(FEATURES)).

    Place k says that ``bodies[k]`` is the first piece of the sacrum; places from ``len(bodies)`` on, that it
    begins below what is seen.
    """
    rows = []
    for place in range(len(bodies) + BEYOND):
        if place < len(bodies):
            above = bodies[place - 1] if place else None
            local = [*_first_sacral(bodies[place]), *_step(above, bodies[place]), *[0.0] * (BEYOND + 4)]
        else:
            local = [0.0] * (_SEEN + _ABOVE) + _unseen(bodies[-1], place - len(bodies), extent_mm)
        rows.append([*local, *_posture(bodies, place, numbering)])
    return np.array(rows)


def _share(body: SeenBody) -> float:
    """How much of a piece the model also takes for sacrum."""
    return float(np.clip(body.sacral_area_mm2 / max(body.area_mm2, 1.0), 0.0, 1.6))


def _first_sacral(body: SeenBody) -> list[float]:
    share = _share(body)
    trust = body.sacral_score * min(share, 1.0)
    return [1.0, share, trust, float(np.log(np.clip(body.taper, 0.3, 2.0))), body.worth, body.score]


def _step(above: SeenBody | None, body: SeenBody) -> list[float]:
    """From one piece to the next: into the sacrum the spine turns backwards and bodies grow smaller."""
    if above is None:
        return [0.0] * _ABOVE
    way = body.centre_mm - above.centre_mm
    return [
        1.0,
        _share(above),
        (body.tilt_deg - above.tilt_deg) / 15,
        (body.top_tilt_deg - above.bottom_tilt_deg) / 15,
        body.tilt_deg / 20,
        float(np.degrees(np.arctan2(way[0], way[1]))) / 20,
        float(np.log(body.height_mm / above.height_mm)),
        float(np.log(body.area_mm2 / above.area_mm2)),
        above.worth,
    ]


def _unseen(last: SeenBody, further: int, extent_mm: float) -> list[float]:
    """Describe the sacrum beginning so many places below the last piece seen."""
    places = [float(further == place) for place in range(BEYOND)]
    if further:
        return [*places, 0.0, 0.0, 0.0, 0.0]
    room = extent_mm - (last.centre_mm[1] + last.height_mm / 2)
    return [*places, _share(last), last.tilt_deg / 20, last.bottom_tilt_deg / 20, min(room, 60.0) / 30]


def _posture(bodies: Sequence[SeenBody], sacrum_at: int, numbering: Numbering) -> list[float]:
    """How usual the tilts and the wedges of the lumbar bodies would be, were the sacrum there."""
    tilts, wedges = [], []
    for index, body in enumerate(bodies[:sacrum_at]):
        level = len(LEVELS) - (sacrum_at - index)
        if level >= _BELOW_THORAX:
            tilts.append(_fit(body.tilt_deg, numbering.tilts_deg[level]))
            wedges.append(_fit(body.bottom_tilt_deg - body.top_tilt_deg, numbering.wedges_deg[level]))
    if not tilts:
        return [0.0, -4.0, 0.0]
    return [float(np.mean(tilts)), tilts[-1], float(np.mean(wedges))]


def _fit(value: float, usual: NDArray[np.float64]) -> float:
    mean, spread = usual
    return float(-0.5 * min(((value - mean) / spread) ** 2, _GREATEST_MISFIT) - np.log(spread))
