"""The editor of the vertebra: rectangles, its middle, other levels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctai_sam2 as ct
from ctai_sam2.errors import InputError
from ctai_sam2.phantom import make_sagittal_slice, make_volume, reference_parameters
from ctai_sam2.types import CTSlice, CTVolume
from ctai_sam2.widgets import L3MaskEditor
from tests.unit.widgets.page import button, drag, shown


def make_l3_volume() -> CTVolume:
    hu = np.full((24, 40, 8), 40, np.int16)
    return CTVolume(hu_zyx=hu, affine=np.diag([2.0, 1.0, 3.0, 1.0]))


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
    monkeypatch.setattr("ctai_sam2.segmentation.choose_sagittal_index", lambda volume: 6)
    assert opened(L3MaskEditor, make_l3_volume()).document.index == 6


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
    offers = editor._display.panel._proposals.children
    assert len(offers) >= 3
    assert "higher" in offers[0].description
    offers[0].click()
    higher = editor.masks["l3"]
    assert np.nonzero(higher)[0].mean() < np.nonzero(first)[0].min()
    editor.do("undo")
    assert np.array_equal(editor.masks["l3"], first)
