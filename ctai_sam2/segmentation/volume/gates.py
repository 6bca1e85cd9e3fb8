"""Gates: whether a slice's mask is plausible next to its neighbours' masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, get_args

import numpy as np

from ctai_sam2.measure.overlap import dice
from ctai_sam2.segmentation.quality import logit
from ctai_sam2.segmentation.volume.result import SliceMask
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTVolume, Mask, SliceGate

_FEWEST_TYPICAL = 3
"""From so many slices on it can be said what is typical."""
_GROWS_AGAIN = 2.0
"""A slice so many times larger than one below it is no muscle that tapers off."""
GATES: Final[tuple[SliceGate, ...]] = get_args(SliceGate)
"""From the best to the worst."""


@dataclass(frozen=True, kw_only=True)
class GateParameters:
    """Limits of a gate. Steps are scaled to `step_mm`: thicker steps may change more.

    Attributes
    ----------
    step_mm : float
        Distance between slices in mm that the limits below are for.
    amber_dice, red_dice : float
        Dice with the nearer neighbour below which a slice is amber or red at `step_mm`. On 16 outlined psoas
        slices 9 mm apart the Dice of true neighbours is 0.72 to 0.93, so 0.88 or more at 3 mm.
    amber_area, red_area : float
        Ratio of areas to that of the neighbours, as a logarithm, above which a slice is amber or red.
    amber_predicted, red_predicted : float
        Overlap that the model predicts of its mask, below which a slice is amber or red whatever the others.
    amber_drop, red_drop : float
        How far the log odds of that overlap may lie below those of the volume's better slices. A model's
        scores are compared with each other only: another model, or another calibration, shifts them all. On
        one patient psoas that were right had 0.91 to 0.96, those a fifth too small 0.80 to 0.89.
    slack_share : float or None
        A mask may reach this far, times the distance to the further neighbour, beyond both plausible
        neighbours, and fall short of what both have; None where shapes change at once. Psoas outlined by eye
        9 mm apart lose 0 to 0.005 of their Dice so, median 0.000.
    end_cm2 : float or None
        A muscle that tapers off upwards is over where a slice has less than this, and what a model finds
        above is something else; None where a structure does not end so. On one patient the right psoas was
        empty on two slices of T12, and 12 cm² of the crus at 4 HU were found above.
    amber_spread, red_spread : float
        Difference of the areas that propagation from below and from above give, as a share of the area.
    """

    step_mm: float = 3.0
    amber_dice: float = 0.80
    red_dice: float = 0.60
    amber_area: float = 0.22
    red_area: float = 0.45
    amber_predicted: float = 0.6
    red_predicted: float = 0.3
    amber_drop: float = 0.8
    red_drop: float = 2.0
    slack_share: float | None = None
    end_cm2: float | None = None
    amber_spread: float = 0.2
    red_spread: float = 0.5


_PSOAS = GateParameters(slack_share=0.17, end_cm2=0.3)
PARAMETERS: Mapping[str, GateParameters] = MappingProxyType(
    {
        "psoas": _PSOAS,
        "psoas_left": _PSOAS,
        "psoas_right": _PSOAS,
        # Bowel and fat change shape faster than muscle from slice to slice.
        "vat": GateParameters(amber_dice=0.6, red_dice=0.35, amber_area=0.35, red_area=0.7),
        # What a model predicts there is of the fascia between muscles, and low on every slice.
        "imat": GateParameters(
            amber_dice=0.3, red_dice=0.1, amber_area=0.6, red_area=1.2, amber_predicted=0.0, red_predicted=0.0
        ),
    }
)
_DEFAULT = GateParameters()


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the gates say of one slice.

    Parameters
    ----------
    gate : {"green", "amber", "red"}
        The worst of all checks.
    reasons : tuple of str
        One clause for each check that is not green.
    score : float
        How well the mask fits, 0 to 1: predicted overlap times overlap with the neighbours.
    """

    gate: SliceGate
    reasons: tuple[str, ...]
    score: float


def judge_slice(
    structure: str,
    mask: Mask,
    neighbours: Mapping[float, Mask],
    predicted: float | None,
    *,
    typical: float | None = None,
    followed_from: Mapping[float, int] | None = None,
    spread_share: float | None = None,
) -> Judgement:
    """Judge a mask by the masks next to it.

    Parameters
    ----------
    structure : str
        Decides the limits.
    mask : ndarray of bool, shape (H, W)
        The slice's mask.
    neighbours : mapping of float to ndarray of bool
        Distance in mm to mask, of one or two neighbouring slices.
    predicted : float or None
        Overlap that the model predicts of its mask, 0 to 1; None where no model made it.
    typical : float, optional
        What it predicts on the better slices of the volume that were segmented on their own.
    followed_from : mapping of float to int, optional
        Distance in mm to area in pixels, of the slices on either side that a propagated mask comes from: a
        flood that grows little by little agrees with its neighbours, and not with these.
    spread_share : float, optional
        How far the areas of both directions of propagation differ, as a share of the area.
    """
    limits = limits_of(structure)
    findings: list[tuple[SliceGate, str]] = []
    overlap = 1.0
    area = int(mask.sum())
    if neighbours:
        overlaps = []
        for distance_mm, other in neighbours.items():
            # Overlap shrinks with distance; brought to the step that the limits are for.
            overlaps.append(dice(mask, other) ** (1.0 / max(distance_mm / limits.step_mm, 0.5)))
        overlap = max(overlaps)
        if overlap < limits.amber_dice:
            gate: SliceGate = "red" if overlap < limits.red_dice else "amber"
            findings.append((gate, f"little overlap with the neighbouring slices (Dice {overlap:.2f})"))
        jump = min(
            abs(float(np.log((area + 1) / (int(other.sum()) + 1))))
            / max(distance / limits.step_mm, 0.5) ** 0.5
            for distance, other in neighbours.items()
        )
        if jump > limits.amber_area:
            gate = "red" if jump > limits.red_area else "amber"
            findings.append((gate, "the area jumps from slice to slice"))
    if followed_from:
        weights = [1.0 / max(distance, 1e-3) for distance in followed_from]
        expected = np.average([np.log(size + 1) for size in followed_from.values()], weights=weights)
        steps = max(min(followed_from) / limits.step_mm, 0.5)
        drift = abs(float(np.log(area + 1) - expected)) / steps**0.5
        if drift > limits.amber_area:
            gate = "red" if drift > limits.red_area else "amber"
            findings.append((gate, "the area drifts away from the slices it was followed from"))
    if spread_share is not None and spread_share > limits.amber_spread:
        gate = "red" if spread_share > limits.red_spread else "amber"
        findings.append((gate, "followed from below and from above it has another size"))
    if predicted is not None:
        drop = 0.0 if typical is None else logit(typical) - logit(predicted)
        if predicted < limits.amber_predicted or drop > limits.amber_drop:
            is_red = predicted < limits.red_predicted or drop > limits.red_drop
            than = "" if typical is None else f", {typical:.2f} on the better slices"
            findings.append(
                ("red" if is_red else "amber", f"the model is less sure (overlap {predicted:.2f}{than})")
            )
    worst: SliceGate = "green"
    for gate, _ in findings:
        if gate == "red" or worst == "green":
            worst = gate
    sure = 1.0 if predicted is None else predicted
    return Judgement(gate=worst, reasons=tuple(reason for _, reason in findings), score=overlap * sure)


