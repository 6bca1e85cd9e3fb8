"""Two dates side by side: a correction of either changes the numbers, and the grey window is one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ctai_sam2.editor import commands as do
from ctai_sam2.phantom import reference_parameters
from ctai_sam2.study.change import StudyChange, compare_studies
from ctai_sam2.types import Window
from ctai_sam2.widgets import ChangeEditor
from tests.unit.study.test_change import study_of


@pytest.fixture(scope="module")
def change() -> StudyChange:
    first, second = (study_of(reference_parameters(), seed=seed) for seed in (1, 2))
    return compare_studies(first, second, height_m=1.7)


@pytest.fixture
def editor(change: StudyChange) -> Iterator[ChangeEditor]:
    editor = ChangeEditor(change, segmenter=None, folder=None)
    # No timer's thread paints one side while a test acts on the other.
    for side in (editor.first, editor.second):
        side._display.pacer.close()
    yield editor
    editor.close()


def test_it_opens_with_what_was_measured(editor: ChangeEditor, change: StudyChange) -> None:
    for side, study in ((editor.first, change.first), (editor.second, change.second)):
        assert side.document.index == study.axial_index
        np.testing.assert_array_equal(side.masks["muscle"], study.masks["muscle"])
    for shown, measured in zip(editor.measures, change.measures, strict=True):
        assert (shown.column, shown.first, shown.second) == (
            measured.column,
            pytest.approx(measured.first),
            pytest.approx(measured.second),
        )


def test_a_correction_of_either_side_changes_the_numbers(editor: ChangeEditor) -> None:
    def of(column: str) -> tuple[float, float]:
        (found,) = [one for one in editor.measures if one.column == column]
        return found.first, found.second

    def sma() -> tuple[float, float]:
        return of("sma_cm2")

    before, shown = sma(), editor._numbers.value
    everything = (0.0, 0.0, 1000.0, 40.0)
    for label in ("muscle", "psoas_left", "psoas_right"):
        editor.second.controller.apply(do.FillRectangle(label=label, box_xyxy=everything, erase=True))
    after = sma()
    assert after[0] == before[0]
    assert after[1] < before[1]
    # What is made from the area follows it, with the height that the studies were measured with.
    assert of("smi_cm2_m2") == pytest.approx([area / 1.7**2 for area in after])
    assert editor._numbers.value != shown
    assert f"{after[1]:.1f}" in editor._numbers.value
    editor.second.do("undo")
    editor.second.do("undo")
    editor.second.do("undo")
    assert sma() == pytest.approx(before)


def test_the_grey_window_is_the_same_on_both(editor: ChangeEditor) -> None:
    editor.first.controller.adjust(window=Window(level=10, width=77))
    assert editor.second.document.view.window == Window(level=10, width=77)
    editor.second.controller.adjust(window=Window(level=20, width=88))
    assert editor.first.document.view.window == Window(level=20, width=88)
    # Tool and zoom are each side's own.
    editor.first.do("tool.eraser")
    assert editor.second.document.view.tool != "eraser"


def test_the_window_reaches_a_side_that_is_busy(editor: ChangeEditor) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def paint() -> None:
        with editor.second.controller.lock:
            busy.set()
            assert go_on.wait(30)

    before = set(threading.enumerate())
    painting = threading.Thread(target=paint)
    painting.start()
    assert busy.wait(30)
    editor.first.controller.adjust(window=Window(level=10, width=77))
    go_on.set()
    painting.join(30)
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert editor.second.document.view.window == Window(level=10, width=77)


def test_closed_it_lets_both_go(change: StudyChange) -> None:
    editor = ChangeEditor(change, segmenter=None, folder=None, language="zh")
    assert "骨骼肌面积" in editor._numbers.value
    assert [head.value for head in editor._heads] == ["<b>第一次</b>", "<b>第二次</b>"]
    assert "mm²" not in editor._numbers.value
    editor.close()
    editor.close()
    assert editor.first._closed
    assert editor.second._closed
