"""What the benchmarks share: timing, the machine's description, and one form of report.

Single times on a shared machine say little. What is compared over time are ratios of
two things measured in turn in one run; each says which way is better and, where there
is one, its target.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

Figures = Mapping[str, Mapping[str, float]]
"""Numbers by subject and name."""


@dataclass(frozen=True)
class Ratio:
    """Two things measured in one run.

    Parameters
    ----------
    value : float
        The one over the other.
    better : {"lower", "higher"}
        Which way is better.
    target : float, optional
        What it should reach.
    """

    value: float
    better: Literal["lower", "higher"]
    target: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target

    def worse_than(self, other: Ratio) -> float:
        """How many times worse this is than another of the same kind; below 1 where it is better."""
        return self.value / other.value if self.better == "lower" else other.value / self.value


def time_ms(action: Callable[[], object]) -> float:
    """Return the wall time of one call in ms."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def median_of_pairs(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of what was measured side by side."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def describe_machine() -> dict[str, Any]:
    """Say what was measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", type=Path, default=None, help="write the figures here as well")


def report(figures: Figures, ratios: Mapping[str, Ratio], to: Path | None) -> None:
    """Print figures and ratios as tables and write them as JSON where asked for."""
    machine = describe_machine()
    print("  ".join(f"{name}: {value}" for name, value in machine.items()))
    for subject, values in figures.items():
        for name, value in values.items():
            print(f"{subject:<40} {name:<28} {value:10.2f}")
    for name, ratio in ratios.items():
        target = "" if ratio.target is None else f"target {_SIGN[ratio.better]} {ratio.target:g}"
        verdict = {None: "", True: "met", False: "MISSED"}[ratio.is_met]
        print(f"{name:<69} {ratio.value:10.2f}  {target} {verdict}".rstrip())
    if to is not None:
        content = {
            "machine": machine,
            "figures": figures,
            "ratios": {name: asdict(ratio) for name, ratio in ratios.items()},
        }
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


_SIGN = {"lower": "≤", "higher": "≥"}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
