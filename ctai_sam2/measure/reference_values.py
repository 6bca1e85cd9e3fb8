"""How a value compares with a healthy population of the same sex and age.

A z-score or a percentile belongs to one published table, its population, its level and its way of imaging.
Each table here has a name, a version and its source, and says what its numbers were compared with; outside
of a table's range of age, and at another level than its own, nothing is given. Research use: no diagnosis.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from statistics import NormalDist
from typing import Literal, TypeAlias

from ctai_sam2.errors import InputError
from ctai_sam2.measure.cutoffs import Quantity, as_sex
from ctai_sam2.measure.definitions import require_identity

Sex: TypeAlias = Literal["M", "F"]


@dataclass(frozen=True, kw_only=True)
class ReferenceGroup:
    """What is published of one quantity in people of one sex and age.

    Parameters
    ----------
    quantity : {"sma_cm2", "smi_cm2_m2", "smd_hu", "pmi_cm2_m2"}
        In the unit of its name.
    sex : {"M", "F"}
        Whose.
    age_from, age_below : float
        Years: from ``age_from`` (included) to below ``age_below``.
    n : int, optional
        People in the group.
    mean, sd : float, optional
        Both, or neither.
    p5 : float, optional
        5th percentile.

    Raises
    ------
    InputError
        If there is nothing to compare with, or a value cannot be used.
    """

    quantity: Quantity
    sex: Sex
    age_from: float
    age_below: float
    n: int | None = None
    mean: float | None = None
    sd: float | None = None
    p5: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.age_from < self.age_below <= 120:
            raise InputError("no such range of age", received=(self.age_from, self.age_below))
        if (self.mean is None) != (self.sd is None) or (self.mean is None and self.p5 is None):
            raise InputError("a group needs mean and SD, or a 5th percentile")
        if self.sd is not None and not self.sd > 0:
            raise InputError("a standard deviation must be positive", received=self.sd)


@dataclass(frozen=True, kw_only=True)
class ReferenceTable:
    """A published table of reference values.

    Parameters
    ----------
    name, version, source : str
        As in `TissueDefinitions`.
    population : str
        Who was measured, and how.
    checked : str
        What the numbers were compared with.
    groups : tuple of ReferenceGroup
        Its lines.
    level : str
        Vertebra that it holds for.

    Raises
    ------
    InputError
        If a name or version cannot be used, or two groups overlap.
    """

    name: str
    version: str
    source: str
    population: str
    checked: str
    groups: tuple[ReferenceGroup, ...]
    level: str = "L3"

    def __post_init__(self) -> None:
        require_identity(self.name, self.version, self.source)
        for index, one in enumerate(self.groups):
            for other in self.groups[index + 1 :]:
                if (one.quantity, one.sex) == (other.quantity, other.sex) and (
                    one.age_from < other.age_below and other.age_from < one.age_below
                ):
                    raise InputError("two groups of a table overlap", received=(one.quantity, one.sex))

    @property
    def identifier(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True)
class ReferenceComparison:
    """A value against the group that it belongs to.

    Parameters
    ----------
    table : ReferenceTable
        The table that was used.
    group : ReferenceGroup
        Of it.
    value : float
        What was compared.
    """

    table: ReferenceTable
    group: ReferenceGroup
    value: float

    @property
    def z(self) -> float | None:
        """Standard deviations from the mean; None where the table has no standard deviation."""
        if self.group.mean is None or self.group.sd is None:
            return None
        return (self.value - self.group.mean) / self.group.sd

    @property
    def percentile(self) -> float | None:
        """Percentile of a normal distribution with the group's mean and SD; None where there is no SD."""
        return None if self.z is None else 100.0 * NormalDist().cdf(self.z)

    @property
    def is_below_p5(self) -> bool | None:
        """Whether it is below the 5th percentile printed, else below that of the normal distribution."""
        if self.group.p5 is not None:
            return self.value < self.group.p5
        return None if self.percentile is None else self.percentile < 5.0


def _read_tables() -> dict[str, ReferenceTable]:
    """Read the tables that ship with the package; each line there has the fields of `ReferenceGroup`."""
    path = resources.files(__package__).joinpath("reference_values.json")
    tables = [
        ReferenceTable(**{**entry, "groups": tuple(ReferenceGroup(**line) for line in entry["groups"])})
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]
    return {table.name: table for table in tables}


REFERENCE_TABLES: Mapping[str, ReferenceTable] = _read_tables()
"""Published reference values by name."""

DEFAULT_REFERENCE = "framingham-2024"


def compare_with_reference(
    quantity: Quantity,
    value: float | None,
    *,
    sex: str | None,
    age_years: float | None,
    level: str | None = "L3",
    table: str | ReferenceTable = DEFAULT_REFERENCE,
) -> ReferenceComparison | None:
    """Compare a value with people of the same sex and age.

    Parameters
    ----------
    quantity : {"sma_cm2", "smi_cm2_m2", "smd_hu", "pmi_cm2_m2"}
        What was measured.
    value : float or None
        In the quantity's unit; None or NaN where it was not measured.
    sex : str or None
        "M" or "F"; None, "" and "O" mean not known.
    age_years : float or None
        Age at the scan.
    level : str or None
        Vertebra of the slice; None where it is not known.
    table : str or ReferenceTable
        A name in ``REFERENCE_TABLES`` or a table of your own.

    Returns
    -------
    ReferenceComparison or None
        None outside of the table's sexes, ages and level, or where one of them is not known.

    Raises
    ------
    InputError
        If there is no such table, or the sex is none.

    Examples
    --------
    >>> found = compare_with_reference("sma_cm2", 102.1, sex="F", age_years=45)
    >>> round(found.z, 2), round(found.percentile, 1), found.group.mean
    (-0.94, 17.3, 119.5)
    >>> compare_with_reference("sma_cm2", 102.1, sex="F", age_years=20) is None
    True
    """
    known = reference_table(table)
    letter = as_sex(sex)
    if value is None or age_years is None or not math.isfinite(value) or not math.isfinite(age_years):
        return None
    if letter is None or level != known.level:
        return None
    for group in known.groups:
        if (group.quantity, group.sex) == (
            quantity,
            letter,
        ) and group.age_from <= age_years < group.age_below:
            return ReferenceComparison(table=known, group=group, value=float(value))
    return None


def reference_table(table: str | ReferenceTable) -> ReferenceTable:
    """Return a table by name, or the table itself.

    Raises
    ------
    InputError
        If there is no such table.
    """
    if isinstance(table, ReferenceTable):
        return table
    if table not in REFERENCE_TABLES:
        raise InputError(
            "no such reference values", received=table, hint=f"One of {', '.join(REFERENCE_TABLES)}."
        )
    return REFERENCE_TABLES[table]
