"""A name in every element of a DICOM file, each length damaged: nothing that a cohort leaves repeats it."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.cohort import Case, run_cohort, write_methods, write_report
from ctai_sam2.cohort.case_record import read_case_record
from ctai_sam2.errors import CtaiError
from ctai_sam2.io import list_series, read_slice, read_study
from ctai_sam2.phantom import make_axial_slice, random_parameters
from ctai_sam2.types import CTVolume, Prompt
from tests.robustness.test_damaged_uploads import PARTS, damaged_files
from tests.unit.cohort.making import QUICK

EVERY = 9
"""One of so many damaged files becomes a case; all are read."""


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


def test_no_file_of_a_cohort_repeats_a_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    phantom = make_axial_slice(
        random_parameters(np.random.default_rng(0)),
        shape_hw=(96, 96),
        spacing_mm=(400 / 96, 400 / 96),
        rng=np.random.default_rng(0),
    )
    stored = (phantom.hu + 1024).astype(np.int16)
    cases = []
    for number, data in enumerate(list(damaged_files(stored))[::EVERY]):
        path = tmp_path / "in" / str(number) / "x.dcm"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        prompts = {"psoas_left": Prompt.point(50, 52, structure="psoas_left")}
        cases.append(Case(case_id=f"P{number:03d}", path=path, prompts=prompts))
    out = tmp_path / "out"
    with caplog.at_level(logging.DEBUG, "ctai_sam2"):
        run = run_cohort(cases, out, **QUICK)
        write_methods(out)
        write_report(out)
    assert run.failed > 10, run
    assert run.inferred > 10, {read_case_record(path).error for path in out.glob("records/*.json")}
    names = {path.name for path in out.rglob("*")}
    assert names >= {"table.csv", "summary.json", "data_dictionary.csv", "report.html", "methods.md"}
    output = capfd.readouterr()
    logged = [("log", f"{record.getMessage()} {vars(record)}") for record in caplog.records]
    found = leaks(iter([*texts_below(out), *logged, ("output", output.out), ("output", output.err)]))
    assert found == []


def test_a_leak_is_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", text=np.array(b"the patient is Zyxwick^Qorbelt"))
    assert leaks(texts_below(tmp_path))
