"""Rows made again: identical where nothing changed, and what changed where something did."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ctai_sam2.cli.app import app
from ctai_sam2.cohort import CohortConfig, run_cohort
from ctai_sam2.cohort.replay import CaseReplay, replay_cohort
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.worklist import Worklist
from ctai_sam2.errors import InputError
from ctai_sam2.measure.definitions import TissueDefinitions
from tests.fakes import FAKE_IDENTITY, FakeSegmenter
from tests.unit.cohort.making import QUICK, make_cases, write_slice


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    cases = make_cases(folder / "in", 2)
    run_cohort(cases, folder / "out", config=CohortConfig(**QUICK))
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def only(results: Path, **how: object) -> CaseReplay:
    return next(iter(replay_cohort(results, ["P000"], **how)))  # type: ignore[arg-type]


def test_rows_come_out_identical_without_a_model(results: Path) -> None:
    replays = list(replay_cohort(results))
    assert [one.status for one in replays] == ["identical", "identical"]
    assert all(one.cells > 60 and not one.differences for one in replays)


def test_a_corrected_row_comes_out_identical(results: Path) -> None:
    worklist = Worklist(results)
    ct_slice = worklist.load("P000").ct_slice
    mask = np.zeros(ct_slice.shape_hw, bool)
    mask[40:60, 50:70] = True
    worklist.correct("P000", {"psoas_left": mask}, who="anna")
    assert only(results).status == "identical"


def edit_record(results: Path, change: Callable[[dict], None]) -> None:
    path = CohortStore(results).record_path("P000")
    record = json.loads(path.read_text("utf-8"))
    change(record)
    path.write_text(json.dumps(record), "utf-8")


def test_a_number_edited_in_the_record_is_named(results: Path) -> None:
    def add_a_pixel(record: dict) -> None:
        record["row"]["psoas_left_pixels"] += 1

    edit_record(results, add_a_pixel)
    found = only(results)
    assert found.status == "changed"
    assert [one.column for one in found.differences] == ["psoas_left_pixels"]
    assert found.differences[0].stored == found.differences[0].again + 1  # type: ignore[operator]


def test_the_last_bit_counts(results: Path) -> None:
    def nudge(record: dict) -> None:
        record["row"]["psoas_left_hu_mean"] = float(np.nextafter(record["row"]["psoas_left_hu_mean"], 1e9))

    edit_record(results, nudge)
    assert [one.column for one in only(results).differences] == ["psoas_left_hu_mean"]


def test_a_number_edited_in_the_table_is_named(results: Path) -> None:
    table = results / "table.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["psoas_left_pixels"] = str(int(rows[0]["psoas_left_pixels"]) + 5)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = only(results)
    assert found.changes == {"table": "table.csv differs from the record in psoas_left_pixels"}


def test_other_definitions_are_named_with_what_they_change(results: Path) -> None:
    narrow = TissueDefinitions.from_json(
        '{"name": "narrow", "version": "1", "source": "test", "muscle": {"low_hu": 40, "high_hu": 150}}'
    )
    found = only(results, definitions=narrow)
    assert "narrow@1" in found.changes["definitions"]
    assert {"psoas_left_area_mm2", "definitions"} <= {one.column for one in found.differences}


def test_other_pixels_are_named(made: Path, results: Path, tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 1)
    assert only(results, studies=cases).status == "identical"
    write_slice(cases[0].path, seed=99)
    assert "pixels" in only(results, studies=cases).changes


def test_the_model_is_compared_where_it_is_given(results: Path) -> None:
    same = only(results, segmenter=FakeSegmenter())
    assert same.status == "identical"
    other = FakeSegmenter(identity=replace(FAKE_IDENTITY, weights_sha256="a" * 64, name="other"))
    assert set(only(results, segmenter=other).changes) == {"weights", "model"}


def test_a_case_without_numbers_is_not_replayed(results: Path) -> None:
    CohortStore(results).predictions_path("P001").unlink()
    found = list(replay_cohort(results))
    assert [one.status for one in found] == ["identical", "not replayed"]
    with pytest.raises(InputError, match="no such case"):
        list(replay_cohort(results, ["P999"]))
    # Its row has numbers, and nobody can say now whether they are right.
    lost = CliRunner().invoke(app, ["replay", str(results)])
    assert lost.exit_code == 6
    assert "1 of 2 rows are identical" in lost.output


def test_a_failed_case_is_no_difference(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 2)
    Path(cases[1].path).write_bytes(b"broken")
    run_cohort(cases, tmp_path / "out", config=CohortConfig(**QUICK))
    done = CliRunner().invoke(app, ["replay", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "1 of 1 rows are identical, bit for bit. Without numbers: 1 case." in done.output


def test_the_command_says_so_and_its_exit_code_too(results: Path) -> None:
    runner = CliRunner()
    fine = runner.invoke(app, ["replay", str(results)])
    assert fine.exit_code == 0, fine.output
    assert "2 of 2 rows are identical" in fine.output

    def add_a_pixel(record: dict) -> None:
        record["row"]["psoas_left_pixels"] += 1

    edit_record(results, add_a_pixel)
    record = CohortStore(results).record_path("P000")
    wrong = runner.invoke(app, ["replay", str(record), "--json"])
    assert wrong.exit_code == 6
    (row,) = json.loads(wrong.output)["rows"]
    assert (row["case_id"], row["status"]) == ("P000", "changed")
    assert runner.invoke(app, ["replay", str(results / "summary.json")]).exit_code == 2
