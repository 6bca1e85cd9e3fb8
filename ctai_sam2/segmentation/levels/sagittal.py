"""L3 on a sagittal slice: which body it is, and its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.body import body_of
from ctai_sam2.image.masks import keep_largest
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.segmentation.anatomy.isotropic_grid import Grid
from ctai_sam2.segmentation.levels.discs import SpineBody, find_bodies
from ctai_sam2.segmentation.levels.numbering import l3_probabilities
from ctai_sam2.segmentation.levels.spine_path import HALF_WIDTH_MM, StraightSpine, straighten_spine
from ctai_sam2.segmentation.levels.spine_walk import NAMES, SeenBody, SpineWalk
from ctai_sam2.segmentation.postprocess import clean_mask, with_cortex
from ctai_sam2.segmentation.prediction import frame_for, name_structure, predict_on_slice, refine_on_slice
from ctai_sam2.segmentation.results import L3Result, PredictsMasks, StructureResult, VertebraCandidate
from ctai_sam2.structures import level_below_l3
from ctai_sam2.types import CTSlice, Mask, Prediction, Prompt, Window

Certainty = Literal["counted", "told", "estimated", "unknown"]

_EDGE_HU = 0.5
_USUAL_HALF_DEPTH_MM = 17.0
_NEAR_MM = 25.0
_STARTS = 6

LEVEL_THRESHOLD = 0.5
"""A body less likely than this to be L3 is not chosen."""

COUNTED_FROM = 0.9
"""From this probability on the level counts as told by the anatomy; below, a warning goes with it."""

_RIVAL_FROM = 0.15
_CREST_SPREAD_MM = 20.0
_CREST_ERRS = 0.5
_SAME_BODY_MM = 12.0
_SHARPEN = 1.3


def find_l3(
    ct_slice: CTSlice,
    segmenter: PredictsMasks,
    *,
    l3_xy: Sequence[float] | None = None,
    expected_row: float | None = None,
    beside: Sequence[CTSlice] = (),
    window: Window = SOFT_TISSUE,
) -> L3Result:
    """Find the vertebral bodies of a sagittal slice, say which is L3 and how sure that is, and segment it.

    A model that knows vertebrae by name outlines one body after the other, and the level follows from
    what is seen of the sacrum and from the posture of the spine, as a probability (`l3_probabilities`).
    With other models the bodies are told by the discs between them and numbered up from the sacrum. Below
    a probability of `LEVEL_THRESHOLD`, or where nothing tells the level, it is not guessed: ``chosen`` is
    None, a warning says so, and ``proposals`` has the likeliest.

    Parameters
    ----------
    ct_slice : CTSlice
        Sagittal, superior up, anterior on the left.
    segmenter : PredictsMasks
        Any segmenter.
    l3_xy : sequence of 2 floats, optional
        A click in L3, (column, row).
    expected_row : float, optional
        Row near which L3's centre should be, from elsewhere (iliac crests).
    beside : sequence of CTSlice, optional
        Sagittal slices near it with the same rows, which are asked too.
    window : Window
        Window of the image.

    Raises
    ------
    AnatomyNotFound
        If no spine is visible and there is no click.
    InputError
        If the click lies outside the slice.
    Unavailable
        If the segmenter cannot answer.
    """
    if l3_xy is not None:
        return _l3_by_click(ct_slice, segmenter, l3_xy, window)
    bodies = walk_spine(ct_slice, segmenter, window)
    if not bodies:
        return _l3_by_discs(ct_slice, segmenter, expected_row, window)
    walks = [bodies, *(walk_spine(other, segmenter, window) for other in beside)]
    chances = _pool([walk for walk in walks if walk], _height_mm(ct_slice))
    if expected_row is not None:
        chances = _weigh_by_row(chances, bodies, (expected_row + 0.5) * ct_slice.spacing_mm[0])
    return number_bodies(ct_slice, bodies, chances)


def walk_spine(
    ct_slice: CTSlice, segmenter: PredictsMasks, window: Window = SOFT_TISSUE
) -> tuple[SeenBody, ...]:
    """Vertebral bodies and pieces of the sacrum as the model outlines them, from the top down.

    Empty where the model does not know them by name or finds none.

    Raises
    ------
    AnatomyNotFound
        If there is no body on the slice.
    Unavailable
        If the segmenter cannot answer.
    """
    if not set(NAMES) <= set(segmenter.identity.structures):
        return ()
    try:
        candidates, _ = find_candidates(ct_slice)
    except AnatomyNotFound:
        candidates = ()
    spacing_xy = np.array(ct_slice.spacing_mm[::-1])
    starts = [(np.array(c.centre_xy) + 0.5) * spacing_xy for c in candidates[-_STARTS:]]
    return SpineWalk(ct_slice, segmenter, window).bodies(starts)


def number_bodies(ct_slice: CTSlice, bodies: Sequence[SeenBody], chances: NDArray[np.float64]) -> L3Result:
    """Choose L3 among bodies by their probabilities, or refuse to.

    Parameters
    ----------
    ct_slice : CTSlice
        They were seen on.
    bodies : sequence of SeenBody
        From `walk_spine`.
    chances : ndarray, shape (len(bodies),)
        Probability of each to be L3.
    """
    best = int(np.argmax(chances))
    chance = float(chances[best])
    chosen = best if chance >= LEVEL_THRESHOLD else None
    # What lies below L5 is sacrum, unless the level is open.
    shown = bodies[: best + 3] if chosen is not None else [b for b in bodies if b.worth > 0]
    candidates = tuple(
        _seen_candidate(
            ct_slice, body, float(chances[i]), None if chosen is None else level_below_l3(i - best)
        )
        for i, body in enumerate(shown)
    )
    l3 = None if chosen is None else candidates[chosen].result
    warnings = _level_warnings(chances, best, chosen)
    return L3Result(
        ct_slice=ct_slice,
        candidates=candidates,
        chosen=chosen,
        certainty="unknown" if chosen is None else "counted" if chance >= COUNTED_FROM else "estimated",
        probability=chance,
        l3=l3,
        warnings=warnings if l3 is None else (*warnings, *l3.warnings),
    )


def _level_warnings(chances: NDArray[np.float64], best: int, chosen: int | None) -> tuple[str, ...]:
    chance = float(chances[best])
    if chosen is None:
        return (
            f"L3 cannot be told from its neighbours: the likeliest body has a probability of {chance:.2f}; "
            "choose among the proposals, click on L3 or give the axial slice",
        )
    if chance >= COUNTED_FROM:
        return ()
    warnings = [f"L3 may be one level off: its probability is {chance:.2f}; check the level"]
    neighbours = {"above": best - 1, "below": best + 1}
    for side, index in neighbours.items():
        if 0 <= index < len(chances) and chances[index] >= _RIVAL_FROM:
            warnings.append(
                f"the vertebra {side} could be L3 as well (probability {chances[index]:.2f}): the border of "
                "lumbar spine and sacrum is cut off, unclear or transitional"
            )
    return tuple(warnings)


def _seen_candidate(ct_slice: CTSlice, body: SeenBody, chance: float, level: str | None) -> VertebraCandidate:
    x, y = body.centre_mm / np.array(ct_slice.spacing_mm[::-1]) - 0.5
    result = _outlined(ct_slice, body)
    rows, columns = np.nonzero(result.mask)
    box = (x - 0.5, y - 0.5, x + 0.5, y + 0.5)
    if rows.size:
        box = (columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5)
    return VertebraCandidate(
        centre_xy=(float(x), float(y)),
        box_xyxy=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        level=level,
        l3_probability=chance,
        result=result,
    )


def _outlined(ct_slice: CTSlice, body: SeenBody) -> StructureResult:
    """Mask of a body on the slice, from the answer the walk had already."""
    answer = body.answer
    if answer is None:
        raise InputError("the body comes without the model's answer", hint="Use those of walk_spine.")
    masks = np.stack([answer.frame.mask_to_slice(mask) for mask in answer.prediction.masks])
    prediction = replace(answer.prediction, masks=masks)
    near = np.zeros(ct_slice.shape_hw, dtype=bool)
    centre = np.rint(body.centre_mm / np.array(ct_slice.spacing_mm[::-1]) - 0.5).astype(int)
    near[tuple(np.clip(centre[::-1], 0, np.array(ct_slice.shape_hw) - 1))] = True
    mask = keep_largest(_clean(ct_slice, prediction.mask, near=near))
    return _result(mask, prediction, answer.prompt, "anatomy")


def _height_mm(ct_slice: CTSlice) -> float:
    return ct_slice.shape_hw[0] * ct_slice.spacing_mm[0]


def _pool(walks: Sequence[Sequence[SeenBody]], height_mm: float) -> NDArray[np.float64]:
    """Probability of each body of the first walk to be L3, as the mean of what all walks say.

    A walk counts as much as it saw that looks like vertebrae: beside a bent spine there is little.
    """
    heights = np.array([body.centre_mm[1] for body in walks[0]])
    pooled = np.zeros(len(heights))
    weights = [sum(body.worth for body in walk) for walk in walks]
    for walk, weight in zip(walks, weights, strict=True):
        chances = l3_probabilities(walk, height_mm)
        off = np.abs(heights[:, None] - np.array([body.centre_mm[1] for body in walk]))
        pooled += weight * np.where(off.min(axis=1) < _SAME_BODY_MM, chances[off.argmin(axis=1)], 0.0)
    pooled /= max(sum(weights), 1e-9)
    if len(walks) == 1:
        return pooled
    # A mean of probabilities is timid; the exponent was fitted on phantom volumes.
    sharper = np.append(pooled, max(1.0 - float(pooled.sum()), 0.0)) ** _SHARPEN
    return np.asarray(sharper[:-1] / sharper.sum())


def _weigh_by_row(
    chances: NDArray[np.float64], bodies: Sequence[SeenBody], expected_mm: float
) -> NDArray[np.float64]:
    """Take what the iliac crests say as further evidence, which may err."""
    off = np.array([body.centre_mm[1] - expected_mm for body in bodies])
    likely = np.exp(-0.5 * (off / _CREST_SPREAD_MM) ** 2) + _CREST_ERRS
    elsewhere = max(1.0 - float(chances.sum()), 0.0) * _CREST_ERRS
    weighed = chances * likely
    return np.asarray(weighed / max(float(weighed.sum()) + elsewhere, 1e-9))


def _l3_by_click(
    ct_slice: CTSlice, segmenter: PredictsMasks, l3_xy: Sequence[float], window: Window
) -> L3Result:
    height, width = ct_slice.shape_hw
    if len(l3_xy) != 2 or not (-0.5 <= l3_xy[0] <= width - 0.5 and -0.5 <= l3_xy[1] <= height - 0.5):
        raise InputError("the click on L3 lies outside the slice", received=tuple(l3_xy))
    try:
        candidates, _ = find_candidates(ct_slice)
    except AnatomyNotFound:
        candidates = ()
    distances = [_distance_mm(c.centre_xy, l3_xy, ct_slice) for c in candidates]
    nearest = int(np.argmin(distances)) if distances else None
    chosen = nearest if nearest is not None and distances[nearest] < _NEAR_MM else None
    result = _segment(
        ct_slice, segmenter, _prompt_at(None if chosen is None else candidates[chosen], l3_xy), "user", window
    )
    return L3Result(
        ct_slice=ct_slice,
        candidates=candidates,
        chosen=chosen,
        certainty="told",
        l3=result,
        warnings=result.warnings,
    )


def _l3_by_discs(
    ct_slice: CTSlice, segmenter: PredictsMasks, expected_row: float | None, window: Window
) -> L3Result:
    """For models that do not know vertebrae by name: bodies between discs, counted up from the sacrum."""
    candidates, sure = find_candidates(ct_slice)
    warnings: list[str] = []
    chosen, certainty = _choose(candidates, ct_slice, expected_row)
    if certainty == "counted" and not sure:
        certainty = "estimated"
        warnings.append("L3 may be one level off: where lumbar spine and sacrum meet is not clear; check it")
    elif certainty == "estimated":
        warnings.append("the sacrum is not visible: L3 was estimated from the iliac crests; check the level")
    elif certainty == "unknown":
        warnings.append(
            "the sacrum is not visible, so vertebrae cannot be numbered; click on L3 or give the axial slice"
        )
    result = None
    if chosen is not None:
        candidate = candidates[chosen]
        prompt = _prompt_at(candidate, candidate.centre_xy)
        result = _segment(ct_slice, segmenter, prompt, "anatomy", window)
        warnings += result.warnings
    return L3Result(
        ct_slice=ct_slice,
        candidates=candidates,
        chosen=chosen,
        certainty=certainty,
        l3=result,
        warnings=tuple(warnings),
    )


def find_candidates(ct_slice: CTSlice) -> tuple[tuple[VertebraCandidate, ...], bool]:
    """Vertebral bodies of a sagittal slice from the top down, and whether their numbering is sure.

    Raises
    ------
    AnatomyNotFound
        If no spine is visible.
    """
    grid = Grid.of(ct_slice)
    spine = straighten_spine(grid.hu, grid.mask_to_grid(body_of(ct_slice)))
    bodies = find_bodies(grid.hu, spine)
    found = tuple(_candidate(grid, spine, body) for body in bodies)
    return found, all(body.sure for body in bodies)


def segment_l3_by_user(
    ct_slice: CTSlice, segmenter: PredictsMasks, prompt: Prompt, window: Window
) -> StructureResult:
    """Segment what a user's prompt points at on a sagittal slice, as L3."""
    prompt.require_within(ct_slice.shape_hw)
    return _segment(ct_slice, segmenter, prompt, "user", window)


