"""Reliability of a model's confidence: fitted, tabulated and drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from ctai_sam2.errors import InputError
from ctai_sam2.evaluation.scores import Score
from ctai_sam2.models.calibration import GOOD_DICE, Calibration

_BIN_EDGES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)
_FEWEST_OF_A_KIND = 5
_DPI = 110


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Predictions of about the same confidence.

    Parameters
    ----------
    low, high : float
        Range of the confidence; the upper end belongs to the next bin, except 1.
    n : int
        Predictions.
    confidence : float
        Their mean confidence.
    right : float
        Share of them whose Dice reached `GOOD_DICE`.
    """

    low: float
    high: float
    n: int
    confidence: float
    right: float


def fit_calibration(
    predicted_iou: ArrayLike, dices: ArrayLike, *, weights: ArrayLike | None = None
) -> Calibration:
    """Fit the curve that turns predicted IoU into the probability of a Dice of at least 0.85.

    Parameters
    ----------
    predicted_iou, dices : array_like, shape (N,)
        The model's confidence in each prediction, and the Dice that it reached.
    weights : array_like, shape (N,), optional
        Weight of each prediction.

    Raises
    ------
    InputError
        If there are too few good or too few bad predictions to tell, or the numbers do not pair.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> expected = rng.uniform(0.3, 1, 4000)
    >>> reached = np.where(rng.uniform(size=4000) < expected, 0.9, 0.5)
    >>> curve = fit_calibration(expected, reached)
    >>> bool(abs(curve.apply(0.8) - 0.8) < 0.05)
    True
    """
    expected = np.asarray(predicted_iou, dtype=np.float64)
    right = np.asarray(dices, dtype=np.float64) >= GOOD_DICE
    counted = np.ones(len(expected)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (expected.shape == right.shape == counted.shape) or expected.ndim != 1:
        raise InputError("predicted IoU, Dice and weights must pair", received=f"{expected.shape}")
    if min(int(right.sum()), int((~right).sum())) < _FEWEST_OF_A_KIND:
        raise InputError(
            "too few good or too few bad predictions to calibrate with",
            received=f"{int(right.sum())} of {right.size} are good",
            hint=f"At least {_FEWEST_OF_A_KIND} of each are needed.",
        )
    counted = counted / counted.sum()

    def cost(parameters: np.ndarray) -> float:
        calibration = Calibration(gain=float(np.exp(parameters[0])), bias=float(parameters[1]))
        stated = np.clip(calibration.apply(expected), 1e-9, 1 - 1e-9)
        loss = float(-(counted * np.where(right, np.log(stated), np.log(1 - stated))).sum())
        # A weak pull to the model's own scale, so that few predictions give no cliff.
        return loss + 0.003 * float(parameters[0] ** 2 + 0.1 * parameters[1] ** 2)

    found = optimize.minimize(cost, np.zeros(2), method="Nelder-Mead")
    return Calibration(gain=float(np.exp(found.x[0])), bias=float(found.x[1]))


def tabulate_reliability(confidence: ArrayLike, dices: ArrayLike) -> list[ReliabilityBin]:
    """Return the share of good predictions by range of confidence; empty ranges are left out."""
    confidences = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(dices, dtype=np.float64) >= GOOD_DICE
    if confidences.shape != right.shape:
        raise InputError("confidence and Dice must pair", received=f"{confidences.shape} and {right.shape}")
    bins = []
    for low, high in pairwise(_BIN_EDGES):
        inside = (confidences >= low) & ((confidences < high) | (high == _BIN_EDGES[-1]))
        if inside.any():
            bins.append(
                ReliabilityBin(
                    low=low,
                    high=high,
                    n=int(inside.sum()),
                    confidence=float(confidences[inside].mean()),
                    right=float(right[inside].mean()),
                )
            )
    return bins


def pair_scores(scores: Sequence[Score]) -> tuple[np.ndarray, np.ndarray]:
    """Return confidence and Dice, both of shape (N,), of a model's predictions that had a confidence."""
    found = [
        (score.confidence, score.dice)
        for score in scores
        if score.method == "model" and score.confidence is not None and score.error is None
    ]
    pairs = np.array(found, dtype=np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def draw_reliability(groups: dict[str, Sequence[Score]]) -> bytes:
    """Draw a reliability diagram as a PNG: share of good predictions by confidence, a line per group."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    for (name, scores), colour in zip(groups.items(), ("#0072B2", "#E69F00", "#009E73"), strict=False):
        bins = tabulate_reliability(*pair_scores(scores))
        if not bins:
            continue
        axes.plot(
            [one.confidence for one in bins], [one.right for one in bins], "o-", color=colour, label=name
        )
        for one in bins:
            axes.annotate(
                str(one.n),
                (one.confidence, one.right),
                xytext=(4, -11),
                textcoords="offset points",
                fontsize=7,
            )
    axes.set(
        xlim=(0, 1), ylim=(0, 1.03), xlabel="confidence", ylabel=f"share with Dice of {GOOD_DICE} or more"
    )
    axes.set_aspect("equal")
    axes.legend(loc="upper left", frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()
