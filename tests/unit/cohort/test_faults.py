"""Outages, damage, interruption and mixed folders: marked, said, and never a number."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ctai_sam2.cli.app import app
from ctai_sam2.cohort import CohortConfig, Worklist, read_table, run_cohort, runner, write_manifest
from ctai_sam2.cohort.case_record import CaseRecord, read_case_record
from ctai_sam2.cohort.config import CohortOptions
from ctai_sam2.cohort.plan import plan_tasks
from ctai_sam2.cohort.predictions import read_predictions
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.worker import CaseWorker
from ctai_sam2.errors import DamagedFile, InputError, StorageError, Unavailable
from ctai_sam2.segmentation import segment_study
from ctai_sam2.types import CTVolume, Prompt
from tests.fakes import FakeSegmenter
from tests.unit.cohort.making import FAKE, QUICK, make_cases, write_slice


def run(cases: Any, out: Path, **more: Any) -> Any:
    return run_cohort(cases, out, **{**QUICK, **more})


class Flaky(FakeSegmenter):
    """Predicts once and is then unavailable."""

    def predict(self, image_hw: Any, prompt: Prompt, **more: Any) -> Any:
        if int(prompt.points_xy[0, 0] * 10) % 10 == 5:
            raise Unavailable("the service is gone")
        return super().predict(image_hw, prompt, **more)


def test_an_outage_in_a_case_is_marked_and_tried_again(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 3)
    bad = Prompt.point(50.55, 50, structure="psoas_left")
    cases[1] = dataclasses.replace(cases[1], prompts={"psoas_left": bad})
    done = run(cases, tmp_path / "out", segmenter=f"{__name__}:Flaky")
    assert (done.inferred, done.incomplete, done.failed, done.is_partial) == (2, 1, 0, True)
    row = read_table(tmp_path / "out").iloc[1]
    assert row["status"] == "incomplete"
    assert "the service is gone" in row["error"]
    assert np.isnan(row["psoas_left_area_mm2"])
    assert not (tmp_path / "out" / "masks" / "P001.nii.gz").exists()
    assert json.loads((tmp_path / "out" / "summary.json").read_bytes())["partial"] is True
    assert run(cases, tmp_path / "out", segmenter=f"{__name__}:Flaky").unchanged == 2


def test_numbers_of_another_definition_never_stand_in_the_table(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 2)
    run(cases, tmp_path / "out")
    for case in cases:
        write_slice(case.path, seed=91)
    with pytest.raises(Unavailable):
        run([*cases, *cases_named("Q", cases)], tmp_path / "out", segmenter=f"{__name__}:gone")
    table = read_table(tmp_path / "out")
    assert set(table["status"]) <= {"incomplete", "not done"}
    assert table["psoas_left_pixels"].isna().all()


def cases_named(letter: str, cases: list[Any]) -> list[Any]:
    return [dataclasses.replace(case, case_id=letter + case.case_id) for case in cases]


def gone() -> Any:
    class Gone(FakeSegmenter):
        def predict(self, *args: Any, **more: Any) -> Any:
            raise Unavailable("nobody is there")

    return Gone()


def test_the_gap_of_a_level_is_a_distance_of_slice_positions() -> None:
    class Level(FakeSegmenter):
        pass

    hu = np.full((30, 64, 64), -1000, np.int16)
    # Two slices apart, 25 mm: the step is not even.
    positions = np.r_[np.arange(15) * 2.0, 28.0 + 12.5 * np.arange(1, 16)]
    volume = CTVolume(hu_zyx=hu, affine=np.diag([4.0, 4.0, 2.0, 1.0]), slice_positions_mm=positions)
    from ctai_sam2.segmentation import study as module

    mask = np.zeros((30, 64), bool)
    mask[30 - 1 - 20, 20:30] = True

    class Found:
        l3 = type("L3", (), {"mask": mask})()
        warnings = ()
        certainty = "counted"
        probability = None

    patch = pytest.MonkeyPatch()
    patch.setattr(module, "find_l3_in_volume", lambda *args, **more: Found())
    # The drawing below is of air alone: only where its slices are is looked at here.
    for check in ("require_measurable_volume", "require_measurable_slice", "require_region"):
        patch.setattr(module, check, lambda *_, **more: [])
    patch.setattr(module, "_compare_with_neighbours", lambda axial, *_, **more: (axial, ()))
    patch.setattr(module.AxialSession, "open", lambda ct_slice, *args, **more: _Session(ct_slice))
    try:
        study = segment_study(volume, Level(), axial_index=18)
    finally:
        patch.undo()
    assert study.l3_gap_mm == pytest.approx(25.0)
    assert study.level_certainty == "user"


@dataclasses.dataclass
class _Session:
    ct_slice: Any
    divided: Any = None

    def segment_all(self, *args: Any, **more: Any) -> _Axial:
        return _Axial(self.ct_slice)


@dataclasses.dataclass
class _Axial:
    ct_slice: Any
    warnings: tuple[str, ...] = ()


def test_a_damaged_record_is_moved_aside_and_said(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 2)
    run(cases, tmp_path / "out")
    path = CohortStore(tmp_path / "out").record_path("P000")
    path.write_text('{"version": 2, "case_id": "P000", "status"')
    with pytest.raises(DamagedFile, match="damaged"):
        read_case_record(path)
    done = run(cases, tmp_path / "out")
    assert done.unchanged == 1
    (name,) = done.set_aside
    assert (path.parent / name).read_text().endswith('"status"')
    assert read_table(tmp_path / "out")["status"].tolist() == ["done", "done"]


def test_damaged_predictions_are_moved_aside_and_said(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 1)
    run(cases, tmp_path / "out")
    path = CohortStore(tmp_path / "out").predictions_path("P000")
    half = path.read_bytes()[:100]
    path.write_bytes(half)
    done = run(cases, tmp_path / "out", smi_cutoffs="martin-2013")
    assert (done.inferred, len(done.set_aside)) == (1, 1)
    assert (path.parent / done.set_aside[0]).read_bytes() == half
    assert read_predictions(path).predictions


@pytest.mark.parametrize("damage", ["note", "masks"])
def test_damaged_corrections_fail_the_case_and_are_left_alone(tmp_path: Path, damage: str) -> None:
    cases = make_cases(tmp_path / "in", 2)
    run(cases, tmp_path / "out")
    worklist = Worklist(tmp_path / "out")
    shape = worklist.load("P000").ct_slice.shape_hw
    worklist.correct("P000", {"psoas_left": np.ones(shape, bool)}, who="AB")
    folder = tmp_path / "out" / "corrections"
    path = folder / "P000.json" if damage == "note" else next(folder.glob("P000-*.zip"))
    path.write_bytes(path.read_bytes()[:40])
    run(cases, tmp_path / "out", definitions=WIDE if damage == "masks" else DEFAULT)
    table = read_table(tmp_path / "out").set_index("case_id")
    assert table.loc["P000", "status"] == "failed"
    assert "corrections of case P000" in table.loc["P000", "error"]
    assert table.loc["P001", "status"] == "done"
    with pytest.raises((DamagedFile, InputError)):
        Worklist(tmp_path / "out").accept("P000", who="CD")
    assert len(path.read_bytes()) == 40


def test_a_record_of_version_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "P1.json"
    old = {
        "version": 1,
        "case_id": "P1",
        "status": "done",
        "key": "k",
        "stamp": "s",
        "row": {"sma_cm2": 120.5, "smd_hu": "nan", "middle_slice": 12},
        "qc": {"level_gap_mm": 10.0, "edge_mm": 1.0, "missing": ["vat"], "area_cv": {}},
        "correction": {"who": "AB", "when": "x", "what": "", "structures": [], "readings": 1, "stale": False},
    }
    path.write_text(json.dumps(old))
    record = read_case_record(path)
    assert isinstance(record, CaseRecord)
    assert (record.row["sma_cm2"], record.row["middle_slice"]) == (120.5, 12)
    assert np.isnan(record.number("smd_hu"))
    assert record.quality.level_gap_mm is None, "slices times thickness is no distance"
    assert record.review is not None
    assert record.review.who == "AB"


@pytest.mark.usefixtures("processes")
def test_an_interrupted_cohort_has_its_table_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = make_cases(tmp_path / "in", 12)
    manifest = write_manifest(tmp_path / "cases.csv", cases)
    taken: list[str] = []

    def interrupt(self: Any, outcome: Any) -> None:
        taken.append(outcome.case_id)
        if len(taken) == 2:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    words = ["cohort", "run", str(manifest), "-o", str(tmp_path / "out"), "--segmenter", FAKE, "-w", "1"]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(runner._Tally, "take", interrupt)
            result = CliRunner().invoke(app, [*words, "-s", "psoas_left"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130
    assert "The table is partial" in result.output
    table = read_table(tmp_path / "out")
    assert len(table) == 12
    assert {"done", "not done"} == set(table["status"])
    assert "partial" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_two_cohorts_are_never_mixed_in_one_folder(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 2)
    run(cases, tmp_path / "out")
    with pytest.raises(InputError, match="another cohort"):
        run(cases_named("Q", cases), tmp_path / "out")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "measurements.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match="single study"):
        run(cases, tmp_path / "study")
    fewer = run(cases[:1], tmp_path / "out")
    assert fewer.not_in_manifest == ("P001",)
    write_slice(cases[0].path, seed=5)
    assert run(cases, tmp_path / "out").replaced == 1


def test_own_columns_and_who_chose_the_level_come_through(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 2)
    cases = [
        dataclasses.replace(case, extra={"age": "63", "sma_cm2": "by hand", "n": "=1+1"}) for case in cases
    ]
    run(cases, tmp_path / "out")
    table = read_table(tmp_path / "out")
    assert table["age"].tolist() == [63, 63]
    assert table["manifest_sma_cm2"].tolist() == ["by hand"] * 2
    assert "'=1+1" in (tmp_path / "out" / "table.csv").read_text()
    assert table["l3_certainty"].tolist() == ["user", "user"]
    assert table["level_chosen_by"].tolist() == ["user", "user"]
    changed = [dataclasses.replace(case, extra={"age": "64"}) for case in cases]
    assert run(changed, tmp_path / "out").unchanged == 2
    assert read_table(tmp_path / "out")["age"].tolist() == [64, 64]


def test_the_same_study_twice_is_flagged(tmp_path: Path) -> None:
    (case,) = make_cases(tmp_path / "in", 1)
    run([case, dataclasses.replace(case, case_id="again")], tmp_path / "out")
    table = read_table(tmp_path / "out").set_index("case_id")
    assert "the same images as again" in table.loc["P000", "flag_details"]
    assert "duplicate" in table.loc["again", "flags"].split()


def test_a_configuration_runs_as_its_arguments_do(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 1)
    run(cases, tmp_path / "a")
    config = CohortConfig(**QUICK)
    run_cohort(cases, tmp_path / "b", config=config)
    first, second = ((tmp_path / name / "table.csv").read_bytes() for name in "ab")
    assert first == second
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.workers = 3  # type: ignore[misc]
    assert list(CohortOptions.__annotations__) == [field.name for field in dataclasses.fields(CohortConfig)]


@pytest.mark.usefixtures("processes")
def test_a_lock_that_does_not_hold_stops_the_run_that_lost_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    from ctai_sam2.cohort import store as module

    monkeypatch.setattr(module, "lock_file", lambda path: os.open(os.devnull, os.O_RDONLY))
    cases = make_cases(tmp_path / "in", 8)
    taken: list[str] = []
    take = runner._Tally.take

    def displace(self: Any, outcome: Any) -> None:
        taken.append(outcome.case_id)
        if len(taken) == 2:
            CohortStore(tmp_path / "out").take_ownership("the other run")
        take(self, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(runner._Tally, "take", displace)
        with pytest.raises(StorageError, match="taken over"):
            run(cases, tmp_path / "out")
    assert not (tmp_path / "out" / "table.csv").exists()


def test_a_clock_that_goes_backwards_loses_no_reading(tmp_path: Path) -> None:
    import datetime

    from ctai_sam2.cohort.corrections import add_reading, read_correction

    store = CohortStore(tmp_path)
    later = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)
    mask = np.ones((4, 4), bool)
    add_reading(store, "P1", slice_sha256="a", who="AB", masks={"muscle": ~mask}, when=later)
    add_reading(
        store, "P1", slice_sha256="a", who="CD", masks={"muscle": mask}, when=later.replace(year=2020)
    )
    found = read_correction(store, "P1")
    assert found is not None
    assert [entry.who for entry in found.entries] == ["AB", "CD"]
    assert found.masks["muscle"].all()
    assert found.review(stale=False).who == "CD"


@pytest.mark.parametrize("kind", ["full disk", "kill"])
def test_whichever_write_fails_the_next_run_ends_as_if_nothing_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Fail the n-th write of a case's files, for all n: no torn file, no wrong number."""
    import errno
    import os

    from ctai_sam2.files import atomic

    cases = make_cases(tmp_path / "in", 1)
    calm = run(cases, tmp_path / "calm").files.csv.read_bytes()
    config = CohortConfig(**QUICK).resolve(1)
    replace_file, failures = os.replace, 0
    for n in range(1, 20):
        out = tmp_path / f"out-{n}"
        store, calls = CohortStore(out), 0
        lock = threading.Lock()

        def replace_or_fail(source: Any, target: Any, fail_at: int = n, lock: Any = lock) -> None:
            nonlocal calls
            with lock:
                calls += 1
                now = calls == fail_at
            if now and kind == "full disk":
                raise OSError(errno.ENOSPC, "no space left")
            if now:
                raise _Killed
            replace_file(source, target)

        store.prepare()
        token = config.model_token()
        (task,) = plan_tasks(cases, store, config, token).tasks
        worker = CaseWorker(store, config, token)
        with monkeypatch.context() as patch:
            patch.setattr(atomic.os, "replace", replace_or_fail)
            try:
                outcome = worker.do(task)
            except _Killed:
                outcome = None
        worker.close()
        for path in (out / "records").glob("P*.json"):
            assert read_case_record(path) is not None
        assert run(cases, out).failed == 0
        assert (out / "table.csv").read_bytes() == calm
        if outcome is not None and outcome.ok:
            break
        failures += 1
        if kind == "full disk":
            assert outcome is not None
            assert outcome.stops_the_run
    assert failures == 4, "predictions, masks, picture, record"


class _Killed(BaseException):
    """What a kill looks like from inside: nothing after it is executed."""


DEFAULT = CohortConfig().definitions
WIDE = dataclasses.replace(DEFAULT, name="wide", version="1", source="a test")
