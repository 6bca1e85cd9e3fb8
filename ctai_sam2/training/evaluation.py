"""Scores of weights: simulated clicks and boxes on slices with reference masks.

The slice reaches the model as it does in use: framed around the body, masks
moved back to the slice. A simulated click goes to the centre of the largest
error, beginning with the whole structure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from skimage.segmentation import flood

from ctai_sam2.core.agreement import dice
from ctai_sam2.core.framing import frame_slice
from ctai_sam2.core.masks import keep_largest, mask_to_box_xyxy
from ctai_sam2.core.phantom import LEVEL_NAMES, make_axial_slice, make_sagittal_slice, random_parameters
from ctai_sam2.errors import CtaiError
from ctai_sam2.io import read_case_npz
from ctai_sam2.oneclick import segment_structure
from ctai_sam2.segmenters.local import LocalSegmenter
from ctai_sam2.training.prompts import click_centre_of_largest_error
from ctai_sam2.types import CTSlice, Mask, Prompt

AXIAL_SCORED: Final = ("psoas_left", "psoas_right", "muscle", "vertebra")
SAGITTAL_SCORED: Final = ("L1", "L2", "L3", "L4", "L5")
CLICK_COUNTS: Final = (1, 3, 5)
BUTTON: Final = ("psoas_left", "psoas_right", "muscle")
FLOOD_TOLERANCE_HU: Final = 35.0


@dataclass(frozen=True, kw_only=True)
class Score:
    """One structure of one slice.

    Parameters
    ----------
    case, structure : str
        Which.
    group : str
        ``unseen``, ``seen`` or ``phantom``.
    click_1, click_3, click_5 : float
        Dice after that many simulated clicks.
    box : float
        Dice with the bounding box and a centre click.
    button : float, optional
        Dice of one click without points; None where there is none for the structure.
    button_error : str, optional
        Why there was no mask.
    region_growing : float
        Dice of flood filling from the first click, for comparison.
    """

    case: str
    structure: str
    group: str
    click_1: float
    click_3: float
    click_5: float
    box: float
    button: float | None
    button_error: str | None
    region_growing: float


def score_slice(
    ct: CTSlice, masks: dict[str, Mask], segmenter: LocalSegmenter, *, case: str, group: str
) -> list[Score]:
    """Score every scored structure of a slice."""
    names = SAGITTAL_SCORED if ct.plane == "sagittal" else AXIAL_SCORED
    scores = []
    frame = frame_slice(ct)
    for name in names:
        truth = masks.get(name)
        if truth is None or not truth.any():
            continue

        def answer(prompt: Prompt) -> Mask:
            found = segmenter.predict(frame.image, frame.prompt_to_frame(prompt))
            return frame.mask_to_slice(found.mask)

        after, first = _click_session(truth, answer)
        button, error = _press_button(ct, name, truth, segmenter)
        box = mask_to_box_xyxy(truth)
        with_box = Prompt(points_xy=np.array([first]), box_xyxy=box)
        scores.append(
            Score(
                case=case,
                structure=name,
                group=group,
                click_1=after[1],
                click_3=after[3],
                click_5=after[5],
                box=dice(answer(with_box), truth),
                button=button,
                button_error=error,
                region_growing=dice(_grow_region(ct, first), truth),
            )
        )
    return scores


def score_cases(
    folder: Path, segmenter: LocalSegmenter, *, unseen: Sequence[str], skip: Iterable[tuple[str, str]] = ()
) -> list[Score]:
    """Score every ``*.npz`` case of a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Slices with reference masks.
    segmenter : LocalSegmenter
        The model.
    unseen : sequence of str
        Words in names of cases that no training saw.
    skip : iterable of (str, str)
        (word in the case's name, structure) whose reference is not good enough to score.
    """
    scores = []
    for path in sorted(folder.glob("*.npz")):
        case = read_case_npz(path)
        masks = {
            name: mask
            for name, mask in case.masks.items()
            if not any(word in path.stem and structure == name for word, structure in skip)
        }
        group = "unseen" if any(word in path.stem for word in unseen) else "seen"
        scores += score_slice(case.slice, masks, segmenter, case=path.stem, group=group)
    return scores


def score_phantoms(count: int, seed: int, segmenter: LocalSegmenter) -> list[Score]:
    """Score freshly drawn phantoms, ``count`` axial and ``count`` sagittal ones."""
    scores = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        parameters = random_parameters(rng)
        for phantom in (
            make_axial_slice(parameters, level="L3", rng=rng),
            make_sagittal_slice(parameters, rng=rng),
        ):
            ct = CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm, plane=phantom.plane)
            masks = {
                name: mask
                for name, mask in phantom.masks.items()
                if phantom.plane == "axial" or name in LEVEL_NAMES
            }
            case = f"phantom-{seed}-{number}-{phantom.plane}"
            scores += score_slice(ct, masks, segmenter, case=case, group="phantom")
    return scores


def summarise_scores(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Median Dice per group and structure (left and right psoas together, vertebral bodies together)."""
    grouped: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        name = "psoas" if score.structure.startswith("psoas") else score.structure
        name = "vertebral body (sagittal)" if name in SAGITTAL_SCORED else name
        grouped.setdefault((score.group, name), []).append(score)
    rows = []
    for (group, name), members in sorted(grouped.items()):
        row: dict[str, Any] = {"group": group, "structure": name, "n": len(members)}
        for field in ("click_1", "click_3", "click_5", "box", "region_growing"):
            row[field] = round(float(np.median([getattr(m, field) for m in members])), 3)
        buttons = [m.button for m in members if m.button is not None]
        row["button"] = round(float(np.median(buttons)), 3) if buttons else None
        row["button_failed"] = sum(m.button_error is not None for m in members)
        rows.append(row)
    return rows


def describe_scores(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Every score as a plain mapping, for JSON."""
    return [asdict(score) for score in scores]


def _click_session(truth: Mask, answer: Any) -> tuple[dict[int, float], tuple[int, int]]:
    current = np.zeros_like(truth)
    points: list[tuple[int, int]] = []
    labels: list[int] = []
    after: dict[int, float] = {}
    for count in range(1, max(CLICK_COUNTS) + 1):
        click = click_centre_of_largest_error(current, truth)
        if click is not None:
            points.append(click[0])
            labels.append(click[1])
            current = answer(Prompt(points_xy=np.array(points), labels=np.array(labels)))
        after[count] = dice(current, truth)
    return after, points[0]


def _press_button(
    ct: CTSlice, name: str, truth: Mask, segmenter: LocalSegmenter
) -> tuple[float | None, str | None]:
    if name not in BUTTON:
        return None, None
    try:
        result = segment_structure(ct, name, segmenter)  # type: ignore[arg-type]
    except CtaiError as error:
        return 0.0, error.problem
    return dice(result.mask, truth), None


def _grow_region(ct: CTSlice, seed_xy: tuple[int, int]) -> Mask:
    hu = ct.hu.astype(np.float32)
    x, y = seed_xy
    around = hu[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
    smooth = np.where(np.abs(hu - around.mean()) <= FLOOD_TOLERANCE_HU, 1, 0).astype(np.uint8)
    smooth[y, x] = 1
    grown: Mask = flood(smooth, (y, x), connectivity=1)  # type: ignore[no-untyped-call]
    return keep_largest(grown)
