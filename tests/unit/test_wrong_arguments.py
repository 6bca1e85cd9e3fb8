"""What a script gets wrong at the public functions is refused at once, with what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ctai_sam2 as ct
from ctai_sam2.cohort import Case
from ctai_sam2.structures import STRUCTURES, require_structures
from tests.fakes import FakeSegmenter

HU = np.arange(-600, 600, dtype=np.int16).reshape(30, 40)
SLICE = ct.CTSlice(hu=HU, spacing_mm=(2.0, 2.0))
VOLUME = ct.CTVolume(hu_zyx=np.stack([HU] * 5), affine=np.diag([2.0, 2.0, 3.0, 1.0]))
POINT = ct.Prompt.point(3, 4)
MASK = HU > 0
SEGMENTER = FakeSegmenter()
# The type checker would refuse what is tried here.
api: Any = ct

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "a path that is none": (lambda: api.read_study(None), "a path is text"),
    "an empty path": (lambda: api.read_study(""), "the path is empty"),
    "a list of paths": (lambda: api.read_study(["a", "b"]), "a path is text"),
    "no such file": (lambda: api.read_study("nowhere"), "relative one starts at the working directory"),
    "rows of different lengths": (lambda: api.CTSlice(hu=[[1, 2], [3]], spacing_mm=(1, 1)), "an array"),
    "a path as image": (lambda: api.CTSlice(hu="x.dcm", spacing_mm=(1, 1)), "received str"),
    "a stack as slice": (lambda: api.CTSlice(hu=VOLUME.hu_zyx, spacing_mm=(1, 1)), "is a CTVolume"),
    "HU beyond float32": (lambda: api.CTSlice(hu=[[1e300]], spacing_mm=(1, 1)), "not finite"),
    "a text as affine": (lambda: api.CTSlice(hu=HU, spacing_mm=(1, 1), affine="x"), "4 x 4 matrix"),
    "a text as window": (lambda: api.Window(level="a", width=40), "must be numbers"),
    "half an index": (lambda: VOLUME.axial(1.5), "must be a whole number .received 1.5"),  # type: ignore[arg-type]
    "an index as text": (lambda: VOLUME.sagittal("1"), "received '1'"),  # type: ignore[arg-type]
    "an index from the end": (lambda: VOLUME.axial(-1), "no such axial slice .received -1.. Give 0 to 4"),
    "a point as text": (lambda: api.Prompt.point("a", 3), "points must be numbers"),
    "a label as text": (lambda: api.Prompt.point(1, 3, label="x"), "labels are 1"),
    "a label without a list": (lambda: api.Prompt(points_xy=[[1, 2]], labels=1), r"labels=\[1, 0\]"),
    "a box of width and height": (lambda: api.Prompt(box_xyxy=(9, 9, 4, 4)), "not width and height"),
    "a volume as slice": (lambda: api.segment_structure(VOLUME, "muscle", SEGMENTER), "volume.axial"),
    "an array as slice": (lambda: api.segment_axial(HU, SEGMENTER), "received ndarray"),
    "arguments in another order": (
        lambda: api.segment_structure(SLICE, SEGMENTER, "muscle"),
        "must be a segmenter .received str",
    ),
    "no segmenter": (lambda: api.segment_study(VOLUME, None), "with open_segmenter"),
    "a study as path": (lambda: api.segment_study("folder", SEGMENTER), "read_study"),
    "a slice as study": (lambda: api.segment_study(SLICE, SEGMENTER), "received CTSlice"),
    "a prompt as pair": (
        lambda: api.segment_structure(SLICE, "muscle", SEGMENTER, prompt=(3, 4)),
        "Prompt.point",
    ),
    "a window as pair": (
        lambda: api.segment_structure(SLICE, "muscle", SEGMENTER, window=(40, 400)),
        "Window.level=40",
    ),
    "definitions by name": (
        lambda: api.segment_axial(SLICE, SEGMENTER, definitions="alberta"),
        "TISSUE_DEFINITIONS",
    ),
    "a threshold in per cent": (
        lambda: api.segment_structure(SLICE, "muscle", SEGMENTER, prompt=POINT, confidence_threshold=50),
        "a number from 0 to 1",
    ),
    "a structure with a space": (
        lambda: api.segment_structure(SLICE, "psoas left", SEGMENTER),
        "no such structure",
    ),
    "an unknown structure": (lambda: api.segment_study(VOLUME, SEGMENTER, structures=["liver"]), "liver"),
    "no structure": (lambda: api.segment_axial(SLICE, SEGMENTER, structures=[]), "received none"),
    "structures that are no list": (
        lambda: api.segment_axial(SLICE, SEGMENTER, structures=None),
        "a list of names",
    ),
    "a prompt under a wrong name": (
        lambda: api.segment_axial(SLICE, SEGMENTER, prompts={"psoas_lef": POINT}),
        "no prompt is taken",
    ),
    "a prompt for fat, which follows from muscle": (
        lambda: api.segment_axial(SLICE, SEGMENTER, prompts={"vat": POINT}),
        "no prompt is taken",
    ),
    "prompts without names": (
        lambda: api.segment_axial(SLICE, SEGMENTER, prompts=[POINT]),
        "given by structure",
    ),
    "a click of three numbers": (
        lambda: api.find_l3_in_volume(VOLUME, SEGMENTER, l3_xy=(1, 2, 3)),
        "one point .column, row",
    ),
    "L3 on an axial slice": (lambda: api.find_l3(SLICE, SEGMENTER), "on a sagittal slice .received axial"),
    "an empty L3": (lambda: api.mid_l3_axial_index(VOLUME, np.zeros((5, 30), bool)), "L3 is empty"),
    "another slice's L3": (lambda: api.mid_l3_axial_index(VOLUME, MASK), r"shape \(5, 30\)"),
    "a slice's result as study": (lambda: api.measure_study(None), "comes from segment_study"),
    "a slice in place of HU": (lambda: api.measure_slice(SLICE, {}, (1, 1)), "pass its .hu"),
    "a mask without a name": (lambda: api.measure_slice(HU, MASK, (1, 1)), "masks must be a dictionary"),
    "a height as text": (lambda: api.measure_slice(HU, {}, (1, 1), height_m="1.7"), "number of metres"),
    "masks and slice swapped": (
        lambda: api.export_masks(SLICE, {"muscle": MASK}, "x.png"),
        "masks must be a dictionary",
    ),
    "no image to import to": (lambda: api.import_masks("x.png", "y"), "of must be a CTSlice or a CTVolume"),
    "volumes to compare": (lambda: api.compare_studies(VOLUME, VOLUME), "first must be a StudyResult"),
    "paths as cases": (lambda: api.run_cohort(["study"], "results"), "list of ctai_sam2.cohort.Case"),
    "no cases": (lambda: api.run_cohort(None, "results"), "a manifest or a list of cases"),
    "workers as text": (lambda: api.run_cohort([], "results", workers="2"), "received '2'"),
    "a misspelt setting": (lambda: api.Settings(devise="cuda"), "no such setting .received devise"),
    "a model as kind": (lambda: api.open_segmenter("sam2.1_hiera_tiny"), "Settings.model="),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    call, words = WRONG[case]
    with pytest.raises(ct.CtaiError, match=words):
        call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: api.MiddleMaskEditor("folder"), "received str"),
        (lambda: api.MiddleMaskEditor(HU, name="a"), "received ndarray"),
        (lambda: api.ReviewEditor("results", who="AB"), 'Worklist."results"'),
        (lambda: api.ChangeEditor(VOLUME), "comes from compare_studies"),
    ],
)
def test_an_editor_names_what_it_shows(call: Callable[[], object], words: str) -> None:
    pytest.importorskip("ipycanvas", reason="the extra jupyter is not installed")
    with pytest.raises(ct.CtaiError, match=words):
        call()


def test_one_name_is_a_list_of_one() -> None:
    assert require_structures("muscle") == ("muscle",)
    assert require_structures(("l3",), STRUCTURES) == ("l3",)


def test_one_warning_is_not_its_letters() -> None:
    noted: Any = "drawn by hand"
    assert ct.CTSlice(hu=HU, spacing_mm=(1, 1), warnings=noted).warnings == ("drawn by hand",)


def test_a_home_folder_is_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "study").mkdir()
    with pytest.raises(ct.CtaiError, match="the folder is empty"):
        ct.read_study("~/study")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (POINT, "Prompt(+(3, 4))"),
        (
            ct.Prompt(
                points_xy=np.ones((6, 2), np.float32),
                box_xyxy=(1, 2, 3, 4),
                mask=MASK,
                structure="psoas_left",
            ),
            f"Prompt({'+(1, 1), ' * 4}and 2 more points, box (1, 2, 3, 4), mask of {MASK.sum()} pixels, "
            "structure psoas_left)",
        ),
    ],
)
def test_a_prompt_is_described_in_one_line(value: ct.Prompt, words: str) -> None:
    assert repr(value) == words


def test_a_segmenter_is_described_in_one_line() -> None:
    with ct.open_segmenter("local") as segmenter:
        assert repr(segmenter) == "LocalSegmenter(sam2-ct-nano)"


def test_cases_are_taken_as_a_list(tmp_path: Any) -> None:
    with pytest.raises(ct.CtaiError, match="received str"):
        api.run_cohort([Case(case_id="P1", path=tmp_path), "P2"], tmp_path / "results")
