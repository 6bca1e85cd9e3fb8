"""What a finished cohort costs when it is called again: ``python -m benchmarks.cohort_finished``.

A few cases are done for real; the others share their files, each with slice, record, predictions and masks of
its own name. The runner finds them as it would find those of a run of hours. Measured are the call in which
nothing is to do, the table and report made anew from the records, and the first call after a lost index.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.cohort import SIDES, make_cohort
from benchmarks.reporting import Ratio, add_json_option, report
from ctai_sam2.cohort import Case, CohortRun, read_manifest, run_cohort, write_manifest, write_report
from ctai_sam2.cohort.config import CohortConfig
from ctai_sam2.cohort.plan import plan_tasks
from ctai_sam2.cohort.store import CohortStore, key_of

SEGMENTER = "tests.fakes:FakeSegmenter"
REAL = 24
"""Cases that are done for real: as many as there are anatomies."""


def call(manifest: Path | Sequence[Case], out: Path) -> CohortRun:
    """Run the cohort."""
    return run_cohort(
        manifest, out, workers=1, threads=1, segmenter=SEGMENTER, structures=SIDES, progress=False
    )


def make_finished(folder: Path, count: int) -> tuple[Path, Path]:
    """Make a finished cohort; returns its manifest and its folder, without table and index."""
    few, out = make_cohort(folder / "few", REAL, 96), folder / "out"
    if not (out / "records").is_dir():
        call(few, out)
        for name in ("table.csv", "table.parquet", "summary.json", "index.json"):
            (out / name).unlink(missing_ok=True)
    real, store = read_manifest(few), CohortStore(out)
    (folder / "all").mkdir(exist_ok=True)
    cases = []
    for number in range(count):
        path = folder / "all" / f"{number:06d}.npz"
        if not path.exists():
            os.link(real[number % REAL].path, path)
        cases.append(replace(real[number % REAL], case_id=f"C{number:06d}", path=path))
    manifest = write_manifest(folder / "all" / "cases.csv", cases)
    config = CohortConfig(segmenter=SEGMENTER, structures=SIDES, workers=1, threads=1).resolve(count)
    plan = plan_tasks(cases, store, config, config.model_token())
    stamps = {task.case.case_id: (task.stamp, task.key) for task in plan.tasks}
    texts = [store.record_path(f"C{number:06d}").read_text(encoding="utf-8") for number in range(REAL)]
    known = [store.read_record(f"C{number:06d}") for number in range(REAL)]
    for number, case in enumerate(cases):
        if case.case_id not in stamps:
            continue
        source = f"C{number % REAL:06d}"
        record = known[number % REAL]
        stamp, key = stamps[case.case_id]
        if record is None:
            raise RuntimeError("a case that was done has no record")
        text = texts[number % REAL].replace(source, case.case_id)
        text = text.replace(record.key, key).replace(record.stamp, stamp)
        for digest in (record.content_sha256, record.slice_sha256):
            # No two slices are alike.
            text = text.replace(str(digest), key_of([digest, number]))
        store.record_path(case.case_id).write_text(text, encoding="utf-8")
        for place in (CohortStore.predictions_path, CohortStore.mask_path, CohortStore.picture_path):
            target = place(store, case.case_id)
            if not target.exists():
                os.link(place(store, source), target)
    return manifest, out


def time_s(action: Callable[[], object]) -> float:
    """Return the wall time of one call in seconds."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure(folder: Path, count: int, rounds: int) -> dict[str, float]:
    """Call a finished cohort in all the ways that find nothing to do for the model."""
    manifest, out = make_finished(folder, count)
    table_s = time_s(lambda: call(manifest, out))
    again = [call(manifest, out) for _ in range(rounds)]
    if any(one.unchanged != count or one.failed for one in again):
        raise RuntimeError("cases were done that were done before, or failed")
    cases = read_manifest(manifest)
    planned = [call(cases, out).seconds for _ in range(rounds)]
    few = statistics.median(call(folder / "few" / "cases.csv", _copy(folder)).seconds for _ in range(rounds))
    (out / "index.json").unlink()
    return {
        "cases": count,
        "table_from_records_s": table_s,
        "called_again_s": statistics.median(one.seconds for one in again),
        "called_again_fastest_s": min(one.seconds for one in again),
        "called_again_with_a_list_of_cases_s": statistics.median(planned),
        "24_cases_called_again_s": few,
        "without_index_s": call(manifest, out).seconds,
        "report_s": time_s(lambda: write_report(out)),
    }


def _copy(folder: Path) -> Path:
    """Finish the few cases in a folder of their own."""
    out = folder / "few-out"
    call(folder / "few" / "cases.csv", out)
    return out


def main() -> None:
    """Measure, or profile."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort_finished", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="kept, and used again")
    parser.add_argument("--profile", action="store_true", help="where one more call spends its time")
    add_json_option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        figures = measure(folder, arguments.cases, arguments.rounds)
        if arguments.profile:
            for name in ("index.json", "table.csv"):
                profile = cProfile.Profile()
                profile.runcall(call, folder / "all" / "cases.csv", folder / "out")
                pstats.Stats(profile).sort_stats("tottime").print_stats(25)
                (folder / "out" / name).unlink()
    ratios = {
        "finished cohort: called again, to its table made from the records": Ratio(
            figures["called_again_s"] / figures["table_from_records_s"], "lower", 0.1
        )
    }
    report({"finished cohort": figures}, ratios, arguments.json)


if __name__ == "__main__":
    main()
