"""Both editors in a real JupyterLab: service, keys, fields, layout, screens, a busy kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctai_sam2.cohort import Worklist
from tests.browser.lab import Lab, Notebook
from tests.browser.twin import (
    AXIAL,
    SAGITTAL,
    TWIN,
    require_full_redraw_looks_the_same,
    require_twin,
    twin_drags,
)
from tests.unit.widgets.test_review_volume import RED, make_cohort

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


def test_with_the_service_down_hands_go_on_and_the_reason_is_shown(opened: Callable[..., Notebook]) -> None:
    notebook = opened(
        AXIAL,
        "from ctai_sam2.models import RemoteSegmenter\n"
        "segmenter = RemoteSegmenter('http://127.0.0.1:9', retry_for_s=0)\n"
        "editor = ct.MiddleMaskEditor(source, segmenter=segmenter, folder='down')\neditor",
    )
    notebook.until("editor.controller.inference.status.state == 'disabled'")
    button = notebook.page.locator(".ctai-sam2-editor button", has_text="One click").first
    notebook.page.wait_for_function(
        "(button) => button.disabled && button.title.length > 30", arg=button.element_handle()
    )
    notebook.choose("Brush")
    notebook.drag((200, 200), (230, 210))
    notebook.until("area('psoas_left') > 0")
    require_full_redraw_looks_the_same(notebook)


def test_two_editors_in_one_notebook_on_a_sharp_screen(opened: Callable[..., Notebook]) -> None:
    notebook = opened(
        AXIAL + SAGITTAL.replace("source", "sagittal"),
        "editor = ct.MiddleMaskEditor(source, segmenter=None, folder=None, language='zh')\neditor",
        "other = ct.L3MaskEditor(sagittal, segmenter=None, folder=None, width=400, height=300)\nother",
        pixel_ratio=2,
    )
    notebook.wait_for_picture(1)
    notebook.until("other._display.canvas.pixel_ratio == 2 and editor._display.canvas.pixel_ratio == 2")
    assert notebook.settled_pixels(1).shape == (600, 800, 4)
    first = notebook.drawn_pixels(0)
    notebook.canvas(1).scroll_into_view_if_needed()
    notebook.drag((30, 30), (60, 60), number=1, editor="other")
    notebook.until("len(other.rectangles) == 1")
    assert notebook.ask("other.rectangles[0][2] - other.rectangles[0][0]") == pytest.approx(30, abs=3)
    assert notebook.ask("area()") == 0
    assert np.array_equal(notebook.drawn_pixels(0), first)
    assert notebook.page.locator("button", has_text="一键分割").first.is_visible()


def test_keys_reach_the_editor_and_not_jupyterlab(opened: Callable[..., Notebook]) -> None:
    notebook = opened(AXIAL, "editor = ct.MiddleMaskEditor(source, segmenter=None, folder='keys')\neditor")
    cells = notebook.page.locator(".jp-Notebook .jp-Cell").count()
    notebook.click(256, 256)
    # In JupyterLab these insert, cut, and delete cells.
    for key in ("x", "a", "b"):
        notebook.page.keyboard.press(key)
    notebook.until("editor.document.view.tool == 'brush'")
    notebook.choose("Eraser")
    notebook.page.keyboard.press("x")
    notebook.until("editor.document.view.tool == 'box'")
    assert notebook.page.locator(".jp-Notebook .jp-Cell").count() == cells
    notebook.canvas().focus()
    notebook.page.keyboard.press("Tab")
    assert notebook.page.evaluate("() => document.activeElement.tagName") != "CANVAS"


def test_where_the_companion_cannot_run_the_mouse_and_buttons_still_do(
    opened: Callable[..., Notebook],
) -> None:
    notebook = opened(
        AXIAL,
        "editor = ct.MiddleMaskEditor(source, segmenter=None, folder='plain')\n"
        "companion = editor._display.events.companion\n"
        "editor.widget.children = [each for each in editor.widget.children if each is not companion]\n"
        "editor",
    )
    notebook.settle_size()
    notebook.tell(TWIN.format(profile="MIDDLE"))
    notebook.press("Brush")
    # Ipycanvas scrolls the canvas into sight with the first press; the companion does not.
    notebook.canvas().focus()
    twin_drags(notebook, "brush", notebook.drag((200, 200), (230, 210)))
    notebook.until("area('psoas_left') > 0")
    require_twin(notebook)
    notebook.press("Click")
    notebook.press("Click adds: + this")
    notebook.page.wait_for_timeout(300)
    notebook.click(256, 256)
    notebook.until("[p.positive for p in editor.document.marks('psoas_left').points] == [False]")
    place = notebook.place(256, 256)
    notebook.page.mouse.move(*place.page)
    notebook.page.mouse.wheel(0, -200)
    notebook.until("editor.document.view.viewport.px_per_mm > 1.4")
    require_full_redraw_looks_the_same(notebook)
    cells = notebook.page.locator(".jp-Notebook .jp-Cell").count()
    notebook.canvas().focus()
    notebook.page.keyboard.press("b")
    notebook.until("editor.document.view.tool == 'brush'")
    assert notebook.page.locator(".jp-Notebook .jp-Cell").count() == cells


SIZES = [(1280, 800), (1366, 768), (1600, 1000), (900, 800)]
VISIBLE = (
    *(
        "canvas.ctai-sam2-canvas",
        ".ctai-sam2-row:last-child .ctai-sam2-label",
        ".ctai-sam2-numbers:not(:empty)",
    ),
    *(".ctai-sam2-confirm", ".ctai-sam2-notices", ".ctai-sam2-saved", ".ctai-sam2-rail"),
)
_LIES = """([selector]) => [...document.querySelectorAll(selector)].slice(0, 1).map((node) => {
  const box = node.getBoundingClientRect();
  const seen = document.querySelector(".jp-WindowedPanel-outer, .jp-Notebook").getBoundingClientRect();
  return { width: box.width, height: box.height,
    inside: box.left >= seen.left - 1 && box.right <= seen.right + 1
      && box.top >= seen.top - 1 && box.bottom <= seen.bottom + 1 };
})"""


_NAMELESS = """() => [...document.querySelectorAll(".ctai-sam2-editor :is(button, input, select, "
  + "[contenteditable], .noUi-handle, canvas.ctai-sam2-canvas, [role=alertdialog])")]
  .filter((node) => node.checkVisibility())
  .filter((node) => !(node.ariaLabel || node.textContent.trim() || node.title))
  .map((node) => node.outerHTML.slice(0, 200))"""


def test_everything_is_visible_without_scrolling_in_the_default_layout(
    opened: Callable[..., Notebook],
) -> None:
    notebook = opened(
        AXIAL,
        "cases = {'a-patient-with-a-long-name': source, 'another': source}\n"
        "editor = ct.MiddleMaskEditor(cases, segmenter=None, folder='layout')\n"
        "editor.controller.apply(editing.FillRectangle(label='muscle', box_xyxy=(5, 5, 9, 9)))\neditor",
        path="lab",
        size=SIZES[0],
    )
    page = notebook.page
    # Nothing but JupyterLab's own start: the file browser is open.
    assert page.locator("#filebrowser").is_visible()
    notebook.press("Save")
    notebook.tell("editor.controller.confirm(ct.editor.Message('ai.confirm_replace'), lambda: None)")
    page.locator(".ctai-sam2-confirm").wait_for()
    # Every control has a name for screen readers.
    page.wait_for_function("() => document.querySelector('canvas.ctai-sam2-canvas').ariaLabel")
    assert page.evaluate(_NAMELESS) == []
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        notebook.settle_size()
        page.locator(".ctai-sam2-editor").scroll_into_view_if_needed()
        for selector in VISIBLE:
            [lies] = page.evaluate(_LIES, [selector])
            assert lies["width"] > 0, (selector, width, height)
            assert lies["inside"], (selector, width, height)
        # The bar of cases takes one line where there is room for a panel over the picture.
        bar = page.locator(".ctai-sam2-head").bounding_box()["height"]
        assert bar < (45 if width > 1000 else 90), (width, height)
        # The picture is what the page is there for.
        [editor], [canvas] = (page.evaluate(_LIES, [s]) for s in (".ctai-sam2-editor", VISIBLE[0]))
        assert canvas["width"] > 0.75 * editor["width"], (width, height)
        assert canvas["height"] > (0.7 if width > 1000 else 0.45) * editor["height"], (width, height)


def test_a_range_of_a_cohort_is_reviewed_and_signed(
    opened: Callable[..., Notebook], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cohort(tmp_path, monkeypatch)
    notebook = opened(
        "from ctai_sam2.cohort import Worklist\n"
        f"worklist = Worklist({str(tmp_path / 'out')!r}, manifest={str(tmp_path / 'cases.csv')!r})\n"
        "editor = ct.ReviewEditor(worklist, who='AB', segmenter=None)\neditor"
    )
    # Opened at the lower of two red slices, with the strip of levels and gates next to the picture.
    assert notebook.ask("(editor.document.index, editor.document.view.active)") == [RED[0], "psoas_left"]
    strip = notebook.page.locator(".ctai-sam2-strip").first
    assert strip.bounding_box()["height"] > 50
    notebook.settle_size()
    notebook.choose("Brush")
    notebook.drag((52, 52), (54, 53))
    notebook.until("editor.document.state('psoas_left').source == 'anchor'")
    notebook.press("Accept and next")
    notebook.page.get_by_text("Signed by AB; masks changed: 1").first.wait_for()
    assert [item.reviewed_by for item in Worklist(tmp_path / "out").items] == ["AB"]
    signed = pd.read_csv(tmp_path / "out" / "volumes" / "P" / "slices.csv")
    drawn = signed[(signed.structure == "psoas_left") & (signed.source == "anchor")]
    assert drawn.axial_index.tolist() == [RED[0]]


def test_keys_and_fields_live_side_by_side(opened: Callable[..., Notebook]) -> None:
    notebook = opened(
        "volume = ct.CTVolume(hu_zyx=np.zeros((9, 64, 64), np.int16), affine=np.diag([2.0, 2.0, 5.0, 1.0]))\n"
        "source = volume",
        "editor = ct.MiddleMaskEditor(volume, segmenter=None, folder='fields', name='fields')\neditor",
        blank=True,
    )
    page = notebook.page
    window = notebook.ask("[editor.document.view.window.level, editor.document.view.window.width]")
    # Digits typed into the slider's number, which is no input element, and into a field.
    number = page.locator(".ctai-sam2-slices .widget-readout")
    number.click()
    page.keyboard.press("Control+a")
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    notebook.until("editor.document.index == 3")
    field = page.locator(".ctai-sam2-panel input[type=number]").first
    field.click()
    page.keyboard.press("Control+a")
    page.keyboard.type("175")
    page.keyboard.press("Tab")
    notebook.until("editor._height_m == 1.75")
    field.click()
    page.keyboard.press("Control+a")
    page.keyboard.type("176")
    page.keyboard.press("Enter")
    notebook.until("editor._height_m == 1.76")
    # Enter ends the typing: the keys are the picture's again.
    page.wait_for_function("() => document.activeElement.tagName === 'CANVAS'")
    # The drawers open by keyboard as well.
    drawer = page.locator(".ctai-sam2-panel [role=button][aria-expanded]").first
    drawer.focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Fill holes").wait_for()
    page.keyboard.press(" ")
    page.wait_for_function("(head) => head.ariaExpanded === 'false'", arg=drawer.element_handle())
    assert notebook.ask("[editor.document.view.window.level, editor.document.view.window.width]") == window
    # A button pressed with the mouse gives the keys back to the picture, and plants no point.
    notebook.press("Zoom in")
    page.keyboard.press("2")
    notebook.until("editor.document.view.window.width == 250")
    assert not notebook.ask("bool(editor.document.marks('psoas_left'))")
    assert page.evaluate("() => document.activeElement.tagName") == "CANVAS"
    # Shift and the wheel, which Chromium turns sideways by itself or not.
    box = notebook.canvas().bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    page.keyboard.down("Shift")
    page.mouse.wheel(-100, 0)
    page.keyboard.up("Shift")
    notebook.until("editor.document.index == 4")
    page.mouse.wheel(0, 200)
    notebook.until("editor.document.index == 2")
    # Ctrl+S is the editor's, from the picture and from a field.
    notebook.choose("Rectangle")
    notebook.drag((20, 20), (30, 30))
    notebook.until("area('psoas_left') > 0")
    page.keyboard.press("Control+s")
    notebook.until("__import__('pathlib').Path('fields/fields/middle_measurements.csv').exists()")
    # Escape while drawing: nothing happened.
    steps = notebook.ask("len(editor.document.history.done)")
    notebook.choose("Brush")
    pixels = notebook.drawn_pixels()
    place, other = notebook.places([(40, 40), (44, 40)])
    page.mouse.move(*place.page)
    page.mouse.down()
    page.mouse.move(*other.page)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert np.array_equal(notebook.drawn_pixels(), pixels)
    assert notebook.ask("len(editor.document.history.done)") == steps
    page.keyboard.press("?")
    page.locator(".ctai-sam2-help").wait_for()


def test_back_and_forth_through_cases_by_hand(opened: Callable[..., Notebook]) -> None:
    notebook = opened(
        AXIAL,
        "cases = {name: ct.CTSlice(hu=source.hu[: 500 - 20 * i], spacing_mm=source.spacing_mm)\n"
        "         for i, name in enumerate(('one', 'two', 'three'))}\n"
        "editor = ct.MiddleMaskEditor(cases, segmenter=None, folder='walk')\neditor",
    )
    notebook.choose("Brush")
    areas: dict[str, int] = {}
    for step in ("", "Next case", "Previous case", "Next case"):
        if step:
            notebook.press(step)
        notebook.page.wait_for_timeout(300)
        name = notebook.ask("editor.name")
        notebook.until(f"editor.document.shape_hw == cases['{name}'].shape_hw")
        notebook.page.locator(".ctai-sam2-head", has_text=f": {name}").wait_for()
        before = notebook.ask("area('psoas_left')")
        assert before == areas.get(name, 0)
        offset = 20 * len(areas) + before % 97
        notebook.drag((200, 200 + offset), (230, 200 + offset))
        areas[name] = notebook.until(f"area('psoas_left') != {before} and area('psoas_left')")
        require_full_redraw_looks_the_same(notebook)
    notebook.page.keyboard.press("Enter")
    notebook.until("editor.name == 'three'")
    assert notebook.ask("editor._list_cases().states['two']") == "done"


_KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
_NUMBERS = "() => document.querySelector('.ctai-sam2-rows').textContent"


@pytest.mark.parametrize("own_thread", [True, False])
def test_a_running_cell_does_not_stop_the_brush(
    opened: Callable[..., Notebook], lab: Lab, own_thread: bool, request: pytest.FixtureRequest
) -> None:
    # JupyterLab sends gestures to a thread of their own in kernels that have one; in others they queue.
    if not own_thread:
        settings = lab.folder.parent / "home" / "settings" / "@jupyterlab" / "apputils-extension"
        one_thread = settings / "kernels-settings.jupyterlab-settings"
        one_thread.write_text('{"commsOverSubshells": "disabled"}', encoding="utf-8")
        request.addfinalizer(one_thread.unlink)
    cell = "editor = ct.MiddleMaskEditor(source, segmenter=None, folder=None)\neditor"
    # JupyterLab reads the setting as it loads.
    notebook = opened(AXIAL, cell, fresh=not own_thread)
    page = notebook.page
    if own_thread and not page.evaluate(f"() => {_KERNEL}.supportsSubshells"):
        pytest.skip("this kernel has one thread")
    notebook.choose("Brush")
    # A page that was loaded anew has seen none of the gestures before; without a thread the first one is new.
    for turn in ("first", "reloaded") if own_thread else ("first",):
        if turn == "reloaded":
            notebook.reload()
        down = 40 * (turn == "reloaded")
        places = notebook.places([(x, y + down) for x, y in ((200, 200), (230, 210), (240, 230))])
        before, numbers = notebook.drawn_pixels(), page.evaluate(_NUMBERS)
        area = notebook.ask("area('psoas_left')")
        # Busy until this test says so, however slowly the page is drawn.
        go_on = f"go-on-{own_thread}-{turn}"
        page.evaluate(
            f"(code) => {{ window.cellEnded = false; {_KERNEL}.requestExecute({{ code }}).done"
            ".then(() => { window.cellEnded = true; }); }",
            "import pathlib, time\nuntil = time.monotonic() + 240\n"
            f"while not pathlib.Path({go_on!r}).exists() and time.monotonic() < until: time.sleep(0.05)",
        )
        page.mouse.move(*places[0].page)
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place.page)
        page.mouse.up()
        if own_thread:
            page.wait_for_function(f"(before) => ({_NUMBERS})() !== before", arg=numbers)
        else:
            page.locator(".ctai-sam2-waiting", has_text="Waiting for Python").wait_for()
            assert page.evaluate(_NUMBERS) == numbers
        assert not page.evaluate("() => window.cellEnded")
        assert not np.array_equal(notebook.pixels(), before)
        (lab.folder / go_on).touch()
        notebook.until(f"area('psoas_left') > {area}")
        page.locator(".ctai-sam2-waiting").wait_for(state="hidden")
        require_full_redraw_looks_the_same(notebook)
