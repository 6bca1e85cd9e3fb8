from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ctai_sam2.cohort import CohortConfig, runner
from ctai_sam2.cohort.plan import plan_tasks
from ctai_sam2.cohort.predictions import read_predictions
from ctai_sam2.cohort.runner import run_cohort
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.table import TABLE_COLUMNS, read_table
from ctai_sam2.errors import InputError, StorageError, Unavailable
from ctai_sam2.io import read_case_npz, read_mask_nifti, write_dicom_series
from ctai_sam2.measure.definitions import HuRange, TissueDefinitions
from ctai_sam2.types import CTVolume, Prompt
from tests.unit.cohort.making import FAKE, QUICK, do_here, make_cases, write_slice

WIDE = TissueDefinitions(name="wide", version="1", source="a test", muscle=HuRange(low_hu=-190, high_hu=250))


def run(cases: Any, out: Path, **more: Any) -> runner.CohortRun:
    return run_cohort(cases, out, **{**QUICK, **more})


@pytest.mark.usefixtures("processes")
def test_a_cohort_becomes_a_table_masks_and_a_summary(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 3)
    done = run(cases, tmp_path / "out")
    assert (done.cases, done.inferred, done.failed) == (3, 3, 0)
    table = read_table(tmp_path / "out")
    assert list(table.columns) == list(TABLE_COLUMNS)
    assert list(table["case_id"]) == ["P000", "P001", "P002"]
    assert (table["psoas_left_pixels"] > 0).all()
    assert set(table["model"]) == {"fake"}
    image = read_case_npz(cases[0].path).slice
    labels = read_mask_nifti(tmp_path / "out" / "masks" / "P000.nii.gz", image)
    kept = CohortStore(tmp_path / "out").read_record("P000")
    assert kept is not None
    assert (labels == 1).sum() >= kept.row["psoas_left_pixels"] > 0
    assert (tmp_path / "out" / "pictures" / "P000.jpg").stat().st_size > 500


def test_parquet_is_the_csv_with_types(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    done = run(make_cases(tmp_path / "in", 2), tmp_path / "out")
    assert done.files.parquet is not None
    parquet, csv = pd.read_parquet(done.files.parquet), read_table(tmp_path / "out")
    assert list(parquet.columns) == list(csv.columns)
    np.testing.assert_array_equal(parquet["psoas_left_hu_mean"], csv["psoas_left_hu_mean"])


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 3)
    run(cases, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    again = run(cases, tmp_path / "out")
    assert (again.unchanged, again.inferred, again.measured) == (3, 0, 0)
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert after == before


def test_a_touched_file_is_read_but_not_asked_about(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 2)
    run(cases, tmp_path / "out")
    os.utime(cases[0].path, ns=(1, 1))
    again = run(cases, tmp_path / "out")
    assert (again.unchanged, again.inferred, again.measured) == (1, 0, 1)
    assert run(cases, tmp_path / "out").unchanged == 2


def test_a_changed_file_a_new_prompt_and_a_lost_mask_are_done_again(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 4)
    run(cases, tmp_path / "out")
    write_slice(cases[0].path, seed=77)
    moved = Prompt.point(60, 50, structure="psoas_left")
    cases[1] = dataclasses.replace(cases[1], prompts={"psoas_left": moved})
    (tmp_path / "out" / "masks" / "P002.nii.gz").unlink()
    again = run(cases, tmp_path / "out")
    assert (again.unchanged, again.inferred, again.measured) == (1, 2, 1)
    assert (tmp_path / "out" / "masks" / "P002.nii.gz").is_file()


def test_another_definition_is_measured_without_the_model_as_if_it_had_been_asked(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 2)
    run(cases, tmp_path / "out")
    for case in cases:
        case.path.rename(case.path.with_suffix(".away"))
        case.path.touch()
    # Not even the images are needed: the slice is kept, and the file's stamp is what is compared.
    for case in cases:
        case.path.unlink()
        case.path.with_suffix(".away").rename(case.path)
    changed = run(cases, tmp_path / "out", definitions=WIDE)
    assert (changed.inferred, changed.measured) == (0, 2)
    run(cases, tmp_path / "fresh", definitions=WIDE)
    first, second = ((tmp_path / name / "table.csv").read_bytes() for name in ("out", "fresh"))
    assert first == second
    assert set(read_table(tmp_path / "out")["definitions"]) == {WIDE.identifier}


def test_damaged_predictions_are_made_again(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 1)
    run(cases, tmp_path / "out")
    table = (tmp_path / "out" / "table.csv").read_bytes()
    path = CohortStore(tmp_path / "out").predictions_path("P000")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError, match="cannot be read back"):
        read_predictions(path)
    changed = run(cases, tmp_path / "out", definitions=WIDE)
    assert changed.inferred == 1
    run(cases, tmp_path / "out")
    assert (tmp_path / "out" / "table.csv").read_bytes() == table


