"""How often L3 is found, and whether its probability holds: ``python -m benchmarks.finding_l3``.

Sagittal phantoms that the numbering was not fitted to, cut as scans are cut; phantom volumes; with
``--cases`` real sagittal slices with reference masks. Writes docs/finding-l3.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.io import read_case_npz
from ctai_sam2.models import open_segmenter
from ctai_sam2.phantom import make_volume, random_parameters
from ctai_sam2.segmentation import L3Result, find_l3, find_l3_in_volume, mid_l3_axial_index
from ctai_sam2.training.levels import make_cut_spine
from ctai_sam2.types import CTSlice, CTVolume, Mask

_OUT = Path(__file__).parents[1] / "docs" / "finding-l3.json"
_BANDS = (0.0, 0.5, 0.7, 0.9, 1.01)
_LEAST_SEEN_MM2 = 300.0


def phantom_slices(first: int, count: int) -> Iterator[tuple[str, CTSlice, dict[str, Mask]]]:
    """Make sagittal phantoms that show L3."""
    for seed in range(first, first + count):
        ct_slice, masks = make_cut_spine(seed)
        if masks["L3"].sum() * ct_slice.pixel_area_mm2 >= _LEAST_SEEN_MM2:
            yield f"phantom {seed}", ct_slice, masks


def real_slices(folder: Path) -> Iterator[tuple[str, CTSlice, dict[str, Mask]]]:
    """Read the sagittal cases of a folder that have L3 drawn."""
    for path in sorted(folder.glob("*sag*.npz")):
        case = read_case_npz(path)
        if "L3" in case.masks:
            yield case.name, case.slice, dict(case.masks)


def judge(result: L3Result, truth: Mask) -> dict[str, Any]:
    """Say what was told, and whether the likeliest body is the true one."""
    best = result.proposals[0] if result.proposals else result.chosen
    x, y = (0.0, 0.0) if best is None else result.candidates[best].centre_xy
    mask = None if result.l3 is None else result.l3.mask
    return {
        "probability": result.probability,
        "certainty": result.certainty,
        "chosen": result.chosen is not None,
        "right": best is not None and bool(truth[round(y), round(x)]),
        "dice": None
        if mask is None
        else round(2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum()), 3),
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up: how often something was chosen, how often it was right, and that by probability told."""
    chosen = [row for row in rows if row["chosen"]]
    bands = []
    for low, high in pairwise(_BANDS):
        inside = [row for row in rows if row["probability"] is not None and low <= row["probability"] < high]
        if inside:
            bands.append(
                {
                    "from": low,
                    "n": len(inside),
                    "told": round(float(np.mean([row["probability"] for row in inside])), 3),
                    "right": round(float(np.mean([row["right"] for row in inside])), 3),
                }
            )
    return {
        "n": len(rows),
        "likeliest_right": round(float(np.mean([row["right"] for row in rows])), 3),
        "chosen": len(chosen),
        "chosen_right": round(float(np.mean([row["right"] for row in chosen])), 3) if chosen else None,
        "bands": bands,
        "median_s": round(float(np.median([row["seconds"] for row in rows])), 2),
    }


def measure_volumes(segmenter: Any, first: int, count: int) -> dict[str, Any]:
    """Find mid-L3 in phantom volumes of 5 mm slices; errors in mm of the table."""
    rows = []
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        phantom = make_volume(
            random_parameters(rng), shape_zyx=(76, 168, 168), spacing_zyx_mm=(5.0, 2.6, 2.6), rng=rng
        )
        volume = CTVolume(hu_zyx=phantom.hu_zyx, affine=phantom.affine)
        started = time.perf_counter()
        try:
            found = find_l3_in_volume(volume, segmenter)
        except AnatomyNotFound:
            rows.append({"chosen": False, "right": False, "probability": None, "seconds": 0.0})
            continue
        seconds = time.perf_counter() - started
        best = found.candidates[found.proposals[0]] if found.proposals else None
        off_mm = None
        if best is not None and best.result is not None and best.result.mask.any():
            index = mid_l3_axial_index(volume, best.result.mask)
            at_mm = volume.affine[2, 3] + volume.slice_positions_mm[index]
            off_mm = abs(float(at_mm) - phantom.levels_mm["L3"])
        rows.append(
            {
                "chosen": found.chosen is not None,
                "right": off_mm is not None and off_mm < 15.0,
                "off_mm": off_mm,
                "probability": found.probability,
                "seconds": seconds,
            }
        )
    right = [row["off_mm"] for row in rows if row["right"]]
    return {**summarise(rows), "off_mm_where_right": round(float(np.mean(right)), 2) if right else None}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, help="folder of *.npz slices with masks")
    parser.add_argument("--phantoms", type=int, default=120)
    parser.add_argument("--volumes", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=9000)
    parser.add_argument("--out", type=Path, default=_OUT)
    arguments = parser.parse_args()
    report: dict[str, Any] = {}
    with open_segmenter("local") as segmenter:
        groups = {"phantoms": phantom_slices(arguments.first_seed, arguments.phantoms)}
        if arguments.cases is not None:
            groups["real"] = real_slices(arguments.cases)
        for name, samples in groups.items():
            rows = []
            for title, ct_slice, masks in samples:
                started = time.perf_counter()
                try:
                    row = judge(find_l3(ct_slice, segmenter), masks["L3"])
                except AnatomyNotFound:
                    row = {"probability": None, "certainty": "unknown", "chosen": False, "right": False}
                rows.append({"case": title, **row, "seconds": time.perf_counter() - started})
            report[name] = summarise(rows)
            if name == "real":
                report["real_cases"] = [
                    {key: row.get(key) for key in ("case", "probability", "certainty", "right", "dice")}
                    for row in rows
                ]
        if arguments.volumes:
            report["volumes"] = measure_volumes(segmenter, arguments.first_seed, arguments.volumes)
    text = json.dumps(report, indent=1) + "\n"
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
