"""Volumes: shapes between slices, gates, corrections, and numbers by real positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctai_sam2.errors import InputError, ServiceUnreachable
from ctai_sam2.image.interpolation import interpolate_masks, signed_distance_mm
from ctai_sam2.measure.overlap import dice
from ctai_sam2.segmentation.volume import VolumeAnchor, VolumeResult, correct_volume, segment_volume
from ctai_sam2.segmentation.volume.engine import Engine
from ctai_sam2.segmentation.volume.gates import judge_slice
from ctai_sam2.segmentation.volume.ranges import expand_structures, range_of, spread_slices
from ctai_sam2.segmentation.volume.result import LevelRange, SliceMask, crop_mask
from ctai_sam2.segmentation.volume.shapes import prompt_from_neighbour
from ctai_sam2.types import CTVolume
from tests.fakes import FakeSegmenter

SPACING = (2.0, 1.0)
SHAPE = (60, 80)


def disc(x: float, y: float, radius: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.asarray(np.hypot((columns - x) * SPACING[1], (rows - y) * SPACING[0]) <= radius)


def volume_of(positions: list[float], hu: int = 50) -> CTVolume:
    return CTVolume(
        hu_zyx=np.full((len(positions), *SHAPE), hu, np.int16),
        affine=np.array([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 4.0, 0], [0, 0, 0, 1]]),
        slice_positions_mm=positions,
    )


def result_of(
    volume: CTVolume, masks: list[np.ndarray], levels: tuple[LevelRange, ...] = (), **changes: object
) -> VolumeResult:
    slices = {}
    for index, mask in enumerate(masks):
        corner, crop = crop_mask(mask)
        slices[index] = SliceMask(corner_yx=corner, crop=crop, source="automatic", **changes)  # type: ignore[arg-type]
    return VolumeResult(
        volume=volume, indices=tuple(range(len(masks))), levels=levels, structure_slices={"muscle": slices}
    )


@settings(max_examples=40, deadline=None)
@given(st.floats(10, 60), st.floats(10, 50), st.floats(3, 15))
def test_a_crop_goes_back_to_where_it_was(x: float, y: float, radius: float) -> None:
    mask = disc(x, y, radius)
    corner, crop = crop_mask(mask)
    one = SliceMask(corner_yx=corner, crop=crop, source="automatic")
    np.testing.assert_array_equal(one.full(SHAPE), mask)


def test_the_shape_between_two_discs_is_a_disc_between_them() -> None:
    between = interpolate_masks(disc(30, 30, 10), disc(40, 30, 16), 0.5, SPACING)
    assert dice(between, disc(35, 30, 13)) > 0.92
    np.testing.assert_array_equal(
        interpolate_masks(disc(30, 30, 10), disc(40, 30, 16), 0.0, SPACING), disc(30, 30, 10)
    )


def test_half_way_to_an_empty_slice_the_shape_ends() -> None:
    empty = np.zeros(SHAPE, bool)
    assert interpolate_masks(disc(30, 30, 9), empty, 0.4, SPACING).any()
    assert not interpolate_masks(disc(30, 30, 9), empty, 0.6, SPACING).any()
    assert (signed_distance_mm(empty, SPACING) < -50).all()


def test_the_prompt_of_the_next_slice_lies_in_the_structure() -> None:
    mask = disc(20, 20, 9) | disc(60, 40, 7)
    prompt = prompt_from_neighbour(mask, "muscle", SPACING, margin_mm=4.0)
    assert len(prompt.points_xy) == 2
    columns, rows = np.rint(prompt.points_xy).astype(int).T
    assert mask[rows, columns].all()
    assert prompt.structure == "muscle"
    inner = np.argwhere(mask)
    assert prompt.box_xyxy is not None
    # 4 mm are 2 rows of 2 mm and 4 columns of 1 mm.
    assert prompt.box_xyxy[1] == pytest.approx(inner[:, 0].min() - 2, abs=0.51)
    assert prompt.box_xyxy[0] == pytest.approx(inner[:, 1].min() - 4, abs=0.51)


@pytest.mark.parametrize(
    ("mask", "confidence", "gate"),
    [
        (disc(31, 30, 10), 0.95, "green"),
        (disc(31, 30, 10), 0.5, "amber"),
        (disc(31, 30, 10), 0.1, "red"),
        (disc(60, 30, 10), 0.95, "red"),
        (disc(31, 30, 20), 0.95, "red"),
        (np.zeros(SHAPE, bool), 0.95, "red"),
    ],
)
def test_gates_see_jumps_and_doubt(mask: np.ndarray, confidence: float, gate: str) -> None:
    neighbours = {3.0: disc(30, 30, 10), 3.5: disc(32, 30, 10)}
    verdict = judge_slice("psoas_left", mask, neighbours, confidence)
    assert verdict.gate == gate
    assert bool(verdict.reasons) == (gate != "green")


def test_fat_within_muscle_is_not_held_to_what_is_predicted_of_the_fascia() -> None:
    neighbours = {3.0: disc(30, 30, 10)}
    assert judge_slice("imat", disc(30, 30, 10), neighbours, 0.09, typical=0.1).gate == "green"
    assert judge_slice("imat", disc(30, 30, 10), neighbours, 0.02, typical=0.2).gate == "red"


def test_a_thicker_step_may_change_more() -> None:
    near, far = disc(30, 30, 10), disc(34, 30, 11)
    thin = judge_slice("psoas_left", far, {1.0: near}, 0.9)
    thick = judge_slice("psoas_left", far, {8.0: near}, 0.9)
    assert thin.score < thick.score


def test_volume_follows_real_positions_and_levels() -> None:
    volume = volume_of([0.0, 4.0, 8.0, 20.0])
    mask = disc(40, 30, 10)
    area = mask.sum() * 2.0 / 100
    levels = (
        LevelRange(name="L4", lower_mm=-8.0, upper_mm=3.0),
        LevelRange(name="L3", lower_mm=4.0, upper_mm=20.0),
    )
    result = result_of(volume, [mask] * 4, levels)
    table = result.summary.set_index("level")
    assert table.loc["all", "volume_cm3"] == pytest.approx(area * 20 / 10)
    assert table.loc["L3", "volume_cm3"] == pytest.approx(area * 16 / 10)
    assert table.loc["L3", "covered"] == 1
    # L4 is cut by the end of the scan: no volume, and the share says why.
    assert np.isnan(table.loc["L4", "volume_cm3"])
    assert table.loc["L4", "covered"] == pytest.approx((3.0 + 2.0) / 11.0, abs=0.01)
    assert list(result.slices["level"]) == ["L4", "L3", "L3", "L3"]
    assert result.masks["muscle"].shape == volume.shape_zyx
    assert result.masks["muscle"].sum() == 4 * mask.sum()


def test_a_level_whose_slices_are_missing_has_no_volume() -> None:
    """Slices lost on the way are not covered, however the slices next to them look."""
    volume = volume_of([0.0, 4.0, 8.0, 28.0, 32.0, 36.0, 40.0, 50.0])
    mask = disc(40, 30, 10)
    levels = (
        LevelRange(name="L4", lower_mm=1.0, upper_mm=30.0),
        LevelRange(name="L3", lower_mm=30.0, upper_mm=50.0),
    )
    table = result_of(volume, [mask] * 8, levels).summary.set_index("level")
    assert np.isnan(table.loc["L4", "volume_cm3"])
    assert table.loc["all", "volume_cm3"] == pytest.approx(mask.sum() * 2.0 / 100 * 5)
    assert table.loc["L4", "covered"] == pytest.approx(1 - 16.0 / 29.0)
    assert table.loc["all", "covered"] == pytest.approx(1 - 16.0 / 50.0)
    assert table.loc["L3", ["volume_cm3", "covered"]].tolist() == pytest.approx(
        [mask.sum() * 2.0 / 100 * 2, 1]
    )


def test_only_pixels_within_the_limits_count() -> None:
    result = result_of(volume_of([0.0, 4.0], hu=-100), [disc(40, 30, 10)] * 2)
    assert (result.slices["area_cm2"] == 0).all()
    assert result.masks["muscle"].any()


def test_a_correction_is_kept_and_reaches_the_next_anchor_only() -> None:
    volume = volume_of([float(4 * i) for i in range(9)])
    result = result_of(volume, [disc(30, 30, 10)] * 9)
    moved = disc(46, 30, 10)
    fixed = VolumeAnchor(structure="muscle", axial_index=8, mask=disc(30, 30, 10))
    corrected = correct_volume(
        correct_volume(result, [fixed], FakeSegmenter()),
        [VolumeAnchor(structure="muscle", axial_index=4, mask=moved)],
        FakeSegmenter(),
    )
    slices = corrected.structure_slices["muscle"]
    np.testing.assert_array_equal(slices[4].full(SHAPE), moved)
    assert slices[4].source == "anchor"
    assert slices[4].gate == "green"
    np.testing.assert_array_equal(slices[8].full(SHAPE), disc(30, 30, 10))
    assert slices[5].source == "propagated"
    assert dice(slices[5].full(SHAPE), moved) > dice(result.structure_slices["muscle"][5].full(SHAPE), moved)
    # The result that was corrected is unchanged.
    assert {one.source for one in result.structure_slices["muscle"].values()} == {"automatic"}


@pytest.mark.parametrize(
    "anchor",
    [
        VolumeAnchor(structure="muscle", axial_index=99, mask=np.zeros(SHAPE, bool)),
        VolumeAnchor(structure="muscle", axial_index=1, mask=np.zeros((3, 3), bool)),
        VolumeAnchor(structure="muscle", axial_index=1, mask=np.zeros(SHAPE, np.uint8)),
        VolumeAnchor(structure="sat", axial_index=1, mask=np.zeros(SHAPE, bool)),
    ],
)
def test_an_anchor_that_does_not_fit_is_refused(anchor: VolumeAnchor) -> None:
    result = result_of(volume_of([0.0, 4.0, 8.0]), [disc(30, 30, 10)] * 3)
    with pytest.raises(InputError):
        correct_volume(result, [anchor], FakeSegmenter())


@pytest.mark.parametrize(
    "change",
    [
        {"structures": ("liver",)},
        {"structures": ()},
        {"levels": ("L9", "L3")},
        {"indices": (0, 99)},
        {"indices": (-1, 1)},
        {"indices": (1,)},
        {"indices": (0.5, 2.0)},
        {"indices": (0, 2), "every_mm": 0.0},
    ],
)
def test_bad_input_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        segment_volume(volume_of([0.0, 4.0, 8.0]), FakeSegmenter(), **change)  # type: ignore[arg-type]


def test_a_single_slice_is_no_volume_and_a_name_alone_is_a_structure() -> None:
    volume = volume_of([0.0, 4.0, 8.0])
    with pytest.raises(InputError, match="must be a CTVolume"):
        segment_volume(volume.axial(1), FakeSegmenter())  # type: ignore[arg-type]
    assert expand_structures("psoas") == ("psoas_left", "psoas_right")


@pytest.mark.parametrize(
    ("every_mm", "kept", "expected"),
    [
        (None, set(), [2, 3, 4, 5, 6, 7, 8]),
        (8.0, set(), [2, 4, 6, 8]),
        (12.0, set(), [2, 5, 8]),
        (12.0, {4}, [2, 4, 7, 8]),
        (1000.0, set(), [2, 8]),
    ],
)
def test_sparse_slices_are_never_further_apart(
    every_mm: float | None, kept: set[int], expected: list[int]
) -> None:
    volume = volume_of([float(4 * i) for i in range(10)])
    assert spread_slices(volume, range(2, 9), every_mm, kept) == expected


def test_an_outage_is_raised() -> None:
    result = result_of(volume_of([0.0, 4.0, 8.0]), [disc(30, 30, 10)] * 3)
    anchor = VolumeAnchor(structure="muscle", axial_index=1, mask=disc(45, 30, 10))
    with pytest.raises(ServiceUnreachable):
        correct_volume(
            result, [anchor], FakeSegmenter(error=ServiceUnreachable("the service does not respond"))
        )


def test_a_run_at_the_end_is_settled_from_the_plausible_slice_outwards() -> None:
    volume = volume_of([float(4 * i) for i in range(7)])
    masks = [disc(70, 50, 4)] * 4 + [disc(30, 30, 10)] * 3
    automatic = result_of(volume, masks, confidence=0.9).structure_slices["muscle"]
    worker = Engine(volume=volume, segmenter=FakeSegmenter())
    found = dict(automatic)
    worker._propagate_into("muscle", (0, 1, 2, 3), found, [4, 5, 6])
    assert [found[i].source for i in range(4)] == ["propagated"] * 4
    assert dice(found[0].full(SHAPE), disc(30, 30, 10)) > 0.6


def test_the_range_covers_the_ends_of_its_levels() -> None:
    volume = volume_of([float(4 * i) for i in range(10)])
    level = LevelRange(name="L3", lower_mm=9.0, upper_mm=23.5)
    assert range_of(volume, [level], ("L3", "L3"), None) == [2, 3, 4, 5, 6]


def test_an_empty_neighbour_gives_no_prompt() -> None:
    with pytest.raises(InputError):
        prompt_from_neighbour(np.zeros(SHAPE, bool), "muscle", SPACING, margin_mm=1.0)


def test_what_a_model_predicts_of_its_masks_is_compared_within_the_volume() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    for typical, expected in (
        (0.95, {0.94: "green", 0.88: "amber", 0.65: "red"}),
        (0.80, {0.78: "green", 0.63: "amber", 0.5: "amber", 0.29: "red"}),
    ):
        for predicted, gate in expected.items():
            assert judge_slice("psoas_left", mask, {3.0: mask}, predicted, typical=typical).gate == gate
