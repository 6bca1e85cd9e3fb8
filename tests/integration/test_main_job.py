"""The main job with the shipped model: a study in, masks and a table out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2 import measure_study, open_segmenter, read_study, segment_study
from ctai_sam2.cli.demo import SEED, SHAPE_ZYX, SPACING_ZYX_MM, make_demo_study
from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.io import read_case_npz
from ctai_sam2.measure.overlap import dice
from ctai_sam2.models.protocol import Segmenter
from ctai_sam2.phantom import make_volume, masks_from_labels, reference_parameters
from ctai_sam2.segmentation import find_l3_in_volume, mid_l3_axial_index, segment_axial


def test_demo_study_comes_out_as_it_was_drawn() -> None:
    drawn = make_volume(
        reference_parameters(),
        shape_zyx=SHAPE_ZYX,
        spacing_zyx_mm=SPACING_ZYX_MM,
        rng=np.random.default_rng(SEED),
    )
    volume = read_study(make_demo_study())
    with open_segmenter("local") as segmenter:
        study = segment_study(volume, segmenter)
    z_mm = (volume.affine @ (0, 0, study.axial_index, 1))[2]
    assert abs(z_mm - drawn.levels_mm["L3"]) <= 12
    truth = masks_from_labels(drawn.labels_zyx[study.axial_index])
    np.testing.assert_array_equal(volume.hu_zyx, drawn.hu_zyx)
    assert dice(study.masks["muscle"], truth["muscle"]) > 0.85
    for side in ("psoas_left", "psoas_right"):
        assert dice(study.masks[side], truth[side]) > 0.8
    area_cm2 = truth["muscle"].sum() * 0.64 / 100
    assert measure_study(study, height_m=1.75)["sma_cm2"] == pytest.approx(area_cm2, rel=0.1)


@pytest.mark.realdata
def test_a_real_study_is_measured_as_a_reader_would(real_data: Path) -> None:
    volume = read_study(real_data / "dev" / "series" / "crlm_1006")
    case = read_case_npz(real_data / "dev" / "cases" / "crlm1006_axial_z10.npz")
    np.testing.assert_array_equal(volume.axial(10).hu, case.slice.hu)
    with open_segmenter("local") as segmenter:
        # The stack ends in L4: without the sacrum the level is not guessed, and the true one is proposed.
        found = find_l3_in_volume(volume, segmenter)
        with pytest.raises(AnatomyNotFound, match="likeliest mid-L3 slices"):
            segment_study(volume, segmenter)
        given = segment_study(volume, segmenter, axial_index=10)
    assert found.certainty == "unknown"
    proposed = [found.candidates[index].result for index in found.proposals]
    slices = [mid_l3_axial_index(volume, result.mask) for result in proposed if result is not None]
    assert min(abs(index - 10) for index in slices) <= 2
    assert dice(given.masks["muscle"], case.masks["muscle"]) > 0.88
    for side in ("psoas_left", "psoas_right"):
        assert dice(given.masks[side], case.masks[side]) > 0.8
    # The dense head reads this slice 7 % high (the model card says so); left out of training, too.
    assert measure_study(given)["sma_cm2"] == pytest.approx(106.0, rel=0.08)


@pytest.mark.realdata
def test_l3_is_found_in_a_nifti_study_of_a_bent_spine(real_data: Path) -> None:
    volume = read_study(real_data / "dev" / "series" / "ts_example_nifti" / "example_ct.nii.gz")
    with open_segmenter("local") as segmenter:
        study = segment_study(volume, segmenter)
    assert study.sagittal is not None
    # The spine is bent: no sagittal slice shows all of it, so the level is only estimated.
    assert study.sagittal.certainty == "estimated"
    assert any("probability" in warning for warning in study.warnings)
    assert abs(study.axial_index - 71) * volume.spacing_zyx_mm[0] <= 12


@pytest.fixture(scope="module")
def shipped() -> Iterator[Segmenter]:
    with open_segmenter("local") as segmenter:
        yield segmenter


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "muscle", "psoas"),
    # Two hundredths below what is measured.
    [
        ("crlm1006_axial_z4", 0.93, 0.93),
        ("pcb001_axial_L34disc", 0.94, 0.90),
        ("sbu_A058062_axial_19010108-078", 0.93, 0.86),
        ("sbu_A062055_axial_19001228-131", 0.81, 0.86),
    ],
)
def test_one_click_on_patients_the_model_never_saw(
    real_data: Path, shipped: Segmenter, name: str, muscle: float, psoas: float
) -> None:
    case = read_case_npz(real_data / "dev" / "cases" / f"{name}.npz")
    found = segment_axial(case.slice, shipped).structures
    assert dice(found["muscle"].mask, case.masks["muscle"]) > muscle
    for side in ("psoas_left", "psoas_right"):
        assert dice(found[side].mask, case.masks[side]) > psoas
