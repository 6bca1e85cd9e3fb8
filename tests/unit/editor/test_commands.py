"""Commands, undo and redo: what changes, which notifications follow, what comes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion

from ctai_sam2.editor import L3, apply
from ctai_sam2.editor import commands as do
from ctai_sam2.editor.document import Document
from ctai_sam2.errors import InputError
from ctai_sam2.image.contours import polygons_to_mask
from ctai_sam2.image.masks import label_components
from ctai_sam2.measure.definitions import HuRange
from tests.unit.editor.making import LABELS, edits, make_document, make_slice, make_volume, state_of

BLOCK = do.FillRectangle(label="muscle", box_xyxy=(5, 5, 9, 9))


@settings(max_examples=60, deadline=None)
@given(st.lists(edits, max_size=8))
def test_undo_all_is_the_start_and_redo_all_the_end(commands: list[do.Command]) -> None:
    document = make_document()
    states = [state_of(document)]
    for command in commands:
        _, edit, _ = apply(document, command)
        if edit is not None:
            states.append(state_of(document))
        else:
            assert state_of(document) == states[-1]
    for state in reversed(states[:-1]):
        assert document.undo()
        assert state_of(document) == state
    assert not document.undo()
    for state in states[1:]:
        assert document.redo()
        assert state_of(document) == state
    assert not document.redo()


@settings(max_examples=60, deadline=None)
@given(st.lists(edits, max_size=5), st.booleans())
def test_dirty_boxes_hold_every_changed_pixel_and_no_box_tells_of_none(
    commands: list[do.Command], undo: bool
) -> None:
    document = make_document()
    for command in commands:
        for act in (lambda c=command: apply(document, c)[0], document.undo, document.redo)[
            : 3 if undo else 1
        ]:
            before = {label: document.mask(label) for label in LABELS}
            change = act()
            for label in LABELS:
                rows, columns = np.nonzero(before[label] ^ document.mask(label))
                assert (label in change.boxes) == (rows.size > 0)
                if rows.size:
                    tight = (columns.min(), rows.min(), columns.max(), rows.max())
                    assert change.boxes[label] == tight
                    box = change.dirty_box
                    assert box is not None
                    assert (np.array(box[:2]) <= tight[:2]).all()
                    assert (np.array(box[2:]) >= tight[2:]).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(edits, max_size=6), st.sampled_from(LABELS))
def test_a_locked_label_never_changes(commands: list[do.Command], locked: str) -> None:
    document = make_document()
    apply(document, replace(BLOCK, label=locked))
    document.adjust_label(locked, locked=True)
    mask = document.mask(locked)
    for command in commands:
        apply(document, command)
    assert np.array_equal(document.mask(locked), mask)
    assert not document.marks(locked)


def test_a_refusal_is_named() -> None:
    document = make_document()
    document.adjust_label("muscle", locked=True)
    change, edit, _ = apply(document, BLOCK)
    assert (bool(change), change.refused, edit) == (False, ("muscle",), None)


@settings(max_examples=40, deadline=None)
@given(st.lists(edits, min_size=1, max_size=6))
def test_a_limit_adds_no_pixel_outside_its_range(commands: list[do.Command]) -> None:
    document = make_document()
    document.adjust(limit=HuRange(low_hu=-29, high_hu=150))
    outside = (document.slice.hu < -29) | (document.slice.hu > 150)
    for command in commands:
        apply(document, command)
        assert not any((document.mask(label) & outside).any() for label in LABELS)


def test_a_limit_does_not_keep_anything_from_being_erased() -> None:
    document = make_document()
    apply(document, BLOCK)
    document.adjust(limit=HuRange(low_hu=149, high_hu=150))
    apply(document, replace(BLOCK, erase=True))
    assert not document.mask("muscle").any()


@pytest.mark.parametrize(("spacing", "rows", "columns"), [((1.0, 1.0), 7, 7), ((3.0, 1.0), 3, 7)])
def test_a_dab_is_round_in_millimetres(spacing: tuple[float, float], rows: int, columns: int) -> None:
    document = make_document(source=make_slice(spacing_mm=spacing))
    apply(document, do.Paint(label="muscle", points_xy=((10, 10),), radius_mm=3))
    mask = document.mask("muscle")
    assert (mask.any(1).sum(), mask.any(0).sum()) == (rows, columns)


def test_the_thinnest_stroke_has_no_gap() -> None:
    document = make_document()
    apply(document, do.Paint(label="muscle", points_xy=((2, 3), (27, 14)), radius_px=0))
    assert label_components(document.mask("muscle"))[1] == 1
    assert document.mask("muscle")[3, 2]
    assert document.mask("muscle")[14, 27]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 29), st.floats(0, 19)), min_size=1, max_size=4), st.floats(0.8, 5))
def test_a_stroke_is_every_pixel_within_the_radius(points: list[tuple[float, float]], radius: float) -> None:
    document = make_document()
    apply(document, do.Paint(label="muscle", points_xy=tuple(points), radius_mm=radius))
    rows, columns = np.indices(document.shape_hw)
    nearest = np.full(document.shape_hw, np.inf)
    for start, end in zip(points, points[1:] or points, strict=False):
        for t in np.linspace(0, 1, 200):
            x, y = start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])
            nearest = np.minimum(nearest, np.hypot(columns - x, rows - y))
    mask = document.mask("muscle")
    assert mask[nearest <= radius - 0.1].all()
    assert not mask[nearest > radius + 0.1].any()


@settings(max_examples=40, deadline=None)
@given(st.lists(edits, max_size=5))
def test_polygons_of_a_mask_give_the_mask_back(commands: list[do.Command]) -> None:
    document = make_document()
    for command in commands:
        apply(document, command)
    for label in LABELS:
        exact = polygons_to_mask(document.polygons(label), document.shape_hw)
        assert np.array_equal(exact, document.mask(label))
        drift = polygons_to_mask(document.polygons(label, tolerance_px=0.5), document.shape_hw)
        core, hull = binary_erosion(exact, np.ones((3, 3))), binary_dilation(exact, np.ones((3, 3)))
        assert (drift <= hull).all()
        assert (drift >= core).all()


def test_flood_fill_stays_connected_and_in_range() -> None:
    hu = np.full((6, 8), 40, np.int16)
    hu[:, 4] = -100
    document = make_document(source=replace(make_slice((6, 8)), hu=hu))
    fill = do.FloodFill(label="muscle", x=1, y=1, limits=HuRange(low_hu=-29, high_hu=150))
    apply(document, fill)
    assert document.mask("muscle").sum() == 24
    assert apply(document, replace(fill, x=4))[1] is None
    apply(document, replace(fill, erase=True))
    assert not document.mask("muscle").any()


def test_erasing_by_flood_stays_within_the_mask() -> None:
    document = make_document(source=replace(make_slice((6, 9)), hu=np.full((6, 9), 40, np.int16)))
    for box in ((0, 0, 2, 5), (6, 0, 8, 5)):
        apply(document, do.FillRectangle(label="muscle", box_xyxy=box))
    limits = HuRange(low_hu=-29, high_hu=150)
    apply(document, do.FloodFill(label="muscle", x=1, y=1, limits=limits, erase=True))
    assert document.rectangles("muscle") == [(6, 0, 8, 5)]


def test_l3_takes_several_rectangles_and_gives_them_back() -> None:
    document = make_document(L3)
    for box in ((1, 1, 4, 4), (10, 2, 15, 9)):
        apply(document, do.FillRectangle(label="l3", box_xyxy=box))
    assert document.rectangles("l3") == [(1, 1, 4, 4), (10, 2, 15, 9)]
    document.undo()
    assert document.rectangles("l3") == [(1, 1, 4, 4)]


def test_a_compound_is_one_step_and_each_part_sees_the_one_before() -> None:
    document = make_document()
    grow = do.Grow(label="muscle", distance_mm=1)
    apply(document, do.Compound(commands=(BLOCK, grow, grow)))
    assert document.mask("muscle").any(0).sum() == 9
    assert len(document.history.done) == 1
    document.undo()
    assert not document.mask("muscle").any()


def test_points_outside_and_boxes_without_area_are_not_taken() -> None:
    document = make_document()
    for command in (
        do.AddPoint(label="muscle", x=-0.6, y=3),
        do.AddBox(label="muscle", box_xyxy=(4, 4, 4, 9)),
        do.AddBox(label="muscle", box_xyxy=(40, 4, 50, 9)),
    ):
        assert not apply(document, command)[0]
    apply(document, do.AddBox(label="muscle", box_xyxy=(25, 15, -90, 400)))
    prompt = document.marks("muscle").to_prompt()
    assert prompt is not None
    prompt.require_within(document.shape_hw)
    assert prompt.box_xyxy == (-0.5, 15, 25, 19.5)
    apply(document, do.AddBox(label="muscle", box_xyxy=(400, -7, 20, 3)))
    assert document.marks("muscle").box_xyxy == (20, -0.5, 29.5, 3)


def test_memory_is_bounded_and_forgetting_is_told() -> None:
    document = make_document(history_bytes=3000)
    dropped = []
    for x in range(8):
        dropped.append(apply(document, do.Paint(label="muscle", points_xy=((x * 3, 5),), radius_px=1))[2])
    assert sum(dropped) == document.history.dropped > 0
    assert document.history.nbytes <= 3000
    steps = 0
    while document.undo():
        steps += 1
    assert steps == 8 - sum(dropped)
    assert document.mask("muscle").any()


def test_a_new_edit_forgets_what_was_undone() -> None:
    document = make_document()
    apply(document, BLOCK)
    document.undo()
    apply(document, replace(BLOCK, box_xyxy=(0, 0, 2, 2)))
    assert not document.redo()


def test_masks_cannot_be_changed_from_outside() -> None:
    document = make_document()
    apply(document, BLOCK)
    with pytest.raises(ValueError, match="read-only"):
        document.mask("muscle")[0, 0] = True
    with pytest.raises(ValueError, match="read-only"):
        document.mask("psoas_left")[0, 0] = True


def test_an_error_changes_nothing() -> None:
    document = make_document()
    before = state_of(document)
    bad = do.Compound(commands=(BLOCK, do.SetMask(label="muscle", mask=np.ones((3, 3), bool))))
    with pytest.raises(InputError):
        apply(document, bad)
    with pytest.raises(InputError, match="no such label"):
        apply(document, do.Clear(label="liver"))
    assert state_of(document) == before
    assert not document.history.done


def test_slices_of_a_volume_are_apart_and_undo_goes_where_it_was() -> None:
    document = make_document(source=make_volume(), index=1)
    apply(document, BLOCK)
    document.go_to(2)
    assert not document.mask("muscle").any()
    apply(document, do.copied_mask(document, "muscle", 1))
    assert np.array_equal(document.mask("muscle"), document.mask("muscle", 1))
    document.go_to(3)
    change = document.undo()
    assert (document.index, change.index) == (2, 2)
    assert "slice" in change.aspects
    assert document.indices == (1,)
    with pytest.raises(InputError, match="nothing is outlined"):
        do.copied_mask(document, "muscle", 3)


def test_a_slice_of_another_plane_is_refused() -> None:
    with pytest.raises(InputError, match="axial"):
        Document(make_slice(plane="sagittal"), make_document().profile)
