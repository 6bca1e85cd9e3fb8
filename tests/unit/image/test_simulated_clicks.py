from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ctai_sam2.errors import InputError
from ctai_sam2.image.simulated_clicks import click_centre_of_largest_error, find_centre


def test_the_click_goes_to_the_middle_of_the_largest_error() -> None:
    target = np.zeros((20, 20), bool)
    target[2:9, 2:9] = True
    mask = np.zeros_like(target)
    mask[10:19, 10:19] = True
    assert click_centre_of_largest_error(mask, target) == ((14, 14), 0)
    mask[10:19, 13:19] = False
    assert click_centre_of_largest_error(mask, target) == ((5, 5), 1)
    assert click_centre_of_largest_error(target, target) is None


def test_errors_that_touch_at_a_corner_are_two() -> None:
    target = np.zeros((12, 12), bool)
    target[1:4, 1:4] = target[4:8, 4:8] = True
    (x, y), label = click_centre_of_largest_error(np.zeros_like(target), target) or ((0, 0), -1)
    assert label == 1
    assert 4 <= x < 8
    assert 4 <= y < 8


def test_the_edge_of_the_image_is_a_border() -> None:
    region = np.zeros((9, 30), bool)
    region[:5, :9] = True
    assert find_centre(region) == (2, 2)


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        click_centre_of_largest_error(np.zeros((4, 4), bool), np.zeros((4, 5), bool))


masks = arrays.arrays(np.bool_, (7, 9))


@settings(max_examples=60)
@given(mask=masks, target=masks)
def test_a_click_lies_in_an_error_of_its_kind_and_nothing_is_deeper(
    mask: np.ndarray, target: np.ndarray
) -> None:
    click = click_centre_of_largest_error(mask, target)
    assert (click is None) == np.array_equal(mask, target)
    if click is not None:
        (x, y), label = click
        assert (target[y, x], mask[y, x]) == (bool(label), not label)


@settings(max_examples=60)
@given(region=masks.filter(np.any), seed=st.integers(0, 3))
def test_the_centre_is_as_deep_as_the_deepest_pixel(region: np.ndarray, seed: int) -> None:
    padded = np.rot90(np.pad(region, 1), seed)
    outside = np.argwhere(~padded)

    def depth(x: int, y: int) -> float:
        return float(np.hypot(*(outside - (y, x)).T).min())

    x, y = find_centre(padded)
    assert depth(x, y) == pytest.approx(max(depth(c, r) for r, c in np.argwhere(padded)))
