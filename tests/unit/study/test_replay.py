"""A study's row measured again from its masks and images."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctai_sam2.cli.app import app
from ctai_sam2.errors import InputError
from ctai_sam2.io import read_study, write_dicom_series
from ctai_sam2.measure.definitions import TISSUE_DEFINITIONS
from ctai_sam2.study.outputs import claim_folder, measure_study, write_study
from ctai_sam2.study.replay import replay_study
from tests.unit.study.test_change import reference_parameters, study_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study on disk, its results, and another study next to it."""
    folder = tmp_path_factory.mktemp("replayed")
    for name, seed in (("study", 1), ("other", 2)):
        volume = study_of(reference_parameters(), seed=seed).volume
        write_dicom_series(folder / name, volume)
    volume = read_study(folder / "study")
    drawn = study_of(reference_parameters(), seed=1)
    study = replace(
        drawn, volume=volume, axial=replace(drawn.axial, ct_slice=volume.axial(drawn.axial_index))
    )
    claim_folder(folder / "out", volume)
    write_study(study, measure_study(study, height_m=1.7), folder / "out")
    return folder


def test_a_row_comes_out_identical(made: Path) -> None:
    found = replay_study(made / "out", made / "study")
    assert found.is_identical, (found.differences, found.changes)
    assert found.cells > 60


def test_what_changed_is_said(made: Path, tmp_path: Path) -> None:
    assert "pixels" in replay_study(made / "out", made / "other").changes
    other = replay_study(made / "out", made / "study", definitions=TISSUE_DEFINITIONS["one-fat-range"])
    assert "definitions" in other.changes
    assert "vat_area_mm2" in other.differences
    assert "sma_cm2" not in other.differences


def test_an_edited_cell_is_named(made: Path) -> None:
    path = made / "out" / "measurements.csv"
    original = path.read_bytes()
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    true, row["sma_cm2"] = row["sma_cm2"], "150.0"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    assert replay_study(made / "out", made / "study").differences == {"sma_cm2": ("150.0", true)}
    path.write_bytes(original)


def test_a_folder_without_a_row_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row of a study"):
        replay_study(tmp_path, made / "study")


def test_the_command_says_whether_it_is_the_same(made: Path) -> None:
    runner = CliRunner()
    row = str(made / "out" / "measurements.csv")
    fine = runner.invoke(app, ["replay", row, "--study", str(made / "study")])
    assert fine.exit_code == 0, fine.output
    assert "cells are identical, bit for bit" in fine.output
    other = runner.invoke(app, ["replay", row, "--study", str(made / "other"), "--json"])
    assert other.exit_code == 6
    assert "pixels" in json.loads(other.stdout)["changes"]
    assert runner.invoke(app, ["replay", row]).exit_code == 2
