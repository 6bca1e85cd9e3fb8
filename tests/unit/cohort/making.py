"""Small cohorts for tests."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctai_sam2.cohort import Case, runner
from ctai_sam2.cohort.config import CaseTask
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.worker import CaseWorker
from ctai_sam2.phantom import PhantomSlice, make_axial_slice, random_parameters
from ctai_sam2.types import Prompt
from tests.fakes import FakeSegmenter

FAKE = "tests.fakes:FakeSegmenter"
QUICK: dict[str, Any] = {"workers": 1, "segmenter": FAKE, "structures": ("psoas_left",), "progress": False}
"""A run without a model, by prompts alone."""


def draw_slice(seed: int = 0, side: int = 96) -> PhantomSlice:
    """Draw an axial slice of a random phantom, 400 mm wide."""
    return make_axial_slice(
        random_parameters(np.random.default_rng(seed)),
        shape_hw=(side, side),
        spacing_mm=(400 / side, 400 / side),
        rng=np.random.default_rng(seed),
    )


def write_slice(path: Path, seed: int = 0, side: int = 96) -> Path:
    """Write such a slice as an npz file."""
    phantom = draw_slice(seed, side)
    np.savez(
        path,
        image=phantom.hu,
        spacing=np.array(phantom.spacing_mm),
        meta=json.dumps({"plane": "axial"}),
    )
    return path


def make_cases(folder: Path, count: int, side: int = 96) -> list[Case]:
    """Make slices with a prompt each, so that nothing but the segmenter is asked."""
    folder.mkdir(parents=True, exist_ok=True)
    prompt = Prompt.point(0.55 * side, 0.55 * side, structure="psoas_left")
    return [
        Case(
            case_id=f"P{number:03d}",
            path=write_slice(folder / f"{number}.npz", number, side),
            height_m=1.7,
            sex="F" if number % 2 else "M",
            prompts={"psoas_left": prompt},
        )
        for number in range(count)
    ]


in_processes = runner._dispatch_here
"""How a run has its cases done outside of tests."""


def do_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs do their cases in this process: starting others takes a hundred times as long as a case."""

    def dispatch(tasks: list[CaseTask], order: Any, workers: int, tally: Any) -> float:
        worker = CaseWorker(CohortStore(Path(order.folder)), order.config, order.model_token)
        try:
            for task in tasks:
                tally.take(worker.do(task))
                if tally.stopper is not None:
                    break
        finally:
            worker.close()
        return 0.0

    monkeypatch.setattr(runner, "_dispatch_here", dispatch)


class Naughty(FakeSegmenter):
    """Behaves by what is in the slice's first pixel: hangs, eats memory, dies, or has a bug."""

    def predict(self, image_hw: Any, prompt: Prompt, **more: Any) -> Any:
        wish = int(prompt.points_xy[0, 0] * 10) % 10
        if wish == 1:
            time.sleep(3600)
        elif wish == 2:
            hoard = np.ones(60_000_000)
            time.sleep(hoard[0] * 3600)
        elif wish == 3:
            os._exit(7)
        elif wish == 4:
            raise RuntimeError("patient Doe")
        return super().predict(image_hw, prompt, **more)
