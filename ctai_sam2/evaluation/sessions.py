"""Simulated sessions: a click at the centre of the largest error, again and again; a box; no points."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.evaluation.scores import MAX_CLICKS, PromptName
from ctai_sam2.image.masks import mask_to_box_xyxy
from ctai_sam2.image.simulated_clicks import click_centre_of_largest_error
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.overlap import dice
from ctai_sam2.segmentation import PredictsMasks, segment_structure
from ctai_sam2.segmentation.axial_session import AxialSession
from ctai_sam2.segmentation.prediction import frame_for, predict_on_slice
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTSlice, Mask, Prompt

CLICKS_SCORED: Final[tuple[tuple[int, PromptName], ...]] = ((1, "click_1"), (3, "click_3"), (5, "click_5"))
DICE_TO_REACH: Final = (0.85, 0.90)

BUTTONS: Final[dict[tuple[str, str], Structure]] = {
    ("axial", "psoas_left"): "psoas_left",
    ("axial", "psoas_right"): "psoas_right",
    ("axial", "muscle"): "muscle",
    ("axial", "vertebra"): "vertebra",
    ("axial", "sat"): "sat",
    ("axial", "vat"): "vat",
    ("axial", "imat"): "imat",
    ("sagittal", "L3"): "l3",
}
"""What one click without points can segment, by plane and name of the reference."""

BY_PROMPT: Final[dict[tuple[str, str], Structure]] = {
    **{("axial", name): name for name in ("psoas_left", "psoas_right", "muscle", "vertebra")},
    # Every vertebral body is requested in the way L3 is.
    **{("sagittal", name): "l3" for name in ("T12", "L1", "L2", "L3", "L4", "L5")},
}
"""What a user's click is about, by plane and name of the reference; others get the network's own mask."""

PixelXY: TypeAlias = tuple[int, int]
PixelBox: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptResult:
    """What came back for one prompt of a session.

    Parameters
    ----------
    prompt : str
        One of `ctai_sam2.evaluation.scores.PROMPTS`.
    mask : ndarray of bool, shape (H, W)
        Empty where there was no prediction.
    confidence : float or None
        The model's own expectation.
    time_ms : float or None
        For this prediction.
    noc_85, noc_90 : int or None
        Of the session, where the prediction belongs to one.
    error : str or None
        Why there was no prediction.
    """

    prompt: PromptName
    mask: Mask
    confidence: float | None = None
    time_ms: float | None = None
    noc_85: int | None = None
    noc_90: int | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Desk:
    """A slice in front of a model, with what the simulated reader needs.

    Parameters
    ----------
    ct : CTSlice
        The slice.
    segmenter : PredictsMasks
        The model.
    bare : bool
        Whether masks are the network's own, without the structure's name and the clean-up that a user's
        prompt gets.
    """

    ct: CTSlice
    segmenter: PredictsMasks
    bare: bool = False

    @cached_property
    def session(self) -> AxialSession:
        """The slice as one click opens it."""
        return AxialSession.open(self.ct, self.segmenter)


def first_click_xy(reference: Mask) -> PixelXY:
    """Return where the first click goes: the middle of the largest piece of the reference, as (x, y).

    Raises
    ------
    InputError
        If the reference is empty.
    """
    click = click_centre_of_largest_error(np.zeros_like(reference), reference)
    if click is None:
        raise InputError("a click needs a reference that is not empty")
    return click[0]


def box_around(reference: Mask) -> PixelBox:
    """Return the exact box around a reference, (x0, y0, x1, y1) through the outermost pixels' centres.

    A structure one pixel wide gets a box one pixel wider on each side, since a box needs an area.

    Raises
    ------
    InputError
        If the reference is empty.
    """
    box = mask_to_box_xyxy(reference)
    if box is None:
        raise InputError("a box needs a reference that is not empty")
    if box[0] == box[2] or box[1] == box[3]:
        box = mask_to_box_xyxy(reference, pad_px=1) or box
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def click_repeatedly(desk: Desk, structure: str, reference: Mask) -> list[PromptResult]:
    """Click at the centre of the largest error until five clicks are done and Dice 0.90 is reached.

    Every prompt holds all clicks so far and nothing else. The session ends after `MAX_CLICKS`, or where
    the prediction is without error.

    Returns
    -------
    list of PromptResult
        After each of `CLICKS_SCORED`.
    """
    points: list[PixelXY] = []
    labels: list[int] = []
    current = PromptResult(prompt="click_1", mask=np.zeros_like(reference))
    after: dict[int, PromptResult] = {}
    reached: dict[float, int] = dict.fromkeys(DICE_TO_REACH, MAX_CLICKS + 1)
    for count in range(1, MAX_CLICKS + 1):
        click = click_centre_of_largest_error(current.mask, reference)
        if click is not None and current.error is None:
            points.append(click[0])
            labels.append(1 if click[1] else 0)
            current = _predict(desk, structure, _point_at(points, labels), "click_1")
        after[count] = current
        score = dice(current.mask, reference)
        for wanted in DICE_TO_REACH:
            if score >= wanted:
                reached[wanted] = min(reached[wanted], count)
        if count >= CLICKS_SCORED[-1][0] and (score >= DICE_TO_REACH[-1] or current.error is not None):
            break
    return [
        PromptResult(
            prompt=name,
            mask=after[count].mask,
            confidence=after[count].confidence,
            time_ms=after[count].time_ms,
            noc_85=reached[0.85],
            noc_90=reached[0.90],
            error=after[count].error,
        )
        for count, name in CLICKS_SCORED
    ]


def click_once(desk: Desk, structure: str, reference: Mask) -> PromptResult:
    """Click once, at the centre of the reference."""
    return _predict(desk, structure, _point_at([first_click_xy(reference)], [1]), "click_1")


def draw_box(desk: Desk, structure: str, reference: Mask) -> PromptResult:
    """Draw the exact box around the reference and click at its centre."""
    prompt = _point_at([first_click_xy(reference)], [1], box_around(reference))
    return _predict(desk, structure, prompt, "box")


def press_button(desk: Desk, structure: str) -> PromptResult | None:
    """Request a structure without points, as a user's one click does; None where there is no such button."""
    wanted = BUTTONS.get((desk.ct.plane, structure))
    if wanted is None:
        return None
    started = time.perf_counter()
    try:
        if desk.ct.plane == "axial":
            result = desk.session.segment(wanted)
        else:
            result = segment_structure(desk.ct, wanted, desk.segmenter)
    except AnatomyNotFound as error:
        return _refused(desk, "button", error)
    return PromptResult(
        prompt="button",
        mask=result.mask,
        confidence=result.confidence,
        time_ms=(time.perf_counter() - started) * 1000,
    )


