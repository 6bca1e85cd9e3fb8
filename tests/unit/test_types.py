from __future__ import annotations

import numpy as np
import pytest

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.types import CTSlice, CTVolume, ModelIdentity, Prediction, Prompt, Window

IDENTITY = ModelIdentity(
    name="m", weights_sha256="0" * 64, image_size=64, device="cpu", dtype="float32", code_version="0"
)


def make_volume() -> CTVolume:
    hu = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([0.5, 0.8, 5.0, 1.0])
    affine[:3, 3] = [-10, -20, 100]
    return CTVolume(hu_zyx=hu, affine=affine)


@pytest.mark.parametrize(
    ("hu", "message"),
    [
        (np.zeros((0, 0)), "non-empty"),
        (np.zeros((3,)), "2-dimensional"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.full((2, 2), np.inf), "not finite"),
        (np.zeros((2, 2), bool), "real numbers"),
        (np.zeros((2, 2), complex), "real numbers"),
        (np.full((2, 2), 70000), "range of Hounsfield"),
    ],
)
def test_slice_refuses_unusable_pixels(hu: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CTSlice(hu=hu, spacing_mm=(1, 1))


@pytest.mark.parametrize("spacing", [(0, 1), (1, -1), (np.nan, 1), (1,), "ab"])
def test_slice_refuses_impossible_spacing(spacing: tuple[float, float]) -> None:
    with pytest.raises((GeometryError, InputError)):
        CTSlice(hu=np.zeros((2, 2), np.int16), spacing_mm=spacing)


def test_slice_is_read_only_and_knows_its_pixel_area() -> None:
    ct = CTSlice(hu=np.zeros((2, 3), np.int64), spacing_mm=(0.5, 2.0))
    assert ct.hu.dtype == np.int16
    assert ct.pixel_area_mm2 == 1.0
    with pytest.raises(ValueError, match="read-only"):
        ct.hu[0, 0] = 1


def test_planes_of_a_volume_show_the_right_voxels_at_the_right_place() -> None:
    volume = make_volume()
    axial, sagittal, coronal = volume.axial(1), volume.sagittal(2), volume.coronal(0)
    assert axial.hu.tolist() == volume.hu_zyx[1].tolist()
    assert sagittal.hu[0].tolist() == volume.hu_zyx[1, :, 2].tolist()
    assert coronal.hu[1].tolist() == volume.hu_zyx[0, 0, :].tolist()
    assert (axial.spacing_mm, sagittal.spacing_mm, coronal.spacing_mm) == ((0.8, 0.5), (5.0, 0.8), (5.0, 0.5))
    for ct, pixel, voxel in [
        (axial, (3, 2), (3, 2, 1)),
        (sagittal, (1, 0), (2, 1, 1)),
        (coronal, (3, 1), (3, 0, 0)),
    ]:
        assert ct.affine is not None
        expected = volume.affine @ np.array([*voxel, 1.0])
        np.testing.assert_allclose(ct.affine @ np.array([*pixel, 0.0, 1.0]), expected)
        assert ct.hu[pixel[1], pixel[0]] == volume.hu_zyx[voxel[2], voxel[1], voxel[0]]
    assert volume.axial_index_of_row(0) == 1


@pytest.mark.parametrize("index", [-1, 2])
def test_slices_outside_the_volume_are_refused(index: int) -> None:
    with pytest.raises(InputError, match="Give 0 to 1"):
        make_volume().axial(index)


@pytest.mark.parametrize(
    ("positions", "extents"),
    [
        ([0, 5, 10], [5, 5, 5]),
        ([0, 20, 25, 30], [12.5, 12.5, 5, 5]),
        ([0, 5, 10, 20], [5, 5, 7.5, 7.5]),
        ([0, 1, 3], [1, 1.5, 1.75]),
        ([0, 3], [3, 3]),
    ],
)
def test_extents_come_from_positions(positions: list[float], extents: list[float]) -> None:
    hu = np.zeros((len(positions), 2, 2), np.int16)
    volume = CTVolume(hu_zyx=hu, affine=np.diag([1, 1, 5.0, 1]), slice_positions_mm=positions)
    assert volume.slice_extents_mm.tolist() == extents


@pytest.mark.parametrize("depth", [1, 6])
def test_a_tilted_stack_is_as_thick_as_its_planes_are_apart(depth: int) -> None:
    affine = np.diag([0.8, 0.7, 5.0, 1.0])
    affine[1, 2] = 5.0 * np.tan(np.radians(20))  # each slice lies further back than the one below
    volume = CTVolume(hu_zyx=np.zeros((depth, 3, 4), np.int16), affine=affine)
    voxel_mm3 = 0.8 * 0.7 * volume.slice_extents_mm
    np.testing.assert_allclose(voxel_mm3, np.linalg.det(affine[:3, :3]))
    np.testing.assert_allclose(volume.slice_positions_mm, 5.0 * np.arange(depth))


def test_the_volume_of_a_cone_from_uneven_slices() -> None:
    positions = np.sort(np.concatenate([np.arange(0, 50, 1.0), np.arange(50, 100, 0.5)]))
    radius = 30 * (1 - positions / 100)
    hu = np.zeros((len(positions), 2, 2), np.int16)
    volume = CTVolume(hu_zyx=hu, affine=np.diag([1, 1, 1.0, 1]), slice_positions_mm=positions)
    # The analytic volume, and half the usual step (0.5) by which the first slice reaches outward.
    expected = np.pi * 900 * 100 / 3 + np.pi * 900 * 0.25
    assert np.pi * radius**2 @ volume.slice_extents_mm == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("positions", [[0, 0, 1], [2, 1, 0], [0, 1], [0, np.nan, 2]])
def test_positions_must_increase(positions: list[float]) -> None:
    with pytest.raises(GeometryError, match="one increasing number per slice"):
        CTVolume(hu_zyx=np.zeros((3, 2, 2), np.int16), affine=np.eye(4), slice_positions_mm=positions)


def test_singular_affine_is_refused() -> None:
    with pytest.raises(GeometryError, match="invertible"):
        CTVolume(hu_zyx=np.zeros((1, 2, 2), np.int16), affine=np.zeros((4, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points_xy": [[1, 2, 3]]}, "pairs"),
        ({"points_xy": [1, 2]}, "pairs"),
        ({"points_xy": [["a", "b"]]}, "must be numbers"),
        ({"points_xy": [[np.nan, 1]]}, "finite"),
        ({"points_xy": [[1, 2]], "labels": [1, 1]}, "one label per point"),
        ({"points_xy": [[1, 2]], "labels": [2]}, "1 .foreground. or 0"),
        ({"points_xy": np.zeros((2000, 2))}, "too many"),
        ({"box_xyxy": (3, 3, 3, 9)}, "no area"),
        ({"box_xyxy": (5, 5, 3, 9)}, "no area"),
        ({"box_xyxy": (0, 0, np.inf, 1)}, "four finite"),
        ({"box_xyxy": (0, 0, 1)}, "four finite"),
        ({"mask": np.zeros((2, 2))}, "boolean"),
    ],
)
def test_prompt_refuses_nonsense(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Prompt(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt(), "empty"),
        (Prompt.point(10, 0), "1 of 1 points lie outside"),
        (Prompt.point(0, -0.6), "outside"),
        (Prompt(box_xyxy=(0, 0, 10, 3)), "leaves the slice"),
        (Prompt(mask=np.zeros((3, 3), bool)), "another shape"),
    ],
)
def test_prompt_must_lie_within_the_slice(prompt: Prompt, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prompt.require_within((8, 10))


def test_prompt_at_the_border_is_inside() -> None:
    Prompt.point(9.5, 7.5).require_within((8, 10))
    Prompt(box_xyxy=(-0.5, -0.5, 9.5, 7.5)).require_within((8, 10))


def test_prediction_is_sorted_best_first() -> None:
    masks = np.zeros((2, 3, 3), bool)
    masks[0, 0, 0] = True
    prediction = Prediction(masks=masks, scores=[0.9, 0.2], identity=IDENTITY, processing_time_ms=1.0)
    assert prediction.confidence_score == pytest.approx(0.9)
    assert prediction.mask[0, 0]
    assert prediction.with_candidate_first(1).confidence_score == pytest.approx(0.2)
    with pytest.raises(InputError, match="sorted"):
        Prediction(masks=masks, scores=[0.2, 0.9], identity=IDENTITY, processing_time_ms=1.0)
    with pytest.raises(InputError, match="no such candidate"):
        prediction.with_candidate_first(2)


@pytest.mark.parametrize("width", [0, -1, np.nan])
def test_window_needs_a_width(width: float) -> None:
    with pytest.raises(InputError, match="positive width"):
        Window(level=0, width=width)


def test_slices_of_a_stack_with_gaps_lie_where_they_are() -> None:
    hu = np.zeros((4, 3, 2), np.int16)
    affine = np.diag([0.5, 0.5, 3.0, 1.0])
    volume = CTVolume(hu_zyx=hu, affine=affine, slice_positions_mm=np.array([0.0, 3.0, 6.0, 15.0]))
    np.testing.assert_allclose(volume.slice_offsets, [0, 1, 2, 5])
    top = volume.axial(3).affine
    assert top is not None
    assert top[2, 3] == pytest.approx(15.0)
    for ct in (volume.sagittal(1), volume.coronal(1)):
        assert ct.row_offsets is not None
        assert ct.affine is not None
        heights = ct.affine[2, 3] + ct.affine[2, 1] * ct.row_offsets
        np.testing.assert_allclose(heights, [15.0, 6.0, 3.0, 0.0])
    even = CTVolume(hu_zyx=hu, affine=affine)
    assert even.sagittal(1).row_offsets is None
    np.testing.assert_array_equal(even.slice_offsets, np.arange(4))
    # What rounding in headers leaves is no gap.
    rounded = CTVolume(hu_zyx=hu, affine=affine, slice_positions_mm=np.array([0.0, 3.0001, 6.0, 9.0]))
    assert rounded.coronal(0).row_offsets is None


@pytest.mark.parametrize("offsets", [[0.0, 1.0], [1.0, 2.0, 3.0], [0.0, 2.0, 1.0], [0.0, np.nan, 2.0]])
def test_row_offsets_increase_from_nought(offsets: list[float]) -> None:
    with pytest.raises(GeometryError, match="row offsets"):
        CTSlice(hu=np.zeros((3, 2), np.int16), spacing_mm=(1, 1), row_offsets=np.array(offsets))
