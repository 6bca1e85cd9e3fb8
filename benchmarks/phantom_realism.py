"""Measure phantoms and real slices alike: ``python -m benchmarks.phantom_realism --cases FOLDER``.

Writes docs/phantom-realism.json: plain numbers, no pixels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from ctai_sam2.io import read_case_npz
from ctai_sam2.phantom import make_axial_slice, random_parameters
from ctai_sam2.phantom.realism import measure_realism

_OUT = Path(__file__).parents[1] / "docs" / "phantom-realism.json"
# An image of 3 mm voxels shows neither noise nor edges as the scanner made them.
_LARGEST_SPACING_MM = 1.5


def measure_phantoms(count: int) -> list[dict[str, float]]:
    """Measure random phantoms at L3, seeds 0 to count - 1."""
    rows = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        image = make_axial_slice(random_parameters(rng), rng=rng)
        rows.append(measure_realism(image.hu, image.masks, image.spacing_mm).row())
    return rows


def measure_cases(folder: Path) -> dict[str, dict[str, float]]:
    """Measure the axial cases of a folder that have muscle drawn."""
    rows = {}
    for path in sorted(folder.glob("*axial*.npz")):
        case = read_case_npz(path)
        if "muscle" not in case.masks or max(case.slice.spacing_mm) > _LARGEST_SPACING_MM:
            continue
        rows[case.name] = measure_realism(case.slice.hu, case.masks, case.slice.spacing_mm).row()
    return rows


def main() -> None:
    """Measure, write, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True, help="folder of *.npz slices with masks")
    parser.add_argument("--phantoms", type=int, default=60)
    parser.add_argument("--out", type=Path, default=_OUT)
    arguments = parser.parse_args()
    real, phantoms = measure_cases(arguments.cases), measure_phantoms(arguments.phantoms)
    measures: dict[str, dict[str, float]] = {}
    for name in sorted({name for row in real.values() for name in row}):
        found = [row[name] for row in real.values() if name in row]
        drawn = [row[name] for row in phantoms if name in row]
        if not drawn:
            continue
        p5, p50, p95 = np.percentile(drawn, (5, 50, 95))
        numbers = (min(found), float(np.median(found)), max(found), p5, p50, p95)
        keys = ("real_min", "real_median", "real_max", "phantom_p5", "phantom_p50", "phantom_p95")
        measures[name] = {key: round(float(value), 2) for key, value in zip(keys, numbers, strict=True)}
        print(f"{name:28}" + "".join(f"{value:9.2f}" for value in numbers))
    content = {"real_slices": len(real), "phantoms": len(phantoms), "measures": measures}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
