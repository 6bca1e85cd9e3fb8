"""Flagged cases of a cohort in the editor: opened with their masks, signed by Save."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.cohort import Worklist, read_table, run_cohort
from ctai_sam2.cohort.qc import MEANINGS
from ctai_sam2.editor import MIDDLE, Controller, Document
from ctai_sam2.editor.authorship import author_of
from ctai_sam2.editor.commands import Clear, Paint, SetMask
from ctai_sam2.editor.i18n import TABLE, text
from ctai_sam2.errors import InputError
from ctai_sam2.journal import AnnotationJournal
from ctai_sam2.widgets import ReviewEditor
from tests.fakes import FakeSegmenter
from tests.unit.cohort.making import QUICK, do_here, make_cases
from tests.unit.widgets.page import button, controls, shown, tell

pytestmark = pytest.mark.usefixtures("recorder")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    with pytest.MonkeyPatch.context() as patch:
        do_here(patch)
        run_cohort(make_cases(folder / "in", 2), folder / "out", **QUICK)
    return folder / "out"


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A finished cohort that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


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


def test_keys_and_buttons_meant_for_the_case_before_sign_nothing(results: Path) -> None:
    editor = ReviewEditor(Worklist(results), who="AB", segmenter=None)
    events, first = editor._display.events, editor.name
    enter = {"event": "key", "key": "Enter", "modifiers": [], "pressed": True}
    tell(editor, event="draws")
    editor._display.paint()
    series = events.companion.view["series"]
    tell(editor, event="shows", series=series)
    # Twice at once, as an impatient reader does, while the first signs.
    tell(editor, **enter, series=series)
    tell(editor, **enter, series=series)
    second = editor.name
    assert second != first
    assert editor.controller.message.key == "view.too_early"
    button(editor, text("action.accept", "en")).click()
    tell(editor, event="press", at=[200, 200], button="left", modifiers=[], series=series)
    tell(editor, event="release", at=[200, 200], series=series)
    assert editor.name == second
    assert not editor.document.history.done
    reviewed = read_table(results).set_index("case_id")["reviewed_by"]
    assert reviewed[first] == "AB"
    assert not isinstance(reviewed[second], str)
    # Once the page shows it, the case is signed as ever.
    editor._display.paint()
    tell(editor, event="shows", series=events.companion.view["series"])
    tell(editor, **enter, series=events.companion.view["series"])
    assert read_table(results).set_index("case_id").loc[second, "reviewed_by"] == "AB"
    editor.close()


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


def test_undo_stops_at_the_masks_a_case_was_opened_with(results: Path) -> None:
    editor = ReviewEditor(Worklist(results), who="AB", segmenter=None)
    opened = {name: mask.copy() for name, mask in editor.masks.items()}
    for _ in range(2):
        for _ in range(4):
            editor.do("undo")
        assert set(editor.masks) == set(opened)
        assert all(np.array_equal(editor.masks[name], mask) for name, mask in opened.items())
        editor.controller.apply(Paint(label="psoas_left", points_xy=((10, 10), (20, 10)), radius_mm=12.0))
        editor.close()
        editor = ReviewEditor(Worklist(results), who="AB", segmenter=None)
    editor.close()


def test_an_emptied_structure_is_signed_only_when_that_is_meant(results: Path) -> None:
    editor = ReviewEditor(Worklist(results), who="AB", segmenter=None)
    first = editor.name
    editor.controller.apply(Clear(label="psoas_left"))
    with pytest.raises(InputError, match="empty now"):
        editor.save()
    editor.accept()
    assert editor.name == first
    assert editor.controller.confirmation is not None
    assert "Left psoas" in editor.controller.confirmation.message.text("en")
    assert not isinstance(read_table(results).set_index("case_id").loc[first]["reviewed_by"], str)
    editor.controller.resolve_confirmation(False)
    assert editor.name == first
    editor.accept()
    editor.controller.resolve_confirmation(True)
    assert editor.name != first
    row = read_table(results).set_index("case_id").loc[first]
    assert (row["reviewed_by"], row["corrected_structures"]) == ("AB", "psoas_left")
    editor.close()


def test_enter_signs_and_goes_on_and_back_is_possible(results: Path) -> None:
    editor = ReviewEditor(Worklist(results), who="AB", segmenter=None)
    names = list(editor._cases)
    editor.do("finish")
    assert editor.name == names[1]
    editor.step_case(-1)
    assert editor.name == names[0]
    editor.step_case(1)
    editor.do("finish")
    assert set(read_table(results)["reviewed_by"]) == {"AB"}
    assert set(editor._list_cases().states.values()) == {"done"}
    editor.close()


class Hand:
    """A reader at the page, counting what is done."""

    def __init__(self, editor: ReviewEditor) -> None:
        self.editor, self.actions = editor, 0

    def press_key(self, key: str) -> None:
        self.actions += 1
        tell(self.editor, event="key", key=key, modifiers=[], pressed=True)

    def stroke(self, *points: tuple[float, float], erase: bool = False) -> None:
        self.actions += 1
        places = [list(self.editor.document.view.viewport.to_screen(*point)) for point in points]
        button = "right" if erase else "left"
        tell(self.editor, event="press", at=places[0], button=button, modifiers=[])
        tell(self.editor, event="move", points=places[1:])
        tell(self.editor, event="release", at=places[-1])


def test_accepting_a_case_is_one_action_and_correcting_one_psoas_three(results: Path) -> None:
    editor = ReviewEditor(Worklist(results), who="AB", segmenter=None)
    # The tool stays from case to case and from day to day.
    editor.do("tool.brush")
    first, second = list(editor._cases)
    hand = Hand(editor)
    hand.press_key("Enter")
    assert hand.actions == 1
    assert editor.name == second
    row = read_table(results).set_index("case_id").loc[first]
    assert row["reviewed_by"] == "AB"
    assert not isinstance(row["corrected_structures"], str) or not row["corrected_structures"]
    hand = Hand(editor)
    hand.stroke((10, 10), (20, 10))
    hand.stroke((20, 10), (20, 14), erase=True)
    hand.press_key("Enter")
    assert hand.actions == 3
    row = read_table(results).set_index("case_id").loc[second]
    assert (row["reviewed_by"], row["corrected_structures"]) == ("AB", "psoas_left")
    editor.close()


def test_the_models_untouched_mask_is_replaced_without_a_question(results: Path) -> None:
    editor = ReviewEditor(Worklist(results), who="AB", segmenter=FakeSegmenter())
    assert {author_of(editor.document, name) for name in editor.document.masks()} == {"model"}
    editor.run("psoas")
    assert editor.controller.confirmation is None
    editor.controller.apply(Paint(label="psoas_left", points_xy=((10, 10), (20, 10)), radius_mm=12.0))
    editor.run("psoas")
    assert editor.controller.confirmation is not None
    editor.close()


def test_masks_that_an_earlier_version_imported_as_first_steps_are_where_undo_stops(results: Path) -> None:
    worklist = Worklist(results)
    case_id = next(iter(worklist)).case_id
    case = worklist.load(case_id)
    journal = worklist.journal_folder / f"{case_id}.middle.record.jsonl"
    with AnnotationJournal.open(journal, case.ct_slice) as kept:
        before = Controller(Document(case.ct_slice, MIDDLE), record=kept)
        for side in case.masks:
            before.apply(SetMask(label=side, mask=case.masks[side]))
        before.apply(Paint(label="psoas_left", points_xy=((10, 10), (20, 10)), radius_mm=12.0))
        drawn = before.document.mask("psoas_left")
    for _ in range(2):
        editor = ReviewEditor(worklist, who="AB", segmenter=None)
        assert editor.name == case_id
        assert np.array_equal(editor.masks["psoas_left"], drawn)
        editor.close()
    editor = ReviewEditor(worklist, who="AB", segmenter=None)
    for _ in range(5):
        editor.do("undo")
    for side in case.masks:
        assert np.array_equal(editor.document.mask(side), case.masks[side])
    editor.close()


def test_flags_are_named_in_the_language_and_no_height_is_asked_for(results: Path) -> None:
    editor = ReviewEditor(Worklist(results), who="AB", segmenter=None)
    assert "⚑ Low confidence: " in shown(editor)
    editor.controller.adjust(language="zh")
    assert "⚑ 置信度低：" in shown(editor)
    # The row's height is the manifest's; one typed here would be passed over.
    [height] = [f for f in controls(editor.widget, "BoundedFloatText") if f.description.startswith("身高")]
    assert height.layout.display == "none"
    editor.close()


def test_every_flag_has_a_name() -> None:
    assert {f"flag.{name}" for name in MEANINGS} == {key for key in TABLE if key.startswith("flag.")}
