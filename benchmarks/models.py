"""Measure the models: ``python -m benchmarks.models``.

SAM 2.1 tiny through this library against upstream's own predictor, with the same
random weights and images, in turn; the embedded model; the cache; the import.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor

from benchmarks.reporting import Ratio, add_json_option, median_of_pairs, report, time_ms
from ctai_sam2.image.masks import mask_to_box_xyxy
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.models import CachedSegmenter
from ctai_sam2.models.engine import is_installed
from ctai_sam2.models.local import LocalSegmenter
from ctai_sam2.models.sam2_network import build_sam2
from ctai_sam2.phantom import make_axial_slice, random_parameters, reference_parameters
from ctai_sam2.segmentation import AxialSession
from ctai_sam2.types import CTSlice, Prompt

TINY = "sam2.1_hiera_tiny"
OPENVINO = "float32, OpenVINO"
CLICKS = 5
STRUCTURES = ("psoas_left", "psoas_right", "muscle", "vertebra")


def measure_import(runs: int) -> dict[str, float]:
    """Time the import of the package and of NumPy alone, in fresh interpreters in turn."""

    def import_ms(name: str) -> float:
        code = f"import time; t = time.perf_counter(); import {name}; print((time.perf_counter() - t) * 1000)"
        return float(
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        )

    pairs = [(import_ms("ctai_sam2"), import_ms("numpy")) for _ in range(runs)]
    ours, numpys = zip(*pairs, strict=True)
    return {
        "import_ms": statistics.median(ours),
        "import_numpy_ms": statistics.median(numpys),
        "import_vs_numpy": median_of_pairs(ours, numpys),
    }


def measure_embedded(images: list[np.ndarray], prompt: Prompt, folder: Path) -> dict[str, float]:
    """Time first masks, further clicks, and cached predictions, of the embedded model."""
    with LocalSegmenter() as nano:
        cached = CachedSegmenter(nano, folder)
        nano.predict(images[0], prompt)
        first, click, known = [], [], []
        for number, image in enumerate(images[1:]):
            first.append(time_ms(lambda image=image: nano.predict(image, prompt)))
            for place in range(CLICKS):
                elsewhere = Prompt.point(290 + 3 * place, 260 + number)
                click.append(time_ms(lambda image=image, at=elsewhere: nano.predict(image, at)))
                cached.predict(image, elsewhere)
                known.append(time_ms(lambda image=image, at=elsewhere: cached.predict(image, at)))
    return {
        "first_mask_ms": statistics.median(first),
        "click_ms": statistics.median(click),
        "known_click_ms": statistics.median(known),
        "click_vs_first_mask": statistics.median(click) / statistics.median(first),
        "known_click_vs_click": median_of_pairs(known, click),
    }


def measure_busy(image: np.ndarray, prompt: Prompt) -> dict[str, float]:
    """Time a click next to nothing and next to a process that takes a processor, in turn."""
    quiet, busy = [], []
    neighbour = [sys.executable, "-c", "while True: pass"]
    with LocalSegmenter(device="cpu") as nano:
        nano.predict(image, prompt)
        for _ in range(4):
            quiet += [time_ms(lambda: nano.predict(image, prompt)) for _ in range(CLICKS)]
            with subprocess.Popen(neighbour) as process:
                busy += [time_ms(lambda: nano.predict(image, prompt)) for _ in range(CLICKS)]
                process.kill()
    return {
        "click_quiet_ms": statistics.median(quiet),
        "click_busy_ms": statistics.median(busy),
        "click_busy_vs_quiet": statistics.median(busy) / statistics.median(quiet),
    }


def compare_engines(images: list[np.ndarray], prompt: Prompt) -> dict[str, float]:
    """Time the embedded model with OpenVINO and with PyTorch, in turn."""
    with (
        LocalSegmenter(device="cpu") as plain,
        LocalSegmenter(device="cpu", engine="openvino") as fast,
    ):
        if fast.engine.refusal is not None:
            raise SystemExit(f"OpenVINO was refused: {fast.engine.refusal}")
        pair = (fast, plain)
        first: tuple[list[float], list[float]] = ([], [])
        click: tuple[list[float], list[float]] = ([], [])
        for number, image in enumerate(images):
            # The first slice is a warm-up.
            for one, times in zip(pair, first, strict=True):
                took = time_ms(lambda one=one, image=image: one.predict(image, prompt))
                times += [took] * (number > 0)
            for place in range(CLICKS):
                at = Prompt.point(290 + 3 * place, 260 + number)
                for one, times in zip(pair, click, strict=True):
                    times.append(time_ms(lambda one=one, image=image, at=at: one.predict(image, at)))
        return {
            "click_ms": statistics.median(click[0]),
            "first_mask_vs_torch": median_of_pairs(*first),
            "click_vs_torch": median_of_pairs(*click),
            "least_iou_with_torch": fast.engine.least_iou or 0.0,
        }


def compare_with_upstream(
    weights: Path, images: list[np.ndarray], prompt: Prompt
) -> dict[str, dict[str, float]]:
    """Run SAM 2.1 tiny with the same random weights here, in several ways, and through upstream's."""
    model = build_sam2(TINY)
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    upstream = SAM2ImagePredictor(model.eval())

    def click_upstream() -> np.ndarray:
        masks, scores, _ = upstream.predict(
            point_coords=prompt.points_xy, point_labels=prompt.labels, multimask_output=True
        )
        ordered: np.ndarray = masks[np.argsort(-scores, kind="stable")].astype(bool)
        return ordered

    def first_upstream(image: np.ndarray) -> None:
        upstream.set_image(np.repeat(image[..., None], 3, axis=2))
        click_upstream()

    with ExitStack() as stack:
        ours = {
            name: stack.enter_context(LocalSegmenter(weights, config=TINY, device="cpu", **options))
            for name, options in {
                "float32": {"dtype": "float32"},
                "bfloat16": {"dtype": "bfloat16"},
                "float32 at 512": {"dtype": "float32", "image_size": 512},
                **({OPENVINO: {"dtype": "float32", "engine": "openvino"}} if is_installed() else {}),
            }.items()
        }
        for segmenter in ours.values():
            segmenter.predict(images[0], prompt)
        first_upstream(images[0])
        first: dict[str, list[float]] = {name: [] for name in (*ours, "upstream")}
        click: dict[str, list[float]] = {name: [] for name in (*ours, "upstream")}
        different = 0
        overlaps = []
        for image in images[1:]:
            first["upstream"].append(time_ms(lambda image=image: first_upstream(image)))
            for name, segmenter in ours.items():
                first[name].append(time_ms(lambda one=segmenter, image=image: one.predict(image, prompt)))
            for _ in range(CLICKS):
                click["upstream"].append(time_ms(click_upstream))
                for name, segmenter in ours.items():
                    click[name].append(time_ms(lambda one=segmenter, image=image: one.predict(image, prompt)))
            theirs = click_upstream()
            different += int((ours["float32"].predict(image, prompt).masks != theirs).sum())
            if OPENVINO in ours:
                found = ours[OPENVINO].predict(image, prompt).masks
                overlaps += [
                    (a & b).sum() / max((a | b).sum(), 1) for a, b in zip(found, theirs, strict=True)
                ]
        figures = {
            f"{TINY}, {name}": {
                "first_mask_ms": statistics.median(first[name]),
                "click_ms": statistics.median(click[name]),
                "first_mask_vs_upstream": median_of_pairs(first[name], first["upstream"]),
                "click_vs_upstream": median_of_pairs(click[name], click["upstream"]),
            }
            for name in ours
        }
        figures[f"{TINY}, float32"]["pixels_unlike_upstream"] = float(different)
        if overlaps:
            figures[f"{TINY}, {OPENVINO}"]["least_iou_with_upstream"] = float(min(overlaps))
        figures[f"{TINY}, bfloat16"]["embedding_error_percent"] = 100 * max(
            relative_error(ours["bfloat16"], ours["float32"], image) for image in images
        )
    return figures


