"""L3 on a sagittal slice: which body it is, and its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.frame import Frame
from ctai_sam2.image.masks import keep_largest
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.segmentation.levels.decode import (
    DecodeParameters,
    NamedSpine,
    body_box,
    find_chain,
    name_chain,
)
from ctai_sam2.segmentation.levels.image import LevelImage
from ctai_sam2.segmentation.levels.labels import S1
from ctai_sam2.segmentation.levels.model import read_levels
from ctai_sam2.segmentation.levels.volume import VolumeSpine, pool_planes
from ctai_sam2.segmentation.postprocess import clean_mask, with_cortex
from ctai_sam2.segmentation.prediction import frame_for, name_structure, predict_on_slice, refine_on_slice
from ctai_sam2.segmentation.results import (
    L3Result,
    PredictsMasks,
    StructureResult,
    VertebraCandidate,
    require_segmenter,
)
from ctai_sam2.structures import level_below_l3
from ctai_sam2.types import CTSlice, CTVolume, Mask, Prediction, Prompt, Window
from ctai_sam2.types.checks import as_float, require_type

if TYPE_CHECKING:
    from ctai_sam2.segmentation.levels.network import LevelNetwork

_LUMBAR_STEP_MM = (26.0, 46.5)
_UNEVEN_STEPS = 1.6
"""Neighbouring lumbar bodies lie 32 to 45 mm apart on patients and drawn adults, one pair at most 1.3 times
as far as another; with slices stated 1.33 times as far apart the level was wrong and firmly so."""

LEVEL_THRESHOLD = 0.5
"""A body less likely than this to be L3 is not chosen."""

COUNTED_FROM = 0.9
"""From this probability on the level counts as seen; below, a warning goes with it."""

_RIVAL_FROM = 0.15
_PROPOSED_FROM = 0.05
_MOST_OUTLINED = 4
_NEAR_MM = 25.0
_EXPECTED_SPREAD_MM = 20.0
_EXPECTED_ERRS = 0.5
# Median over the five bodies about L3: 0.76 and more on 19 of 20 drawn slices through the middle, at most
# 0.48 on 3 of 4 of those 9 to 15 mm next to it.
_CANAL_SEEN = 0.55


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceSpine:
    """The vertebral bodies of a sagittal slice, from head to feet, S1 too where it is seen.

    Parameters
    ----------
    named : NamedSpine
        Bodies and the probability of each name.
    centres_xy : ndarray, shape (n, 2)
        In pixels of the slice.
    boxes_xyxy : ndarray, shape (n, 4)
        In pixels of the slice, within it.
    """

    named: NamedSpine
    centres_xy: NDArray[np.float64]
    boxes_xyxy: NDArray[np.float64]


def read_slice_spine(
    ct_slice: CTSlice,
    parallel_slices: Sequence[CTSlice] = (),
    *,
    network: LevelNetwork | None = None,
) -> SliceSpine:
    """Find and name the vertebral bodies of a sagittal slice.

    Parameters
    ----------
    ct_slice : CTSlice
        Sagittal, superior up, anterior on the left.
    parallel_slices : sequence of CTSlice, optional
        Parallel slices of the same shape, whose evidence is pooled.
    network : LevelNetwork, optional
        Another than the one that ships.

    Raises
    ------
    AnatomyNotFound
        If no spine is visible.
    InputError
        If a parallel slice has another shape.
    """
    if any(other.shape_hw != ct_slice.shape_hw for other in parallel_slices):
        raise InputError(
            "parallel slices must have one shape", received=[o.shape_hw for o in parallel_slices]
        )
    decode = DecodeParameters()
    image = LevelImage.of(ct_slice)
    images = [image.hu, *(LevelImage.of(other).hu for other in parallel_slices)]
    evidence = pool_planes(read_levels(images, network))
    chain = find_chain(evidence, decode)
    if len(chain) < 2:
        raise AnatomyNotFound(
            "no spine is visible on the slice",
            received=f"{len(chain)} vertebral bodies",
            hint="Give a sagittal slice through the middle of the spine, or place a point in L3.",
        )
    line = [body.centre_xy for body in chain]
    corners = np.array([body_box(evidence, line, index) for index in range(len(chain))])
    low, high = image.to_slice_xy(corners[:, :2]), image.to_slice_xy(corners[:, 2:])
    return SliceSpine(
        named=name_chain(chain, decode),
        centres_xy=image.to_slice_xy(np.array(line)),
        boxes_xyxy=_within(np.column_stack([low, high]), ct_slice.shape_hw),
    )


def spine_on_slice(spine: VolumeSpine, volume: CTVolume) -> SliceSpine:
    """Project the spine of a volume onto its sagittal slices, along the left-right axis."""
    top = volume.shape_zyx[0] - 1
    centres = np.column_stack([spine.centres_zyx[:, 1], top - spine.centres_zyx[:, 0]])
    upper, front, lower, back = spine.boxes_zyzy.T
    boxes = np.column_stack([front, top - upper, back, top - lower])
    return SliceSpine(named=spine.named, centres_xy=centres, boxes_xyxy=_within(boxes, volume.shape_zyx[:2]))


def find_l3(
    ct_slice: CTSlice,
    segmenter: PredictsMasks,
    *,
    l3_xy: Sequence[float] | None = None,
    expected_row: float | None = None,
    parallel_slices: Sequence[CTSlice] = (),
    window: Window = SOFT_TISSUE,
) -> L3Result:
    """Find the vertebral bodies of a sagittal slice, say which is L3 and how likely that is, and segment it.

    A small network of this package finds and names the bodies, whatever the segmenter is; the segmenter
    outlines the likeliest L3 and its rivals. Below a probability of `LEVEL_THRESHOLD` nothing is chosen:
    ``chosen`` is None, a warning says so, and ``proposals`` has the likeliest bodies.

    Parameters
    ----------
    ct_slice : CTSlice
        Sagittal, superior up, anterior on the left.
    segmenter : PredictsMasks
        Any segmenter.
    l3_xy : sequence of 2 floats, optional
        A click in L3, (column, row).
    expected_row : float, optional
        Row near which L3's center should be, from elsewhere.
    parallel_slices : sequence of CTSlice, optional
        Parallel sagittal slices of the same shape, whose evidence is pooled.
    window : Window
        Window of the image that the segmenter sees.

    Raises
    ------
    AnatomyNotFound
        If no spine is visible and there is no click.
    InputError
        If the click lies outside the slice.
    Unavailable
        If the segmenter is not available.
    """
    require_type(ct_slice, CTSlice, "ct_slice")
    require_segmenter(segmenter)
    require_sagittal(ct_slice)
    if l3_xy is not None:
        return _l3_by_click(ct_slice, segmenter, l3_xy, window)
    spine = read_slice_spine(ct_slice, parallel_slices)
    chances = spine.named.l3_probability
    if expected_row is not None:
        off_mm = (spine.centres_xy[:, 1] - expected_row) * ct_slice.spacing_mm[0]
        chances = _weigh(chances, off_mm)
    return choose_l3(ct_slice, spine, segmenter, chances=chances, window=window)


def require_sagittal(ct_slice: CTSlice) -> None:
    """Check that a slice can be sagittal.

    Raises
    ------
    InputError
        If it is known to be of another plane.
    """
    if ct_slice.plane in ("axial", "coronal"):
        raise InputError(
            "L3 is found on a sagittal slice",
            received=ct_slice.plane,
            hint="Take one with volume.sagittal(column), or give the volume to find_l3_in_volume.",
        )


def choose_l3(
    ct_slice: CTSlice,
    spine: SliceSpine,
    segmenter: PredictsMasks,
    *,
    chances: NDArray[np.float64] | None = None,
    window: Window = SOFT_TISSUE,
) -> L3Result:
    """Choose L3 among bodies by their probabilities, or refuse to, and segment it with its rivals.

    Parameters
    ----------
    ct_slice : CTSlice
        They were seen on.
    spine : SliceSpine
        From `read_slice_spine`.
    segmenter : PredictsMasks
        Any segmenter.
    chances : ndarray, shape (n,), optional
        Probability of each body to be L3; the spine's own when omitted.
    window : Window
        Window of the image that the segmenter sees.

    Raises
    ------
    Unavailable
        If the segmenter is not available.
    """
    chances = spine.named.l3_probability if chances is None else chances
    best = int(np.argmax(chances))
    chance = float(chances[best])
    chosen = best if chance >= LEVEL_THRESHOLD else None
    # What lies below L5 is sacrum, unless the level is open.
    sacral = spine.named.probability[:, S1:].sum(axis=1) > 0.5
    last = best + 3 if chosen is not None else max(int((~sacral).sum()), best + 1)
    shown = range(min(last, len(chances)))
    candidates = [
        VertebraCandidate(
            centre_xy=(float(spine.centres_xy[i, 0]), float(spine.centres_xy[i, 1])),
            box_xyxy=_box(spine.boxes_xyxy[i]),
            level=None if chosen is None else level_below_l3(i - best),
            l3_probability=float(chances[i]),
        )
        for i in shown
    ]
    for i in _to_outline(chances, chosen, len(candidates)):
        # No negative points in the discs: with them the mean Dice of real bodies falls from 0.929 to 0.918.
        prompt = _prompt_at(candidates[i], candidates[i].centre_xy)
        frame_at = _prompt_at(candidates[best], candidates[best].centre_xy)
        result = _segment(ct_slice, segmenter, prompt, "anatomy", window, frame_at=frame_at)
        candidates[i] = replace(candidates[i], result=result)
    l3 = None if chosen is None else candidates[chosen].result
    warnings = (
        *_level_warnings(chances, best, chosen),
        *_distance_warnings(spine.centres_xy, best, ct_slice),
        *_plane_warnings(spine, best),
    )
    return L3Result(
        ct_slice=ct_slice,
        candidates=tuple(candidates),
        chosen=chosen,
        certainty="unknown" if chosen is None else "counted" if chance >= COUNTED_FROM else "estimated",
        probability=chance,
        l3=l3,
        warnings=warnings if l3 is None else (*warnings, *l3.warnings),
    )


def find_candidates(ct_slice: CTSlice) -> tuple[tuple[VertebraCandidate, ...], bool]:
    """Vertebral bodies of a sagittal slice from the top down, and whether their numbering is sure.

    Raises
    ------
    AnatomyNotFound
        If no spine is visible.
    """
    spine = read_slice_spine(ct_slice)
    chances = spine.named.l3_probability
    best = int(np.argmax(chances))
    known = chances[best] >= LEVEL_THRESHOLD
    sacral = spine.named.probability[:, S1:].sum(axis=1) > 0.5
    found = tuple(
        VertebraCandidate(
            centre_xy=(float(x), float(y)),
            box_xyxy=_box(box),
            level=level_below_l3(i - best) if known else None,
            l3_probability=float(chances[i]),
        )
        for i, ((x, y), box) in enumerate(zip(spine.centres_xy, spine.boxes_xyxy, strict=True))
        if not sacral[i]
    )
    return found, bool(chances[best] >= COUNTED_FROM)


def _level_warnings(chances: NDArray[np.float64], best: int, chosen: int | None) -> tuple[str, ...]:
    chance = float(chances[best])
    if chosen is None:
        return (
            f"L3 cannot be distinguished from its neighbours: the likeliest body has a probability of "
            f"{chance:.2f}; choose among the proposals, click on L3 or give the axial slice",
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


def _distance_warnings(centres_xy: NDArray[np.float64], best: int, ct_slice: CTSlice) -> tuple[str, ...]:
    """Say where bodies next to the likeliest L3 lie at distances that no adult's do."""
    near = centres_xy[max(best - 2, 0) : best + 3] * np.array(ct_slice.spacing_mm[::-1])
    steps = np.linalg.norm(np.diff(near, axis=0), axis=1)
    low, high = _LUMBAR_STEP_MM
    if steps.size < 3 or (
        low <= float(np.median(steps)) <= high and steps.max() <= _UNEVEN_STEPS * steps.min()
    ):
        return ()
    return (
        f"the bodies about L3 lie {steps.min():.0f} to {steps.max():.0f} mm apart: the distance between "
        "slices may be wrong, or a body was missed; check the level",
    )