def _candidate(grid: Grid, spine: StraightSpine, body: SpineBody) -> VertebraCandidate:
    middle = (body.top_mm + body.bottom_mm) / 2
    front, back = _front_and_back(spine, body)
    height = body.bottom_mm - body.top_mm
    top, bottom = body.top_mm + 0.1 * height, body.bottom_mm - 0.1 * height
    corners = np.array([spine.place(s, a) for s in (top, bottom) for a in (front, back)])
    low, high = grid.points_to_slice([corners.min(axis=0), corners.max(axis=0)])
    last = np.array(grid.slice_shape_hw[::-1]) - 0.5
    low, high = np.clip(low, -0.5, last - 1), np.clip(high, 0.5, last)
    centre = grid.points_to_slice([spine.place(middle, (front + back) / 2)])[0]
    return VertebraCandidate(
        centre_xy=(float(centre[0]), float(centre[1])),
        box_xyxy=(float(low[0]), float(low[1]), float(high[0]), float(high[1])),
        level=body.level,
    )


def _front_and_back(spine: StraightSpine, body: SpineBody) -> tuple[float, float]:
    """Millimetres from the line to the body's front (negative) and back, at its cortex."""
    height = body.bottom_mm - body.top_mm
    rows = slice(int(body.top_mm + 0.3 * height), int(body.bottom_mm - 0.3 * height) + 1)
    across: NDArray[np.float64] = np.clip(spine.hu[rows], -50, 300).mean(axis=0).astype(np.float64)
    inner = float(np.median(across[HALF_WIDTH_MM - 8 : HALF_WIDTH_MM + 9]))
    outer = float(np.percentile(across, 10))
    bone = across > outer + _EDGE_HU * (inner - outer)
    front = _run(bone[: HALF_WIDTH_MM + 1][::-1])
    back = _run(bone[HALF_WIDTH_MM:])
    # A vessel before the body or an arch behind the canal may be as bright: then the usual depth serves.
    if not 8 <= front <= 24:
        front = _USUAL_HALF_DEPTH_MM
    if not 8 <= back <= 24:
        back = _USUAL_HALF_DEPTH_MM
    return -front, back


