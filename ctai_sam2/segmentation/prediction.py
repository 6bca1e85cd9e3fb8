"""Predictions on a slice: frame it, call the segmenter, map the masks back to the slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.distances import within_distance
from ctai_sam2.image.frame import Frame, frame_sagittal, frame_slice
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.overlap import dice
from ctai_sam2.segmentation.results import PredictsMasks, StructureResult, require_segmenter
from ctai_sam2.types import CTSlice, Mask, Prediction, Prompt, Window
from ctai_sam2.types.checks import as_float

WEIGHT_OF_AGREEMENT = 0.5
"""How much a candidate's overlap with the rough outline counts in addition to the model's own score."""


def frame_for(ct_slice: CTSlice, window: Window, prompt: Prompt | None = None) -> Frame:
    """Frame the body of a slice, or all of it where there is no body to see.

    On a sagittal slice the frame has a fixed size in mm and is centred on what the prompt points at first.
    """
    try:
        if ct_slice.plane == "sagittal":
            return frame_sagittal(ct_slice, window=window, at_xy=_anchor_xy(prompt))
        return frame_slice(ct_slice, window=window)
    except AnatomyNotFound:
        height, width = ct_slice.shape_hw
        whole = (-0.5, -0.5, width - 0.5, height - 0.5)
        return frame_slice(ct_slice, window=window, margin=0.0, focus_box_xyxy=whole)


def segment(
    image: CTSlice | NDArray[np.uint8],
    prompt: Prompt | tuple[float, float],
    segmenter: PredictsMasks,
    *,
    window: Window = SOFT_TISSUE,
) -> Prediction:
    """Return the model's masks for a prompt, without anatomy, Hounsfield limits or clean-up.

    Parameters
    ----------
    image : CTSlice or ndarray of uint8, shape (H, W)
        A slice is windowed and framed to the body; an array is shown to the model as it is.
    prompt : Prompt or (x, y)
        In pixels of the image, integer coordinates at pixel centres; a pair is one foreground point.
    segmenter : PredictsMasks
        Any segmenter.
    window : Window
        For a slice.

    Returns
    -------
    Prediction
        Candidate masks of the image's shape, best first.

    Raises
    ------
    InputError
        If the prompt is empty or lies outside the image, or the array is not uint8 with two axes.
    SegmenterError
        If the segmenter fails.

    Examples
    --------
    ::

        prediction = segment(volume.axial(41), (180, 260), segmenter)
        prediction.mask, prediction.confidence_score
    """
    require_segmenter(segmenter)
    placed = (
        prompt
        if isinstance(prompt, Prompt)
        else Prompt(points_xy=np.reshape(as_float(prompt, "a point"), (1, -1)))
    )
    if isinstance(image, CTSlice):
        return predict_on_slice(segmenter, frame_for(image, window, placed), placed)
    return segmenter.predict(image, placed)


def predict_on_slice(segmenter: PredictsMasks, frame: Frame, prompt: Prompt) -> Prediction:
    """Predict from a prompt in pixels of the slice; the masks have the slice's shape.

    Raises
    ------
    InputError
        If a point lies outside the frame.
    Unavailable
        If the segmenter is not available.
    """
    prediction = segmenter.predict(frame.image, frame.prompt_to_frame(prompt), window=frame.window)
    return replace(prediction, masks=np.stack([frame.mask_to_slice(mask) for mask in prediction.masks]))


def refine_on_slice(
    segmenter: PredictsMasks, frame: Frame, prompt: Prompt, clean: Callable[[Mask, Prompt], Mask]
) -> Prediction:
    """Predict like `predict_on_slice`, click by click: each further point corrects the mask shown before it.

    That is how a model is trained to take corrections. A prompt with a mask of its own, or with one point,
    is passed on unchanged. A cache holds the earlier steps when a reader adds one click after the other.

    Parameters
    ----------
    segmenter : PredictsMasks
        Any segmenter.
    frame : Frame
        What it sees of the slice.
    prompt : Prompt
        In pixels of the slice, points in the order of clicks.
    clean : callable
        (mask, prompt so far) -> the mask that a reader would be shown, both on the slice.

    Raises
    ------
    InputError
        If a point lies outside the frame.
    Unavailable
        If the segmenter is not available.
    """
    labels = np.asarray(prompt.labels)
    positive = np.flatnonzero(labels == 1)
    first = 1 if prompt.box_xyxy is not None or not positive.size else int(positive[0]) + 1
    if prompt.mask is not None or len(labels) <= first:
        return predict_on_slice(segmenter, frame, prompt)
    shown: Mask | None = None
    spent_ms = 0.0
    for count in range(first, len(labels) + 1):
        step = replace(prompt, points_xy=prompt.points_xy[:count], labels=labels[:count], mask=shown)
        prediction = predict_on_slice(segmenter, frame, step)
        spent_ms += prediction.processing_time_ms
        mask = clean(prediction.mask, step)
        shown = mask if mask.any() else None
    return replace(prediction, processing_time_ms=spent_ms)


def name_structure(prompt: Prompt, structure: str) -> Prompt:
    """Say what a prompt is about, unless it says so itself; models that know no names pass over it."""
    return prompt if prompt.structure is not None else replace(prompt, structure=structure)


def prefer_agreeing(prediction: Prediction, rough: Mask) -> Prediction:
    """Choose the candidate that scores best once overlap with a rough outline counts too."""
    if not rough.any():
        return prediction.with_candidate_first(int(np.argmax(prediction.scores)))
    overlap = np.array([dice(mask, rough) for mask in prediction.masks])
    scores = np.asarray(prediction.scores, dtype=np.float64) + WEIGHT_OF_AGREEMENT * overlap
    return prediction.with_candidate_first(int(np.argmax(scores)))


def unite(predictions: Sequence[Prediction]) -> Prediction:
    """One prediction whose mask is the union of the best masks; its score is the worst of theirs."""
    first = predictions[0]
    return Prediction(
        masks=np.any([p.mask for p in predictions], axis=0)[None],
        scores=np.array([min(p.confidence_score for p in predictions)], np.float32),
        identity=first.identity,
        processing_time_ms=float(sum(p.processing_time_ms for p in predictions)),
        cached=all(p.cached for p in predictions),
        backend=first.backend,
        window=first.window,
    )


def join_sides(left: StructureResult, right: StructureResult) -> StructureResult:
    """Unite left and right psoas; the lower confidence of the two is the whole's."""
    predictions = [result.prediction for result in (left, right) if result.prediction is not None]
    united = unite(predictions) if predictions else None
    return StructureResult(
        structure="psoas",
        mask=left.mask | right.mask,
        prediction=united,
        prompts=(*left.prompts, *right.prompts),
        prompted_by=left.prompted_by,
        confidence=min((one for one in (left.confidence, right.confidence) if one is not None), default=None),
        warnings=(*left.warnings, *right.warnings),
    )


def agreement(mask: Mask, rough: Mask) -> float:
    """Dice of a mask with a rough outline, forgiving a border of one pixel, 0 to 1."""
    if not mask.any() or not rough.any():
        return 0.0
    both = (mask & within_distance(rough, 1.0)).sum() + (rough & within_distance(mask, 1.0)).sum()
    return float(both) / float(mask.sum() + rough.sum())


def _anchor_xy(prompt: Prompt | None) -> tuple[float, float] | None:
    """Return the first positive point, else the middle of box or mask: it stays while clicks are added."""
    if prompt is None:
        return None
    positive = prompt.points_xy[np.asarray(prompt.labels) == 1]
    if len(positive):
        return float(positive[0, 0]), float(positive[0, 1])
    if prompt.box_xyxy is not None:
        x0, y0, x1, y1 = prompt.box_xyxy
        return (x0 + x1) / 2, (y0 + y1) / 2
    if prompt.mask is not None and prompt.mask.any():
        rows, columns = np.nonzero(prompt.mask)
        return float(columns.mean()), float(rows.mean())
    return None
