"""Table one, data dictionary, report and methods of a finished cohort, checked against the table itself."""

from __future__ import annotations

import csv
import os
import re
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctai_sam2.cohort import CohortConfig, read_table, run_cohort, write_methods, write_report
from ctai_sam2.cohort.descriptives import describe_cohort
from ctai_sam2.cohort.methods import describe_methods
from ctai_sam2.cohort.references import CITED_TABLES, bibtex_of
from ctai_sam2.cohort.report import write_report_of_table
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.table import TABLE_COLUMNS, compare_row, data_dictionary, read_summary
from ctai_sam2.measure.cutoffs import CUTOFF_TABLES
from ctai_sam2.measure.reference_values import REFERENCE_TABLES
from ctai_sam2.study.person import Person
from tests.unit.cohort.making import QUICK, make_cases


def made_table() -> pd.DataFrame:
    smi = [50.0, 60.0, 30.0, 45.0, 40.0, 999.0]
    return pd.DataFrame(
        {
            "case_id": [f"P{i}" for i in range(7)],
            "status": ["done"] * 6 + ["failed"],
            "flags": [None] * 5 + ["implausible", "failed"],
            "sex": ["M", "M", "F", "F", None, "M", "M"],
            "smi_cm2_m2": [*smi, np.nan],
            "low_smi": pd.array([True, False, True, False, None, None, None], "boolean"),
            "smi_cutoffs": ["prado-2008"] * 6 + [None],
        }
    )


def test_table_one_is_that_of_plausible_cases_by_sex() -> None:
    found = {(one.measure.split(" (")[0], one.group): one for one in describe_cohort(made_table())}
    everyone = [50.0, 60.0, 30.0, 45.0, 40.0]
    smi = found["SMI", "all"]
    assert (smi.n, smi.mean, smi.median) == (5, statistics.mean(everyone), 45.0)
    assert smi.sd == pytest.approx(statistics.stdev(everyone))
    assert (smi.q25, smi.q75) == (40.0, 50.0)
    assert found["SMI", "men"].mean == 55.0
    assert found["SMI", "women"].n == 2
    low = found["Low SMI", "all"]
    assert (low.count, low.n, low.percent) == (2, 4, 50.0)
    assert "prado-2008" in low.measure


def test_table_one_has_the_units_and_digits_of_the_other_pages() -> None:
    table = made_table().assign(sat_area_mm2=17_600.0, vat_sat_ratio=0.614)
    found = {one.measure: one for one in describe_cohort(table) if one.group == "all"}
    assert (found["SAT"].unit, found["SAT"].mean) == ("cm²", pytest.approx(176))
    assert found["SAT"].text == "176.0 ± 0.0; 176.0 (176.0 to 176.0)"
    assert found["VAT/SAT"].text == "0.61 ± 0.00; 0.61 (0.61 to 0.61)"


