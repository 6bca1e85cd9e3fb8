"""Gates: whether a slice's mask is plausible next to its neighbours' masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np

from ctai_sam2.measure.overlap import dice
from ctai_sam2.types import Mask

Gate: TypeAlias = Literal["green", "amber", "red"]


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
    amber_confidence, red_confidence : float
        Confidence below which a slice is amber or red.
    amber_automatic, red_automatic : float
        The same for a slice segmented on its own. A psoas' confidence is there the probability that its area
        is within 10 % too, as about half of the slices are; only next to nothing tells a wrong mask. With the
        general limits slices that were right were replaced by propagated ones.
    """

    step_mm: float = 3.0
    amber_dice: float = 0.80
    red_dice: float = 0.60
    amber_area: float = 0.22
    red_area: float = 0.45
    amber_confidence: float = 0.6
    red_confidence: float = 0.3
    amber_automatic: float = 0.6
    red_automatic: float = 0.3


_PSOAS = GateParameters(amber_automatic=0.1, red_automatic=0.02)
PARAMETERS: Mapping[str, GateParameters] = MappingProxyType(
    {
        "psoas": _PSOAS,
        "psoas_left": _PSOAS,
        "psoas_right": _PSOAS,
        # Bowel and fat change shape faster than muscle from slice to slice.
        "vat": GateParameters(amber_dice=0.6, red_dice=0.35, amber_area=0.35, red_area=0.7),
        "imat": GateParameters(amber_dice=0.3, red_dice=0.1, amber_area=0.6, red_area=1.2),
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
        How well the mask fits, 0 to 1: confidence times overlap with the neighbours.
    """

    gate: Gate
    reasons: tuple[str, ...]
    score: float


def judge_slice(
    structure: str,
    mask: Mask,
    neighbours: Mapping[float, Mask],
    confidence: float | None,
    *,
    automatic: bool = False,
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
    confidence : float or None
        Of the mask, 0 to 1; None where no model made it.
    automatic : bool
        Whether the slice was segmented on its own rather than from another.
    """
    limits = PARAMETERS.get(structure, _DEFAULT)
    findings: list[tuple[Gate, str]] = []
    overlap = 1.0
    area = int(mask.sum())
    if neighbours:
        overlaps = []
        for distance_mm, other in neighbours.items():
            steps = max(distance_mm / limits.step_mm, 0.5)
            # Overlap shrinks with distance; brought to the step that the limits are for.
            overlaps.append(dice(mask, other) ** (1.0 / steps))
        overlap = max(overlaps)
        if overlap < limits.amber_dice:
            gate: Gate = "red" if overlap < limits.red_dice else "amber"
            findings.append((gate, f"little overlap with the neighbouring slices (Dice {overlap:.2f})"))
        jump = min(
            abs(float(np.log((area + 1) / (int(other.sum()) + 1))))
            / max(distance / limits.step_mm, 0.5) ** 0.5
            for distance, other in neighbours.items()
        )
        if jump > limits.amber_area:
            gate = "red" if jump > limits.red_area else "amber"
            findings.append((gate, "the area jumps from slice to slice"))
    amber = limits.amber_automatic if automatic else limits.amber_confidence
    red = limits.red_automatic if automatic else limits.red_confidence
    if confidence is not None and confidence < amber:
        gate = "red" if confidence < red else "amber"
        findings.append((gate, f"the model is not sure (confidence {confidence:.2f})"))
    worst: Gate = "green"
    for gate, _ in findings:
        if gate == "red" or worst == "green":
            worst = gate
    sure = 1.0 if confidence is None else confidence
    return Judgement(gate=worst, reasons=tuple(reason for _, reason in findings), score=overlap * sure)
