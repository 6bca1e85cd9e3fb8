from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ctai_sam2.cli.app import app
from ctai_sam2.cohort import Worklist, read_table, run_cohort, write_manifest, write_report
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.editor.commands import Paint
from ctai_sam2.errors import InputError, RecordError
from ctai_sam2.io import write_mask_png
from tests.unit.cohort.making import FAKE, QUICK, make_cases, write_slice


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    cases = make_cases(folder / "in", 4)
    (folder / "in" / "3.npz").write_bytes(b"broken")
    write_manifest(folder / "cases.csv", cases)
    run_cohort(folder / "cases.csv", folder / "out", **QUICK)
    return folder


@pytest.fixture
def cohort(finished: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(finished, tmp_path / "c", dirs_exist_ok=True)
    for case in range(3):
        # The fake is unsure of its small discs: all are flagged.
        assert CohortStore(tmp_path / "c" / "out").read_record(f"P00{case}")
    return tmp_path / "c"


def test_the_most_serious_come_first_and_open_ones_are_offered(cohort: Path) -> None:
    worklist = Worklist(cohort / "out")
    assert worklist.items[0].case_id == "P003"
    assert "failed" in worklist.items[0].flags
    first = next(item for item in worklist if "failed" not in item.flags)
    worklist.accept(first.case_id, who="AB", what="fine")
    second = next(item for item in worklist if "failed" not in item.flags)
    assert second.case_id != first.case_id
    assert worklist.items[-1].reviewed_by == "AB"
    seen = [item.case_id for item in worklist]
    assert first.case_id not in seen


def test_a_correction_is_measured_with_who_when_and_what(cohort: Path) -> None:
    worklist = Worklist(cohort / "out")
    case = worklist.load("P000")
    mask = np.zeros(case.ct_slice.shape_hw, bool)
    mask[40:60, 50:60] = True
    before = read_table(cohort / "out").set_index("case_id")
    assert worklist.correct("P000", {"psoas_left": mask}, who="AB", what="drawn anew")
    after = read_table(cohort / "out").set_index("case_id")
    row = after.loc["P000"]
    hu = case.ct_slice.hu[mask]
    assert row["psoas_left_pixels"] == ((hu >= -29) & (hu <= 150)).sum()
    assert row["psoas_left_pixels"] != before.loc["P000", "psoas_left_pixels"]
    assert (row["reviewed_by"], row["review_note"]) == ("AB", "drawn anew")
    assert row["corrected_structures"] == "psoas_left"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", row["reviewed_at"])
    pd.testing.assert_frame_equal(after.drop("P000"), before.drop("P000"), check_dtype=False)
    np.testing.assert_array_equal(worklist.load("P000").masks["psoas_left"], mask)


def test_a_correction_survives_further_runs_and_a_changed_slice_is_told(cohort: Path) -> None:
    worklist = Worklist(cohort / "out")
    shape = worklist.load("P001").ct_slice.shape_hw
    worklist.correct("P001", {"psoas_left": np.ones(shape, bool)}, who="AB")
    table = (cohort / "out" / "table.csv").read_bytes()
    again = run_cohort(cohort / "cases.csv", cohort / "out", **QUICK)
    assert again.inferred == 0
    assert (cohort / "out" / "table.csv").read_bytes() == table
    assert run_cohort(cohort / "cases.csv", cohort / "out", **QUICK).unchanged == 4
    write_slice(cohort / "in" / "1.npz", seed=50)
    run_cohort(cohort / "cases.csv", cohort / "out", **QUICK)
    row = read_table(cohort / "out").set_index("case_id").loc["P001"]
    assert "correction" in row["flags"].split()
    assert row["psoas_left_pixels"] < np.prod(shape) / 2


def test_the_editor_is_attached_and_what_it_draws_is_merged(cohort: Path) -> None:
    worklist = Worklist(cohort / "out")
    stroke = Paint(label="psoas_left", points_xy=((50.0, 40.0), (60.0, 40.0)), radius_mm=12.0)
    with worklist.edit("P000") as editing:
        assert editing.changed == {}
        np.testing.assert_array_equal(
            editing.controller.document.mask("psoas_left"), editing.case.masks["psoas_left"]
        )
        editing.controller.apply(stroke)
        drawn = editing.controller.document.mask("psoas_left")
        assert list(editing.changed) == ["psoas_left"]
        with pytest.raises(RecordError):
            worklist.edit("P000")
    # Closed without saving, as by a crash: the stroke is there again.
    with Worklist(cohort / "out").edit("P000") as editing:
        np.testing.assert_array_equal(editing.controller.document.mask("psoas_left"), drawn)
        assert editing.save(who="CD", what="one stroke")
    np.testing.assert_array_equal(Worklist(cohort / "out").load("P000").masks["psoas_left"], drawn)
    row = read_table(cohort / "out").set_index("case_id").loc["P000"]
    assert (row["reviewed_by"], row["corrected_structures"]) == ("CD", "psoas_left")
    # A study that changed is edited from its new masks.
    write_slice(cohort / "in" / "0.npz", seed=60)
    run_cohort(cohort / "cases.csv", cohort / "out", **QUICK)
    with Worklist(cohort / "out").edit("P000") as editing:
        assert editing.changed == {}


def test_while_a_run_holds_the_folder_a_correction_waits_for_the_next(cohort: Path) -> None:
    worklist = Worklist(cohort / "out")
    with CohortStore(cohort / "out").locked():
        assert not worklist.accept("P000", who="AB")
    assert read_table(cohort / "out")["reviewed_by"].isna().all()
    done = run_cohort(cohort / "cases.csv", cohort / "out", **QUICK)
    assert (done.inferred, done.measured) == (0, 1)
    assert read_table(cohort / "out").set_index("case_id").loc["P000", "reviewed_by"] == "AB"


def test_wrong_readings_are_refused(cohort: Path) -> None:
    worklist = Worklist(cohort / "out")
    shape = worklist.load("P000").ct_slice.shape_hw
    for case_id, masks, who in (
        ("P000", {}, " "),
        ("P000", {"heart": np.ones(shape, bool)}, "AB"),
        ("P000", {"muscle": np.ones((3, 3), bool)}, "AB"),
        ("none", {}, "AB"),
        ("P003", {}, "AB"),
    ):
        with pytest.raises(InputError):
            worklist.correct(case_id, masks, who=who)
    with pytest.raises(InputError, match="no results"):
        Worklist(cohort)


def test_the_report_needs_nothing_else_and_shows_flagged_first(cohort: Path) -> None:
    page = write_report(cohort / "out").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=.?(https?:|//)", page)
    places = [page.index(f'id="case-{name}"') for name in ("P003", "P000")]
    assert places == sorted(places)
    assert page.count("data:image/jpeg;base64,") == 3
    assert 'data-v="P000"' in page


def test_a_report_escapes_what_readers_wrote(cohort: Path) -> None:
    Worklist(cohort / "out").accept("P000", who="<script>alert(1)</script>")
    assert "<script>alert" not in write_report(cohort / "out").read_text(encoding="utf-8")


def test_a_run_says_why_cases_failed_and_what_to_do_next(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 2)
    Path(cases[1].path).write_bytes(b"broken")
    manifest, out = tmp_path / "cases.csv", tmp_path / "out"
    words = [
        "cohort",
        "run",
        str(manifest),
        "--segmenter",
        FAKE,
        "-s",
        "psoas_left",
        "-w",
        "1",
        "--no-report",
    ]
    write_manifest(manifest, cases)
    some = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert some.exit_code == 0, some.output
    assert "Note: P001 failed: InputError: " in some.output
    assert "table.csv" in some.output
    assert f"Next: ctai-sam2 cohort review {out}" in some.output
    write_manifest(manifest, cases[1:])
    none = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "none")])
    assert none.exit_code == 4, "not a single case has numbers"
    assert (tmp_path / "none" / "table.csv").is_file()


