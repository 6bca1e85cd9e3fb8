"""Whom a study's numbers belong to, and what cut-offs and reference values say of such a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctai_sam2.errors import InputError
from ctai_sam2.measure.cutoffs import CutoffTable, Quantity, as_sex, flag_low
from ctai_sam2.measure.reference_values import ReferenceComparison, ReferenceTable, compare_with_reference
from ctai_sam2.study.row import is_other_height, number_of_cell
from ctai_sam2.types import Acquisition

_OTHER_WEIGHT = 1.5
"""Ratio; pounds for kilograms are 2.2."""

_OTHER_AGE_YEARS = 2.0


@dataclass(frozen=True, kw_only=True)
class Person:
    """What is known of a patient.

    Parameters
    ----------
    sex : str or None
        "M" or "F".
    age_years, weight_kg, height_m : float or None
        At the scan.
    """

    sex: str | None = None
    age_years: float | None = None
    weight_kg: float | None = None
    height_m: float | None = None

    def completed_by(self, header: Acquisition) -> Person:
        """Take what is not known from the images' header."""
        return Person(
            sex=self.sex or (header.patient_sex if header.patient_sex in ("M", "F") else None),
            age_years=header.patient_age_years if self.age_years is None else self.age_years,
            weight_kg=header.patient_weight_kg if self.weight_kg is None else self.weight_kg,
            height_m=header.patient_height_m if self.height_m is None else self.height_m,
        )

    def contradicts(self, header: Acquisition) -> tuple[str, ...]:
        """Name what differs from the images' header by more than rounding, clothes and half a year.

        Examples
        --------
        >>> header = Acquisition(patient_sex="F", patient_height_m=1.62, patient_weight_kg=70.0)
        >>> Person(sex="M", height_m=1.63, weight_kg=154.0).contradicts(header)
        ('sex', 'weight')
        """
        found = [] if None in (self.sex, header.patient_sex) or self.sex == header.patient_sex else ["sex"]
        if is_other_height(self.height_m, header.patient_height_m):
            found.append("body height")
        weights = [one for one in (self.weight_kg, header.patient_weight_kg) if one is not None]
        if len(weights) == 2 and max(weights) > _OTHER_WEIGHT * min(weights):
            found.append("weight")
        ages = [one for one in (self.age_years, header.patient_age_years) if one is not None]
        if len(ages) == 2 and abs(ages[0] - ages[1]) > _OTHER_AGE_YEARS:
            found.append("age")
        return tuple(found)

    @property
    def bmi_kg_m2(self) -> float | None:
        """Body mass index."""
        if self.weight_kg is None or self.height_m is None:
            return None
        return self.weight_kg / self.height_m**2

    def is_low(self, quantity: Quantity, value: float | None, cutoffs: CutoffTable) -> bool | None:
        """Tell whether a value is below the cut-off; a body mass index that nobody has is not used."""
        bmi = self.bmi_kg_m2
        return flag_low(
            quantity,
            value,
            sex=self.sex,
            bmi_kg_m2=bmi if bmi is not None and 5 <= bmi <= 150 else None,
            cutoffs=cutoffs,
        )

    def compare(
        self, row: Mapping[str, Any], quantity: Quantity, reference: str | ReferenceTable
    ) -> ReferenceComparison | None:
        """Compare a row's value with people of the same sex and age; None where none apply."""
        # Where nobody knows the level, values of L3 are no reference.
        level = "L3" if row.get("l3_certainty") in ("user", "counted", "estimated") else None
        return compare_with_reference(
            quantity,
            number_of_cell(row.get(quantity)),
            sex=self.sex,
            age_years=self.age_years,
            level=level,
            table=reference,
        )


def require_person(*, sex: str | None, age_years: float | None, weight_kg: float | None) -> None:
    """Check what is said of the patient.

    Raises
    ------
    InputError
        If the sex is none, or age or weight are those of nobody.
    """
    as_sex(sex)
    for what, value, low, high in (("age in years", age_years, 0, 120), ("weight in kg", weight_kg, 2, 500)):
        if value is not None and not low <= value <= high:
            raise InputError(f"the {what} must be between {low} and {high}", received=value)
