"""Write ``docs/data-dictionary.md`` from the code.

``python docs/building/data_dictionary.py > docs/data-dictionary.md``
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ctai_sam2.cohort.columns import COHORT_COLUMN_TABLE, TABLE_COLUMNS
from ctai_sam2.measure.columns import COLUMN_TABLE, Column
from ctai_sam2.measure.cutoffs import describe_cutoff_tables
from ctai_sam2.measure.reference_values import describe_reference_tables

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
            describe_cutoff_tables(),
            "",
            "## Reference values\n",
            "For `--reference`. Values are compared at the level, sexes and ages of a table; a",
            "percentile is that of a normal distribution with the group's mean and SD.\n",
            describe_reference_tables(),
        )
    )


def _table(columns: Iterable[Column]) -> Iterable[str]:
    yield "| column | unit | meaning |"
    yield "|---|---|---|"
    for name, unit, meaning in columns:
        yield f"| `{name}` | {unit} | {meaning} |"


if __name__ == "__main__":
    sys.stdout.write(render() + "\n")