def _run(bone: NDArray[np.bool_]) -> float:
    outside = np.flatnonzero(~bone)
    return float(outside[0]) if outside.size else float(bone.size)


def _choose(
    candidates: tuple[VertebraCandidate, ...], ct_slice: CTSlice, expected_row: float | None
) -> tuple[int | None, Certainty]:
    for index, candidate in enumerate(candidates):
        if candidate.level == "L3":
            return index, "counted"
    if expected_row is not None and candidates and all(c.level is None for c in candidates):
        rows = np.array([c.centre_xy[1] for c in candidates])
        nearest = int(np.argmin(np.abs(rows - expected_row)))
        if abs(rows[nearest] - expected_row) * ct_slice.spacing_mm[0] < _NEAR_MM:
            return nearest, "estimated"
    return None, "unknown"


def _distance_mm(a: Sequence[float], b: Sequence[float], ct_slice: CTSlice) -> float:
    return float(np.hypot((a[0] - b[0]) * ct_slice.spacing_mm[1], (a[1] - b[1]) * ct_slice.spacing_mm[0]))


def _prompt_at(candidate: VertebraCandidate | None, point_xy: Sequence[float]) -> Prompt:
    return Prompt(
        points_xy=np.array([point_xy], np.float32),
        box_xyxy=None if candidate is None else candidate.box_xyxy,
    )


