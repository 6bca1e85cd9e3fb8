"""Scans of one patient in a cohort are flagged, and nothing of the patient is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.cohort import Case, Worklist, read_table, run_cohort
from ctai_sam2.cohort.patients import ONE_IDENTIFIER, find_same_patients
from ctai_sam2.phantom import make_axial_slice, random_parameters
from ctai_sam2.types import Prompt
from tests.unit.cohort.making import QUICK, write_slice
from tests.unit.io.making import ct_dataset, save

SIDE = 96


def write_image(folder: Path, name: str, seed: int, **patient: str) -> Case:
    phantom = make_axial_slice(
        random_parameters(np.random.default_rng(seed)),
        shape_hw=(SIDE, SIDE),
        spacing_mm=(4.0, 4.0),
        rng=np.random.default_rng(seed),
    )
    stored = (np.asarray(phantom.hu) + 1024).clip(0).astype(np.int16)
    dataset = ct_dataset(
        stored,
        PixelSpacing=[4, 4],
        SOPInstanceUID=f"2.25.9{seed}",
        SeriesInstanceUID=f"2.25.8{seed}",
        **patient,
    )
    (folder / name).mkdir(parents=True)
    save(dataset, folder / name / "1.dcm")
    prompt = Prompt.point(0.55 * SIDE, 0.55 * SIDE, structure="psoas_left")
    return Case(case_id=name, path=folder / name, mid_l3_index=0, prompts={"psoas_left": prompt})


def test_a_manifest_about_somebody_else_is_flagged(tmp_path: Path) -> None:
    facts = {"PatientSex": "F", "PatientSize": "1.62", "PatientWeight": "70"}
    images = {name: write_image(tmp_path, name, seed, **facts) for seed, name in enumerate("ABC")}
    cases = [
        replace(images["A"], sex="F", height_m=1.65, weight_kg=80.0),
        replace(images["B"], sex="M", height_m=1.62, weight_kg=154.0),  # pounds, and another row's sex
        replace(images["C"], height_m=1.8),
    ]
    assert run_cohort(cases, tmp_path / "out", **QUICK).failed == 0
    table = read_table(tmp_path / "out").set_index("case_id")
    flags = table["flags"].fillna("").astype(str)
    assert {name for name in "ABC" if "manifest" in flags[name]} == {"B", "C"}
    items = {item.case_id: item.flags for item in Worklist(tmp_path / "out").items}
    assert items["B"]["manifest"] == "another sex, weight than in the header of the images"
    assert items["C"]["manifest"] == "another body height than in the header of the images"
    said = table["warnings"].fillna("").str.contains("body height given is not that")
    assert said.to_dict() == {"A": False, "B": False, "C": True}


def test_scans_of_one_patient_are_flagged(tmp_path: Path) -> None:
    secret = "SECRET-77"
    cases = [
        write_image(tmp_path, "A", 1, PatientID=secret, PatientBirthDate="19500101"),
        write_image(tmp_path, "B", 2, PatientID="OTHER"),
        write_image(tmp_path, "C", 3, PatientID=secret, PatientBirthDate=""),
    ]
    done = run_cohort(cases, tmp_path / "out", **QUICK)
    assert done.failed == 0
    flags = read_table(tmp_path / "out").set_index("case_id")["flags"].fillna("").astype(str)
    assert {name for name in "ABC" if "same_patient" in flags[name]} == {"A", "C"}
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert secret.encode() not in written
    assert b"19500101" not in written
    # A run with nothing to do has the same table.
    assert run_cohort(cases, tmp_path / "out", **QUICK).unchanged == 3
    again = read_table(tmp_path / "out").set_index("case_id")["flags"].fillna("").astype(str)
    assert again.tolist() == flags.tolist()


@pytest.mark.parametrize(
    "other", [{"PatientID": "Q"}, {"PatientID": "P", "PatientBirthDate": "19610202"}, {"PatientSex": "M"}, {}]
)
def test_others_are_not(tmp_path: Path, other: dict[str, str]) -> None:
    first = write_image(tmp_path, "A", 1, PatientID="P", PatientBirthDate="19500101", PatientSex="F")
    second = write_image(tmp_path, "B", 2, **other)
    plain = Case(case_id="N", path=write_slice(tmp_path / "n.npz"))
    missing = Case(case_id="M", path=tmp_path / "gone")
    assert find_same_patients([first, second, plain, missing]) == ({}, None)


def test_one_identifier_for_all_says_nothing(tmp_path: Path) -> None:
    cases = [write_image(tmp_path, name, i, PatientID="ANON") for i, name in enumerate("ABC")]
    assert find_same_patients(cases) == ({}, ONE_IDENTIFIER)
    assert find_same_patients(cases[:2])[0] == {"A": ["B"], "B": ["A"]}
