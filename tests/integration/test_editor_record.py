"""The editor and its record together: what was done is there again, bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctai_sam2.editor import L3, MIDDLE, Controller, Document
from ctai_sam2.editor import commands as do
from ctai_sam2.editor.replay import restore, snapshot
from ctai_sam2.errors import RecordError
from ctai_sam2.journal import AnnotationJournal
from tests.unit.editor.making import edits, make_document, make_slice, make_volume, state_of


def history_of(document: Document) -> tuple[Any, ...]:
    history = document.history
    return list(history.done), list(history.undone), history.dropped


steps = st.lists(
    st.one_of(edits, st.sampled_from(["undo", "undo", "redo", "compact", "next slice", "reopen"])),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(steps, st.sampled_from([2000, 2**20]))
def test_replay_is_the_live_state_bit_for_bit(happened: list[Any], history_bytes: int) -> None:
    volume = make_volume()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.jsonl"
        record = AnnotationJournal.open(path, volume)
        document = make_document(source=volume, history_bytes=history_bytes, index=0)
        controller = Controller(document, record=record)
        for step in [*happened, "reopen"]:
            if step == "undo":
                controller.undo()
            elif step == "redo":
                controller.redo()
            elif step == "compact":
                assert controller.compact_record()
            elif step == "next slice":
                controller.do("next_slice")
            elif step == "reopen":
                record.close()
                record = AnnotationJournal.open(path, volume)
                live, index = controller.document, controller.document.index
                again = make_document(source=volume, history_bytes=history_bytes, index=index)
                controller = Controller(again, record=record)
                assert state_of(again) == state_of(live)
                assert history_of(again) == history_of(live)
                assert snapshot(again) == snapshot(live)
            else:
                controller.apply(step)
        record.close()


def test_killed_at_any_byte_the_editor_opens_at_a_state_it_was_in(tmp_path: Path) -> None:
    path = tmp_path / "case.jsonl"
    states = []
    with AnnotationJournal.open(path, make_slice()) as record:
        controller = Controller(make_document(), record=record)
        states.append(state_of(controller.document))
        for x in (2, 9, 16):
            controller.apply(do.Paint(label="muscle", points_xy=((x, 6),), radius_mm=3))
            states.append(state_of(controller.document))
        controller.undo()
        states.append(state_of(controller.document))
    content = path.read_bytes()
    for length in range(0, len(content) + 1, 7):
        path.write_bytes(content[:length])
        whole_lines = content[:length].count(b"\n")
        with AnnotationJournal.open(path, make_slice()) as record:
            again = Controller(make_document(), record=record)
            assert state_of(again.document) == states[max(whole_lines - 1, 0)]


def test_a_record_of_the_other_editor_is_refused(tmp_path: Path) -> None:
    path, ct_slice = tmp_path / "case.jsonl", make_slice(plane="unknown")
    with AnnotationJournal.open(path, ct_slice) as record:
        controller = Controller(Document(ct_slice, MIDDLE), record=record)
        controller.apply(do.FillRectangle(label="muscle", box_xyxy=(1, 1, 5, 5)))
    with AnnotationJournal.open(path, ct_slice) as record, pytest.raises(RecordError, match="does not fit"):
        Controller(Document(ct_slice, L3), record=record)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"type": "fly"},
        {"type": "undo"},
        {"type": "edit", "dropped": 0, "edit": {}},
        {"type": "edit", "dropped": 0, "edit": {"name": "x", "index": 9, "masks": [], "marks": []}},
        {"type": "snapshot", "state": {"sheets": 3}},
    ],
)
def test_events_that_make_no_sense_are_record_errors(event: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        restore(make_document(), [event])


@pytest.mark.parametrize(
    "patch",
    [
        {"label": "muscle", "box": [0, 0, 99, 1], "flips": ""},
        {"label": "muscle", "box": [0, 0, 1, 1], "flips": "not base64!"},
        {"label": "muscle", "box": [0, 0, 1, 1], "flips": "AAAA"},
    ],
)
def test_damaged_patches_are_record_errors(patch: dict[str, Any]) -> None:
    edit = {"name": "edit.paint", "index": 0, "masks": [patch], "marks": []}
    with pytest.raises(RecordError):
        restore(make_document(), [{"type": "edit", "dropped": 0, "edit": edit}])
