"""The command line as a shell sees it: output, exit codes, and what it says of bad input."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from typer.testing import CliRunner

from ctai_sam2 import __version__
from ctai_sam2.cli.app import app
from ctai_sam2.cli.doctor import examine_engine
from ctai_sam2.errors import StorageError
from ctai_sam2.io import write_dicom_series, write_mask_png
from ctai_sam2.models import engine
from ctai_sam2.phantom import make_axial_slice, make_volume, reference_parameters
from ctai_sam2.settings import Settings
from ctai_sam2.study import outputs
from ctai_sam2.types import CTVolume


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM2_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SAM2_MODEL_PATH", str(tmp_path / "models"))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    phantom = make_volume(
        reference_parameters(),
        shape_zyx=(60, 256, 256),
        spacing_zyx_mm=(5.0, 1.6, 1.6),
        rng=np.random.default_rng(1),
    )
    folder = tmp_path_factory.mktemp("dicom") / "study"
    write_dicom_series(folder, CTVolume(hu_zyx=phantom.hu_zyx, affine=phantom.affine))
    return folder


def test_version_and_help() -> None:
    assert run("--version")[:2] == (0, f"{__version__}\n")
    code, text, _ = run("--help")
    assert code == 0
    for command in ("demo", "segment", "measure", "sensitivity", "evaluate", "models", "doctor"):
        assert command in text


def test_a_study_becomes_masks_a_picture_and_a_table(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    code, text, _ = run("segment", study, "--out", out, "--height-m", "1.75", "--json")
    assert code == 0
    document = json.loads(text)
    row = document["measurements"]
    assert row["model"] == "sam2-ct-nano"
    assert row["smi_cm2_m2"] == pytest.approx(row["sma_cm2"] / 1.75**2)
    assert row["combo_area_mm2"] > row["psoas_area_mm2"] > 0
    header = (out / "measurements.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.startswith("psoas_pixels,")
    for name in ("psoas_left", "psoas_right", "muscle", "l3"):
        assert (out / "masks" / f"{name}.png").stat().st_size > 0
        assert (out / "masks" / f"{name}.nii.gz").stat().st_size > 0
    assert (out / "overlay.png").stat().st_size > 10_000


def test_numbers_are_shown_before_the_pictures_are_drawn(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(outputs, "write_study", fail)
    code, text, error = run("segment", study, "--out", tmp_path / "out", "--axial-index", "28")
    assert code == 5
    assert "psoas_left" in text
    assert "smi_cm2_m2" in text
    assert "outlines as drawn" in text
    assert "the disk is full" in error


def test_one_structure_with_a_click(study: Path, tmp_path: Path) -> None:
    phantom = make_axial_slice(
        reference_parameters(),
        level="L3",
        shape_hw=(256, 256),
        spacing_mm=(1.6, 1.6),
        rng=np.random.default_rng(1),
    )
    rows, columns = np.nonzero(phantom.masks["psoas_left"])
    click = f"{columns.mean():.0f},{rows.mean():.0f}"
    code, text, _ = run(
        "segment",
        study,
        "-s",
        "psoas_left",
        "--axial-index",
        "28",
        "--point",
        click,
        "--json",
    )
    document = json.loads(text)
    assert code == 0
    assert document["structure"] == "psoas_left"
    assert 1 < document["area_cm2"] < 40
    assert Path(document["files"]["mask"]).is_file()


def test_slices_about_the_middle_are_compared(study: Path, tmp_path: Path) -> None:
    code, text, _ = run("sensitivity", study, "--axial-index", 28, "-k", 1, "-o", "rows.csv", "--json")
    document = json.loads(text)
    assert code == 0
    assert document["axial_index"] == 28
    rows = document["rows"]
    assert [(row["structure"], row["axial_index"]) for row in rows] == [
        (structure, index) for structure in ("psoas", "muscle") for index in (27, 28, 29)
    ]
    assert [row["offset_mm"] for row in rows[:3]] == [-5, 0, 5]
    assert rows[4]["area_change_pct"] == 0
    assert len((tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()) == 7
    code, _, error = run("sensitivity", study, "--axial-index", 600)
    assert code == 2
    assert "no such axial slice" in error


def write_phantom_case(folder: Path) -> Path:
    phantom = make_axial_slice(
        reference_parameters(), shape_hw=(256, 256), spacing_mm=(1.6, 1.6), rng=np.random.default_rng(1)
    )
    folder.mkdir()
    masks = {f"mask_{name}": phantom.masks[name] for name in ("psoas_left", "muscle")}
    meta = json.dumps({"plane": "axial", "quality": {}})
    np.savez(folder / "one.npz", image=phantom.hu, spacing=np.array([1.6, 1.6]), meta=meta, **masks)
    return folder


def test_a_model_is_scored_on_cases(tmp_path: Path) -> None:
    cases = write_phantom_case(tmp_path / "cases")
    code, text, _ = run("evaluate", cases, "--no-untrained", "-s", "psoas_left", "--out", "scored", "--json")
    document = json.loads(text)
    assert code == 0
    dice = {(row["method"], row["prompt"]): row["dice"] for row in document["summary"]}
    assert dice["model", "click_1"] > 0.7
    assert dice["model", "button"] > 0.7
    assert ("region_growing", "click_1") in dice
    for name in ("scores.csv", "summary.csv", "scores.json", "dice.png", "report.html", "reliability.png"):
        assert (tmp_path / "scored" / name).stat().st_size > 100, name
    page = (tmp_path / "scored" / "report.html").read_text(encoding="utf-8")
    assert "sam2-ct-nano" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "nowhere"),
        (("cases", "--fold", "sbu"), "--fold WORD=weights.safetensors"),
        (("cases", "--fold", "sbu=a", "--fold", "sbu=b"), "twice"),
        (("cases", "--model", "missing.safetensors"), "missing.safetensors"),
        (("cases", "--skip", "psoas"), "--skip WORD:STRUCTURE"),
        (("cases", "-s", "spleen"), "spleen"),
    ],
)
def test_what_cannot_be_scored_is_told(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    write_phantom_case(tmp_path / "cases")
    code, _, error = run("evaluate", "--no-untrained", "--no-baselines", *arguments)
    assert code in (2, 3)
    assert said in error


def test_masks_from_elsewhere_are_measured(study: Path, tmp_path: Path) -> None:
    mask = np.zeros((256, 256), bool)
    mask[100:110, 100:120] = True
    write_mask_png(tmp_path / "left.png", mask)
    code, text, _ = run(
        "measure",
        study,
        "--axial-index",
        28,
        "-m",
        "psoas_left=left.png",
        "--json",
        "-o",
        tmp_path / "row.csv",
    )
    assert code == 0
    # The psoas range of HU decides which of the 200 pixels count; the area can only be smaller.
    assert 0 <= json.loads(text)["psoas_left_area_mm2"] <= 200 * 1.6**2 + 1e-6
    assert (tmp_path / "row.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("segment", "nowhere"), 2, "nowhere"),
        (("segment", "empty"), 2, "empty"),
        (("segment", "text.dcm", "-s", "muscle"), 4, "text.dcm"),
        (("segment", "STUDY", "-s", "spleen", "--axial-index", "28"), 2, "spleen"),
        (("segment", "STUDY", "--point", "1,2"), 2, "structure"),
        (("segment", "STUDY", "-s", "muscle", "--axial-index", "28", "--point", "1"), 2, "x,y"),
        (("segment", "STUDY", "-s", "muscle", "--axial-index", "28", "--point", "999,1"), 2, "outside"),
        (("segment", "STUDY", "-s", "muscle", "--axial-index", "28", "--box", "9,9,9,20"), 2, "no area"),
        (("segment", "STUDY", "-s", "muscle", "--axial-index", "99"), 2, "Give 0 to 59"),
        (("segment", "STUDY", "--model", "sam3"), 2, "sam3"),
        (("segment", "STUDY", "--model", "sam2.1_hiera_tiny"), 3, "not on this machine"),
        (("measure", "STUDY", "-m", "psoas=x.png"), 2, "axial index"),
        (("measure", "STUDY", "-m", "psoas", "--axial-index", "28"), 2, "name=file"),
        (("measure", "STUDY", "-m", "psoas=x.png", "--axial-index", "28"), 2, "x.png"),
        (("models", "verify", "sam3"), 2, "sam3"),
        (("models", "verify", "sam2.1_hiera_tiny"), 3, "download"),
        (("models", "download", "sam2-ct-nano"), 2, "ships with the package"),
    ],
)
def test_bad_input_gets_a_sentence_and_its_exit_code(
    arguments: tuple[str, ...], code: int, message: str, study: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.dcm").write_text("this is not DICOM")
    found, _, said = run(*(str(study) if a == "STUDY" else a for a in arguments))
    assert (found, message in said) == (code, True), said


def test_models_are_listed_and_the_embedded_one_verifies() -> None:
    code, text, _ = run("models", "list", "--json")
    models = {row["name"]: row for row in json.loads(text)}
    assert code == 0
    assert models["sam2-ct-nano"]["chosen"]
    assert models["sam2.1_hiera_large"]["path"] is None
    code, text, _ = run("models", "verify", "sam2-ct-nano", "--json")
    assert (code, json.loads(text)["verified"]) == (0, True)


def test_doctor_is_content_here() -> None:
    code, text, _ = run("doctor", "--json")
    report = json.loads(text)
    assert (code, report["failed"]) == (0, []), report
    layers = [check["layer"] for check in report["checks"]]
    assert layers[0] == "python"
    assert {"torch", "sam2", "weights", "segmentation", "cache", "service", "widgets"} <= set(layers)


@pytest.mark.parametrize(
    ("variable", "value", "layer", "status"),
    [
        ("SAM2_MODEL", "sam2.1_hiera_tiny", "weights", "fail"),
        ("SAM2_MODEL_PATH", "/nowhere/own.pt", "weights", "fail"),
        ("SAM2_DEVICE", "cuda:7", "device", "fail"),
        ("SAM2_SERVICE_URL", "http://127.0.0.1:9", "service", "warn"),
        ("SAM2_CACHE_DIR", "/proc/none", "cache", "warn"),
    ],
)
def test_doctor_names_the_failing_layer(
    variable: str, value: str, layer: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    code, text, _ = run("doctor", "--json")
    report = json.loads(text)
    check = next(c for c in report["checks"] if c["layer"] == layer)
    assert check["status"] == status
    assert check["hint"]
    assert (code == 3) == bool(report["failed"])
    assert (layer in report["failed"]) == (status == "fail")


@pytest.mark.parametrize(
    ("wish", "status", "words"),
    [
        ("torch", "ok", "the extra fast-cpu is not installed"),
        ("auto", "ok", "PyTorch computes"),
        ("openvino", "warn", "OpenVINO is not installed"),
    ],
)
def test_doctor_says_which_engine_computes(
    wish: Literal["torch", "auto", "openvino"], status: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "is_installed", lambda: False)
    found, detail, hint = examine_engine(Settings(engine=wish))
    assert found == status
    assert words in detail
    assert bool(hint) == (status == "warn")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--height-m", "175"], 2, "Give it in metres"),
        (["--out", "/proc/none"], 5, "nothing can be written"),
        (["--structure", "psoas_left"], 2, "--axial-index"),
        (["--structure", "spleen", "--axial-index", "3"], 2, "vertebra"),
    ],
)
def test_what_cannot_end_well_is_refused_before_the_work(
    arguments: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the study was read")

    monkeypatch.setattr("ctai_sam2.io.read_study", refuse)
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    found, _, error = run("segment", str(tmp_path), *arguments, *out)
    assert (found, words in error) == (code, True), error


@pytest.mark.parametrize(
    ("arguments", "unfit", "way"),
    [
        (["--window", "40,400"], "--window for a whole study", "add --structure"),
        (["--spacing-mm", "1,1"], "--spacing-mm for a whole study", "add --structure"),
        (["--box", "1,1,5,5", "--dicom", "seg"], "--box, --dicom", "add --levels"),
        (["-s", "muscle", "--axial-index", "3", "--height-m", "1.7"], "--height-m for one", "Leave it out"),
        (["-s", "muscle", "--axial-index", "3", "--slices", "3"], "--slices for one", "Leave it out"),
        (["-s", "muscle", "--every-mm", "9"], "--every-mm for one", "Leave it out"),
        (["--levels", "L3", "--any-region", "--height-m", "1.7"], "--height-m, --any-region", "them out"),
        (["--levels", "L3", "--window", "40,400"], "--window for a range", "Leave it out"),
    ],
)
def test_options_without_effect_are_refused(
    arguments: list[str], unfit: str, way: str, tmp_path: Path
) -> None:
    code, _, error = run("segment", tmp_path, *arguments)
    assert code == 2
    assert unfit in error
    assert way in error


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ctai_sam2", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{__version__}\n"


@pytest.mark.parametrize("name", ["ctai_sam2", "ctai_sam2.cli"])
def test_the_package_is_the_command_under_its_former_name_too(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ctai-sam2", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__", alter_sys=False)
    assert ended.value.code in (0, None)
    assert __version__ in capsys.readouterr().out
