"""What counts as low: published cut-offs for muscle area, index and attenuation.

A cut-off labels a value; it changes no measurement, so it is chosen apart from
`ctai_sam2.measure.definitions`. Each belongs to the population, the HU ranges and
the contrast phase it was found with. Research use: a label is no diagnosis.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal, TypeAlias, get_args

from ctai_sam2.errors import InputError
from ctai_sam2.measure.definitions import require_identity

Quantity: TypeAlias = Literal["sma_cm2", "smi_cm2_m2", "smd_hu", "pmi_cm2_m2"]

NOT_CHECKED = "not checked against the paper"
"""Said of numbers that were taken from secondary sources."""


@dataclass(frozen=True, kw_only=True)
class Cutoff:
    """One line of a cut-off table: values below ``low_below`` are low.

    Parameters
    ----------
    quantity : {"sma_cm2", "smi_cm2_m2", "smd_hu", "pmi_cm2_m2"}
    low_below : float
        In the quantity's unit.
    sex : {"M", "F"}, optional
        None where it holds for both.
    bmi_from, bmi_below : float
        Body mass index in kg/m²: from ``bmi_from`` (included) to below ``bmi_below``.

    Raises
    ------
    InputError
        If a value cannot be used.
    """

    quantity: Quantity
    low_below: float
    sex: Literal["M", "F"] | None = None
    bmi_from: float = 0.0
    bmi_below: float = math.inf

    def __post_init__(self) -> None:
        if self.quantity not in get_args(Quantity) or self.sex not in ("M", "F", None):
            raise InputError("no such quantity or sex", received=(self.quantity, self.sex))
        if not (math.isfinite(self.low_below) and 0 <= self.bmi_from < self.bmi_below):
            raise InputError(
                "a cut-off must be finite and hold for a range of BMI",
                received=(self.low_below, self.bmi_from, self.bmi_below),
            )


@dataclass(frozen=True, kw_only=True)
class CutoffTable:
    """A published table of cut-offs.

    Parameters
    ----------
    name, version, source : str
        As in `TissueDefinitions`.
    cutoffs : tuple of Cutoff
        Its lines.
    checked : str
        What the numbers were compared with.

    Raises
    ------
    InputError
        If a name or version cannot be used or there is no line.
    """

    name: str
    version: str
    source: str
    cutoffs: tuple[Cutoff, ...]
    checked: str = NOT_CHECKED

    def __post_init__(self) -> None:
        require_identity(self.name, self.version, self.source)
        if not self.cutoffs:
            raise InputError("a cut-off table needs at least one line")

    @property
    def identifier(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    def covers(self, quantity: str) -> bool:
        """Whether it has a line for a quantity."""
        return any(line.quantity == quantity for line in self.cutoffs)


def _read_tables() -> dict[str, CutoffTable]:
    """Read the tables that ship with the package; each line there has the fields of `Cutoff`."""
    content = json.loads(resources.files(__package__).joinpath("cutoffs.json").read_text(encoding="utf-8"))
    tables = [
        CutoffTable(**{**entry, "cutoffs": tuple(Cutoff(**line) for line in entry["cutoffs"])})
        for entry in content
    ]
    return {table.name: table for table in tables}


CUTOFF_TABLES: Mapping[str, CutoffTable] = _read_tables()
"""Published cut-offs by name. Each belongs to its population and its acquisition."""


def flag_low(
    quantity: Quantity,
    value: float | None,
    *,
    sex: str | None,
    bmi_kg_m2: float | None = None,
    cutoffs: str | CutoffTable = "prado-2008",
) -> bool | None:
    """Tell whether a value is below the cut-off for this sex and body mass index.

    Parameters
    ----------
    quantity : {"sma_cm2", "smi_cm2_m2", "smd_hu", "pmi_cm2_m2"}
    value : float or None
        In the quantity's unit; None or NaN where it was not measured.
    sex : str or None
        "M" or "F" (either case); None, "" and "O", as DICOM has them, mean not known.
    bmi_kg_m2 : float or None
        Body mass index; None or NaN where not known.
    cutoffs : str or CutoffTable
        A name in ``CUTOFF_TABLES`` or a table of your own.

    Returns
    -------
    bool or None
        None where it cannot be decided: the value is missing, the table has no
        line for the quantity, or sex or BMI is not known and would decide.

    Raises
    ------
    InputError
        If the quantity, sex, BMI or table is not one.

    Examples
    --------
    >>> flag_low("smi_cm2_m2", 45.0, sex="M", bmi_kg_m2=24, cutoffs="martin-2013")
    False
    >>> flag_low("smi_cm2_m2", 45.0, sex="M", cutoffs="martin-2013") is None
    True
    """
    table = cutoff_table(cutoffs)
    if quantity not in get_args(Quantity):
        raise InputError(
            "no such quantity", received=quantity, hint=f"One of {', '.join(get_args(Quantity))}."
        )
    known_sex = as_sex(sex)
    bmi = None if bmi_kg_m2 is None or math.isnan(bmi_kg_m2) else bmi_kg_m2
    if bmi is not None and not 5 <= bmi <= 150:
        raise InputError("a body mass index lies between 5 and 150 kg/m²", received=bmi)
    if value is None or math.isnan(value):
        return None
    decisions = {
        value < line.low_below
        for line in table.cutoffs
        if line.quantity == quantity
        and (line.sex is None or known_sex is None or line.sex == known_sex)
        and (bmi is None or line.bmi_from <= bmi < line.bmi_below)
    }
    return decisions.pop() if len(decisions) == 1 else None


CHOOSABLE: Mapping[str, Quantity] = {"smi": "smi_cm2_m2", "smd": "smd_hu"}
"""What a cohort's cut-offs are chosen for, as written in a choice."""


