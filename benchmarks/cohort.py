"""Measure a cohort run (``python -m benchmarks.cohort``): overhead, rerun, memory, loss by ``kill -9``.

Cases are small phantom slices with a prompt for each psoas, so that the runner and not the anatomy is
measured. No two are alike. The folder is kept where ``--folder`` names one: run again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.reporting import Ratio, add_json_option, median_of_pairs, report, time_ms
from ctai_sam2.cohort import Case, read_manifest, run_cohort, write_manifest
from ctai_sam2.cohort.config import CohortConfig
from ctai_sam2.cohort.plan import plan_tasks
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.worker import CaseWorker
from ctai_sam2.image.masks import mask_to_box_xyxy
from ctai_sam2.io import read_case_npz
from ctai_sam2.models import open_segmenter
from ctai_sam2.phantom import make_axial_slice, random_parameters
from ctai_sam2.segmentation import segment_axial
from ctai_sam2.settings import Settings
from ctai_sam2.structures import AXIAL_STRUCTURES, Structure
from ctai_sam2.types import Prompt

PROJECT = Path(__file__).resolve().parents[1]
SIDES: tuple[Structure, ...] = ("psoas_left", "psoas_right")
PATIENTS = 24
"""Different anatomies; each case adds noise of its own."""


def make_cohort(folder: Path, count: int, side: int) -> Path:
    """Write slices and their manifest, unless an earlier run did; returns the manifest."""
    manifest = folder / "cases.csv"
    if manifest.is_file() and sum(1 for _ in manifest.open()) == count + 1:
        return manifest
    (folder / "slices").mkdir(parents=True, exist_ok=True)
    spacing = 400 / side
    patients = []
    for number in range(min(PATIENTS, count)):
        rng = np.random.default_rng(number)
        phantom = make_axial_slice(
            random_parameters(rng), shape_hw=(side, side), spacing_mm=(spacing, spacing), rng=rng
        )
        prompts = {}
        for name in SIDES:
            box = mask_to_box_xyxy(phantom.masks[name])
            if box is None:
                continue
            rows, columns = np.nonzero(phantom.masks[name])
            prompts[name] = Prompt(
                points_xy=[[float(np.median(columns)), float(np.median(rows))]],  # type: ignore[arg-type]
                box_xyxy=(box[0] - 0.5, box[1] - 0.5, box[2] + 0.5, box[3] + 0.5),
                structure=name,
            )
        patients.append((phantom, prompts))
    cases = []
    for number in range(count):
        phantom, prompts = patients[number % len(patients)]
        noise = np.random.default_rng(number).normal(0, 6, phantom.hu.shape)
        path = folder / "slices" / f"{number:06d}.npz"
        if not path.is_file():
            np.savez(
                path,
                image=np.rint(np.maximum(phantom.hu + noise, -1024)).astype(np.int16),
                spacing=np.array(phantom.spacing_mm),
                meta=json.dumps({"plane": "axial"}),
            )
        cases.append(Case(case_id=f"C{number:06d}", path=path, height_m=1.7, prompts=prompts))
    return write_manifest(manifest, cases)


def run(
    manifest: Path,
    out: Path,
    workers: int,
    *,
    progress: bool = False,
    segmenter: str = "local",
    structures: Sequence[Structure] = SIDES,
) -> dict[str, Any]:
    """Run a cohort and return its numbers, without files and lists."""
    done = asdict(
        run_cohort(
            manifest,
            out,
            workers=workers,
            structures=structures,
            threads=1,
            segmenter=segmenter,
            progress=progress,
        )
    )
    return {name: value for name, value in done.items() if isinstance(value, int | float)}


def measure_bare(manifest: Path, out: Path, structures: Sequence[Structure]) -> tuple[float, float, float]:
    """Predict each case in a plain loop, and as a worker does, case by case in turn in this process.

    Returns
    -------
    bare_ms, worker_ms, ratio : float
        Medians; the ratio is that of the pairs. A worker's reply to the run, 1 ms, is left out.
    """
    settings = Settings(num_threads=1)
    cases = read_manifest(manifest)
    config = CohortConfig(structures=tuple(structures), settings=settings)
    token, store = config.model_token(), CohortStore(out)
    store.prepare()
    tasks = plan_tasks(cases, store, config, token).tasks
    worker = CaseWorker(store, config, token)
    bare, whole = [], []
    with open_segmenter("local", settings) as segmenter:

        def ask(case: Case) -> None:
            segment_axial(
                read_case_npz(case.path).slice,
                segmenter,
                structures=config.structures,
                prompts=case.prompts,
            )

        ask(cases[0])
        worker.do(tasks[0])
        for case, task in zip(cases[1:], tasks[1:], strict=True):
            bare.append(time_ms(partial(ask, case)))
            whole.append(time_ms(partial(worker.do, task)))
    worker.close()
    return statistics.median(bare), statistics.median(whole), median_of_pairs(whole, bare)


@contextmanager
def watching_memory() -> Iterator[list[tuple[float, float, float]]]:
    """Sample (seconds, MB of this process, MB of its largest child) every two seconds."""
    samples: list[tuple[float, float, float]] = []
    ended, started, me = threading.Event(), time.perf_counter(), psutil.Process()

    def look() -> None:
        while not ended.wait(2.0):
            largest = 0.0
            for child in me.children(recursive=True):
                try:
                    largest = max(largest, child.memory_info().rss / 1e6)
                except psutil.Error:
                    continue
            samples.append((time.perf_counter() - started, me.memory_info().rss / 1e6, largest))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def summarise_memory(samples: list[tuple[float, float, float]]) -> dict[str, float]:
    """Compare the second quarter of the run with the last; nothing of a run too short for that."""
    if len(samples) < 8:
        return {}
    values = np.array(samples)
    quarter = len(values) // 4
    parts = {"second": values[quarter : 2 * quarter], "last": values[-quarter:]}
    return {
        f"{who}_mb_{name}_quarter": float(np.median(part[:, column]))
        for column, who in ((1, "parent"), (2, "worker"))
        for name, part in parts.items()
    }


def measure_overhead(
    folder: Path, count: int, side: int, rounds: int, structures: Sequence[Structure]
) -> dict[str, float]:
    """Compare bare loop, one worker and two in turn; a run of one case tells what starting costs.

    Without rounds the bare loop and a worker's steps are compared in this process, and nothing else.
    """
    manifest = make_cohort(folder / "overhead", count, side)
    cases = read_manifest(manifest)
    if tuple(structures) != SIDES:
        # By the button, as most cohorts are measured.
        manifest = write_manifest(
            folder / "overhead" / "all.csv", [replace(one, prompts={}) for one in cases]
        )
    short = write_manifest(folder / "overhead" / "one.csv", read_manifest(manifest)[:1])
    do = partial(run, structures=structures)
    bare_ms, worker_ms, ratio = measure_bare(manifest, folder / "paired", structures)
    paired = {
        "cases": count,
        "bare_ms": bare_ms,
        "beside_it_as_a_worker_ms": worker_ms,
        "worker_vs_bare": ratio,
    }
    if not rounds:
        return paired
    one, two, starts = [], [], []
    for number in range(rounds):
        start = do(short, folder / f"start-{number}", 1)["seconds"]
        one.append((do(manifest, folder / f"one-{number}", 1)["seconds"] - start) / (count - 1))
        starts.append(start)
        two.append((do(manifest, folder / f"two-{number}", 2)["seconds"] - start) / (count - 1))
    again = do(manifest, folder / "one-0", 1)
    first = one[0] * (count - 1) + starts[0]
    tables = {(folder / f"{name}-0" / "table.csv").read_bytes() for name in ("one", "two")}
    return {
        **paired,
        "one_worker_ms": 1000 * statistics.median(one),
        "two_workers_ms": 1000 * statistics.median(two),
        "one_worker_vs_two": median_of_pairs(one, two),
        "start_s": statistics.median(starts),
        "first_s": first,
        "rerun_s": again["seconds"],
        "rerun_times_faster": first / again["seconds"],
        "one_and_two_workers_agree": len(tables) == 1,
    }


def measure_kills(
    folder: Path, count: int, side: int, kills: int, seed: int, segmenter: str, apart_s: float
) -> dict[str, float]:
    """Kill a run at random moments, worker or parent, run it again, and look for what was lost."""
    manifest = make_cohort(folder / "kills", count, side)
    out, rng = folder / "kills-out", random.Random(seed)
    run(manifest, folder / "kills-reference", 2, segmenter=segmenter)
    records = out / "records"
    lost, torn, done = 0, 0, 0
    moments: list[str] = []

    def whole() -> set[str]:
        nonlocal torn
        found = set()
        for path in records.glob("*.json"):
            try:
                json.loads(path.read_bytes())
                found.add(path.name)
            except ValueError:
                torn += 1
        return found

    def is_busy(process: subprocess.Popen[bytes], known: int) -> bool:
        return sum(1 for _ in records.glob("*.json")) > known or process.poll() is not None

    before: set[str] = set()
    command = [sys.executable, "-m", "benchmarks.cohort", "--child", str(manifest), str(out), segmenter]
    process: subprocess.Popen[bytes] | None = None
    while done < kills:
        if process is None:
            process = subprocess.Popen(
                command, cwd=PROJECT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        # Wait for signs of work, or every kill would hit the start.
        _wait(partial(is_busy, process, len(before)), 120)
        time.sleep(rng.uniform(0.0, apart_s))
        if process.poll() is not None:
            # All cases were done before the kill: begin anew.
            for path in records.glob("*.json"):
                path.unlink()
            before, process = set(), None
            continue
        children = psutil.Process(process.pid).children()
        victim = rng.choice([process.pid, process.pid, *(child.pid for child in children)])
        os.kill(victim, signal.SIGKILL)
        moments.append("parent" if victim == process.pid else "worker")
        done += 1
        if victim == process.pid:
            process.wait()
            psutil.wait_procs(children, timeout=30)
            process = None
        after = whole()
        lost += len(before - after)
        before = after
        print(f"kill {done} of {kills}: {moments[-1]}, {len(after)} records after", file=sys.stderr)
    if process is not None:
        process.wait()
    last = run(manifest, out, 2, segmenter=segmenter)
    same = (out / "table.csv").read_bytes() == (folder / "kills-reference" / "table.csv").read_bytes()
    left = sum(1 for path in out.rglob(".writing-*"))
    return {
        "cases": count,
        "kills": done,
        **{f"kills_of_a_{name}": moments.count(name) for name in ("parent", "worker")},
        "records_lost": lost,
        "torn_files": torn,
        "left_behind": left,
        "failed_in_the_end": last["failed"],
        "table_equals_undisturbed": same,
    }


def measure_many(folder: Path, count: int, side: int, workers: int, segmenter: str) -> dict[str, float]:
    """Run a large cohort once and again, watching memory."""
    manifest = make_cohort(folder / "many", count, side)
    out = folder / f"many-{segmenter.partition(':')[0]}"
    with watching_memory() as samples:
        first = run(manifest, out, workers, progress=True, segmenter=segmenter)
    again = run(manifest, out, workers, segmenter=segmenter)
    return {
        **first,
        **summarise_memory(samples),
        "rerun_s": again["seconds"],
        "rerun_unchanged": again["unchanged"],
    }


def _wait(ready: Callable[[], bool], limit_s: float) -> None:
    until = time.monotonic() + limit_s
    while not ready() and time.monotonic() < until:
        time.sleep(0.05)


def main() -> None:
    """Run the measurements asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort", description=__doc__)
    parser.add_argument("--cases", type=int, default=32, help="cases of the overhead and kill tests")
    parser.add_argument("--many", type=int, default=0, help="cases of a large cohort (10000 takes long)")
    parser.add_argument("--side", type=int, default=128, help="pixels of a slice's side")
    parser.add_argument(
        "--rounds",
        type=int,
        default=2,
        help="runs of one and of two workers in the overhead test; 0: a worker's steps alone, in a minute",
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--apart", type=float, default=1.0, help="most seconds of work before a kill")
    parser.add_argument("--seed", type=int, default=0, help="decides when is killed")
    parser.add_argument("--workers", type=int, default=2, help="of the large cohort")
    parser.add_argument(
        "--segmenter",
        default="local",
        help="for kills and the large cohort; tests.fakes:FakeSegmenter: the runner alone",
    )
    parser.add_argument("--only", choices=["overhead", "kills", "many"], default=None)
    parser.add_argument("--folder", type=Path, default=None, help="kept, and gone on with")
    add_json_option(parser)
    parser.add_argument("--child", nargs=3, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        manifest, out, segmenter = arguments.child
        run(Path(manifest), Path(out), 2, segmenter=segmenter)
        return

    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        figures: dict[str, dict[str, float]] = {}
        if arguments.only in (None, "overhead"):
            with tempfile.TemporaryDirectory() as fresh:
                figures["overhead, two psoas by prompts"] = measure_overhead(
                    Path(fresh), arguments.cases, arguments.side, arguments.rounds, SIDES
                )
            with tempfile.TemporaryDirectory() as fresh:
                figures["overhead, all structures"] = measure_overhead(
                    Path(fresh), arguments.cases // 4, 2 * arguments.side, arguments.rounds, AXIAL_STRUCTURES
                )
        if arguments.only in (None, "kills"):
            with tempfile.TemporaryDirectory() as fresh:
                figures["kills"] = measure_kills(
                    Path(fresh),
                    arguments.cases,
                    arguments.side,
                    arguments.kills,
                    arguments.seed,
                    arguments.segmenter,
                    arguments.apart,
                )
        if arguments.many and arguments.only in (None, "many"):
            figures["many"] = measure_many(
                folder, arguments.many, arguments.side, arguments.workers, arguments.segmenter
            )
    ratios: dict[str, Ratio] = {}
    for name in (name for name in figures if name.startswith("overhead")):
        found, of = figures[name], name.partition(", ")[2]
        ratios |= {
            f"cohort, {of}: as a worker does it, to the bare question": Ratio(
                found["worker_vs_bare"], "lower", 1.03
            ),
        }
        if "one_worker_vs_two" in found:
            ratios |= {
                f"cohort, {of}: one worker, to two": Ratio(found["one_worker_vs_two"], "higher", 1.7),
                f"cohort, {of}: first run, to the finished one": Ratio(
                    found["rerun_times_faster"], "higher", 100
                ),
            }
    report(figures, ratios, arguments.json)


if __name__ == "__main__":
    main()
