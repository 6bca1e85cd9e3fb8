"""Write ``docs/data-dictionary.md`` from the code.

``python docs/building/data_dictionary.py > docs/data-dictionary.md``
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

from ctai_sam2.cohort.columns import COHORT_COLUMN_TABLE, TABLE_COLUMNS
from ctai_sam2.measure.columns import COLUMN_TABLE, Column
from ctai_sam2.measure.cutoffs import CUTOFF_TABLES
from ctai_sam2.measure.reference_values import REFERENCE_TABLES

_HEAD = """\
# Data dictionary

Every column of a table with its unit and meaning, the cut-offs and the reference values with their numbers
and sources. Written by `python docs/building/data_dictionary.py`; a cohort has the columns as
`data_dictionary.csv`. How the numbers come about: [measurements](measurements.md). Research use.
"""


def render() -> str:
    """Write the page."""
    described = {column.name: column for column in (*COLUMN_TABLE, *COHORT_COLUMN_TABLE)}
    return "\n".join(
        (
            _HEAD,
            "## A single measurement\n",
            "In the order of `measurements.csv`; the names of the system that this toolkit follows first.\n",
            *_table(COLUMN_TABLE),
            "",
            "## A cohort\n",
            "In the order of `table.csv`: SMA, SMI and SMD first.\n",
            *_table(described[name] for name in TABLE_COLUMNS),
            "",
            "## Cut-offs\n",
            "A value below is low. For `--cut-offs`, the manifest's `cut_offs` and `flag_low`.\n",
            _cutoffs(),
            "",
            "## Reference values\n",
            "For `--reference`. Values are compared at the level, sexes and ages of a table; a",
            "percentile is that of a normal distribution with the group's mean and SD.\n",
            _reference_values(),
        )
    )


def _table(columns: Iterable[Column]) -> Iterable[str]:
    yield "| column | unit | meaning |"
    yield "|---|---|---|"
    for column in columns:
        yield f"| `{column.name}` | {column.unit} | {column.meaning} |"


def _cutoffs() -> str:
    """Write all cut-offs as one table, with source and what they were checked against."""
    lines = ["| cut-offs | low where | source | numbers checked |", "|---|---|---|---|"]
    for table in CUTOFF_TABLES.values():
        low: dict[str, list[str]] = {}
        for line in table.cutoffs:
            bmi = f" (BMI from {line.bmi_from:g})" if line.bmi_from > 0 else ""
            bmi += f" (BMI below {line.bmi_below:g})" if math.isfinite(line.bmi_below) else ""
            low.setdefault(line.quantity, []).append(f"{line.sex or 'both'} < {line.low_below:g}{bmi}")
        text = "; ".join(f"{quantity}: {', '.join(parts)}" for quantity, parts in low.items())
        lines.append(f"| `{table.identifier}` | {text} | {table.source} | {table.checked} |")
    return "\n".join(lines)


def _reference_values() -> str:
    """Write all tables: their numbers, sources, and what they were checked against."""
    blocks = []
    for table in REFERENCE_TABLES.values():
        lines = [
            f"### `{table.identifier}`",
            "",
            f"{table.source}. Population: {table.population}. Level {table.level}. "
            f"Numbers checked: {table.checked}.",
            "",
            "| quantity | sex | age | n | mean | SD | 5th percentile |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| `{one.quantity}` | {one.sex} | {one.age_from:g} to < {one.age_below:g} | {_shown(one.n)} | "
            f"{_shown(one.mean)} | {_shown(one.sd)} | {_shown(one.p5)} |"
            for one in table.groups
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


if __name__ == "__main__":
    sys.stdout.write(render() + "\n")
