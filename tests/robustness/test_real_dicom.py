"""Reading odd and real CT: nothing may come out wrong, and what is refused says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.errors import DicomError, InputError
from ctai_sam2.io import list_series, read_case_npz, read_mask_nifti, read_slice, read_study

pytestmark = pytest.mark.realdata

LOSSLESS = [
    "BigEndianExplicit",
    "JPEG2000LosslessOnly",
    "JPEGLSLossless",
    "JPEGProcess14",
    "JPEGProcess14SV1",
    "RLELossless",
]


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_syntaxes_agree_to_the_last_bit(real_data: Path, name: str) -> None:
    folder = real_data / "robust"
    reference = read_slice(folder / "ctimage_BigEndianExplicitTransferSyntax.dcm")
    image = read_slice(folder / f"ctimage_{name}TransferSyntax.dcm")
    np.testing.assert_array_equal(image.hu, reference.hu)
    assert (image.hu.min(), image.hu.max(), image.hu.dtype) == (-1024, 1378, np.int16)
    assert image.warnings == ()


@pytest.mark.parametrize(
    ("name", "error_hu"), [("JPEG2000", 5), ("JPEGLSLossy", 5), ("JPEGProcess1", 64), ("JPEGProcess2_4", 16)]
)
def test_lossy_syntaxes_are_close_and_reported(real_data: Path, name: str, error_hu: float) -> None:
    folder = real_data / "robust"
    reference = read_slice(folder / "ctimage_BigEndianExplicitTransferSyntax.dcm")
    image = read_slice(folder / f"ctimage_{name}TransferSyntax.dcm")
    assert "the image was compressed with loss" in image.warnings
    difference = np.abs(image.hu.astype(int) - reference.hu)
    assert np.percentile(difference, 99) <= error_hu


@pytest.mark.parametrize(
    ("name", "plane", "tissue_median"),
    [
        ("pelvis_mpr_j2k_signmismatch.dcm", "coronal", (0, 80)),
        ("head_j2k_pixelrep_mismatch_tilt-22.dcm", "oblique", (0, 80)),
        ("head_tilt18.5_rs1_0.dcm", "oblique", (0, 80)),
        ("liver_dcmqi.dcm", "axial", (20, 90)),
        ("toshiba_j2k_upperabd.dcm", "axial", (20, 120)),
        ("ts_j2k_lossless_T12.dcm", "axial", (20, 120)),
        ("pancreas_j2k_vrUN_rowdir-y.dcm", "axial", (20, 120)),
    ],
)
def test_odd_headers_give_plausible_hu(
    real_data: Path, name: str, plane: str, tissue_median: tuple[int, int]
) -> None:
    image = read_slice(real_data / "robust" / name)
    assert image.plane == plane
    assert image.hu.min() == -1024
    assert 500 < image.hu.max() < 4000
    soft = image.hu[(image.hu > -20) & (image.hu < 200)]
    assert tissue_median[0] < np.median(soft) < tissue_median[1]


def test_a_row_direction_against_y_comes_out_with_the_table_below(real_data: Path) -> None:
    image = read_slice(real_data / "robust" / "pancreas_j2k_vrUN_rowdir-y.dcm")
    case = read_case_npz(real_data / "dev" / "cases" / "nihpancreas_axial.npz")
    np.testing.assert_array_equal(image.hu, case.slice.hu)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("localizer_716x512_jp2lossy.dcm", "localizer"),
        ("enhanced_ct_2frames.dcm", "perfusion map"),
        ("enhanced_ct_2frames_rle.dcm", "perfusion map"),
        ("enhanced_ct_2frames_jpegls.dcm", "perfusion map"),
    ],
)
def test_what_is_not_a_ct_section_is_refused(real_data: Path, name: str, reason: str) -> None:
    with pytest.raises(DicomError, match=f"{name} cannot be used: a {reason}"):
        read_study(real_data / "robust" / name)


def test_values_that_are_not_hu_are_noticed(real_data: Path) -> None:
    image = read_slice(real_data / "robust" / "head_tilt14.dcm")
    assert any("do not look like Hounsfield units" in w for w in image.warnings)


def test_a_folder_of_many_series_is_listed(real_data: Path) -> None:
    infos = list_series(real_data / "robust")
    assert sum(info.image_count for info in infos) == 25
    assert {"a localizer (scout view), not a cross-section", "a perfusion map, not Hounsfield units"} <= {
        info.refusal for info in infos
    }
    with pytest.raises(InputError, match="series fit"):
        read_study(real_data / "robust")


def test_the_series_agrees_with_its_cases(real_data: Path) -> None:
    volume = read_study(real_data / "dev" / "series" / "crlm_1006")
    assert volume.shape_zyx == (51, 512, 512)
    assert volume.spacing_zyx_mm == pytest.approx((5.0, 0.804688, 0.804688))
    assert volume.warnings == ()
    assert volume.acquisition.contrast is True
    for z in (4, 8, 10, 16):
        case = read_case_npz(real_data / "dev" / "cases" / f"crlm1006_axial_z{z}.npz")
        np.testing.assert_array_equal(volume.axial(z).hu, case.slice.hu)
        assert volume.axial(z).spacing_mm == case.slice.spacing_mm
    sagittal = read_case_npz(real_data / "dev" / "cases" / "crlm1006_sagittal_x250.npz")
    np.testing.assert_array_equal(volume.sagittal(250).hu, sagittal.slice.hu)
    # Mid-L3 is row 40 of the sagittal picture, axial slice 10, file 1-41.
    assert sagittal.masks["L3"][40].any()
    assert volume.axial_index_of_row(40) == 10
    single = read_slice(real_data / "dev" / "series" / "crlm_1006" / "1-41.dcm")
    np.testing.assert_array_equal(single.hu, volume.axial(10).hu)
    np.testing.assert_allclose(single.affine, volume.axial(10).affine)


def test_times_of_the_turns_of_the_tube_split_no_stack(real_data: Path) -> None:
    (info,) = (one for one in list_series(real_data / "dev" / "series" / "pcb001") if one.usable)
    assert (info.image_count, info.distinguished_by, info.proposed) == (134, (), True)


def test_the_nifti_volume_agrees_with_its_cases_and_labels(real_data: Path) -> None:
    folder = real_data / "dev" / "series" / "ts_example_nifti"
    volume = read_study(folder / "example_ct.nii.gz")
    axial = read_case_npz(real_data / "dev" / "cases" / "ts_example_axial_L3_mid_z71.npz")
    sagittal = read_case_npz(real_data / "dev" / "cases" / "ts_example_sagittal_mid.npz")
    np.testing.assert_array_equal(volume.axial(71).hu, axial.slice.hu)
    np.testing.assert_array_equal(volume.sagittal(63).hu, sagittal.slice.hu)
    labels = read_mask_nifti(folder / "example_seg_fast_force_split.nii.gz", volume)
    np.testing.assert_array_equal(labels[71] == 88, axial.masks["iliopsoas_left"])
    assert axial.masks["psoas_left"].nonzero()[1].mean() > axial.masks["psoas_right"].nonzero()[1].mean()


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal"])
def test_single_slices_agree_with_their_cases(real_data: Path, plane: str) -> None:
    files = sorted((real_data / "dev" / "series" / "sbu").glob(f"*_{plane}_*.dcm"))
    assert len(files) == 4
    compared = 0
    for path in files:
        image = read_slice(path)
        assert image.plane == plane
        patient, _, name = path.stem.split("_")
        case = (
            real_data
            / "dev"
            / "cases"
            / f"sbu_{patient}_{plane[:3] if plane == 'sagittal' else plane}_{name}.npz"
        )
        if case.is_file():
            np.testing.assert_array_equal(image.hu, read_case_npz(case).slice.hu)
            assert image.spacing_mm == pytest.approx(read_case_npz(case).slice.spacing_mm)
            compared += 1
    assert compared == {"axial": 2, "sagittal": 4, "coronal": 0}[plane]


def test_compressed_slices_without_a_series_uid_make_a_volume(real_data: Path) -> None:
    volume = read_study(real_data / "dev" / "series" / "ts_example_dicom")
    assert volume.shape_zyx == (20, 512, 512)
    assert volume.spacing_zyx_mm[0] == pytest.approx(2.0)
    assert volume.acquisition.slice_thickness_mm == 3.0
