"""What the page reports, what the editor shows, and errors in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ctai_sam2.editor import LANGUAGES, text
from ctai_sam2.types import CTVolume, Window
from tests.unit.widgets.page import act, button, controls, drag, paint, shown, tell


def test_the_companion_tells_button_and_modifiers(opened: Callable[..., Any]) -> None:
    editor = opened()
    at = list(editor.document.view.viewport.to_screen(20, 20))
    tell(editor, event="press", at=at, button="left", modifiers=[])
    tell(editor, event="release", at=at)
    tell(editor, event="press", at=at, button="right", modifiers=[])
    tell(editor, event="release", at=at)
    tell(editor, event="press", at=at, button="left", modifiers=["shift"])
    tell(editor, event="release", at=at)
    signs = [point.positive for point in editor.document.marks("psoas_left").points]
    assert signs == [True, False, False]
    zoom = editor.document.view.viewport.px_per_mm
    tell(editor, event="wheel", steps=1, at=at, modifiers=[])
    assert editor.document.view.viewport.px_per_mm > zoom
    assert editor.document.view.viewport.to_screen(20, 20) == pytest.approx(at)
    tell(editor, event="key", key="b", modifiers=[], pressed=True)
    assert editor.document.view.tool == "brush"
    tell(editor, event="move", points=[at, [at[0] + 5, at[1]]])
    assert editor.controller.readout.column >= 20
    tell(editor, event="leave")
    assert editor.controller.readout is None
    tell(editor, event="screen", pixel_ratio=2)
    assert editor._display.canvas.widget.width == 1200


def test_without_the_companion_a_button_switches_the_sign(opened: Callable[..., Any]) -> None:
    editor = opened()
    act(editor, "key_down", key="n", shift_key=False, ctrl_key=False, meta_key=False)
    assert not editor.document.view.positive
    drag(editor, (20, 20))
    assert [p.positive for p in editor.document.marks("psoas_left").points] == [False]
    act(editor, "mouse_wheel", x=0, y=-100)
    act(editor, "touch_start", touches=[{"x": 200, "y": 200}])
    act(editor, "touch_end", touches=[])
    assert len(editor.document.marks("psoas_left").points) == 2


def test_an_error_in_a_handler_is_shown_and_the_editor_goes_on(
    opened: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    editor = opened()
    tell(editor, event="press", at=None, button="left")
    assert "TypeError" in shown(editor)
    assert paint(editor) > 0


def test_a_picture_that_cannot_be_drawn_costs_nothing_but_itself(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    editor = opened()

    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(editor._display.canvas, "paint", fail)
    editor._display.pacer._run()
    assert "ZeroDivisionError" in shown(editor)
    assert paint(editor) > 0
    monkeypatch.undo()
    editor._display.pacer._run()
    assert editor._display.canvas._dirty is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_panel_speaks_the_language_chosen(opened: Callable[..., Any], language: str) -> None:
    editor = opened(language=language)
    assert text("title.middle", language) in shown(editor)
    other = next(each for each in LANGUAGES if each != language)
    [chooser] = [d for d in controls(editor.widget, "Dropdown") if d.value in LANGUAGES]
    chooser.value = other
    assert text("title.middle", other) in shown(editor)
    assert button(editor, text("action.undo", other))
    tools = controls(editor.widget, "ToggleButtons")[0]
    assert next(name for name, _ in tools.options) == text("tool.click", other)


def test_controls_show_and_do_what_the_controller_says(opened: Callable[..., Any]) -> None:
    editor = opened()
    tools = controls(editor.widget, "ToggleButtons")[0]
    tools.value = "eraser"
    assert editor.document.view.tool == "eraser"
    editor.do("tool.lasso")
    editor._display.panel.refresh()
    assert tools.value == "lasso"
    toggles = {t.tooltip: t for t in controls(editor.widget, "ToggleButton")}
    toggles["Lock Left psoas"].value = True
    assert editor.document.labels["psoas_left"].locked
    assert paint(editor) == 0
    assert "locked" in shown(editor)
    toggles["Right psoas"].value = True
    assert editor.document.view.active == "psoas_right"
    assert paint(editor) > 0
    [window] = [d for d in controls(editor.widget, "Dropdown") if "bone" in str(d.options)]
    window.value = "bone"
    assert editor.document.view.window.level == 400 or editor.document.view.window.width > 1000


def test_every_action_has_a_button_or_control(opened: Callable[..., Any]) -> None:
    from ctai_sam2.editor import ACTIONS

    editor = opened(source=CTVolume(hu_zyx=np.zeros((3, 40, 60), np.int16), affine=np.eye(4)))
    words = {b.description for b in controls(editor.widget, "Button")}
    words |= {t.description for t in controls(editor.widget, "ToggleButton")}
    tips = {b.tooltip for b in controls(editor.widget, "Button")}
    # Done by a slider, a chooser, a label's row, the mouse, or the toggle of the sign.
    elsewhere = {"next_slice", "previous_slice", "next_label", "toggle_visible", "toggle_lock", "hold_pan"}
    elsewhere |= {"more_opaque", "less_opaque", "toggle_sign"}
    for action in ACTIONS:
        if action.name in elsewhere or action.name.startswith(("tool.", "window.")):
            continue
        label = text(action.text, "en")
        assert label in words or any(str(tip).startswith(label) for tip in tips), action.name


def test_several_editors_share_a_process(opened: Callable[..., Any]) -> None:
    one, two = opened(name="one"), opened(name="two")
    area = paint(one)
    assert two.masks == {}
    threads = [threading.Thread(target=paint, args=(editor,)) for editor in (one, two) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(two.masks["psoas_left"].sum()) * 2 >= area


def test_an_editor_displays_itself(opened: Callable[..., Any]) -> None:
    editor = opened()
    bundle = editor._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in str(bundle)


def test_escape_closes_the_list_of_keys(opened: Callable[..., Any]) -> None:
    editor = opened()
    panel = editor._display.panel
    editor.do("help")
    assert panel._help.layout.display != "none"
    editor.do("cancel")
    assert panel._help.layout.display == "none"
    editor.do("cancel")
    assert panel._help.layout.display == "none"


def test_a_window_that_is_no_preset_is_shown_by_its_numbers(opened: Callable[..., Any]) -> None:
    editor = opened()
    [chooser] = [c for c in controls(editor.widget, "Dropdown") if ("Lung window", "lung") in c.options]
    assert chooser.options[-1] == ("Custom", "")
    assert chooser.tooltip == "Window: level 40, width 400 HU"
    editor.controller.adjust(window=Window(level=12, width=345))
    editor._display.panel.refresh()
    assert (chooser.options[-1], chooser.value) == (("L 12, W 345 HU", ""), "")
    editor.controller.adjust(language="zh")
    editor._display.panel.refresh()
    assert chooser.label == "窗位 12，窗宽 345"
