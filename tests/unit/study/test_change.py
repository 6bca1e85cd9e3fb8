"""Two dates: the slice that matches, the change, and what is flagged; on phantoms, with their true masks."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import ctai_sam2.io
import ctai_sam2.models
import ctai_sam2.segmentation
import ctai_sam2.study.outputs  # imported before `read_study` is replaced, or it would keep the other
from ctai_sam2.cli.app import app
from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.phantom import PhantomVolume, make_volume, masks_from_labels, reference_parameters
from ctai_sam2.phantom.parameters import PhantomParameters
from ctai_sam2.segmentation import AxialResult, StructureResult, StudyResult
from ctai_sam2.segmentation.slice_match import match_slice
from ctai_sam2.study.change import compare_studies, write_change
from ctai_sam2.types import Acquisition, CTVolume
from tests.fakes import FakeSegmenter
from tests.robustness.dicom_making import dataset, save
from tests.robustness.image_case import body

SHAPE = (16, 110, 130)
SPACING = (4.0, 3.0, 3.0)
DRAWN = ("muscle", "psoas_left", "psoas_right", "sat", "vat")


@functools.lru_cache(maxsize=8)
def phantom_of(parameters: PhantomParameters, seed: int) -> PhantomVolume:
    rng = np.random.default_rng(seed)
    return make_volume(parameters, shape_zyx=SHAPE, spacing_zyx_mm=SPACING, rng=rng)


def study_of(
    parameters: PhantomParameters,
    *,
    seed: int,
    index: int | None = None,
    acquisition: Acquisition | None = None,
) -> StudyResult:
    phantom = phantom_of(parameters, seed)
    volume = CTVolume(
        hu_zyx=phantom.hu_zyx, affine=phantom.affine, acquisition=acquisition or Acquisition(kvp=120.0)
    )
    z_mm = phantom.affine[2, 3] + np.arange(SHAPE[0]) * SPACING[0]
    at_l3 = int(np.argmin(np.abs(z_mm - phantom.levels_mm["L3"])))
    chosen = at_l3 if index is None else at_l3 + index
    truth = masks_from_labels(phantom.labels_zyx[chosen])
    drawn = {name: truth[name] for name in DRAWN} | {"vertebra": truth["L3"]}
    structures = {
        name: StructureResult(
            structure=name,  # type: ignore[arg-type]
            mask=mask,
            prediction=None,
            prompts=(),
            prompted_by="rule",
            confidence=None,
        )
        for name, mask in drawn.items()
    }
    axial = AxialResult(ct_slice=volume.axial(chosen), structures=structures)  # type: ignore[arg-type]
    return StudyResult(volume=volume, axial_index=chosen, axial=axial, level_chosen_by="user")


@pytest.fixture(scope="module")
def before() -> StudyResult:
    return study_of(reference_parameters(), seed=1)


def test_the_same_height_is_found_again(before: StudyResult) -> None:
    for off in (-2, 2):
        after = study_of(reference_parameters(), seed=2, index=off)
        match = match_slice(
            before.axial.ct_slice,
            before.masks["vertebra"],
            after.volume,
            after.axial_index,
            after.masks["vertebra"],
        )
        assert match.axial_index == before.axial_index
        assert match.offset_mm == pytest.approx(-off * SPACING[0])
        assert match.similarity > match.similarity_at_start


def test_a_loss_of_muscle_is_measured_and_more_than_error(before: StudyResult) -> None:
    thinner = dataclasses.replace(
        reference_parameters(), wall_muscle_mm=reference_parameters().wall_muscle_mm * 0.7
    )
    after = study_of(thinner, seed=2)
    change = compare_studies(before, after, height_m=1.7)
    (sma,) = [one for one in change.measures if one.column == "sma_cm2"]
    pixel = 3.0 * 3.0 / 100

    def counted(study: StudyResult) -> float:
        inside = study.axial.ct_slice.hu[study.masks["muscle"]]
        return float(((inside >= -29) & (inside <= 150)).sum()) * pixel

    assert sma.first == pytest.approx(counted(before))
    assert sma.change == pytest.approx(counted(after) - counted(before))
    assert sma.change_percent == pytest.approx(100 * (counted(after) / counted(before) - 1))
    assert sma.least_change == pytest.approx(max(5.6, 0.018 * sma.first))
    assert sma.exceeds is True
    assert [one.exceeds for one in change.measures if one.column == "smd_hu"] == [None]


def test_nothing_changed_is_no_change(before: StudyResult) -> None:
    change = compare_studies(before, study_of(reference_parameters(), seed=2))
    (sma,) = [one for one in change.measures if one.column == "sma_cm2"]
    assert sma.exceeds is False
    assert change.match is not None
    assert not [flag for flag in change.flags if flag.startswith(("scanner", "tube", "level"))]


def test_what_differs_is_flagged_and_another_voltage_needs_more(before: StudyResult) -> None:
    other = Acquisition(kvp=80.0, scanner="Maker Two", slice_thickness_mm=8.0)
    base = Acquisition(kvp=120.0, scanner="Maker One", slice_thickness_mm=5.0)
    first = study_of(reference_parameters(), seed=1, acquisition=base)
    change = compare_studies(first, study_of(reference_parameters(), seed=2, acquisition=other))
    text = "\n".join(change.flags)
    assert "scanner: Maker One then, Maker Two now" in text
    assert "tube voltage: 120 then, 80 now" in text
    assert "second study: slices of 8 mm" in text
    (sma,) = [one for one in change.measures if one.column == "sma_cm2"]
    assert sma.least_change == 19.9


def test_another_phase_is_seen_in_the_image(before: StudyResult) -> None:
    enhanced = dataclasses.replace(reference_parameters(), phase="portal_venous")
    native = dataclasses.replace(reference_parameters(), phase="unenhanced")
    change = compare_studies(study_of(native, seed=1), study_of(enhanced, seed=2))
    assert "contrast phase: unenhanced then, portal_venous now" in change.flags


def test_a_slice_elsewhere_is_flagged_without_a_segmenter(before: StudyResult) -> None:
    change = compare_studies(before, study_of(reference_parameters(), seed=2, index=2))
    assert any("8.0 mm from the one measured" in flag for flag in change.flags)


def test_your_own_repeatability_counts(before: StudyResult) -> None:
    after = study_of(reference_parameters(), seed=2)
    change = compare_studies(before, after, least_changes={"smd_hu": 0.001})
    (smd,) = [one for one in change.measures if one.column == "smd_hu"]
    assert (smd.exceeds, smd.source) == (True, "given")
    with pytest.raises(InputError, match="no such measure"):
        compare_studies(before, after, least_changes={"sma": 1.0})


def test_without_a_vertebra_nothing_is_matched(before: StudyResult) -> None:
    empty = np.zeros(SHAPE[1:], bool)
    with pytest.raises(AnatomyNotFound):
        match_slice(before.axial.ct_slice, empty, before.volume, before.axial_index, empty)


def test_table_and_picture_are_written(before: StudyResult, tmp_path: Path) -> None:
    change = compare_studies(before, before)
    files = write_change(change, tmp_path)
    header, *lines = files.table.read_text("utf-8").splitlines()
    assert header.split(",")[:5] == ["measure", "unit", "first", "second", "change"]
    assert len(lines) == len(change.measures)
    assert all(line.split(",")[4] in ("0.0", "0") for line in lines)
    with Image.open(tmp_path / "first.png") as single, Image.open(files.picture) as both:
        assert both.size == (2 * single.width, single.height)


@pytest.fixture
def two_dates(before: StudyResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the phantoms in place of what is read and segmented; the commands are as they are."""
    studies = {"a": before, "b": study_of(reference_parameters(), seed=2)}
    monkeypatch.setattr(ctai_sam2.io, "read_study", lambda path, **_: studies[Path(path).name].volume)
    monkeypatch.setattr(ctai_sam2.models, "open_segmenter", lambda *_, **__: FakeSegmenter())
    by_volume = {id(study.volume): study for study in studies.values()}
    monkeypatch.setattr(
        ctai_sam2.segmentation, "segment_study", lambda volume, *_, **__: by_volume[id(volume)]
    )


