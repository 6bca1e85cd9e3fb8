"""Cohorts: a table of studies in, a table of measurements with its quality control out.

Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctai_sam2.cohort.manifest import Case, read_manifest, write_manifest
    from ctai_sam2.cohort.report import write_report
    from ctai_sam2.cohort.running import CohortRun, run_cohort
    from ctai_sam2.cohort.scanning import Scan, scan_cases
    from ctai_sam2.cohort.table import CohortFiles, read_table
    from ctai_sam2.cohort.worklist import Worklist

_HOMES = {
    "Case": "manifest",
    "CohortFiles": "table",
    "CohortRun": "running",
    "Scan": "scanning",
    "Worklist": "worklist",
    "read_manifest": "manifest",
    "read_table": "table",
    "run_cohort": "running",
    "scan_cases": "scanning",
    "write_manifest": "manifest",
    "write_report": "report",
}

__all__ = [
    "Case",
    "CohortFiles",
    "CohortRun",
    "Scan",
    "Worklist",
    "read_manifest",
    "read_table",
    "run_cohort",
    "scan_cases",
    "write_manifest",
    "write_report",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
