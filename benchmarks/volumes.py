"""Ranges of levels of drawn abdomens with the embedded model: ``python -m benchmarks.volumes``.

Of each abdomen, L1 to L5: Dice and volume of psoas and muscle against the drawing, corrections until every
volume has a Dice of 0.92 and an error of 5 % (the worst slice is replaced by the drawing each time),
seconds of a correction that has ten slices segmented again, and processor time, also that of the button on
each slice (``--looped``). Writes a JSON file with ``--json``,
after each abdomen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting import describe_machine
from ctai_sam2.measure.overlap import dice
from ctai_sam2.models import LocalSegmenter, Segmenter
from ctai_sam2.phantom import STRESSORS, make_volume, masks_from_labels, random_parameters
from ctai_sam2.segmentation import (
    VolumeAnchor,
    VolumeResult,
    correct_volume,
    segment_axial,
    segment_volume,
)
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTVolume

NAMES: tuple[Structure, ...] = ("psoas_left", "psoas_right", "muscle")
KINDS: Mapping[str, Mapping[str, float]] = {"plain": {}, **STRESSORS}
DICE, ERROR_PERCENT, MOST_CORRECTIONS = 0.92, 5.0, 8
LEVELS = ("L1", "L5")

Masks = Mapping[Structure, NDArray[np.bool_]]


def draw(changes: Mapping[str, float], seed: int) -> tuple[CTVolume, Masks, tuple[int, int]]:
    """Draw an abdomen: volume, exact masks within the limits of HU, first and last slice of L1 to L5."""
    parameters = replace(random_parameters(np.random.default_rng(seed)), **changes)  # type: ignore[arg-type]
    phantom = make_volume(
        parameters,
        shape_zyx=(76, 288, 288),
        spacing_zyx_mm=(3.0, 1.5, 1.5),
        rng=np.random.default_rng(seed),
    )
    volume = CTVolume(hu_zyx=phantom.hu_zyx, affine=phantom.affine)
    is_muscle = (phantom.hu_zyx >= -29) & (phantom.hu_zyx <= 150)
    drawn = masks_from_labels(phantom.labels_zyx)
    half = parameters.vertebra_height_mm / 2
    z_mm = phantom.affine[2, 3] + 3.0 * np.arange(phantom.hu_zyx.shape[0])
    low, high = phantom.levels_mm[LEVELS[1]] - half, phantom.levels_mm[LEVELS[0]] + half
    inside = np.flatnonzero((z_mm >= low) & (z_mm <= high))
    return volume, {name: drawn[name] & is_muscle for name in NAMES}, (int(inside[0]), int(inside[-1]))


def judge(result: VolumeResult, truth: Masks) -> dict[str, dict[str, float]]:
    """Score each structure over the range."""
    rows = {}
    for name in NAMES:
        at = list(result.indices)
        hu = result.volume.hu_zyx[at]
        # What counts for areas and volumes, as in the drawing.
        found, true = result.masks[name][at] & (hu >= -29) & (hu <= 150), truth[name][at]
        gates = [one.gate for one in result.structure_slices[name].values()]
        rows[name] = {
            "dice": dice(found.reshape(len(found), -1), true.reshape(len(true), -1)),
            "error_percent": 100 * (float(found.sum()) / float(true.sum()) - 1),
            "amber": gates.count("amber"),
            "red": gates.count("red"),
        }
    return rows


def correct_until_good(
    result: VolumeResult, truth: Masks, segmenter: Segmenter, name: Structure
) -> tuple[int, float]:
    """Replace the worst slice by the drawing until the structure is good; corrections and seconds of each."""
    seconds = []
    for count in range(MOST_CORRECTIONS):
        score = judge(result, truth)[name]
        if score["dice"] >= DICE and abs(score["error_percent"]) <= ERROR_PERCENT:
            return count, float(np.mean(seconds)) if seconds else 0.0
        stack = result.masks[name]
        wrong = {i: int((stack[i] ^ truth[name][i]).sum()) for i in result.indices}
        worst = max(wrong, key=lambda index: wrong[index])
        anchor = VolumeAnchor(structure=name, axial_index=worst, mask=truth[name][worst])
        started = time.process_time()
        result = correct_volume(result, [anchor], segmenter)
        seconds.append(time.process_time() - started)
    return MOST_CORRECTIONS, float(np.mean(seconds))


def time_rerun(result: VolumeResult, truth: Masks, segmenter: Segmenter, name: Structure) -> dict[str, float]:
    """Time a correction with anchors five slices above and below it: ten slices are segmented again.

    Also in units of one embedding, which other machines can be compared by.
    """
    middle = result.indices[len(result.indices) // 2]
    anchors = [
        VolumeAnchor(structure=name, axial_index=middle + step, mask=truth[name][middle + step])
        for step in (-5, 0, 6)
    ]
    held = correct_volume(result, [anchors[0], anchors[2]], segmenter)
    started = time.perf_counter()
    correct_volume(held, [anchors[1]], segmenter)
    seconds = time.perf_counter() - started
    rng = np.random.default_rng()
    unseen = [rng.integers(0, 256, (512, 512), np.uint8) for _ in range(3)]
    started = time.perf_counter()
    for image in unseen:
        segmenter.embed(image)  # type: ignore[attr-defined]
    embedding = (time.perf_counter() - started) / len(unseen)
    return {"rerun_seconds": seconds, "rerun_embeddings": seconds / embedding}


def measure(changes: Mapping[str, float], seed: int, segmenter: Segmenter, *, looped: bool) -> dict[str, Any]:
    """Measure one abdomen."""
    volume, truth, indices = draw(changes, seed)
    started = time.process_time()
    result = segment_volume(volume, segmenter, structures=NAMES, indices=indices)
    row: dict[str, Any] = {"slices": len(result.indices), "seconds": time.process_time() - started}
    row["structures"] = judge(result, truth)
    for name, scores in row["structures"].items():
        scores |= time_rerun(result, truth, segmenter, name)
        count, seconds = correct_until_good(result, truth, segmenter, name)
        scores |= {"corrections": count, "per_30_slices": 30 * count / len(result.indices)}
        scores |= {"seconds_of_correction": seconds}
    if looped:
        # Another segmenter: this one has embedded a third of the slices already.
        with LocalSegmenter() as fresh:
            fresh.warm_up()
            started = time.process_time()
            for index in result.indices:
                segment_axial(volume.axial(index), fresh, structures=NAMES)
        row["looped_seconds"] = time.process_time() - started
        row["times_faster"] = row["looped_seconds"] / row["seconds"]
    return row


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, nargs="+", default=[21])
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--looped", action="store_true", help="also the button on each slice, of the first")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": describe_machine(), "abdomens": {}}
    with LocalSegmenter() as segmenter:
        segmenter.warm_up()
        for seed in options.seed:
            for kind in options.only:
                first = not report["abdomens"]
                row = measure(KINDS[kind], seed, segmenter, looped=options.looped and first)
                report["abdomens"][f"{kind}, {seed}"] = row
                print(f"{kind}, {seed}: {json.dumps(row)}", flush=True)
                if options.json is not None:
                    options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
