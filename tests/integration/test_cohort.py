"""Cohorts with the shipped model, killed at random, and on a Dask cluster."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ctai_sam2 import run_cohort
from ctai_sam2.cli.demo import make_demo_study
from ctai_sam2.cohort import Case, read_table, runner, write_manifest
from ctai_sam2.cohort.worklist import Worklist
from ctai_sam2.errors import Unavailable
from ctai_sam2.measure.overlap import dice
from ctai_sam2.models import LocalSegmenter
from ctai_sam2.phantom import make_axial_slice, random_parameters
from tests.service.running import service_settings, serving
from tests.unit.cohort.making import QUICK, do_here, make_cases

PROJECT = Path(__file__).resolve().parents[2]


def make_phantoms(folder: Path, count: int) -> tuple[list[Case], list[Any]]:
    cases, phantoms = [], []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        phantom = make_axial_slice(
            random_parameters(rng), shape_hw=(256, 256), spacing_mm=(1.6, 1.6), rng=rng
        )
        np.savez(folder / f"{seed}.npz", image=phantom.hu, spacing=np.array(phantom.spacing_mm))
        cases.append(Case(case_id=f"P{seed}", path=folder / f"{seed}.npz", height_m=1.7))
        phantoms.append(phantom)
    return cases, phantoms


@pytest.mark.timeout(300)
def test_the_shipped_model_measures_a_cohort(tmp_path: Path) -> None:
    cases, phantoms = make_phantoms(tmp_path, 3)
    cases.append(Case(case_id="study", path=make_demo_study(), height_m=1.75))
    done = run_cohort(cases, tmp_path / "out", workers=1, progress=False)
    assert (done.inferred, done.failed) == (4, 0)
    worklist = Worklist(tmp_path / "out")
    for case, phantom in zip(cases, phantoms, strict=False):
        assert dice(worklist.load(case.case_id).masks["muscle"], phantom.masks["muscle"]) > 0.8
    table = read_table(tmp_path / "out").set_index("case_id")
    assert table.loc["study", "l3_certainty"] in ("counted", "estimated")
    assert (tmp_path / "out" / "masks" / "study_l3.nii.gz").is_file()
    assert run_cohort(cases, tmp_path / "out", workers=1, progress=False).unchanged == 4


@pytest.mark.timeout(300)
def test_the_service_measures_as_this_machine_does(tmp_path: Path) -> None:
    cases, _ = make_phantoms(tmp_path, 2)
    # In this process, as the service: sums of floats depend on the threads in the last digits.
    with pytest.MonkeyPatch.context() as patch:
        do_here(patch)
        local = run_cohort(cases, tmp_path / "local", workers=1, progress=False)
    with LocalSegmenter(device="cpu") as model, serving(model) as url:
        settings = service_settings(service_url=url)
        remote = run_cohort(
            cases, tmp_path / "remote", segmenter="remote", settings=settings, workers=2, progress=False
        )
    assert (local.inferred, remote.inferred, remote.failed) == (2, 2, 0)
    assert (tmp_path / "remote" / "table.csv").read_bytes() == (tmp_path / "local" / "table.csv").read_bytes()
    mine, theirs = Worklist(tmp_path / "local"), Worklist(tmp_path / "remote")
    for case in cases:
        masks = theirs.load(case.case_id).masks
        for name, mask in mine.load(case.case_id).masks.items():
            np.testing.assert_array_equal(masks[name], mask)


@pytest.mark.timeout(300)
def test_without_a_service_nothing_is_run(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 1)
    settings = service_settings(service_url="http://127.0.0.1:9")
    with pytest.raises(Unavailable):
        run_cohort(cases, tmp_path / "out", segmenter="remote", settings=settings, progress=False)
    assert not list((tmp_path / "out").rglob("*.json"))


@pytest.mark.timeout(300)
def test_killed_at_random_nothing_is_lost(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 40)
    manifest = write_manifest(tmp_path / "cases.csv", cases)
    options = {**QUICK, "workers": 2}
    with pytest.MonkeyPatch.context() as patch:
        do_here(patch)
        run_cohort(manifest, tmp_path / "calm", **options)
    call = f"run_cohort({str(manifest)!r}, {str(tmp_path / 'out')!r}, **{options!r})"
    code = f"from ctai_sam2 import run_cohort; {call}"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
    }
    records = tmp_path / "out" / "records"
    rng, before = random.Random(1), set()
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=PROJECT)
        until = time.monotonic() + 60
        while process.poll() is None and len(names_in(records)) <= len(before) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        workers = psutil.Process(process.pid).children() if process.poll() is None else []
        process.send_signal(signal.SIGKILL)
        process.wait()
        # A worker ends with its parent.
        assert psutil.wait_procs(workers, timeout=20)[1] == []
        after = names_in(records)
        assert before <= after
        for name in after:
            assert json.loads((records / name).read_bytes())["status"] == "done"
        before = after
    done = run_cohort(manifest, tmp_path / "out", **options)
    assert done.unchanged == len(before)
    assert (tmp_path / "out" / "table.csv").read_bytes() == (tmp_path / "calm" / "table.csv").read_bytes()
    assert not list((tmp_path / "out").rglob(".writing-*"))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.json")}


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_dask_gives_the_same_table_bit_for_bit(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    cases = make_cases(tmp_path / "in", 9)
    (tmp_path / "in" / "4.npz").write_bytes(b"broken")
    options = {**QUICK, "workers": 2}
    with pytest.MonkeyPatch.context() as patch:
        do_here(patch)
        run_cohort(cases, tmp_path / "local", **options)
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(tmp_path / "scratch"),
    ) as cluster:
        done = run_cohort(cases, tmp_path / "dask", dask=cluster.scheduler_address, **options)
        again = run_cohort(cases, tmp_path / "dask", dask=cluster.scheduler_address, **options)
    assert (done.inferred, done.failed) == (8, 1)
    assert again.unchanged == 9
    for name in ("table.csv", "masks/P000.nii.gz", "pictures/P001.jpg"):
        assert (tmp_path / "dask" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_a_dask_scheduler_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(runner, "_DASK_PATIENCE_S", 1)
    with pytest.raises(Unavailable, match="does not respond"):
        run_cohort(make_cases(tmp_path / "in", 1), tmp_path / "out", dask="tcp://127.0.0.1:1", **QUICK)
