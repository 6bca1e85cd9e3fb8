"""Table one of a cohort: number, mean, spread and prevalence by sex, plausible cases only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ctai_sam2.cohort.columns import COHORT_SHOWN
from ctai_sam2.cohort.qc import IMPLAUSIBLE

if TYPE_CHECKING:
    import pandas as pd

MEASURES: tuple[str, ...] = (
    *("sma_cm2", "smi_cm2_m2", "smd_hu", "psoas_area_mm2", "pmi_cm2_m2", "lama_percent", "imat_percent"),
    *("imat_area_mm2", "sat_area_mm2", "vat_area_mm2", "vat_sat_ratio"),
    *("age_years", "weight_kg", "bmi_kg_m2"),
)
"""Columns of the cohort's table, in the order of table one, which shows areas in cm²."""

_DIGITS = {COHORT_SHOWN[column].short: COHORT_SHOWN[column].digits for column in MEASURES}

PREVALENCES: tuple[tuple[str, str, str], ...] = (
    ("low_smi", "Low SMI", "smi_cutoffs"),
    ("low_smd", "Low SMD", "smd_cutoffs"),
)
"""Columns of yes and no, name, and the column that says by which cut-offs."""

_SEXES: tuple[tuple[str, str | None], ...] = (("all", None), ("men", "M"), ("women", "F"))


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """One measure in one group.

    Parameters
    ----------
    measure, unit : str
        As shown.
    group : str
        ``all``, ``men`` or ``women``; ``all`` includes cases whose sex is not known.
    n : int
        Cases with a value.
    mean, sd, median, q25, q75 : float or None
        In the unit; the standard deviation with n - 1, None for a single case.
    count, percent : int and float, or None
        Of a prevalence: cases, and their share of ``n`` in per cent.
    """

    measure: str
    unit: str
    group: str
    n: int
    mean: float | None = None
    sd: float | None = None
    median: float | None = None
    q25: float | None = None
    q75: float | None = None
    count: int | None = None
    percent: float | None = None

    @property
    def text(self) -> str:
        """One cell of a table: mean ± SD, median (IQR), or count (per cent)."""
        if self.count is not None and self.percent is not None:
            return f"{self.count} of {self.n} ({self.percent:.0f} %)"
        if self.mean is None or self.median is None or self.q25 is None or self.q75 is None:
            return "–"
        mean, median, q25, q75 = (
            self._shown(value) for value in (self.mean, self.median, self.q25, self.q75)
        )
        spread = "" if self.sd is None else f" ± {self._shown(self.sd)}"
        return f"{mean}{spread}; {median} ({q25} to {q75})"

    def _shown(self, value: float) -> str:
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{_DIGITS.get(self.measure, 1)}f}"


GROUP_COLUMNS: tuple[str, ...] = tuple(one.name for one in fields(GroupSummary))
"""Columns of the summaries' table."""


def describe_cohort(table: pd.DataFrame) -> list[GroupSummary]:
    """Describe a cohort's table by sex; cases without numbers or with implausible ones are left out.

    Parameters
    ----------
    table : DataFrame
        From `ctai_sam2.cohort.read_table`.

    Returns
    -------
    list of GroupSummary
        By measure, then group; measures without any value are left out.
    """
    usable = table[usable_rows(table)]
    found: list[GroupSummary] = []
    for column in MEASURES:
        if column in usable and usable[column].notna().any():
            shown = COHORT_SHOWN[column]
            for group, sex in _SEXES:
                values = _of_sex(usable, sex)[column].dropna() * shown.factor
                found.append(_describe(values, shown.short, shown.unit, group))
    for column, name, cutoffs in PREVALENCES:
        if column in usable and usable[column].notna().any():
            used = ", ".join(sorted(usable[cutoffs].dropna().unique()))
            for group, sex in _SEXES:
                values = _of_sex(usable, sex)[column].dropna().astype(bool)
                n, count = len(values), int(values.sum())
                found.append(
                    GroupSummary(
                        measure=f"{name} ({used})",
                        unit="",
                        group=group,
                        n=n,
                        count=count if n else None,
                        percent=100 * count / n if n else None,
                    )
                )
    return found


def usable_rows(table: pd.DataFrame) -> pd.Series[bool]:
    """Tell which rows have numbers that are plausible."""
    flags = table["flags"].fillna("").str.split()
    implausible = flags.map(lambda names: IMPLAUSIBLE in names).astype(bool)
    usable: pd.Series[bool] = (table["status"] == "done").astype(bool) & ~implausible
    return usable


def to_rows(found: Sequence[GroupSummary]) -> list[dict[str, Any]]:
    """Return the summaries as rows of a CSV table."""
    return [asdict(one) for one in found]


def _of_sex(table: pd.DataFrame, sex: str | None) -> pd.DataFrame:
    return table if sex is None else table[table["sex"] == sex]


def _describe(values: pd.Series[float], name: str, unit: str, group: str) -> GroupSummary:
    n = len(values)
    if not n:
        return GroupSummary(measure=name, unit=unit, group=group, n=0)
    return GroupSummary(
        measure=name,
        unit=unit,
        group=group,
        n=n,
        mean=float(values.mean()),
        sd=float(values.std(ddof=1)) if n > 1 else None,
        median=float(values.median()),
        q25=float(values.quantile(0.25)),
        q75=float(values.quantile(0.75)),
    )
