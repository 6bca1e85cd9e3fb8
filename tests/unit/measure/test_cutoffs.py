"""Published cut-offs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.measure import cutoffs as c


@pytest.mark.parametrize(
    ("table", "quantity", "sex", "bmi", "cutoff"),
    [
        ("prado-2008", "smi_cm2_m2", "M", None, 52.4),
        ("prado-2008", "smi_cm2_m2", "F", 33, 38.5),
        ("martin-2013", "smi_cm2_m2", "F", None, 41),
        ("martin-2013", "smi_cm2_m2", "F", 30, 41),
        ("martin-2013", "smi_cm2_m2", "M", 24.9, 43),
        ("martin-2013", "smi_cm2_m2", "M", 25, 53),
        ("martin-2013", "smd_hu", "M", 24.9, 41),
        ("martin-2013", "smd_hu", "F", 25, 33),
        ("martin-2013", "smd_hu", None, 25, 33),
        ("derstine-2018", "sma_cm2", "M", None, 144.3),
        ("derstine-2018", "sma_cm2", "F", None, 92.2),
        ("derstine-2018", "smi_cm2_m2", "m", None, 45.4),
        ("derstine-2018", "smi_cm2_m2", " f ", None, 34.4),
        ("derstine-2018", "smd_hu", "M", None, 38.5),
        ("derstine-2018", "smd_hu", "F", None, 34.3),
        ("van-der-werf-2018", "sma_cm2", "M", None, 134.0),
        ("van-der-werf-2018", "smi_cm2_m2", "F", None, 32.0),
        ("van-der-werf-2018", "smd_hu", "M", None, 29.3),
        ("yoon-2021", "sma_cm2", "F", None, 71.39),
        ("yoon-2021", "smi_cm2_m2", "M", None, 39.33),
        ("korea-2021", "smi_cm2_m2", "F", None, 28.4),
        ("hamaguchi-2016", "pmi_cm2_m2", "M", None, 6.36),
        ("hamaguchi-2016", "pmi_cm2_m2", "F", None, 3.92),
    ],
)
def test_published_cutoffs(table: str, quantity: Any, sex: Any, bmi: float | None, cutoff: float) -> None:
    assert c.flag_low(quantity, cutoff - 0.05, sex=sex, bmi_kg_m2=bmi, cutoffs=table) is True
    assert c.flag_low(quantity, cutoff, sex=sex, bmi_kg_m2=bmi, cutoffs=table) is False


@pytest.mark.parametrize(
    ("value", "sex", "bmi", "table", "expected"),
    [
        (None, "M", 24, "prado-2008", None),
        (math.nan, "M", 24, "prado-2008", None),
        (45.0, None, 24, "prado-2008", None),
        (30.0, None, 24, "prado-2008", True),
        (60.0, "O", 24, "prado-2008", False),
        (45.0, "M", None, "martin-2013", None),
        (45.0, "M", math.nan, "martin-2013", None),
        (42.0, "M", None, "martin-2013", True),
        (53.0, "M", None, "martin-2013", False),
        (41.5, "", None, "martin-2013", None),
    ],
)
def test_what_is_not_known_is_not_guessed(
    value: float | None, sex: str | None, bmi: float | None, table: str, expected: bool | None
) -> None:
    assert c.flag_low("smi_cm2_m2", value, sex=sex, bmi_kg_m2=bmi, cutoffs=table) is expected


def test_a_table_without_the_quantity_gives_no_verdict() -> None:
    assert c.flag_low("smd_hu", 10.0, sex="M", bmi_kg_m2=24, cutoffs="prado-2008") is None


def test_a_table_of_your_own() -> None:
    table = c.CutoffTable(
        name="own", version="1", source="here", cutoffs=(c.Cutoff(quantity="smi_cm2_m2", low_below=40),)
    )
    assert table.identifier == "own@1"
    assert c.flag_low("smi_cm2_m2", 39.0, sex=None, cutoffs=table) is True


@pytest.mark.parametrize(
    "call",
    [
        lambda: c.flag_low("smi_cm2_m2", 40.0, sex="X", cutoffs="prado-2008"),
        lambda: c.flag_low("smi_cm2_m2", 40.0, sex="M", bmi_kg_m2=0.0, cutoffs="prado-2008"),
        lambda: c.flag_low("smi_cm2_m2", 40.0, sex="M", bmi_kg_m2=math.inf, cutoffs="prado-2008"),
        lambda: c.flag_low("smi_cm2_m2", 40.0, sex="M", cutoffs="nobody-1999"),
        lambda: c.flag_low("psoas", 40.0, sex="M"),  # type: ignore[arg-type]
        lambda: c.Cutoff(quantity="psoas", low_below=1),  # type: ignore[arg-type]
        lambda: c.Cutoff(quantity="smd_hu", low_below=math.nan),
        lambda: c.Cutoff(quantity="smd_hu", low_below=1, bmi_from=30, bmi_below=25),
        lambda: c.CutoffTable(name="a", version="1", source="s", cutoffs=()),
    ],
)
def test_unusable_questions_and_tables_are_refused(call: Any) -> None:
    with pytest.raises(InputError):
        call()


def test_a_choice_of_cutoffs_is_read() -> None:
    assert c.parse_cutoff_choice("yoon-2021") == {"smi": "yoon-2021"}
    assert c.parse_cutoff_choice("derstine-2018; smd=martin-2013") == {
        "smi": "derstine-2018",
        "smd": "martin-2013",
    }
    for wrong in ("", "nobody", "smd=yoon-2021", "hamaguchi-2016", "sma=derstine-2018"):
        with pytest.raises(InputError):
            c.parse_cutoff_choice(wrong)