def relative_error(of: LocalSegmenter, to: LocalSegmenter, image: np.ndarray) -> float:
    """Return how far one segmenter's embedding of an image is from another's, relative to its size."""
    a, b = (one._require_loaded().network.encode(image).top for one in (of, to))
    return float((a - b).norm() / b.norm())


def compare_precisions(cases: int) -> dict[str, float]:
    """Run the embedded model in both precisions on random phantoms: by the button, a click and a box."""
    overlaps = []
    with LocalSegmenter(device="cpu") as exact, LocalSegmenter(device="cpu", dtype="bfloat16") as short:
        for seed in range(cases):
            rng = np.random.default_rng(seed)
            phantom = make_axial_slice(random_parameters(rng), rng=rng)
            source = CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm)
            sessions = [AxialSession.open(source, one) for one in (exact, short)]
            for structure in STRUCTURES:
                truth = phantom.masks[structure]
                box = mask_to_box_xyxy(truth)
                if box is None:
                    continue
                rows, columns = np.nonzero(truth)
                prompts: list[Prompt | None] = [
                    None,
                    Prompt.point(float(np.median(columns)), float(np.median(rows))),
                    Prompt(box_xyxy=(box[0] - 0.5, box[1] - 0.5, box[2] + 0.5, box[3] + 0.5)),
                ]
                for prompt in prompts:
                    masks = [one.segment(structure, prompt=prompt).mask for one in sessions]
                    overlaps.append(float((masks[0] & masks[1]).sum() / max((masks[0] | masks[1]).sum(), 1)))
    return {
        "masks": float(len(overlaps)),
        "iou_with_float32_median": statistics.median(overlaps),
        "iou_with_float32_min": min(overlaps),
        "share_of_masks_at_0.99": float(np.mean(np.array(overlaps) >= 0.99)),
    }


