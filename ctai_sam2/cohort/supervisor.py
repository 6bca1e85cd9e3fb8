"""Worker processes under limits: one that hangs, uses too much memory or dies is replaced, its case reported.

Own code and not pebble or loky, because neither limits memory, stops a case's clock while the model loads or
reads ahead, their workers outlive a killed parent, and Dask's daemonic processes may not start theirs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ctai_sam2.cohort.config import CaseTask, CohortConfig
from ctai_sam2.cohort.outcome import CaseOutcome, write_failure
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.worker_process import receive, send
from ctai_sam2.errors import DeviceUnavailable

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.1
_START_LIMIT_S = 300.0
"""Time given to load code, and again to load the model; a case's own clock stands still meanwhile."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_END = object()


class Stopped(Exception):
    """The run was stopped in the middle of a case."""


@dataclass(frozen=True, kw_only=True)
class RunOrder:
    """All that a machine needs to know to take part in a run.

    Parameters
    ----------
    run_id : str
        Distinguishes runs.
    folder : str
        The cohort's folder, as every machine sees it.
    config : CohortConfig
        How cases are treated, resolved.
    model_token : str
        See `CohortConfig.model_token`.
    environment : mapping of str to str
        Further variables of the worker processes.
    """

    run_id: str
    folder: str
    config: CohortConfig
    model_token: str
    environment: Mapping[str, str]


