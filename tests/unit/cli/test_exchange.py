"""``ctai-sam2 export`` and ``import`` as a shell sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from ctai_sam2.cli.app import app
from ctai_sam2.io import read_mask_png, read_study, write_mask_nifti, write_mask_png
from tests.dicom_series import write_series_as
from tests.unit.io.making import make_volume

pytest.importorskip("highdicom", reason="the extra 'export' is not installed")


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any], dict[str, Path]]:
    monkeypatch.setenv("SAM2_MODEL_PATH", str(tmp_path / "models"))
    study = tmp_path / "study"
    write_series_as(study, make_volume((4, 12, 9)), orientation="negated both")
    ct = read_study(study).axial(2)
    masks = {"psoas_left": np.zeros(ct.shape_hw, bool), "muscle": np.zeros(ct.shape_hw, bool)}
    masks["psoas_left"][2:5, 1:4] = True
    masks["muscle"][2:11, 1:8] = True
    # As `segment` writes them: one NIfTI per structure, one slice each.
    files = {
        name: write_mask_nifti(tmp_path / "masks" / f"{name}.nii.gz", m, ct) for name, m in masks.items()
    }
    return study, masks, files


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("seg.dcm", []),
        ("rt.dcm", ["--format", "rtstruct"]),
        ("m.json", ["--polygons"]),
        ("m.nii.gz", ["--later-wins"]),
    ],
)
def test_results_go_out_and_come_back(tmp_path: Path, made: Any, file: str, options: list[str]) -> None:
    study, masks, files = made
    order = [files["muscle"], files["psoas_left"]]
    code, text, error = run("export", study, *order, "--out", tmp_path / file, *options, "--json")
    assert code == 0, error
    document = json.loads(text)
    assert document["masks"][1] == {
        "structure": "psoas_left",
        "voxels": 9,
        "volume_cm3": pytest.approx(9 * 0.75 * 0.8 * 2.5 / 1000),
        "slices": 1,
    }
    code, text, error = run("import", study, tmp_path / file, "--out", tmp_path / "back", "--json")
    assert code == 0, error
    assert json.loads(text)["axial_index"] == 2
    if "--later-wins" in options:
        masks["muscle"] &= ~masks["psoas_left"]
    for name, mask in masks.items():
        np.testing.assert_array_equal(read_mask_png(tmp_path / "back" / f"{name}.png"), mask)


def test_the_model_and_a_pseudonym_are_written(tmp_path: Path, made: Any) -> None:
    study, _, files = made
    out = tmp_path / "seg.dcm"
    code, text, error = run(
        "export",
        study,
        f"psoas_right={files['psoas_left']}",
        "--out",
        out,
        "--made-by",
        "semiautomatic",
        "--model",
        "sam2-ct-nano",
        "--pseudonym",
        "S-7",
    )
    assert code == 0, error
    assert "psoas_right" in text
    assert "Written" in text
    dataset = dcmread(out)
    assert dataset.PatientID == "S-7"
    [segment] = dataset.SegmentSequence
    assert segment.SegmentLabel == "psoas_right"
    assert segment.SegmentAlgorithmName == "sam2-ct-nano"
    parameters = segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert "weights_sha256" in str(parameters)
    assert "unknown" not in str(parameters)


def test_pictures_of_one_slice(tmp_path: Path, made: Any) -> None:
    study, masks, _ = made
    picture = write_mask_png(tmp_path / "muscle.png", masks["muscle"])
    code, _, error = run("export", study, picture, "--axial-index", 2, "--out", tmp_path / "seg.dcm")
    assert code == 0, error
    code, text, _ = run(
        "import",
        study,
        tmp_path / "seg.dcm",
        "--axial-index",
        2,
        "--rename",
        "muscle=mine",
        "--out",
        tmp_path / "b",
    )
    assert code == 0
    assert "measure with --axial-index 2" in text
    np.testing.assert_array_equal(read_mask_png(tmp_path / "b" / "mine.png"), masks["muscle"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "{study}", "{muscle}", "{muscle}", "--out", "x.dcm"], 2, "given twice"),
        (["export", "{study}", "{muscle}", "--out", "x.abc"], 2, "names no format"),
        (["export", "{study}", "{muscle}", "--out", "x.dcm", "--format", "tiff"], 2, "no such format"),
        (["export", "{study}", "liver={muscle}", "--out", "x.dcm"], 2, "no DICOM term"),
        (["export", "{study}", "{muscle}", "--out", "x.dcm", "--made-by", "automatic"], 2, "has one"),
        (["export", "{muscle}", "{muscle}", "--out", "x.dcm"], 2, "none are given"),
        (["export", "{study}", "{other}", "--out", "x.dcm"], 4, "another grid"),
        (["import", "{study}", "nothing.dcm", "--out", "x"], 2, "no file nothing.dcm"),
        (["import", "{study}", "{muscle}", "--rename", "a", "--out", "x"], 2, "theirs=ours"),
        (["import", "{study}", "{muscle}", "--rename", "a=b", "--out", "x"], 2, "not in the file"),
    ],
)
def test_mistakes_are_said_with_their_exit_code(
    tmp_path: Path, made: Any, arguments: list[str], code: int, message: str
) -> None:
    study, masks, files = made
    elsewhere = make_volume((4, 12, 9), (2.5, 0.9, 0.8)).axial(2)
    other = write_mask_nifti(tmp_path / "muscle_other.nii.gz", masks["muscle"], elsewhere)
    places = {"study": study, "muscle": files["muscle"], "other": other}
    given = [str(tmp_path / a) if a.startswith("x") else a.format(**places) for a in arguments]
    found, _, error = run(*given)
    assert (found, message in " ".join(error.split())) == (code, True), error


def test_masks_of_another_series_need_to_be_asked_for(tmp_path: Path, made: Any) -> None:
    study, masks, files = made
    assert run("export", study, files["muscle"], "--out", tmp_path / "seg.dcm")[0] == 0
    twin = tmp_path / "twin"
    write_series_as(twin, read_study(study), series_key="venous phase")
    code, _, error = run("import", twin, tmp_path / "seg.dcm", "--out", tmp_path / "b")
    assert code == 2
    assert "another series" in error
    assert run("import", twin, tmp_path / "seg.dcm", "--out", tmp_path / "b", "--any-series")[0] == 0
    np.testing.assert_array_equal(read_mask_png(tmp_path / "b" / "muscle.png"), masks["muscle"])


def test_readers_are_compared(tmp_path: Path) -> None:
    from ctai_sam2.files.atomic import write_table_csv

    first = [{"case_id": f"c{i}", "sma_cm2": 100 + 7 * i, "middle_slice": 4} for i in range(6)]
    second = [{"case_id": f"c{i}", "sma_cm2": 101 + 7.5 * i, "middle_slice": 4 + (i > 4)} for i in range(6)]
    for name, rows in (("anna", first), ("model", second), ("crossed", second)):
        write_table_csv(tmp_path / f"{name}.csv", rows)
    tables = (tmp_path / "anna.csv", tmp_path / "model.csv")
    crossed = ("--crossed-first", tmp_path / "crossed.csv")
    code, text, error = run("agreement", *tables, *crossed, "--out", tmp_path / "out")
    assert code == 0, error
    for word in ("anna minus model", "sma_cm2", "Slice apart from contour", "Same slice in 5 of 6 cases"):
        assert word in text
    assert (tmp_path / "out" / "bland_altman.png").is_file()
    code, text, _ = run("agreement", *tables, "--names", "A,B", "--out", tmp_path / "out", "--json")
    document = json.loads(text)
    assert (code, document["first"], document["measures"][0]["n"]) == (0, "A", 6)
    assert run("agreement", *tables, "--names", "A", "--out", tmp_path / "out")[0] == 2
    assert run("agreement", tables[0], tmp_path / "no.csv", "--out", tmp_path / "out")[0] == 2