def ratios_of(figures: dict[str, dict[str, float]]) -> dict[str, Ratio]:
    """Pick what is compared from run to run."""
    ratios = {
        "import, to import of NumPy": Ratio(figures["package"]["import_vs_numpy"], "lower"),
        "embedded model: click, to first mask": Ratio(
            figures["sam2-ct-nano"]["click_vs_first_mask"], "lower"
        ),
        "embedded model: click next to a busy process, to quiet": Ratio(
            figures["sam2-ct-nano, busy neighbour"]["click_busy_vs_quiet"], "lower", 2.0
        ),
        "embedded model: click from the cache, to click": Ratio(
            figures["sam2-ct-nano"]["known_click_vs_click"], "lower"
        ),
    }
    targets: dict[str, tuple[float | None, float | None]] = {
        "float32": (None, 0.8),
        "bfloat16": (0.75, 0.8),
        "float32 at 512": (0.25, None),
        OPENVINO: (0.6, 0.5),
    }
    if "sam2-ct-nano, OpenVINO" in figures:
        measured = figures["sam2-ct-nano, OpenVINO"]
        ratios["embedded model: first mask with OpenVINO, to PyTorch's"] = Ratio(
            measured["first_mask_vs_torch"], "lower"
        )
        ratios["embedded model: click with OpenVINO, to PyTorch's"] = Ratio(
            measured["click_vs_torch"], "lower"
        )
    for name, (first, click) in targets.items():
        if f"{TINY}, {name}" not in figures:
            continue
        measured = figures[f"{TINY}, {name}"]
        ratios[f"{TINY}, {name}: first mask, to upstream's"] = Ratio(
            measured["first_mask_vs_upstream"], "lower", first
        )
        ratios[f"{TINY}, {name}: click, to upstream's"] = Ratio(measured["click_vs_upstream"], "lower", click)
    return ratios


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("--slices", type=int, default=6, help="unseen slices per model (default 6)")
    parser.add_argument("--phantoms", type=int, default=6, help="phantoms asked in both precisions")
    add_json_option(parser)
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    images = [
        window_to_uint8(make_axial_slice(reference_parameters(), z_mm=float(z), rng=rng).hu)
        for z in np.linspace(-20, 20, arguments.slices + 1)
    ]
    prompt = Prompt.point(300, 270)
    figures: dict[str, dict[str, float]] = {"package": measure_import(runs=7)}
    with tempfile.TemporaryDirectory() as folder:
        figures["sam2-ct-nano"] = measure_embedded(images, prompt, Path(folder, "cache"))
        figures["sam2-ct-nano, busy neighbour"] = measure_busy(images[0], prompt)
        if is_installed():
            figures["sam2-ct-nano, OpenVINO"] = compare_engines(images, prompt)
        figures["sam2-ct-nano, bfloat16"] = compare_precisions(arguments.phantoms)
        weights = Path(folder, "random.pt")
        torch.manual_seed(0)
        torch.save({"model": build_sam2(TINY).state_dict()}, weights)
        figures |= compare_with_upstream(weights, images, prompt)
    figures["process"] = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    report(figures, ratios_of(figures), arguments.json)


if __name__ == "__main__":
    main()
