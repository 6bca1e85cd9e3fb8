"""Both editors in a real JupyterLab, from one click to saved files, against the same steps without a page."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.browser.lab import Lab, Notebook
from tests.browser.twin import (
    AXIAL,
    SAGITTAL,
    TWIN,
    require_full_redraw_looks_the_same,
    require_twin,
    twin_drags,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


def test_the_middle_editor_from_one_click_to_saved_files(opened: Callable[..., Notebook], lab: Lab) -> None:
    notebook = opened(
        AXIAL,
        'editor = ct.MiddleMaskEditor(source, name="journey", folder="middle")\neditor',
    )
    notebook.settle_size()
    notebook.tell(TWIN.format(profile="MIDDLE"))
    require_full_redraw_looks_the_same(notebook)

    # One click, with the embedded model.
    notebook.press("One click")
    notebook.until("area('psoas_left') > 0 and area('psoas_right') > 0")
    notebook.tell(
        "from ctai_sam2.editor.commands import Compound, SetMask\n"
        "with ct.open_segmenter('local') as segmenter:\n"
        "    twin.apply(Compound(commands=tuple(SetMask(label=side, origin='ai',\n"
        "        mask=ct.segment_structure(source, side, segmenter).mask)\n"
        "        for side in ('psoas_left', 'psoas_right')), name='edit.set_mask_ai'))"
    )
    require_twin(notebook)

    # The brush, bit for bit as without a page.
    notebook.choose("Brush")
    brushed = notebook.drag((300, 300), (330, 320))
    notebook.until("len(editor.document.history.done) == 2")
    twin_drags(notebook, "brush", brushed)
    require_twin(notebook)
    require_full_redraw_looks_the_same(notebook)

    # A negative click by the right button, which opens no menu; then run.
    notebook.choose("Click")
    rows = notebook.ask("[int(v.mean()) for v in editor.document.mask('psoas_left').nonzero()]")
    notebook.click(rows[1], rows[0])
    notebook.click(330, 320, button="right")
    notebook.until("len(editor.document.marks('psoas_left').points) == 2")
    assert notebook.ask("[p.positive for p in editor.document.marks('psoas_left').points]") == [True, False]
    assert notebook.page.locator(".lm-Menu:visible").count() == 0
    # Each point asks the model by itself, but not before a mask that was painted on may be replaced.
    notebook.press("Run (2 points)")
    notebook.press("Continue")
    notebook.until("editor.document.history.done[-1].name == 'edit.set_mask_ai'")
    assert not notebook.ask("bool(editor.document.mask('psoas_left')[320, 330])")

    # Undo and redo, by key and by button.
    after_ai = notebook.ask("digest(editor.document)")
    notebook.page.keyboard.press("Control+z")
    notebook.until(f"digest(editor.document) != '{after_ai}'")
    require_twin(notebook)
    notebook.press("Redo")
    notebook.until(f"digest(editor.document) == '{after_ai}'")
    notebook.press("Undo")
    notebook.until("digest(editor.document) == digest(twin.document)")

    # A polygon of total muscle, closed at its first corner.
    notebook.press("All muscle (combo)")
    notebook.choose("Polygon")
    corners = [notebook.click(*corner) for corner in ((180, 330), (230, 330), (230, 380), (180, 330))]
    notebook.until("area('muscle') > 0")
    notebook.tell(
        "twin.adjust(active='muscle'); twin.do('tool.polygon')\n"
        + "\n".join(f"twin.press(*{c.screen}); twin.release(*{c.screen})" for c in corners)
    )
    require_twin(notebook)

    # Window and level by dragging.
    before = notebook.ask("editor.document.view.window.width")
    notebook.choose("Window")
    notebook.drag((256, 200), (296, 200))
    notebook.until(f"editor.document.view.window.width > {before} + 40")
    require_full_redraw_looks_the_same(notebook)

    # Zoom with the wheel, and paint there.
    notebook.choose("Brush")
    place = notebook.place(200, 350)
    notebook.page.mouse.move(*place.page)
    notebook.page.mouse.wheel(0, -400)
    notebook.until("editor.document.view.viewport.px_per_mm > 2")
    painted = notebook.drag((205, 352), (215, 352))
    notebook.until("editor.document.history.done[-1].name == 'edit.paint'")
    notebook.tell("viewport = editor.document.view.viewport\ntwin.adjust(viewport=viewport)")
    twin_drags(notebook, "brush", painted)
    require_twin(notebook)
    pixels = require_full_redraw_looks_the_same(notebook)

    # The page is reloaded: the picture comes back from Python.
    notebook.reload()
    assert np.array_equal(notebook.restored_pixels(pixels), pixels)
    require_twin(notebook)
    notebook.drag((205, 356), (215, 356))
    notebook.until("digest(editor.document) != digest(twin.document)")

    # Saved, and what is on disk is what was drawn.
    notebook.press("Save")
    table = lab.folder / "middle" / "journey" / "middle_measurements.csv"
    notebook.until(f"__import__('pathlib').Path({str(table)!r}).exists()")
    notebook.until(
        "(ct.io.read_mask_png('middle/journey/muscle.png') == editor.document.mask('muscle')).all().item()"
    )

    # The cell is run again: masks and undo history are back.
    kept = notebook.ask("digest(editor.document)")
    steps = notebook.ask("len(editor.document.history.done)")
    notebook.run_all()
    notebook.until(f"digest(editor.document) == '{kept}' and len(editor.document.history.done) == {steps}")


def test_the_l3_editor_from_one_click_to_saved_files(opened: Callable[..., Notebook], lab: Lab) -> None:
    notebook = opened(SAGITTAL, 'editor = ct.L3MaskEditor(source, name="journey", folder="l3")\neditor')
    notebook.settle_size()
    notebook.tell(TWIN.format(profile="L3"))
    notebook.press("One click")
    notebook.until("area() > 0")
    notebook.tell(
        "with ct.open_segmenter('local') as segmenter:\n"
        "    mask = ct.find_l3(source, segmenter).l3.mask\n"
        "twin.apply(editing.SetMask(label='l3', mask=mask, origin='ai'))"
    )
    require_twin(notebook)
    require_full_redraw_looks_the_same(notebook)

    # Manual after the model: two rectangles, the second over nothing else.
    dragged = notebook.drag((40, 20), (60, 34))
    notebook.until("len(editor.rectangles) == 2")
    twin_drags(notebook, "rectangle", dragged)
    require_twin(notebook)
    notebook.page.keyboard.press("Control+z")
    notebook.until("len(editor.rectangles) == 1")
    notebook.page.keyboard.press("Control+Shift+Z")
    notebook.until("len(editor.rectangles) == 2")

    # Model after manual: asks, and a refusal keeps everything.
    notebook.press("One click")
    notebook.press("Cancel")
    require_twin(notebook)
    notebook.press("One click")
    notebook.press("Continue")
    notebook.until("len(editor.rectangles) == 1")

    # Brush, polygon, window, zoom.
    notebook.tell("twin.apply(editing.SetMask(label='l3', mask=mask, origin='ai'))")
    notebook.choose("Brush")
    twin_drags(notebook, "brush", notebook.drag((40, 20), (44, 30)))
    notebook.until("len(editor.rectangles) == 2")
    require_twin(notebook)
    notebook.choose("Polygon")
    for corner in ((20, 60), (40, 60), (40, 80)):
        notebook.click(*corner)
    notebook.page.keyboard.press("Enter")
    notebook.until("len(editor.rectangles) == 3")
    notebook.choose("Window")
    notebook.drag((30, 30), (50, 40))
    notebook.until("editor.document.view.window.width > 1810")
    notebook.page.mouse.wheel(0, -300)
    notebook.until("editor.document.view.viewport.px_per_mm > 2")
    pixels = require_full_redraw_looks_the_same(notebook)
    notebook.reload()
    assert np.array_equal(notebook.restored_pixels(pixels), pixels)
    notebook.press("Save")
    notebook.until("__import__('pathlib').Path('l3/journey/l3_measurements.csv').exists()")