def _plane_warnings(spine: SliceSpine, best: int) -> tuple[str, ...]:
    """Say that the slice does not run through the middle of the spine, where no canal is seen."""
    seen = [body.canal for body in spine.named.bodies]
    lumbar = seen[max(best - 2, 0) : best + 3]
    if float(np.median(lumbar)) < _CANAL_SEEN:
        return (
            "the slice passes next to the middle of the spine: no spinal canal is seen behind the "
            "likeliest L3; a slice nearer to the midline shows the level and the body better",
        )
    if min(lumbar) < _CANAL_SEEN:
        return (
            "the spine leaves the plane of the slice (scoliosis or an oblique plane): the spinal canal is "
            f"seen behind {sum(value >= _CANAL_SEEN for value in lumbar)} of {len(lumbar)} bodies about L3",
        )
    return ()


def _to_outline(chances: NDArray[np.float64], chosen: int | None, count: int) -> list[int]:
    """Bodies whose mask a reader may want: the likeliest, and the neighbors of the chosen one."""
    near = set() if chosen is None else {chosen - 1, chosen, chosen + 1} & set(range(count))
    likely = [int(i) for i in np.argsort(-chances[:count]) if chances[i] >= _PROPOSED_FROM]
    return list(dict.fromkeys([*likely[:_MOST_OUTLINED], *sorted(near)]))


