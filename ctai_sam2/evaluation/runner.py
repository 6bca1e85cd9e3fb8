"""Scoring a model on a folder of slices with reference masks, and on fresh phantoms."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from ctai_sam2.errors import AnatomyNotFound, CtaiError, InputError, SegmenterError
from ctai_sam2.evaluation.baselines import grabcut_is_available, run_baselines
from ctai_sam2.evaluation.peers import Peer, run_peer
from ctai_sam2.evaluation.pictures import Example, cut_picture
from ctai_sam2.evaluation.scores import (
    AXIAL_SCORED,
    FAT_SCORED,
    SAGITTAL_SCORED,
    Group,
    Method,
    Score,
    compare,
)
from ctai_sam2.evaluation.sessions import (
    Desk,
    PromptResult,
    click_once,
    click_repeatedly,
    draw_box,
    press_button,
)
from ctai_sam2.evaluation.summary import SummaryRow, summarise
from ctai_sam2.image.body import body_of
from ctai_sam2.image.frame import Frame
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.io import ReferenceCase, read_case_npz
from ctai_sam2.models import Prefetching, Segmenter
from ctai_sam2.phantom import LEVEL_NAMES, make_axial_slice, make_sagittal_slice, random_parameters
from ctai_sam2.segmentation.prediction import frame_for
from ctai_sam2.types import CTSlice, ModelIdentity, Progress

_LOGGER = logging.getLogger(__name__)

PHANTOM_SEED: Final = 90210
_SHOWN: Final = ("click_1", "box", "button")
_MAX_EXAMPLES: Final = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """All scores of a run.

    Parameters
    ----------
    rows : tuple of Score
        One for each case, structure, method and prompt.
    identity : ModelIdentity
        The model.
    folds : mapping of str to ModelIdentity
        By word in the case's name: models that scored these cases instead.
    cases : int
        Slices that were scored, phantoms too.
    examples : tuple of Example
        The worst predictions first.
    skipped : tuple of str
        Files and structures that were not scored, and why.
    not_run : mapping of str to str
        Methods that could not run, and why.
    peers : mapping of str to str
        Other models that were scored from boxes, by method: version and sha256 of the weights.
    """

    rows: tuple[Score, ...]
    identity: ModelIdentity
    folds: Mapping[str, ModelIdentity]
    cases: int
    examples: tuple[Example, ...] = ()
    skipped: tuple[str, ...] = ()
    not_run: Mapping[str, str] = field(default_factory=dict)
    peers: Mapping[str, str] = field(default_factory=dict)

    def summarise(self) -> list[SummaryRow]:
        """Return medians by group, structure, method and prompt; see `ctai_sam2.evaluation.summarise`."""
        return summarise(self.rows)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is scored and how.

    Parameters
    ----------
    structures : tuple of str
        Names of masks to score; by default psoas, muscle, vertebra and fat on axial slices and L1 … L5 on
        sagittal ones.
    skip : tuple of (str, str)
        (word in the case's name, structure): references that are not good enough to score.
    unseen : tuple of str
        Words in the names of cases that no training saw.
    all_unseen : bool
        Whether no training saw any of the cases.
    notes : mapping of str to mapping
        By word in the case's name: what to add to its ``meta``, such as ``phase`` and ``slice_mm``.
    baselines : bool
        Whether classical methods run on the same slices.
    bare : bool
        Whether clicks and boxes get the network's own mask, without the structure's name and the
        clean-up that a user's prompt gets.

    Raises
    ------
    InputError
        If a word is empty.
    """

    structures: tuple[str, ...] = (*AXIAL_SCORED, *FAT_SCORED, *SAGITTAL_SCORED)
    skip: tuple[tuple[str, str], ...] = ()
    unseen: tuple[str, ...] = ()
    all_unseen: bool = False
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    baselines: bool = True
    bare: bool = False

    def __post_init__(self) -> None:
        words = [
            *self.unseen,
            *self.notes,
            *(word for word, _ in self.skip),
            *(name for _, name in self.skip),
        ]
        if not all(words) or not all(self.structures):
            raise InputError("a word of cases or a structure's name is empty", hint="Every case would match.")

    def is_unseen(self, case: str) -> bool:
        """Whether no training saw a case."""
        return self.all_unseen or any(word in case for word in self.unseen)

    def annotate(self, case: ReferenceCase) -> ReferenceCase:
        """Add the plan's notes to those of a case.

        Raises
        ------
        InputError
            If the thickness of a slice is no length.
        """
        notes = {
            key: value
            for word, more in self.notes.items()
            if word in case.name
            for key, value in more.items()
        }
        meta = {**case.meta, **notes}
        thickness = meta.get("slice_mm")
        is_number = isinstance(thickness, int | float) and not isinstance(thickness, bool)
        if thickness is not None and not (is_number and 0 < thickness < math.inf):
            raise InputError("the thickness of a slice is no length in mm", received=thickness)
        return replace(case, meta=MappingProxyType(meta)) if notes else case

    def skips(self, case: str, structure: str) -> bool:
        """Whether a reference is left out."""
        return any(word in case and structure == name for word, name in self.skip)


