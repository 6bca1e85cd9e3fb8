from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.frame import SAGITTAL_SIDE_MM, frame_sagittal, frame_slice
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.types import CTSlice, Prompt


def slice_with(shape: tuple[int, int], spacing: tuple[float, float]) -> CTSlice:
    rng = np.random.default_rng(0)
    return CTSlice(hu=rng.integers(-100, 200, shape), spacing_mm=spacing)


def test_isotropic_framing_is_an_exact_crop() -> None:
    hu = np.full((120, 140), -1000)
    hu[30:90, 20:120] = np.random.default_rng(0).integers(-50, 100, (60, 100))
    frame = frame_slice(CTSlice(hu=hu, spacing_mm=(1.5, 1.5)))
    assert frame.image.shape == (108, 108)
    assert frame.stretch_yx == (1.0, 1.0)
    x, y = frame.offset_xy
    inside = frame.image[30 - y : 90 - y, 20 - x : 120 - x]
    assert (inside == window_to_uint8(hu[30:90, 20:120])).all()


def test_anisotropic_rows_are_stretched_to_square_pixels() -> None:
    frame = frame_slice(slice_with((20, 80), (5.0, 1.25)))
    assert frame.pixel_mm == 1.25
    assert frame.stretch_yx == (4.0, 1.0)
    assert frame.image.shape == (87, 87)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(8, 30), st.integers(8, 30)),
    stretch=st.sampled_from([1.0, 1.3, 2.0, 2.7, 6.2]),
    rows_coarse=st.booleans(),
    seed=st.integers(0, 999),
)
def test_masks_and_points_come_back(
    shape: tuple[int, int], stretch: float, rows_coarse: bool, seed: int
) -> None:
    spacing = (stretch, 1.0) if rows_coarse else (1.0, stretch)
    frame = frame_slice(
        slice_with(shape, spacing), focus_box_xyxy=(-0.5, -0.5, shape[1] - 0.5, shape[0] - 0.5)
    )
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.5
    assert (frame.mask_to_slice(frame.mask_to_frame(mask)) == mask).all()
    points = rng.uniform(-0.5, 7.5, (5, 2))
    np.testing.assert_allclose(frame.points_to_slice(frame.points_to_frame(points)), points, atol=1e-9)


def test_prompts_move_with_the_frame() -> None:
    ct_slice = slice_with((40, 60), (1.0, 1.0))
    frame = frame_slice(ct_slice)
    mask = np.zeros((40, 60), bool)
    mask[12, 30] = True
    moved = frame.prompt_to_frame(
        Prompt(points_xy=[[30, 12]], labels=[0], box_xyxy=(10, 5, 50, 30), mask=mask)
    )
    x, y = frame.offset_xy
    assert moved.points_xy.tolist() == [[30 - x, 12 - y]]
    assert moved.labels.tolist() == [0]
    assert moved.box_xyxy == (10 - x, 5 - y, 50 - x, 30 - y)
    assert moved.mask[12 - y, 30 - x]
    assert moved.mask.sum() == 1


def test_a_negative_point_beyond_the_frame_is_left_out() -> None:
    small = frame_slice(slice_with((40, 60), (1.0, 1.0)), focus_box_xyxy=(10, 10, 20, 20), margin=0)
    moved = small.prompt_to_frame(Prompt(points_xy=[[40, 35], [15, 15]], labels=[0, 1]))
    assert moved.points_xy.tolist() == [[15 - small.offset_xy[0], 15 - small.offset_xy[1]]]
    assert moved.labels.tolist() == [1]


@pytest.mark.parametrize(("height", "spacing"), [(60, (2.0, 2.0)), (50, (5.0, 1.0)), (400, (2.0, 2.0))])
def test_a_sagittal_frame_has_a_fixed_size_and_holds_what_is_looked_at(
    height: int, spacing: tuple[float, float]
) -> None:
    ct_slice = slice_with((height, 120), spacing)
    for row in np.linspace(0, height - 1, 7):
        frame = frame_sagittal(ct_slice, at_xy=(60.0, row))
        assert frame.side_px * frame.pixel_mm == pytest.approx(SAGITTAL_SIDE_MM, abs=frame.pixel_mm)
        x, y = frame.points_to_frame([(60.0, row)])[0]
        assert -0.5 <= x <= frame.side_px - 0.5
        assert -0.5 <= y <= frame.side_px - 0.5


def test_near_clicks_share_a_sagittal_frame() -> None:
    ct_slice = slice_with((400, 120), (2.0, 2.0))
    places = {frame_sagittal(ct_slice, at_xy=(60.0, row)).offset_xy for row in range(400)}
    # 800 mm: windows of 380 mm at steps of at most 95 mm.
    assert len(places) == 6
    assert frame_sagittal(ct_slice).offset_xy in places


def test_what_cannot_be_framed() -> None:
    ct_slice = slice_with((40, 60), (1.0, 1.0))
    with pytest.raises(InputError, match="no area"):
        frame_slice(ct_slice, focus_box_xyxy=(5, 5, 5, 9))
    with pytest.raises(InputError, match="negative"):
        frame_slice(ct_slice, margin=-0.1)
    with pytest.raises(AnatomyNotFound):
        frame_slice(CTSlice(hu=np.full((40, 40), -1000), spacing_mm=(1.0, 1.0)))
    small = frame_slice(ct_slice, focus_box_xyxy=(10, 10, 20, 20))
    with pytest.raises(InputError, match="outside the square"):
        small.prompt_to_frame(Prompt.point(40, 35))
    with pytest.raises(InputError, match="another shape"):
        small.mask_to_slice(np.zeros((3, 3), bool))
