"""The strip next to a volume: drawn, pressed, said; propagation, undo by slice, numbers, files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctai_sam2.editor.authorship import hand_share, model_of
from ctai_sam2.editor.commands import FillRectangle, SetMask
from ctai_sam2.errors import InputError, Unavailable
from ctai_sam2.segmentation.volume import VolumeResult
from ctai_sam2.segmentation.volume.result import LevelRange, SliceMask, crop_mask
from ctai_sam2.types import CTVolume
from ctai_sam2.widgets import MaskEditor, MiddleMaskEditor
from ctai_sam2.widgets.strip import GATE_COLOURS
from tests.fakes import FakeSegmenter, RememberingSegmenter
from tests.unit.editor.making import make_slice
from tests.unit.widgets.page import button, shown
from tests.unit.widgets.recording import Recorder, model

SHAPE = (60, 80)
DEPTH = 9


@pytest.fixture
def opened(tmp_path: Path, recorder: Recorder) -> Iterator[Callable[..., Any]]:
    editors: list[MaskEditor] = []

    def open_editor(source: Any = None, **options: Any) -> Any:
        options = {"folder": tmp_path / "annotations", "segmenter": None, "name": "case", **options}
        editors.append(MiddleMaskEditor(make_volume() if source is None else source, **options))
        return editors[-1]

    yield open_editor
    for editor in editors:
        editor.close()


def make_volume() -> CTVolume:
    return CTVolume(hu_zyx=np.full((DEPTH, *SHAPE), 50, np.int16), affine=np.diag([1.0, 1.0, 4.0, 1.0]))


def disc(x: float, radius: float = 10) -> np.ndarray:
    rows, columns = np.indices(SHAPE)
    return np.asarray(np.hypot(columns - x, rows - 30) <= radius)


def make_result(volume: CTVolume, *, gates: dict[int, str] | None = None) -> VolumeResult:
    slices = {}
    for index in range(1, DEPTH - 1):
        corner, crop = crop_mask(disc(30))
        gate: Any = (gates or {}).get(index, "green")
        slices[index] = SliceMask(
            corner_yx=corner, crop=crop, source="automatic", gate=gate, reasons=("the area jumps",)
        )
    return VolumeResult(
        volume=volume,
        indices=tuple(range(1, DEPTH - 1)),
        levels=(LevelRange(name="L3", lower_mm=8, upper_mm=20),),
        structure_slices={"psoas_left": slices},
    )


def strip_of(editor: Any) -> Any:
    editor._display.panel.refresh()
    return editor._display.panel._strip


def press(editor: Any, y: float) -> None:
    strip_of(editor).canvas._handle_frontend_event(None, {"event": "mouse_down", "x": 30, "y": y}, [])


def test_a_result_is_loaded_as_one_step_with_its_gates_and_comes_back(opened: Callable[..., Any]) -> None:
    volume = make_volume()
    editor = opened(volume)
    editor.load_result(make_result(volume, gates={4: "red", 5: "amber"}))
    assert "L3" in str([one.level for one in strip_of(editor)._slices])
    words = shown(editor)
    assert "7 of 7 slices outlined, 0 by you, 1 amber, 1 red" in words
    assert 'role="img"' in words
    again = opened(volume)
    assert strip_of(again)._slices == strip_of(editor)._slices
    assert again.volume_result.slices.equals(editor.volume_result.slices)
    again.do("undo")
    assert again.volume_result is None
    with pytest.raises(InputError, match="another volume"):
        again.load_result(make_result(CTVolume(hu_zyx=volume.hu_zyx[:, :9], affine=volume.affine)))


def test_the_strip_shows_gates_and_a_press_goes_to_the_slice(
    opened: Callable[..., Any], recorder: Recorder
) -> None:
    volume = make_volume()
    editor = opened(volume)
    editor.load_result(make_result(volume, gates={4: "red"}))
    strip = strip_of(editor)
    height = strip.canvas.height
    # One slice beyond either end of the range is there too.
    press(editor, 1)
    assert editor.document.index == DEPTH - 1
    press(editor, height - 1)
    assert editor.document.index == 0
    press(editor, height + 50)
    assert editor.document.index == 0
    strip.canvas._handle_frontend_event(None, {"event": "mouse_move", "x": 30, "y": height / 2}, [])
    assert editor.document.index == 4
    strip.canvas._handle_frontend_event(None, {"event": "mouse_up", "x": 30, "y": height / 2}, [])
    strip.canvas._handle_frontend_event(None, {"event": "mouse_move", "x": 30, "y": 1}, [])
    assert editor.document.index == 4
    strip_of(editor)
    recorder.clear()
    strip._draw()
    drawn = [command for command in recorder.commands if command[0] == model(strip.canvas)]
    assert [name for _, name, _, _ in drawn].count("fillRects") == 3
    assert GATE_COLOURS["red"] in str([values for _, _, values, _ in drawn])
    # The frame around the slice in view leaves the level's name readable.
    [frame] = [values for _, name, values, _ in drawn if name == "strokeRect"]
    [level] = [values for _, name, values, _ in drawn if name == "fillText"]
    assert frame[0] >= level[1] + 20
    recorder.clear()
    strip_of(editor)
    assert not [command for command in recorder.commands if command[0] == model(strip.canvas)]


def test_the_ends_of_the_range_are_dragged(opened: Callable[..., Any]) -> None:
    volume = make_volume()
    editor = opened(volume)
    editor.load_result(make_result(volume))
    before = editor.volume_result.summary.volume_cm3[0]
    index = editor.document.index

    def drag(start: float, end: float) -> None:
        canvas = strip_of(editor).canvas
        step = canvas.height / DEPTH
        for event, y in (("mouse_down", start), ("mouse_move", end), ("mouse_up", end)):
            canvas._handle_frontend_event(None, {"event": event, "x": 5, "y": y * step}, [])

    # Slices from the top are 8, 7, …: the range ends below the first of them.
    drag(1, 3.5)
    assert editor.document.span == (1, 5)
    assert editor.volume_result.summary.volume_cm3[0] < before
    assert "slices 1 to 5 (5)" in editor.controller.message.text("en")
    drag(8, 8.5)
    assert editor.document.span == (0, 5)
    drag(9, 0.5)
    assert editor.document.span == (5, 5)
    assert editor.document.index == index
    editor.close()
    again = opened(volume)
    assert again.document.span == (5, 5)
    with pytest.raises(InputError, match="outside the volume"):
        again.set_range(3, DEPTH)


def test_the_strip_is_as_sharp_as_the_screen(opened: Callable[..., Any], recorder: Recorder) -> None:
    volume = make_volume()
    editor = opened(volume)
    editor.load_result(make_result(volume))
    strip = strip_of(editor)
    height = strip.canvas.height
    editor._display.canvas.set_pixel_ratio(2.0)
    recorder.clear()
    strip_of(editor)
    assert (strip.canvas.width, strip.canvas.height) == (132, 2 * height)
    assert (strip.canvas.layout.width, strip.canvas.layout.height) == ("66px", f"{height}px")
    drawn = [command for command in recorder.commands if command[0] == model(strip.canvas)]
    assert [values for _, name, values, _ in drawn if name == "scale"] == [[2.0, 2.0]]
    press(editor, 2 * height - 2)
    assert editor.document.index == 0


def test_the_range_is_segmented_with_what_was_drawn(opened: Callable[..., Any]) -> None:
    editor = opened(segmenter=FakeSegmenter(), index=4)
    editor.set_mask("psoas_left", disc(30))
    editor.controller.set_levels((), (2, 6))
    editor.do("segment_range")
    editor.controller.inference.wait(30)
    document = editor.document
    assert np.array_equal(document.mask("psoas_left", 4), disc(30))
    # No anatomy is visible on the other slices: the structure ends next to what was drawn.
    assert [document.state("psoas_left", index).source for index in range(DEPTH)] == [
        *(None, None, "absent", "absent", "anchor", "absent", "absent", None, None),
    ]
    editor.do("undo")
    assert document.state("psoas_left", 5).source is None


def test_propagation_goes_from_a_drawn_slice_to_the_next_decided_one(opened: Callable[..., Any]) -> None:
    editor = opened(segmenter=FakeSegmenter(), index=4)
    for index in (4, 7):
        editor.controller.go_to(index)
        editor.set_mask("psoas_left", disc(30))
    editor.controller.go_to(4)
    editor.propagate("up")
    document = editor.document
    assert [document.state("psoas_left", index).source for index in range(DEPTH)] == [
        *(None, None, None, None, "anchor", "propagated", "propagated", "anchor", None),
    ]
    assert document.mask("psoas_left", 5).any()
    assert editor.document.index == 4
    assert hand_share(editor.document, 5) == 0
    assert model_of(editor.document, 5) == "fake"
    editor.do("undo")
    assert not document.mask("psoas_left", 5).any()
    assert document.mask("psoas_left", 4).any()
    editor.do("from_here_both")
    editor.controller.inference.wait(30)
    assert document.mask("psoas_left", 3).any()
    assert document.mask("psoas_left", 5).any()
    editor.controller.go_to(5)
    editor.do("undo_slice")
    assert not document.mask("psoas_left", 5).any()
    assert document.mask("psoas_left", 6).any()


def test_a_model_with_memory_follows_with_it(opened: Callable[..., Any]) -> None:
    editor = opened(segmenter=RememberingSegmenter(), index=4)
    editor.set_mask("psoas_left", disc(30))
    editor.propagate()
    # Prompts would give this fake's own discs: here the drawn one is carried on.
    assert all(np.array_equal(editor.document.mask("psoas_left", index), disc(30)) for index in range(DEPTH))
    assert editor.document.state("psoas_left", 0).source == "propagated"


def test_a_correction_runs_again_only_up_to_decided_slices(opened: Callable[..., Any]) -> None:
    volume = make_volume()
    editor = opened(volume, segmenter=FakeSegmenter())
    editor.load_result(make_result(volume))
    document = editor.document
    editor.controller.go_to(6)
    editor.do("lock_here")
    editor.controller.go_to(3)
    editor.set_mask("psoas_left", disc(45))
    editor.propagate()
    assert document.state("psoas_left", 4).source == "propagated"
    assert np.array_equal(document.mask("psoas_left", 6), disc(30))
    assert np.array_equal(document.mask("psoas_left", 7), disc(30))
    assert np.array_equal(document.mask("psoas_left", 3), disc(45))


def test_slices_edited_while_it_ran_stay_as_they_are(opened: Callable[..., Any]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FakeSegmenter):
        def predict(self, *asked: Any, **options: Any) -> Any:
            begun.set()
            assert go_on.wait(30)
            return super().predict(*asked, **options)

    editor = opened(segmenter=Slow(), index=4)
    editor.set_mask("psoas_left", disc(30))
    editor.do("from_here_up")
    assert begun.wait(30)
    mine = disc(60, 4)
    editor.controller.apply(SetMask(label="psoas_left", mask=mine), index=6)
    go_on.set()
    editor.controller.inference.wait(30)
    assert np.array_equal(editor.document.mask("psoas_left", 6), mine)
    assert editor.document.mask("psoas_left", 5).any()
    assert "Left as you edited them meanwhile: 1" in shown(editor)


def test_an_outage_changes_nothing_and_can_be_retried(opened: Callable[..., Any]) -> None:
    segmenter = FakeSegmenter()
    editor = opened(segmenter=segmenter, index=4)
    editor.set_mask("psoas_left", disc(30))
    segmenter.error = Unavailable("the service does not respond")
    editor.propagate("up")
    assert "does not respond" in shown(editor)
    assert not editor.document.mask("psoas_left", 5).any()
    segmenter.error = None
    editor.do("retry")
    editor.controller.inference.wait(30)
    assert editor.document.mask("psoas_left", 5).any()


def test_without_a_segmenter_slices_are_interpolated_and_numbers_follow(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    editor = opened()
    for index in (2, 6):
        editor.controller.go_to(index)
        editor.set_mask("psoas_left", disc(30))
    editor.do("from_here_up")
    button(editor, "Interpolate between drawn slices").click()
    assert "Slices interpolated: 3" in shown(editor)
    area_cm2 = disc(30).sum() / 100
    # From slice 2 to slice 6: four steps of 4 mm.
    assert f"{area_cm2 * 1.6:.1f} cm³ in 5 slices" in shown(editor)
    editor.controller.apply(FillRectangle(label="psoas_left", box_xyxy=(0, 0, 79, 59), erase=True), index=6)
    assert f"{area_cm2 * 1.6:.1f} cm³" not in shown(editor)
    editor.do("undo")
    files = {path.relative_to(tmp_path).as_posix() for path in editor.save()}
    home = "annotations/case/volume"
    assert {f"{home}/slices.csv", f"{home}/levels.csv", f"{home}/masks/psoas_left.nii.gz"} <= files


def test_nothing_to_go_on_from_is_said(opened: Callable[..., Any]) -> None:
    editor = opened(segmenter=FakeSegmenter())
    editor.do("from_here_both")
    assert "outline Left psoas here first" in shown(editor)


def test_the_number_of_the_image_is_shown_and_in_the_row(opened: Callable[..., Any]) -> None:
    volume = make_volume()
    numbered = CTVolume(
        hu_zyx=volume.hu_zyx, affine=volume.affine, instance_numbers=tuple(range(40, 40 - DEPTH, -1))
    )
    editor = opened(numbered, index=2)
    assert "image 38 of the series" in shown(editor)
    row = editor.measurements()
    assert (row["instance_number"], row["z_mm"]) == (38, 8.0)
    assert "of the series" not in shown(opened(volume, name="without"))


def test_a_single_slice_has_no_strip(opened: Callable[..., Any]) -> None:
    editor = opened(make_slice((40, 60)))
    assert strip_of(editor).widget.layout.display == "none"
    assert editor.volume_result is None
