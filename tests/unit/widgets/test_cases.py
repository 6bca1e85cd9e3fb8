"""Going through cases and back: nobody's picture under another's name, nothing lost, rows when accepted."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctai_sam2.editor import text
from ctai_sam2.editor.authorship import author_of, hand_share
from ctai_sam2.editor.commands import FillRectangle
from ctai_sam2.errors import InputError
from ctai_sam2.io import write_mask_nifti
from ctai_sam2.types import CTVolume
from ctai_sam2.widgets import L3MaskEditor, MaskEditor, MiddleMaskEditor
from tests.fakes import FakeSegmenter
from tests.unit.editor.making import make_slice
from tests.unit.widgets.page import act, button, controls, drag, shown, tell
from tests.unit.widgets.recording import Recorder


@pytest.fixture
def opened(tmp_path: Path, recorder: Recorder) -> Iterator[Callable[..., Any]]:
    editors: list[MaskEditor] = []

    def open_editor(kind: type[MaskEditor] = MiddleMaskEditor, source: Any = None, **options: Any) -> Any:
        options = {"folder": tmp_path / "annotations", "segmenter": None, **options}
        editors.append(kind(make_cases() if source is None else source, **options))
        return editors[-1]

    yield open_editor
    for editor in editors:
        editor.close()


def make_cases() -> dict[str, Any]:
    return {name: make_slice((40, 60 + number)) for number, name in enumerate(("one", "two", "three"))}


def outline(editor: MaskEditor, size: int = 5, label: str = "psoas_left") -> None:
    editor.controller.apply(FillRectangle(label=label, box_xyxy=(5, 5, 4 + size, 9)))


def require_alive(editor: MaskEditor, name: str) -> None:
    """The case's own picture, its own name, and controls that work."""
    assert editor.name == name
    assert editor.document.shape_hw == make_cases()[name].shape_hw
    assert f": {name}" in shown(editor)
    assert text("view.closed", "en") not in shown(editor)
    assert not button(editor, "Save").disabled
    assert editor._display.canvas.controller is editor.controller
    steps = len(editor.document.history.done)
    editor.do("tool.rectangle")
    drag(editor, (20, 20), (22 + steps, 22))
    assert len(editor.document.history.done) == steps + 1
    assert editor.journal is not None
    assert editor.journal.unsaved == 0
    editor.do("undo")


def walk_of_all(length: int) -> list[int]:
    """Return steps of 1 and -1 in which each row of so many steps comes once (a de Bruijn sequence)."""
    steps = [1] * length
    seen = {tuple(steps)}
    for _ in range(2**length - 1):
        last = steps[len(steps) - length + 1 :]
        steps.append(-1 if (*last, -1) not in seen else 1)
        seen.add(tuple(steps[-length:]))
    assert seen == set(itertools.product((1, -1), repeat=length))
    return steps


@pytest.mark.parametrize("direction", [1, -1])
def test_any_walk_back_and_forth_keeps_the_editor_alive(opened: Callable[..., Any], direction: int) -> None:
    editor, names, place = opened(), list(make_cases()), 0
    steps = [direction * step for step in walk_of_all(5)]
    drawn: dict[str, int] = {}
    for number, step in enumerate(steps, start=3):
        outline(editor, size=number)
        drawn[editor.name] = max(number, drawn.get(editor.name, 0))
        button(editor, "Next case" if step == 1 else "Previous case").click()
        place = min(max(place + step, 0), len(names) - 1)
        require_alive(editor, names[place])
        assert editor.document.mask("psoas_left").sum() == 5 * drawn.get(editor.name, 0)


def test_another_editor_may_take_a_case_that_was_left(opened: Callable[..., Any]) -> None:
    first = opened()
    outline(first)
    first.step_case(1)
    second = opened(source=make_cases()["one"], name="one")
    assert second.masks["psoas_left"].sum() == 25
    require_alive(first, "two")
    first.step_case(-1)
    assert first.name == "one"
    assert text("view.closed", "en") in shown(second)
    require_alive(first, "one")


