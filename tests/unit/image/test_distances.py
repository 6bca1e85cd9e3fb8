"""Distances by limit and by box against the full distance transform."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from ctai_sam2.image.distances import deeper_than, depth_of, within_distance

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))
SAMPLINGS = st.sampled_from([(1.0, 1.0), (0.7, 0.7), (2.0, 1.0), (1.074, 3.3)])
DISTANCES = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 5.0, 7.0, 12.3, 40.0])


@settings(max_examples=200, deadline=None)
@given(MASKS, DISTANCES, SAMPLINGS)
def test_limits_give_the_pixels_of_the_distance_transform(
    mask: np.ndarray, distance: float, sampling: tuple[float, float]
) -> None:
    if mask.any():
        full = ndimage.distance_transform_edt(~mask, sampling=sampling) <= distance
        np.testing.assert_array_equal(within_distance(mask, distance, sampling), full)
    else:
        assert not within_distance(mask, distance, sampling).any()
    if not mask.all():
        full = ndimage.distance_transform_edt(mask, sampling=sampling) > distance
        np.testing.assert_array_equal(deeper_than(mask, distance, sampling), full)
        full_depth = ndimage.distance_transform_edt(mask, sampling=sampling)
        np.testing.assert_allclose(depth_of(mask, sampling), full_depth, rtol=1e-12)


def test_nothing_outside_is_infinitely_deep() -> None:
    assert deeper_than(np.ones((3, 4), bool), 100.0).all()