def limits_of(structure: str) -> GateParameters:
    """Return a structure's limits."""
    return PARAMETERS.get(structure, _DEFAULT)


def judge_slices(
    volume: CTVolume, structure: Structure, found: Mapping[int, SliceMask]
) -> dict[int, SliceMask]:
    """Judge each mask by those next to it; what a reader decided is green."""
    positions = np.asarray(volume.slice_positions_mm)
    shape = volume.shape_zyx[1:]
    order = sorted(found)
    typical = typical_overlap(found.values())
    _, row_mm, column_mm = volume.spacing_zyx_mm
    areas = {index: float(one.crop.sum()) * row_mm * column_mm / 100 for index, one in found.items()}
    sources = [index for index in order if found[index].source in ("automatic", "anchor")]
    judged: dict[int, SliceMask] = {}
    for place, index in enumerate(order):
        one = found[index]
        neighbours = {
            abs(float(positions[index] - positions[other])): found[other].full(shape)
            for other in order[max(place - 1, 0) : place + 2]
            if other != index
        }
        origins = {
            abs(float(positions[index] - positions[other])): int(found[other].crop.sum())
            for other in (_nearest(sources, index, -1), _nearest(sources, index, 1))
            if other is not None and one.source == "propagated"
        }
        verdict = judge_slice(
            structure,
            one.full(shape),
            neighbours,
            one.predicted_overlap,
            typical=typical if one.source == "automatic" else None,
            followed_from=origins,
            spread_share=None if one.spread_cm2 is None else one.spread_cm2 / max(areas[index], 1e-6),
        )
        if one.source in ("anchor", "absent"):
            judged[index] = replace(one, gate="green", reasons=())
        else:
            judged[index] = replace(one, gate=verdict.gate, reasons=verdict.reasons)
    return judged


def place_of_end(areas: Sequence[float], gates: Sequence[SliceGate], *, smallest: float) -> int:
    """Return from which slice on a muscle that tapers off is over; how many slices there are where it is not.

    It is over where nearly nothing is left, and after its narrowest slice where a much larger one is
    implausible, or in doubt with an implausible one between: that is another muscle.

    Parameters
    ----------
    areas : sequence of float
        Of slices in order, towards the end.
    gates : sequence of {"green", "amber", "red"}
        How plausible they are.
    smallest : float
        Below this area nothing is left.

    Examples
    --------
    >>> place_of_end([90, 50, 8, 40], ["green"] * 4, smallest=10)
    2
    >>> place_of_end([90, 50, 20, 30, 70], ["green"] * 4 + ["red"], smallest=10)
    3
    >>> place_of_end([90, 50, 20, 30, 70], ["green", "green", "green", "red", "amber"], smallest=10)
    3
    >>> place_of_end([90, 50, 15, 45, 40], ["green", "green", "red", "amber", "green"], smallest=10)
    5
    """
    narrowest = sure = 0
    for place, (area, gate) in enumerate(zip(areas, gates, strict=True)):
        if area < smallest:
            return place
        if gate == "red" and area > _GROWS_AGAIN * areas[narrowest]:
            return narrowest + 1
        # A slice that failed says nothing of how narrow the muscle is.
        if gate == "amber" and "red" in gates[sure:place] and area > _GROWS_AGAIN * areas[sure]:
            return sure + 1
        if area <= areas[narrowest]:
            narrowest = place
        if gate != "red" and area <= areas[sure]:
            sure = place
    return len(areas)


def typical_overlap(slices: Collection[SliceMask]) -> float | None:
    """Return what the model predicts on the better slices of those segmented on their own; None of few."""
    predicted = [
        one.predicted_overlap
        for one in slices
        if one.source == "automatic" and one.predicted_overlap is not None
    ]
    return float(np.percentile(predicted, 75)) if len(predicted) >= _FEWEST_TYPICAL else None


def _nearest(order: Sequence[int], index: int, direction: int) -> int | None:
    """Return the nearest of some ascending slices below or above another."""
    if direction < 0:
        return max((other for other in order if other < index), default=None)
    return min((other for other in order if other > index), default=None)
