from __future__ import annotations

from pathlib import Path

import pytest

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.io import SeriesInfo, list_series, read_study
from ctai_sam2.io.dicom_series import propose_series
from tests.robustness.dicom_making import dataset, save, two_stacks
from tests.robustness.image_case import body


def test_two_patients_under_one_series_are_never_one_volume(tmp_path: Path) -> None:
    two_stacks(
        lambda part: {"PatientID": f"P{part}", "PatientSex": "FM"[part], "PatientSize": ("1.6", "1.9")[part]}
    )(tmp_path)
    with pytest.raises(InputError, match="distinguished by patient"):
        read_study(tmp_path)
    infos = list_series(tmp_path)
    assert {info.sex for info in infos} == {"F", "M"}
    # Both are proposed: they are two studies, whatever their UIDs say.
    assert [info.proposed for info in infos] == [True, True]
    for info in infos:
        read = read_study(tmp_path, series_uid=info.uid)
        assert read.shape_zyx[0] == 5
        assert read.acquisition.patient_sex == info.sex


def test_phases_are_read_one_by_one(tmp_path: Path) -> None:
    two_stacks(lambda part: {"AcquisitionNumber": part + 1, "SeriesDescription": "Abdomen 5.0"})(tmp_path)
    infos = list_series(tmp_path)
    assert [info.phase for info in infos] == ["acquisition 1", "acquisition 2"]
    assert {info.description for info in infos} == {"Abdomen 5.0"}
    muscle = [int(read_study(tmp_path, series_uid=info.uid).hu_zyx[0, 4, 4]) for info in infos]
    assert muscle == [10, 70]


def test_nothing_of_a_patient_is_in_a_header_or_a_list(tmp_path: Path) -> None:
    from ctai_sam2.io.dicom_headers import read_headers

    made = dataset(body(), PatientName="Doe^Jane", PatientID="4711-0815", PatientBirthDate="19500101")
    (header,) = read_headers(save(made, tmp_path / "a.dcm"))
    shown = repr(header) + str(list_series(tmp_path))
    assert not any(word in shown for word in ("Doe", "4711", "19500101"))


@pytest.mark.parametrize("turns", [9, 10, 13])
def test_times_and_acquisitions_of_the_turns_of_a_tube_split_no_stack(tmp_path: Path, turns: int) -> None:
    for i in range(20):
        changes = {"AcquisitionTime": f"1015{10 + i * 7 % turns}", "AcquisitionNumber": i // 2 + 1}
        save(dataset(body(i), 3.0 * i, i + 1, **changes), tmp_path / f"{i:02d}.dcm")
    assert read_study(tmp_path).shape_zyx[0] == 20


@pytest.mark.parametrize("apart_mm", [0.0, 2.5])
def test_reconstructions_about_two_middles_are_two_stacks(tmp_path: Path, apart_mm: float) -> None:
    for i in range(10):
        part, z = i % 2, i // 2 * 5.0
        place = [-20 + 40 * part, -30, z + apart_mm * part]
        made = dataset(body(i), 0.0, i + 1, InstanceNumber=None, ImagePositionPatient=place)
        save(made, tmp_path / f"{i}.dcm")
    with pytest.raises(InputError, match="distinguished by field of view"):
        read_study(tmp_path)
    origins = [read_study(tmp_path, series_uid=info.uid).affine[0, 3] for info in list_series(tmp_path)]
    assert sorted(origins) == [-20, 20]


def test_what_changes_along_one_stack_splits_it_not(tmp_path: Path) -> None:
    """A thickness that changes half-way, a tilted gantry, a middle that moves once."""
    for i in range(10):
        place = [-20 + 30 * (i > 6), -30 + 8.0 * i, 12.0 * i]
        facts = {"SliceThickness": "5" if i < 5 else "8", "SeriesDescription": "up" if i < 5 else "down"}
        save(dataset(body(i), 0.0, i + 1, ImagePositionPatient=place, **facts), tmp_path / f"{i}.dcm")
    assert read_study(tmp_path).shape_zyx[0] == 10


def test_the_files_of_a_repeated_slice_are_named(tmp_path: Path) -> None:
    for i in range(4):
        save(dataset(body(i), 5.0 * i, i + 1, AcquisitionNumber=i + 1), tmp_path / f"{i}.dcm")
    save(dataset(body(1) + 30, 5.0, 9, AcquisitionNumber=9), tmp_path / "again.dcm")
    with pytest.raises(GeometryError, match=r"one slice is there twice.*1\.dcm and again\.dcm"):
        read_study(tmp_path)


def info(uid: str, **facts: object) -> SeriesInfo:
    values = {
        "modality": "CT",
        "image_count": 60,
        "plane": "axial",
        "step_mm": 5.0,
        "thickness_mm": 5.0,
        **facts,
    }
    return SeriesInfo(uid=uid, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (info("1.1", kernel="B30f"), info("1.2", kernel="B70f", image_count=90)),
        (info("1.1", kernel="STANDARD"), info("1.2", kernel="LUNG", image_count=90)),
        (info("1.1", kernel="FC08"), info("1.2", kernel="FC51", image_count=90)),
        (info("1.1"), info("1.2", image_count=400, step_mm=0.7, thickness_mm=1.0)),
        (info("1.1"), info("1.2", image_count=5)),
        (info("1.1"), info("1.2", plane="coronal", image_count=200)),
        (info("1.1"), info("1.2", refusal="a localizer", image_count=200)),
    ],
)
def test_what_is_proposed(better: SeriesInfo, worse: SeriesInfo) -> None:
    assert [one.uid for one in propose_series([worse, better])] == ["1.1"]


def test_one_is_proposed_of_each_study() -> None:
    found = propose_series(
        [info("1.1", study_uid="1"), info("1.2", study_uid="2"), info("1.3", study_uid="2")]
    )
    assert [one.study_uid for one in found] == ["1", "2"]
