"""Flagged cases of a cohort in the editor: opened with their masks, signed by Save."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.cohort import Worklist, read_table, run_cohort
from ctai_sam2.editor.commands import Paint
from ctai_sam2.errors import InputError
from ctai_sam2.widgets import ReviewEditor
from tests.unit.cohort.making import QUICK, make_cases
from tests.unit.widgets.recording import Recorder, recorded


@pytest.fixture(autouse=True)
def recorder() -> Iterator[Recorder]:
    with recorded() as found:
        yield found


@pytest.fixture
def results(tmp_path: Path) -> Path:
    run_cohort(make_cases(tmp_path / "in", 2), tmp_path / "out", **QUICK)
    return tmp_path / "out"


def test_cases_are_corrected_signed_and_gone_through(results: Path) -> None:
    editor = ReviewEditor(Worklist(results), who="AB", what="checked", segmenter=None)
    first = editor.name
    before = editor.masks["psoas_left"].copy()
    assert np.array_equal(before, Worklist(results).load(first).masks["psoas_left"])
    assert any("confidence" in line.text("en") for line in editor._describe())
    pixels = ((10, 10), (20, 10), (20, 20))
    editor.controller.apply(Paint(label="psoas_left", points_xy=pixels, radius_mm=12.0))
    drawn = editor.masks["psoas_left"]
    assert drawn.sum() > before.sum()
    editor.save()
    row = read_table(results).set_index("case_id").loc[first]
    assert row["reviewed_by"] == "AB"
    assert row["review_note"] == "checked"
    assert row["corrected_structures"] == "psoas_left"
    editor.step_case(1)
    assert editor.name != first
    editor.save()
    row = read_table(results).set_index("case_id").loc[editor.name]
    assert row["reviewed_by"] == "AB"
    assert not isinstance(row["corrected_structures"], str) or not row["corrected_structures"]
    editor.close()
    assert np.array_equal(Worklist(results).load(first).masks["psoas_left"], drawn)
    with pytest.raises(InputError, match="no case is open"):
        ReviewEditor(Worklist(results), who="AB", segmenter=None)


def test_what_was_not_signed_is_there_again(results: Path) -> None:
    editor = ReviewEditor(Worklist(results), who="AB", segmenter=None)
    first = editor.name
    editor.controller.apply(Paint(label="psoas_left", points_xy=((10, 10), (20, 10)), radius_mm=12.0))
    drawn = editor.masks["psoas_left"]
    editor.close()
    again = ReviewEditor(Worklist(results), who="CD", segmenter=None)
    assert again.name == first
    assert np.array_equal(again.masks["psoas_left"], drawn)
    again.save()
    again.close()
    assert read_table(results).set_index("case_id").loc[first]["reviewed_by"] == "CD"


def test_a_review_is_signed(results: Path) -> None:
    with pytest.raises(InputError, match="name or initials"):
        ReviewEditor(Worklist(results), who=" ", segmenter=None)
