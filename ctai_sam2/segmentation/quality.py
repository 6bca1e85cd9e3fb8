"""How far a number can be trusted: gates that see gross errors, and a calibrated confidence.

A predicted overlap says how sure a network is of the mask it drew, not whether it drew the right thing.
Each gate looks for one kind of gross error that was seen on patients that no developer had seen.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ctai_sam2.errors import WeightsError
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.image.distances import deeper_than
from ctai_sam2.segmentation.compartments import Compartments, left_of
from ctai_sam2.types import Mask


@dataclass(frozen=True, kw_only=True)
class QualityParameters:
    """Limits of the gates.

    Parameters
    ----------
    open_ring_mm : float
        Length over which no muscle or fascia parts subcutaneous fat and cavity.
    uneven_wall : float
        Difference of the wall's left and right area as a part of their mean.
    stray_mm2 : float
        Muscle that touches neither wall nor back.
    unassigned_mm2 : float
        Fat in no class.
    thick_wall_mm : float
        Radius of the largest disc that fits into the abdominal wall.
    uneven_psoas : float
        As ``uneven_wall``.
    psoas_agreement, muscle_agreement : float
        Dice of the dense head's mask with the prompted one.
    lost_muscle : float
        Below this Dice of both masks of all muscle, neither shows where fat ends.
    least_muscle_mm2 : float
        All muscle.
    jump : float
        Change of area against the median of the slices above and below.
    noise_hu : float
        Graininess of subcutaneous fat, as `measure_noise_hu` gives it.
    """

    open_ring_mm: float = 60.0
    uneven_wall: float = 0.45
    stray_mm2: float = 100.0
    unassigned_mm2: float = 200.0
    thick_wall_mm: float = 16.0
    uneven_psoas: float = 0.4
    psoas_agreement: float = 0.8
    muscle_agreement: float = 0.85
    lost_muscle: float = 0.75
    least_muscle_mm2: float = 3500.0
    jump: float = 0.2
    noise_hu: float = 9.0


PARAMETERS: Final = QualityParameters()

ORDINARY_NOISE_HU: Final = 5.0
"""Graininess of fat, as `measure_noise_hu` gives it, up to which noise is no reason for doubt."""

GATED_CONFIDENCE: Final = 0.6
"""Upper limit on the confidence of a number that fails a gate."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A check that a slice did not pass.

    Parameters
    ----------
    name : str
        Which check, such as ``open_ring``.
    structures : tuple of str
        The numbers it makes doubtful.
    message : str
        What was seen, in a sentence's words.
    of_image : bool
        Whether it is about the image, and said once for all its numbers.
    """

    name: str
    structures: tuple[str, ...]
    message: str
    of_image: bool = False


def find_gross_errors(
    divided: Compartments,
    spacing_mm: tuple[float, float],
    *,
    agreements: Mapping[str, float] | None = None,
    noise_hu: float | None = None,
) -> tuple[Gate, ...]:
    """Look for each kind of gross error on a divided slice.

    Parameters
    ----------
    divided : Compartments
        From `divide_slice`.
    spacing_mm : tuple of float
        (row, column) spacing.
    agreements : mapping of str to float, optional
        Dice of the dense head's mask with the one from the prompted decoder, by structure.
    noise_hu : float, optional
        Graininess of subcutaneous fat, where it could be measured.

    Returns
    -------
    tuple of Gate
        The checks that failed; empty where nothing is odd.
    """
    p, masks = PARAMETERS, divided.masks
    pixel_mm2 = spacing_mm[0] * spacing_mm[1]
    failed: list[Gate] = []

    def fail(name: str, structures: Sequence[str], message: str) -> None:
        failed.append(Gate(name=name, structures=tuple(structures), message=message))

    whole = ("muscle", "sat", "vat", "imat")
    if divided.contact_mm > p.open_ring_mm:
        fail(
            "open_ring",
            whole,
            f"the muscle ring is open over {divided.contact_mm / 10:.0f} cm between skin and cavity",
        )
    left, right = (float(side.sum()) for side in _halves(masks["wall"], masks["spine"]))
    if left + right > 0 and abs(left - right) > p.uneven_wall * (left + right) / 2:
        fail("uneven_wall", whole, "the abdominal wall is much thicker on one side")
    if divided.stray_mm2 > p.stray_mm2:
        fail(
            "stray_muscle",
            ("muscle",),
            f"{divided.stray_mm2 / 100:.0f} cm² of what looked like muscle touch neither wall nor back",
        )
    if divided.unassigned_mm2 > p.unassigned_mm2:
        fail(
            "unassigned_fat",
            ("sat", "vat"),
            f"{divided.unassigned_mm2 / 100:.0f} cm² of fat were in no class",
        )
    if deeper_than(masks["wall"], p.thick_wall_mm, spacing_mm).any():
        fail("thick_wall", ("muscle", "vat"), "the abdominal wall is as thick as an organ")
    psoas = [float(masks[name].sum()) for name in ("psoas_left", "psoas_right")]
    if sum(psoas) > 0 and abs(psoas[0] - psoas[1]) > p.uneven_psoas * sum(psoas) / 2:
        fail("uneven_psoas", ("psoas_left", "psoas_right"), "one psoas is much larger than the other")
    if float(masks["muscle"].sum()) * pixel_mm2 < p.least_muscle_mm2:
        fail("little_muscle", ("muscle",), "there is hardly any muscle")
    if noise_hu is not None and noise_hu > p.noise_hu:
        fail(
            "noise",
            ("psoas_left", "psoas_right", "vat", "imat"),
            f"the scan is noisy ({noise_hu:.0f} HU in fat)",
        )
    overlap = (agreements or {}).get("muscle", 1.0)
    if overlap < p.lost_muscle:
        fail(
            "lost_muscle", ("sat", "vat"), f"two ways of finding all muscle disagree (overlap {overlap:.2f})"
        )
    for name, agreement in (agreements or {}).items():
        limit = p.muscle_agreement if name == "muscle" else p.psoas_agreement
        if agreement < limit:
            fail(
                "second_opinion",
                (name,),
                f"two ways of finding it disagree (overlap {agreement:.2f})",
            )
    return tuple(failed)


def find_jumps(
    areas_mm2: Mapping[str, float],
    neighbours: Sequence[Mapping[str, float]],
) -> tuple[Gate, ...]:
    """Compare areas with those of the slices above and below.

    Anatomy changes slowly from slice to slice: an area that is far from both neighbours, on the same side of
    them, is an error of this slice.

    Parameters
    ----------
    areas_mm2 : mapping of str to float
        Area by structure on the slice.
    neighbours : sequence of mapping of str to float
        The same of the slices next to it.

    Returns
    -------
    tuple of Gate
        One for each structure that jumps.

    Examples
    --------
    >>> [gate.structures for gate in find_jumps({"muscle": 150.0}, [{"muscle": 100.0}, {"muscle": 104.0}])]
    [('muscle',)]
    """
    failed = []
    for name, area in areas_mm2.items():
        others = [other[name] for other in neighbours if other.get(name)]
        if not others:
            continue
        changes = [area / other - 1 for other in others]
        same_side = all(change > 0 for change in changes) or all(change < 0 for change in changes)
        if same_side and min(abs(change) for change in changes) > PARAMETERS.jump:
            nearest = min(changes, key=abs)
            failed.append(
                Gate(
                    name="neighbour_jump",
                    structures=(name,),
                    message=f"the area differs by {100 * nearest:+.0f} % from the slices next to it",
                )
            )
    return tuple(failed)


def warnings_of(gates: Sequence[Gate], structure: str) -> tuple[str, ...]:
    """Return a structure's warnings: name of the gate in brackets, so that tables can count them."""
    return tuple(
        f"{'' if gate.of_image else f'{structure}: '}{gate.message}; look at it [{gate.name}]"
        for gate in gates
        if structure in gate.structures
    )


