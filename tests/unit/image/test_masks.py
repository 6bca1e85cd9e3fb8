"""Masks: components, holes, growth, boxes, run lengths, area."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.image import masks as m

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))
spacings = st.tuples(st.floats(0.2, 8), st.floats(0.2, 8))


def drawn(*rows: str) -> np.ndarray:
    return np.array([[char == "#" for char in row] for row in rows])


@pytest.mark.parametrize(
    ("given_mask", "expected"),
    [
        (np.array([[True, False]]), [[1, 0]]),
        (np.array([[1, 0]]), [[1, 0]]),
        (np.array([[255, 0]], np.uint8), [[1, 0]]),
        ([[0, 0]], [[0, 0]]),
        (np.array([[1, 1]], np.int64), [[1, 1]]),
    ],
)
def test_as_mask_accepts_bool_and_two_valued_integers(given_mask: Any, expected: list[list[int]]) -> None:
    result = m.as_mask(given_mask)
    assert result.dtype == np.bool_
    assert result.astype(int).tolist() == expected


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 0), bool),
        np.zeros((3, 0), bool),
        np.zeros((2, 2, 2), bool),
        np.zeros(4, bool),
        np.array([[0, 2]]),
        np.array([[0, 1, 255]]),
        np.array([[-1, 0]]),
        np.array([[-1, 1]]),
        np.array([[0.0, 1.0]]),
        np.array([["a"]]),
        None,
    ],
)
def test_as_mask_refuses_everything_else(bad: Any) -> None:
    with pytest.raises(InputError):
        m.as_mask(bad)


@pytest.mark.parametrize(
    "bad", [(1.0,), (1, 2, 3), (0, 1), (1, -1), (math.nan, 1), (math.inf, 1), 1.0, None, ("a", "b")]
)
def test_spacing_must_be_two_positive_numbers(bad: Any) -> None:
    with pytest.raises(GeometryError):
        m.as_spacing_mm(bad)


def test_components_are_numbered_in_reading_order() -> None:
    labels, count = m.label_components(drawn("..#", "#..", "#.#"), diagonal=False)
    assert count == 3
    assert labels.tolist() == [[0, 0, 1], [2, 0, 0], [2, 0, 3]]
    assert m.label_components(np.zeros((2, 2), bool))[1] == 0


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, drawn("##....", "......", "......")),
        (2, drawn("##.##.", "......", "......")),
        (9, drawn("##.##.", "......", "#.....")),
    ],
)
def test_keep_largest_prefers_the_first_of_equals(n: int, expected: np.ndarray) -> None:
    mask = drawn("##.##.", "......", "#.....")
    np.testing.assert_array_equal(m.keep_largest(mask, n), expected)


def test_keep_largest_of_nothing_is_nothing_and_n_must_be_positive() -> None:
    assert not m.keep_largest(np.zeros((3, 3), bool)).any()
    with pytest.raises(InputError):
        m.keep_largest(np.ones((3, 3), bool), 0)


def test_islands_below_the_limit_go() -> None:
    mask = drawn("##..#", "....#", "#...#")
    np.testing.assert_array_equal(m.remove_islands(mask, 3), drawn("....#", "....#", "....#"))
    np.testing.assert_array_equal(m.remove_islands(mask, 0), mask)
    assert not m.remove_islands(np.zeros((2, 2), bool), 0).any()


def test_holes_are_filled_up_to_a_size_and_bays_are_left() -> None:
    mask = drawn("######.", "#.#..#.", "######.", "#..#...", "#..#...")
    np.testing.assert_array_equal(
        m.fill_holes(mask), drawn("######.", "######.", "######.", "#..#...", "#..#...")
    )
    np.testing.assert_array_equal(
        m.fill_holes(mask, 1), drawn("######.", "###..#.", "######.", "#..#...", "#..#...")
    )
    assert m.fill_holes(np.ones((2, 2), bool)).all()
    assert not m.fill_holes(np.zeros((3, 3), bool)).any()


@settings(max_examples=60, deadline=None)
@given(masks)
def test_filling_holes_twice_is_filling_once(mask: np.ndarray) -> None:
    once = m.fill_holes(mask)
    assert (once >= mask).all()
    np.testing.assert_array_equal(m.fill_holes(once), once)


def test_growing_a_point_gives_an_ellipse_in_pixels() -> None:
    point = np.zeros((41, 41), bool)
    point[20, 20] = True
    grown = m.grow(point, 6.0, (2.0, 0.5))
    rows, columns = np.mgrid[:41, :41]
    np.testing.assert_array_equal(grown, np.hypot((rows - 20) * 2.0, (columns - 20) * 0.5) <= 6.0)
    assert m.mask_to_box_xyxy(grown) == (8, 17, 32, 23)


def test_shrinking_is_exact_and_stops_at_the_image_edge() -> None:
    square = np.zeros((12, 12), bool)
    square[2:10, 2:10] = True
    inner = np.zeros_like(square)
    inner[4:8, 4:8] = True
    np.testing.assert_array_equal(m.shrink(square, 1.0, (0.5, 0.5)), inner)
    assert m.shrink(np.ones((3, 3), bool), 100, (1, 1)).all()


@settings(max_examples=60, deadline=None)
@given(masks, spacings, st.floats(0, 5))
def test_shrink_and_grow_are_counterparts(
    mask: np.ndarray, spacing: tuple[float, float], distance: float
) -> None:
    grown, shrunk = m.grow(mask, distance, spacing), m.shrink(mask, distance, spacing)
    assert (grown >= mask).all()
    assert (shrunk <= mask).all()
    np.testing.assert_array_equal(m.shrink(~mask, distance, spacing), ~grown)
    np.testing.assert_array_equal(m.grow(mask, 0, spacing), mask)


@pytest.mark.parametrize("operation", [m.grow, m.shrink, m.smooth])
@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_distances_must_be_finite_and_not_negative(operation: Any, bad: float) -> None:
    with pytest.raises(InputError):
        operation(np.ones((3, 3), bool), bad, (1, 1))


def test_smoothing_removes_spurs_and_keeps_straight_edges() -> None:
    mask = np.zeros((30, 30), bool)
    mask[:, :15] = True
    with_spur = mask.copy()
    with_spur[10, 15:20] = True
    np.testing.assert_array_equal(m.smooth(mask, 2.0, (1, 1)), mask)
    smoothed = m.smooth(with_spur, 2.0, (1, 1))
    np.testing.assert_array_equal(smoothed[:, :15], mask[:, :15])
    assert not smoothed[:, 16:].any(), "the spur's base may stay, the spur may not"
    np.testing.assert_array_equal(m.smooth(with_spur, 0, (1, 1)), with_spur)
    assert not m.smooth(np.zeros((4, 4), bool), 2, (1, 1)).any()
    assert m.smooth(np.ones((4, 4), bool), 2, (1, 1)).all()


def test_hu_limits_include_both_ends_and_no_nan() -> None:
    hu = np.array([[-29.5, -29, 0, 150, 150.5, np.nan]])
    kept = m.limit_to_hu(np.ones((1, 6), bool), hu, -29, 150)
    assert kept.tolist() == [[False, True, True, True, False, False]]
    with pytest.raises(InputError):
        m.limit_to_hu(np.ones((2, 2), bool), hu, -29, 150)
    with pytest.raises(InputError):
        m.limit_to_hu(np.ones((1, 6), bool), hu, 150, -29)
    with pytest.raises(InputError):
        m.limit_to_hu(np.ones((1, 6), bool), hu, math.nan, 1)


def test_area_is_row_spacing_times_column_spacing() -> None:
    mask = drawn("##.", "#..")
    assert m.area_mm2(mask, (5.0, 0.8)) == pytest.approx(3 * 4.0)
    assert m.area_mm2(mask, (0.8, 5.0)) == pytest.approx(3 * 4.0)
    assert m.area_mm2(np.zeros((2, 2), bool), (1, 1)) == 0


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(0, 3))
def test_the_box_holds_the_mask_tightly(mask: np.ndarray, pad: int) -> None:
    box = m.mask_to_box_xyxy(mask, pad_px=pad)
    if not mask.any():
        assert box is None
        return
    assert box is not None
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    assert box == (
        max(columns.min() - pad, 0),
        max(rows.min() - pad, 0),
        min(columns.max() + pad, width - 1),
        min(rows.max() + pad, height - 1),
    )


def test_a_box_cannot_be_padded_inwards() -> None:
    with pytest.raises(InputError):
        m.mask_to_box_xyxy(np.ones((2, 2), bool), pad_px=-1)


def test_changed_box_covers_what_differs() -> None:
    before, after = np.zeros((5, 6), bool), np.zeros((5, 6), bool)
    assert m.changed_box(before, after) is None
    before[1, 2] = after[3, 4] = True
    assert m.changed_box(before, after) == (2, 1, 4, 3)
    with pytest.raises(InputError):
        m.changed_box(before, np.zeros((5, 5), bool))


@settings(max_examples=100, deadline=None)
@given(masks)
def test_run_lengths_come_back(mask: np.ndarray) -> None:
    rle = m.mask_to_rle(mask)
    assert sum(rle["counts"]) == mask.size
    assert all(count > 0 for count in rle["counts"][1:])
    assert all(type(count) is int for count in rle["counts"])
    np.testing.assert_array_equal(m.rle_to_mask(rle), mask)


def test_run_lengths_go_down_the_columns() -> None:
    assert m.mask_to_rle(drawn("#..", "#.#")) == {"size": [2, 3], "counts": [0, 2, 3, 1]}
    assert m.mask_to_rle(np.zeros((2, 2), bool))["counts"] == [4]
    assert m.mask_to_rle(np.ones((2, 2), bool))["counts"] == [0, 4]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        None,
        {"size": [2, 2]},
        {"size": [2, 2], "counts": [3]},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [2, 2], "counts": [1.5, 2.5]},
        {"size": [2, 2], "counts": "04"},
        {"size": [4], "counts": [4]},
        {"size": 4, "counts": [4]},
        {"size": [0, 2], "counts": [0]},
        {"size": [2, 2], "counts": 4},
    ],
)
def test_damaged_run_lengths_are_refused(bad: Any) -> None:
    with pytest.raises(InputError):
        m.rle_to_mask(bad)


def test_no_argument_is_changed() -> None:
    mask = drawn("##.#", "#..#", "####")
    mask.setflags(write=False)
    hu = np.zeros((3, 4))
    for result in (
        m.keep_largest(mask),
        m.remove_islands(mask, 2),
        m.fill_holes(mask),
        m.grow(mask, 1, (1, 1)),
        m.shrink(mask, 1, (1, 1)),
        m.smooth(mask, 0, (1, 1)),
        m.limit_to_hu(mask, hu, -1, 1),
    ):
        assert result.flags.writeable
        assert not np.shares_memory(result, mask)
