"""How often the contrast phase of a phantom is recognised, and how well muscle groups are separated.

``python -m benchmarks.publication``: phantoms with random bodies; the phase is estimated with the true
vertebra and muscle, the groups come from the embedded model.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace

import numpy as np

from ctai_sam2 import CTSlice, open_segmenter, segment_axial
from ctai_sam2.measure.contrast import estimate_phase
from ctai_sam2.measure.overlap import dice
from ctai_sam2.phantom import PhantomSlice, make_axial_slice, random_parameters

PHASES = ("unenhanced", "arterial", "portal_venous")
GROUPS = {"quadratus": ("quadratus",), "paraspinal": ("erector",), "wall": ("wall", "rectus")}


def make_phantom(seed: int, side: int, step_mm: float, phase: str | None = None) -> PhantomSlice:
    rng = np.random.default_rng(seed)
    parameters = random_parameters(rng)
    if phase is not None:
        parameters = replace(parameters, phase=phase)
    return make_axial_slice(parameters, shape_hw=(side, side), spacing_mm=(step_mm, step_mm), rng=rng)


def measure_phases(count: int, seed: int) -> None:
    found: Counter[tuple[str, str | None]] = Counter()
    for number in range(count):
        phase = PHASES[number % 3]
        phantom = make_phantom(seed + number, 256, 1.6, phase)
        estimate = estimate_phase(
            phantom.hu, phantom.masks["L3"], phantom.masks["muscle"], phantom.spacing_mm
        )
        found[phase, None if estimate is None else estimate.phase] += 1
    for (true, seen), times in sorted(found.items(), key=str):
        print(f"phase {true}: seen as {seen} in {times}")


def measure_groups(count: int, seed: int) -> None:
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in GROUPS}
    with open_segmenter("local") as segmenter:
        for number in range(count):
            phantom = make_phantom(seed + number, 320, 1.3)
            ct_slice = CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm, plane="axial")
            groups = segment_axial(ct_slice, segmenter, structures=("muscle",)).muscle_groups
            within = (phantom.hu >= -29) & (phantom.hu <= 150)
            for name, parts in GROUPS.items():
                for side in ("left", "right"):
                    truth = np.any([phantom.masks[f"{part}_{side}"] for part in parts], axis=0) & within
                    mask = groups[f"{name}_{side}"] & within
                    scores[name].append((dice(mask, truth), 100 * (mask.sum() / truth.sum() - 1)))
    for name, values in scores.items():
        overlap, error = np.array(values).T
        low, middle, high = np.percentile(error, [25, 50, 75])
        print(
            f"{name}: n {len(values)}, median Dice {np.median(overlap):.3f}, worst {overlap.min():.3f}; "
            f"area {middle:+.1f} % ({low:+.1f} to {high:+.1f})"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phases", type=int, default=60, help="phantoms for the phase")
    parser.add_argument("--groups", type=int, default=10, help="phantoms for the muscle groups")
    options = parser.parse_args()
    measure_phases(options.phases, seed=5000)
    measure_groups(options.groups, seed=9000)
