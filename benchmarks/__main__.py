"""Measure what users wait for, and print a table and a JSON file with the machine's description.

Single times on a shared machine say little; each comparison runs both sides in
turn, in one process, and reports the median of the pairwise ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor

from ctai_sam2.core.phantom import make_axial_slice, reference_parameters
from ctai_sam2.core.windowing import window_to_uint8
from ctai_sam2.segmenters.local import LocalSegmenter
from ctai_sam2.segmenters.sam2_model import build_sam2
from ctai_sam2.types import Prompt


def time_ms(action: Callable[[], object]) -> float:
    """Return the wall time of one call in ms."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def measure_import(runs: int) -> dict[str, float]:
    """Time the import of the package in fresh interpreters."""
    code = "import time; t = time.perf_counter(); import ctai_sam2; print((time.perf_counter() - t) * 1000)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(runs)
    ]
    return {"import_ms": statistics.median(times)}


def measure_local(segmenter: LocalSegmenter, images: list[np.ndarray], prompt: Prompt) -> dict[str, float]:
    """Time the first mask of unseen slices, and further clicks on a slice already embedded."""
    segmenter.predict(images[0], prompt)
    first = [time_ms(lambda image=image: segmenter.predict(image, prompt)) for image in images[1:]]
    click = [time_ms(lambda: segmenter.predict(images[-1], prompt)) for _ in range(10)]
    return {"first_mask_ms": statistics.median(first), "click_ms": statistics.median(click)}


def compare_with_upstream(weights: Path, images: list[np.ndarray], prompt: Prompt) -> dict[str, float]:
    """Run SAM2.1-tiny with the same random weights here and through upstream's predictor, in turn."""
    ours = LocalSegmenter(weights, config="sam2.1_hiera_tiny")
    model = build_sam2("sam2.1_hiera_tiny")
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    upstream = SAM2ImagePredictor(model.eval())

    def click_upstream() -> None:
        upstream.predict(point_coords=prompt.points_xy, point_labels=prompt.labels, multimask_output=True)

    def first_upstream(image: np.ndarray) -> None:
        upstream.set_image(np.repeat(image[..., None], 3, axis=2))
        click_upstream()

    ours.predict(images[0], prompt)
    first_upstream(images[0])
    first_ratios, click_ratios, first_ms, click_ms = [], [], [], []
    for image in images[1:]:
        here = time_ms(lambda image=image: ours.predict(image, prompt))
        there = time_ms(lambda image=image: first_upstream(image))
        first_ms.append(here)
        first_ratios.append(here / there)
        for _ in range(5):
            here, there = time_ms(lambda image=image: ours.predict(image, prompt)), time_ms(click_upstream)
            click_ms.append(here)
            click_ratios.append(here / there)
    return {
        "first_mask_ms": statistics.median(first_ms),
        "click_ms": statistics.median(click_ms),
        "first_mask_vs_upstream": statistics.median(first_ratios),
        "click_vs_upstream": statistics.median(click_ratios),
    }


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--slices", type=int, default=4, help="unseen slices per model (default 4)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here as well")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    images = [
        window_to_uint8(make_axial_slice(reference_parameters(), z_mm=float(z), rng=rng).hu)
        for z in np.linspace(-20, 20, arguments.slices + 1)
    ]
    prompt = Prompt.point(300, 270)
    figures: dict[str, dict[str, float]] = {"package": measure_import(runs=7)}
    with LocalSegmenter() as nano:
        figures["sam2-ct-nano"] = measure_local(nano, images, prompt)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "random.pt")
        torch.manual_seed(0)
        torch.save({"model": build_sam2("sam2.1_hiera_tiny").state_dict()}, weights)
        figures["sam2.1_hiera_tiny (random weights)"] = compare_with_upstream(weights, images, prompt)
    figures["process"] = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    print("  ".join(f"{name}: {value}" for name, value in machine.items()))
    for subject, values in figures.items():
        for name, value in values.items():
            print(f"{subject:<36} {name:<24} {value:10.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
