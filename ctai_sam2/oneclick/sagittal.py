"""L3 on a sagittal slice: which body it is, and its mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.core.body import body_mask
from ctai_sam2.core.masks import keep_largest
from ctai_sam2.core.windowing import SOFT_TISSUE
from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.oneclick.cleanup import clean_mask, with_cortex
from ctai_sam2.oneclick.discs import SpineBody, find_bodies
from ctai_sam2.oneclick.grid import Grid
from ctai_sam2.oneclick.predicting import frame_for, name_structure, predict_on_slice, refine_on_slice
from ctai_sam2.oneclick.results import L3Result, PredictsMasks, StructureResult, VertebraCandidate
from ctai_sam2.oneclick.spine_path import HALF_WIDTH_MM, StraightSpine, straighten_spine
from ctai_sam2.types import CTSlice, Mask, Prompt, Window

Certainty = Literal["counted", "told", "estimated", "unknown"]

_EDGE_HU = 0.5
_USUAL_HALF_DEPTH_MM = 17.0
_NEAR_MM = 25.0


def find_l3(
    slice_: CTSlice,
    segmenter: PredictsMasks,
    *,
    l3_xy: Sequence[float] | None = None,
    expected_row: float | None = None,
    window: Window = SOFT_TISSUE,
) -> L3Result:
    """Find the vertebral bodies of a sagittal slice, choose L3 and segment it.

    Bodies are numbered upwards from the sacrum. Where the sacrum is not seen the level is not guessed:
    ``chosen`` is None and a warning says so, unless a click or an expected row tells which body it is.

    Parameters
    ----------
    slice_ : CTSlice
        Sagittal, superior up, anterior on the left.
    segmenter : PredictsMasks
        Any segmenter.
    l3_xy : sequence of 2 floats, optional
        A click in L3, (column, row).
    expected_row : float, optional
        Row near which L3's centre should be, from elsewhere (iliac crests); used if there is no sacrum.
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
    try:
        candidates, sure = find_candidates(slice_)
    except AnatomyNotFound:
        if l3_xy is None:
            raise
        candidates, sure = (), False
    warnings: list[str] = []
    chosen, certainty = _choose(candidates, slice_, l3_xy, expected_row)
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
    if l3_xy is not None:
        prompt = _prompt_at(candidates[chosen] if chosen is not None else None, l3_xy)
        result = _segment(slice_, segmenter, prompt, "user", window)
    elif chosen is not None:
        candidate = candidates[chosen]
        prompt = _prompt_at(candidate, candidate.centre_xy)
        result = _segment(slice_, segmenter, prompt, "anatomy", window)
    if result is not None:
        warnings += result.warnings
    return L3Result(
        slice_=slice_,
        candidates=candidates,
        chosen=chosen,
        certainty=certainty,
        l3=result,
        warnings=tuple(warnings),
    )


def find_candidates(slice_: CTSlice) -> tuple[tuple[VertebraCandidate, ...], bool]:
    """Vertebral bodies of a sagittal slice from the top down, and whether their numbering is sure.

    Raises
    ------
    AnatomyNotFound
        If no spine is visible.
    """
    grid = Grid.of(slice_)
    spine = straighten_spine(grid.hu, grid.mask_to_grid(body_mask(slice_.hu, slice_.spacing_mm)))
    bodies = find_bodies(grid.hu, spine)
    found = tuple(_candidate(grid, spine, body) for body in bodies)
    return found, all(body.sure for body in bodies)


def segment_l3_by_user(
    slice_: CTSlice, segmenter: PredictsMasks, prompt: Prompt, window: Window
) -> StructureResult:
    """Segment what a user's prompt points at on a sagittal slice, as L3."""
    prompt.require_within(slice_.shape_hw)
    return _segment(slice_, segmenter, prompt, "user", window)


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
    candidates: tuple[VertebraCandidate, ...],
    slice_: CTSlice,
    l3_xy: Sequence[float] | None,
    expected_row: float | None,
) -> tuple[int | None, Certainty]:
    if l3_xy is not None:
        height, width = slice_.shape_hw
        if len(l3_xy) != 2 or not (-0.5 <= l3_xy[0] <= width - 0.5 and -0.5 <= l3_xy[1] <= height - 0.5):
            raise InputError("the click on L3 lies outside the slice", received=tuple(l3_xy))
        distances = [_distance_mm(c.centre_xy, l3_xy, slice_) for c in candidates]
        nearest = int(np.argmin(distances)) if distances else None
        return (nearest if nearest is not None and distances[nearest] < _NEAR_MM else None), "told"
    for index, candidate in enumerate(candidates):
        if candidate.level == "L3":
            return index, "counted"
    if expected_row is not None and candidates and all(c.level is None for c in candidates):
        rows = np.array([c.centre_xy[1] for c in candidates])
        nearest = int(np.argmin(np.abs(rows - expected_row)))
        if abs(rows[nearest] - expected_row) * slice_.spacing_mm[0] < _NEAR_MM:
            return nearest, "estimated"
    return None, "unknown"


def _distance_mm(a: Sequence[float], b: Sequence[float], slice_: CTSlice) -> float:
    return float(np.hypot((a[0] - b[0]) * slice_.spacing_mm[1], (a[1] - b[1]) * slice_.spacing_mm[0]))


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
    slice_: CTSlice,
    segmenter: PredictsMasks,
    prompt: Prompt,
    prompted_by: Literal["anatomy", "user"],
    window: Window,
) -> StructureResult:
    prompt = name_structure(prompt, "vertebra")
    frame = frame_for(slice_, window, prompt)
    user = prompt if prompted_by == "user" else None

    def clean(mask: Mask, so_far: Prompt) -> Mask:
        return clean_mask(
            with_cortex(mask, slice_.hu, slice_.spacing_mm),
            slice_.hu,
            pixel_area_mm2=slice_.pixel_area_mm2,
            near=None if user is not None else _heart_of(prompt, slice_.shape_hw),
            largest_hole_mm2=400.0,
            prompt=None if user is None else so_far,
        )

    if user is None:
        prediction = predict_on_slice(segmenter, frame, prompt)
    else:
        prediction = refine_on_slice(segmenter, frame, prompt, clean)
    mask = clean(prediction.mask, prompt)
    if user is None:
        # A vertebral body is one piece.
        mask = keep_largest(mask)
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
