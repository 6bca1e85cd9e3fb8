"""A case is corrected with a mask that was drawn on its whole volume in another program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from ctai_sam2.cli.app import app
from ctai_sam2.cohort import Case, read_table, run_cohort
from ctai_sam2.io import read_study
from ctai_sam2.phantom import make_axial_slice, random_parameters
from ctai_sam2.types import CTVolume, Prompt
from tests.unit.cohort.making import QUICK
from tests.unit.io.making import write_series

SIDE, SPACING = 96, 4.0


def make_study(folder: Path) -> CTVolume:
    phantom = make_axial_slice(
        random_parameters(np.random.default_rng(1)),
        shape_hw=(SIDE, SIDE),
        spacing_mm=(SPACING, SPACING),
        rng=np.random.default_rng(1),
    )
    hu = np.asarray(phantom.hu).astype(np.int16)
    affine = np.diag([SPACING, SPACING, 5.0, 1.0])
    affine[:3, 3] = (-190, -170, 40)
    write_series(
        folder, CTVolume(hu_zyx=np.stack([hu - 1, hu, hu + 1]), affine=affine), orientation="negated both"
    )
    return read_study(folder)


def write_mask(path: Path, mask_zyx: Any, volume: CTVolume) -> None:
    """As 3D Slicer does: on the whole grid, in RAS."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    image = nibabel.Nifti1Image(mask_zyx.transpose(2, 1, 0).astype(np.uint8), affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def test_a_correction_by_a_mask_of_the_whole_volume(tmp_path: Path) -> None:
    volume = make_study(tmp_path / "study")
    prompt = Prompt.point(0.55 * SIDE, 0.55 * SIDE, structure="psoas_left")
    case = Case(case_id="P", path=tmp_path / "study", mid_l3_index=1, prompts={"psoas_left": prompt})
    assert run_cohort([case], tmp_path / "out", **QUICK).failed == 0
    drawn = np.zeros(volume.shape_zyx, bool)
    drawn[1, 50:60, 55:63] = True
    drawn[2, 10:20, 10:20] = True
    write_mask(tmp_path / "whole.nii.gz", drawn, volume)
    arguments = ["cohort", "review", str(tmp_path / "out"), "--correct", "P", "--by", "anna", "--mask"]
    result = CliRunner().invoke(app, [*arguments, f"psoas_left={tmp_path / 'whole.nii.gz'}"])
    assert result.exit_code == 0, result.output
    row = read_table(tmp_path / "out").iloc[0]
    hu = np.asarray(volume.hu_zyx)[1][drawn[1]]
    counted = int(((hu >= -29) & (hu <= 150)).sum())
    assert row["psoas_left_pixels"] == counted
    assert row["psoas_left_area_mm2"] == pytest.approx(counted * SPACING**2)
    assert row["reviewed_by"] == "anna"
    # A mask of another slice alone is refused, and the row stays.
    drawn[1] = False
    write_mask(tmp_path / "above.nii.gz", drawn, volume)
    result = CliRunner().invoke(app, [*arguments, f"psoas_left={tmp_path / 'above.nii.gz'}"])
    assert result.exit_code != 0
    assert "no voxel on this slice" in result.output
    assert read_table(tmp_path / "out").iloc[0]["psoas_left_pixels"] == counted
