"""How sure is sure: fit what the dense head's evidence means for a number, and see whether that holds."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import optimize

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.evaluation.scores import GOOD_AREA_PCT
from ctai_sam2.files.atomic import write_json
from ctai_sam2.io import ReferenceCase, read_case_npz
from ctai_sam2.measure.overlap import dice
from ctai_sam2.models.calibration import GOOD_DICE
from ctai_sam2.phantom import masks_from_labels
from ctai_sam2.segmentation import AxialSession, PredictsMasks
from ctai_sam2.segmentation.axial_session import CONFIDENCE_THRESHOLD
from ctai_sam2.segmentation.quality import GATED_CONFIDENCE, NumberEvidence, Trust, kind_of, logit
from ctai_sam2.training.dense_phantoms import FURTHER_KINDS, HELD_BACK_KIND, draw_hard_phantom
from ctai_sam2.types import CTSlice

_LOGGER = logging.getLogger(__name__)

JUDGED: Final = ("psoas_left", "psoas_right", "muscle", "sat", "vat")
SURE: Final = 0.9
SURE_AND_GOOD: Final = 0.95
"""Share of the numbers stated at 0.9 or more that are to be good."""
_RIDGE: Final = 0.002
_STARTS_AT: Final = 1_000_000
_BODY_MM: Final = 0.88


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was known of a number, and how good it was.

    Attributes
    ----------
    case, patient, structure : str
        Whose.
    is_real : bool
        A patient's, not a phantom's.
    score : float
        Of the dense head.
    agreement, contrast, noise_hu : float or None
        As in `NumberEvidence`.
    gates : tuple of str
        Checks that its structure did not pass.
    dice, area_error_pct : float
        Against the reference.
    """

    case: str
    patient: str
    structure: str
    is_real: bool
    score: float
    agreement: float | None
    gates: tuple[str, ...]
    dice: float
    area_error_pct: float
    contrast: float | None = None
    noise_hu: float | None = None

    @property
    def found(self) -> NumberEvidence:
        """What the one click goes by."""
        return NumberEvidence(
            score=self.score, agreement=self.agreement, contrast=self.contrast, noise_hu=self.noise_hu
        )

    @property
    def source(self) -> str:
        """Patients, phantoms of the kinds trained on, or of the kind held back."""
        if self.is_real:
            return "patients"
        return HELD_BACK_KIND if f"-{HELD_BACK_KIND}-" in self.case else "phantoms"

    @property
    def is_good(self) -> bool:
        """Whether the number can be used."""
        return self.dice >= GOOD_DICE and abs(self.area_error_pct) <= GOOD_AREA_PCT


def collect_evidence(
    cases: Iterable[tuple[ReferenceCase, PredictsMasks]], *, skip: Sequence[tuple[str, str]] = ()
) -> Iterator[Evidence]:
    """Segment slices with known masks and collect what a confidence could be estimated from.

    Parameters
    ----------
    cases : iterable of (ReferenceCase, PredictsMasks)
        Axial slices, each with a model that never saw its patient.
    skip : sequence of (str, str)
        (word in the case's name, structure): references that are not good enough.
    """
    for case, segmenter in cases:
        session = AxialSession.open(case.slice, segmenter)
        judged = session.judged
        if judged is None:
            _LOGGER.warning("%s: the slice was not divided", case.name)
            continue
        for structure in JUDGED:
            reference = case.masks.get(structure)
            skipped = any(word in case.name and name == structure for word, name in skip)
            if reference is None or not reference.any() or skipped:
                continue
            try:
                found = judged.evidence(structure)
            except AnatomyNotFound:
                # A refusal states no number.
                continue
            mask = judged.masks[structure]
            yield Evidence(
                case=case.name,
                patient=str(case.meta.get("patient", case.name)),
                structure=structure,
                is_real=not case.name.startswith("phantom"),
                score=found.score,
                agreement=found.agreement,
                contrast=found.contrast,
                noise_hu=found.noise_hu,
                gates=tuple(gate.name for gate in judged.gates if structure in gate.structures),
                dice=dice(reference, mask),
                area_error_pct=100 * (float(mask.sum()) / float(reference.sum()) - 1),
            )


def fit_trust(evidence: Sequence[Evidence]) -> dict[str, Trust]:
    """Fit a curve for each kind of number; patients, phantoms and loud phantoms count the same in all.

    Numbers that fail a gate other than that of noise, which the curves know of, take no part.

    Raises
    ------
    InputError
        If there is no evidence of a kind.
    """
    curves = {}
    for kind in dict.fromkeys(map(kind_of, JUDGED)):
        found = [one for one in evidence if kind_of(one.structure) == kind and set(one.gates) <= {"noise"}]
        if not found:
            raise InputError("there is no number to fit the confidence to", received=kind)
        # What the decoder makes of its own psoas says nothing of patients' (area under the curve 0.44), and
        # phantoms' are good far less often: these give the slopes, patients the bias.
        curves[kind] = _fit_one(found, by_score=kind != "psoas", to_patients=kind == "psoas")
    return curves