def evaluate_model(
    segmenter: Segmenter,
    *,
    cases: Path | None = None,
    plan: Plan | None = None,
    folds: Mapping[str, Segmenter] | None = None,
    untrained: Segmenter | None = None,
    peers: Sequence[Peer] = (),
    phantoms: int = 0,
    phantom_seed: int = PHANTOM_SEED,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a model on every ``*.npz`` slice of a folder, on fresh phantoms, or on both.

    Parameters
    ----------
    segmenter : Segmenter
        The model; closing it is up to the caller.
    cases : Path, optional
        Folder of slices with reference masks, as `ctai_sam2.io.read_case_npz` takes them. A file that
        cannot be used is reported in the result, and the rest is scored.
    plan : Plan, optional
        What is scored and how.
    folds : mapping of str to Segmenter, optional
        Cases whose name contains the word are scored by this model instead, one that never saw
        their patient, and count as unseen.
    untrained : Segmenter, optional
        The same network without training, run on the same slices.
    peers : sequence of Peer
        Other models, from `ctai_sam2.evaluation.peers.open_peer`; they get the box of each structure.
    phantoms : int
        Fresh phantoms per plane.
    phantom_seed : int
        Decides them.
    progress : callable, optional
        Called after every slice.

    Returns
    -------
    Evaluation
        Scores and the worst predictions.

    Raises
    ------
    InputError
        If there is no such folder, no case in it, nothing in them to score, or a case matches two folds.
    Unavailable
        If a model is not available at all.
    """
    plan = plan or Plan()
    folds = dict(folds or {})
    if "" in folds:
        raise InputError("the word of a fold is empty", hint="Write WORD=weights.safetensors.")
    if phantoms < 0:
        raise InputError("a number of phantoms cannot be negative", received=phantoms)
    if cases is None and not phantoms:
        raise InputError("there is nothing to score", hint="Give a folder of cases, or ask for phantoms.")
    paths = [] if cases is None else _case_files(cases)
    owners = {path: _fold_of(path.stem, folds) for path in paths}
    skipped = [f"{word}: no case's name contains it" for word in _unmatched(paths, plan, folds)]
    # A model that cannot be opened is an error now, not a row for each case.
    identity = segmenter.identity
    fold_identities = {word: model.identity for word, model in folds.items()}
    if untrained is not None:
        _ = untrained.identity
    rows: list[Score] = []
    examples: list[Example] = []
    total, done = len(paths) + 2 * phantoms, 0

    def work() -> Iterator[tuple[str, Callable[[], ReferenceCase], Segmenter, Group]]:
        for path in paths:
            word = owners[path]
            model = segmenter if word is None else folds[word]
            unseen = word is not None or plan.is_unseen(path.stem)
            yield path.name, lambda path=path: read_case_npz(path), model, "unseen" if unseen else "seen"  # type: ignore[misc]
        for make in make_phantom_cases(phantoms, phantom_seed):
            yield "a phantom", make, segmenter, "phantom"

    scored = 0
    last_failure: SegmenterError | None = None
    for name, read, model, group in work():
        if progress is not None:
            progress(done, total, name)
        done += 1
        try:
            case = plan.annotate(read())
        except CtaiError as error:
            _LOGGER.warning("%s was not scored: %s", name, error)
            skipped.append(f"{name}: {error.problem}")
            continue
        try:
            found, seen, left_out = _score_case(case, model, plan, group, untrained, peers)
        except SegmenterError as error:
            _LOGGER.warning("%s was not scored: %s", name, error)
            skipped.append(f"{name}: {error.problem}")
            last_failure = error
            continue
        skipped += left_out
        rows += found
        scored += bool(found)
        examples = sorted([*examples, *seen], key=lambda example: -example.badness)[:_MAX_EXAMPLES]
    if progress is not None:
        progress(done, total, "")
    if not rows and last_failure is not None:
        raise last_failure
    if not rows:
        raise InputError(
            "no case has a mask to score",
            received="; ".join(skipped[:3]),
            hint=f"Masks are called mask_<structure>; scored are {', '.join(plan.structures)}.",
        )
    not_run = {}
    if plan.baselines and not grabcut_is_available():
        not_run["grabcut"] = "OpenCV is not installed (ctai-sam2[train])"
    return Evaluation(
        rows=tuple(rows),
        identity=identity,
        folds=MappingProxyType(fold_identities),
        cases=scored,
        examples=tuple(examples),
        skipped=tuple(skipped),
        not_run=MappingProxyType(not_run),
        peers=MappingProxyType({peer.method: f"{peer.version} {peer.weights_sha256}" for peer in peers}),
    )


def make_phantom_cases(count: int, seed: int = PHANTOM_SEED) -> Iterator[Callable[[], ReferenceCase]]:
    """Yield functions that draw phantoms with exact masks, ``count`` axial and ``count`` sagittal ones.

    Each is decided by the seed and its number alone.
    """
    for number in range(count):
        for plane in ("axial", "sagittal"):
            yield lambda number=number, plane=plane: _draw_phantom(seed, number, plane)  # type: ignore[misc]


def _draw_phantom(seed: int, number: int, plane: str) -> ReferenceCase:
    parameters = random_parameters(np.random.default_rng((seed, number)))
    rng = np.random.default_rng((seed, number, int(plane == "sagittal")))
    if plane == "axial":
        phantom = make_axial_slice(parameters, level="L3", rng=rng)
    else:
        phantom = make_sagittal_slice(parameters, rng=rng)
    return ReferenceCase(
        name=f"phantom-{seed}-{number}-{plane}",
        slice=CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm, plane=phantom.plane),
        # On a sagittal slice "muscle" and "vertebra" are other things than on an axial one.
        masks={name: mask for name, mask in phantom.masks.items() if plane == "axial" or name in LEVEL_NAMES},
    )


def _case_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError("there is no such folder of cases", received=folder.name, hint="Check the path.")
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise InputError(
            f"there is no case in the folder {folder.name}",
            hint="Cases are .npz files with image, spacing and masks called mask_<structure>.",
        )
    return paths


def _fold_of(case: str, folds: Mapping[str, Segmenter]) -> str | None:
    words = [word for word in folds if word in case]
    if len(words) > 1:
        raise InputError(
            f"the case {case} belongs to {len(words)} folds",
            received=", ".join(words),
            hint="Give words of which each case's name contains one at most.",
        )
    return words[0] if words else None


def _unmatched(paths: Sequence[Path], plan: Plan, folds: Iterable[str]) -> list[str]:
    words = dict.fromkeys([*folds, *plan.unseen, *plan.notes, *(word for word, _ in plan.skip)])
    return [word for word in words if not any(word in path.stem for path in paths)]


def _score_case(
    case: ReferenceCase,
    segmenter: Segmenter,
    plan: Plan,
    group: Group,
    untrained: Segmenter | None,
    peers: Sequence[Peer],
) -> tuple[list[Score], list[Example], list[str]]:
    wanted = [
        name
        for name in plan.structures
        if name in case.masks and case.masks[name].any() and not plan.skips(case.name, name)
    ]
    if not wanted:
        reason = "its masks are not among those to score" if case.masks else "it has no masks"
        return [], [], [f"{case.name}: {reason}"]
    ct = case.slice
    # On a sagittal slice every click may see another part; its embedding takes as long.
    frame = frame_for(ct, SOFT_TISSUE)
    desk = Desk(ct=ct, segmenter=segmenter, bare=plan.bare)
    embed_ms = _embed(segmenter, frame)
    naked = None if untrained is None else replace(desk, segmenter=untrained)
    naked_ms = None if untrained is None else _embed(untrained, frame)
    body_cm2 = _body_cm2(ct)
    rows: list[Score] = []
    examples: list[Example] = []

    def score(structure: str, method: Method, result: PromptResult, model: str, took: float | None) -> Score:
        compared = compare(ct, structure, case.masks[structure], result.mask)
        return Score(
            case=case.name,
            group=group,
            plane=ct.plane,
            structure=structure,
            quality=case.quality.get(structure, ""),
            method=method,
            prompt=result.prompt,
            model=model,
            dice=compared.dice,
            hd95_mm=compared.hd95_mm,
            area_error_pct=compared.area_error_pct,
            hu_error=compared.hu_error,
            reference_area_mm2=compared.reference_area_mm2,
            confidence=result.confidence,
            noc_85=result.noc_85,
            noc_90=result.noc_90,
            time_ms=result.time_ms,
            embed_ms=took,
            error=result.error,
            patient=str(case.meta.get("patient", "")),
            level=str(case.meta.get("level", "")),
            phase=str(case.meta.get("phase", "")),
            slice_mm=case.meta.get("slice_mm"),
            body_cm2=body_cm2,
        )

    model_name = segmenter.identity.name
    for structure in wanted:
        reference = case.masks[structure]
        button = press_button(desk, structure)
        pointed = structure not in FAT_SCORED
        results = (
            [*click_repeatedly(desk, structure, reference), draw_box(desk, structure, reference)]
            if pointed
            else []
        )
        results += [] if button is None else [button]
        scores = [score(structure, "model", result, model_name, embed_ms) for result in results]
        rows += scores
        pictures = tuple(
            cut_picture(ct, reference, result.mask, found)
            for result, found in zip(results, scores, strict=True)
            if result.prompt in _SHOWN
        )
        if pictures:
            examples.append(Example(case=case.name, structure=structure, pictures=pictures))
        if naked is not None:
            bare = (
                [click_once(naked, structure, reference), draw_box(naked, structure, reference)]
                if pointed
                else []
            )
            pressed = press_button(naked, structure)
            bare += [] if pressed is None else [pressed]
            rows += [score(structure, "untrained", result, "untrained", naked_ms) for result in bare]
        for peer in peers:
            result = run_peer(peer, ct, structure, reference, bare=plan.bare)
            rows.append(score(structure, peer.method, result, peer.method, None))
        if plan.baselines and pointed:
            rows += [
                score(structure, method, result, "", None)
                for method, result in run_baselines(ct, structure, reference)
            ]
    return rows, examples, []


def _body_cm2(ct: CTSlice) -> float | None:
    if ct.plane != "axial":
        return None
    try:
        return round(float(body_of(ct).sum()) * ct.pixel_area_mm2 / 100, 1)
    except AnatomyNotFound:
        return None


def _embed(segmenter: Segmenter, frame: Frame) -> float | None:
    if not isinstance(segmenter, Prefetching):
        return None
    started = time.perf_counter()
    try:
        segmenter.embed(frame.image)
    except CtaiError:
        # The results will say why.
        return None
    return (time.perf_counter() - started) * 1000