def _point_at(points_xy: list[PixelXY], labels: list[int], box_xyxy: PixelBox | None = None) -> Prompt:
    return Prompt(
        points_xy=np.array(points_xy, np.float32), labels=np.array(labels, np.int32), box_xyxy=box_xyxy
    )


def _predict(desk: Desk, reference: str, prompt: Prompt, name: PromptName) -> PromptResult:
    structure = BY_PROMPT.get((desk.ct.plane, reference))
    if desk.ct.plane != "sagittal":
        _ = desk.session
    started = time.perf_counter()
    try:
        if desk.bare or structure is None:
            frame = frame_for(desk.ct, SOFT_TISSUE, prompt)
            prediction = predict_on_slice(desk.segmenter, frame, prompt)
            mask, confidence = prediction.mask, prediction.confidence_score
        else:
            if desk.ct.plane == "axial":
                result = desk.session.segment(structure, prompt=prompt)
            else:
                result = segment_structure(desk.ct, structure, desk.segmenter, prompt=prompt)
            mask, confidence = result.mask, result.confidence or 0.0
    except AnatomyNotFound as error:
        return _refused(desk, name, error)
    return PromptResult(
        prompt=name,
        mask=mask,
        confidence=confidence,
        time_ms=(time.perf_counter() - started) * 1000,
    )


def _refused(desk: Desk, name: PromptName, error: AnatomyNotFound) -> PromptResult:
    # A refusal is a result of the method and scores 0; any other error says nothing about a mask.
    return PromptResult(
        prompt=name,
        mask=np.zeros(desk.ct.shape_hw, dtype=np.bool_),
        error=f"{type(error).__name__}: {error.problem}",
    )
