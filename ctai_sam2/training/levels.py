"""Fit the numbering of vertebrae to spines whose levels are known: phantoms, cut as scans are cut."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from tqdm import tqdm

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.io.atomic import write_json
from ctai_sam2.models import open_segmenter
from ctai_sam2.phantom import make_sagittal_slice, random_parameters
from ctai_sam2.segmentation.levels.numbering import (
    BEYOND,
    FEATURES,
    Numbering,
    describe_places,
    l3_probabilities,
)
from ctai_sam2.segmentation.levels.sagittal import walk_spine
from ctai_sam2.segmentation.levels.spine_walk import SeenBody
from ctai_sam2.structures import LEVELS
from ctai_sam2.types import CTSlice, Mask

_LOGGER = logging.getLogger(__name__)

_SPACINGS_MM = ((1.4, 1.4), (0.9, 0.9), (5.0, 1.0), (3.0, 1.5))
_FIELD_MM = 420.0
_LEAST_HEIGHT_MM = 110.0
_PENALTIES = (1.0, 3.0, 10.0, 30.0)
_FOLDS = 5
_LEAST_SPREAD_DEG = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownSpine:
    """A spine as it was seen, and where its sacrum really begins.

    Parameters
    ----------
    bodies : tuple of SeenBody
        From the top down.
    extent_mm : float
        Height of the slice.
    sacrum_at : int
        Place of the first sacral piece, as in `describe_places`.
    """

    bodies: tuple[SeenBody, ...]
    extent_mm: float
    sacrum_at: int


def make_cut_spine(seed: int) -> tuple[CTSlice, dict[str, Mask]]:
    """Make a sagittal phantom that ends where scans end: in L5 or L4, in the sacrum, above L3, or nowhere."""
    rng = np.random.default_rng(seed)
    spacing = _SPACINGS_MM[int(rng.integers(len(_SPACINGS_MM)))]
    shape = (int(_FIELD_MM / spacing[0]), int(_FIELD_MM / spacing[1]))
    phantom = make_sagittal_slice(
        random_parameters(rng), x_mm=float(rng.normal(0, 4)), shape_hw=shape, spacing_mm=spacing, rng=rng
    )
    masks = {name: phantom.masks[name] for name in (*LEVELS, "sacrum") if name in phantom.masks}
    first, stop = 0, shape[0]
    if masks["L5"].any() and rng.uniform() < 0.25:
        above = masks["L4"] if masks["L4"].any() else masks["L5"]
        stop = int(rng.uniform(_rows(above)[0], _rows(masks["L5"])[1] + 2)) + 1
    elif masks["L5"].any() and rng.uniform() < 0.3:
        stop = min(stop, int(_rows(masks["L5"])[1] + rng.uniform(25, 120) / spacing[0]))
    if masks["L3"].any() and rng.uniform() < 0.4:
        first = max(0, int(_rows(masks["L3"])[0] - rng.uniform(20, 120) / spacing[0]))
    first = min(first, max(0, stop - int(_LEAST_HEIGHT_MM / spacing[0])))
    ct_slice = CTSlice(hu=phantom.hu[first:stop], spacing_mm=spacing, plane="sagittal")
    return ct_slice, {name: mask[first:stop] for name, mask in masks.items()}


def sacrum_place(bodies: Sequence[SeenBody], ct_slice: CTSlice, masks: Mapping[str, Mask]) -> int | None:
    """Where the sacrum begins among the bodies, told by the masks their centres lie in; None if by none."""
    hits = [_level_at(body, ct_slice, masks) for body in bodies]
    lumbar = [(index, LEVELS.index(hit)) for index, hit in enumerate(hits) if hit in LEVELS]
    if lumbar:
        index, level = lumbar[-1]
        return index + len(LEVELS) - level
    return hits.index("sacrum") if "sacrum" in hits else None


def fit_numbering(spines: Sequence[KnownSpine], *, penalty: float) -> Numbering:
    """Fit by maximum likelihood, with a penalty on the squared standardised coefficients."""
    postures = Numbering(
        coefficients=np.zeros(len(FEATURES)),
        tilts_deg=_spread(spines, lambda body: body.tilt_deg),
        wedges_deg=_spread(spines, lambda body: body.bottom_tilt_deg - body.top_tilt_deg),
    )
    described = [describe_places(spine.bodies, spine.extent_mm, postures) for spine in spines]
    scale = np.concatenate(described).std(axis=0) + 1e-6
    places = [each / scale for each in described]
    truths = [_truth(spine) for spine in spines]

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, slope = penalty * 0.5 * float(weights @ weights), penalty * weights
        for each, truth in zip(places, truths, strict=True):
            logs = log_softmax(each @ weights)
            value -= float(logs[truth])
            slope = slope - each[truth] + np.exp(logs) @ each
        return value, slope

    found = minimize(loss, np.zeros(len(FEATURES)), jac=True, method="L-BFGS-B")
    return Numbering(
        coefficients=found.x / scale, tilts_deg=postures.tilts_deg, wedges_deg=postures.wedges_deg
    )


def levels(options: argparse.Namespace) -> None:
    """Walk along phantom spines, choose the penalty by cross-validation, fit and write the numbering."""
    spines = _collect(options.phantoms, options.seed)
    if len(spines) < 2 * _FOLDS:
        raise InputError(
            "too few spines to fit to", received=len(spines), hint="Ask for 50 phantoms or more."
        )
    losses = {penalty: _cross_validated(spines, penalty) for penalty in _PENALTIES}
    penalty = min(losses, key=lambda each: losses[each][0])
    numbering = fit_numbering(spines, penalty=penalty)
    told = losses[penalty][1]
    card = {
        "made_by": "python -m ctai_sam2.training levels",
        "phantoms": len(spines),
        "seed": options.seed,
        "penalty": penalty,
        "cross_validated": {
            "right": round(float(np.mean([right for _, right in told])), 3),
            "reliability": _reliability(told),
        },
        "levels": list(LEVELS),
        "features": list(FEATURES),
        "coefficients": [round(float(value), 4) for value in numbering.coefficients],
        "tilts_deg": np.round(numbering.tilts_deg, 2).tolist(),
        "wedges_deg": np.round(numbering.wedges_deg, 2).tolist(),
    }
    write_json(options.out, card)
    _LOGGER.info("%d spines; left out of the fit, %s were right", len(spines), card["cross_validated"])


def _collect(count: int, seed: int) -> list[KnownSpine]:
    spines = []
    with open_segmenter("local") as segmenter:
        for number in tqdm(range(seed, seed + count), unit="spine"):
            ct_slice, masks = make_cut_spine(number)
            try:
                bodies = walk_spine(ct_slice, segmenter, SOFT_TISSUE)
            except AnatomyNotFound:
                continue
            place = sacrum_place(bodies, ct_slice, masks)
            if place is not None:
                light = tuple(replace(body, answer=None) for body in bodies)
                extent = ct_slice.shape_hw[0] * ct_slice.spacing_mm[0]
                spines.append(KnownSpine(bodies=light, extent_mm=extent, sacrum_at=place))
    return spines


def _rows(mask: Mask) -> tuple[int, int]:
    rows = np.flatnonzero(mask.any(axis=1))
    return int(rows[0]), int(rows[-1])


def _level_at(body: SeenBody, ct_slice: CTSlice, masks: Mapping[str, Mask]) -> str | None:
    x, y = np.rint(body.centre_mm / np.array(ct_slice.spacing_mm[::-1]) - 0.5).astype(int)
    height, width = ct_slice.shape_hw
    row, column = int(np.clip(y, 0, height - 1)), int(np.clip(x, 0, width - 1))
    return next((name for name, mask in masks.items() if mask[row, column]), None)


def _truth(spine: KnownSpine) -> int:
    """Index among the described places; the last one stands for all further down."""
    return min(max(spine.sacrum_at, 0), len(spine.bodies) + BEYOND - 1)


def _spread(spines: Sequence[KnownSpine], measure: Callable[[SeenBody], float]) -> NDArray[np.float64]:
    """Mean and standard deviation of a measure by level, shape (len(LEVELS), 2)."""
    found: list[list[float]] = [[] for _ in LEVELS]
    for spine in spines:
        for index, body in enumerate(spine.bodies):
            level = len(LEVELS) - (spine.sacrum_at - index)
            if 0 <= level < len(LEVELS):
                found[level].append(measure(body))
    return np.array([(np.mean(v), np.std(v) + _LEAST_SPREAD_DEG) if v else (0.0, 90.0) for v in found])


def _cross_validated(spines: Sequence[KnownSpine], penalty: float) -> tuple[float, list[tuple[float, bool]]]:
    """Mean negative log-likelihood on the folds left out; each answer's probability and whether right."""
    fold = np.random.default_rng(0).integers(0, _FOLDS, len(spines))
    lost, told = [], []
    for left_out in range(_FOLDS):
        numbering = fit_numbering(
            [s for s, f in zip(spines, fold, strict=True) if f != left_out], penalty=penalty
        )
        for spine in (s for s, f in zip(spines, fold, strict=True) if f == left_out):
            places = describe_places(spine.bodies, spine.extent_mm, numbering)
            lost.append(-float(log_softmax(places @ numbering.coefficients)[_truth(spine)]))
            chance = l3_probabilities(spine.bodies, spine.extent_mm, numbering)
            best = int(np.argmax(chance))
            told.append((float(chance[best]), best == spine.sacrum_at - 3))
    return float(np.mean(lost)), told


def _reliability(told: Sequence[tuple[float, bool]]) -> list[dict[str, float]]:
    rows = []
    for low, high in ((0.0, 0.5), (0.5, 0.7), (0.7, 0.85), (0.85, 0.95), (0.95, 1.01)):
        inside = [(chance, right) for chance, right in told if low <= chance < high]
        if inside:
            chances, rights = zip(*inside, strict=True)
            rows.append(
                {
                    "from": low,
                    "n": len(inside),
                    "told": round(float(np.mean(chances)), 3),
                    "right": round(float(np.mean(rights)), 3),
                }
            )
    return rows