def _weigh(chances: NDArray[np.float64], off_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take a place expected from elsewhere as further evidence, which may err."""
    likely = np.exp(-0.5 * (off_mm / _EXPECTED_SPREAD_MM) ** 2) + _EXPECTED_ERRS
    elsewhere = max(1.0 - float(chances.sum()), 0.0) * _EXPECTED_ERRS
    weighed = chances * likely
    return np.asarray(weighed / max(float(weighed.sum()) + elsewhere, 1e-9))


def _l3_by_click(
    ct_slice: CTSlice, segmenter: PredictsMasks, l3_xy: Sequence[float], window: Window
) -> L3Result:
    height, width = ct_slice.shape_hw
    if as_float(l3_xy, "the click on L3").shape != (2,):
        raise InputError("the click on L3 is one point (column, row)", received=tuple(l3_xy))
    if not (-0.5 <= l3_xy[0] <= width - 0.5 and -0.5 <= l3_xy[1] <= height - 0.5):
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
        certainty="user",
        l3=result,
        warnings=result.warnings,
    )


def segment_l3_by_user(
    ct_slice: CTSlice, segmenter: PredictsMasks, prompt: Prompt, window: Window
) -> StructureResult:
    """Segment what a user's prompt points at on a sagittal slice, as L3."""
    prompt.require_within(ct_slice.shape_hw)
    return _segment(ct_slice, segmenter, prompt, "user", window)


def _within(boxes: NDArray[np.float64], shape_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Clip boxes to a slice, leaving each a pixel at least."""
    last = np.array(shape_hw[::-1]) - 0.5
    low = np.clip(boxes[:, :2], -0.5, last - 1)
    high = np.clip(boxes[:, 2:], low + 1, last)
    return np.column_stack([low, high])


def _box(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    return float(values[0]), float(values[1]), float(values[2]), float(values[3])


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
    *,
    frame_at: Prompt | None = None,
) -> StructureResult:
    prompt = name_structure(prompt, "vertebra")
    frame: Frame = frame_for(ct_slice, window, prompt if frame_at is None else frame_at)
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
