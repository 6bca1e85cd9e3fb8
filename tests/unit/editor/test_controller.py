"""Gestures, keys and what observers receive."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctai_sam2.editor import ACTIONS, L3, MIDDLE, Change, Controller, render_overlay
from ctai_sam2.editor import commands as do
from ctai_sam2.editor.replay import restore
from ctai_sam2.errors import InputError, StorageError
from ctai_sam2.image.contours import Polygon, polygons_to_mask
from ctai_sam2.image.windowing import PRESETS
from tests.unit.editor.making import make_document, make_slice, make_volume, state_of


def make_controller(tool: str = "brush", **options: Any) -> Controller:
    controller = Controller(make_document(**options.pop("document", {})), **options)
    controller.adjust(tool=tool, active=options.pop("active", "muscle"))
    controller.resize(300, 200)
    return controller


def drag(controller: Controller, *points: tuple[float, float], **press: Any) -> None:
    controller.press(*points[0], space="image", **press)
    for point in points[1:]:
        controller.move(*point, space="image")
    controller.release(*points[-1], space="image")


def area(controller: Controller) -> int:
    return int(controller.document.mask("muscle").sum())


def test_a_drag_is_one_stroke_and_one_step() -> None:
    controller = make_controller()
    drag(controller, (3, 3), (9, 3), (15, 8))
    assert controller.document.mask("muscle")[3, 3]
    assert controller.document.mask("muscle")[8, 15]
    assert [edit.name for edit in controller.document.history.done] == ["edit.paint"]
    controller.undo()
    assert area(controller) == 0


def test_a_stroke_shows_before_it_is_done() -> None:
    controller = make_controller()
    controller.press(3, 3, space="image")
    controller.move(9, 3, space="image")
    preview = controller.preview
    assert (preview.kind, preview.points_xy, preview.radius_mm) == ("stroke", ((3, 3), (9, 3)), 4.0)
    assert area(controller) == 0
    controller.key("Escape")
    controller.release(9, 3, space="image")
    assert (controller.preview.kind, area(controller)) == ("none", 0)


@pytest.mark.parametrize(
    ("tool", "press"),
    [("eraser", {}), ("brush", {"button": "right"}), ("brush", {"modifiers": frozenset({"shift"})})],
)
def test_eraser_right_button_and_shift_erase(tool: str, press: dict[str, Any]) -> None:
    controller = make_controller()
    drag(controller, (10, 10), (15, 10))
    controller.adjust(tool=tool)
    drag(controller, (10, 10), (15, 10), **press)
    assert area(controller) == 0


def test_leaving_ends_a_stroke_where_it_left() -> None:
    controller = make_controller()
    controller.press(25, 10, space="image")
    controller.move(40, 10, space="image")
    controller.leave()
    assert controller.document.mask("muscle")[10, 29]
    controller.move(5, 5, space="image")
    controller.release(5, 5, space="image")
    assert len(controller.document.history.done) == 1
    assert not controller.document.mask("muscle")[5, 5]


def test_a_lost_release_ends_the_gesture_at_the_next_press() -> None:
    controller = make_controller()
    controller.press(3, 3, space="image")
    drag(controller, (20, 15), (22, 15))
    assert [edit.name for edit in controller.document.history.done] == ["edit.paint"] * 2


def test_clicks_are_positive_or_negative() -> None:
    controller = make_controller("click")
    controller.press(3, 4, space="image")
    controller.press(5, 6, space="image", button="right")
    controller.key("n")
    controller.press(7, 8, space="image")
    controller.press(70, 8, space="image")
    marks = controller.document.marks("muscle")
    assert [(p.x, p.y, p.positive) for p in marks.points] == [(3, 4, True), (5, 6, False), (7, 8, False)]
    assert controller.run_message.text("en") == "Run (3 points)"
    controller.do("clear_prompts")
    assert controller.run_message.text("zh") == "一键分割"
    controller.undo()
    assert len(controller.document.marks("muscle").points) == 3


def click_polygon(controller: Controller, *corners: tuple[float, float]) -> None:
    for corner in corners:
        controller.press(*corner, space="image")
        controller.release(*corner, space="image")


def test_a_polygon_closes_near_its_first_corner() -> None:
    controller = make_controller("polygon")
    click_polygon(controller, (3, 3), (12, 3), (12, 11))
    controller.move(3.4, 3.3, space="image")
    assert controller.preview.closable
    assert len(controller.preview.points_xy) == 3
    click_polygon(controller, (3.4, 3.3))
    assert controller.document.mask("muscle")[5, 10]
    assert controller.preview.kind == "none"
    assert [edit.name for edit in controller.document.history.done] == ["edit.fill_polygon"]


def test_a_polygon_does_not_close_with_two_corners_and_escape_and_backspace_work() -> None:
    controller = make_controller("polygon")
    click_polygon(controller, (3, 3), (12, 3), (3.1, 3.1))
    assert len(controller.preview.points_xy) == 3
    controller.key("Backspace")
    assert len(controller.preview.points_xy) == 2
    controller.leave()
    assert len(controller.preview.points_xy) == 2
    controller.key("Enter")
    assert len(controller.preview.points_xy) == 2
    controller.key("Escape")
    assert controller.preview.kind == "none"
    assert area(controller) == 0


@pytest.mark.parametrize("how", ["double", "enter"])
def test_a_polygon_closes_by_double_click_and_enter(how: str) -> None:
    controller = make_controller("polygon")
    click_polygon(controller, (3, 3), (12, 3), (12, 11))
    if how == "double":
        click_polygon(controller, (12, 11))
        controller.double_click(12, 11, space="image")
    else:
        controller.key("Enter")
    triangle = Polygon(exterior_xy=np.array([(3, 3), (12, 3), (12, 11)]))
    expected = polygons_to_mask([triangle], controller.document.shape_hw)
    assert np.array_equal(controller.document.mask("muscle"), expected)


def test_a_double_click_on_the_first_corner_leaves_no_stray_corner() -> None:
    controller = make_controller("polygon")
    click_polygon(controller, (3, 3), (12, 3), (12, 11), (3, 3), (3, 3))
    controller.double_click(3, 3, space="image")
    assert controller.preview.kind == "none"
    assert len(controller.document.history.done) == 1


def test_lasso_rectangle_and_flood() -> None:
    controller = make_controller("lasso")
    drag(controller, (2, 2), (10, 2), (10, 10), (2, 10))
    assert area(controller) == 64
    controller.key("Delete")
    controller.key("r")
    drag(controller, (2, 2), (5, 6))
    assert area(controller) == 20
    drag(controller, (2, 2), (5, 2.4), modifiers=frozenset({"shift"}))
    assert area(controller) == 16
    drag(controller, (9, 9), (9, 9))
    assert area(controller) == 16
    controller.key("f")
    controller.press(20, 10, space="image")
    assert controller.document.mask("muscle")[10, 20]
    assert area(controller) > 16
    controller.press(-5, 10, space="image")


def test_ruler_and_region_measure_in_millimetres() -> None:
    controller = make_controller("ruler", document={"source": make_slice(spacing_mm=(2.0, 0.5))})
    drag(controller, (4, 5), (10, 7))
    assert controller.measurement is not None
    assert controller.measurement.values["length"] == "5.0"
    controller.adjust(tool="roi")
    drag(controller, (4, 5), (10, 9))
    assert controller.measurement is not None
    hu = controller.document.slice.hu
    rows, columns = np.indices(hu.shape)
    inside = ((columns - 7) / 3) ** 2 + ((rows - 7) / 2) ** 2 <= 1
    assert controller.measurement.values["mean"] == f"{hu[inside].mean():.0f}"
    assert controller.measurement.values["area"] == f"{inside.sum():.0f}"
    assert not controller.document.history.done
    controller.key("Escape")
    assert controller.measurement is None


def test_read_out() -> None:
    controller = make_controller()
    controller.move(7.3, 4.2, space="image")
    assert controller.readout is not None
    assert (controller.readout.column, controller.readout.row) == (7, 4)
    assert controller.readout.hu == controller.document.slice.hu[4, 7]
    controller.move(-3, 4, space="image")
    assert controller.readout is None


def test_middle_button_and_space_pan_whatever_the_tool() -> None:
    controller = make_controller()
    for hold in (False, True):
        before = controller.document.view.viewport.pan_xy
        if hold:
            controller.key(" ")
        controller.press(100, 100, button="left" if hold else "middle")
        controller.move(110, 95)
        controller.release(110, 95)
        after = controller.document.view.viewport.pan_xy
        assert (after[0] - before[0], after[1] - before[1]) == pytest.approx((10, -5))
    controller.key(" ", pressed=False)
    assert area(controller) == 0
    controller.press(100, 100)
    controller.release(100, 100)
    assert area(controller) > 0


def test_window_drag_presets_brush_and_zoom_keys() -> None:
    controller = make_controller("window")
    controller.press(100, 100)
    controller.move(150, 90)
    controller.release(150, 90)
    assert (controller.document.view.window.width, controller.document.view.window.level) == (500, 30)
    controller.key("4")
    assert controller.document.view.window == PRESETS["bone"]
    controller.key("]")
    assert controller.document.view.brush_radius_mm == 5.0
    for _ in range(50):
        controller.key("[")
    assert controller.document.view.brush_radius_mm == 0.2
    controller.move(30, 40)
    at = controller.document.view.viewport.to_image(30, 40)
    controller.wheel(3)
    assert controller.document.view.viewport.to_image(30, 40) == pytest.approx(at)
    controller.key("0")
    assert controller.document.view.viewport == controller.document.view.viewport.fitted()


def test_a_locked_label_is_received_and_kept() -> None:
    controller = make_controller()
    controller.do("toggle_lock")
    drag(controller, (3, 3), (9, 3))
    assert controller.message is not None
    assert controller.message.text("en") == "All muscle (combo) is locked."
    assert area(controller) == 0


def test_undo_leaves_a_locked_label_alone() -> None:
    controller = make_controller()
    drag(controller, (3, 3), (9, 3))
    painted = area(controller)
    controller.do("toggle_lock")
    assert not controller.undo()
    assert area(controller) == painted
    controller.do("toggle_lock")
    assert controller.undo()
    assert area(controller) == 0


def test_scrolling_and_copying_from_the_neighbour() -> None:
    controller = make_controller(document={"source": make_volume(), "index": 1})
    drag(controller, (3, 3), (9, 3))
    painted = area(controller)
    controller.key("PageUp")
    assert (controller.document.index, area(controller)) == (2, 0)
    controller.key("PageDown", frozenset({"shift"}))
    assert area(controller) == painted
    for _ in range(9):
        controller.wheel(1, scroll_slices=True)
    assert controller.document.index == 3
    controller.do("copy_above")
    assert controller.message is not None
    assert controller.message.key == "status.refused"


def test_observers_are_received_and_a_broken_one_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    controller = make_controller()
    received: list[Change] = []

    def broken(change: Change) -> None:
        raise RuntimeError("cannot draw")

    controller.subscribe(broken)
    stop = controller.subscribe(received.append)
    with caplog.at_level(logging.CRITICAL):
        drag(controller, (3, 3), (9, 3))
    [change] = [each for each in received if "mask" in each.aspects]
    assert change.label == "muscle"
    assert change.dirty_box == (0, 0, 13, 7)
    stop()
    received.clear()
    controller.undo()
    assert received == []


class BrokenRecord:
    def __init__(self) -> None:
        self.events: list[Any] = []
        self.broken = False

    def append(self, event: Any) -> None:
        self.events.append(event)
        if self.broken:
            raise StorageError("the disk is full")

    def replay(self) -> list[Any]:
        return []

    def compact(self, snapshot: Any) -> None:
        self.events = [{"type": "snapshot", "state": snapshot}]


def test_a_record_that_cannot_save_is_received_and_tried_again() -> None:
    record = BrokenRecord()
    controller = make_controller(record=record)
    record.broken = True
    drag(controller, (3, 3), (9, 3))
    assert controller.unsaved
    assert area(controller) > 0
    assert controller.message is not None
    assert "the disk is full" in controller.message.text("en")
    record.broken = False
    controller.undo()
    assert not controller.unsaved
    assert [event["type"] for event in record.events] == ["edit", "undo"]
    assert controller.compact_record()
    copy = make_document()
    restore(copy, record.events)
    assert state_of(copy) == state_of(controller.document)
    assert copy.redo()


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-2000, 2000)
modifiers = st.frozensets(st.sampled_from(["shift", "ctrl", "alt", "meta"]), max_size=2)
events = st.one_of(
    st.tuples(st.just("press"), numbers, numbers, st.sampled_from(["left", "right", "middle"]), modifiers),
    st.tuples(st.sampled_from(["move", "release", "double_click", "wheel"]), numbers, numbers),
    st.tuples(st.just("leave")),
    st.tuples(st.just("key"), st.sampled_from(["q", *(k for a in ACTIONS for k in a.keys)]), modifiers),
    st.tuples(st.just("do"), st.sampled_from([action.name for action in ACTIONS])),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([L3, MIDDLE]), st.lists(events, max_size=30))
def test_no_event_anywhere_at_any_zoom_raises(profile: Any, happened: list[Any]) -> None:
    controller = Controller(make_document(profile))
    for name, *values in happened:
        if name == "press":
            controller.press(values[0], values[1], button=values[2], modifiers=values[3])
        elif name == "wheel":
            controller.wheel(values[0], values[1], 3.0)
        else:
            getattr(controller, name)(*values)
        assert controller.preview is not None
        assert controller.measurement is None or controller.measurement.text("zh")
        assert controller.message is None or controller.message.text("en")
    while controller.undo():
        pass
    assert not any(controller.document.mask(label).any() for label in controller.document.labels)


@settings(max_examples=40, deadline=None)
@given(st.lists(events, max_size=15), st.booleans())
def test_repainting_dirty_boxes_gives_what_painting_all_gives(happened: list[Any], outline: bool) -> None:
    controller = Controller(make_document())
    controller.adjust(outline_only=outline)
    canvas = render_overlay(controller.document)[0]

    def repaint(change: Change) -> None:
        whole = bool(change.aspects & {"view", "labels", "slice"})
        if whole or change.dirty_box is not None:
            rgba, x0, y0 = render_overlay(controller.document, None if whole else change.dirty_box)
            canvas[y0 : y0 + rgba.shape[0], x0 : x0 + rgba.shape[1]] = rgba

    controller.subscribe(repaint)
    for name, *values in happened:
        if name == "press":
            controller.press(values[0], values[1], button=values[2], modifiers=values[3])
        elif name in ("do", "leave", "key", "move", "release"):
            getattr(controller, name)(*values)
    assert np.array_equal(canvas, render_overlay(controller.document)[0])


def test_an_unknown_action_is_an_error_and_an_unknown_key_is_not() -> None:
    controller = make_controller()
    assert not controller.key("F9")
    with pytest.raises(InputError, match="no such action"):
        controller.do("fly")


def test_commands_by_script_are_steps_like_any() -> None:
    controller = make_controller()
    change = controller.apply(do.FillRectangle(label="muscle", box_xyxy=(1, 1, 3, 3)))
    assert change.dirty_box == (1, 1, 3, 3)
    assert controller.undo().dirty_box == (1, 1, 3, 3)
