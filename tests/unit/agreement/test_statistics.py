"""Agreement of numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ctai_sam2.agreement import statistics as ag
from ctai_sam2.errors import InputError

SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
# Peak expiratory flow of 17 subjects by two meters, first readings (Bland and Altman 1986, table 1).
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def test_icc_of_shrout_and_fleiss() -> None:
    icc = ag.icc_2_1(SHROUT_FLEISS)
    assert (icc.n_subjects, icc.n_raters, icc.confidence) == (6, 4, 0.95)
    assert icc.value == pytest.approx(0.2898, abs=5e-5)
    # The interval R's psych::ICC prints for this table.
    assert (icc.low, icc.high) == (pytest.approx(0.019, abs=5e-4), pytest.approx(0.761, abs=5e-4))
    wider = ag.icc_2_1(SHROUT_FLEISS, confidence=0.99)
    assert wider.low < icc.low < icc.high < wider.high


def test_icc_of_perfect_absent_and_biased_agreement() -> None:
    truth = np.array([110.0, 140.0, 150.0, 180.0, 200.0])
    perfect = ag.icc_2_1(np.column_stack([truth, truth, truth]))
    assert (perfect.value, perfect.low, perfect.high) == (1, 1, 1)
    biased = ag.icc_2_1(np.column_stack([truth, truth + 20]))
    # By hand: between-subject variance 1230, between-rater variance 200, no residual.
    assert biased.value == pytest.approx(truth.var(ddof=1) / (truth.var(ddof=1) + 200))
    assert biased.low < biased.value < biased.high <= 1
    constant = ag.icc_2_1(np.full((4, 3), 7.1))
    assert math.isnan(constant.value)
    assert math.isnan(constant.low)
    opposed = ag.icc_2_1([[1, 2], [2, 1], [1, 2], [2, 1]])
    assert opposed.value < 0
    assert opposed.low <= opposed.value <= opposed.high


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (6, 3), elements=st.floats(1, 300)), st.floats(0.1, 10), st.floats(-50, 50))
def test_icc_knows_neither_unit_nor_origin(ratings: np.ndarray, scale: float, shift: float) -> None:
    if ratings.std(axis=0).max() < 1e-3:
        return
    before, after = ag.icc_2_1(ratings), ag.icc_2_1(ratings * scale + shift)
    assert after.value == pytest.approx(before.value, abs=1e-6)
    assert before.value <= 1
    # McGraw and Wong's interval is approximate; it holds the estimate wherever agreement is positive.
    if before.value > 0:
        assert before.low <= before.value + 1e-9
        assert before.value <= before.high + 1e-9
        assert after.low == pytest.approx(before.low, abs=1e-5)


def test_within_subject_cv_by_hand() -> None:
    # SD of (100, 110) is 7.0711, over 105 gives 0.067344; of (50, 50) 0: root mean square 0.047619.
    assert ag.within_subject_cv([[100, 110], [50, 50]]) == pytest.approx(4.7619, abs=1e-4)
    assert ag.within_subject_cv([[3, 3, 3]]) == 0
    assert ag.within_subject_cv([[10, 11], [50, 55]]) == pytest.approx(ag.within_subject_cv([[1.0, 1.1]]))


@pytest.mark.parametrize("bad", [[[1, 0]], [[1, -1]], [[1], [2]], [1, 2], [[1, math.nan]], [], [[1, 2], [3]]])
def test_within_subject_cv_refuses(bad: Any) -> None:
    with pytest.raises(InputError):
        ag.within_subject_cv(bad)


@pytest.mark.parametrize(
    "bad", [[[1, 2]], [[1], [2]], [1, 2, 3], [[1, 2], [3, math.inf]], [["a", "b"], ["c", "d"]], [[1, 2], [3]]]
)
def test_icc_refuses(bad: Any) -> None:
    with pytest.raises(InputError):
        ag.icc_2_1(bad)


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(InputError):
        ag.icc_2_1(SHROUT_FLEISS, confidence=confidence)
    with pytest.raises(InputError):
        ag.bland_altman(WRIGHT, MINI, confidence=confidence)


def test_bland_and_altmans_own_example() -> None:
    found = ag.bland_altman(WRIGHT, MINI)
    assert found.n == 17
    assert found.bias == pytest.approx(-2.1, abs=0.05)
    assert found.sd == pytest.approx(38.8, abs=0.05)
    # The paper: bias -22.0 to 17.8; limits (of 2 SD there) -79.7 and 75.5.
    assert found.bias_ci == (pytest.approx(-22.0, abs=0.1), pytest.approx(17.8, abs=0.1))
    assert (found.low, found.high) == (
        pytest.approx(-2.118 - 1.96 * 38.765, abs=0.01),
        pytest.approx(-2.118 + 1.96 * 38.765, abs=0.01),
    )
    half = (found.high_ci[1] - found.high_ci[0]) / 2
    assert half == pytest.approx(2.1199 * 38.765 * math.sqrt(1 / 17 + 1.96**2 / 32), rel=1e-3)
    assert found.low_ci[1] - found.low_ci[0] == pytest.approx(2 * half)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.bias = 0  # type: ignore[misc]


def test_bland_altman_of_a_constant_offset() -> None:
    found = ag.bland_altman([1.0, 2.0, 3.0], [3.0, 4.0, 5.0])
    assert (found.bias, found.sd, found.low, found.high, found.bias_ci) == (-2, 0, -2, -2, (-2, -2))


@pytest.mark.parametrize(
    ("first", "second"),
    [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 2, math.nan], [1, 2, 3]), ([[1, 2, 3]], [[1, 2, 3]])],
)
def test_bland_altman_refuses(first: Any, second: Any) -> None:
    with pytest.raises(InputError):
        ag.bland_altman(first, second)


def test_errors_of_measurement_by_hand() -> None:
    ratings = np.array([[10.0, 12.0], [20.0, 19.0], [30.0, 33.0]])
    found = ag.measurement_error(ratings)
    differences = ratings[:, 0] - ratings[:, 1]
    tem = np.sqrt((differences**2).sum() / 6)
    assert found.tem == pytest.approx(tem)
    assert found.tem_percent == pytest.approx(100 * tem / ratings.mean())
    # Half the variance of the differences, the readers' bias left out.
    assert found.sem == pytest.approx(differences.std(ddof=1) / np.sqrt(2))
    assert found.repeatability == pytest.approx(2.7718 * tem, rel=1e-4)
    assert ag.measurement_error(ratings, relative=False).tem_percent is None