def judge_confidence(evidence: Sequence[Evidence], curves: Mapping[str, Trust]) -> dict[str, Any]:
    """Say of each kind of number, and of all, how often it was good and what was stated."""
    return _summarise([(one, confidence_with(curves, one)) for one in evidence])


def confidence_with(curves: Mapping[str, Trust], one: Evidence) -> float:
    """Return the confidence that curves give a number, gates included."""
    probability = curves[kind_of(one.structure)].probability(one.found)
    return min(probability, GATED_CONFIDENCE) if one.gates else probability


def leave_patients_out(evidence: Sequence[Evidence]) -> list[tuple[Evidence, float]]:
    """Fit without each patient in turn; return what is then stated of theirs."""
    stated: list[tuple[Evidence, float]] = []
    for patient in sorted({one.patient for one in evidence if one.is_real}):
        curves = fit_trust([one for one in evidence if one.patient != patient])
        stated += [
            (one, confidence_with(curves, one)) for one in evidence if one.is_real and one.patient == patient
        ]
    return stated


def bound_trust(curves: Mapping[str, Trust], stated: Sequence[tuple[Evidence, float]]) -> dict[str, Trust]:
    """Bound the curves whose surest numbers were good less often than `SURE_AND_GOOD` says.

    Parameters
    ----------
    curves : mapping of str to Trust
        By kind of number.
    stated : sequence of (Evidence, float)
        Numbers that took no part in the fit, and what was stated of them.

    Returns
    -------
    dict
        The curves. The ceiling of one is the rule of succession's share of good ones among the numbers
        stated at 0.9 or more: one more good and one more bad than were seen, since few were seen.
    """
    bounded = {}
    for kind, curve in curves.items():
        sure = [one.is_good for one, found in stated if kind_of(one.structure) == kind and found >= SURE]
        holds = not sure or sum(sure) >= SURE_AND_GOOD * len(sure)
        ceiling = 1.0 if holds else round((sum(sure) + 1) / (len(sure) + 2), 2)
        bounded[kind] = dataclasses.replace(curve, ceiling=ceiling)
    return bounded


def _summarise(stated: Sequence[tuple[Evidence, float]]) -> dict[str, Any]:
    kinds = dict.fromkeys(kind_of(one.structure) for one, _ in stated)
    return {
        "all": _count(stated),
        **{kind: _count([pair for pair in stated if kind_of(pair[0].structure) == kind]) for kind in kinds},
    }


def _count(stated: Sequence[tuple[Evidence, float]]) -> dict[str, Any]:
    """Count numbers, those at 0.9 or more and those warned of, and how far good and bad are apart."""
    good = [confidence for one, confidence in stated if one.is_good]
    bad = [confidence for one, confidence in stated if not one.is_good]
    higher = [(a > b) + 0.5 * (a == b) for a in good for b in bad]
    sure = [one for one, confidence in stated if confidence >= SURE]
    return {
        "numbers": len(stated),
        "good": len(good),
        "mean_confidence": round(float(np.mean(good + bad)), 3) if stated else None,
        "area_under_curve": round(float(np.mean(higher)), 3) if higher else None,
        "sure": len(sure),
        "sure_and_good": sum(one.is_good for one in sure),
        "warned": sum(confidence < CONFIDENCE_THRESHOLD for confidence in good + bad),
        "warned_and_bad": sum(confidence < CONFIDENCE_THRESHOLD for confidence in bad),
    }


def draw_cases(
    count: int, *, seed: int, kind: str | None = None, size_px: int = 448
) -> Iterator[ReferenceCase]:
    """Draw phantoms as cases: of the kinds trained on, or of one kind such as `HELD_BACK_KIND`."""
    for number in range(count):
        hu, labels = draw_hard_phantom(size_px=size_px, seed=seed, number=_STARTS_AT + number, kind=kind)
        masks = masks_from_labels(labels)
        limits = {"muscle": (-29, 150), "psoas_left": (-29, 150), "psoas_right": (-29, 150)}
        limits |= {"sat": (-190, -30), "vat": (-150, -50)}
        # A study's numbers are of pixels within the limits, and so are readers' masks.
        within = {
            name: masks[name] & (hu >= low) & (hu <= high)
            for name, (low, high) in limits.items()
            if name in masks
        }
        yield ReferenceCase(
            name=f"phantom-{kind or 'any'}-{number}",
            slice=CTSlice(hu=hu, spacing_mm=(_BODY_MM, _BODY_MM), plane="axial"),
            masks=within,
        )