def test_a_damaged_record_is_made_again(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 1)
    run(cases, tmp_path / "out")
    CohortStore(tmp_path / "out").record_path("P000").write_text("{")
    assert run(cases, tmp_path / "out").unchanged == 0


def test_a_failing_case_is_a_row_without_names(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 2)
    broken = tmp_path / "in" / "DoeJane.npz"
    broken.write_bytes(b"nothing")
    cases.append(dataclasses.replace(cases[0], case_id="P9", path=broken))
    done = run(cases, tmp_path / "out")
    assert (done.failed, done.inferred) == (1, 2)
    row = read_table(tmp_path / "out").iloc[2]
    assert (row["status"], row["error_type"], row["flags"]) == ("failed", "InputError", "failed")
    assert "not a readable case file" in row["error"]
    assert not any(b"DoeJane" in p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert run(cases, tmp_path / "out").unchanged == 3, "it fails again unless something changes"
    assert run(cases, tmp_path / "out", retry_failed=True).unchanged == 2


def test_no_file_of_a_study_is_named_in_the_results(tmp_path: Path) -> None:
    (case,) = make_cases(tmp_path / "in", 1)
    folder = tmp_path / "in" / "study"
    volume = CTVolume(hu_zyx=np.zeros((3, 16, 16), np.int16), affine=np.diag([2.0, 2.0, 5.0, 1.0]))
    write_dicom_series(folder, volume)
    for number, path in enumerate(sorted(folder.iterdir())):
        cut = path.read_bytes()[:-100]
        path.with_name(f"DoeJane{number}.dcm").write_bytes(cut)
        path.unlink()
    done = run([dataclasses.replace(case, path=folder)], tmp_path / "out")
    assert done.failed == 1
    error = read_table(tmp_path / "out").iloc[0]["error"]
    assert "none of the 3 files of the series can be read (received … and 2 more: truncated" in error
    assert not any(b"DoeJane" in p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())


def make_naughty(folder: Path, wishes: list[int]) -> list[Any]:
    """Make cases whose point tells the segmenter how to misbehave."""
    cases = make_cases(folder, len(wishes))
    for number, wish in enumerate(wishes):
        prompt = Prompt.point(50 + wish / 10 + 0.05, 50, structure="psoas_left")
        cases[number] = dataclasses.replace(cases[number], prompts={"psoas_left": prompt})
    return cases


NAUGHTY = "tests.unit.cohort.making:Naughty"


@pytest.mark.usefixtures("processes")
def test_a_case_that_hangs_is_ended_and_the_rest_goes_on(tmp_path: Path) -> None:
    cases = make_naughty(tmp_path / "in", [0, 1, 0])
    done = run(cases, tmp_path / "out", segmenter=NAUGHTY, time_limit_s=8)
    assert (done.inferred, done.failed) == (2, 1)
    row = read_table(tmp_path / "out").iloc[1]
    assert (row["error_type"], row["error"]) == ("TimeLimitExceeded", "it took more than 8 s.")


@pytest.mark.usefixtures("processes")
def test_a_case_that_eats_memory_dies_or_has_a_bug_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    cases = make_naughty(tmp_path / "in", [0, 2, 3, 4, 0])
    done = run(cases, tmp_path / "out", segmenter=NAUGHTY, memory_limit_mb=450, workers=2)
    assert (done.inferred, done.failed) == (2, 3)
    table = read_table(tmp_path / "out").set_index("case_id")
    assert list(table["error_type"].dropna()) == ["MemoryLimitExceeded", "WorkerDied", "RuntimeError"]
    assert "exit code 7" in table.loc["P002", "error"]
    assert "Doe" not in (tmp_path / "out" / "table.csv").read_text()
    # What died by itself is tried again; what was too large or wrong would be so again.
    config = CohortConfig(**{**QUICK, "segmenter": NAUGHTY}).resolve(len(cases))
    planned = plan_tasks(cases, CohortStore(tmp_path / "out"), config, config.model_token())
    assert [task.case.case_id for task in planned.tasks] == ["P002"]


def test_two_runs_on_one_folder_are_refused(tmp_path: Path) -> None:
    with CohortStore(tmp_path).locked(), pytest.raises(StorageError, match="another run"):
        run(make_cases(tmp_path / "in", 1), tmp_path)


def unreachable() -> Any:
    from tests.fakes import FakeSegmenter

    class Unreachable(FakeSegmenter):
        def predict(self, *args: Any, **more: Any) -> Any:
            raise Unavailable("nobody is there")

    return Unreachable()


def test_without_a_segmenter_the_run_ends_and_nothing_counts_as_failed(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 12)
    with pytest.raises(Unavailable, match="nobody is there"):
        run(cases, tmp_path / "out", segmenter=f"{__name__}:unreachable")
    table = read_table(tmp_path / "out")
    assert set(table["status"]) == {"incomplete", "not done"}
    assert table["sma_cm2"].isna().all()
    assert run(cases[:2], tmp_path / "out").inferred == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"segmenter": "auto"},
        {"segmenter": "no.such:thing"},
        {"structures": ("heart",)},
        {"structures": ()},
        {"robustness_trials": 1},
        {"smi_cutoffs": "mine"},
        {"workers": 0},
        {"time_limit_s": 0},
        {"memory_limit_mb": -1},
        {"work": 2},
    ],
)
def test_wrong_options_are_refused_before_anything_is_run(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        run(make_cases(tmp_path / "in", 1), tmp_path / "out", **wrong)
    assert not (tmp_path / "out" / "table.csv").exists()


@pytest.mark.usefixtures("processes")
def test_an_option_given_next_to_a_configuration_counts(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 1)
    run_cohort(cases, tmp_path / "out", CohortConfig(**QUICK), definitions=WIDE)
    assert list(read_table(tmp_path / "out")["definitions"]) == [WIDE.identifier]


def test_ctrl_c_stops_at_once_and_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = make_cases(tmp_path / "in", 24)
    taken: list[str] = []

    def interrupt(self: Any, outcome: Any) -> None:
        taken.append(outcome.case_id)
        if len(taken) == 3:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    # Whatever an earlier test left in place.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(runner._Tally, "take", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(cases, tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, before)
    records = len(list((tmp_path / "out" / "records").glob("*.json")))
    assert 3 <= len(taken) <= records < 24
    do_here(monkeypatch)
    again = run(cases, tmp_path / "out")
    assert again.unchanged == records
    assert again.inferred == 24 - records


@pytest.mark.usefixtures("processes")
def test_a_worker_reads_ahead_without_mixing_cases_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = make_cases(tmp_path / "in", 9)
    run(cases, tmp_path / "ahead")
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_MAX_BATCH", 1)
        run(cases, tmp_path / "alone")
    first, second = ((tmp_path / name / "table.csv").read_bytes() for name in ("ahead", "alone"))
    assert first == second


def test_half_written_files_of_a_killed_run_are_cleared_away(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 1)
    run(cases, tmp_path / "out")
    left = tmp_path / "out" / "masks" / ".writing-abc"
    left.write_bytes(b"half")
    run(cases, tmp_path / "out")
    assert not left.exists()


def test_the_whole_pipeline_runs_on_a_slice(tmp_path: Path) -> None:
    (case,) = make_cases(tmp_path / "in", 1, side=256)
    case = dataclasses.replace(case, prompts={})
    done = run_cohort([case], tmp_path / "out", segmenter=FAKE, workers=1, progress=False)
    assert done.inferred == 1
    assert read_table(tmp_path / "out")["sat_area_mm2"][0] > 0


class LostCluster:
    """Stands in for a Dask client whose scheduler is gone in the middle of a run."""

    def nthreads(self) -> dict[str, int]:
        return {"a": 1}

    def run(self, *_: Any, **__: Any) -> dict[str, float]:
        raise OSError("closed")


@pytest.mark.parametrize(
    ("error", "kind"), [(OSError("10.0.0.7 is gone"), Unavailable), (StorageError("full"), StorageError)]
)
def test_a_lost_scheduler_ends_the_run_with_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    pytest.importorskip("distributed")

    class Broken:
        def __init__(self, **_: Any) -> None:
            pass

        def __call__(self, _: Any) -> Any:
            raise error
            yield

    monkeypatch.setattr("joblib.Parallel", Broken)
    monkeypatch.setattr("joblib.parallel_config", lambda *_, **__: contextlib.nullcontext())
    with pytest.raises(kind) as caught:
        run(make_cases(tmp_path / "in", 1), tmp_path / "out", dask=LostCluster())
    assert "10.0.0.7" not in str(caught.value)
    assert list(read_table(tmp_path / "out")["status"]) == ["not done"]