def test_the_commands(cohort: Path, tmp_path: Path) -> None:
    runner = CliRunner()

    def call(*words: object) -> dict:
        result = runner.invoke(app, ["cohort", *map(str, words), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    found = call("scan", cohort / "in", "--out", tmp_path / "new.csv")
    assert found["cases"] == 4
    again = runner.invoke(app, ["cohort", "scan", str(cohort / "in"), "--out", str(tmp_path / "new.csv")])
    assert again.exit_code == 2
    ran = call(
        "run", cohort / "cases.csv", "--out", cohort / "out", "--segmenter", FAKE, "-s", "psoas_left", "-w", 1
    )
    assert (ran["unchanged"], ran["failed"]) == (4, 1)
    assert Path(ran["report"]).is_file()
    assert call("report", cohort / "out")["report"]
    listed = call("review", cohort / "out")
    assert "P003" in [one["case_id"] for one in listed["open"]]
    assert call("review", cohort / "out", "--accept", "P000", "--by", "AB")["merged"] is True
    shape = Worklist(cohort / "out").load("P001").ct_slice.shape_hw
    drawn = write_mask_png(tmp_path / "m.png", np.ones(shape, bool))
    call("review", cohort / "out", "--correct", "P001", "--mask", f"psoas_left={drawn}", "--by", "AB")
    assert read_table(cohort / "out").set_index("case_id").loc["P001", "corrected_structures"] == "psoas_left"
    listed_to_a_person = runner.invoke(app, ["cohort", "review", str(cohort / "out")])
    assert "why" in listed_to_a_person.output
    assert "--accept CASE --by NAME" in listed_to_a_person.output
    wrong = runner.invoke(app, ["cohort", "review", str(cohort / "out"), "--mask", "a=b"])
    assert wrong.exit_code == 2
