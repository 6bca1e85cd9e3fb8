"""The page side: its pure parts by node's test runner, and what Python makes of a whole gesture."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ctai_sam2.widgets
from ctai_sam2.editor import MIDDLE, Change, Controller, Document
from ctai_sam2.widgets import MiddleMaskEditor
from tests.unit.editor.making import make_slice, state_of
from tests.unit.widgets.recording import Recorder, recorded

SOURCE = Path(ctai_sam2.widgets.__file__).with_name("companion.js")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recorded() as found:
        yield found


def test_the_page_side_by_itself(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    shutil.copy(SOURCE, tmp_path / "companion.mjs")
    shutil.copy(Path(__file__).with_name("companion.test.mjs"), tmp_path)
    run = subprocess.run(
        [node, "--test", str(tmp_path / "companion.test.mjs")], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr


places = st.tuples(st.floats(-50, 700), st.floats(-50, 600))


@settings(max_examples=40, deadline=None)
@given(
    ways=st.lists(st.lists(places, min_size=1, max_size=9), min_size=1, max_size=4),
    tool=st.sampled_from(["brush", "eraser", "lasso", "rectangle", "box"]),
    button=st.sampled_from(["left", "right"]),
)
def test_a_whole_gesture_does_what_its_single_events_do(
    ways: list[list[tuple[float, float]]], tool: str, button: Any
) -> None:
    single, whole = (Controller(Document(make_slice((40, 60)), MIDDLE)) for _ in range(2))
    seen: list[Change] = []
    whole.subscribe(seen.append)
    for controller in (single, whole):
        controller.resize(600, 540)
        controller.do(f"tool.{tool}")
    for way in ways:
        single.press(*way[0], button=button)
        for place in way[1:-1]:
            single.move(*place)
        single.release(*way[-1])
        seen.clear()
        whole.gesture(way, button=button)
        # One notice of the edit and one of the preview, however long the way.
        assert len(seen) <= 3
        assert state_of(single.document) == state_of(whole.document)
    assert len(single.document.history.done) == len(whole.document.history.done)


def test_a_gesture_of_the_page_is_one_message_and_one_small_reply(recorder: Recorder) -> None:
    editor = MiddleMaskEditor(make_slice((40, 60)), segmenter=None, folder=None)
    editor._events.companion._handle_custom_msg({"event": "draws"}, [])
    editor.do("tool.brush")
    recorder.clear()
    way = np.array([(100 + 3 * i, 200 + i) for i in range(60)], "<f8")
    message = {"event": "gesture", "button": "left", "modifiers": [], "number": 7}
    editor._events.companion._handle_custom_msg(message, [way.tobytes()])
    editor._pacer._run()
    assert editor.masks["psoas_left"].any()
    assert len(editor.document.history.done) == 1
    assert editor._events.companion.view["taken"] == 7
    sent = sum(len(bytes(buffer)) for *_, buffers in recorder.commands for buffer in buffers)
    assert len(recorder.messages) <= 2
    assert sent < 2000
    # The page left its own stroke on the picture: the uppermost layer is drawn anew, whatever came of it.
    recorder.clear()
    editor._events.companion._handle_custom_msg({**message, "button": "right"}, [way[:1].tobytes()])
    editor._pacer._run()
    assert recorder.commands
    editor.close()


def test_zoom_and_pan_of_the_page_are_taken_within_limits(recorder: Recorder) -> None:
    editor = MiddleMaskEditor(make_slice((40, 60)), segmenter=None, folder=None)
    tell = editor._events.companion._handle_custom_msg
    tell({"event": "viewport", "px_per_mm": 12.5, "pan": [-30, 14], "number": 1}, [])
    viewport = editor.document.view.viewport
    assert (viewport.px_per_mm, viewport.pan_xy) == (12.5, (-30, 14))
    tell({"event": "viewport", "px_per_mm": 1e9, "pan": [1e9, -1e9], "number": 2}, [])
    viewport = editor.document.view.viewport
    assert viewport.px_per_mm == 200
    x, y = viewport.to_screen(-0.5, -0.5)
    assert x <= 600
    assert y + 40 * 200 >= 0
    for bad in (float("nan"), float("inf"), -1.0):
        tell({"event": "viewport", "px_per_mm": bad, "pan": [0, 0], "number": 3}, [])
    assert editor.document.view.viewport == viewport
    editor.close()
