"""Kill writers at random moments, and stop them at every change of the disk.

``python -m benchmarks.kills --kills 1000`` kills real processes.

A process writes version after version of something (records, tables, readings, predictions, masks,
journals, the cache of the service, cases of a cohort) and reports each as soon as the writer has confirmed
it. It is killed with ``SIGKILL`` after a random time. Then what is on disk is read: it has to be whole, and
no older than what was confirmed. The next process goes on with the same files.

``python -m benchmarks.kills --stops 100000`` simulates, which is cheaper: a disk takes nothing any more from
its n-th change on, whatever the code tries then. First every pair of changes is tried on new files (stopped
at the first, tried again and stopped at the second), then changes drawn at random on files that stay.

Exit code 1 if anything is lost or damaged.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import numpy as np

from ctai_sam2.cohort import CohortConfig
from ctai_sam2.cohort.plan import plan_tasks
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.worker import CaseWorker
from ctai_sam2.models import CachedSegmenter
from ctai_sam2.types import Prompt
from tests.fakes import FakeSegmenter, make_image
from tests.robustness.failing_disk import Stopped, StoppingDisk, failing
from tests.robustness.writers import WRITERS, Writer
from tests.unit.cohort.making import QUICK, make_cases

LONGEST_WALK = 60
MOST_CHANGES = 24
"""Of a writer's changes to the disk, some more than any makes for one version."""
STOPS_TURN_S = 2.0
LONGEST_S = 0.05
"""Mean time a process lives after its first write is confirmed."""


