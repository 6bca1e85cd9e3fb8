"""A chest, legs or a head: nothing is computed, whichever way it comes in, unless that is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from ctai_sam2.cli.app import app
from ctai_sam2.cohort import Case, read_table, run_cohort
from ctai_sam2.errors import InputError, OtherRegion
from ctai_sam2.segmentation import robustness, segment_axial, segment_structure, slice_sensitivity
from ctai_sam2.study.outputs import measure_files
from ctai_sam2.types import CTSlice, CTVolume, Prompt
from tests.fakes import FakeSegmenter
from tests.unit.cohort.making import QUICK, do_here

SPACING = (3.0, 3.0)
POINT = Prompt.point(60, 60, structure="psoas_left")


def chest() -> np.ndarray[Any, Any]:
    y, x = np.mgrid[:120, :120].astype(float)
    hu = np.full((120, 120), -1000, np.int16)
    hu[np.hypot((x - 60) / 1.3, y - 60) < 40] = 50
    hu[np.hypot(x - 60, y - 85) < 6] = 400
    for side in (35, 85):
        hu[np.hypot((x - side) / 0.8, y - 55) < 22] = -850
    return hu


def test_every_way_to_segment_refuses_a_chest() -> None:
    ct_slice = CTSlice(hu=chest(), spacing_mm=SPACING, plane="axial")
    segmenter = FakeSegmenter()
    for call in (
        lambda: segment_axial(ct_slice, segmenter),
        lambda: segment_axial(ct_slice, segmenter, prompts={"psoas_left": POINT}),
        lambda: segment_structure(ct_slice, "psoas_left", segmenter),
        lambda: segment_structure(ct_slice, "psoas_left", segmenter, prompt=POINT),
        lambda: robustness(ct_slice, POINT, segmenter, structure="psoas_left", n=2),
        lambda: slice_sensitivity(
            CTVolume(hu_zyx=np.stack([chest()] * 3), affine=np.diag([3.0, 3.0, 5.0, 1.0])), 1, segmenter
        ),
    ):
        with pytest.raises(OtherRegion, match="shows a chest"):
            call()
    wanted = segment_structure(ct_slice, "psoas_left", segmenter, prompt=POINT, any_region=True)
    assert wanted.mask.any()
    assert any("not checked, as requested" in text for text in wanted.warnings)
    again = robustness(ct_slice, POINT, segmenter, structure="psoas_left", n=2, any_region=True)
    assert again.areas_mm2.size == 2


def test_values_that_are_no_hu_are_refused_on_single_slices() -> None:
    grey = CTSlice(hu=np.clip(chest() // 5 + 200, 0, 255), spacing_mm=SPACING, plane="axial")
    with pytest.raises(InputError, match="do not look like Hounsfield units"):
        segment_axial(grey, FakeSegmenter(), prompts={"psoas_left": POINT})


@pytest.mark.parametrize("kind", ["nifti", "slice"])
def test_masks_on_a_chest_are_measured_on_request_only(tmp_path: Path, kind: str) -> None:
    affine = np.diag([-3.0, -3.0, 5.0, 1.0])
    stack = np.repeat(chest().T[:, :, None], 3 if kind == "nifti" else 1, axis=2)
    image = nibabel.Nifti1Image(stack, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "ct.nii.gz")
    mask = np.zeros((120, 120), np.uint8)
    mask[84:87, 84:87] = 1
    # Ten by ten pixels of muscle between the lungs and the spine.
    mask[60:70, 55:65] = 1
    drawn = np.repeat(mask.T[:, :, None], stack.shape[2], axis=2)
    nibabel.save(nibabel.Nifti1Image(drawn, affine), tmp_path / "muscle.nii.gz")
    index = 1 if kind == "nifti" else 0
    with pytest.raises(OtherRegion, match=r"shows a chest.*any_region=True \(--any-region\)"):
        measure_files(tmp_path / "ct.nii.gz", {"muscle": tmp_path / "muscle.nii.gz"}, axial_index=index)
    arguments = ["measure", "ct.nii.gz", "--axial-index", index, "--mask", "muscle=muscle.nii.gz"]
    named = [str(tmp_path / a) if str(a).startswith("ct") else str(a) for a in arguments]
    named[-1] = f"muscle={tmp_path / 'muscle.nii.gz'}"
    refused = CliRunner().invoke(app, named)
    assert refused.exit_code != 0
    assert "--any-region" in refused.stderr
    result = CliRunner().invoke(app, [*named, "--any-region", "--json"])
    row = json.loads(result.stdout)
    muscle = int((mask.astype(bool) & (chest() >= -29) & (chest() <= 150)).sum())
    assert row["sma_cm2"] == pytest.approx(muscle * 9 / 100)
    assert "not checked, as requested" in row["warnings"]


def test_a_cohort_counts_a_chest_as_failed_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_here(monkeypatch)
    np.savez(
        tmp_path / "p.npz", image=chest(), spacing=np.array(SPACING), meta=json.dumps({"plane": "axial"})
    )
    done = run_cohort(
        [Case(case_id="A", path=tmp_path / "p.npz", prompts={"psoas_left": POINT})], tmp_path / "out", **QUICK
    )
    assert done.failed == 1
    row = read_table(tmp_path / "out").iloc[0]
    assert row["status"] == "failed"
    assert "shows a chest" in row["error"]
    assert "any-region" not in row["error"]
    assert np.isnan(row["psoas_left_area_mm2"])


def test_the_users_masks_on_a_cropped_slice_are_measured_with_a_note(tmp_path: Path) -> None:
    hu = chest()[50:90, 40:80]
    affine = np.diag([-3.0, -3.0, 5.0, 1.0])
    image = nibabel.Nifti1Image(hu.T[:, :, None], affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "ct.nii")
    ct_slice = CTVolume(hu_zyx=hu[None], affine=np.diag([3.0, 3.0, 5.0, 1.0])).axial(0)
    assert ct_slice.shape_hw == (40, 40)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 10:20] = 1
    nibabel.save(nibabel.Nifti1Image(mask.T[:, :, None], affine), tmp_path / "m.nii")
    row = measure_files(tmp_path / "ct.nii", {"psoas_left": tmp_path / "m.nii"}, axial_index=0)
    counted = int((mask.astype(bool) & (hu >= -29) & (hu <= 150)).sum())
    assert row["psoas_left_area_mm2"] == counted * 9
    assert (row["l3_certainty"], row["level_chosen_by"]) == ("user", "user")
    assert "120 x 120 mm shows no whole trunk" in str(row["warnings"])
