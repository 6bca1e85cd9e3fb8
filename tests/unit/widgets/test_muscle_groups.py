"""Muscle groups in the mid-L3 editor: found by one click, corrected by hand, measured in the row."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ctai_sam2.editor import Controller, Document
from ctai_sam2.editor import commands as do
from ctai_sam2.measure.columns import SIDED_GROUPS
from ctai_sam2.segmentation.compartments import GROUPS
from ctai_sam2.widgets import MiddleMaskEditor
from ctai_sam2.widgets.review import ReviewEditor
from tests.unit.segmentation.oracle import IDENTITY
from tests.unit.segmentation.test_compartments import draw
from tests.unit.segmentation.test_divided import Divider, slice_of


class Available(Divider):
    def health(self) -> Any:
        return SimpleNamespace(available=True, detail="")


class Whole(Available):
    identity = IDENTITY


@pytest.fixture
def editor() -> Iterator[MiddleMaskEditor]:
    classes, *_ = draw()
    editor = MiddleMaskEditor(slice_of(classes), segmenter=Available(classes), folder=None)
    yield editor
    editor.close()


def shown_rows(editor: MiddleMaskEditor) -> set[str]:
    rows = editor._display.panel._labels._rows
    return {name for name, row in rows.items() if row.widget.layout.display != "none"}


def test_one_click_finds_all_groups_as_one_step(editor: MiddleMaskEditor) -> None:
    assert not shown_rows(editor) & set(SIDED_GROUPS)
    editor.run("muscle")
    editor.controller.adjust(active="wall_right")
    editor.run()
    masks = editor.masks
    assert set(SIDED_GROUPS) <= set(masks)
    assert len(editor.document.history.done) == 2
    middle = masks["muscle"].shape[1] / 2
    for name in SIDED_GROUPS:
        assert not (masks[name] & ~masks["muscle"]).any()
        columns = masks[name].nonzero()[1]
        # On the picture the patient's left is to the right.
        assert (columns.mean() > middle) == name.endswith("left")
    assert sum(masks[name].astype(int) for name in SIDED_GROUPS).max() == 1
    editor._display.paint()
    assert set(SIDED_GROUPS) <= shown_rows(editor)
    editor.do("undo")
    assert not set(SIDED_GROUPS) & set(editor.masks)


def test_a_group_is_corrected_and_measured(editor: MiddleMaskEditor) -> None:
    editor.run("muscle")
    editor.run("groups")
    before = editor.measurements()["quadratus_left_area_mm2"]
    rows, columns = editor.masks["quadratus_left"].nonzero()
    box = tuple(float(value) for value in (columns.min(), rows.min(), columns.max(), rows.mean()))
    editor.controller.apply(do.FillRectangle(label="quadratus_left", box_xyxy=box, erase=True))
    after = editor.measurements()["quadratus_left_area_mm2"]
    assert 0 < after < 0.8 * before
    hu, spacing = editor.document.slice.hu, editor.document.slice.spacing_mm
    inside = editor.masks["quadratus_left"] & (hu >= -29) & (hu <= 150)
    assert after == pytest.approx(np.count_nonzero(inside) * spacing[0] * spacing[1])


def test_a_model_that_does_not_divide_says_so_and_changes_nothing() -> None:
    classes, *_ = draw()
    editor = MiddleMaskEditor(slice_of(classes), segmenter=Whole(classes), folder=None)
    editor.run("groups")
    assert editor.controller.inference.status.state == "failed"
    assert not editor.masks
    editor.close()


def test_next_label_passes_over_groups_that_are_not_offered() -> None:
    controller = Controller(Document(slice_of(draw()[0]), MiddleMaskEditor.profile))
    seen = set()
    for _ in range(12):
        controller.do("next_label")
        seen.add(controller.document.view.active)
    assert not seen & set(SIDED_GROUPS)
    controller.do("toggle_groups")
    for _ in range(12):
        controller.do("next_label")
        seen.add(controller.document.view.active)
    assert set(SIDED_GROUPS) <= seen


def test_a_cohort_is_reviewed_without_groups() -> None:
    assert not {label.name for label in ReviewEditor.profile.labels} & set(SIDED_GROUPS)
    assert "groups" not in ReviewEditor.profile.groups
    assert set(GROUPS) - {"psoas"} == {name.split("_")[0] for name in SIDED_GROUPS}
