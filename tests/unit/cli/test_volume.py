"""``ctai-sam2 segment STUDY --levels``: what it writes and says; the segmentation itself is replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ctai_sam2.cli.app import app
from ctai_sam2.segmentation import volume as volumes
from ctai_sam2.segmentation.volume import EVERY_MM, SliceMask, VolumeResult
from tests.unit.io.making import make_volume, write_series


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    seen: dict[str, Any] = {}

    def segmented(volume: Any, segmenter: object, **options: Any) -> VolumeResult:
        seen.update(options)
        options["progress"](1, 1, "slice 2")
        one = SliceMask(corner_yx=(2, 3), crop=np.ones((4, 5), bool), source="automatic")
        return VolumeResult(
            volume=volume, indices=(2, 3), levels=(), structure_slices={"muscle": {2: one, 3: one}}
        )

    monkeypatch.setattr(volumes, "segment_volume", segmented)
    write_series(tmp_path / "s", make_volume((6, 20, 17)))
    monkeypatch.setattr(volumes, "seen", seen, raising=False)
    return tmp_path / "s"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_masks_tables_and_dicom_are_written(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--dicom", "rtstruct", "--json", "--follow", "memory")
    done = run("segment", study, "--levels", "L4-L1", "--out", out, *options)
    assert done.exit_code == 0, done.output
    files = json.loads(done.stdout)["files"]
    assert all(Path(path).is_file() for path in (*files["masks"], *files["dicom"], files["levels"]))
    assert volumes.seen["levels"] == ("L4", "L1")  # type: ignore[attr-defined]
    assert volumes.seen["every_mm"] == EVERY_MM  # type: ignore[attr-defined]
    assert volumes.seen["follow"] == "memory"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "words",
    [
        ("--structures", "psoas", "muscle"),
        ("--structures", "psoas,", "muscle"),
        ("--structures", "psoas,muscle"),
        ("--structures", "psoas", "--structures", "muscle"),
        (),
    ],
)
def test_structures_are_named_as_one_likes(study: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run("segment", "--levels", "L3", *words, study, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert volumes.seen["structures"] == ("psoas", "muscle")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options", [("--structures", "muscle"), ("--dicom", "seg"), ("--every-mm", "3"), ("--follow", "memory")]
)
def test_what_is_for_a_range_of_levels_is_not_ignored_without_one(
    study: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = run("segment", study, "--out", tmp_path / "out", *options)
    assert done.exit_code == 2
    assert "--levels" in done.output


@pytest.mark.parametrize(
    "options",
    [
        ("--levels", "L9-L1"),
        ("--levels", "L1-L4", "--dicom", "png"),
        ("--levels", "L3", "--box", "1,1,5,5"),
        ("--levels", "L3", "--height-m", "1.7"),
    ],
)
def test_what_cannot_be_is_refused(study: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run("segment", study, "--out", tmp_path / "out", *options)
    assert done.exit_code != 0
