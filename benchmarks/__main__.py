"""Run all benchmarks and hold their ratios against the last stored ones: ``python -m benchmarks``.

Ends with an error if a ratio is much worse than the stored one. ``--store`` keeps
what was measured in its place: do so when the change was meant.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.reporting import Ratio, describe_machine

STORED = Path(__file__).with_name("ratios.json")
TOLERANCE = 1.4
"""So many times worse than stored is a regression; ratios on a shared machine vary by a quarter."""

RUNS: Mapping[str, Sequence[str]] = {
    "models": (),
    "cohort": ("--only", "overhead"),
    "service": ("--requests", "2000"),
    "editor": (),
}
"""Benchmarks and their options here: the longest parts are left to a call of their own."""


def compare(
    measured: Mapping[str, Ratio], stored: Mapping[str, Ratio], tolerance: float
) -> tuple[list[str], list[str]]:
    """Hold ratios against stored ones.

    Returns
    -------
    lines : list of str
        A line for each that was measured.
    regressions : list of str
        Names of those that are worse by more than the tolerance.
    """
    lines, regressions = [], []
    for name, ratio in measured.items():
        before = stored.get(name)
        if before is None:
            lines.append(f"{name}: {ratio.value:.3g} (nothing stored)")
            continue
        worse = ratio.worse_than(before)
        verdict = "as before"
        if worse > tolerance:
            verdict = f"{worse:.2f} times WORSE"
            regressions.append(name)
        elif worse < 1 / tolerance:
            verdict = f"{1 / worse:.2f} times better"
        lines.append(f"{name}: {ratio.value:.3g}, stored {before.value:.3g}: {verdict}")
    return lines, regressions


def read_ratios(path: Path) -> dict[str, Ratio]:
    """Read the ratios of a report or of the stored file; none where there is no file."""
    if not path.is_file():
        return {}
    return {
        name: Ratio(**one) for name, one in json.loads(path.read_text(encoding="utf-8"))["ratios"].items()
    }


def main() -> int:
    """Run, compare, perhaps store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=list(RUNS), nargs="*", default=list(RUNS))
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="where reports go")
    parser.add_argument(
        "--store", action="store_true", help="keep the ratios measured, in benchmarks/ratios.json"
    )
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    arguments = parser.parse_args()
    measured: dict[str, Ratio] = {}
    for name in arguments.only:
        path = arguments.folder / f"{name}.json"
        print(f"\n{name}", flush=True)
        subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *RUNS[name], "--json", str(path)], check=True
        )
        measured |= read_ratios(path)
    stored = read_ratios(STORED)
    lines, regressions = compare(measured, stored, arguments.tolerance)
    print("\n" + "\n".join(lines))
    if arguments.store:
        kept = {name: vars(ratio) for name, ratio in {**stored, **measured}.items()}
        content = {"machine": describe_machine(), "ratios": kept}
        STORED.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return 0
    for name in regressions:
        print(f"Worse than stored: {name}", file=sys.stderr)
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main())