def write_trust(
    target: Path,
    *,
    cases: Path,
    model: PredictsMasks,
    folds: Mapping[str, PredictsMasks],
    phantoms: int,
    skip: Sequence[tuple[str, str]] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Collect, fit, judge, and write the curves with how they were judged.

    Parameters
    ----------
    target : pathlib.Path
        JSON file.
    cases : pathlib.Path
        Folder of slices with reference masks; only those that belong to a fold are used.
    model : PredictsMasks
        Makes the predictions on phantoms.
    folds : mapping of str to PredictsMasks
        By word in the case's name: a model that never saw these patients.
    phantoms : int
        How many of the kinds trained on, as many of the one held back, of which half judge the curves, and
        half as many of each of `FURTHER_KINDS`, which all do.
    skip, seed
        As in `collect_evidence` and `draw_cases`.
    """

    def real() -> Iterator[tuple[ReferenceCase, PredictsMasks]]:
        for path in sorted(cases.glob("*.npz")):
            for word, segmenter in folds.items():
                if word in path.stem and "_axial" in path.stem:
                    yield read_case_npz(path), segmenter

    evidence = list(collect_evidence(real(), skip=skip))
    evidence += collect_evidence((case, model) for case in draw_cases(phantoms, seed=seed))
    held_back = list(
        collect_evidence((case, model) for case in draw_cases(phantoms, seed=seed, kind=HELD_BACK_KIND))
    )
    # Half of the kind never trained on takes part, or the curves know nothing of scans unlike the others.
    tried = {
        case for number, case in enumerate(dict.fromkeys(one.case for one in held_back)) if number % 2 == 0
    }
    evidence += [one for one in held_back if one.case in tried]
    judged = [one for one in held_back if one.case not in tried]
    others = [
        one
        for kind in FURTHER_KINDS
        for one in collect_evidence((case, model) for case in draw_cases(phantoms // 2, seed=seed, kind=kind))
    ]
    document = judge_trust(evidence, judged, others)
    write_json(target, document)
    write_json(
        target.with_suffix(".evidence.json"),
        [dataclasses.asdict(one) for one in (*evidence, *judged, *others)],
    )
    return document


def judge_trust(
    evidence: Sequence[Evidence], loud: Sequence[Evidence], others: Sequence[Evidence]
) -> dict[str, Any]:
    """Fit and bound the curves, and say how what they state held.

    Parameters
    ----------
    evidence : sequence of Evidence
        What the curves are fitted to.
    loud, others : sequence of Evidence
        Phantoms that take no part in the fit.
    """
    curves = fit_trust(evidence)
    left_out = leave_patients_out(evidence)
    apart = [(one, confidence_with(curves, one)) for one in (*loud, *others)]
    curves = bound_trust(curves, [*left_out, *apart])
    patients = [(one, min(found, curves[kind_of(one.structure)].ceiling)) for one, found in left_out]
    phantoms = [one for one in evidence if one.source == "phantoms"]
    return {
        "curves": {kind: dataclasses.asdict(curve) for kind, curve in curves.items()},
        "judged": {
            "patients, each left out of the fit": _summarise(patients),
            "phantoms that took part": judge_confidence(phantoms, curves),
            "loud phantoms, the half that took no part": judge_confidence(loud, curves),
            "phantoms with ribs or fluid, no part": judge_confidence(others, curves),
        },
    }


def _fit_one(found: Sequence[Evidence], *, by_score: bool, to_patients: bool) -> Trust:
    good = np.array([one.is_good for one in found], dtype=np.float64)
    sources = [one.source for one in found]
    weights = np.array([1 / sources.count(source) for source in sources])
    weights *= len(found) / weights.sum()
    overlap = [logit(2 * one.score / (1 + one.score)) for one in found]
    further = ("agreement", "contrast")
    values = {name: [getattr(one, name) for one in found] for name in further}
    known = [any(value is not None for value in values[name]) for name in further]
    logits = [[logit(value) if value is not None else 0.0 for value in values[name]] for name in further]
    loudness = [-one.found.loudness for one in found]
    of_patients = [float(one.is_real and to_patients) for one in found]
    columns = np.array([overlap, *logits, loudness, of_patients])

    def cost(theta: npt.NDArray[np.float64]) -> float:
        value = theta[0] + theta[1:] @ columns
        # More of it never makes a number worse: slopes stay positive, and small without a reason.
        losses = np.logaddexp(0, -value) * good + np.logaddexp(0, value) * (1 - good)
        return float((weights * losses).mean() + _RIDGE * (theta[1:] ** 2).sum())

    most = [10.0 if used else 0.0 for used in (by_score, *known, True)]
    bounds = [(-20, 20), *((0.0, one) for one in most), (-10, 10)]
    start = np.array([0.0, *(0.05 * one for one in most), 0.0])
    best = [float(value) for value in optimize.minimize(cost, start, bounds=bounds).x]
    bias = best[0] + (best[-1] if any(of_patients) else 0.0)
    slope, agreement, contrast, noise = (round(value, 4) for value in best[1:-1])
    return Trust(bias=round(bias, 4), overlap=slope, agreement=agreement, contrast=contrast, noise=noise)