def test_every_column_has_a_meaning_and_the_main_ones_come_first() -> None:
    rows = data_dictionary(["age"])
    assert [row["column"] for row in rows] == [*TABLE_COLUMNS, "age"]
    assert all(row["meaning"] for row in rows)
    assert TABLE_COLUMNS[:5] == ("case_id", "status", "sma_cm2", "smi_cm2_m2", "smd_hu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    cases = make_cases(folder / "in", 4)
    (folder / "in" / "3.npz").write_bytes(b"broken")
    cases = [
        replace(case, age_years=47.0, cut_offs="derstine-2018" if case.case_id == "P001" else None)
        for case in cases
    ]
    run_cohort(cases, folder / "out", config=CohortConfig(**QUICK, smi_cutoffs="korea-2021"))
    return folder / "out"


def test_cut_offs_are_those_of_the_case_else_of_the_cohort(finished: Path) -> None:
    table = read_table(finished).set_index("case_id")
    assert table.loc["P001", "smi_cutoffs"] == table.loc["P001", "smd_cutoffs"] == "derstine-2018@1"
    assert table.loc["P000", "smi_cutoffs"] == "korea-2021@1"
    assert table.loc["P000", "smd_cutoffs"] == "martin-2013@1"
    assert table.loc["P000", "age_years"] == 47.0


def test_a_row_is_compared_with_its_sex_and_age() -> None:
    row = {"sma_cm2": 101.0, "smi_cm2_m2": None, "smd_hu": 38.1, "l3_certainty": "user"}
    woman = Person(sex="F", age_years=50)
    cells = compare_row(row, woman, reference="framingham-2024")
    assert cells["sma_z"] == pytest.approx(-1)
    assert cells["sma_percentile"] == pytest.approx(15.8655, abs=1e-3)
    assert (cells["smd_z"], cells["smi_z"], cells["sma_below_p5"]) == (0.0, None, False)
    assert cells["reference_values"] == "framingham-2024@1"
    unknown = compare_row({**row, "l3_certainty": "unknown"}, woman, reference="yoon-2021")
    assert set(unknown.values()) == {None}


def test_the_report_has_table_one_and_those_left_out(finished: Path) -> None:
    page = write_report(finished).read_text(encoding="utf-8")
    psoas = read_table(finished)["psoas_left_area_mm2"].dropna()
    assert len(psoas) == 3
    left_out = page[page.index('id="left-out"') :].split("</table>")[0]
    assert "P003" in left_out
    assert "P000" not in left_out
    assert "korea-2021@1" in page
    with (finished / "table_one.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file))[:4] == ["measure", "unit", "group", "n"]
    with (finished / "data_dictionary.csv").open(encoding="utf-8") as file:
        names = [row["column"] for row in csv.DictReader(file)]
    assert names == list(read_table(finished).columns)


def test_table_one_opens_in_a_word_processor_and_the_pdf_has_its_pages(finished: Path) -> None:
    write_report(finished)
    page = (finished / "table_one.html").read_text("utf-8")
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    assert re.findall(r"<th>(.*?)</th>", rows[0]) == ["Measure", "all", "men", "women"]
    with (finished / "table_one.csv").open(encoding="utf-8") as file:
        groups = [row for row in csv.DictReader(file) if row["measure"] == "Age"]
    (age,) = [row for row in rows if "<td>Age, years</td>" in row]
    assert f"(n = {groups[0]['n']})" in age
    assert "47.0 ± 0.0" in age
    pdf = (finished / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    # Table one, distributions, those left out, and the methods.
    assert int(re.findall(rb"/Count (\d+)", pdf)[-1]) == 4
    write_report(finished)
    assert (finished / "report.pdf").read_bytes() == pdf


def test_the_methods_say_what_was_run(finished: Path) -> None:
    files = write_methods(finished)
    text, references = files.markdown.read_text("utf-8"), files.bibtex.read_text("utf-8")
    assert "CT studies of 4 cases" in text
    assert "chosen by the user in 3 of 3 cases" in text
    assert "1 could not be measured" in text
    assert "muscle -29 to 150 HU" in text
    assert str(read_table(finished)["weights_sha256"].iloc[0])[:12] in text
    cited = set(re.findall(r"\[@(\w+)\]", text))
    entries = references.strip().split("\n\n")
    assert {re.match(r"@\w+{(\w+),", entry)[1] for entry in entries} == cited  # type: ignore[index]
    assert all(re.search(r"^  title = \{.{20,}\}", entry, re.MULTILINE) for entry in entries)


def test_each_sentence_of_the_methods_begins_with_a_capital_and_one_case_is_no_plural(finished: Path) -> None:
    table = read_table(finished)
    of_one = table["case_id"] == "P001"
    table["low_smd"] = pd.array([True if one else None for one in of_one], "boolean")
    table["reviewed_by"] = table["reviewed_by"].astype(object).where(~of_one, "AB")
    text, _ = describe_methods(read_summary(CohortStore(finished)), table)
    assert ". Low SMD was defined by derstine-2018" in text
    assert "1 reader reviewed 1 case and corrected" in text


def test_every_table_that_a_cohort_can_name_has_a_work_with_a_title() -> None:
    for table in (*CUTOFF_TABLES, *REFERENCE_TABLES):
        if CUTOFF_TABLES.get(table) is None or CUTOFF_TABLES[table].covers("smi_cm2_m2"):
            assert "title = {" in bibtex_of(CITED_TABLES[table], version="1")
    assert all(bibtex_of(key, version="1").count("{") >= 3 for key in {*CITED_TABLES.values(), "ctai_sam2"})


def test_the_report_is_made_again_where_the_table_is_newer(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    page = write_report_of_table(folder)
    page.write_text("stays")
    assert write_report_of_table(folder).read_text() == "stays"
    os.utime(folder / "table.csv", ns=(1, page.stat().st_mtime_ns + 1))
    assert write_report_of_table(folder).read_text("utf-8") != "stays"


def test_a_cohort_without_any_flag_has_a_report(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "out"))
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "done"]
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows([{**row, "flags": "", "flag_details": "", "flagged": "False"} for row in rows])
    assert str(read_table(folder)["flags"].dtype).startswith("str")
    assert "P000" in write_report(folder).read_text("utf-8")


def test_a_table_of_an_earlier_version_has_a_report(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "out"))
    later = {
        "lama_percent",
        "imat_percent",
        "vat_sat_ratio",
        "age_years",
        "phase_header",
        "phase_image",
        "scanner",
    }
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [name for name in rows[0] if name not in later and not name.startswith(("sma_", "smi_z", "smd_z"))]
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*kept, "sma_cm2"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert write_report(folder).is_file()
    assert "not recorded" in write_methods(folder).markdown.read_text("utf-8")
