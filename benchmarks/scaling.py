"""What a million studies take, from measured pieces: ``python -m benchmarks.scaling``.

A few studies of whole phantoms are done by the embedded model as a cohort does them; the finished cohort and
the Dask run are measured by commands of their own, and their figures are taken from their reports. What
follows from them is arithmetic, which stands here and is printed with its assumptions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.reporting import add_json_option, report
from ctai_sam2.cohort import Case, run_cohort
from ctai_sam2.cohort.config import CohortConfig
from ctai_sam2.cohort.plan import plan_tasks
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.worker import CaseWorker
from ctai_sam2.io.nifti import write_volume_nifti
from ctai_sam2.phantom import make_volume, random_parameters
from ctai_sam2.settings import Settings
from ctai_sam2.types import CTVolume

DAY_S = 86_400.0
FOLDERS = ("records", "answers", "masks", "pictures")


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What is assumed and not measured.

    Parameters
    ----------
    core_hour : float
        Price of one processor core for an hour.
    gpu_hour : float
        Price of one GPU for an hour, with the cores next to it.
    gb_month : float
        Price of a GB of storage for a month.
    utilisation : float
        Share of the paid time in which a core works.
    """

    core_hour: float = 0.04
    gpu_hour: float = 2.5
    gb_month: float = 0.02
    utilisation: float = 0.8


def measure_studies(folder: Path, count: int, slices: int, side: int) -> dict[str, float]:
    """Do a few whole studies one after the other; return seconds and bytes of one."""
    cases = []
    for number in range(count):
        path = folder / f"{number}.nii.gz"
        if not path.is_file():
            rng = np.random.default_rng(number)
            phantom = make_volume(
                random_parameters(rng),
                shape_zyx=(slices, side, side),
                spacing_zyx_mm=(250 / slices, 400 / side, 400 / side),
                rng=rng,
            )
            write_volume_nifti(path, CTVolume(hu_zyx=phantom.hu_zyx, affine=phantom.affine))
        cases.append(Case(case_id=f"S{number:03d}", path=path, height_m=1.7))
    out = folder / "out"
    config = CohortConfig(workers=1, threads=1, settings=Settings(num_threads=1), progress=False)
    token, store = config.model_token(), CohortStore(out)
    store.prepare()
    worker = CaseWorker(store, config, token)
    core_s = []
    for task in plan_tasks(cases, store, config, token).tasks:
        started = time.process_time()
        if not worker.do(task).ok:
            raise RuntimeError("a study was not done")
        core_s.append(time.process_time() - started)
    worker.close()
    run_cohort(cases, out, config=config)
    # The first study loads the model, and another process may have done some in an earlier call.
    core_s = core_s[1:] or core_s
    records = [record for case in cases if (record := store.read_record(case.case_id)) is not None]
    seconds = {
        f"{name}_wall_s": statistics.median(record.seconds.get(name, 0.0) for record in records)
        for name in ("read", "segment", "write")
    }
    files = {name: list((out / name).iterdir()) for name in FOLDERS}
    sizes = {
        f"{name}_kb": sum(path.stat().st_size for path in found) / count / 1000
        for name, found in files.items()
    }
    table = sum((out / name).stat().st_size for name in ("table.csv", "summary.json")) / count / 1000
    study_mb = statistics.mean(case.path.stat().st_size for case in cases) / 1e6
    return {
        "studies": count,
        **seconds,
        "core_s": statistics.median(core_s),
        "files": sum(map(len, files.values())) / count,
        **sizes,
        "table_kb": table,
        "result_kb": sum(sizes.values()) + table,
        "study_mb": study_mb,
    }


def scale(
    study: dict[str, float], finished: dict[str, float], dask: dict[str, float], count: float, prices: Prices
) -> dict[str, float]:
    """Multiply measured pieces out to so many studies.

    Parameters
    ----------
    study : dict
        Of `measure_studies`.
    finished : dict
        Figures of ``benchmarks.cohort_finished``; empty where it was not run.
    dask : dict
        Figures of ``benchmarks.cohort_dask``; empty where it was not run.
    count : float
        Studies.
    prices : Prices
        What is assumed.
    """
    core_hours = count * study["core_s"] / 3600 / prices.utilisation
    figures = {
        "core_hours": core_hours,
        "days_on_100_cores": core_hours / 100 / 24,
        "cpu_cost": core_hours * prices.core_hour,
        "cpu_cost_per_1000_studies": 1000 * core_hours * prices.core_hour / count,
        "results_gb": count * study["result_kb"] / 1e6,
        "results_cost_per_month": count * study["result_kb"] / 1e6 * prices.gb_month,
        "million_files": count * study["files"] / 1e6,
        "gpu_breaks_even_at_s": study["core_s"] * prices.core_hour / prices.gpu_hour,
    }
    if finished:
        each = 1 / finished["cases"]
        figures |= {
            "called_again_s": finished["called_again_s"] * each * count,
            "planned_s": finished["called_again_with_a_list_of_cases_s"] * each * count,
            "table_s": finished["table_from_records_s"] * each * count,
        }
    if dask:
        figures["scheduler_busy_h"] = count * dask["scheduler_ms_per_case"] / 3.6e6
        figures["workers_that_fill_a_scheduler"] = 1000 * study["core_s"] / dask["scheduler_ms_per_case"]
    return figures


def _read_figures(path: Path | None) -> dict[str, float]:
    if path is None:
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return dict(next(iter(content["figures"].values())))


def main() -> None:
    """Measure and multiply."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--studies", type=int, default=5, help="done for real (default 5)")
    parser.add_argument("--slices", type=int, default=50, help="of each (default 50)")
    parser.add_argument("--side", type=int, default=512, help="pixels of a slice's side (default 512)")
    parser.add_argument("--count", type=float, default=1e6, help="studies in the end (default a million)")
    parser.add_argument("--finished", type=Path, default=None, help="report of benchmarks.cohort_finished")
    parser.add_argument("--dask", type=Path, default=None, help="report of benchmarks.cohort_dask")
    for name, price in vars(Prices()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=price)
    parser.add_argument("--folder", type=Path, default=None, help="kept, and gone on with")
    add_json_option(parser)
    arguments = parser.parse_args()
    prices = Prices(**{name: getattr(arguments, name) for name in vars(Prices())})
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        study = measure_studies(folder.resolve(), arguments.studies, arguments.slices, arguments.side)
    finished, dask = _read_figures(arguments.finished), _read_figures(arguments.dask)
    figures = {
        "assumed": dict(vars(prices)),
        "a study": study,
        f"{arguments.count:.0f} studies": scale(study, finished, dask, arguments.count, prices),
    }
    report(figures, {}, arguments.json)


if __name__ == "__main__":
    main()