@dataclass(frozen=True, kw_only=True)
class NumberEvidence:
    """What speaks for a number.

    Parameters
    ----------
    score : float
        Of a psoas what the decoder makes of its mask, else the dense head's expected IoU; 0 to 1.
    agreement : float or None
        Dice of the dense head's mask with the prompted decoder's; None where that was not run.
    contrast : float or None
        Of a psoas the share of its surroundings that it stands out from; see `outline_contrast`.
    noise_hu : float or None
        Graininess of the slice's subcutaneous fat; None where it cannot be measured.
    """

    score: float
    agreement: float | None
    contrast: float | None = None
    noise_hu: float | None = None

    @property
    def loudness(self) -> float:
        """How much noisier the slice is than an ordinary one, in `ORDINARY_NOISE_HU`; 0 where it is not."""
        return max((self.noise_hu or 0.0) / ORDINARY_NOISE_HU - 1, 0.0)


@dataclass(frozen=True, kw_only=True)
class Trust:
    """A logistic curve over the evidence for one kind of number.

    Parameters
    ----------
    bias, overlap, agreement, contrast, noise : float
        The log odds are ``bias + overlap * logit(Dice of the score) + agreement * logit(agreement)
        + contrast * logit(contrast) - noise * loudness``.
    ceiling : float
        The most that is ever stated: where numbers that took no part in the fit were not as good as a
        curve said of its surest.
    """

    bias: float
    overlap: float
    agreement: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0
    ceiling: float = 1.0

    def probability(self, evidence: NumberEvidence) -> float:
        """Probability that a mask has a Dice of 0.85 and an area within 10 %."""
        value = self.bias + self.overlap * logit(2 * evidence.score / (1 + evidence.score))
        if evidence.agreement is not None:
            value += self.agreement * logit(evidence.agreement)
        if evidence.contrast is not None:
            value += self.contrast * logit(evidence.contrast)
        value -= self.noise * evidence.loudness
        return min(self.ceiling, float(1 / (1 + np.exp(-value))))


