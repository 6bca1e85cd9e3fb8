"""A cohort on Dask that loses workers and its scheduler: ``python -m benchmarks.cohort_dask``.

The runner alone is measured: predictions are those of the tests' stand-in for a model. Four worker processes,
one of them slow. In the course of the run one worker is killed and replaced, then the scheduler is killed:
the run has to end with an error that says so, and to go on once there is a scheduler again. Then another
worker is killed. In the end the table has to be that of the same cohort on this machine, byte for byte.

Everything is kept where ``--folder`` names a folder: stopped and called again, it goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.cohort import PROJECT, make_cohort, run
from benchmarks.reporting import Ratio, add_json_option, report
from ctai_sam2.cohort import CohortRun, run_cohort
from ctai_sam2.errors import Unavailable
from ctai_sam2.types import Prediction
from tests.fakes import FakeSegmenter

SEGMENTER = "benchmarks.cohort_dask:open_stand_in"
SLOW_VARIABLE = "CTAI_SAM2_BENCH_SLOW_S"
"""Seconds that a prediction takes longer on this machine."""
START_S = 120.0


class SlowFake(FakeSegmenter):
    """The stand-in on a machine that takes its time."""

    def predict(self, *arguments: object, **named: object) -> Prediction:
        """Wait, then predict."""
        time.sleep(float(os.environ.get(SLOW_VARIABLE, "0")))
        return super().predict(*arguments, **named)  # type: ignore[arg-type]


def open_stand_in() -> SlowFake:
    """Open the stand-in for a model."""
    return SlowFake()


class Cluster:
    """A scheduler and workers, each a process of its own that can be killed."""

    def __init__(self, scratch: Path, slow_s: float) -> None:
        self._scratch = scratch
        self._slow_s = slow_s
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self, workers: int) -> None:
        """Start a scheduler and its workers, the first of them slow."""
        self._scheduler = self._run("dask_scheduler", "--host", "127.0.0.1", "--port", str(self._port))
        for number in range(workers):
            self.start_worker(slow_s=self._slow_s if number == 0 else 0.0)

    def start_worker(self, *, slow_s: float = 0.0) -> None:
        """Start one worker with one thread."""
        options = ("--nthreads", "1", "--no-nanny", "--local-directory", str(self._scratch))
        self._workers.append(self._run("dask_worker", self.address, *options, slow_s=slow_s))

    def kill_worker(self) -> None:
        """Kill the worker that has been there for longest, apart from the slow one."""
        self._kill(self._workers.pop(1))

    def kill_scheduler(self) -> None:
        """Kill the scheduler; its workers end by themselves, or are ended."""
        if self._scheduler is not None:
            self._kill(self._scheduler)
        self._scheduler = None

    def scheduler_use(self) -> tuple[float, float]:
        """Return the scheduler's processor time in seconds, and its memory in MB."""
        process = psutil.Process(self._scheduler.pid) if self._scheduler is not None else None
        if process is None:
            return 0.0, 0.0
        return sum(process.cpu_times()[:2]), process.memory_info().rss / 1e6

    def end(self) -> None:
        """End everything."""
        self.kill_scheduler()
        while self._workers:
            self._kill(self._workers.pop())

    def _run(self, module: str, *options: str, slow_s: float = 0.0) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *options, "--no-dashboard"],
            cwd=PROJECT,
            env={**os.environ, SLOW_VARIABLE: str(slow_s), "PYTHONPATH": str(PROJECT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()


class Attempt(threading.Thread):
    """One call of the cohort, in a thread of its own."""

    def __init__(self, manifest: Path, out: Path, address: str) -> None:
        super().__init__(name="attempt", daemon=True)
        self._call = (manifest, out, address)
        self.done: CohortRun | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Run the cohort; store what comes of it."""
        manifest, out, address = self._call
        try:
            self.done = run_cohort(
                manifest,
                out,
                dask=address,
                threads=1,
                segmenter=SEGMENTER,
                structures=("psoas_left", "psoas_right"),
                progress=False,
            )
        except BaseException as error:
            self.error = error


def count_records(out: Path) -> int:
    """Count the cases that have a record."""
    try:
        return sum(name.endswith(".json") for name in os.listdir(out / "records"))
    except OSError:
        return 0


def wait_for(out: Path, count: int, attempt: Attempt) -> None:
    """Wait until so many cases are done, or the run has ended."""
    while attempt.is_alive() and count_records(out) < count:
        time.sleep(0.2)


@contextlib.contextmanager
def running_cluster(workers: int, slow_s: float) -> Iterator[Cluster]:
    """Start a cluster; end it with the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        cluster = Cluster(Path(scratch), slow_s)
        cluster.start(workers)
        try:
            yield cluster
        finally:
            cluster.end()


def begin(manifest: Path, out: Path, cluster: Cluster, workers: int) -> Attempt:
    """Wait for the workers, then call the cohort."""
    from distributed import Client

    until = time.monotonic() + START_S
    while True:
        try:
            with Client(cluster.address, set_as_default=False, timeout="5s") as client:
                client.wait_for_workers(workers, timeout=START_S)
            break
        except OSError:
            if time.monotonic() > until:
                raise
    return Attempt(manifest, out, cluster.address)


def measure(folder: Path, count: int, workers: int, slow_s: float) -> dict[str, float]:
    """Run the cohort here and on the cluster, with its losses; compare."""
    manifest = make_cohort(folder / f"slices-{count}", count, 96)
    here, there = folder / f"local-{count}", folder / f"dask-{count}"
    local = run(manifest, here, os.cpu_count() or 1, segmenter=SEGMENTER)
    kept = folder / f"losses-{count}.json"
    names = ("workers_killed", "schedulers_killed", "clear_errors", "seconds_to_notice")
    losses = dict.fromkeys(names, 0.0)
    if kept.is_file():  # of an earlier call
        losses = json.loads(kept.read_text(encoding="utf-8"))
    started, before = time.perf_counter(), count_records(there)
    with running_cluster(workers, slow_s) as cluster:
        attempt = begin(manifest, there, cluster, workers)
        for share, loss in ((0.2, "worker"), (0.45, "scheduler"), (0.7, "worker")):
            if before >= share * count:
                continue  # in an earlier call
            wait_for(there, int(share * count), attempt)
            if not attempt.is_alive():
                break
            print(f"{count_records(there)} of {count} cases: the {loss} is killed", file=sys.stderr)
            if loss == "worker":
                cluster.kill_worker()
                cluster.start_worker()
                losses["workers_killed"] += 1
                kept.write_text(json.dumps(losses), encoding="utf-8")
                continue
            losses["schedulers_killed"] += 1
            killed_at = time.perf_counter()
            cluster.kill_scheduler()
            attempt.join(START_S)
            losses["seconds_to_notice"] = time.perf_counter() - killed_at
            losses["clear_errors"] += isinstance(attempt.error, Unavailable)
            kept.write_text(json.dumps(losses), encoding="utf-8")
            cluster.end()
            if attempt.is_alive():
                raise RuntimeError("the run goes on without a scheduler")
            print(f"noticed: {attempt.error!r}", file=sys.stderr)
            cluster.start(workers)
            attempt = begin(manifest, there, cluster, workers)
        idle_s, _ = cluster.scheduler_use()
        left = count - count_records(there)
        attempt.join()
        busy_s, scheduler_mb = cluster.scheduler_use()
        if attempt.error is not None:
            raise attempt.error
        took_s = time.perf_counter() - started
        again = Attempt(manifest, there, cluster.address)
        again.join()
    if again.done is None:
        raise again.error or RuntimeError("the second call did not end")
    return {
        "cases": count,
        "workers": workers,
        **losses,
        "cases_per_s": (count - before) / took_s,
        "scheduler_ms_per_case": 1000 * (busy_s - idle_s) / max(1, left),
        "scheduler_mb": scheduler_mb,
        "rerun_s": again.done.seconds,
        "unchanged_when_called_again": again.done.unchanged,
        "failed": again.done.failed,
        "failed_locally": local["failed"],
        "table_equals_local": (there / "table.csv").read_bytes() == (here / "table.csv").read_bytes(),
    }


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort_dask", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument(
        "--slow-s", type=float, default=0.2, help="what a prediction of the slow one takes longer"
    )
    parser.add_argument("--folder", type=Path, default=None, help="kept, and gone on with")
    add_json_option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        figures = measure(folder, arguments.cases, arguments.workers, arguments.slow_s)
    ratios = {
        "Dask with losses: table equal to the local one": Ratio(figures["table_equals_local"], "higher", 1.0)
    }
    report({"cohort on Dask": figures}, ratios, arguments.json)


if __name__ == "__main__":
    main()
