"""Masks to polygons and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ctai_sam2.errors import InputError
from ctai_sam2.image.contours import Polygon, mask_to_polygons, polygons_to_mask
from tests.independent import polygon_area_px, signed_area

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))


def drawn(*rows: str) -> np.ndarray:
    return np.array([[char == "#" for char in row] for row in rows])


def distance_to_outline(mask: np.ndarray) -> np.ndarray:
    """From each pixel centre to the nearest edge between inside and outside, by brute force."""
    padded = np.pad(mask, 1)
    segments = []
    for r, c in np.argwhere(mask):
        for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            if not padded[r + 1 + dr, c + 1 + dc]:
                middle = np.array([c + dc / 2, r + dr / 2])
                half = np.array([abs(dr) / 2, abs(dc) / 2])
                segments.append((middle - half, middle + half))
    rows, columns = np.indices(mask.shape)
    centres = np.stack([columns, rows], axis=-1).astype(float)
    best = np.full(mask.shape, np.inf)
    for a, b in segments:
        best = np.minimum(best, np.linalg.norm(centres - np.clip(centres, a, b), axis=-1))
    return best


@settings(max_examples=300, deadline=None)
@given(masks)
def test_a_mask_comes_back_exactly(mask: np.ndarray) -> None:
    polygons = mask_to_polygons(mask)
    np.testing.assert_array_equal(polygons_to_mask(polygons, mask.shape), mask)
    assert sum(polygon_area_px(polygon) for polygon in polygons) == mask.sum()
    for polygon in polygons:
        assert signed_area(polygon.exterior_xy) > 0
        assert all(signed_area(ring) < 0 for ring in polygon.holes_xy)


@pytest.mark.parametrize(
    ("mask", "polygons", "holes"),
    [
        (drawn("#"), 1, [0]),
        (drawn("..", ".."), 0, []),
        (drawn("##", "##"), 1, [0]),
        (drawn("#.", ".#"), 2, [0, 0]),
        (drawn(".#", "#."), 2, [0, 0]),
        (drawn("###", "#.#", "###"), 1, [1]),
        (drawn("####", "#.##", "##.#", "####"), 1, [1]),
        (drawn("#####", "#...#", "#.#.#", "#...#", "#####"), 2, [1, 0]),
        (drawn("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"), 2, [1, 1]),
        (drawn("###", "#.#", "##."), 1, [0]),
        (drawn("#####", "#.#.#", "#####"), 1, [2]),
    ],
)
def test_parts_holes_and_islands(mask: np.ndarray, polygons: int, holes: list[int]) -> None:
    found = mask_to_polygons(mask)
    assert len(found) == polygons
    assert [len(polygon.holes_xy) for polygon in found] == holes
    np.testing.assert_array_equal(polygons_to_mask(found, mask.shape), mask)


def test_outlines_run_between_pixels_clockwise_and_hold_corners_only() -> None:
    [polygon] = mask_to_polygons(drawn("....", ".##.", ".##."))
    assert polygon.exterior_xy.tolist() == [[0.5, 0.5], [2.5, 0.5], [2.5, 2.5], [0.5, 2.5]]


def test_a_large_ragged_mask_comes_back() -> None:
    rng = np.random.default_rng(3)
    mask = rng.random((257, 301)) < 0.55
    polygons = mask_to_polygons(mask)
    np.testing.assert_array_equal(polygons_to_mask(polygons, mask.shape), mask)


@settings(max_examples=100, deadline=None)
@given(masks, st.floats(0.05, 3.0))
def test_thinning_changes_no_pixel_beyond_the_tolerance(mask: np.ndarray, tolerance: float) -> None:
    exact, thinned = mask_to_polygons(mask), mask_to_polygons(mask, tolerance_px=tolerance)
    assert len(exact) == len(thinned)
    for before, after in zip(exact, thinned, strict=True):
        assert len(before.holes_xy) == len(after.holes_xy)
        kept = {tuple(corner) for corner in after.exterior_xy}
        assert kept <= {tuple(corner) for corner in before.exterior_xy}
    changed = polygons_to_mask(thinned, mask.shape) ^ mask
    assert (distance_to_outline(mask)[changed] <= tolerance + 1e-9).all()


def test_thinning_a_disc_saves_corners_and_keeps_area() -> None:
    rows, columns = np.mgrid[:101, :101]
    disc = np.hypot(rows - 50, columns - 50) <= 40
    [exact], [thinned] = mask_to_polygons(disc), mask_to_polygons(disc, tolerance_px=0.75)
    assert len(thinned.exterior_xy) < len(exact.exterior_xy) / 2
    assert polygon_area_px(thinned) == pytest.approx(disc.sum(), rel=0.01)


@pytest.mark.parametrize("mask", [drawn("#"), drawn("###", "#.#", "###")])
def test_a_ring_that_would_collapse_stays(mask: np.ndarray) -> None:
    found = mask_to_polygons(mask, tolerance_px=50.0)
    np.testing.assert_array_equal(polygons_to_mask(found, mask.shape), mask)


def test_a_slanted_triangle_is_filled_by_pixel_centres() -> None:
    triangle = Polygon(exterior_xy=[[-0.5, -0.5], [3.6, -0.5], [-0.5, 3.6]])
    np.testing.assert_array_equal(polygons_to_mask([triangle], (4, 4)), drawn("####", "###.", "##..", "#..."))


def test_neighbours_sharing_an_edge_own_each_pixel_once() -> None:
    left = Polygon(exterior_xy=[[0, 0], [2, 0], [3, 4], [0, 4]])
    right = Polygon(exterior_xy=[[2, 0], [5, 0], [5, 4], [3, 4]])
    whole = Polygon(exterior_xy=[[0, 0], [5, 0], [5, 4], [0, 4]])
    first, second = polygons_to_mask([left], (6, 7)), polygons_to_mask([right], (6, 7))
    assert not (first & second).any()
    np.testing.assert_array_equal(first | second, polygons_to_mask([whole], (6, 7)))
    assert polygons_to_mask([whole], (6, 7)).sum() == polygon_area_px(whole)


def test_what_lies_outside_the_image_is_cut_off() -> None:
    big = Polygon(
        exterior_xy=[[-9, -9], [99, -9], [99, 99], [-9, 99]], holes_xy=[[[-5, 1], [50, 1], [50, 2], [-5, 2]]]
    )
    np.testing.assert_array_equal(polygons_to_mask([big], (3, 4)), drawn("####", "....", "####"))
    away = Polygon(exterior_xy=[[20, 20], [30, 20], [30, 30]])
    assert not polygons_to_mask([away], (3, 4)).any()
    above = Polygon(exterior_xy=[[0, -20], [3, -20], [3, -10]])
    assert not polygons_to_mask([above], (3, 4)).any()


def test_overlaps_unite_self_crossings_follow_even_odd_and_holes_may_stick_out() -> None:
    square = Polygon(exterior_xy=[[-0.5, -0.5], [2.5, -0.5], [2.5, 2.5], [-0.5, 2.5]])
    assert polygons_to_mask([square, square], (3, 3)).all()
    bow = Polygon(exterior_xy=[[-0.5, -0.5], [4.5, 4.5], [4.5, -0.5], [-0.5, 4.5]])
    assert not polygons_to_mask([bow], (5, 5))[0, 2]
    assert polygons_to_mask([bow], (5, 5))[2, [0, 4]].all()
    cut = Polygon(exterior_xy=square.exterior_xy, holes_xy=[[[1.5, -9], [9, -9], [9, 9], [1.5, 9]]])
    np.testing.assert_array_equal(polygons_to_mask([cut], (3, 3)), drawn("##.", "##.", "##."))


@pytest.mark.parametrize(
    "bad",
    [[], [[0, 0], [1, 1]], [[0, 0], [1, 1], [0, 0]], [[0, 0], [1, 0], [1, math.nan]], [1, 2, 3], "abc", None],
)
def test_rings_need_three_finite_corners(bad: Any) -> None:
    with pytest.raises(InputError):
        Polygon(exterior_xy=bad)
    with pytest.raises(InputError):
        Polygon(exterior_xy=[[0, 0], [1, 0], [1, 1]], holes_xy=[bad])


def test_a_polygon_does_not_follow_its_source() -> None:
    source = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    polygon = Polygon(exterior_xy=source)
    source[0] = 9
    assert polygon.exterior_xy[0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="read-only"):
        polygon.exterior_xy[0] = 1


@pytest.mark.parametrize("shape", [(0, 3), (3,), (3, 3, 3), (2.5, 2)])
def test_shapes_must_be_two_positive_whole_numbers(shape: Any) -> None:
    with pytest.raises(InputError):
        polygons_to_mask([], shape)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_tolerances_must_be_finite_and_not_negative(tolerance: float) -> None:
    with pytest.raises(InputError):
        mask_to_polygons(drawn("#"), tolerance_px=tolerance)


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        # The upper edge rises by the smallest number there is: the centres of its row lie above it.
        ([[1, 1], [4, 1 + 2**-52], [4, 3], [1, 3]], (slice(2, 3), slice(1, 4))),
        ([[1, 0], [4, 5e-324], [4, 3], [1, 3]], (slice(1, 3), slice(1, 4))),
        ([[-1e308, 0.5], [1e308, 0.6], [1e308, 2.5], [-1e308, 2.5]], (slice(1, 3), slice(0, 6))),
        ([[1, -1e308], [4, -1e308], [4, 1e308], [1, 1e308]], (slice(0, 5), slice(1, 4))),
    ],
)
def test_edges_whose_slope_is_beyond_all_numbers(
    corners: list[list[float]], expected: tuple[slice, slice]
) -> None:
    right = np.zeros((5, 6), bool)
    right[expected] = True
    filled = polygons_to_mask([Polygon(exterior_xy=np.array(corners))], (5, 6))
    assert filled.tolist() == right.tolist()