def read_trust(text: str) -> dict[str, Trust]:
    """Read the curves that ``python -m ctai_sam2.training dense-trust`` has fitted, by kind of number.

    Raises
    ------
    WeightsError
        If the text is something else.
    """
    try:
        return {str(kind): Trust(**values) for kind, values in parse_json(text)["curves"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError("the curves of confidence cannot be read", received="trust.json") from error


@functools.cache
def _shipped_trust() -> dict[str, Trust]:
    path = importlib.resources.files("ctai_sam2.segmentation") / "trust.json"
    return read_trust(path.read_text(encoding="utf-8"))


def confidence_of(structure: str, evidence: NumberEvidence, gates: Sequence[Gate]) -> float:
    """Probability that a number can be used: Dice of at least 0.85 and area within 10 %.

    Parameters
    ----------
    structure : str
        Whose number.
    evidence : NumberEvidence
        What speaks for it.
    gates : sequence of Gate
        Checks that failed; one of the structure's own caps the result.
    """
    curves = _shipped_trust()
    # Intermuscular fat has no curve of its own; its evidence is the muscle's.
    trust = curves[{"imat": "muscle"}.get(kind_of(structure), kind_of(structure))]
    return cap_confidence(trust.probability(evidence), gates, structure)


def kind_of(structure: str) -> str:
    """Name the kind of number that a structure's is; both psoas are of one kind."""
    return "psoas" if structure.startswith("psoas") else structure


def cap_confidence(confidence: float, gates: Sequence[Gate], structure: str) -> float:
    """Lower a confidence to `GATED_CONFIDENCE` where a gate makes the structure's number doubtful."""
    if any(structure in gate.structures for gate in gates):
        return min(confidence, GATED_CONFIDENCE)
    return confidence


def _halves(mask: Mask, spine: Mask) -> tuple[Mask, Mask]:
    on_left = left_of(spine if spine.any() else mask)
    return mask & on_left, mask & ~on_left


def logit(probability: float) -> float:
    """Return the log odds of a probability, which is kept within 0.02 … 0.995."""
    clipped = float(np.clip(probability, 0.02, 0.995))
    return float(np.log(clipped / (1 - clipped)))
