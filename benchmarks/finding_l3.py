"""How often L3 is found, and whether its probability holds: ``python -m benchmarks.finding_l3``.

Kinds of sagittal plane: drawn spines that no training saw (whole, cut above the sacrum, thick rows, off the
middle, bent), slices and volumes of the three-dimensional phantom, and with ``--real`` real slices and
volumes.
``--run`` scores checkpoints instead of the network that ships: real patients by the run that held them out
(leave-one-patient-out), the rest by the first run. Writes docs/finding-l3.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.io import read_case_npz, read_nifti, read_study
from ctai_sam2.phantom import make_sagittal_slice, make_volume, random_parameters
from ctai_sam2.segmentation.levels.decode import DecodeParameters
from ctai_sam2.segmentation.levels.labels import L3
from ctai_sam2.segmentation.levels.network import LevelNetwork
from ctai_sam2.segmentation.levels.sagittal import LEVEL_THRESHOLD, read_slice_spine
from ctai_sam2.segmentation.levels.volume import read_spine
from ctai_sam2.training.levels.contrast import paint, typical_hu
from ctai_sam2.training.levels.drawn import draw_spine
from ctai_sam2.training.levels.real import patient_of
from ctai_sam2.training.levels.trainer import network_from
from ctai_sam2.types import CTSlice, CTVolume

_OUT = Path(__file__).parents[1] / "docs" / "finding-l3.json"
_BANDS = (0.0, 0.5, 0.7, 0.9, 1.01)
_RIGHT_MM = 15.0

# Kind of plane -> (least and greatest distance from the middle at L3 in mm, sacrum in view, row spacings).
_KINDS: dict[str, tuple[tuple[float, float], bool, tuple[float, ...]]] = {
    "near the middle, sacrum in view": ((0, 7), True, (1.0, 1.2, 2.0)),
    "thick rows, sacrum in view": ((0, 7), True, (3.0, 5.0)),
    "next to the middle, sacrum in view": ((9, 15), True, (1.0, 1.2, 2.0)),
    "sacrum cut off": ((0, 7), False, (1.0, 1.2, 2.0)),
}
# Volume -> axial index of mid-L3 and who must be held out; from the reference cases.
_VOLUMES = {
    "pcb001": ("pcb001", 44.4),
    "crlm_1006": ("crlm1006", 10.0),
    "ts_example_nifti": ("ts_example", 74.0),
}

Row = dict[str, Any]


def judge(chances: NDArray[np.float64], off_mm: NDArray[np.float64], seconds: float) -> Row:
    """Score one reading: probability and distance from the true middle of the likeliest body."""
    best = int(np.argmax(chances))
    return {
        "probability": float(chances[best]),
        "chosen": bool(chances[best] >= LEVEL_THRESHOLD),
        "right": bool(off_mm[best] < _RIGHT_MM),
        "off_mm": round(float(off_mm[best]), 2),
        "seconds": round(seconds, 3),
    }


def _read_slice(ct_slice: CTSlice, truth_xy: tuple[float, float], network: LevelNetwork | None) -> Row:
    started = time.process_time()
    try:
        spine = read_slice_spine(ct_slice, network=network)
    except AnatomyNotFound:
        return {"probability": 0.0, "chosen": False, "right": False, "off_mm": None, "seconds": 0.0}
    seconds = time.process_time() - started
    apart = (spine.centres_xy - np.array(truth_xy)) * np.array(ct_slice.spacing_mm[::-1])
    canal = [body.canal for body in spine.named.bodies]
    best = int(np.argmax(spine.named.l3_probability))
    row = judge(spine.named.l3_probability, np.hypot(*apart.T), seconds)
    return {**row, "canal": round(float(np.median(canal[max(best - 2, 0) : best + 3])), 3)}


def drawn_slices(kind: str, first: int, count: int) -> Iterator[tuple[str, CTSlice, tuple[float, float]]]:
    """Draw spines of one kind of plane, with the contrast of CT."""
    (low, high), sacrum, rows_mm = _KINDS[kind]
    made, seed = 0, first
    while made < count:
        rng = np.random.default_rng([seed, 99])
        spine = draw_spine(rng)
        seed += 1
        middles = {int(level): (float(x), float(y)) for x, y, level in spine.centres_xyl}
        if L3 not in middles or L3 + 1 not in middles or not low <= abs(spine.l3_offset_mm) <= high:
            continue
        made += 1
        x, y = middles[L3]
        hu = cv2.GaussianBlur(paint(spine.tissue, *typical_hu(rng), rng), (0, 0), 0.8)
        bottom = (
            round(y + rng.uniform(190, 240)) if sacrum else round(middles[L3 + 1][1] + rng.uniform(0, 40))
        )
        top = max(round(y - rng.uniform(110, 330)), 0)
        hu = hu[top : min(bottom, hu.shape[0])]
        row_mm = float(rng.choice(rows_mm))
        count_rows = max(round(hu.shape[0] / row_mm), 8)
        hu = cv2.resize(hu, (hu.shape[1], count_rows), interpolation=cv2.INTER_AREA)
        hu = hu + rng.normal(0, rng.uniform(5, 30), hu.shape)
        yield (
            f"{kind} {seed}",
            CTSlice(hu=hu, spacing_mm=(row_mm, 1.0), plane="sagittal"),
            (
                x,
                (y - top + 0.5) / row_mm - 0.5,
            ),
        )


def phantom_slices(first: int, count: int) -> Iterator[tuple[str, CTSlice, tuple[float, float]]]:
    """Cut sagittal slices of the three-dimensional phantom."""
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        phantom = make_sagittal_slice(
            random_parameters(rng),
            x_mm=float(rng.normal(0, 4)),
            shape_hw=(300, 300),
            spacing_mm=(1.4, 1.4),
            rng=rng,
        )
        rows, columns = np.nonzero(phantom.masks["L3"])
        if rows.size * 1.4**2 > 300:
            ct_slice = CTSlice(hu=phantom.hu, spacing_mm=(1.4, 1.4), plane="sagittal")
            yield f"phantom {seed}", ct_slice, (float(columns.mean()), float(rows.mean()))


def real_slices(folder: Path) -> Iterator[tuple[str, CTSlice, tuple[float, float]]]:
    """Read the sagittal cases of a folder that have L3 drawn."""
    for path in sorted((folder / "cases").glob("*sag*.npz")):
        case = read_case_npz(path)
        if "L3" in case.masks:
            rows, columns = np.nonzero(case.masks["L3"])
            yield path.stem, case.slice, (float(columns.mean()), float(rows.mean()))


def _read_volume(volume: CTVolume, true_index: float, network: LevelNetwork | None) -> Row:
    started = time.process_time()
    try:
        spine = read_spine(volume, network=network)
    except AnatomyNotFound:
        return {"probability": 0.0, "chosen": False, "right": False, "off_mm": None, "seconds": 0.0}
    off = np.abs(spine.extents_index.mean(axis=1) - true_index) * volume.spacing_zyx_mm[0]
    return judge(spine.named.l3_probability, off, time.process_time() - started)


def phantom_volumes(first: int, count: int, network: LevelNetwork | None) -> list[Row]:
    """Read phantom volumes of 5 mm slices."""
    rows = []
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        phantom = make_volume(
            random_parameters(rng), shape_zyx=(76, 168, 168), spacing_zyx_mm=(5.0, 2.6, 2.6), rng=rng
        )
        volume = CTVolume(hu_zyx=phantom.hu_zyx, affine=phantom.affine)
        rows.append(_read_volume(volume, (phantom.levels_mm["L3"] - phantom.affine[2, 3]) / 5.0, network))
    return rows


def summarise(rows: Sequence[Row]) -> Row:
    """Sum up: right, wrong and refused, distance, and how well the probability holds."""
    if not rows:
        return {"n": 0}
    bands = []
    for low, high in pairwise(_BANDS):
        inside = [row for row in rows if low <= row["probability"] < high]
        if inside:
            bands.append(
                {
                    "from": low,
                    "n": len(inside),
                    "stated": round(float(np.mean([row["probability"] for row in inside])), 3),
                    "right": round(float(np.mean([row["right"] for row in inside])), 3),
                }
            )
    right = [row for row in rows if row["right"]]
    return {
        "n": len(rows),
        "likeliest_right": round(len(right) / len(rows), 3),
        "chosen_right": round(sum(row["right"] and row["chosen"] for row in rows) / len(rows), 3),
        "chosen_wrong": round(sum(not row["right"] and row["chosen"] for row in rows) / len(rows), 3),
        "refused": round(sum(not row["chosen"] for row in rows) / len(rows), 3),
        "median_off_mm": round(float(np.median([row["off_mm"] for row in right])), 2) if right else None,
        "bands": bands,
        "median_cpu_s": round(float(np.median([row["seconds"] for row in rows])), 3),
    }


def _network(run: Path | None) -> LevelNetwork | None:
    return None if run is None else network_from(run / "checkpoint.pt")


def _run_for(patient: str, runs: Sequence[Path]) -> Path | None:
    """Return the run that held a patient out; one without real images holds everybody out."""
    for run in runs:
        facts = json.loads((run / "config.json").read_text(encoding="utf-8"))
        if not facts["real"] or any(word in patient for word in facts["held_out"]):
            return run
    return None


def measure_real(folder: Path, runs: Sequence[Path]) -> Row:
    """Read real slices and volumes, each by a network that did not see the patient where there is one."""
    slices, volumes = [], []
    for name, ct_slice, truth in real_slices(folder):
        run = _run_for(patient_of(name), runs)
        facts = {"case": name, "network": "shipped" if run is None else run.name}
        slices.append({**facts, **_read_slice(ct_slice, truth, _network(run))})
    for name, (patient, index) in _VOLUMES.items():
        path = folder / "series" / name
        nifti = path / "example_ct.nii.gz"
        volume = read_nifti(nifti) if nifti.is_file() else read_study(path)
        run = _run_for(patient, runs)
        facts = {"case": name, "network": "shipped" if run is None else run.name}
        volumes.append({**facts, **_read_volume(volume, index, _network(run))})
    return {"slices": summarise(slices), "volumes": summarise(volumes), "cases": [*slices, *volumes]}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, help="folder of real data with cases/ and series/")
    parser.add_argument("--run", type=Path, nargs="*", default=[], help="folders of training runs to score")
    parser.add_argument("--drawn", type=int, default=60, help="drawn slices of each kind")
    parser.add_argument("--phantoms", type=int, default=60)
    parser.add_argument("--volumes", type=int, default=16)
    parser.add_argument("--first-seed", type=int, default=900_000)
    parser.add_argument("--out", type=Path, default=_OUT)
    arguments = parser.parse_args()
    report: Row = {"temper": DecodeParameters().temper}
    if arguments.real is not None:
        report["real"] = measure_real(arguments.real, arguments.run)
    network = _network(arguments.run[0] if arguments.run else None)
    groups = {kind: drawn_slices(kind, arguments.first_seed, arguments.drawn) for kind in _KINDS}
    groups["phantom slices"] = phantom_slices(arguments.first_seed, arguments.phantoms)
    for name, samples in groups.items():
        report[name] = summarise([_read_slice(ct_slice, truth, network) for _, ct_slice, truth in samples])
    report["phantom volumes"] = summarise(phantom_volumes(arguments.first_seed, arguments.volumes, network))
    text = json.dumps(report, indent=1) + "\n"
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
