"""Reference values: those printed in the papers, and none outside of their range."""

from __future__ import annotations

import math

import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.measure.reference_values import (
    REFERENCE_TABLES,
    ReferenceGroup,
    ReferenceTable,
    compare_with_reference,
)


def phi(z: float) -> float:
    return 100 * 0.5 * (1 + math.erf(z / math.sqrt(2)))


@pytest.mark.parametrize(
    ("quantity", "age", "mean", "sd"),
    # Women at L3, table 2 of the Framingham paper.
    [
        ("sma_cm2", 44.9, 120.9, 18.4),
        ("sma_cm2", 45, 119.5, 18.5),
        ("sma_cm2", 60, 110.6, 16.3),
        ("sma_cm2", 74, 104.5, 15.8),
        ("sma_cm2", 75, 99.5, 16.0),
        ("smi_cm2_m2", 40, 48.2, 7.1),
        ("smi_cm2_m2", 50, 48.0, 7.2),
        ("smi_cm2_m2", 64.9, 45.8, 6.8),
        ("smi_cm2_m2", 65, 44.3, 6.5),
        ("smi_cm2_m2", 92, 43.5, 6.7),
        ("smd_hu", 33, 42.6, 5.5),
        ("smd_hu", 54, 38.1, 7.2),
        ("smd_hu", 55, 33.4, 6.8),
        ("smd_hu", 70, 29.3, 6.6),
        ("smd_hu", 80, 25.2, 6.8),
    ],
)
def test_women_of_framingham(quantity: str, age: float, mean: float, sd: float) -> None:
    found = compare_with_reference(quantity, mean - 1.5 * sd, sex="f", age_years=age)  # type: ignore[arg-type]
    assert found is not None
    assert found.z == pytest.approx(-1.5)
    assert found.percentile == pytest.approx(phi(-1.5))
    assert found.is_below_p5 is False
    below = compare_with_reference(quantity, mean - 1.7 * sd, sex="F", age_years=age)  # type: ignore[arg-type]
    assert below is not None
    assert below.is_below_p5 is True


@pytest.mark.parametrize(
    ("quantity", "sex", "age", "p5"),
    # Table 3 of van der Werf et al., all BMIs.
    [
        ("smi_cm2_m2", "M", 20, 44.9),
        ("smi_cm2_m2", "M", 79.9, 36.9),
        ("smi_cm2_m2", "F", 35, 35.3),
        ("smi_cm2_m2", "F", 62, 30.7),
        ("sma_cm2", "M", 45, 139.0),
        ("sma_cm2", "M", 55, 131.8),
        ("sma_cm2", "F", 29.9, 111.2),
        ("sma_cm2", "F", 70, 77.3),
        ("smd_hu", "M", 30, 33.5),
        ("smd_hu", "F", 69, 20.2),
    ],
)
def test_fifth_percentiles_of_donors(quantity: str, sex: str, age: float, p5: float) -> None:
    for value, low in ((p5 - 0.01, True), (p5, False)):
        found = compare_with_reference(
            quantity,  # type: ignore[arg-type]
            value,
            sex=sex,
            age_years=age,
            table="van-der-werf-2018",
        )
        assert found is not None
        assert (found.z, found.percentile, found.is_below_p5) == (None, None, low)


@pytest.mark.parametrize(
    ("sex", "age", "level", "table"),
    [
        ("M", 50, "L3", "framingham-2024"),
        ("F", 32.9, "L3", "framingham-2024"),
        ("F", 93, "L3", "framingham-2024"),
        ("F", 50, "L4", "framingham-2024"),
        ("F", 50, None, "framingham-2024"),
        ("F", None, "L3", "framingham-2024"),
        (None, 50, "L3", "framingham-2024"),
        ("O", 50, "L3", "framingham-2024"),
        ("M", 70, "L3", "yoon-2021"),
    ],
)
def test_nothing_is_given_outside_of_a_table(sex: str, age: float, level: str, table: str) -> None:
    assert compare_with_reference("sma_cm2", 100, sex=sex, age_years=age, level=level, table=table) is None


def test_a_value_that_was_not_measured_compares_with_nothing() -> None:
    assert compare_with_reference("sma_cm2", None, sex="F", age_years=50) is None
    assert compare_with_reference("sma_cm2", math.nan, sex="F", age_years=50) is None


def test_every_table_says_its_source_and_what_it_was_checked_against() -> None:
    for table in REFERENCE_TABLES.values():
        assert "against" in table.checked
        assert table.source


def test_bad_tables_are_refused() -> None:
    with pytest.raises(InputError, match="no such reference"):
        compare_with_reference("sma_cm2", 1, sex="F", age_years=50, table="nobody")
    one = ReferenceGroup(quantity="sma_cm2", sex="F", age_from=20, age_below=40, mean=1, sd=1)
    with pytest.raises(InputError, match="overlap"):
        ReferenceTable(
            name="a",
            version="1",
            source="s",
            population="",
            checked="",
            groups=(one, ReferenceGroup(quantity="sma_cm2", sex="F", age_from=39, age_below=50, p5=1)),
        )
    with pytest.raises(InputError):
        ReferenceGroup(quantity="sma_cm2", sex="F", age_from=20, age_below=40, mean=1)
