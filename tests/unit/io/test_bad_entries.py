"""One bad outline, frame or segment costs itself alone, and it is said."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from ctai_sam2.errors import CtaiError
from ctai_sam2.exchange import export_masks, import_masks
from ctai_sam2.io import read_study
from tests.unit.io.making import make_volume, write_series

pytest.importorskip("highdicom", reason="the extra 'export' is not installed")


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, Any, dict[str, Any]]:
    write_series(tmp_path / "s", make_volume((4, 20, 22)))
    volume = read_study(tmp_path / "s")
    masks = {"psoas_left": np.zeros(volume.shape_zyx, bool), "muscle": np.zeros(volume.shape_zyx, bool)}
    masks["psoas_left"][1, 4:12, 3:11] = True
    masks["muscle"][2, 2:18, 2:18] = True
    return tmp_path / "s", volume, masks


def rtstruct(tmp_path: Path, study: Any, change: Any) -> Any:
    folder, volume, masks = study
    path = export_masks(masks, volume, tmp_path / "rt.dcm", format="rtstruct", source=folder)
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return import_masks(path, volume, source=folder)


def contours(dataset: Any) -> Any:
    return dataset.ROIContourSequence[0].ContourSequence


def add(dataset: Any, points: Any) -> None:
    contour = copy.deepcopy(contours(dataset)[0])
    contour.ContourData = [f"{v:g}" for v in np.ravel(points)]
    contours(dataset).append(contour)


def corners(dataset: Any) -> Any:
    return np.array(contours(dataset)[0].ContourData, float).reshape(-1, 3)


@pytest.mark.parametrize("reverse", [1, -1])
@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_an_outline_that_stands_twice_counts_once(
    tmp_path: Path, study: Any, reverse: int, shift: float
) -> None:
    found = rtstruct(tmp_path, study, lambda d: add(d, corners(d)[::reverse] + np.array([shift, shift, 0])))
    assert int(found["psoas_left"].sum()) == 64
    assert any("drawn twice" in note for note in found.warnings)


def test_outlines_that_cross_are_united_and_a_hole_stays_a_hole(tmp_path: Path, study: Any) -> None:
    found = rtstruct(tmp_path, study, lambda d: add(d, corners(d) + np.array([4 * 0.8, 0, 0])))
    assert int(found["psoas_left"].sum()) == 64 + 32
    assert any("crossing" in note for note in found.warnings)

    def hole(dataset: Any) -> None:
        points = corners(dataset)
        middle = points.mean(axis=0)
        add(dataset, middle + (points - middle) * 0.5)

    found = rtstruct(tmp_path, study, hole)
    assert int(found["psoas_left"].sum()) == 64 - 16
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([[0, 0, 0], [1, 1, 1]], "no three points"),
        ([[0.0, 0, -440], [9, 0, -439], [0, 9, -437]], "not parallel"),
        ([[0.0, 15, -438.8], [1, 15, -438.8], [1, 17, -438.8]], "between or beyond"),
        ([[900.0, 15, -437.5], [910, 15, -437.5], [910, 17, -437.5]], "outside of the image"),
    ],
)
def test_a_bad_outline_costs_itself(tmp_path: Path, study: Any, points: Any, said: str) -> None:
    found = rtstruct(tmp_path, study, lambda d: add(d, points))
    assert {name: int(mask.sum()) for name, mask in found.items()} == {"psoas_left": 64, "muscle": 256}
    assert any(said in note for note in found.warnings)


def test_a_structure_outside_of_the_image_costs_itself(tmp_path: Path, study: Any) -> None:
    def move(dataset: Any) -> None:
        contours(dataset)[0].ContourData = [
            f"{v:g}" for v in (corners(dataset) + np.array([500, 0, 0])).ravel()
        ]

    found = rtstruct(tmp_path, study, move)
    assert list(found) == ["muscle"]
    assert any(note.startswith("psoas_left: 1 outline left out") for note in found.warnings)


def test_outlines_of_undeclared_structures_are_said(tmp_path: Path, study: Any) -> None:
    def undeclare(dataset: Any) -> None:
        dataset.ROIContourSequence[0].ReferencedROINumber = 9

    found = rtstruct(tmp_path, study, undeclare)
    assert any("undeclared" in note for note in found.warnings)


def seg(tmp_path: Path, study: Any, change: Any) -> Any:
    folder, volume, masks = study
    path = export_masks(masks, volume, tmp_path / "seg.dcm", source=folder)
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return import_masks(path, volume, source=folder)


def test_frames_of_undeclared_segments_are_said(tmp_path: Path, study: Any) -> None:
    def undeclare(dataset: Any) -> None:
        del dataset.SegmentSequence[0]

    found = seg(tmp_path, study, undeclare)
    assert list(found) == ["muscle"]
    assert any("undeclared segment 1" in note for note in found.warnings)


def test_a_frame_elsewhere_costs_itself(tmp_path: Path, study: Any) -> None:
    def move(dataset: Any) -> None:
        group = dataset.PerFrameFunctionalGroupsSequence[0]
        group.PlanePositionSequence[0].ImagePositionPatient = [900, 900, 900]

    found = seg(tmp_path, study, move)
    assert len(found) == 1
    assert any("frame left out" in note for note in found.warnings)


def test_chinese_labels_and_pseudonyms_stay_apart(tmp_path: Path, study: Any) -> None:
    folder, volume, masks = study
    names = {"腰大肌": masks["psoas_left"], "竖脊肌": masks["muscle"]}
    path = export_masks(names, volume, tmp_path / "rt.dcm", format="rtstruct", source=folder)
    assert list(import_masks(path, volume)) == list(names)
    ids = set()
    for pseudonym in ("受试者-1", "研究者-1"):
        for kind in ("seg", "rtstruct"):
            path = export_masks(
                masks, volume, tmp_path / "p.dcm", format=kind, source=folder, pseudonym=pseudonym
            )
            dataset = dcmread(path)
            assert dataset.SpecificCharacterSet == "ISO_IR 192"
            ids.add(str(dataset.PatientID))
    assert ids == {"受试者-1", "研究者-1"}


def test_a_seg_of_nothing_that_can_be_read_is_refused(tmp_path: Path, study: Any) -> None:
    def empty(dataset: Any) -> None:
        dataset.PixelData = b""

    with pytest.raises(CtaiError):
        seg(tmp_path, study, empty)
