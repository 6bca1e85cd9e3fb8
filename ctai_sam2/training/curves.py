"""The curve of a run, from its log."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Final

from ctai_sam2.errors import InputError
from ctai_sam2.files.atomic import write_bytes

_DPI: Final = 110
_CURVES: Final = {
    "iou_single_0": ("single mask, first prompt", "#0072B2"),
    "iou_best_0": ("best of three, first prompt", "#E69F00"),
    "iou_single_1": ("single mask, after a correction", "#009E73"),
    "dense_dice": ("tissue classes per pixel (Dice)", "#999999"),
}
_SMOOTHED_OVER: Final = 5


def draw_curve(log: Path, target: Path) -> Path:
    """Draw what a run scored on its training batches, over the steps, as a PNG.

    Parameters
    ----------
    log : pathlib.Path
        ``log.jsonl`` of a run.
    target : pathlib.Path
        Ends in ``.png``.

    Raises
    ------
    InputError
        If the log cannot be read or holds no line.
    StorageError
        If the picture cannot be written.
    """
    from matplotlib.figure import Figure

    lines = read_log(log)
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for name, (text, colour) in _CURVES.items():
        points = [(line["step"], line[name]) for line in lines if name in line]
        if not points:
            continue
        values = [value for _, value in points]
        axes.plot(
            [step for step, _ in points],
            [_mean(values[max(i - _SMOOTHED_OVER + 1, 0) : i + 1]) for i in range(len(values))],
            color=colour,
            linewidth=1.4,
            label=text,
        )
    starts: dict[str, int] = {}
    for line in lines:
        starts.setdefault(line["phase"], line["step"])
    for phase, step in starts.items():
        axes.axvline(step, color="#cccccc", linewidth=0.8, zorder=0)
        axes.text(step, 1.01, f" {phase}", fontsize=7, color="#555555", va="bottom")
    axes.set(xlabel="step", ylabel="mean over training batches", ylim=(0, 1))
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return write_bytes(target, buffer.getvalue())


def read_log(log: Path) -> list[dict[str, Any]]:
    """Read a run's log; where a run was taken up again, the later line of a step counts."""
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
        by_step = {int(line["step"]): line for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("the log of a run cannot be read", received=log.name) from error
    if not by_step:
        raise InputError("the log of the run is empty", received=log.name)
    return [by_step[step] for step in sorted(by_step)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
