"""The editors without a browser: what hands do through their canvas, journal, saving, closing."""

from __future__ import annotations

import csv
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctai_sam2 as ct
from ctai_sam2.editor import LANGUAGES, text
from ctai_sam2.errors import InputError, RecordError, Unavailable
from ctai_sam2.io import read_mask_nifti, read_mask_png
from ctai_sam2.journal import AnnotationJournal
from ctai_sam2.phantom import (
    make_axial_slice,
    make_sagittal_slice,
    make_volume,
    reference_parameters,
)
from ctai_sam2.types import CTSlice, CTVolume
from ctai_sam2.widgets import L3MaskEditor, MaskEditor, MiddleMaskEditor
from tests.fakes import FakeSegmenter
from tests.unit.editor.making import make_slice
from tests.unit.widgets.recording import Recorder, recorded


@pytest.fixture(autouse=True)
def recorder() -> Iterator[Recorder]:
    with recorded() as found:
        yield found


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    editors: list[MaskEditor] = []

    def open_editor(kind: type[MaskEditor] = MiddleMaskEditor, source: Any = None, **options: Any) -> Any:
        options = {"folder": tmp_path / "annotations", "segmenter": None, "name": "case", **options}
        if source is None:
            source = make_slice((40, 60), plane=kind.profile.plane)
        editors.append(kind(source, **options))
        return editors[-1]

    yield open_editor
    for editor in editors:
        editor.close()


def make_l3_volume() -> CTVolume:
    hu = np.full((24, 40, 8), 40, np.int16)
    return CTVolume(hu_zyx=hu, affine=np.diag([2.0, 1.0, 3.0, 1.0]))


def act(editor: MaskEditor, event: str, **content: Any) -> None:
    """Send an event as the page does, through ipycanvas."""
    editor._canvas.widget[3]._handle_frontend_event(None, {"event": event, **content}, [])


def drag(editor: MaskEditor, *points: tuple[float, float]) -> None:
    places = [editor.document.view.viewport.to_screen(*point) for point in points]
    for event, (x, y) in zip(["mouse_down", *["mouse_move"] * len(places)], places, strict=False):
        act(editor, event, x=x, y=y)
    act(editor, "mouse_up", x=places[-1][0], y=places[-1][1])


def tell(editor: MaskEditor, **content: Any) -> None:
    """Send an event as the page does, through the companion."""
    editor._events.companion._handle_custom_msg(content, [])


def paint(editor: MaskEditor) -> int:
    editor.do("tool.brush")
    drag(editor, (10, 10), (25, 14))
    return int(sum(mask.sum() for mask in editor.masks.values()))


def controls(widget: Any, kind: str) -> list[Any]:
    found = [widget] if type(widget).__name__ == kind else []
    for child in getattr(widget, "children", ()):
        found += controls(child, kind)
    return found


def button(editor: MaskEditor, words: str) -> Any:
    editor._panel.refresh()
    [found] = [b for b in controls(editor.widget, "Button") if b.description == words]
    return found


def shown(editor: MaskEditor) -> str:
    editor._panel.refresh()
    return " ".join(html.value for html in controls(editor.widget, "HTML"))


def test_a_drag_on_the_page_paints_and_is_in_the_journal(opened: Callable[..., Any]) -> None:
    editor = opened()
    assert paint(editor) > 0
    assert set(editor.masks) == {"psoas_left", "psoas"}
    with_events = editor.record.path.read_text(encoding="utf-8")
    assert with_events.count("\n") == 2  # the header and one step
    assert text("view.kept", "en") in shown(editor)


def test_running_the_cell_again_goes_on_with_masks_and_undo(opened: Callable[..., Any]) -> None:
    first = opened()
    paint(first)
    kept = first.masks["psoas_left"].copy()
    second = opened()
    assert np.array_equal(second.masks["psoas_left"], kept)
    assert text("view.closed", "en") in shown(first)
    assert all(b.disabled for b in controls(first.widget, "Button"))
    paint_before = second.record.path.read_bytes()
    act(first, "mouse_down", x=100, y=100)
    assert second.record.path.read_bytes() == paint_before
    button(second, "Undo").click()
    assert second.masks == {}
    button(second, "Redo").click()
    assert np.array_equal(second.masks["psoas_left"], kept)


def test_a_journal_open_elsewhere_is_said_and_left_alone(opened: Callable[..., Any], tmp_path: Path) -> None:
    source = make_slice((40, 60))
    path = tmp_path / "annotations" / "case.middle.record.jsonl"
    with AnnotationJournal.open(path, source) as held:
        held.append({"type": "edit"})
        before = path.read_bytes()
        with pytest.raises(RecordError, match="open in another editor"):
            opened(source=source)
        assert path.read_bytes() == before


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
    assert editor._canvas.widget.width == 1200


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

    monkeypatch.setattr(editor._canvas, "paint", fail)
    editor._pacer._run()
    assert "ZeroDivisionError" in shown(editor)
    assert paint(editor) > 0
    monkeypatch.undo()
    editor._pacer._run()
    assert editor._canvas._dirty is None


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


