from __future__ import annotations

import numpy as np
import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.evaluation import fit_calibration, tabulate_reliability


def predictions(count: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Draw a model that is right in 2 p - 1 of the cases in which it says p: too sure of itself."""
    rng = np.random.default_rng(1)
    confidences = rng.uniform(0.55, 0.99, count)
    return confidences, np.where(rng.uniform(size=count) < 2 * confidences - 1, 0.9, 0.6)


def test_a_fitted_calibration_makes_confidence_mean_what_it_says() -> None:
    confidences, dices = predictions()
    before = tabulate_reliability(confidences, dices)
    after = tabulate_reliability(fit_calibration(confidences, dices).apply(confidences), dices)
    assert max(abs(one.right - one.confidence) for one in before) > 0.15
    assert max(abs(one.right - one.confidence) for one in after if one.n > 200) < 0.08


def test_bins_hold_every_prediction_once() -> None:
    bins = tabulate_reliability([0.0, 0.3, 0.5, 0.9, 1.0], [0.9, 0.9, 0.1, 0.9, 0.85])
    assert sum(one.n for one in bins) == 5
    assert bins[-1].n == 2
    assert bins[-1].right == 1.0


def test_weights_decide_whom_to_believe() -> None:
    confidences = np.full(200, 0.7)
    dices = np.repeat([0.9, 0.5], 100)
    weights = np.repeat([9.0, 1.0], 100)
    assert fit_calibration(confidences, dices, weights=weights).apply(0.7) == pytest.approx(0.9, abs=0.05)


def test_too_few_predictions_are_refused() -> None:
    with pytest.raises(InputError, match="too few"):
        fit_calibration([0.5] * 20, [0.9] * 20)
    with pytest.raises(InputError, match="pair"):
        fit_calibration([0.5] * 20, [0.9] * 19)