@pytest.mark.usefixtures("two_dates")
def test_the_command_compares_two_dates(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["change", "a", "b", "--out", str(tmp_path), "--height-m", "1.7", "--json"]
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["slices"] == [said["slices"][0]] * 2
    assert {row["measure"] for row in said["measures"]} >= {"sma_cm2", "smi_cm2_m2", "smd_hu"}
    assert Path(said["files"]["picture"]).is_file()


def test_the_warnings_of_each_study_are_among_the_flags(before: StudyResult) -> None:
    doubtful = dataclasses.replace(before, warnings=("psoas_left: the model is not sure of its mask",))
    change = compare_studies(doubtful, before)
    assert "first study: psoas_left: the model is not sure of its mask" in change.flags


@pytest.mark.parametrize("words", [["report", "a"], ["change", "a", "b"]])
def test_commands_use_the_threshold_of_the_settings_and_say_where_the_results_are(
    words: list[str], two_dates: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ctai_sam2.segmentation.segment_study
    thresholds = []

    def segment(volume: CTVolume, *_: object, confidence_threshold: float = 0.5, **__: object) -> StudyResult:
        thresholds.append(confidence_threshold)
        return dataclasses.replace(known(volume, FakeSegmenter()), warnings=("look at it",))

    monkeypatch.setattr(ctai_sam2.segmentation, "segment_study", segment)
    monkeypatch.setenv("SAM2_CONFIDENCE_THRESHOLD", "0.9")
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert set(thresholds) == {0.9}
    assert "look at it" in done.stdout
    assert "Written:" in done.stdout
    assert "before you use the numbers" in done.stdout


@pytest.mark.usefixtures("two_dates")
@pytest.mark.parametrize(
    ("first", "second", "flags"),
    [
        ({"StudyDate": "20200301"}, {"StudyDate": "20210301"}, []),
        ({"StudyDate": "20210301"}, {"StudyDate": "20200301"}, ["made after the second"]),
        ({"StudyInstanceUID": "2.25.4"}, {"StudyInstanceUID": "2.25.4"}, ["of one study"]),
        ({}, {"PatientID": "ID-2"}, ["two patients"]),
        ({"StudyDate": ""}, {"PatientID": None}, []),
    ],
)
def test_headers_that_speak_against_the_comparison_are_flagged(
    tmp_path: Path, first: dict[str, str], second: dict[str, str], flags: list[str]
) -> None:
    for name, uid, facts in (("a", "2.25.1", first), ("b", "2.25.2", second)):
        (tmp_path / name).mkdir()
        made = dataset(body(), **{"StudyInstanceUID": uid, **facts})
        save(made, tmp_path / name / "1.dcm")
        made.SOPClassUID, made.Modality = "1.2.840.10008.5.1.4.1.1.88.67", "SR"  # a dose report comes first
        save(made, tmp_path / name / "0.dcm")
    arguments = ["change", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = [flag for flag in json.loads(done.stdout)["flags"] if flag.startswith(("order", "patient"))]
    assert len(found) == len(flags)
    assert all(words in flag for words, flag in zip(flags, found, strict=True))
    assert not any(word in done.output for word in ("2020", "2021", "ID-"))


def test_two_body_heights_are_flagged(before: StudyResult) -> None:
    heights = (1.62, 1.7)
    studies = [
        study_of(reference_parameters(), seed=1, acquisition=Acquisition(patient_height_m=one))
        for one in heights
    ]
    change = compare_studies(*studies)
    (smi,) = [one for one in change.measures if one.column == "smi_cm2_m2"]
    assert smi.change_percent == pytest.approx(100 * ((heights[0] / heights[1]) ** 2 - 1))
    assert any(flag.startswith("body height") for flag in change.flags)
    assert not any("body height" in flag for flag in compare_studies(*studies, height_m=1.7).flags)


@pytest.mark.usefixtures("two_dates")
def test_the_command_writes_a_page_about_one_study(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["report", "a", "--out", str(tmp_path), "--sex", "F", "--age-years", "50", "--language", "zh"]
    )
    assert done.exit_code == 0, done.output
    assert "framingham-2024@1" in (tmp_path / "report.html").read_text("utf-8")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize(
    "wrong",
    [
        ["change", "a", "b", "--axial-index", "41"],
        ["report", "a", "--language", "fr"],
        ["report", "a", "--cut-offs", "nobody"],
        ["report", "a", "--reference", "nobody"],
        ["report", "a", "--sex", "X"],
        ["report", "a", "--age-years", "-4"],
        ["report", "a", "--weight-kg", "1000"],
    ],
)
def test_wrong_options_are_refused_before_the_work(wrong: list[str]) -> None:
    assert CliRunner().invoke(app, wrong).exit_code == 2
