"""Readers compared over whole volumes: folders as ``ctai-sam2 segment --levels`` writes them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ctai_sam2.agreement import compare_readers, read_readings, write_comparison
from ctai_sam2.cli.app import app
from ctai_sam2.errors import InputError
from ctai_sam2.segmentation.volume import SliceMask, VolumeResult
from ctai_sam2.segmentation.volume.result import LevelRange
from ctai_sam2.study.volume_outputs import write_volume_result
from ctai_sam2.types import CTVolume


def volume_of(step_mm: float = 5.0) -> CTVolume:
    affine = np.diag([2.0, 1.0, step_mm, 1.0])
    return CTVolume(hu_zyx=np.full((6, 30, 40), 50, np.int16), affine=affine)


def write_case(folder: Path, widths: list[int], volume: CTVolume | None = None) -> None:
    """A muscle 10 pixels high and as wide as given on slices 1 to 4."""
    slices = {
        1 + place: SliceMask(corner_yx=(5, 6), crop=np.ones((10, width), bool), source="automatic")
        for place, width in enumerate(widths)
    }
    level = LevelRange(name="L3", lower_mm=5.0, upper_mm=15.0)
    result = VolumeResult(
        volume=volume or volume_of(),
        indices=tuple(slices),
        levels=(level,),
        structure_slices={"muscle": slices},
    )
    write_volume_result(result, folder)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("readers")
    for number in range(3):
        write_case(root / "anna" / f"c{number}", [10 + number] * 4)
        write_case(root / "model" / f"c{number}", [10 + number, 12 + number, 10 + number, 10 + number])
    return root


def test_volumes_are_compared_by_dice_and_by_volume(readers: Path, tmp_path: Path) -> None:
    found = compare_readers(read_readings(readers / "anna"), read_readings(readers / "model"))
    assert [(one.case, one.structure) for one in found.volumes] == [(f"c{i}", "muscle") for i in range(3)]
    first = found.volumes[0]
    assert first.dice == pytest.approx(2 * 400 / (400 + 420))
    # A voxel is 2 x 1 x 5 mm.
    assert (first.first_cm3, first.second_cm3) == pytest.approx((4.0, 4.2))
    assert first.difference_percent == pytest.approx(-100 * 0.2 / 4.1)
    measures = {entry.measure: entry for entry in found.measures}
    assert set(measures) == {"muscle_volume_cm3", "muscle_L3_volume_cm3"}
    assert measures["muscle_volume_cm3"].bland_altman.bias == pytest.approx(-0.2)
    # Volumes have no slice to choose.
    assert found.slices is None
    assert not any("which slice" in text or "not compared" in text for text in found.cautions)
    files = write_comparison(found, tmp_path)
    assert files.volumes is not None
    rows = list(csv.DictReader(files.volumes.read_text().splitlines()))
    assert [row["case"] for row in rows] == ["c0", "c1", "c2"]


def test_the_ranges_of_two_cohorts_are_compared(readers: Path, tmp_path: Path) -> None:
    for reader in ("anna", "model"):
        shutil.copytree(readers / reader, tmp_path / reader / "volumes")
        table = "case_id,status,sma_cm2\nc0,done,120\nc1,done,130\nc2,done,140\nfailed,failed,\n"
        (tmp_path / reader / "table.csv").write_text(table)
    arguments = ["agreement", str(tmp_path / "anna"), str(tmp_path / "model"), "--out", str(tmp_path / "o")]
    out = CliRunner().invoke(app, arguments)
    assert out.exit_code == 0, out.output
    assert "Outlines over whole volumes" in out.output
    assert "muscle_L3_volume_cm3" in out.output
    assert "sma_cm2" in out.output


def test_the_command_shows_volumes(readers: Path, tmp_path: Path) -> None:
    out = CliRunner().invoke(
        app, ["agreement", str(readers / "anna"), str(readers / "model"), "--out", str(tmp_path)]
    )
    assert out.exit_code == 0, out.output
    assert "Outlines over whole volumes" in out.output
    assert (tmp_path / "volumes.csv").is_file()


def test_masks_on_other_grids_are_said_and_damaged_tables_refused(readers: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_case(tmp_path / "bert" / f"c{number}", [10 + number] * 4, volume_of(step_mm=4.0))
    found = compare_readers(read_readings(readers / "anna"), read_readings(tmp_path / "bert"))
    assert found.volumes == ()
    assert any("3 masks lie on different grids" in text for text in found.cautions)
    (tmp_path / "bert" / "c1" / "levels.csv").write_text("structure,volume_cm3\nmuscle,4\n")
    with pytest.raises(InputError, match="structure and level"):
        read_readings(tmp_path / "bert")
