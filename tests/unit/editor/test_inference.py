"""Requests to a model while the reader continues."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import pytest

from ctai_sam2.editor import Controller, MaskCandidates, Message
from ctai_sam2.editor import commands as do
from ctai_sam2.editor.authorship import hand_share
from ctai_sam2.errors import ServiceTimeout
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.types import Prompt
from tests.fakes import FakeSegmenter
from tests.unit.editor.making import SHAPE, make_document, make_volume


class ScriptedSource:
    """Makes masks at once, or when released; records its requests."""

    def __init__(self, *, waits: bool = False, error: Exception | None = None, candidates: int = 3) -> None:
        self.prompts: list[tuple[str, Prompt | None]] = []
        self.error = error
        self.go, self.begun = threading.Event(), threading.Event()
        self.candidates = candidates
        if not waits:
            self.go.set()

    def __call__(self, ct_slice: Any, label: str, prompt: Prompt | None, revision: int) -> MaskCandidates:
        self.prompts.append((label, prompt))
        self.begun.set()
        assert self.go.wait(30)
        if self.error is not None:
            raise self.error
        masks = []
        for number in range(self.candidates):
            mask = np.zeros(ct_slice.shape_hw, bool)
            mask[2 : 6 + number, 3:9] = True
            masks.append(mask)
        return MaskCandidates(
            masks=tuple(masks),
            scores=(0.9, 0.8, 0.7)[: self.candidates],
            processing_time_ms=120.0,
            backend="fake",
        )


def make(mask_source: Any, **options: Any) -> Controller:
    controller = Controller(make_document(**options), mask_source=mask_source)
    controller.adjust(active="muscle", tool="brush")
    return controller


def area(controller: Controller, label: str = "muscle") -> int:
    return int(controller.document.mask(label).sum())


def test_one_click_needs_no_point_and_is_one_step() -> None:
    mask_source = ScriptedSource()
    controller = make(mask_source)
    assert controller.run()
    assert controller.inference.wait(30)
    status = controller.inference.status
    assert mask_source.prompts == [("muscle", None)]
    assert (status.state, status.confidence, status.backend, status.candidates) == ("idle", 0.9, "fake", 3)
    assert status.processing_time_ms == 120.0
    assert status.message is not None
    assert "90%" in status.message.text("en")
    assert area(controller) == 24
    controller.undo()
    assert area(controller) == 0


def test_points_box_and_mask_reach_the_model() -> None:
    mask_source = ScriptedSource()
    controller = make(mask_source)
    controller.apply(do.AddPoint(label="muscle", x=3, y=4))
    controller.apply(do.AddPoint(label="muscle", x=9, y=9, positive=False))
    controller.apply(do.AddBox(label="muscle", box_xyxy=(1, 1, 12, 12)))
    controller.run()
    controller.inference.wait(30)
    controller.run(refine=True)
    controller.inference.wait(30)
    first, second = (prompt for _, prompt in mask_source.prompts)
    assert first is not None
    assert first.points_xy.tolist() == [[3, 4], [9, 9]]
    assert first.labels.tolist() == [1, 0]  # type: ignore[union-attr]
    assert (first.box_xyxy, first.mask) == ((1, 1, 12, 12), None)
    assert second is not None
    assert np.array_equal(second.mask, controller.document.mask("muscle"))  # type: ignore[arg-type]


def test_a_group_is_found_in_one_step() -> None:
    mask_source = ScriptedSource()
    controller = make(mask_source)
    controller.run("psoas")
    controller.inference.wait(30)
    assert [label for label, _ in mask_source.prompts] == ["psoas_left", "psoas_right"]
    assert area(controller, "psoas_left") == area(controller, "psoas_right") == 24
    controller.undo()
    assert area(controller, "psoas_left") == area(controller, "psoas_right") == 0


def test_the_brush_works_while_inference_runs_and_other_labels_do_not_make_it_stale() -> None:
    mask_source = ScriptedSource(waits=True)
    controller = make(mask_source)
    controller.run()
    assert mask_source.begun.wait(30)
    assert controller.inference.status.state == "running"
    controller.adjust(active="psoas_left")
    controller.press(15, 15, space="image")
    controller.release(20, 15, space="image")
    painted = area(controller, "psoas_left")
    assert painted > 0
    mask_source.go.set()
    assert controller.inference.wait(30)
    assert (area(controller), area(controller, "psoas_left")) == (24, painted)


@pytest.mark.parametrize("what", ["paint", "point", "cancel", "lock"])
def test_a_stale_result_is_dropped(what: str) -> None:
    mask_source = ScriptedSource(waits=True)
    controller = make(mask_source, source=make_volume(), index=1)
    controller.run()
    assert mask_source.begun.wait(30)
    if what == "paint":
        # Over what the model finds; elsewhere it would be kept next to the result.
        controller.apply(do.FillRectangle(label="muscle", box_xyxy=(0, 0, 29, 19)))
    elif what == "point":
        controller.apply(do.AddPoint(label="muscle", x=3, y=4))
    elif what == "cancel":
        controller.key("Escape")
    else:
        controller.adjust_label("muscle", locked=True)
    mask = controller.document.mask("muscle", 1)
    mask_source.go.set()
    assert controller.inference.wait(30)
    assert np.array_equal(controller.document.mask("muscle", 1), mask)
    assert not controller.document.mask("muscle", 2).any()
    status = controller.inference.status
    assert status.state == "idle"
    assert status.message is not None
    assert status.message.key == ("ai.cancelled" if what == "cancel" else "ai.stale")


def test_a_newer_request_makes_the_older_one_stale() -> None:
    mask_source = ScriptedSource(waits=True)
    controller = make(mask_source)
    controller.run()
    assert mask_source.begun.wait(30)
    controller.run("psoas_left")
    mask_source.go.set()
    assert controller.inference.wait(30)
    assert (area(controller), area(controller, "psoas_left")) == (0, 24)


@pytest.mark.parametrize("accepted", [True, False])
def test_hand_work_is_replaced_only_when_confirmed(accepted: bool) -> None:
    mask_source = ScriptedSource()
    controller = make(mask_source)
    controller.apply(do.FillRectangle(label="muscle", box_xyxy=(0, 0, 1, 1)))
    assert not controller.run()
    assert controller.confirmation is not None
    assert "replace" in controller.confirmation.message.text("en")
    assert mask_source.prompts == []
    controller.resolve_confirmation(accepted)
    assert controller.confirmation is None
    controller.inference.wait(30)
    assert area(controller) == (24 if accepted else 4)


def test_a_confirmation_holds_for_the_slice_it_was_opened_on() -> None:
    mask_source = ScriptedSource()
    controller = make(mask_source, source=make_volume(), index=1)
    controller.apply(do.FillRectangle(label="muscle", box_xyxy=(0, 0, 1, 1)))
    assert not controller.run()
    controller.go_to(2)
    controller.resolve_confirmation(True)
    assert controller.inference.wait(30)
    assert mask_source.prompts == []


def test_the_models_own_mask_is_refined_without_a_question_and_an_edited_one_is_not() -> None:
    controller = make(ScriptedSource())
    controller.apply(do.AddPoint(label="muscle", x=3, y=4))
    assert controller.run()
    controller.inference.wait(30)
    assert controller.run()
    controller.inference.wait(30)
    controller.apply(do.Paint(label="muscle", points_xy=((20, 15),), radius_mm=1))
    assert not controller.run()
    controller.key("Escape")
    assert controller.confirmation is None


def test_one_click_replaces_the_models_own_mask_without_a_question() -> None:
    controller = make(ScriptedSource())
    controller.run()
    controller.inference.wait(30)
    assert controller.run()
    assert controller.confirmation is None
    controller.inference.wait(30)
    controller.apply(do.Paint(label="muscle", points_xy=((20, 15),), radius_mm=1))
    assert not controller.run()
    assert controller.confirmation is not None
    controller.resolve_confirmation(False)
    controller.undo()
    assert controller.run()


def test_a_stroke_elsewhere_and_another_slice_in_view_do_not_drop_the_result() -> None:
    mask_source = ScriptedSource(waits=True)
    controller = make(mask_source, source=make_volume(), index=1)
    controller.run()
    assert mask_source.begun.wait(30)
    controller.apply(do.Paint(label="muscle", points_xy=((20, 15),), radius_mm=1))
    drawn = controller.document.mask("muscle", 1)
    controller.go_to(2)
    mask_source.go.set()
    assert controller.inference.wait(30)
    mask = controller.document.mask("muscle", 1)
    assert mask.sum() == 24 + drawn.sum()
    assert (mask & drawn).sum() == drawn.sum()
    assert not controller.document.mask("muscle", 2).any()
    assert controller.document.index == 2
    assert hand_share(controller.document, 1) == pytest.approx(drawn.sum() / mask.sum())
    for expected in (24, drawn.sum(), 0):
        controller.undo()
        assert controller.document.mask("muscle", 1).sum() == expected


def test_candidates_cycle_as_undoable_steps_and_ask_before_replacing_edits() -> None:
    controller = make(ScriptedSource())
    controller.key(".")
    assert controller.inference.status.message == Message("ai.no_candidates")
    controller.run()
    controller.inference.wait(30)
    areas = []
    for key in (".", ".", ".", ","):
        controller.key(key)
        areas.append(area(controller))
    assert areas == [30, 36, 24, 36]
    assert controller.inference.status.confidence == 0.7
    controller.undo()
    assert area(controller) == 24
    controller.apply(do.Paint(label="muscle", points_xy=((20, 15),), radius_mm=1))
    controller.key(".")
    assert controller.confirmation is not None


def test_a_failure_keeps_everything_and_can_be_retried(caplog: pytest.LogCaptureFixture) -> None:
    mask_source = ScriptedSource(error=ServiceTimeout("no response within 30 s"))
    controller = make(mask_source)
    controller.apply(do.AddPoint(label="muscle", x=3, y=4))
    controller.run()
    controller.inference.wait(30)
    status = controller.inference.status
    assert status.state == "failed"
    assert status.message is not None
    assert "no response within 30 s" in status.message.text("zh")
    assert len(controller.document.marks("muscle").points) == 1
    with caplog.at_level(logging.CRITICAL):
        mask_source.error = KeyError("inner")
        controller.do("retry")
        controller.inference.wait(30)
    assert controller.inference.status.state == "failed"
    mask_source.error = None
    controller.do("retry")
    controller.inference.wait(30)
    assert (controller.inference.status.state, area(controller)) == ("idle", 24)


def test_without_a_segmenter_one_click_is_disabled_with_its_reason() -> None:
    controller = make(None)
    assert not controller.run()
    assert controller.inference.status.state == "disabled"
    assert controller.inference.status.message == Message("ai.no_segmenter")
    controller.inference.set_available(None)
    assert controller.inference.status.state == "disabled"
    controller.press(9, 9, space="image")
    controller.release(9, 9, space="image")
    assert area(controller) > 0


def test_availability_may_come_and_go() -> None:
    controller = make(ScriptedSource())
    controller.inference.set_available(Message("ai.unavailable", {"why": "The service is down."}))
    assert not controller.run()
    controller.inference.set_available(None)
    assert controller.run()
    assert controller.inference.wait(30)


def test_a_locked_label_is_not_asked_for() -> None:
    mask_source = ScriptedSource()
    controller = make(mask_source)
    controller.adjust_label("psoas_left", locked=True)
    controller.run("psoas")
    controller.inference.wait(30)
    controller.adjust_label("muscle", locked=True)
    assert not controller.run()
    assert [label for label, _ in mask_source.prompts] == ["psoas_right"]


def test_a_mask_of_another_shape_is_a_failure() -> None:
    wrong = MaskCandidates(masks=(np.ones((3, 3), bool),), scores=(None,))
    controller = make(lambda *_: wrong)
    controller.run()
    controller.inference.wait(30)
    assert controller.inference.status.state == "failed"


def test_a_segmenters_prediction_is_taken_as_it_is() -> None:
    with FakeSegmenter() as segmenter:
        controller = make(
            lambda ct_slice, label, prompt, revision: segmenter.predict(window_to_uint8(ct_slice.hu), prompt)
        )
        controller.adjust(tool="click")
        controller.auto_run = True
        controller.press(12, 10, space="image")
        assert controller.inference.wait(30)
        status = controller.inference.status
        assert (status.state, status.backend, status.candidates) == ("idle", "fake", 3)
        assert controller.document.mask("muscle")[10, 12]


def test_closing_while_running_changes_nothing() -> None:
    mask_source = ScriptedSource(waits=True)
    controller = make(mask_source)
    controller.run()
    assert mask_source.begun.wait(30)
    controller.close()
    controller.close()
    mask_source.go.set()
    assert controller.inference.wait(30)
    assert area(controller) == 0


def test_edits_from_many_threads_are_each_one_step() -> None:
    controller = make(ScriptedSource())

    def paint(row: int) -> None:
        for column in range(SHAPE[1]):
            controller.apply(do.Paint(label="muscle", points_xy=((column, row),), radius_px=0))

    threads = [threading.Thread(target=paint, args=(row,)) for row in range(0, 20, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert area(controller) == len(controller.document.history.done) == 5 * SHAPE[1]
