"""A name in every element of a DICOM file, each length damaged: nothing that is written repeats it."""

from __future__ import annotations

import itertools
import logging
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from ctai_sam2.cohort import Case, run_cohort, write_methods, write_report
from ctai_sam2.cohort.case_record import read_case_record
from ctai_sam2.cohort.replay import replay_cohort
from ctai_sam2.errors import CtaiError
from ctai_sam2.exchange import export_masks
from ctai_sam2.io import list_series, read_slice, read_study
from ctai_sam2.segmentation import AxialResult, StructureResult, StudyResult
from ctai_sam2.study.change import compare_studies, write_change
from ctai_sam2.study.outputs import claim_folder, measure_study, write_study
from ctai_sam2.study.replay import replay_study
from ctai_sam2.study.report import describe_report, write_study_report
from ctai_sam2.types import CTVolume, Prompt
from tests.robustness.test_damaged_uploads import NAME, PARTS, ct_of_somebody, damaged_files
from tests.unit.cohort.making import QUICK, do_here, draw_slice
from tests.unit.io.making import edit

EVERY = 9
"""One of so many damaged files becomes a case; all are read."""
EVERY_STUDY = 16
"""One of so many damaged series becomes a study with all that can be written of it."""


def texts_below(folder: Path) -> Iterator[tuple[str, str]]:
    """Give names and contents of all files, those in archives too."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.name, path.name
            yield path.name, path.read_bytes().decode("latin-1")
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        yield f"{path.name}/{name}", archive.read(name).decode("latin-1")


def leaks(texts: Iterator[tuple[str, str]]) -> list[str]:
    return [
        f"{where}: {found}"
        for where, text in texts
        if (found := [part for part in PARTS if part in text.lower()])
    ]


@pytest.fixture
def drawn_texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Collect what is drawn into pictures and PDFs, where letters are outlines and streams are packed."""
    texts: list[tuple[str, str]] = []
    set_text = Text.set_text

    def noting(self: Text, text: object) -> None:
        texts.append(("drawn", str(text)))
        set_text(self, text)

    monkeypatch.setattr(Text, "set_text", noting)
    return texts


