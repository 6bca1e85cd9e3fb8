"""A finished cohort called again: nothing is read while nothing has changed, and what has changed is seen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctai_sam2.cohort import runner, write_manifest
from ctai_sam2.cohort.corrections import add_reading
from ctai_sam2.cohort.finished import list_cases
from ctai_sam2.cohort.manifest import read_manifest
from ctai_sam2.cohort.runner import CohortRun, run_cohort
from ctai_sam2.cohort.store import CohortStore, stamp_of
from ctai_sam2.cohort.table import read_table
from tests.unit.cohort.making import QUICK, make_cases, write_slice


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a manifest and its finished cohort, one case of which failed."""
    folder = tmp_path_factory.mktemp("finished")
    cases = make_cases(folder / "in", 3)
    cases[2].path.write_bytes(b"broken")
    write_manifest(folder / "cases.csv", cases)
    call(folder)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a finished cohort that may be changed; it was moved, so that it was planned once more."""
    shutil.copytree(finished, tmp_path / "copy")
    assert call(tmp_path / "copy").unchanged == 3
    return tmp_path / "copy"


def call(folder: Path, **more: Any) -> CohortRun:
    return run_cohort(folder / "cases.csv", folder / "out", **{**QUICK, **more})


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with every manifest read: planning begins with one."""
    reads: list[str] = []

    def read(path: Any) -> Any:
        reads.append(str(path))
        return read_manifest(path)

    monkeypatch.setattr(runner, "read_manifest", read)
    return reads


def test_nothing_is_planned_where_nothing_has_changed(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = counted(monkeypatch)
    again = call(copied)
    assert (again.cases, again.unchanged, again.failed, reads) == (3, 3, 1, [])
    assert again.flagged == call(copied, retry_failed=True).flagged
    assert len(reads) == 1, "what failed is tried again: that is planned"


def touch(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        os.utime(path, ns=(1, path.stat().st_mtime_ns - 10**12))  # also where the clock goes backwards

    return change


def cut(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:-20])

    return change


def edit_row(folder: Path) -> None:
    path = folder / "cases.csv"
    path.write_text(path.read_text().replace("1.7", "1.8", 1))


def correct(folder: Path) -> None:
    add_reading(CohortStore(folder / "out"), "P000", slice_sha256="0" * 64, who="AB")


def forge(folder: Path) -> None:
    """Put another case's record in a case's place, with its size and time."""
    path, other = (folder / "out" / "records" / f"P00{n}.json" for n in (0, 1))
    path.write_bytes(other.read_bytes())


def replace_study(folder: Path) -> None:
    write_slice(folder / "in" / "0.npz", seed=77)


CHANGES: dict[str, Callable[[Path], None]] = {
    "a study is replaced": replace_study,
    "a study is touched": touch("in/1.npz"),
    "a record is touched": touch("out/records/P001.json"),
    "a record is damaged": cut("out/records/P001.json"),
    "a record is another's": forge,
    "a record is lost": lambda folder: (folder / "out/records/P001.json").unlink(),
    "a mask is lost": lambda folder: (folder / "out/masks/P001.nii.gz").unlink(),
    "predictions are lost": lambda folder: (folder / "out/answers/P001.zip").unlink(),
    "the table is damaged": cut("out/table.csv"),
    "the table is lost": lambda folder: (folder / "out/table.csv").unlink(),
    "the summary is damaged": cut("out/summary.json"),
    "a row of the manifest is another": edit_row,
    "a reader corrected a case": correct,
    "the index is damaged": cut("out/index.json"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_has_changed_is_planned_and_leads_to_the_same_table(
    copied: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (copied / "out" / "table.csv").read_bytes()
    change(copied)
    reads = counted(monkeypatch)
    call(copied)
    assert len(reads) == 1
    is_same = (copied / "out" / "table.csv").read_bytes() == before
    assert is_same is (change not in (replace_study, edit_row, correct))
    assert call(copied).unchanged == 3
    assert len(reads) == 1, "now it is finished again"


@pytest.mark.parametrize("more", [{"structures": ("psoas_right",)}, {"smi_cutoffs": "derstine-2018"}])
def test_other_settings_are_planned(
    copied: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = counted(monkeypatch)
    assert call(copied, **more).unchanged < 3
    assert len(reads) == 1


def test_a_note_of_another_form_is_not_used(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied / "out" / "index.json"
    content = json.loads(path.read_text())
    reads = counted(monkeypatch)
    for number, note in enumerate(({"key": "x"}, {**content["finished"], "more": 5}, [], "x"), start=1):
        path.write_text(json.dumps({**content, "finished": note}))
        assert call(copied).unchanged == 3
        assert len(reads) == number


def test_a_study_that_is_gone_is_a_problem_of_the_manifest(copied: Path) -> None:
    from ctai_sam2.errors import ManifestError

    (copied / "in" / "1.npz").unlink()
    with pytest.raises(ManifestError, match="row 3, path: there is nothing at this path"):
        call(copied)
    assert len(read_table(copied / "out")) == 3


def test_cases_are_listed_as_the_manifest_is_read(tmp_path: Path) -> None:
    for name in ("a.nii", "b c.nii"):
        (tmp_path / name).write_bytes(b"")
    path = tmp_path / "cases.csv"
    path.write_text('\ufeffcase_id; path ;sex\nP1;a.nii;F\n;;\nP2;"b c.nii";\n', encoding="utf-8")
    listing = list_cases(path)
    assert listing is not None
    assert listing.cases == tuple((one.case_id, str(one.path)) for one in read_manifest(path))


@pytest.mark.parametrize("text", ["case_id,path\nP1, a.nii\n", "case_id\nP1\n", "", "case_id,path\nP1\n"])
def test_what_takes_reading_properly_is_not_listed(tmp_path: Path, text: str) -> None:
    (tmp_path / "cases.csv").write_text(text)
    assert list_cases(tmp_path / "cases.csv") is None


def test_a_stamp_sees_every_file_below_a_folder_but_hidden_ones(tmp_path: Path) -> None:
    study = tmp_path / "study"
    (study / "b").mkdir(parents=True)
    for name in ("a.dcm", "b/c.dcm", "d.dcm"):
        (study / name).write_bytes(b"1")
    stamps = [stamp_of(study)]
    os.symlink(study, study / "loop")
    (study / ".hidden").write_bytes(b"1")
    assert stamp_of(study) == stamps[0]
    for change in (
        lambda: (study / "b" / "c.dcm").write_bytes(b"22"),
        lambda: os.utime(study / "a.dcm", ns=(1, 1)),
        lambda: (study / "b").rename(study / "e"),
        lambda: (study / "d.dcm").unlink(),
    ):
        change()
        stamps.append(stamp_of(study))
    assert len(set(stamps)) == 5
