"""Run all benchmarks and hold their ratios against the last stored ones: ``python -m benchmarks``.

Ends with an error if a ratio is much worse than the stored one. ``--store`` keeps what was measured in its
place, also in the table of ``docs/benchmarks.md``: do so when the change was meant. A benchmark that fails is
named in the end; the others run. ``--only --store`` runs nothing and writes the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.reporting import Ratio, describe_machine

STORED = Path(__file__).with_name("ratios.json")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- ratios: written by `make bench STORE=--store` -->", "<!-- end of ratios -->"
TOLERANCE = 1.4
"""So many times worse than stored is a regression; ratios on a shared machine vary by a quarter."""

RUNS: Mapping[str, Sequence[str]] = {
    "models": (),
    "cohort": ("--only", "overhead"),
    "cohort_finished": ("--cases", "2000"),
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


def table_of(ratios: Mapping[str, Ratio]) -> str:
    """Write ratios as a table in Markdown."""
    lines = ["| ratio | stored | target |", "|---|---|---|"]
    for name, ratio in sorted(ratios.items()):
        value = f"{ratio.value:.2g}" if ratio.value < 1 else f"{ratio.value:.3g}"
        sign = "≤" if ratio.better == "lower" else "≥"
        target = "" if ratio.target is None else f"{sign} {ratio.target:g}"
        lines.append(f"| {name} | {f'**{value}**' if ratio.is_met else value} | {target} |")
    return "\n".join(lines)


def with_table(page: str, ratios: Mapping[str, Ratio]) -> str:
    """Return the page's text with its table of ratios made anew.

    Raises
    ------
    ValueError
        If the page has no place for it.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("the page has no place for the ratios")
    return f"{before}{BEGIN}\n\n{table_of(ratios)}\n\n{END}{after}"


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
    failed: list[str] = []
    for name in arguments.only:
        path = arguments.folder / f"{name}.json"
        print(f"\n{name}", flush=True)
        path.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *RUNS[name], "--json", str(path)]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
        measured |= read_ratios(path)
    stored = read_ratios(STORED)
    lines, regressions = compare(measured, stored, arguments.tolerance)
    print("\n" + "\n".join(lines))
    for name in failed:
        print(f"Failed: {name}", file=sys.stderr)
    if arguments.store:
        kept = {**stored, **measured}
        content = {
            "machine": describe_machine(),
            "ratios": {name: asdict(ratio) for name, ratio in kept.items()},
        }
        if measured:
            STORED.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")
        return 1 if failed else 0
    for name in regressions:
        print(f"Worse than stored: {name}", file=sys.stderr)
    return 1 if regressions or failed else 0


if __name__ == "__main__":
    sys.exit(main())
