"""A cohort's case with a range of levels in the review editor: its slices, and where corrections go."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctai_sam2.cohort import Case, Worklist, read_table, run_cohort, volumes
from ctai_sam2.cohort.manifest import write_manifest
from ctai_sam2.editor.commands import Paint, SetMask
from ctai_sam2.editor.strip import lock_here
from ctai_sam2.errors import InputError, StorageError
from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.io import read_study, write_volume_nifti
from ctai_sam2.phantom import make_axial_slice, random_parameters
from ctai_sam2.segmentation.volume import SliceMask, VolumeResult
from ctai_sam2.segmentation.volume.result import LevelRange
from ctai_sam2.study.slice_folder import SliceFolder
from ctai_sam2.types import CTVolume, Prompt
from ctai_sam2.widgets import ReviewEditor
from tests.unit.cohort.making import QUICK, do_here

SIDE, DEPTH, MEASURED = 96, 7, 2
RED = (4, 5)


pytestmark = pytest.mark.usefixtures("recorder")


def result_of(volume: CTVolume, **_: Any) -> VolumeResult:
    def one(index: int, *, is_red: bool) -> SliceMask:
        # Far from what it is next to where it is said to be red, and so it stays red.
        corner = (60, 60) if is_red else (50, 52)
        return SliceMask(
            corner_yx=corner,
            crop=np.ones((4, 4) if is_red else (9, 8), bool),
            source="automatic",
            gate="red" if is_red else "green",
            predicted_overlap=0.2 if is_red else 0.9,
        )

    slices = {
        "psoas_left": {i: one(i, is_red=i in RED) for i in range(DEPTH - 1)},
        "muscle": {i: one(i, is_red=False) for i in range(DEPTH - 1)},
        # Neither a reason to flag a case nor to open it there.
        "imat": {i: one(i, is_red=i in (1, 3, 5)) for i in range(DEPTH - 1)},
    }
    level = LevelRange(name="L3", lower_mm=2.0, upper_mm=18.0)
    return VolumeResult(
        volume=volume,
        indices=tuple(range(DEPTH - 1)),
        levels=(level,),
        structure_slices=slices,  # type: ignore[arg-type]
        warnings=("psoas_left: implausible on 2 slices (4-5); look at them",),
    )


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_cohort(tmp_path, monkeypatch)


def make_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run a cohort of one case with a range of levels, red on two slices, without a model."""
    do_here(monkeypatch)
    monkeypatch.setattr(volumes, "segment_volume", lambda image, segmenter, **options: result_of(image))
    phantom = make_axial_slice(
        random_parameters(np.random.default_rng(1)),
        shape_hw=(SIDE, SIDE),
        spacing_mm=(4.0, 4.0),
        rng=np.random.default_rng(1),
    )
    hu = np.stack([np.asarray(phantom.hu) + i for i in range(DEPTH)]).astype(np.int16)
    affine = np.diag([4.0, 4.0, 5.0, 1.0])
    write_volume_nifti(tmp_path / "P.nii.gz", CTVolume(hu_zyx=hu, affine=affine))
    prompt = Prompt.point(0.55 * SIDE, 0.55 * SIDE, structure="psoas_left")
    case = Case(
        case_id="P",
        path=tmp_path / "P.nii.gz",
        mid_l3_index=MEASURED,
        prompts={"psoas_left": prompt},
        height_m=1.7,
    )
    write_manifest(tmp_path / "cases.csv", [case])
    done = run_cohort(tmp_path / "cases.csv", tmp_path / "out", **QUICK, levels=("L3", "L3"))
    assert (done.inferred, done.failed) == (1, 0)
    return tmp_path