class Supervisor:
    """One worker process, started when needed and started again when it had to go.

    Parameters
    ----------
    order : RunOrder
        What to do.
    stop : threading.Event
        Set from anywhere to give up at once.
    """

    def __init__(self, order: RunOrder, stop: threading.Event) -> None:
        self._order = order
        self._stop = stop
        self._process: subprocess.Popen[bytes] | None = None
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._loading = True
        self.peak_mb = 0.0

    def do(self, task: CaseTask, then: CaseTask | None = None) -> CaseOutcome:
        """Have a case done, or written down as failed if its process had to be ended or died.

        Where another case was being read at the same time, which may have been to blame, it gets a second
        try by itself.

        Raises
        ------
        Stopped
            If the run was stopped.
        DeviceUnavailable
            If no worker process can be started.
        StorageError
            If a failure cannot be written down.
        """
        outcome = self._try(task, then)
        if isinstance(outcome, _Ended) and then is not None:
            outcome = self._try(task, None)
        if isinstance(outcome, _Ended):
            failed = CaseOutcome(
                case_id=task.case.case_id,
                ok=False,
                work="inferred",
                seconds=outcome.seconds,
                error_type=outcome.kind,
                error=outcome.sentence,
            )
            return write_failure(
                CohortStore(Path(self._order.folder)), task, failed, retry=outcome.kind == "WorkerDied"
            )
        return outcome

    def close(self) -> None:
        """End the process: its input ends, and if that is not enough it is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self.close()

    def _try(self, task: CaseTask, then: CaseTask | None) -> CaseOutcome | _Ended:
        process = self._require_process()
        config = self._order.config
        memory = _memory_meter(process.pid)
        started = time.monotonic()
        try:
            send(cast(BinaryIO, process.stdin), (task, then))
        except OSError:
            return self._died(started)
        while True:
            try:
                message = self._inbox.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                message = None
            if message is _END:
                return self._died(started)
            if isinstance(message, CaseOutcome):
                return message
            if message is not None:
                self._loading, started = message == "loading", time.monotonic()
            if self._stop.is_set():
                self.kill()
                raise Stopped
            seconds = time.monotonic() - started
            used_mb = memory()
            self.peak_mb = max(self.peak_mb, used_mb)
            limit_s = _START_LIMIT_S if self._loading else config.time_limit_s
            if seconds > limit_s:
                what = "loading the model" if self._loading else "it"
                self.kill()
                return _Ended("TimeLimitExceeded", f"{what} took more than {limit_s:g} s.", seconds)
            if config.memory_limit_mb is not None and used_mb > config.memory_limit_mb:
                self.kill()
                sentence = f"its process took more than {config.memory_limit_mb:.0f} MB of memory."
                return _Ended("MemoryLimitExceeded", sentence, seconds)

    def _died(self, started: float) -> _Ended:
        process, seconds = self._process, time.monotonic() - started
        code = None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(timeout=2.0)
        self.kill()
        cause = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return _Ended("WorkerDied", f"its process ended by itself ({cause}).", seconds)

    def _require_process(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        order = self._order
        threads = {name: str(order.config.threads) for name in _THREAD_VARIABLES}
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "ctai_sam2.cohort.worker_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if _log.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,
                env={**os.environ, **threads, **order.environment, "PYTHONPATH": _python_path()},
            )
            stream = cast(BinaryIO, process.stdin)
            send(stream, sys.path)
            send(stream, (order.folder, order.config.for_workers(), order.model_token))
        except OSError as error:
            raise DeviceUnavailable(
                "no worker process can be started",
                received=type(error).__name__,
                hint="Check the memory and the number of processes allowed.",
            ) from error
        # Each process has its own inbox: a late message of one that was killed is dropped.
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        outputs = cast(BinaryIO, process.stdout)

        def listen() -> None:
            while True:
                try:
                    inbox.put(receive(outputs))
                except (EOFError, OSError, ValueError):
                    inbox.put(_END)
                    return

        threading.Thread(target=listen, daemon=True, name="listening").start()
        self._process, self._inbox, self._loading = process, inbox, True
        return process


@dataclass(frozen=True)
class _Ended:
    """A process that did not get through a case: why, and how long it took."""

    kind: str
    sentence: str
    seconds: float


class WorkerPool:
    """The supervisors of one process of a run, as many as cases are done there at the same time.

    Parameters
    ----------
    order : RunOrder
        What to do.
    on_outcome : callable, optional
        Called with every case's outcome, from the thread that did it.
    """

    def __init__(self, order: RunOrder, on_outcome: Callable[[CaseOutcome], None] | None = None) -> None:
        self.stop = threading.Event()
        self.on_outcome = on_outcome
        self._order = order
        self._lock = threading.Lock()
        self._idle: list[Supervisor] = []
        self._all: list[Supervisor] = []

    def do(self, tasks: Sequence[CaseTask]) -> list[CaseOutcome]:
        """Do cases in order with one worker process; ends early if the run is stopped."""
        with self._lock:
            if self._idle:
                supervisor = self._idle.pop()
            else:
                supervisor = Supervisor(self._order, self.stop)
                self._all.append(supervisor)
        outcomes: list[CaseOutcome] = []
        try:
            for task, then in zip(tasks, [*tasks[1:], None], strict=True):
                if self.stop.is_set():
                    break
                outcome = supervisor.do(task, then)
                outcomes.append(outcome)
                if self.on_outcome is not None:
                    self.on_outcome(outcome)
        except Stopped:
            pass
        finally:
            with self._lock:
                self._idle.append(supervisor)
        return outcomes

    @property
    def peak_mb(self) -> float:
        """Largest resident memory seen of a worker process."""
        with self._lock:
            return max((one.peak_mb for one in self._all), default=0.0)

    def close(self) -> None:
        """Stop what is going on and end all worker processes."""
        self.stop.set()
        with self._lock:
            everyone = list(self._all)
        for supervisor in everyone:
            supervisor.close()


_pools: dict[str, WorkerPool | None] = {}
"""WorkerPools of this process by run, under Dask; None where the run is over."""
_pools_lock = threading.Lock()


def do_tasks(order: RunOrder, tasks: Sequence[CaseTask]) -> list[CaseOutcome]:
    """Do cases in this process's pool of a run, which the first call makes; nothing once it is dismissed."""
    with _pools_lock:
        if order.run_id not in _pools:
            _pools[order.run_id] = WorkerPool(order)
        pool = _pools[order.run_id]
    return [] if pool is None else pool.do(tasks)


def dismiss(run_id: str) -> float:
    """End a run in this process; return the most memory, in MB, that one of its workers took."""
    with _pools_lock:
        pool = _pools.get(run_id)
        _pools[run_id] = None
    if pool is None:
        return 0.0
    pool.close()
    return pool.peak_mb


def _memory_meter(pid: int) -> Callable[[], float]:
    import psutil

    try:
        process = psutil.Process(pid)
    except psutil.Error:
        return lambda: 0.0

    def read() -> float:
        try:
            return float(process.memory_info().rss) / 1e6
        except psutil.Error:
            return 0.0

    return read


def _python_path() -> str:
    """Where a worker finds this package if it was not installed, before anything is received."""
    root = Path(__file__).resolve().parents[2]
    mine = "" if root.name == "site-packages" else str(root)
    return os.pathsep.join(filter(None, [mine, os.environ.get("PYTHONPATH", "")]))
