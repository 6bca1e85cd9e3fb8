"""Journal, saving, stepping through cases and closing."""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctai_sam2.editor import text
from ctai_sam2.errors import InputError, RecordError
from ctai_sam2.io import read_mask_nifti, read_mask_png
from ctai_sam2.journal import AnnotationJournal
from ctai_sam2.types import CTVolume
from tests.unit.editor.making import make_slice
from tests.unit.widgets.page import act, button, controls, paint, shown


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
