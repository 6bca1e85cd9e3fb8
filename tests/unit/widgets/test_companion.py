"""The page side: its pure parts by node's test runner, and what Python makes of a whole gesture."""

from __future__ import annotations

import json
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctai_sam2.editor import MIDDLE, Change, Controller, Document
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.types import CTVolume, Window
from ctai_sam2.widgets import MiddleMaskEditor
from ctai_sam2.widgets.companion import joined_modules, pack_pixels
from tests.unit.editor.making import make_slice, state_of
from tests.unit.widgets.recording import Recorder

WINDOWS = [(40.0, 400.0), (50.0, 250.0), (400.0, 1800.0), (-70.5, 1.0), (37.3, 123.7), (-5000.0, 10_000.0)]


def test_the_page_side_by_itself(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (tmp_path / "companion.mjs").write_text(joined_modules(), encoding="utf-8")
    # Grey values as Python makes them, of all whole HU and of some that are not.
    whole = np.arange(-(2**15), 2**15, dtype=np.int16).reshape(256, 256)
    parts = np.random.default_rng(0).uniform(-1100, 3100, (40, 60)).astype(np.float32)
    cases = []
    for hu in (whole, parts):
        dtype, packed = pack_pixels(hu)
        for level, width in WINDOWS:
            grey = window_to_uint8(hu, Window(level=level, width=width))
            case = {"dtype": dtype, "shape": hu.shape, "level": level, "width": width}
            cases.append({**case, "packed": packed.hex(), "grey": grey.tobytes().hex()})
    assert {case["dtype"] for case in cases} == {"int16", "float32"}
    (tmp_path / "greys.json").write_text(json.dumps(cases), encoding="utf-8")
    shutil.copy(Path(__file__).with_name("page.test.mjs"), tmp_path)
    run = subprocess.run(
        [node, "--test", str(tmp_path / "page.test.mjs")], capture_output=True, text=True, timeout=120
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
    # It paints where this test says so: a timer's thread would send between two lines.
    editor._display.pacer.close()
    editor._display.events.companion._handle_custom_msg({"event": "draws"}, [])
    editor.do("tool.brush")
    recorder.clear()
    way = np.array([(100 + 3 * i, 200 + i) for i in range(60)], "<f8")
    message = {"event": "gesture", "button": "left", "modifiers": [], "number": 7, "dtype": "<f8"}
    editor._display.events.companion._handle_custom_msg(message, [way.tobytes()])
    editor._display.pacer._run()
    assert editor.masks["psoas_left"].any()
    assert len(editor.document.history.done) == 1
    assert editor._display.events.companion.taken == 7
    sent = sum(len(bytes(buffer)) for *_, buffers in recorder.commands for buffer in buffers)
    assert len(recorder.messages) <= 2
    assert sent < 2000
    # A gesture that changes nothing is taken all the same: the page shows its own stroke no longer.
    tell = editor._display.events.companion._handle_custom_msg
    tell({**message, "button": "right", "number": 8}, [np.array([[1.0, 1.0]]).tobytes()])
    editor._display.pacer._run()
    assert editor._display.events.companion.taken == 8
    # A pen that presses less draws less.
    drawn = int(editor.masks["psoas_left"].sum())
    editor.do("undo")
    tell({**message, "number": 9}, [way.tobytes(), np.full(60, 0.5).tobytes()])
    assert 0.3 * drawn < editor.masks["psoas_left"].sum() < 0.75 * drawn
    steps = len(editor.document.history.done)
    tell({**message, "number": 10}, [way.tobytes(), np.full(60, 2.0).tobytes()])
    assert len(editor.document.history.done) == steps
    assert editor.controller.message.key == "status.refused"
    editor.close()


def test_pixels_that_the_page_holds_are_not_sent_again(recorder: Recorder) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, (5, 40, 60)).astype(np.int16)
    volume = CTVolume(hu_zyx=hu, affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    editor = MiddleMaskEditor(volume, segmenter=None, folder=None)
    editor._display.pacer.close()
    companion = editor._display.events.companion
    tell, sent = companion._handle_custom_msg, []
    companion.send = lambda content, buffers=None: sent.append((content, buffers or []))
    tell({"event": "draws"}, [])
    editor._display.pacer._run()
    series = companion.view["series"]
    tell({"event": "holds", "series": series, "indices": [2], "next": 3}, [])
    [(content, [packed])] = sent
    assert (content["event"], content["index"], content["shape"]) == ("pixels", 3, (40, 60))
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(2, -1)
    np.testing.assert_array_equal(planes.T.copy().view("<i2").reshape(40, 60), volume.axial(3).hu)

    tell({"event": "holds", "series": series, "indices": [2, 3], "next": None}, [])
    for message, wanted in (({"event": "slice", "index": 3}, 3), ({"event": "slice", "index": 1}, 1)):
        sent.clear()
        recorder.clear()
        tell({**message, "number": 1}, [])
        editor._display.pacer._run()
        assert editor.document.index == companion.index == wanted
        # The one that is held is filled by the page, the other one comes as an image.
        greys = [image for image in recorder.images() if image[-1].ndim == 2]
        assert len(greys) == (wanted == 1)
        assert [each["event"] for each, _ in sent] == (["grey"] if wanted == 3 else [])
    # A page that cannot fill it gets the image, and so does one that was loaded anew.
    for event in ("lost", "draws"):
        tell({"event": "holds", "series": series, "indices": [0, 1, 2, 3, 4], "next": None}, [])
        tell({"event": event}, [])
        recorder.clear()
        editor.controller.scroll(1)
        editor._display.canvas.paint()
        assert any(image[-1].ndim == 2 for image in recorder.images())
    # What was held of another case is worth nothing.
    tell({"event": "holds", "series": series + 1, "indices": [2], "next": None}, [])
    assert not editor._display.events._held
    editor.close()


def test_zoom_and_pan_of_the_page_are_taken_within_limits(recorder: Recorder) -> None:
    editor = MiddleMaskEditor(make_slice((40, 60)), segmenter=None, folder=None)
    tell = editor._display.events.companion._handle_custom_msg
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


def test_keys_chosen_on_the_page_last(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "keys.json"
    monkeypatch.setenv("SAM2_EDITOR_KEYS", str(path))
    editor = MiddleMaskEditor(make_slice((40, 60)), segmenter=None, folder=None)
    tell = editor._display.events.companion._handle_custom_msg
    tell({"event": "bind", "action": "tool.brush", "key": "shift+b"}, [])
    tell({"event": "bind", "action": "tool.lasso", "key": "escape"}, [])
    assert editor.controller.message.key == "status.refused"
    other = MiddleMaskEditor(make_slice((40, 60)), segmenter=None, folder=None)
    for each in (editor, other):
        assert "shift+b" in each._display.events.companion.shortcuts
        assert "b" not in each._display.events.companion.shortcuts
        each._display.events.companion._handle_custom_msg(
            {"event": "key", "key": "B", "modifiers": ["shift"], "pressed": True}, []
        )
        assert each.document.view.tool == "brush"
        assert "Shift+B" in each._display.panel._help.value
        assert any("Shift+B" in tip for tip in each._display.panel._rail._tools.tooltips)
        each.close()
    # A disk that refuses is said, and the keys stay.
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("")
    editor = MiddleMaskEditor(make_slice((40, 60)), segmenter=None, folder=None)
    editor._display.events.companion._handle_custom_msg(
        {"event": "bind", "action": "tool.brush", "key": "j"}, []
    )
    assert editor.controller.message.key == "status.refused"
    assert editor.controller.keys.action_of("b").name == "tool.brush"
    editor.close()