def _heart_of(prompt: Prompt, shape_hw: tuple[int, int]) -> Mask | None:
    """Middle of the prompt's box, half as wide and high: in it lies the vertebra and no neighbour."""
    if prompt.box_xyxy is None:
        return None
    x0, y0, x1, y1 = prompt.box_xyxy
    inside = np.zeros(shape_hw, dtype=bool)
    across = slice(max(int(0.75 * x0 + 0.25 * x1), 0), int(np.ceil(0.25 * x0 + 0.75 * x1)) + 1)
    down = slice(max(int(0.75 * y0 + 0.25 * y1), 0), int(np.ceil(0.25 * y0 + 0.75 * y1)) + 1)
    inside[down, across] = True
    return inside


def _segment(
    ct_slice: CTSlice,
    segmenter: PredictsMasks,
    prompt: Prompt,
    prompted_by: Literal["anatomy", "user"],
    window: Window,
) -> StructureResult:
    prompt = name_structure(prompt, "vertebra")
    frame = frame_for(ct_slice, window, prompt)
    user = prompt if prompted_by == "user" else None

    def clean(mask: Mask, so_far: Prompt) -> Mask:
        near = None if user is not None else _heart_of(prompt, ct_slice.shape_hw)
        return _clean(ct_slice, mask, near=near, prompt=None if user is None else so_far)

    if user is None:
        prediction = predict_on_slice(segmenter, frame, prompt)
    else:
        prediction = refine_on_slice(segmenter, frame, prompt, clean)
    mask = clean(prediction.mask, prompt)
    if user is None:
        # A vertebral body is one piece.
        mask = keep_largest(mask)
    return _result(mask, prediction, prompt, prompted_by)


def _clean(ct_slice: CTSlice, mask: Mask, *, near: Mask | None, prompt: Prompt | None = None) -> Mask:
    return clean_mask(
        with_cortex(mask, ct_slice.hu, ct_slice.spacing_mm),
        ct_slice.hu,
        pixel_area_mm2=ct_slice.pixel_area_mm2,
        near=near,
        largest_hole_mm2=400.0,
        prompt=prompt,
    )


def _result(
    mask: Mask, prediction: Prediction, prompt: Prompt, prompted_by: Literal["anatomy", "user"]
) -> StructureResult:
    warnings = () if mask.any() else ("l3: the model found nothing; place a box yourself",)
    return StructureResult(
        structure="l3",
        mask=mask,
        prediction=prediction,
        prompts=(prompt,),
        prompted_by=prompted_by,
        confidence=prediction.confidence_score,
        warnings=warnings,
    )