def test_a_case_that_cannot_be_opened_leaves_everything_of_this_one(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    editor = opened()
    outline(editor)
    (tmp_path / "annotations" / "two.middle.record.jsonl").write_text("not a journal\nat all\n")
    button(editor, "Next case").click()
    assert "no annotation journal" in shown(editor)
    require_alive(editor, "one")
    assert editor.masks["psoas_left"].sum() == 25


def test_accept_writes_the_row_and_opens_the_next_case_that_is_not_done(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    editor = opened(reader="AB")
    for name in ("one", "two", "three"):
        assert editor.name == name
        outline(editor)
        tell(editor, event="key", key="Enter", modifiers=[], pressed=True)
        with (tmp_path / "annotations" / name / "middle_measurements.csv").open(encoding="utf-8") as file:
            [row] = csv.DictReader(file)
        assert (row["case"], row["reader"], row["hand_share"]) == (name, "AB", "1.0")
        assert row["date"].startswith("20")
        assert len(row["series"]) == 16
    assert "All 3 cases are done" in shown(editor)
    assert "3 of 3 done" in shown(editor)
    again = opened()
    assert set(again._list_cases().states.values()) == {"done"}
    outline(again, 9)
    assert again._list_cases().states["one"] == "drawn"


def test_leaving_a_case_with_an_unwritten_row_says_so(opened: Callable[..., Any]) -> None:
    editor = opened()
    outline(editor)
    editor.step_case(1)
    assert "not accepted yet" in shown(editor)
    editor.step_case(1)
    assert "not accepted yet" not in shown(editor)
    assert editor._list_cases().states == {"one": "drawn", "two": "open", "three": "open"}


def test_a_row_whose_masks_were_taken_back_is_no_longer_up_to_date(opened: Callable[..., Any]) -> None:
    editor = opened()
    outline(editor)
    editor.save()
    assert editor._list_cases().states["one"] == "done"
    editor.do("undo")
    assert not editor.document.history.done
    assert editor._list_cases().states["one"] == "drawn"
    button(editor, "Next case").click()
    assert text("view.row_unwritten", "en", name="one") in shown(editor)


def test_an_empty_case_is_accepted_only_when_that_is_meant(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    editor = opened()
    editor.accept()
    assert editor.name == "one"
    assert "Nothing is outlined" in shown(editor)
    tell(editor, event="key", key="Enter", modifiers=[], pressed=True)
    assert editor.name == "one"
    assert not (tmp_path / "annotations" / "one").exists()
    tell(editor, event="key", key="Enter", modifiers=["ctrl"], pressed=True)
    assert editor.name == "two"
    assert (tmp_path / "annotations" / "one" / "middle_measurements.csv").exists()


def test_tool_label_brush_window_and_zoom_stay_with_the_reader(opened: Callable[..., Any]) -> None:
    cases = {"one": make_slice((40, 60)), "two": make_slice((40, 60))}
    editor = opened(source=cases)
    outline(editor)
    for name in ("tool.eraser", "window.bone", "brush_larger", "next_label", "zoom_in", "toggle_outline"):
        editor.do(name)
    view = editor.document.view
    editor.step_case(1)
    assert editor.document.view == view
    editor.close()
    again = opened(source=cases)
    now = again.document.view
    assert (now.tool, now.window, now.brush_radius_mm, now.active, now.outline_only) == (
        *("eraser", view.window, view.brush_radius_mm, view.active, True),
    )
    assert now.viewport.px_per_mm == pytest.approx(view.viewport.px_per_mm)


def test_colours_of_labels_stay_with_the_reader(opened: Callable[..., Any]) -> None:
    editor = opened()
    outline(editor)
    [picker, *_] = controls(editor.widget, "ColorPicker")
    picker.value = "#123456"
    editor.step_case(1)
    assert editor.document.labels["psoas_left"].colour == "#123456"
    editor.close()
    assert opened().document.labels["psoas_left"].colour == "#123456"


def test_settings_that_cannot_be_read_cost_nothing(opened: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / ".middle.view.json").write_text('{"tool": ["x"], "window": 3}')
    require_alive(opened(), "one")


@pytest.mark.parametrize("labels", [("psoas_left", "psoas_right"), ("psoas_left",), ("muscle",)])
def test_another_editors_masks_can_be_compared_as_they_are(
    opened: Callable[..., Any], labels: tuple[str, ...]
) -> None:
    one = make_cases()["one"]
    other = opened(source=one, name="other")
    editor = opened(source=one, name="mine")
    for label in labels:
        outline(other, 9, label)
        outline(editor, 9, label)
    editor.compare(other.masks)
    assert "Dice 1.00" in shown(editor)
    before = {name: mask.copy() for name, mask in editor.document.references.items()}
    editor.do("clear")
    assert all(np.array_equal(editor.document.references[name], mask) for name, mask in before.items())


def test_the_psoas_of_both_sides_together_can_be_compared(opened: Callable[..., Any]) -> None:
    editor = opened()
    outline(editor)
    editor.compare({"psoas": editor.masks["psoas"]})
    assert "Psoas – " in shown(editor)
    assert "Dice 1.00" in shown(editor)
    with pytest.raises(InputError, match="no such label"):
        editor.compare({"spleen": editor.masks["psoas_left"]})
    with pytest.raises(InputError, match="differ in shape"):
        editor.compare({"muscle": editor.masks["psoas_left"], "psoas": np.ones((2, 2), bool)})
    assert set(editor.document.references) == {"psoas"}


def test_names_without_a_label_are_left_out_and_said(opened: Callable[..., Any]) -> None:
    editor = opened()
    outline(editor)
    editor.compare({"psoas_left": editor.masks["psoas_left"], "spleen": editor.masks["psoas_left"]})
    assert set(editor.document.references) == {"psoas_left"}
    assert "spleen" in shown(editor)


def test_a_volume_of_masks_is_compared_on_every_slice(opened: Callable[..., Any]) -> None:
    volume = CTVolume(hu_zyx=np.zeros((3, 40, 60), np.int16), affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    editor = opened(source=volume, name="volume")
    outline(editor)
    stack = np.zeros((3, 40, 60), bool)
    stack[1] = editor.document.mask("psoas_left")
    stack[2, 5:10, 5:10] = True
    editor.compare({"psoas_left": stack})
    assert "Dice 1.00" in shown(editor)
    assert "all slices: Dice 0.67" in shown(editor)
    editor.do("next_slice")
    assert "white outline): Dice 0.00" in shown(editor)
    button(editor, "Take over the other reader's mask").click()
    assert "white outline): Dice 1.00" in shown(editor)
    assert "all slices: Dice 1.00" in shown(editor)
    stack[:] = False
    assert editor.document.references["psoas_left"].any()
    with pytest.raises(InputError, match="another volume"):
        editor.compare({"psoas_left": stack[:2]})
    editor.compare({"psoas_left": None})
    assert "Dice" not in shown(editor)


@pytest.mark.parametrize("as_map", [False, True])
def test_files_are_compared_through_the_one_reader(
    opened: Callable[..., Any], tmp_path: Path, as_map: bool
) -> None:
    volume = CTVolume(hu_zyx=np.zeros((3, 40, 60), np.int16), affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    editor = opened(source=volume, name="volume")
    outline(editor)
    stack = np.zeros((3, 40, 60), bool)
    stack[1] = editor.document.mask("psoas_left")
    path = tmp_path / "psoas_left.nii.gz"
    write_mask_nifti(path, stack, volume)
    editor.compare({"psoas_left": path} if as_map else path)
    assert "Dice 1.00" in shown(editor)
    with pytest.raises(InputError, match="no file"):
        editor.compare({"psoas_left": tmp_path / "absent.nii.gz"})
    assert "Dice 1.00" in shown(editor)


def test_what_differs_is_shown_and_a_clicked_region_taken_over(opened: Callable[..., Any]) -> None:
    editor = opened(source=make_slice((40, 60)), name="one")
    outline(editor)
    theirs = editor.masks["psoas_left"].copy()
    theirs[20:24, 20:24] = True
    theirs[5:10, 5] = False
    editor.compare({"psoas_left": theirs})
    assert button(editor, "Take over the other reader's mask")
    assert editor._display.panel._labels._comparison.layout.display is None
    editor.do("toggle_differences")
    assert text("view.differences", "en").split("; ")[0] in shown(editor)
    editor.do("tool.take")
    drag(editor, (21, 21))
    mask = editor.masks["psoas_left"]
    assert mask[20:24, 20:24].all()
    assert mask[5:10, 5].all()
    drag(editor, (50, 30))
    assert np.array_equal(editor.masks["psoas_left"], mask)
    editor.do("take_over")
    assert np.array_equal(editor.masks["psoas_left"], theirs)
    editor.do("take_over")
    assert "nothing to take over" in shown(editor)
    assert author_of(editor.document, "psoas_left") == "reader"
    editor.do("undo")
    editor.do("undo")
    assert editor.masks["psoas_left"].sum() == 25


def test_a_comparison_stays_with_its_slice(opened: Callable[..., Any]) -> None:
    volume = CTVolume(hu_zyx=np.zeros((3, 40, 60), np.int16), affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    editor = opened(source=volume, name="volume")
    outline(editor)
    editor.compare(editor.masks)
    editor.do("next_slice")
    assert "Dice" not in shown(editor)
    editor.do("previous_slice")
    assert "Dice 1.00" in shown(editor)


def test_the_number_on_the_screen_is_the_number_in_the_row(opened: Callable[..., Any]) -> None:
    editor = opened(height_m=1.7)
    for label, size in (("psoas_left", 9), ("muscle", 25), ("sat", 30)):
        outline(editor, size, label)
    row = editor.measurements()
    page = shown(editor)
    for column in ("psoas_left_area_mm2", "combo_area_mm2", "sat_area_mm2"):
        assert f"{row[column] / 100:.1f} cm²" in page
    assert f"SMI {row['smi_cm2_m2']:.1f}" in page
    assert '<span class="ctai-sam2-outline">' in page


def test_the_height_is_typed_in_place(opened: Callable[..., Any]) -> None:
    editor = opened()
    outline(editor, 25, "muscle")
    assert editor.measurements()["smi_cm2_m2"] is None
    [field] = [f for f in controls(editor.widget, "BoundedFloatText") if f.description.startswith("Height")]
    field.value = 170
    assert editor.measurements()["height_m"] == 1.7
    assert "SMI" in shown(editor)
    field.value = 20
    assert "Not done" in shown(editor)
    assert editor.measurements()["height_m"] == 1.7


def test_a_point_and_the_mask_it_gives_are_one_step(opened: Callable[..., Any]) -> None:
    editor = opened(segmenter=FakeSegmenter(), source=make_slice((64, 64)), name="one")
    editor.do("tool.click")
    drag(editor, (20, 20))
    editor.controller.inference.wait(30)
    assert editor.masks["psoas_left"].any()
    assert hand_share(editor.document) == 0
    editor.do("undo")
    assert editor.masks == {}
    assert not editor.document.marks("psoas_left")
    editor.do("redo")
    assert editor.masks["psoas_left"].any()
    assert len(editor.document.marks("psoas_left").points) == 1
    again = opened(source=make_slice((64, 64)), name="one")
    again.do("undo")
    assert again.masks == {}
    assert not again.document.marks("psoas_left")


def test_the_middle_editor_opens_where_l3_was_outlined(opened: Callable[..., Any]) -> None:
    volume = CTVolume(hu_zyx=np.full((24, 40, 8), 40, np.int16), affine=np.diag([2.0, 1.0, 3.0, 1.0]))
    assert opened(source=volume, name="v").document.index == 12
    l3 = opened(L3MaskEditor, source=volume, name="v")
    l3.do("tool.rectangle")
    drag(l3, (9.6, 5.6), (20.4, 12.4))
    assert opened(source=volume, name="v").document.index == l3.axial_index == 14
    assert "<img" in opened(source=volume, name="v")._localise()


def test_both_planes_open_from_each_other_with_a_line(opened: Callable[..., Any]) -> None:
    volume = CTVolume(hu_zyx=np.full((24, 40, 8), 40, np.int16), affine=np.diag([2.0, 1.0, 3.0, 1.0]))
    l3 = opened(L3MaskEditor, source=volume, name="v", index=3, reader="AB")
    l3.do("tool.rectangle")
    drag(l3, (9.6, 5.6), (20.4, 12.4))
    middle = l3.open_partner()
    assert l3.open_partner() is middle
    assert middle.widget in l3.widget.children[-1].children
    assert (middle.name, middle.reader, middle.document.index) == ("v", "AB", l3.axial_index)
    assert l3._display.canvas.guide == ("row", 24 - 1 - l3.axial_index)
    assert middle._display.canvas.guide == ("column", 3)
    middle.do("next_slice")
    assert l3._display.canvas.guide == ("row", 24 - 2 - l3.axial_index)
    l3.controller.go_to(5)
    assert middle._display.canvas.guide == ("column", 5)
    outline(middle)
    l3.close()
    assert text("view.closed", "en") in shown(middle)
    again = opened(source=volume, name="v")
    assert again.masks["psoas_left"].any()
    back = again.open_partner()
    assert isinstance(back, L3MaskEditor)
    assert back.axial_index == 14
    back.close()
    assert again._display.canvas.guide is None
    require_alive_volume(again)
    assert again.open_partner() is not back


def require_alive_volume(editor: MaskEditor) -> None:
    assert text("view.closed", "en") not in shown(editor)
    steps = len(editor.document.history.done)
    outline(editor, 20, "muscle")
    assert len(editor.document.history.done) == steps + 1


def test_a_partner_is_closed_with_its_case_and_a_slice_has_none(opened: Callable[..., Any]) -> None:
    volume = CTVolume(hu_zyx=np.full((24, 40, 8), 40, np.int16), affine=np.diag([2.0, 1.0, 3.0, 1.0]))
    editor = opened(source={"v": volume, "one": make_cases()["one"]})
    partner = editor.open_partner()
    editor.step_case(1)
    assert text("view.closed", "en") in shown(partner)
    assert editor.partner is None
    with pytest.raises(InputError, match="no other plane"):
        editor.open_partner()
    editor.step_case(-1)
    assert editor.name == "v"
    assert editor.open_partner().name == "v"


def test_the_page_says_how_large_the_picture_is(opened: Callable[..., Any]) -> None:
    editor = opened()
    tell(editor, event="resize", width=900, height=500, covered=230)
    assert (editor._display.canvas.width, editor._display.canvas.height) == (900, 500)
    assert editor._display.canvas.widget.layout.width == "900px"
    viewport = editor.document.view.viewport
    assert viewport.canvas_hw == (500, 900)
    # The slice moves out from under the panel, as far as there is room.
    assert viewport.to_screen(59.5, 0)[0] <= 900 - 230 + 1e-6 or viewport.pan_xy[0] == 0
    editor.do("zoom_in")
    zoom = editor.document.view.viewport.px_per_mm
    tell(editor, event="resize", width=700, height=450, covered=0)
    assert editor.document.view.viewport.px_per_mm == zoom
    tell(editor, event="resize", width=0, height=1e9, covered=0)
    assert editor._display.canvas.width == 700


def test_the_wheel_scrolls_a_volume_and_zooms_a_slice(opened: Callable[..., Any]) -> None:
    volume = CTVolume(hu_zyx=np.zeros((9, 40, 60), np.int16), affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    editor = opened(source=volume, name="volume")
    for steps in (0.4, 0.4, 0.4):
        tell(editor, event="wheel", steps=steps, at=[9, 9], modifiers=[])
    assert editor.document.index == 5
    zoom = editor.document.view.viewport.px_per_mm
    tell(editor, event="wheel", steps=1, at=[9, 9], modifiers=["ctrl"])
    assert editor.document.view.viewport.px_per_mm > zoom
    editor.do("toggle_wheel")
    tell(editor, event="wheel", steps=1, at=[9, 9], modifiers=[])
    tell(editor, event="wheel", steps=-2, at=[9, 9], modifiers=["shift"])
    assert editor.document.index == 3
    # Without the companion: a wheel that turns sideways is one with Shift.
    act(editor, "mouse_wheel", x=-100, y=0)
    assert editor.document.index == 4
    single = opened(source=make_cases()["one"], name="single")
    before = single.document.view.viewport.px_per_mm
    tell(single, event="wheel", steps=1, at=[9, 9], modifiers=[])
    assert single.document.view.viewport.px_per_mm > before


def test_ctrl_s_saves(opened: Callable[..., Any], tmp_path: Path) -> None:
    editor = opened()
    outline(editor)
    tell(editor, event="key", key="s", modifiers=["ctrl"], pressed=True)
    assert (tmp_path / "annotations" / "one" / "middle_measurements.csv").exists()
