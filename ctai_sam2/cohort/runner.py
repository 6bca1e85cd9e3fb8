"""Running a cohort: on this machine, on several by Dask, or against the service."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ctai_sam2.cohort.manifest import Case, read_manifest
from ctai_sam2.cohort.plan import Plan, Task
from ctai_sam2.cohort.store import Store, key_of, stamp_of
from ctai_sam2.cohort.supervisor import Assignment, Crew, Limits, dismiss, do_tasks
from ctai_sam2.cohort.table import CohortFiles, is_current, write_results
from ctai_sam2.cohort.worker import Outcome
from ctai_sam2.errors import InputError, StorageError, Unavailable
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.settings import Settings
from ctai_sam2.structures import AXIAL_STRUCTURES, Structure
from ctai_sam2.types import Window

TIME_LIMIT_S = 600.0
"""Seconds a case may take unless told otherwise."""

_SHARE_OF_MEMORY = 0.8
_LONGEST_BATCH = 8
_LOOK_EVERY_S = 0.2
_GIVE_UP_AFTER = 3
"""So many cases in a row without a segmenter, and the run ends: the others would fare no better."""


@dataclass(frozen=True, kw_only=True)
class CohortRun:
    """What a run did.

    Parameters
    ----------
    files : CohortFiles
        Where the results lie.
    cases : int
        Cases of the manifest.
    inferred, measured, unchanged, failed : int
        Cases the model was asked about; measured again from kept answers; not touched; and those, of all,
        without numbers.
    flagged : int
        Cases that somebody should look at.
    seconds : float
        Time it took.
    peak_memory_mb : float
        Largest resident memory of a worker process, as far as it was looked at.
    """

    files: CohortFiles
    cases: int
    inferred: int
    measured: int
    unchanged: int
    failed: int
    flagged: int
    seconds: float
    peak_memory_mb: float


def run_cohort(
    manifest: str | os.PathLike[str] | Sequence[Case],
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    segmenter: str = "local",
    settings: Settings | None = None,
    dask: Any = None,
    structures: Sequence[Structure] = AXIAL_STRUCTURES,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    window: Window = SOFT_TISSUE,
    robustness_trials: int = 0,
    smi_cutoffs: str = "prado-2008",
    smd_cutoffs: str = "martin-2013",
    time_limit_s: float = TIME_LIMIT_S,
    memory_limit_mb: float | None = None,
    threads: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> CohortRun:
    """Segment and measure every case of a manifest; run again, it does only what is missing or changed.

    Each case is a record on disk as soon as it is done: a run that was stopped, killed or lost its power
    goes on where it was. A case that fails, hangs or takes too much memory becomes a row with its error.
    Of a case whose HU definitions, height or corrections changed only the row is made again, from the
    model's answers that are kept.

    Parameters
    ----------
    manifest : path-like or sequence of Case
        See `read_manifest`.
    out : path-like
        Folder of the cohort; made if missing. One run at a time may write to it.
    workers : int, optional
        Cases done at the same time, each in a process with its own model; as many as cores when omitted.
        Under Dask the cluster decides.
    segmenter : str
        ``local``, ``remote`` (the service of the settings) or ``package.module:function``.
    settings : Settings, optional
        Read from the environment when omitted.
    dask : str or distributed.Client, optional
        Address of a Dask scheduler (``tcp://…``), or a client. Its workers must see the same paths.
    structures : sequence of str
        Wanted structures of the mid-L3 slice.
    definitions : TissueDefinitions
        HU ranges and density rule.
    window : Window
        Window of the image the model sees.
    robustness_trials : int
        How often psoas and muscle are asked for again with jittered prompts, for the interval; 0 for not.
    smi_cutoffs, smd_cutoffs : str
        Names of cut-off tables.
    time_limit_s : float
        Seconds for one case.
    memory_limit_mb : float, optional
        Memory of one worker process; its share of four fifths of the machine's when omitted.
    threads : int, optional
        Threads of each worker process; cores divided by workers when omitted, 1 under Dask.
    retry_failed : bool
        Try again what failed in an earlier run though nothing changed.
    progress : bool
        Show a bar with rate and time left.

    Returns
    -------
    CohortRun
        Counts, and where the results lie.

    Raises
    ------
    InputError, ManifestError
        If something cannot be used; nothing was run.
    Unavailable
        If no segmenter answers; what was done is kept.
    StorageError
        If the folder is in use by another run or cannot be written to.
    KeyboardInterrupt
        If it was stopped; what was done is kept.
    """
    started = time.perf_counter()
    settings = settings or Settings()
    cases = read_manifest(manifest) if isinstance(manifest, (str, os.PathLike)) else list(manifest)
    _require_numbers(workers, threads, time_limit_s, memory_limit_mb)
    plan = Plan(
        segmenter=segmenter,
        settings=settings.model_dump(exclude={"api_key"}),
        structures=tuple(structures),
        definitions=definitions,
        window=window,
        confidence_threshold=settings.confidence_threshold,
        robustness_trials=robustness_trials,
        smi_cutoffs=smi_cutoffs,
        smd_cutoffs=smd_cutoffs,
    )
    count = max(1, min(workers or os.cpu_count() or 1, len(cases)))
    threads = threads or (1 if dask is not None else max(1, (os.cpu_count() or 1) // count))
    plan = _with_threads(plan, settings, threads)
    store = Store(Path(out).resolve())
    with store.locked():
        store.prepare()
        token = plan.model_token()
        planned = plan_tasks(cases, store, plan, token, retry_failed=retry_failed)
        tally = _Tally()
        peak_mb = 0.0
        if planned.tasks:
            assignment = Assignment(
                run_id=uuid.uuid4().hex,
                folder=str(store.folder),
                plan=plan,
                model_token=token,
                limits=Limits(time_s=time_limit_s, memory_mb=memory_limit_mb or _fair_memory_mb(count)),
                threads=threads,
                environment={}
                if settings.api_key is None or dask is not None
                else {"SAM2_API_KEY": settings.api_key.get_secret_value()},
            )
            with _bar(len(cases), planned.unchanged, progress) as advance:
                tally.advance = advance
                peak_mb = _dispatch(planned.tasks, assignment, count, dask, tally)
        if planned.tasks or not is_current(store, planned.key):
            files, numbers = write_results(
                store, cases, plan, key=planned.key if not tally.undone else "", model_token=token
            )
        else:
            files, numbers = CohortFiles.of(store), is_current(store, planned.key)
    if tally.stopper is not None:
        raise tally.stopper
    return CohortRun(
        files=files,
        cases=len(cases),
        inferred=tally.inferred,
        measured=tally.measured,
        unchanged=planned.unchanged,
        failed=int(numbers["failed"]),
        flagged=int(numbers["flagged"]),
        seconds=time.perf_counter() - started,
        peak_memory_mb=peak_mb,
    )


@dataclass(frozen=True)
class Planned:
    """What is to be done.

    Parameters
    ----------
    tasks : list of Task
        Cases to be done.
    unchanged : int
        Cases whose record still holds.
    key : str
        Digest of everything the table follows from.
    """

    tasks: list[Task]
    unchanged: int
    key: str


def plan_tasks(
    cases: Sequence[Case], store: Store, plan: Plan, token: str, *, retry_failed: bool = False
) -> Planned:
    """Decide from file names, sizes and times, without reading any image, what is to be done."""
    corrected = store.corrected_ids()
    present = {name: _names_in(store.folder / name) for name in ("answers", "masks")}
    tasks: list[Task] = []
    keys: list[str] = []
    for case in cases:
        said = store.read_correction(case.case_id) if case.case_id in corrected else None
        stamp = stamp_of(case.path)
        key = key_of(
            [
                stamp,
                token,
                plan.inference_part(case),
                plan.row_part(case, None if said is None else said["digest"]),
            ]
        )
        keys.append(key)
        record = store.read_record(case.case_id)
        holds = record is not None and record.get("key") == key
        if record is not None and holds:
            if record["status"] == "failed":
                holds = not (record.get("again") or retry_failed)
            else:
                holds = (
                    f"{case.case_id}.zip" in present["answers"]
                    and f"{case.case_id}.nii.gz" in present["masks"]
                )
        if not holds:
            tasks.append(Task(case=case, stamp=stamp, key=key))
    return Planned(tasks, len(cases) - len(tasks), key_of([[c.case_id for c in cases], keys]))


class _Tally:
    """Counts outcomes as they come, and says when to give up."""

    def __init__(self) -> None:
        self.inferred = self.measured = self.failed = self.undone = 0
        self.stopper: Unavailable | StorageError | None = None
        self.advance: Callable[[int], None] = lambda failed: None
        self.lock = threading.Lock()
        self._in_a_row = 0

    def take(self, outcome: Outcome) -> None:
        if outcome.stops_the_run:
            self.undone += 1
            self._in_a_row += 1
            if outcome.error_type == "StorageError" or self._in_a_row >= _GIVE_UP_AFTER:
                kind = StorageError if outcome.error_type == "StorageError" else Unavailable
                self.stopper = kind(
                    f"the run was ended: {outcome.error}", hint="What was done is kept; run it again."
                )
            return
        self._in_a_row = 0
        self.failed += not outcome.ok
        self.inferred += outcome.ok and outcome.work == "inferred"
        self.measured += outcome.ok and outcome.work == "measured"
        self.advance(self.failed)


def _dispatch(tasks: list[Task], assignment: Assignment, workers: int, dask: Any, tally: _Tally) -> float:
    """Have the tasks done; return the most memory a worker process took."""
    if dask is not None:
        return _dispatch_to_dask(tasks, assignment, dask, tally)
    crew = Crew(assignment)
    crew.on_outcome = lambda outcome: _take(tally, crew, outcome)
    drivers = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="driving")
    try:
        waiting = {drivers.submit(crew.do, batch) for batch in _batches(tasks, workers)}
        while waiting and tally.stopper is None:
            # Short waits, in which Ctrl-C is heard.
            finished, waiting = wait(waiting, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            for one in finished:
                one.result()
    finally:
        # Also after Ctrl-C: cases in hand are given up, whole files stay.
        crew.stop.set()
        drivers.shutdown(wait=True, cancel_futures=True)
        crew.close()
    return crew.peak_mb


def _take(tally: _Tally, crew: Crew, outcome: Outcome) -> None:
    with tally.lock:
        tally.take(outcome)
    if tally.stopper is not None:
        crew.stop.set()


def _dispatch_to_dask(tasks: list[Task], assignment: Assignment, dask: Any, tally: _Tally) -> float:
    from joblib import Parallel, delayed, parallel_config

    with _dask_client(dask) as client:
        slots = sum(client.nthreads().values())
        if not slots:
            raise Unavailable("the Dask scheduler has no workers", hint="Start some: dask worker tcp://…")
        try:
            with parallel_config(backend="dask", client=client, n_jobs=slots):
                parallel = Parallel(batch_size=1, return_as="generator_unordered")
                for outcomes in parallel(
                    delayed(do_tasks)(assignment, batch) for batch in _batches(tasks, slots)
                ):
                    for outcome in outcomes:
                        tally.take(outcome)
                    if tally.stopper is not None:
                        break
        finally:
            peaks = client.run(dismiss, assignment.run_id)
    return max(peaks.values(), default=0.0)


@contextlib.contextmanager
def _dask_client(dask: Any) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError("Dask is not installed", hint="Install ctai-sam2[cohort].") from error
    if not isinstance(dask, str):
        yield dask
        return
    try:
        client: Any = cast(Any, Client)(dask, set_as_default=False, timeout="10s")
    except (OSError, ValueError) as error:
        raise Unavailable(
            "the Dask scheduler does not answer", received=dask, hint="Check its address: tcp://host:8786."
        ) from error
    with client:
        yield client


def _batches(tasks: list[Task], workers: int) -> Iterator[list[Task]]:
    """Cut the cases into runs for one worker, which reads ahead in them; short, to share the end."""
    size = max(1, min(_LONGEST_BATCH, len(tasks) // (4 * workers)))
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]


@contextlib.contextmanager
def _bar(total: int, done: int, shown: bool) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    with tqdm(total=total, initial=done, unit="case", disable=not shown) as bar:

        def advance(failed: int) -> None:
            if failed:
                bar.set_postfix(failed=failed, refresh=False)
            bar.update()

        yield advance


def _with_threads(plan: Plan, settings: Settings, threads: int) -> Plan:
    if settings.num_threads is not None:
        return plan
    return replace(plan, settings={**plan.settings, "num_threads": threads})


def _fair_memory_mb(workers: int) -> float:
    import psutil

    return float(psutil.virtual_memory().total) / 1e6 * _SHARE_OF_MEMORY / workers


def _require_numbers(
    workers: int | None, threads: int | None, time_limit_s: float, memory_limit_mb: float | None
) -> None:
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and not 1 <= value <= 1024:
            raise InputError(f"{name} must be 1 to 1024", received=value)
    if not time_limit_s > 0 or (memory_limit_mb is not None and not memory_limit_mb > 0):
        raise InputError("limits must be more than 0", received=(time_limit_s, memory_limit_mb))


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
