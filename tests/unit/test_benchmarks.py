from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import PAGE, STORED, compare, read_ratios, with_table
from benchmarks.reporting import Ratio, median_of_pairs, report


@pytest.mark.parametrize(
    ("better", "value", "is_worse"),
    [
        ("lower", 1.5, True),
        ("lower", 1.3, False),
        ("lower", 0.2, False),
        ("higher", 0.6, True),
        ("higher", 3.0, False),
    ],
)
def test_a_regression_is_reported_whichever_way_is_better(better: str, value: float, is_worse: bool) -> None:
    stored = {"a": Ratio(1.0, better)}  # type: ignore[arg-type]
    lines, regressions = compare({"a": Ratio(value, better), "new": Ratio(9.0, "lower")}, stored, 1.4)  # type: ignore[arg-type]
    assert (regressions == ["a"]) is is_worse
    assert len(lines) == 2
    assert "nothing stored" in lines[1]


def test_report_and_stored_file_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ratios = {"slow, to fast": Ratio(0.5, "lower", 0.4), "many, to one": Ratio(2.0, "higher", 1.7)}
    report({"thing": {"ms": 1.25}}, ratios, tmp_path / "new" / "report.json")
    assert read_ratios(tmp_path / "new" / "report.json") == ratios
    printed = capsys.readouterr().out
    assert "MISSED" in printed
    assert "target ≥ 1.7 met" in printed
    assert read_ratios(tmp_path / "missing.json") == {}


def test_pairs_are_compared_one_by_one() -> None:
    assert median_of_pairs([1.0, 10.0, 100.0], [2.0, 10.0, 50.0]) == 1.0


def test_ratios_are_stored() -> None:
    stored = read_ratios(STORED)
    assert len(stored) > 10
    assert all(ratio.value > 0 for ratio in stored.values())


def test_the_page_holds_the_stored_ratios() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, read_ratios(STORED)) == page
    assert "| a | **0.5** | ≤ 0.6 |" in with_table(page, {"a": Ratio(0.5, "lower", 0.6)})
    assert "| b | 0.5 | ≥ 0.9 |" in with_table(page, {"b": Ratio(0.5, "higher", 0.9)})
    with pytest.raises(ValueError, match="no place"):
        with_table("", {})
