"""Documented round trips, other programs' label maps, folders of two studies, names that collide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ctai_sam2.cli.app import app
from ctai_sam2.io import read_study, write_mask_nifti, write_mask_png
from ctai_sam2.io.label_maps import write_labels
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS
from tests.unit.io.making import make_volume, write_series

pytest.importorskip("highdicom", reason="the extra 'export' is not installed")
SHAPE = (5, 16, 18)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any, dict[str, Any]]:
    monkeypatch.setenv("SAM2_MODEL_PATH", str(tmp_path / "models"))
    write_series(tmp_path / "study", make_volume(SHAPE), orientation="negated both")
    volume = read_study(tmp_path / "study")
    masks = {"psoas_left": np.zeros(SHAPE, bool), "muscle": np.zeros(SHAPE, bool)}
    masks["psoas_left"][1:4, 4:9, 10:15] = True
    masks["muscle"][1:4, 11:15, 2:16] = True
    return tmp_path / "study", volume, masks


def area_cm2(volume: Any, mask: Any) -> float:
    """Pixels of the mask within the muscle's limits on slice 2, times the pixel's area."""
    hu = volume.hu_zyx[2][mask[2]]
    limits = DEFAULT_DEFINITIONS.muscle
    counted = int(((hu >= limits.low_hu) & (hu <= limits.high_hu)).sum())
    return counted * 0.75 * 0.8 / 100


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("m.dcm", []),
        ("m.dcm", ["--format", "rtstruct"]),
        ("m.nii.gz", []),
        ("m.json", []),
        ("m.json", ["--polygons"]),
    ],
)
def test_export_import_measure(tmp_path: Path, made: Any, file: str, options: list[str]) -> None:
    study, volume, masks = made
    given = write_labels(tmp_path / "given.nii.gz", masks, volume)
    code, _, error = run("export", study, given, "--out", tmp_path / file, *options)
    assert code == 0, error
    code, _, error = run("import", study, tmp_path / file, "--out", tmp_path / "back")
    assert code == 0, error
    for source in (tmp_path / "back" / "muscle.nii.gz", f"{given}#muscle", given):
        code, text, error = run("measure", study, "--axial-index", 2, "--mask", f"muscle={source}", "--json")
        assert code == 0, error
        assert json.loads(text)["sma_cm2"] == pytest.approx(area_cm2(volume, masks["muscle"]))
    code, text, _ = run("measure", study, "--axial-index", 0, "--mask", f"muscle={given}")
    assert code != 0


def test_a_mask_on_other_slices_only_is_refused(tmp_path: Path, made: Any) -> None:
    study, volume, masks = made
    path = write_mask_nifti(tmp_path / "muscle.nii.gz", masks["muscle"], volume)
    code, _, error = run("measure", study, "--axial-index", 0, "--mask", f"muscle={path}")
    assert code == 4
    assert "no voxel on this slice" in error
    assert "2.5 mm away towards the head" in error


@pytest.mark.parametrize("name", ["seg.dcm", "SEG.1.2.840", "export"])
def test_an_object_of_another_series_is_known_by_its_content(tmp_path: Path, made: Any, name: str) -> None:
    study, volume, masks = made
    assert (
        run("export", study, write_labels(tmp_path / "m.nii.gz", masks, volume), "-o", tmp_path / "s.dcm")[0]
        == 0
    )
    (tmp_path / "s.dcm").rename(tmp_path / name)
    write_series(tmp_path / "later", volume, series_key="later")
    measure = ("--axial-index", 2, "--any-region", "--mask", f"psoas_left={tmp_path / name}")
    code, _, error = run("measure", tmp_path / "later", *measure)
    assert code == 2
    assert "another series" in error
    assert run("measure", study, *measure)[0] == 0


def test_several_labels_are_not_one_muscle(tmp_path: Path, made: Any) -> None:
    study, volume, masks = made
    path = write_labels(tmp_path / "m.nii.gz", masks, volume)
    code, _, error = run("measure", study, "--axial-index", 2, "--mask", f"sat={path}")
    assert code == 2
    assert "none is called sat" in error


def test_names_that_would_share_a_file_are_kept_apart(tmp_path: Path, made: Any) -> None:
    study, volume, masks = made
    both = {"Muscle 1": masks["muscle"], "Muscle_1": masks["psoas_left"]}
    path = write_labels(tmp_path / "m.nii.gz", both, volume)
    code, text, error = run("import", study, path, "--out", tmp_path / "o", "--json")
    assert code == 0, error
    files = [Path(file).name for file in json.loads(text)["files"]]
    assert len(files) == len({name.casefold() for name in files}) == 2
    assert any("Muscle_1_2" in note for note in json.loads(text)["warnings"])


def test_a_folder_keeps_to_one_study(tmp_path: Path, made: Any) -> None:
    study, volume, masks = made
    path = write_labels(tmp_path / "m.nii.gz", masks, volume)
    assert run("import", study, path, "--out", tmp_path / "o")[0] == 0
    other = make_volume(SHAPE, origin_mm=(-31.5, 12.25, -440.0))
    changed = type(other)(hu_zyx=other.hu_zyx[:, ::-1], affine=other.affine)
    write_series(tmp_path / "other", changed)
    code, _, error = run("import", tmp_path / "other", path, "--out", tmp_path / "o", "--any-series")
    assert code == 2
    assert "results of another study" in error


def test_later_masks_that_empty_an_earlier_one_are_said(tmp_path: Path, made: Any) -> None:
    study, volume, masks = made
    small = write_mask_nifti(tmp_path / "psoas_left.nii.gz", masks["psoas_left"], volume)
    large = write_mask_nifti(tmp_path / "muscle.nii.gz", masks["muscle"] | masks["psoas_left"], volume)
    code, _, error = run("export", study, small, large, "--out", tmp_path / "m.nii.gz", "--later-wins")
    assert code == 0
    assert "psoas_left: 75 of 75 pixels went to later masks; it is empty" in error


def test_sides_are_said_where_they_are_swapped(tmp_path: Path, made: Any) -> None:
    study, volume, masks = made
    swapped = {"psoas_right": masks["psoas_left"], "psoas_left": masks["psoas_left"][:, :, ::-1]}
    path = write_labels(tmp_path / "m.nii.gz", swapped, volume)
    code, text, _ = run(
        "measure",
        study,
        "--axial-index",
        2,
        "-m",
        f"psoas_left={path}",
        "-m",
        f"psoas_right={path}",
        "--json",
    )
    assert code == 0
    assert "swapped" in json.loads(text)["warnings"]


def test_masks_of_fat_carry_the_limits_they_were_cut_to(tmp_path: Path, made: Any) -> None:
    study, volume, masks = made
    ct = volume.axial(2)
    text = "cut to -150..-50 HU by alberta@1#f12b4bcdb5"
    for path in (
        write_mask_nifti(tmp_path / "vat.nii.gz", masks["muscle"][2], ct, description=text),
        write_mask_png(tmp_path / "vat.png", masks["muscle"][2], description=text),
    ):
        command = ("measure", study, "--axial-index", 2, "--mask", f"vat={path}")
        assert run(*command)[0] == 0
        code, _, error = run(*command, "--definitions", "one-fat-range")
        assert code == 2
        assert "was cut to -150 to -50 HU" in error


def test_a_coco_image_and_a_table_of_labels_can_be_named(tmp_path: Path, made: Any) -> None:
    study, volume, masks = made
    height, width = SHAPE[1:]
    entry = {"width": width, "height": height}
    square = [2, 2, 6, 2, 6, 6, 2, 6]
    content = {
        "images": [{"id": 1, "file_name": "a.png", **entry}, {"id": 2, "file_name": "b.png", **entry}],
        "categories": [{"id": 1, "name": "muscle"}],
        "annotations": [{"image_id": 2, "category_id": 1, "segmentation": [square]}],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    command = ("import", study, tmp_path / "c.json", "--axial-index", 2, "--out", tmp_path / "o", "--json")
    code, text, error = run(*command, "--image", "2")
    assert code == 0, error
    assert json.loads(text)["masks"][0]["voxels"] == 16
    write_mask_nifti(tmp_path / "m.nii.gz", np.where(masks["muscle"], 7, 0), volume)
    (tmp_path / "names.tsv").write_text("index\tname\n7\tmuscle\n")
    code, text, error = run(
        "import",
        study,
        tmp_path / "m.nii.gz",
        "--labels",
        tmp_path / "names.tsv",
        "--out",
        tmp_path / "p",
        "--json",
    )
    assert code == 0, error
    assert json.loads(text)["masks"][0]["structure"] == "muscle"
