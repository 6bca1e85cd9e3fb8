"""Running a cohort: on this machine, on several by Dask, or against the service."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ctai_sam2.cohort.case import Case
from ctai_sam2.cohort.config import CaseTask, CohortConfig, CohortOptions
from ctai_sam2.cohort.finished import FinishedNote, Listing, digest_settings, list_cases, read_finished
from ctai_sam2.cohort.manifest import read_manifest
from ctai_sam2.cohort.outcome import CaseOutcome
from ctai_sam2.cohort.patients import find_same_patients
from ctai_sam2.cohort.plan import RunPlan, plan_tasks
from ctai_sam2.cohort.store import CohortStore, RecordIndex
from ctai_sam2.cohort.supervisor import RunOrder, WorkerPool, dismiss, do_tasks
from ctai_sam2.cohort.table import CohortFiles, current_summary, write_results
from ctai_sam2.errors import CtaiError, InputError, StorageError, Unavailable

if TYPE_CHECKING:
    # Checkers know it for every version of Python.
    from typing_extensions import Unpack

_MAX_BATCH = 8
_LOOK_EVERY_S = 0.2
_DASK_PATIENCE_S = 10
"""Time a scheduler has to respond."""
_GIVE_UP_AFTER = 3
"""So many cases in a row without a segmenter, and the run ends: the others would fare no better."""


@dataclass(frozen=True, kw_only=True)
class CohortRun:
    """What a run did.

    Parameters
    ----------
    files : CohortFiles
        The results.
    cases : int
        Cases of the manifest.
    inferred, measured, unchanged, failed : int
        Cases the model was called for; measured again from stored predictions; not touched; and those, of
        all, that failed.
    incomplete, not_done : int
        Cases in whose middle the segmenter failed, and cases not reached: the next run does them.
    flagged : int
        Cases that a reader should look at.
    replaced : int
        Cases whose images are others than in the last run.
    set_aside : tuple of str
        Damaged files that were moved aside and made again.
    not_in_manifest : tuple of str
        Cases of an earlier manifest whose results are in the folder and not in the table.
    cautions : tuple of str
        What could not be checked across the cases.
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
    incomplete: int = 0
    not_done: int = 0
    replaced: int = 0
    set_aside: tuple[str, ...] = ()
    not_in_manifest: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()

    @property
    def is_partial(self) -> bool:
        """Whether cases are still to be done."""
        return self.incomplete + self.not_done > 0


def run_cohort(
    manifest: str | os.PathLike[str] | Sequence[Case],
    out: str | os.PathLike[str],
    config: CohortConfig | None = None,
    **options: Unpack[CohortOptions],
) -> CohortRun:
    """Segment and measure every case of a manifest; run again, it does only what is missing or changed.

    Each case is a record on disk as soon as it is done: a run that was stopped, killed or lost its power
    continues. A case that fails, hangs or takes too much memory becomes a row with its error.
    Of a case whose HU definitions, height or corrections changed only the row is made again, from the
    stored predictions of the model.

    Parameters
    ----------
    manifest : path-like or sequence of Case
        See `read_manifest`.
    out : path-like
        Folder of the cohort; made if missing. One run at a time may write to it, and one cohort.
    config : CohortConfig, optional
        How cases are segmented and measured, and where.
    **options
        Fields of `CohortConfig`, instead of it or in place of what it has: ``workers=2``.

    Returns
    -------
    CohortRun
        Counts, and the files of the results.

    Raises
    ------
    InputError, ManifestError
        If something cannot be used, or the folder holds other results; nothing was run.
    Unavailable
        If no segmenter is available; what was done is stored, with its table.
    StorageError
        If the folder is in use by another run or cannot be written to.
    KeyboardInterrupt
        If it was stopped; what was done is stored, with its table.
    """
    started = time.perf_counter()
    config = _config_of(config, options)
    store = CohortStore(Path(out).resolve())
    listing = list_cases(manifest) if isinstance(manifest, (str, os.PathLike)) else None
    if listing is not None:
        found = _find_finished(listing, store, config)
        if found is not None:
            return replace(found, seconds=time.perf_counter() - started)
    cases = read_manifest(manifest) if isinstance(manifest, (str, os.PathLike)) else _checked_cases(manifest)
    config = config.resolve(len(cases))
    _require_own_folder(store, cases)
    tally = _Tally()
    peak_mb = 0.0
    with store.locked():
        store.prepare()
        token = config.model_token()
        planned = plan_tasks(cases, store, config, token)
        current = {} if planned.tasks else current_summary(store, planned.key)
        same_patient, caution = ({}, None) if current else find_same_patients(cases)

        note = None
        if listing is not None:
            note = FinishedNote(
                manifest=listing.digest,
                settings=digest_settings(config, token),
                studies=planned.studies,
                corrections=planned.corrections,
                key=planned.key,
            )
        finished = None if note is None else asdict(note)

        def write(key: str) -> tuple[CohortFiles, dict[str, Any]]:
            return write_results(
                store,
                cases,
                config,
                key=key,
                case_keys=planned.case_keys,
                model_token=token,
                notes={
                    "replaced": sorted(tally.replaced),
                    "same_patient": same_patient,
                    "cautions": [caution] if caution else [],
                },
                finished=finished if key else None,
            )

        if planned.tasks:
            run_id = uuid.uuid4().hex
            store.take_ownership(run_id)
            tally.check = lambda: store.require_ownership(run_id)
            try:
                peak_mb = _dispatch(planned, store, config, token, run_id, tally)
            except BaseException:
                # Also after Ctrl-C: the table of what was done, which says that it is partial.
                with contextlib.suppress(StorageError):
                    write("")
                raise
        if tally.stopper is not None and isinstance(tally.stopper, StorageError):
            raise tally.stopper
        if current:
            files, summary = CohortFiles.of(store), current
            index = RecordIndex(records=planned.entries, finished=finished)
            if index != store.read_index():
                store.write_index(index)
        else:
            files, summary = write(planned.key if not tally.undone else "")
    if tally.stopper is not None:
        raise tally.stopper
    return _describe(
        files,
        summary,
        cases=len(cases),
        inferred=tally.inferred,
        measured=tally.measured,
        unchanged=len(cases) - len(planned.tasks),
        replaced=len(tally.replaced),
        seconds=time.perf_counter() - started,
        peak_memory_mb=peak_mb,
    )