def open_review(cohort: Path, **options: Any) -> ReviewEditor:
    worklist = Worklist(cohort / "out", manifest=cohort / "cases.csv")
    return ReviewEditor(worklist, who="AB", segmenter=None, **options)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_case_is_opened_at_its_red_slices_and_corrections_go_into_the_volume(cohort: Path) -> None:
    out = cohort / "out"
    assert Worklist(out).items[0].flags["volume"] == "implausible slices: psoas_left on 2"
    editor = open_review(cohort)
    document = editor.document
    assert (document.index, document.view.active) == (RED[0], "psoas_left")
    assert document.state("psoas_left").gate == "red"
    assert document.span == (0, DEPTH - 2)
    shown = document.mask("psoas_left", MEASURED)
    assert np.array_equal(shown, Worklist(out).load("P").masks["psoas_left"])
    editor.do("undo")
    assert document.mask("psoas_left").any()
    right = np.zeros((SIDE, SIDE), bool)
    right[50:59, 52:60] = True
    editor.controller.apply(SetMask(label="psoas_left", mask=right))
    editor.controller.go_to(MEASURED)
    editor.controller.apply(Paint(label="psoas_left", points_xy=((50, 55), (60, 55)), radius_mm=12.0))
    drawn = document.mask("psoas_left", MEASURED).copy()
    editor.controller.go_to(0)
    editor.controller.apply(lock_here(document, "muscle"))
    before = rows_of(out / "levels.csv")
    editor.save()
    assert "Signed by AB; masks changed: 4" in editor.controller.message.text("en")
    editor.close()

    levels = Worklist(out, manifest=cohort / "cases.csv").load("P").levels
    assert levels is not None
    decided = {
        (name, index)
        for name, found in levels.structure_slices.items()
        for index, one in found.items()
        if one.source == "anchor"
    }
    assert decided == {("psoas_left", RED[0]), ("psoas_left", MEASURED), ("muscle", 0)}
    assert np.array_equal(levels.masks["psoas_left"][RED[0]], right)
    assert np.array_equal(levels.masks["psoas_left"][MEASURED], drawn)
    # Slices that nobody touched are as they were, and the tables follow.
    untouched = result_of(levels.volume).structure_slices["psoas_left"][1]
    assert np.array_equal(levels.masks["psoas_left"][1], untouched.full((SIDE, SIDE)))
    after = rows_of(out / "levels.csv")
    assert next(row["red_slices"] for row in after if row["level"] == "all") == "1"
    assert float(after[0]["volume_cm3"]) > float(before[0]["volume_cm3"])
    row = read_table(out).iloc[0]
    assert (row["reviewed_by"], row["corrected_structures"]) == ("AB", "psoas_left")
    assert "psoas_left on 1" in row["flag_details"]
    assert "(5)" in row["warnings"]
    assert "(4-5)" not in row["warnings"]

    # Another run finds nothing to do; one with another model would have the reader's slices as anchors.
    again = run_cohort(cohort / "cases.csv", out, **QUICK, levels=("L3", "L3"))
    assert again.inferred == 0
    anchors = SliceFolder(out / "volumes" / "P" / "slices").read_anchors(fingerprint(levels.volume))
    assert {(one.structure, one.axial_index) for one in anchors} == decided
    assert rows_of(out / "levels.csv") == after


def test_what_was_drawn_and_not_signed_is_there_again(cohort: Path) -> None:
    editor = open_review(cohort)
    editor.controller.apply(Paint(label="psoas_left", points_xy=((50, 55), (60, 55)), radius_mm=12.0))
    drawn = editor.document.mask("psoas_left", RED[0]).copy()
    editor.close()
    again = open_review(cohort)
    assert np.array_equal(again.document.mask("psoas_left", RED[0]), drawn)
    again.close()
    # The case's slice alone has a journal of its own.
    alone = ReviewEditor(Worklist(cohort / "out"), who="AB", segmenter=None)
    assert alone.document.slice_count == 1
    alone.close()


def test_masks_outside_of_the_range_are_named_when_signed(cohort: Path) -> None:
    editor = open_review(cohort)
    editor.controller.go_to(DEPTH - 1)
    editor.controller.apply(Paint(label="psoas_left", points_xy=((50, 55), (60, 55)), radius_mm=12.0))
    editor.save()
    assert "outside of the range of levels or its structures: Left psoas" in editor.controller.message.text(
        "en"
    )
    assert Worklist(cohort / "out").items[0].reviewed_by == "AB"
    editor.close()


def test_nothing_is_stored_while_a_run_holds_the_folder(cohort: Path) -> None:
    worklist = Worklist(cohort / "out", manifest=cohort / "cases.csv")
    mask = np.ones((SIDE, SIDE), bool)
    lock = worklist.store.try_lock()
    assert lock is not None
    with pytest.raises(StorageError, match="run is writing"):
        worklist.correct("P", {"psoas_left": mask}, who="AB", volume_masks={"psoas_left": {4: mask}})
    os.close(lock)
    assert not isinstance(read_table(cohort / "out").iloc[0]["reviewed_by"], str)
    assert worklist.load("P").levels.structure_slices["psoas_left"][4].source == "automatic"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"psoas_left": {DEPTH - 1: np.ones((SIDE, SIDE), bool)}}, "outside of the range"),
        ({"vat": {1: np.ones((SIDE, SIDE), bool)}}, "outside of the range"),
        ({"psoas_left": {1: np.ones((4, 4), bool)}}, "shape"),
    ],
)
def test_masks_that_are_not_of_the_range_are_refused(cohort: Path, masks: Any, message: str) -> None:
    worklist = Worklist(cohort / "out", manifest=cohort / "cases.csv")
    with pytest.raises(InputError, match=message):
        worklist.correct("P", {}, who="AB", volume_masks=masks)
    with pytest.raises(InputError, match="not known"):
        Worklist(cohort / "out").correct("P", {}, who="AB", volume_masks=masks)
    assert not isinstance(read_table(cohort / "out").iloc[0]["reviewed_by"], str)


def test_another_study_at_the_same_place_is_refused(cohort: Path) -> None:
    volume = read_study(cohort / "P.nii.gz")
    write_volume_nifti(
        cohort / "P.nii.gz", CTVolume(hu_zyx=np.asarray(volume.hu_zyx)[::-1].copy(), affine=volume.affine)
    )
    with pytest.raises(InputError, match="not the one that was segmented"):
        open_review(cohort)
