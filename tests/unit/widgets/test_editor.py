"""One click, comparing and measuring in the editors, without a browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ctai_sam2 as ct
from ctai_sam2.editor import text
from ctai_sam2.errors import Unavailable
from ctai_sam2.phantom import make_axial_slice, reference_parameters
from ctai_sam2.types import CTSlice
from ctai_sam2.widgets import L3MaskEditor, MiddleMaskEditor
from tests.fakes import FakeSegmenter
from tests.unit.widgets.page import button, controls, drag, paint, shown


def test_a_result_that_comes_after_closing_is_dropped(opened: Callable[..., Any]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FakeSegmenter):
        def predict(self, *asked: Any, **options: Any) -> Any:
            begun.set()
            assert go_on.wait(30)
            return super().predict(*asked, **options)

    editor = opened(segmenter=Slow())
    drag(editor, (20, 20))
    before = editor.record.path.read_bytes()
    assert editor.controller.run()
    assert begun.wait(30)
    assert "Processing" in shown(editor)
    editor.close()
    go_on.set()
    editor.controller.inference.wait(30)
    assert editor.masks == {}
    assert editor.record.path.read_bytes() == before


def test_no_segmenter_is_a_reason_on_the_button_and_hands_work(opened: Callable[..., Any]) -> None:
    editor = opened()
    run = button(editor, "One click")
    assert run.disabled
    assert run.tooltip == text("ai.no_segmenter", "en")
    assert paint(editor) > 0


def test_switched_off_segmentation_is_a_reason(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise Unavailable("one-click segmentation is switched off")

    monkeypatch.setattr("ctai_sam2.widgets.segmentation.shared_segmenter", refuse)
    editor = opened(segmenter="auto")
    assert "switched off" in button(editor, "One click").tooltip


def test_a_failing_segmenter_keeps_everything_and_offers_retry(opened: Callable[..., Any]) -> None:
    segmenter = FakeSegmenter()
    editor = opened(segmenter=segmenter)
    paint(editor)
    kept = editor.masks["psoas_left"].copy()
    editor.do("tool.click")
    drag(editor, (30, 20))
    segmenter.error = Unavailable("the service does not respond")
    button(editor, "Run (1 points)").click()
    button(editor, "Continue").click()
    editor.controller.inference.wait(30)
    assert "the service does not respond" in shown(editor)
    assert np.array_equal(editor.masks["psoas_left"], kept)
    retry = next(b for b in controls(editor.widget, "Button") if b.description == "Retry")
    assert retry.layout.display is None
    segmenter.error = None
    retry.click()
    editor.controller.resolve_confirmation(True)
    editor.controller.inference.wait(30)
    assert not np.array_equal(editor.masks["psoas_left"], kept)
    assert paint(editor) > 0


def test_a_service_that_is_down_disables_one_click_until_it_is_back(opened: Callable[..., Any]) -> None:
    segmenter = FakeSegmenter(error=Unavailable("no connection"))
    editor = opened(segmenter=segmenter)
    _until(lambda: button(editor, "One click").disabled)
    _until(lambda: "no connection" in button(editor, "One click").tooltip)
    segmenter.error = None
    editor.check_segmenter()
    _until(lambda: not button(editor, "One click").disabled)


def test_one_click_finds_both_psoas_as_one_step(opened: Callable[..., Any]) -> None:
    phantom = make_axial_slice(reference_parameters(), z_mm=0.0, rng=np.random.default_rng(0))
    editor = opened(source=CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm), segmenter=FakeSegmenter())
    editor.run()
    assert {"psoas_left", "psoas_right"} <= set(editor.masks)
    assert len(editor.document.history.done) == 1
    editor.do("undo")
    assert editor.masks == {}


def test_another_reader_is_compared(opened: Callable[..., Any]) -> None:
    mask = np.zeros((40, 60), bool)
    mask[4:9, 4:9] = True
    editor = opened(masks={"muscle": mask})
    editor.compare({"muscle": np.roll(mask, 1, axis=1)})
    assert "Dice 0.80" in shown(editor)
    editor.compare({"muscle": None})
    assert "Dice" not in shown(editor)


def test_polygons_go_out_exactly(opened: Callable[..., Any]) -> None:
    from ctai_sam2.image.contours import polygons_to_mask

    editor = opened()
    paint(editor)
    polygons = editor.to_polygons()["psoas_left"]
    assert np.array_equal(polygons_to_mask(polygons, (40, 60)), editor.masks["psoas_left"])


def test_the_package_offers_both_editors() -> None:
    assert ct.MiddleMaskEditor is MiddleMaskEditor
    assert ct.L3MaskEditor is L3MaskEditor


def _until(is_true: Callable[[], bool]) -> None:
    """Wait for what a background thread does."""
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_editor_is_described_in_one_line(opened: Callable[..., Any]) -> None:
    editor = opened()
    assert repr(editor) == "MiddleMaskEditor(case case: nothing outlined)"
    editor.set_mask("muscle", np.ones(editor.document.shape_hw, bool))
    assert repr(editor) == "MiddleMaskEditor(case case: muscle)"