def test_a_next_case_that_is_open_elsewhere_leaves_this_one_in_view(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    cases = {"one": make_slice((40, 60)), "two": make_slice((50, 50))}
    editor = opened(source=cases, name=None)
    area = paint(editor)
    with AnnotationJournal.open(tmp_path / "annotations" / "two.middle.record.jsonl", cases["two"]) as held:
        held.append({"type": "edit"})
        button(editor, "Next case").click()
        assert "open in another editor" in shown(editor)
        assert editor.name == "one"
    assert paint(editor) >= area
    assert text("view.kept", "en") in shown(editor)


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


def test_saving_writes_masks_and_table_that_agree(opened: Callable[..., Any], tmp_path: Path) -> None:
    editor = opened(height_m=1.7)
    paint(editor)
    files = editor.save()
    home = tmp_path / "annotations" / "case"
    assert [path.name for path in files] == [
        *("psoas_left.nii.gz", "psoas_left.png"),
        "middle_measurements.csv",
    ]
    mask = editor.masks["psoas_left"]
    assert np.array_equal(read_mask_png(home / "psoas_left.png"), mask)
    assert np.array_equal(read_mask_nifti(home / "psoas_left.nii.gz", editor.document.slice) > 0, mask)
    with (home / "middle_measurements.csv").open(encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert float(row["psoas_left_area_mm2"]) == editor.measurements()["psoas_left_area_mm2"]
    assert float(row["height_m"]) == 1.7
    assert str(home) in shown(editor)


def test_a_slice_no_longer_outlined_leaves_no_file_behind(opened: Callable[..., Any]) -> None:
    volume = CTVolume(hu_zyx=np.zeros((3, 40, 60), np.int16), affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    editor = opened(source=volume)
    paint(editor)
    editor.do("next_slice")
    paint(editor)
    names = {path.name for path in editor.save()}
    assert {"axial_0001_psoas_left.png", "axial_0002_psoas_left.png"} <= names
    home = editor.save()[-1].parent
    (home / "axial_0002_notes.png").write_bytes(b"mine")
    editor.do("clear")
    editor.save()
    assert not (home / "axial_0002_psoas_left.png").exists()
    assert (home / "axial_0001_psoas_left.png").exists()
    assert (home / "axial_0002_notes.png").exists()


def test_a_label_cleared_since_loses_its_files_and_others_keep_theirs(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    editor = opened()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "muscle.png").write_bytes(b"someone else's")
    editor.save(theirs)
    assert (theirs / "muscle.png").exists()
    paint(editor)
    assert (editor.save()[0].parent / "psoas_left.png").exists()
    editor.do("clear")
    [table] = editor.save()
    assert [path.name for path in table.parent.iterdir()] == ["middle_measurements.csv"]


def test_a_full_disk_is_said_and_nothing_is_lost(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = opened()
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    area = paint(editor)
    assert area > 0
    assert text("view.unsaved", "en") in shown(editor)
    assert "no space left" in shown(editor).lower()
    button(editor, "Save").click()
    assert "could not be written" in shown(editor)
    monkeypatch.setattr(os, "fsync", real)
    editor.do("undo")
    editor.do("redo")
    assert text("view.kept", "en") in shown(editor)
    again = opened()
    assert int(sum(mask.sum() for mask in again.masks.values())) == area


def test_masks_to_start_from_are_used_once(opened: Callable[..., Any]) -> None:
    mask = np.zeros((40, 60), bool)
    mask[4:9, 4:9] = True
    editor = opened(masks={"muscle": mask})
    assert np.array_equal(editor.masks["muscle"], mask)
    editor.do("undo")
    paint(editor)
    again = opened(masks={"muscle": mask})
    assert "muscle" not in again.masks
    with pytest.raises(InputError):
        opened(name="other", masks={"muscle": mask[:4]})


def test_another_reader_is_compared(opened: Callable[..., Any]) -> None:
    mask = np.zeros((40, 60), bool)
    mask[4:9, 4:9] = True
    editor = opened(masks={"muscle": mask})
    editor.compare({"muscle": np.roll(mask, 1, axis=1)})
    assert "Dice 0.80" in shown(editor)
    editor.compare({"muscle": None})
    assert "Dice" not in shown(editor)


def test_cases_are_stepped_through_and_each_keeps_its_own(opened: Callable[..., Any]) -> None:
    cases = {"one": make_slice((40, 60)), "two": make_slice((50, 50))}
    editor = opened(source=cases, name=None)
    area = paint(editor)
    button(editor, "Next case").click()
    assert editor.name == "two"
    assert editor.masks == {}
    assert "Case 2 of 2: two" in shown(editor)
    assert paint(editor) > 0
    button(editor, "Next case").click()
    assert editor.name == "two"
    button(editor, "Previous case").click()
    assert int(sum(mask.sum() for mask in editor.masks.values())) == area
    assert editor.document.history.done


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
    editor._panel.refresh()
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


def test_l3_by_rectangles_with_its_middle(opened: Callable[..., Any], tmp_path: Path) -> None:
    editor = opened(L3MaskEditor, make_l3_volume(), index=4)
    assert editor.document.index == 4
    drag(editor, (9.6, 5.6), (20.4, 12.4))
    drag(editor, (24.6, 5.6), (30.4, 9.4))
    assert editor.rectangles == [(10, 6, 20, 12), (25, 6, 30, 9)]
    assert editor.mid_row == 9
    assert editor.axial_index == 24 - 1 - 9
    assert "axial slice 14" in shown(editor)
    row = editor.measurements()
    assert (row["x0"], row["y0"], row["x1"], row["y1"]) == (10, 6, 30, 12)
    assert row["mid_l3_axial_index"] == 14
    assert (tmp_path / "annotations" / "case" / "l3_measurements.csv") in editor.save()
    button(editor, "Clear").click()
    assert editor.rectangles == []
    assert editor.mid_row is None


def test_a_volume_without_a_spine_opens_in_its_middle(opened: Callable[..., Any]) -> None:
    assert opened(L3MaskEditor, make_l3_volume()).document.index == 4


def test_a_volume_opens_at_the_spine(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctai_sam2.widgets.l3.choose_sagittal_index", lambda volume: 6)
    assert opened(L3MaskEditor, make_l3_volume()).document.index == 6


def test_polygons_go_out_exactly(opened: Callable[..., Any]) -> None:
    from ctai_sam2.image.contours import polygons_to_mask

    editor = opened()
    paint(editor)
    polygons = editor.to_polygons()["psoas_left"]
    assert np.array_equal(polygons_to_mask(polygons, (40, 60)), editor.masks["psoas_left"])


def test_watchers_are_received_of_masks_and_not_of_looks(opened: Callable[..., Any]) -> None:
    editor, received = opened(), []
    stop = editor.on_change(received.append)
    editor.do("zoom_in")
    assert received == []
    paint(editor)
    assert len(received) == 1
    stop()
    editor.do("undo")
    assert len(received) == 1


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


def test_closing_says_what_became_of_the_work(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    without = opened(folder=None)
    paint(without)
    without.close()
    assert text("view.closed_no_journal", "en") in shown(without)
    lost = opened()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        paint(lost)
        lost.close()
    assert text("view.closed_unsaved", "en") in shown(lost)


def test_an_editor_displays_itself(opened: Callable[..., Any]) -> None:
    editor = opened()
    bundle = editor._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in str(bundle)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (np.zeros((4, 4)), {}),
        ([], {}),
        ({"a/b": make_slice()}, {}),
        (make_slice(plane="sagittal"), {}),
        (make_slice(), {"segmenter": "magic"}),
        (make_slice(), {"language": "fr"}),
    ],
)
def test_what_cannot_be_edited_is_refused(
    opened: Callable[..., Any], source: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        opened(source=source, **options)


def test_the_package_offers_both_editors() -> None:
    assert ct.MiddleMaskEditor is MiddleMaskEditor
    assert ct.L3MaskEditor is L3MaskEditor


def _until(is_true: Callable[[], bool]) -> None:
    """Wait for what a background thread does."""
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("as_volume", [False, True])
def test_other_levels_are_offered_and_chosen_without_the_model(
    opened: Callable[..., Any], as_volume: bool
) -> None:
    rng = np.random.default_rng(0)
    if as_volume:
        phantom = make_volume(
            reference_parameters(), shape_zyx=(76, 100, 100), spacing_zyx_mm=(5.0, 4.0, 4.0), rng=rng
        )
        source: Any = CTVolume(hu_zyx=phantom.hu_zyx, affine=phantom.affine)
    else:
        sagittal = make_sagittal_slice(
            reference_parameters(), shape_hw=(200, 200), spacing_mm=(2.0, 2.0), rng=rng
        )
        source = CTSlice(hu=sagittal.hu, spacing_mm=sagittal.spacing_mm, plane="sagittal")
    with ct.open_segmenter("local") as segmenter:
        editor = opened(L3MaskEditor, source, segmenter=segmenter)
        assert editor.levels is None
        with pytest.raises(InputError, match="found no bodies"):
            editor.choose_level(0)
        editor.run()
    found = editor.levels
    assert found is not None
    first = editor.masks["l3"]
    offers = editor._panel._proposals.children
    assert len(offers) >= 3
    assert "higher" in offers[0].description
    offers[0].click()
    higher = editor.masks["l3"]
    assert np.nonzero(higher)[0].mean() < np.nonzero(first)[0].min()
    editor.do("undo")
    assert np.array_equal(editor.masks["l3"], first)