def _checked_cases(cases: Sequence[Case]) -> list[Case]:
    """Check that a list of cases is one."""
    given = list(cases) if isinstance(cases, Iterable) else [cases]
    for case in given:
        if not isinstance(case, Case):
            raise InputError(
                "a cohort is a manifest or a list of cases",
                received=type(case).__name__,
                hint="Give the path of a CSV file, or a list of ctai_sam2.cohort.Case.",
            )
    return given


def _config_of(config: CohortConfig | None, options: Mapping[str, Any]) -> CohortConfig:
    """Return the configuration with some of its fields given by name."""
    known = [field.name for field in fields(CohortConfig)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(
            "a cohort has no such option", received=unknown, hint=f"Options are {', '.join(known)}."
        )
    given = {name: value for name, value in options.items() if not (name == "settings" and value is None)}
    return CohortConfig(**given) if config is None else replace(config, **given)


def _describe(files: CohortFiles, summary: Mapping[str, Any], **counts: Any) -> CohortRun:
    """Describe a run by its own counts and the summary of its table."""
    return CohortRun(
        files=files,
        failed=int(summary["failed"]),
        incomplete=int(summary.get("incomplete", 0)),
        not_done=int(summary.get("not_done", 0)),
        flagged=int(summary["flagged"]),
        set_aside=tuple(summary.get("set_aside", ())),
        not_in_manifest=tuple(summary.get("not_in_manifest", ())),
        cautions=tuple(summary.get("cautions", ())),
        **counts,
    )


def _find_finished(listing: Listing, store: CohortStore, config: CohortConfig) -> CohortRun | None:
    """Describe the cohort where nothing is to be done, which is seen without reading the cases; else None."""
    if not store.has_index:
        return None
    with store.locked():
        note = read_finished(listing, store, config.resolve(len(listing.cases)))
        summary = {} if note is None else current_summary(store, note.key)
        if not summary:
            return None
        store.prepare()
    count = len(listing.cases)
    return _describe(
        CohortFiles.of(store),
        summary,
        cases=count,
        inferred=0,
        measured=0,
        unchanged=count,
        seconds=0.0,
        peak_memory_mb=0.0,
    )


def _require_own_folder(store: CohortStore, cases: Sequence[Case]) -> None:
    """Refuse a folder that holds the results of something else."""
    if (store.folder / "measurements.csv").exists():
        raise InputError(
            f"the folder {store.folder.name} holds the results of a single study",
            hint="Choose another folder with --out.",
        )
    recorded = store.recorded_ids()
    if recorded and recorded.isdisjoint(case.case_id for case in cases):
        raise InputError(
            f"the folder {store.folder.name} holds the results of another cohort",
            received=f"{len(recorded)} cases, none of them in the manifest",
            hint="Choose another folder with --out, or delete this one.",
        )


class _Tally:
    """Counts outcomes as they come, and decides when to give up."""

    def __init__(self) -> None:
        self.inferred = self.measured = self.failed = self.undone = 0
        self.replaced: list[str] = []
        self.stopper: Unavailable | StorageError | None = None
        self.advance: Callable[[int], None] = lambda failed: None
        self.check: Callable[[], None] = lambda: None
        self.lock = threading.Lock()
        self._in_a_row = 0

    def take(self, outcome: CaseOutcome) -> None:
        try:
            self.check()
        except StorageError as error:
            self.undone += 1
            self.stopper = error
            return
        if outcome.stops_the_run:
            self.undone += 1
            self._in_a_row += 1
            if outcome.error_type == "StorageError" or self._in_a_row >= _GIVE_UP_AFTER:
                kind = StorageError if outcome.error_type == "StorageError" else Unavailable
                self.stopper = kind(
                    f"the run was ended: {outcome.error}", hint="What was done is stored; run it again."
                )
            return
        self._in_a_row = 0
        self.failed += not outcome.ok
        self.inferred += outcome.ok and outcome.work == "inferred"
        self.measured += outcome.ok and outcome.work == "measured"
        if outcome.image_changed:
            self.replaced.append(outcome.case_id)
        self.advance(self.failed)


def _dispatch(
    planned: RunPlan, store: CohortStore, config: CohortConfig, token: str, run_id: str, tally: _Tally
) -> float:
    """Have the cases done; return the largest memory of a worker process, in MB."""
    key = config.settings.api_key
    order = RunOrder(
        run_id=run_id,
        folder=str(store.folder),
        config=config.for_workers(),
        model_token=token,
        environment={}
        if key is None or config.dask is not None
        else {"SAM2_API_KEY": key.get_secret_value()},
    )
    total = len(planned.case_keys)
    with _bar(total, total - len(planned.tasks), config.progress) as advance:
        tally.advance = advance
        if config.dask is not None:
            return _dispatch_to_dask(planned.tasks, order, config.dask, tally)
        return _dispatch_here(planned.tasks, order, config.workers or 1, tally)


def _dispatch_here(tasks: list[CaseTask], order: RunOrder, workers: int, tally: _Tally) -> float:
    pool = WorkerPool(order)
    pool.on_outcome = lambda outcome: _take(tally, pool, outcome)
    drivers = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="driving")
    try:
        waiting = {drivers.submit(pool.do, batch) for batch in _batches(tasks, workers)}
        while waiting and tally.stopper is None:
            # Short waits, in which Ctrl-C is heard.
            finished, waiting = wait(waiting, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            for one in finished:
                one.result()
    finally:
        # Also after Ctrl-C: unfinished cases are given up, complete files stay.
        pool.stop.set()
        drivers.shutdown(wait=True, cancel_futures=True)
        pool.close()
    return pool.peak_mb


def _take(tally: _Tally, pool: WorkerPool, outcome: CaseOutcome) -> None:
    with tally.lock:
        tally.take(outcome)
    if tally.stopper is not None:
        pool.stop.set()


def _dispatch_to_dask(tasks: list[CaseTask], order: RunOrder, dask: Any, tally: _Tally) -> float:
    from joblib import Parallel, delayed, parallel_config

    with _dask_client(dask) as client:
        from distributed import KilledWorker

        slots = sum(client.nthreads().values())
        if not slots:
            raise Unavailable("the Dask scheduler has no workers", hint="Start some: dask worker tcp://…")
        try:
            with parallel_config(backend="dask", client=client, n_jobs=slots):
                parallel = Parallel(batch_size=1, return_as="generator_unordered")
                for outcomes in parallel(delayed(do_tasks)(order, batch) for batch in _batches(tasks, slots)):
                    for outcome in outcomes:
                        tally.take(outcome)
                    if tally.stopper is not None:
                        break
        except CtaiError:
            raise
        except (OSError, CancelledError, KilledWorker) as error:
            raise Unavailable(
                "the Dask scheduler or its workers were lost",
                received=type(error).__name__,
                hint="What was done is stored; start them and run it again.",
            ) from error
        finally:
            peaks: dict[str, float] = {}
            with contextlib.suppress(OSError, CancelledError, RuntimeError, ValueError):
                # A worker that has just been lost has nothing left to dismiss.
                peaks = client.run(dismiss, order.run_id, on_error="ignore")
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
        client: Any = cast(Any, Client)(dask, set_as_default=False, timeout=_DASK_PATIENCE_S)
    except (OSError, ValueError) as error:
        raise Unavailable(
            "the Dask scheduler does not respond", received=dask, hint="Check its address: tcp://host:8786."
        ) from error
    with client:
        yield client


def _batches(tasks: list[CaseTask], workers: int) -> Iterator[list[CaseTask]]:
    """Cut the cases into runs for one worker, which reads ahead in them; short, to share the end."""
    size = max(1, min(_MAX_BATCH, len(tasks) // (4 * workers)))
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
