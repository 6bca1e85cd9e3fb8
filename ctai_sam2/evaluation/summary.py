"""Medians of scores by group, structure, method and prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Final, get_args

import numpy as np

from ctai_sam2.evaluation.scores import GROUPS, MAX_CLICKS, METHODS, PROMPTS, BrokenDownBy, Score

TARGETS: Final[Mapping[tuple[str, str], float]] = MappingProxyType(
    {
        ("psoas", "click_1"): 0.88,
        ("psoas", "click_3"): 0.92,
        ("psoas", "button"): 0.92,
        ("muscle", "button"): 0.95,
        ("sat", "button"): 0.97,
        ("vat", "button"): 0.94,
        ("vertebral body (sagittal)", "click_1"): 0.88,
    }
)
"""Median Dice this project wants of its model on patients it never saw, by structure and prompt."""

_POOLS: Final = (
    "psoas",
    "muscle",
    "vertebral body (axial)",
    "vertebral body (sagittal)",
    "sat",
    "vat",
    "imat",
)


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """Scores of one method and prompt on one kind of structure.

    Parameters
    ----------
    group, structure, method, prompt : str
        Left and right psoas together, and so are the vertebral bodies of a sagittal slice.
    n : int
        Predictions.
    dice, dice_q25, dice_q75, dice_min : float
        Median, quartiles and smallest Dice.
    failure_rate : float
        Share of predictions with Dice below 0.5 or an error, 0 to 1.
    errors : int
        Predictions that failed with an error.
    hd95_mm : float or None
        Median; an empty prediction counts as infinitely far, and an infinite median is None.
    area_error_pct, hu_error : float or None
        Median of the errors without their sign.
    area_bias_pct : float
        Median of the area error with its sign.
    area_low_pct, area_high_pct : float or None
        Limits of agreement of the area error: mean -/+ 1.96 standard deviations; None for a single one.
    sure : int
        Numbers stated at a confidence of `SURE` or more.
    sure_good : float or None
        Share of those with a Dice of 0.85 and an area within 10 %.
    confidence : float or None
        Median.
    noc_85, noc_90 : float or None
        Median number of clicks; 11 where it is more than 10.
    noc_85_over, noc_90_over : float or None
        Share of sessions that did not reach the Dice within 10 clicks.
    time_ms, embed_ms : float or None
        Medians.
    target_dice : float or None
        Median Dice this project wants there; see `TARGETS`.
    """

    group: str
    structure: str
    method: str
    prompt: str
    n: int
    dice: float
    dice_q25: float
    dice_q75: float
    dice_min: float
    failure_rate: float
    errors: int
    hd95_mm: float | None
    area_error_pct: float | None
    area_bias_pct: float | None
    area_low_pct: float | None
    area_high_pct: float | None
    sure: int
    sure_good: float | None
    hu_error: float | None
    confidence: float | None
    noc_85: float | None
    noc_85_over: float | None
    noc_90: float | None
    noc_90_over: float | None
    time_ms: float | None
    embed_ms: float | None
    target_dice: float | None

    def to_row(self) -> dict[str, Any]:
        """Return one row of a table, by `SUMMARY_COLUMNS`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BreakdownRow:
    """How the model does without points, on one part of the cases.

    Parameters
    ----------
    by, part : str
        One of `BROKEN_DOWN_BY`, and which: ``level`` and ``L3``.
    group, structure : str
        As in `SummaryRow`.
    n : int
        Predictions.
    dice, dice_min : float
        Median and smallest.
    area_bias_pct : float
        Median of the area error with its sign.
    area_low_pct, area_high_pct : float or None
        Limits of agreement, as in `SummaryRow`.
    """

    by: str
    part: str
    group: str
    structure: str
    n: int
    dice: float
    dice_min: float
    area_bias_pct: float
    area_low_pct: float | None
    area_high_pct: float | None

    def to_row(self) -> dict[str, Any]:
        """Return one row of a table, by `BREAKDOWN_COLUMNS`."""
        return asdict(self)


BROKEN_DOWN_BY: Final[tuple[BrokenDownBy, ...]] = get_args(BrokenDownBy)
"""What scores are broken down by."""

BREAKDOWN_COLUMNS: Final = tuple(field.name for field in fields(BreakdownRow))

SURE: Final = 0.9
"""A confidence from which on a number is taken as it is."""

SUMMARY_COLUMNS: Final = tuple(field.name for field in fields(SummaryRow))


def summarise(scores: Iterable[Score]) -> list[SummaryRow]:
    """Summarise scores by group, structure, method and prompt, in this order.

    Both psoas, and all vertebral bodies of sagittal slices, count as one structure.
    """
    sorted_in: dict[tuple[str, str, str, str], list[Score]] = {}
    for score in scores:
        sorted_in.setdefault((score.group, score.pool, score.method, score.prompt), []).append(score)
    return [_summarise_one(key, sorted_in[key]) for key in sorted(sorted_in, key=_order)]


