from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from ctai_sam2.cli.app import app
from ctai_sam2.cohort import scan_cases
from tests.robustness.corpus_nrrd import nrrd_bytes
from tests.robustness.dicom_making import dataset, save
from tests.robustness.image_case import body, stack


def study(folder: Path, count: int = 4, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    series = str(changes.get("SeriesInstanceUID", "2.25.2"))
    for i in range(count):
        values = {"SOPInstanceUID": f"{series}.{i}", **changes}
        save(dataset(body(i), 5.0 * i, i + 1, **values), folder / f"{series}-{i}.dcm")
    return folder


def test_one_series_of_a_study_is_proposed_and_the_others_described(tmp_path: Path) -> None:
    study(tmp_path / "p1", 6, ConvolutionKernel="B30f", KVP="120", SeriesDescription="Abdomen venös 5.0",
          SpecificCharacterSet="ISO_IR 100")  # fmt: skip
    study(tmp_path / "p1", 8, ConvolutionKernel="B70f", SeriesInstanceUID="2.25.3")
    study(tmp_path / "p1", 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="2.25.4")
    found = scan_cases(tmp_path)
    assert [(case.path.name, case.series_uid, case.sex) for case in found.cases] == [("p1", "2.25.2", "F")]
    rows = {one.info.uid: one.to_row() for one in found.series}
    assert rows["2.25.2"]["case_id"] == "case-0001"
    assert rows["2.25.2"]["description"] == "Abdomen venös 5.0"
    assert (rows["2.25.2"]["plane"], rows["2.25.2"]["slices"], rows["2.25.2"]["kvp"]) == ("axial", 6, 120.0)
    assert rows["2.25.3"]["left_out"] == "series 2.25.2 of the study is proposed"
    assert "localizer" in str(rows["2.25.4"]["left_out"])
    assert len(scan_cases(tmp_path, all_series=True).cases) == 2


def test_two_studies_in_one_folder_are_two_cases(tmp_path: Path) -> None:
    study(tmp_path / "p1", 4)
    study(tmp_path / "p1", 4, SeriesInstanceUID="2.25.3", StudyInstanceUID="2.25.8")
    assert [case.series_uid for case in scan_cases(tmp_path).cases] == ["2.25.2", "2.25.3"]


def test_everything_left_out_is_said(tmp_path: Path) -> None:
    study(tmp_path / "p1")
    study(tmp_path, 3, SeriesInstanceUID="2.25.5")
    save(dataset(body(), SeriesInstanceUID="2.25.6", SOPInstanceUID="2.25.61"), tmp_path / "single.dcm")
    (tmp_path / "list.xlsx").write_bytes(b"x")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "twin").symlink_to(tmp_path / "p1", target_is_directory=True)
    (tmp_path / "p1" / "lost.dcm").symlink_to(tmp_path / "nowhere.dcm")
    (tmp_path / "p1" / "broken.dcm").write_bytes(b"no image")
    (tmp_path / "volume.nrrd").write_bytes(nrrd_bytes(stack()))
    found = scan_cases(tmp_path)
    assert [case.path.name for case in found.cases] == ["p1", "single.dcm", "volume.nrrd"]
    reasons = dict(found.skipped)
    assert reasons["gone"] == "a link to nothing"
    assert reasons["twin"] == "a link to p1, which is read already"
    assert reasons["list.xlsx"].startswith("no DICOM")
    assert "3 images of one series lie next to folders" in reasons["2.25.5-0.dcm and 2 more"]
    assert reasons["p1: lost.dcm"] == "a link to nothing"
    assert reasons["p1: broken.dcm"] == "not a DICOM file"


def test_names_that_are_not_utf8_stop_nothing(tmp_path: Path) -> None:
    study(tmp_path / "a\udcff")
    study(tmp_path / "b")
    found = scan_cases(tmp_path, ids_from_names=True)
    assert [case.case_id for case in found.cases] == ["a", "b"] or len(found.cases) == 2


def test_the_command_says_the_same(tmp_path: Path) -> None:
    study(tmp_path / "in" / "p1", 6, ConvolutionKernel="B30f")
    study(tmp_path / "in" / "p1", 8, ConvolutionKernel="B70f", SeriesInstanceUID="2.25.3")
    (tmp_path / "in" / "gone").symlink_to(tmp_path / "nowhere")
    call = ["cohort", "scan", str(tmp_path / "in"), "--out", str(tmp_path / "m.csv")]
    shown = CliRunner().invoke(app, [*call, "--json"])
    content = json.loads(shown.stdout)
    assert [one["kernel"] for one in content["series"]] == ["B70f", "B30f"]
    assert content["left_out"] == [{"entry": "gone", "reason": "a link to nothing"}]
    text = CliRunner().invoke(app, [*call, "--force"]).output
    assert "B30f" in text
    assert "gone: a link to nothing" in text