def parse_cutoff_choice(text: str) -> dict[str, str]:
    """Read which cut-offs are wanted: a table's name for all that it covers, or ``smi=name;smd=name``.

    Parameters
    ----------
    text : str
        Parts separated by semicolons; later ones win.

    Returns
    -------
    dict of str to str
        Name of the table by ``smi`` and ``smd``.

    Raises
    ------
    InputError
        If there is no such table, or it has no line for the quantity.

    Examples
    --------
    >>> parse_cutoff_choice("derstine-2018"), parse_cutoff_choice("smi=yoon-2021; smd=martin-2013")
    ({'smi': 'derstine-2018', 'smd': 'derstine-2018'}, {'smi': 'yoon-2021', 'smd': 'martin-2013'})
    """
    chosen: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        key, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals:
            table = cutoff_table(key)
            covered = {one: key for one, quantity in CHOOSABLE.items() if table.covers(quantity)}
            if not covered:
                raise InputError("these cut-offs are for neither SMI nor SMD", received=key)
            chosen |= covered
            continue
        if key not in CHOOSABLE:
            raise InputError("cut-offs are chosen for smi and smd", received=key)
        require_cutoffs_for(CHOOSABLE[key], name)
        chosen[key] = name
    if not chosen:
        raise InputError("no cut-offs are named", hint=f"One of {', '.join(CUTOFF_TABLES)}.")
    return chosen


def require_cutoffs_for(quantity: Quantity, cutoffs: str | CutoffTable) -> CutoffTable:
    """Return a table that has a line for a quantity.

    Raises
    ------
    InputError
        If there is no such table, or it has none.
    """
    table = cutoff_table(cutoffs)
    if not table.covers(quantity):
        fitting = ", ".join(name for name, one in CUTOFF_TABLES.items() if one.covers(quantity))
        raise InputError(
            f"these cut-offs have no line for {quantity}", received=table.name, hint=f"One of {fitting}."
        )
    return table


def cutoff_table(cutoffs: str | CutoffTable) -> CutoffTable:
    """Return a table by name or ``name@version``, or the table itself.

    Raises
    ------
    InputError
        If there is no such table.
    """
    if isinstance(cutoffs, CutoffTable):
        return cutoffs
    table = CUTOFF_TABLES.get(cutoffs.partition("@")[0])
    if table is None or cutoffs not in (table.name, table.identifier):
        raise InputError("no such cut-offs", received=cutoffs, hint=f"One of {', '.join(CUTOFF_TABLES)}.")
    return table


def as_sex(sex: str | None) -> Literal["M", "F"] | None:
    """Return "M", "F", or None where the sex is not known: None, "" and "O", as DICOM has them.

    Raises
    ------
    InputError
        If it is something else.
    """
    letter = (sex or "").strip().upper()
    if letter in ("M", "F"):
        return "M" if letter == "M" else "F"
    if letter in ("", "O"):
        return None
    raise InputError("sex must be 'M' or 'F', or None where it is not known", received=sex)