def _order(key: tuple[str, str, str, str]) -> tuple[int, int, str, int, int]:
    group, structure, method, prompt = key
    place = _POOLS.index(structure) if structure in _POOLS else len(_POOLS)
    return (
        [*GROUPS].index(group),  # type: ignore[arg-type]
        place,
        structure,
        [*METHODS].index(method),  # type: ignore[arg-type]
        [*PROMPTS].index(prompt),  # type: ignore[arg-type]
    )


def _summarise_one(key: tuple[str, str, str, str], scores: list[Score]) -> SummaryRow:
    group, structure, method, prompt = key
    dices = np.array([score.dice for score in scores])
    wanted = TARGETS.get((structure, prompt)) if group == "unseen" and method == "model" else None
    # Where nothing came back, the outline is nowhere: leaving it out would flatter.
    distance = float(np.median([np.inf if s.hd95_mm is None else s.hd95_mm for s in scores]))
    limits = _limits_of_agreement([score.area_error_pct for score in scores if score.error is None])
    sure = [score for score in scores if score.confidence is not None and score.confidence >= SURE]
    return SummaryRow(
        group=group,
        structure=structure,
        method=method,
        prompt=prompt,
        n=len(scores),
        dice=_rounded(np.median(dices)),
        dice_q25=_rounded(np.quantile(dices, 0.25)),
        dice_q75=_rounded(np.quantile(dices, 0.75)),
        dice_min=_rounded(dices.min()),
        failure_rate=_rounded(np.mean([score.failed for score in scores])),
        errors=sum(score.error is not None for score in scores),
        hd95_mm=round(distance, 2) if np.isfinite(distance) else None,
        area_error_pct=_median(scores, lambda score: abs(score.area_error_pct)),
        area_bias_pct=_median(scores, lambda score: score.area_error_pct),
        area_low_pct=limits[0],
        area_high_pct=limits[1],
        sure=len(sure),
        sure_good=_rounded(np.mean([score.is_good_number for score in sure])) if sure else None,
        hu_error=_median(scores, lambda score: None if score.hu_error is None else abs(score.hu_error)),
        confidence=_median(scores, lambda score: score.confidence),
        noc_85=_median(scores, lambda score: score.noc_85),
        noc_85_over=_share_over(score.noc_85 for score in scores),
        noc_90=_median(scores, lambda score: score.noc_90),
        noc_90_over=_share_over(score.noc_90 for score in scores),
        time_ms=_median(scores, lambda score: score.time_ms),
        embed_ms=_median(scores, lambda score: score.embed_ms),
        target_dice=wanted,
    )


def break_down(scores: Iterable[Score]) -> list[BreakdownRow]:
    """Summarise how the model does without points by everything in `BROKEN_DOWN_BY`.

    Parameters
    ----------
    scores : iterable of Score
        Any; only those of the model's button count, and only where the case says what part it belongs to.
    """
    parts: dict[tuple[int, str, str, str], list[Score]] = {}
    for score in scores:
        if score.method == "model" and score.prompt == "button":
            for place, by in enumerate(BROKEN_DOWN_BY):
                if part := score.part(by):
                    parts.setdefault((place, score.group, score.pool, part), []).append(score)
    rows = []
    for (place, group, structure, part), found in sorted(parts.items(), key=lambda item: item[0]):
        low, high = _limits_of_agreement([score.area_error_pct for score in found if score.error is None])
        rows.append(
            BreakdownRow(
                by=BROKEN_DOWN_BY[place],
                part=part,
                group=group,
                structure=structure,
                n=len(found),
                dice=_rounded(np.median([score.dice for score in found])),
                dice_min=_rounded(min(score.dice for score in found)),
                area_bias_pct=_rounded(np.median([score.area_error_pct for score in found])),
                area_low_pct=low,
                area_high_pct=high,
            )
        )
    return rows


def _limits_of_agreement(errors: list[float]) -> tuple[float | None, float | None]:
    """Mean -/+ 1.96 standard deviations (Bland and Altman, 1986)."""
    if len(errors) < 2:
        return None, None
    mean, spread = float(np.mean(errors)), 1.96 * float(np.std(errors, ddof=1))
    return _rounded(mean - spread), _rounded(mean + spread)


def _median(scores: list[Score], value_of: Callable[[Score], float | None]) -> float | None:
    values = [value for value in map(value_of, scores) if value is not None]
    return _rounded(np.median(values)) if values else None


def _share_over(clicks: Iterable[int | None]) -> float | None:
    known = [count for count in clicks if count is not None]
    return _rounded(np.mean([count > MAX_CLICKS for count in known])) if known else None


def _rounded(value: Any) -> float:
    return round(float(value), 4)
