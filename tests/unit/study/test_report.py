"""One page about a study: its numbers are those of the row, in both languages, and as PDF."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.errors import InputError, StorageError
from ctai_sam2.measure.shown import SHOWN
from ctai_sam2.segmentation import StudyResult
from ctai_sam2.study import outputs
from ctai_sam2.study.outputs import TableRow, measure_study, write_study
from ctai_sam2.study.report import (
    TEXTS,
    StudyReport,
    describe_report,
    render_html,
    render_pdf,
    write_study_report,
)
from tests.unit.study.test_change import reference_parameters, study_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, TableRow, StudyReport]:
    study = study_of(reference_parameters(), seed=1)
    row = measure_study(study, height_m=1.6)
    written = write_study(study, row, tmp_path_factory.mktemp("study"))
    report = describe_report(study, row, written, sex="F", age_years=50, weight_kg=60)
    return study, row, report


def test_numbers_are_those_of_the_row(made: tuple[StudyResult, TableRow, StudyReport]) -> None:
    study, row, report = made
    shown = {one.column: one for one in report.numbers}
    inside = study.axial.ct_slice.hu[study.masks["muscle"]]
    inside = inside[(inside >= -29) & (inside <= 150)].astype(float)
    sma = inside.size * 3.0 * 3.0 / 100
    assert shown["sma_cm2"].value == f"{sma:.1f}"
    assert shown["smi_cm2_m2"].value == f"{sma / 2.56:.1f}"
    assert shown["nama_percent"].value == f"{100 * np.mean(inside >= 30):.1f}"
    # Women of 45 to 54 years: 119.5 (18.5) cm².
    assert shown["sma_cm2"].z == f"{(sma - 119.5) / 18.5:+.1f}"
    assert shown["smi_cm2_m2"].is_low is (sma / 2.56 < 38.5)
    assert shown["sat_area_mm2"].value == f"{float(row['sat_area_mm2'] or 0) / 100:.1f}"
    assert dict(report.provenance)["height_m"] == "1.6"
    assert report.reference is not None
    assert "framingham-2024@1" in report.reference


def test_nothing_is_compared_outside_of_the_table(
    made: tuple[StudyResult, TableRow, StudyReport], tmp_path: Path
) -> None:
    study, row, _ = made
    written = write_study(study, row, tmp_path)
    report = describe_report(study, row, written, sex="M", age_years=50)
    assert report.reference is None
    assert {one.z for one in report.numbers} == {""}
    assert TEXTS["en"]["no_reference"] in render_html(report)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_holds_all_and_needs_no_other_file(
    made: tuple[StudyResult, TableRow, StudyReport], language: str
) -> None:
    report = made[2]
    page = render_html(report, language=language)  # type: ignore[arg-type]
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count("data:image/png;base64,") == len(report.pictures) == 2
    for one in report.numbers:
        assert f">{one.value}<" in page
        assert SHOWN[one.column].name(language) in page
    for _, value in report.provenance:
        assert value in page


def test_both_languages_say_the_same_things() -> None:
    assert set(TEXTS["en"]) == set(TEXTS["zh"])
    with pytest.raises(InputError, match="no such language"):
        render_html(
            StudyReport(
                numbers=(),
                as_unenhanced=(),
                reference=None,
                cutoffs=(),
                warnings=(),
                provenance=(),
                pictures={},
            ),
            language="fr",
        )  # type: ignore[arg-type]


def test_the_pdf_is_one_page_and_equal_for_equal_reports(
    made: tuple[StudyResult, TableRow, StudyReport], tmp_path: Path
) -> None:
    report = made[2]
    first = render_pdf(report)
    assert first == render_pdf(report)
    assert first.startswith(b"%PDF-")
    assert re.search(rb"/Count 1\b", first)
    written = write_study_report(report, tmp_path, language="zh")
    assert written["pdf"].read_bytes() == first
    assert "骨骼肌面积" in written["report"].read_text("utf-8")


def test_muscle_groups_have_their_picture(
    made: tuple[StudyResult, TableRow, StudyReport], tmp_path: Path
) -> None:
    study = made[0]
    wall = study.masks["muscle"] & ~study.masks["psoas_left"] & ~study.masks["psoas_right"]
    divided = replace(study, axial=replace(study.axial, muscle_groups={"wall_left": wall}))
    row = measure_study(divided, height_m=1.6)
    inside = study.axial.ct_slice.hu[wall]
    inside = inside[(inside >= -29) & (inside <= 150)].astype(float)
    assert row["wall_left_area_mm2"] == pytest.approx(inside.size * 9.0)
    assert row["wall_left_hu_mean"] == pytest.approx(inside.mean())
    assert row["wall_right_area_mm2"] is None
    written = write_study(divided, row, tmp_path)
    assert written.groups is not None
    assert written.groups.is_file()
    assert write_study(study, made[1], tmp_path).groups is None


def test_a_mask_that_cannot_be_written_leaves_no_table(
    made: tuple[StudyResult, TableRow, StudyReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[Path]:
        raise StorageError("the disk is full")

    monkeypatch.setattr(outputs, "_write_mask", fail)
    with pytest.raises(StorageError, match="full"):
        write_study(made[0], made[1], tmp_path)
    assert not (tmp_path / "measurements.csv").exists()