def _predict(folder: Path, version: int) -> None:
    with CachedSegmenter(FakeSegmenter(), folder / "cache") as segmenter:
        segmenter.predict(make_image(), Prompt.point(5 + version % 40, 7 + version // 40 % 40))


def _read_cache(folder: Path) -> int | None:
    """Read the newest predictions back: right, from disk or computed. What was not stored is no loss."""
    with CachedSegmenter(FakeSegmenter(), folder / "cache") as segmenter:
        for number in range(1, 4):
            prompt = Prompt.point(5 + number, 7)
            expected = FakeSegmenter().predict(make_image(), prompt).masks
            np.testing.assert_array_equal(segmenter.predict(make_image(), prompt).masks, expected)
    return None


def _do_case(folder: Path, version: int) -> None:
    cases = make_cases(folder / "in", 8, side=64)
    store, config = CohortStore(folder / "out"), CohortConfig(**QUICK).resolve(1)
    store.prepare()
    token = config.model_token()
    tasks = plan_tasks(cases, store, config, token).tasks
    if not tasks:
        shutil.rmtree(folder / "out" / "records")
        return
    worker = CaseWorker(store, config, token)
    try:
        assert worker.do(tasks[version % len(tasks)]).ok
    finally:
        worker.close()


def _read_cohort(folder: Path) -> int | None:
    """Read every record and what it refers to."""
    store = CohortStore(folder / "out")
    for case_id in store.recorded_ids():
        record = store.read_record(case_id)
        assert record is not None
        assert record.is_done
        assert store.mask_path(case_id).exists()
    return None


ALL_WRITERS: dict[str, Writer] = {
    **{name: writer for name, writer in WRITERS.items() if name != "definitions"},
    "cache": Writer(write=_predict, read=_read_cache),
    "cohort": Writer(write=_do_case, read=_read_cohort),
}


def write_forever(writer: Writer, folder: Path, first: int, pipe: int) -> NoReturn:
    """Write versions until killed; report each that was confirmed."""
    try:
        warnings.simplefilter("ignore")
        for version in itertools.count(first):
            writer.write(folder, version)
            os.write(pipe, struct.pack("<q", version))
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
    os._exit(1)


def kill_once(writer: Writer, folder: Path, first: int, rng: random.Random) -> tuple[int, str | None]:
    """Let a process write, kill it, and read; return the last version confirmed, and what is wrong."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        write_forever(writer, folder, first, writing)
    os.close(writing)
    reports = os.read(reading, 8)  # it has begun
    time.sleep(rng.expovariate(1 / LONGEST_S))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    while more := os.read(reading, 1 << 16):
        reports += more
    os.close(reading)
    if not os.WIFSIGNALED(status):
        return first, "the writer stopped by itself"
    confirmed = struct.unpack("<q", reports[-8:])[0]
    try:
        found = writer.read(folder)
    except Exception as error:
        return confirmed, f"{type(error).__name__}: {error}"
    if found is not None and not confirmed <= found <= confirmed + 1:
        return confirmed, f"version {confirmed} was confirmed, {found} is there"
    return max(confirmed, found or 0), None


def stop_once(writer: Writer, folder: Path, change: int | None) -> tuple[bool, str | None]:
    """Write the version after the one that is there, on a disk that stops at a change.

    Return whether it did, and what is wrong: the version before has to be there, or this one.
    """
    before = writer.read(folder)
    version = (before or 0) + 1
    with failing(StoppingDisk(folder, change)) as disk, suppress(Stopped):
        writer.write(folder, version)
    found = writer.read(folder)
    allowed = {before, version} if disk.has_stopped else {version}
    wrong = None if found in allowed else f"{before} was there, {version} was written, {found} is there"
    return disk.has_stopped, wrong


def stop_at_pairs(writer: Writer, scratch: Path) -> Iterator[str | None]:
    """Stop at every pair of changes in turn, from no files and from one version; yield what is wrong."""
    for has_old in (False, True):
        for first in itertools.count():
            has_stopped = False
            for second in itertools.count():
                folder = scratch / "pairs"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                if has_old:
                    writer.write(folder, 1)
                has_stopped, wrong = stop_once(writer, folder, first)
                if has_stopped or wrong is not None:
                    yield wrong
                stops_again, wrong = stop_once(writer, folder, second)
                if stops_again or wrong is not None:
                    yield wrong
                _, wrong = stop_once(writer, folder, None)
                if wrong is not None:
                    yield f"after two stops: {wrong}"
                if not stops_again or not has_stopped:
                    break
            if not has_stopped:
                break


def stop_at_random(writer: Writer, scratch: Path, rng: random.Random) -> Iterator[str | None]:
    """Stop at changes drawn at random, on files that stay for a while; yield what is wrong, without end."""
    folder = scratch / "walk"
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for _ in range(LONGEST_WALK):
            has_stopped, wrong = stop_once(writer, folder, rng.randrange(MOST_CHANGES))
            if has_stopped or wrong is not None:
                yield wrong


def stop_in_shares(names: list[str], stops: int, seconds: float, seed: int) -> int:
    """Stop writers until count or time is reached; return how many stops were with a loss."""
    until = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    lost: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        runs = {name: stop_at_pairs(WRITERS[name], Path(scratch)) for name in names}
        walks = {
            name: stop_at_random(WRITERS[name], Path(scratch), random.Random(f"{name} {seed}"))
            for name in names
        }
        while sum(counts.values()) < stops and time.monotonic() < until:
            for name in names:
                turn_ends = time.process_time() + STOPS_TURN_S
                while time.process_time() < turn_ends and sum(counts.values()) < stops:
                    try:
                        wrong = next(runs[name])
                    except StopIteration:
                        pairs[name] = counts[name]
                        runs[name] = walks[name]
                        continue
                    except Exception as error:  # what cannot be read is a loss; a generator has ended with it
                        wrong = f"{type(error).__name__}: {error}"
                        runs[name] = stop_at_random(WRITERS[name], Path(scratch), random.Random(counts[name]))
                    counts[name] += 1
                    if wrong is not None:
                        lost.append(f"{name}, stop {counts[name]}: {wrong}")
    for name, count in counts.items():
        done = f"all pairs ({pairs[name]})" if name in pairs else "pairs not finished"
        print(f"{name:<20}{count:>9} simulated stops, {done}")
    print(f"{'together':<20}{sum(counts.values()):>9} simulated stops, {len(lost)} with a loss")
    print("\n".join(lost[:20]))
    return len(lost)


def main() -> int:
    """Kill; 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="together (default 1000)")
    parser.add_argument("--writers", nargs="+", choices=ALL_WRITERS, default=list(ALL_WRITERS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stops", type=int, help="simulate so many stops of the machine instead")
    parser.add_argument("--seconds", type=float, default=2000, help="of simulating, at most (default 2000)")
    given = parser.parse_args()
    if given.stops:
        names = [name for name in given.writers if name in WRITERS and name != "definitions"]
        return 1 if stop_in_shares(names, given.stops, given.seconds, given.seed) else 0
    rng = random.Random(given.seed)
    kills: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    lost: list[str] = []
    clear: Callable[[Path], None] = shutil.rmtree
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(given.kills):
            name = given.writers[number % len(given.writers)]
            folder = Path(scratch) / name
            if kills[name] % 25 == 0 and folder.exists():  # folders do not grow without end
                clear(folder)
                versions[name] = 0
            folder.mkdir(exist_ok=True)
            last, wrong = kill_once(ALL_WRITERS[name], folder, versions[name] + 1, rng)
            kills[name] += 1
            versions[name] = last
            if wrong is not None:
                lost.append(f"{name}, kill {kills[name]}: {wrong}")
    for name, count in kills.items():
        print(f"{name:<20}{count:>6} kills")
    print(f"{'together':<20}{sum(kills.values()):>6} kills, {len(lost)} with a loss")
    print("\n".join(lost[:20]))
    return 1 if lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
