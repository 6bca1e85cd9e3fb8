"""Overlap and distance of masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.measure import overlap as ag

EMPTY = np.zeros((9, 9), bool)
pairs = st.tuples(arrays(np.bool_, (7, 8)), arrays(np.bool_, (7, 8)))
spacings = st.tuples(st.floats(0.3, 6), st.floats(0.3, 6))


def square(top: int, left: int, side: int, shape: tuple[int, int] = (40, 40)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def disc(radius: float, centre_x: float = 50) -> np.ndarray:
    rows, columns = np.mgrid[:101, :101]
    return np.hypot(rows - 50, columns - centre_x) <= radius


def brute_distances(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float]) -> tuple[Any, Any]:
    def outline(mask: np.ndarray) -> np.ndarray:
        p = np.pad(mask, 1)
        inner = p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
        return np.argwhere(mask & ~inner) * np.array(spacing)

    table = np.linalg.norm(outline(a)[:, None] - outline(b)[None], axis=-1)
    return table.min(axis=1), table.min(axis=0)


def test_overlap_of_shifted_squares_is_the_analytic_one() -> None:
    a, b = square(5, 5, 10), square(5, 9, 10)
    assert ag.dice(a, b) == pytest.approx(0.6)
    assert ag.jaccard(a, b) == pytest.approx(60 / 140)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_overlap_is_symmetric_bounded_and_consistent(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    d, j = ag.dice(a, b), ag.jaccard(a, b)
    assert 0 <= j <= d <= 1
    assert d == ag.dice(b, a)
    assert d == pytest.approx(2 * j / (1 + j))
    assert ag.dice(a, a) == ag.jaccard(a, a) == 1


def test_empty_masks() -> None:
    full = ~EMPTY
    assert ag.dice(EMPTY, EMPTY) == ag.jaccard(EMPTY, EMPTY) == 1
    assert ag.hausdorff_mm(EMPTY, EMPTY, (1, 1)) == 0
    for a, b in ((EMPTY, full), (full, EMPTY)):
        assert ag.dice(a, b) == ag.jaccard(a, b) == 0
        assert ag.hausdorff_mm(a, b, (1, 1)) == math.inf


@pytest.mark.parametrize(("spacing", "expected"), [((1.0, 1.0), 4.0), ((1.0, 0.5), 2.0), ((3.0, 2.0), 8.0)])
def test_a_shift_along_columns_counts_column_spacing(spacing: tuple[float, float], expected: float) -> None:
    a, b = square(5, 5, 10), square(5, 9, 10)
    assert ag.hausdorff_mm(a, b, spacing, percentile=100) == pytest.approx(expected)


def test_distance_of_concentric_discs_is_the_difference_of_radii() -> None:
    a, b = disc(40), disc(30)
    assert ag.hausdorff_mm(a, b, (0.5, 0.5)) == pytest.approx(5.0, abs=0.5)
    assert ag.hausdorff_mm(a, a, (0.5, 0.5)) == 0


def test_the_95th_percentile_forgives_a_speck_the_maximum_does_not() -> None:
    a = square(5, 5, 20)
    b = a.copy()
    b[35, 35] = True
    assert ag.hausdorff_mm(a, b, (1, 1)) == 0
    assert ag.hausdorff_mm(a, b, (1, 1), percentile=100) == pytest.approx(math.hypot(11, 11))


def test_the_larger_direction_counts() -> None:
    small, large = square(18, 18, 2), square(2, 2, 36)
    there, back = brute_distances(small, large, (1, 1))
    assert np.percentile(there, 95) < np.percentile(back, 95)
    expected = np.percentile(back, 95)
    assert ag.hausdorff_mm(small, large, (1, 1)) == ag.hausdorff_mm(large, small, (1, 1)) == expected


@settings(max_examples=60, deadline=None)
@given(pairs, spacings)
def test_distances_equal_brute_force(
    pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float]
) -> None:
    a, b = pair
    if not (a.any() and b.any()):
        return
    there, back = brute_distances(a, b, spacing)
    assert ag.hausdorff_mm(a, b, spacing, percentile=100) == pytest.approx(max(there.max(), back.max()))


@pytest.mark.parametrize("function", [ag.dice, ag.jaccard])
def test_overlap_refuses_what_cannot_be_compared(function: Any) -> None:
    with pytest.raises(InputError):
        function(EMPTY, np.zeros((9, 8), bool))
    with pytest.raises(InputError, match="second"):
        function(EMPTY, np.full((9, 9), 0.5))


def test_distances_refuse_bad_spacing_and_percentiles() -> None:
    with pytest.raises(GeometryError):
        ag.hausdorff_mm(EMPTY, EMPTY, (0, 1))
    with pytest.raises(GeometryError):
        ag.hausdorff_mm(~EMPTY, ~EMPTY, (1, 1, 1))
    for percentile in (-1, 101, math.nan):
        with pytest.raises(InputError):
            ag.hausdorff_mm(~EMPTY, ~EMPTY, (1, 1), percentile=percentile)
