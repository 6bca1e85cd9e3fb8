from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctai_sam2 import geometry
from ctai_sam2.errors import GeometryError

points = st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), max_size=5)


@given(points)
def test_xy_and_rc_are_inverse(xy: list[tuple[float, float]]) -> None:
    array = np.array(xy, float).reshape(-1, 2)
    assert np.array_equal(geometry.xy_to_rc(geometry.xy_to_rc(array)), array)


@given(points)
def test_pixels_and_patient_are_inverse(xy: list[tuple[float, float]]) -> None:
    affine = geometry.affine_from_dicom([0, 1, 0, 0, 0, -1], [5, -7, 9], [2.5, 0.7])
    array = np.array(xy, float).reshape(-1, 2)
    placed = geometry.pixel_to_patient(affine, array)
    back = np.linalg.solve(affine[:3, :3], (placed - affine[:3, 3]).T).T
    np.testing.assert_allclose(back[:, :2], array, atol=1e-6)
    np.testing.assert_allclose(back[:, 2], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("orientation", "plane", "letters"),
    [
        ([1, 0, 0, 0, 1, 0], "axial", ("R", "L", "A", "P")),
        ([-1, 0, 0, 0, 1, 0], "axial", ("L", "R", "A", "P")),
        ([0, 1, 0, 0, 0, -1], "sagittal", ("A", "P", "S", "I")),
        ([1, 0, 0, 0, 0, -1], "coronal", ("R", "L", "S", "I")),
        ([0.9, 0.4359, 0, 0, 0, -1], "oblique", ("R", "L", "S", "I")),
    ],
)
def test_plane_and_edges(orientation: list[float], plane: str, letters: tuple[str, ...]) -> None:
    affine = geometry.affine_from_dicom(orientation, [0, 0, 0], [1, 1])
    assert geometry.plane_of(affine)[0] == plane
    assert geometry.edge_letters(affine) == letters


@pytest.mark.parametrize(
    ("orientation", "spacing", "message"),
    [
        ([1, 0, 0, 1, 0, 0], [1, 1], "perpendicular"),
        ([2, 0, 0, 0, 1, 0], [1, 1], "length 1"),
        ([0, 0, 0, 0, 1, 0], [1, 1], "length 1"),
        ([1, 0, 0, 0, 1], [1, 1], "needs 6"),
        ([np.nan, 0, 0, 0, 1, 0], [1, 1], "finite"),
        ([1, 0, 0, 0, 1, 0], [0, 1], "positive"),
    ],
)
def test_contradicting_headers_are_refused(
    orientation: list[float], spacing: list[float], message: str
) -> None:
    with pytest.raises(GeometryError, match=message):
        geometry.affine_from_dicom(orientation, [0, 0, 0], spacing)


def test_tilt_is_the_angle_between_normal_and_stacking() -> None:
    angle = np.radians(14.0)
    orientation = [1, 0, 0, 0, np.cos(angle), np.sin(angle)]
    tilted = geometry.affine_from_dicom(orientation, [0, 0, 0], [1, 1], step_mm=[0, 0, 5])
    assert geometry.tilt_deg(tilted) == pytest.approx(14.0)
    assert geometry.tilt_deg(np.eye(4)) == 0


def all_orientations() -> list[np.ndarray]:
    found = []
    for permutation in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.zeros((3, 3))
            for axis, target in enumerate(permutation):
                matrix[target, axis] = signs[axis] * (0.5 + axis)
            found.append(matrix)
    return found


@pytest.mark.parametrize("matrix", all_orientations())
def test_every_orientation_becomes_canonical_and_keeps_every_voxel_in_place(matrix: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    array = rng.permutation(2 * 3 * 4).reshape(2, 3, 4)
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = [3, -5, 11]
    canonical, new_affine = geometry.canonicalise(array, affine)
    assert (np.diag(new_affine)[:3] > 0).all()
    assert np.count_nonzero(new_affine[:3, :3]) == 3
    places = {}
    for z, y, x in np.ndindex(array.shape):
        places[int(array[z, y, x])] = affine @ np.array([x, y, z, 1.0])
    for z, y, x in np.ndindex(canonical.shape):
        np.testing.assert_allclose(
            new_affine @ np.array([x, y, z, 1.0]), places[int(canonical[z, y, x])], atol=1e-9
        )


def test_axes_that_point_the_same_way_are_refused() -> None:
    affine = np.eye(4)
    affine[:3, :3] = [[1, 1, 0], [0, 0.1, 0], [0, 0, 1]]
    with pytest.raises(GeometryError, match="three directions"):
        geometry.canonicalise(np.zeros((1, 2, 2)), affine)


@pytest.mark.parametrize(
    ("positions", "gaps", "duplicates", "irregular"),
    [
        ([0, 5, 10, 15], (), (), False),
        ([0, 5, 15, 20], (1,), (), True),
        ([0, 5, 5, 10], (), (1,), True),
        ([0, 5, 9, 14], (), (), True),
        ([0, 5.004, 10], (), (), False),
    ],
)
def test_stacking(positions: list[float], gaps: tuple, duplicates: tuple, irregular: bool) -> None:
    stacking = geometry.examine_stacking(positions)
    assert (stacking.gaps, stacking.duplicates, stacking.irregular) == (gaps, duplicates, irregular)


@pytest.mark.parametrize(("positions", "message"), [([1, 0], "sorted"), ([2, 2, 2], "same place")])
def test_impossible_stacks_are_refused(positions: list[float], message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        geometry.examine_stacking(positions)