@pytest.mark.filterwarnings("ignore")  # pydicom's, of damaged elements; what they say goes nowhere
def test_no_reader_repeats_a_value(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[tuple[str, str]] = []
    path = tmp_path / "x.dcm"
    for data in damaged_files():
        path.write_bytes(data)
        for read in (read_study, read_slice, list_series):
            try:
                found = read(path)
            except CtaiError as error:
                said.append((read.__name__, str(error)))
            else:
                said += [(read.__name__, text) for text in getattr(found, "warnings", ())]
                if isinstance(found, CTVolume):
                    said.append((read.__name__, repr(found)))
    output = capfd.readouterr()
    assert said
    assert leaks(iter([*said, ("output", output.out), ("output", output.err)])) == []


@pytest.mark.filterwarnings("ignore")
def test_no_file_of_a_cohort_repeats_a_value(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drawn_texts: list[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    phantom = draw_slice()
    stored = (phantom.hu + 1024).astype(np.int16)
    cases = []
    for number, data in enumerate(list(damaged_files(stored))[::EVERY]):
        path = tmp_path / "in" / str(number) / "x.dcm"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        prompts = {"psoas_left": Prompt.point(50, 52, structure="psoas_left")}
        cases.append(Case(case_id=f"P{number:03d}", path=path, prompts=prompts))
    out = tmp_path / "out"
    # What is logged of a case is heard in this process only.
    do_here(monkeypatch)
    with caplog.at_level(logging.DEBUG, "ctai_sam2"):
        run = run_cohort(cases, out, **QUICK)
        write_methods(out)
        write_report(out)
        replayed = [repr(one) for one in replay_cohort(out, studies=cases)]
    assert run.failed > 10, run
    assert run.inferred > 10, {read_case_record(path).error for path in out.glob("records/*.json")}
    names = {path.name for path in out.rglob("*")}
    assert names >= {"table.csv", "summary.json", "data_dictionary.csv", "report.html", "methods.md"}
    output = capfd.readouterr()
    logged = [("log", f"{record.getMessage()} {vars(record)}") for record in caplog.records]
    assert replayed
    said = [*logged, *drawn_texts, *(("replay", text) for text in replayed)]
    found = leaks(iter([*texts_below(out), *said, ("output", output.out), ("output", output.err)]))
    assert found == []


def damaged_studies(folder: Path, hu: np.ndarray[Any, Any]) -> Iterator[Path]:
    """Write series of three slices, all with the same element damaged in the same way."""
    stored = (hu + 1024).astype(np.int16)
    slices = zip(*(damaged_files(stored, number) for number in (1, 2, 3)), strict=True)
    for number, files in enumerate(itertools.islice(slices, 0, None, EVERY_STUDY)):
        place = folder / str(number)
        place.mkdir()
        for at, data in enumerate(files):
            (place / f"{at}.dcm").write_bytes(data)
        yield place


def study_on(volume: CTVolume, masks: Mapping[str, Any]) -> StudyResult:
    """Make a result from true masks."""
    structures = {
        name: StructureResult(
            structure=name,  # type: ignore[arg-type]
            mask=mask,
            prediction=None,
            prompts=(),
            prompted_by="rule",
            confidence=None,
        )
        for name, mask in masks.items()
        if name in ("muscle", "psoas_left", "psoas_right", "sat", "vat")
    }
    axial = AxialResult(ct_slice=volume.axial(1), structures=structures)  # type: ignore[arg-type]
    return StudyResult(volume=volume, axial_index=1, axial=axial, level_chosen_by="user")


@pytest.mark.filterwarnings("ignore")
def test_no_file_of_a_study_repeats_a_value(
    tmp_path: Path,
    drawn_texts: list[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    phantom = draw_slice()
    said: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    out = tmp_path / "out"
    before = None

    def attempt(kind: str, work: Callable[..., object], *given: Any, **named: Any) -> None:
        try:
            said.append((kind, repr(work(*given, **named))))
            counts[kind] += 1
        except CtaiError as error:
            said.append((kind, str(error)))

    with caplog.at_level(logging.DEBUG, "ctai_sam2"):
        for number, place in enumerate(damaged_studies(tmp_path, phantom.hu)):
            try:
                volume = read_study(place)
            except CtaiError as error:
                said.append(("read", str(error)))
                continue
            if not isinstance(volume, CTVolume) or volume.shape_zyx != (3, 96, 96):
                continue
            folder = out / str(number)
            study = study_on(volume, phantom.masks)
            masks = {
                name: np.pad(study.masks[name][None], ((1, 1), (0, 0), (0, 0)))
                for name in ("psoas_left", "psoas_right")
            }
            for kind in ("seg", "rtstruct", "coco"):
                attempt(
                    kind,
                    export_masks,
                    masks,
                    volume,
                    folder / kind,
                    format=kind,
                    source=place,
                    pseudonym="P1",
                )
            if counts["seg"] % 6 != 1:
                continue
            claim_folder(folder, volume)
            row = measure_study(study, height_m=1.7)
            report = describe_report(study, row, write_study(study, row, folder))
            for language in ("en", "zh"):
                attempt("report", write_study_report, report, folder / language, language=language)
            attempt("replay", replay_study, folder, place)
            if before is not None:
                attempt("change", write_change, compare_studies(before, study), folder / "change")
            before = study
    assert set(counts) >= {
        "seg",
        "rtstruct",
        "coco",
        "report",
        "replay",
        "change",
    }
    output = capfd.readouterr()
    said += [("log", f"{record.getMessage()} {vars(record)}") for record in caplog.records]
    said += [("output", output.out), ("output", output.err), *drawn_texts]
    assert leaks(iter([*texts_below(out), *said])) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"])
def test_a_uid_that_is_none_gets_into_no_export(tmp_path: Path, keyword: str) -> None:
    place = tmp_path / "in"
    place.mkdir()
    for number in (1, 2, 3):
        path = place / f"{number}.dcm"
        path.write_bytes(ct_of_somebody(number=number))
        edit(path, **{keyword: f"{NAME} {number if keyword == 'SOPInstanceUID' else ''}"})
    volume = CTVolume(hu_zyx=np.zeros((3, 16, 16), np.int16), affine=np.diag([25.0, 25.0, 5.0, 1.0]))
    mask = np.ones((3, 16, 16), bool)
    for kind in ("seg", "rtstruct"):
        with pytest.raises(CtaiError) as caught:
            export_masks({"muscle": mask}, volume, tmp_path / kind, format=kind, source=place)  # type: ignore[arg-type]
        assert leaks(iter([("message", str(caught.value))])) == []


def test_a_leak_is_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", text=np.array(b"the patient is Zyxwick^Qorbelt"))
    assert leaks(texts_below(tmp_path))
