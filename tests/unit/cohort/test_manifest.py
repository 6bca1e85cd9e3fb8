from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctai_sam2.cohort import Case, read_manifest, scan_cases, write_manifest
from ctai_sam2.cohort.case import format_prompt, parse_prompt
from ctai_sam2.cohort.manifest import check_rows
from ctai_sam2.errors import InputError, ManifestError
from ctai_sam2.io import write_dicom_series
from ctai_sam2.types import CTVolume, Prompt


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    return tmp_path


def write(folder: Path, text: str, name: str = "cases.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_text(text, encoding=encoding)
    return path


def test_a_row_becomes_a_case(study: Path) -> None:
    text = (
        "case_id,path,mid_l3_index,height_m,sex,weight_kg,prompt_psoas_left,age\n"
        'P1,a.nii.gz,12,1.75,f,70,"10,20; 30,40,0; 1,2,3,4",63\n'
    )
    (case,) = read_manifest(write(study, text))
    assert (case.case_id, case.path, case.mid_l3_index) == ("P1", study / "a.nii.gz", 12)
    assert (case.height_m, case.sex, case.weight_kg) == (1.75, "F", 70.0)
    assert case.bmi_kg_m2 == pytest.approx(22.857, abs=1e-3)
    prompt = case.prompts["psoas_left"]
    assert (prompt.points_xy.tolist(), prompt.structure) == ([[10, 20], [30, 40]], "psoas_left")


def test_every_problem_is_listed_by_row_as_a_spreadsheet_counts(study: Path) -> None:
    text = (
        "case_id,path,mid_l3_index,l3_x,l3_y,height_m,sex,weight_kg,prompt_muscle\n"
        "P1,a.nii.gz,1.5,,,175,female,70,\n"
        ",nowhere,-1,,,1.7,M,heavy,\n"
        ",,,,,,,,\n"
        'p1,a.nii.gz,,5,,1.7,M,70,"1,2,3,4,5"\n'
        "P/4,a.nii.gz,,,,,,,\n"
    )
    with pytest.raises(ManifestError) as caught:
        read_manifest(write(study, text))
    message = str(caught.value)
    for part in (
        "row 2, mid_l3_index",
        "row 2, height_m: lies outside 0.4 to 2.6 (received 175; give metres)",
        "row 2, sex",
        "row 3, case_id: is missing",
        "row 3, path: there is nothing",
        "row 3, mid_l3_index",
        "row 3, weight_kg: is not a number",
        "row 5, case_id: is also that of row 2",
        "row 5, l3_x: a click needs both",
        "row 5, mid_l3_index: prompts are drawn on one slice",
        "row 5, prompt_muscle",
        "row 6, case_id: must be",
    ):
        assert part in message
    assert "12 problems" in message
    assert "row 4" not in message
    assert "nowhere" not in message, "a path may be a patient's name"


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("case_id,file", "path: this column is missing"),
        ("case_id,path,hight_m", "did you mean height_m"),
        ("case_id,path,prompt_heart", "prompts are taken for"),
    ],
)
def test_the_header_is_checked(study: Path, header: str, part: str) -> None:
    with pytest.raises(ManifestError, match=part):
        read_manifest(write(study, header + "\nP1,a.nii.gz\n"))


def test_an_empty_table_is_a_problem(study: Path) -> None:
    with pytest.raises(ManifestError, match="no case"):
        read_manifest(write(study, "case_id,path\n"))


def test_unquoted_prompts_do_not_shift_cells(study: Path) -> None:
    with pytest.raises(ManifestError, match="row 4, cells: there are more cells"):
        read_manifest(write(study, "case_id,path\nP1,a.nii.gz\n\nP2,a.nii.gz,10,20\n"))


def test_decimal_commas_are_read_and_thousands_are_not(study: Path) -> None:
    (case,) = read_manifest(write(study, "case_id;path;height_m\nP1;a.nii.gz;1,75\n"))
    assert case.height_m == 1.75
    with pytest.raises(ManifestError, match="is not a number"):
        read_manifest(write(study, "case_id;path;weight_kg\nP1;a.nii.gz;1,234,567\n"))


def test_semicolons_and_a_byte_order_mark_are_read(study: Path) -> None:
    (case,) = read_manifest(write(study, "case_id;path\nP1;a.nii.gz\n", encoding="utf-8-sig"))
    assert case.case_id == "P1"


def test_numbers_of_a_parquet_file_are_read_like_text(study: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {
            "case_id": ["1", "2"],
            "path": ["a.nii.gz"] * 2,
            "mid_l3_index": [5.0, float("nan")],
            "height_m": [1.8, None],
        }
    )
    frame.to_parquet(study / "cases.parquet")
    first, second = read_manifest(study / "cases.parquet")
    assert (first.mid_l3_index, first.height_m) == (5, 1.8)
    assert (second.mid_l3_index, second.height_m) == (None, None)


@pytest.mark.parametrize("name", ["none.csv", "broken.csv", "broken.parquet"])
def test_a_file_that_is_no_table_is_an_input_error(study: Path, name: str) -> None:
    if name.startswith("broken"):
        (study / name).write_bytes(b"\xff\xfe\x00bad\xd8\x00")
    with pytest.raises(InputError):
        read_manifest(study / name)


coordinates = st.integers(0, 500).map(float)
prompts = st.builds(
    lambda points, box: Prompt(
        points_xy=np.array([p[:2] for p in points], np.float32).reshape(-1, 2),
        labels=np.array([p[2] for p in points], np.int32),
        box_xyxy=box,
        structure="muscle",
    ),
    st.lists(st.tuples(coordinates, coordinates, st.integers(0, 1)), min_size=1, max_size=5),
    st.none() | st.tuples(coordinates, coordinates).map(lambda at: (at[0], at[1], at[0] + 5, at[1] + 7)),
)


@given(prompts)
def test_a_prompt_is_read_as_it_was_written(prompt: Prompt) -> None:
    again = parse_prompt(format_prompt(prompt), "muscle")
    assert again.points_xy.tolist() == prompt.points_xy.tolist()
    assert np.asarray(again.labels).tolist() == np.asarray(prompt.labels).tolist()
    assert again.box_xyxy == prompt.box_xyxy


def test_a_manifest_is_read_as_it_was_written(study: Path) -> None:
    cases = [
        Case(
            case_id="P1",
            path=study / "a.nii.gz",
            series_uid="1.2.3",
            mid_l3_index=3,
            l3_xy=(4.5, 6.0),
            sagittal_index=7,
            height_m=1.7,
            sex="M",
            weight_kg=80.5,
            prompts={"muscle": parse_prompt("1,2; 3,4,0", "muscle")},
        ),
        Case(case_id="P2", path=study / "a.nii.gz"),
    ]
    path = write_manifest(study / "out.csv", cases)
    assert "\nP2,a.nii.gz,," in path.read_text()
    again = read_manifest(path)
    assert [fields(case) for case in again] == [fields(case) for case in cases]


def fields(case: Case) -> dict[str, Any]:
    return {**vars(case), "prompts": {name: format_prompt(one) for name, one in case.prompts.items()}}


def test_own_columns_come_with_the_case(study: Path) -> None:
    (case,) = read_manifest(write(study, "case_id,path,age,Größe\nP1,a.nii.gz,63,NA\n"))
    assert dict(case.extra) == {"age": "63", "Größe": "NA"}


@pytest.mark.parametrize("other", ["p1 ", "'p1", " p1"])
def test_names_that_differ_by_a_space_or_an_apostrophe_are_never_mixed_up(tmp_path: Path, other: str) -> None:
    for name in ("p1", other):
        (tmp_path / name).mkdir()
    assert paths_or_problem(write(tmp_path, f'case_id,path\nA,p1\nB,"{other}"\n')) in (
        ["p1", other],
        "ambiguous",
    )
    # Listed by this package itself, it is never the other one.
    own = write_manifest(tmp_path / "scan.csv", [Case(case_id="A", path=tmp_path / other)])
    assert paths_or_problem(own) in ([other], "ambiguous")


def paths_or_problem(manifest: Path) -> list[str] | str:
    try:
        return [case.path.name for case in read_manifest(manifest)]
    except ManifestError as error:
        return "ambiguous" if "ambiguous" in str(error) else str(error)


def test_a_trimmed_path_that_is_another_rows_is_refused(study: Path) -> None:
    with pytest.raises(ManifestError, match="row 3, path: differs from row 2 only by spaces"):
        read_manifest(write(study, "case_id,path\nA,a.nii.gz\nB,a.nii.gz \n"))
    assert read_manifest(write(study, "case_id,path\nA, a.nii.gz\n"))[0].path == study / "a.nii.gz"


def test_ids_whose_files_would_be_the_same_are_refused(study: Path) -> None:
    with pytest.raises(ManifestError, match="row 3, case_id: names the file of the L3 mask of row 2"):
        read_manifest(write(study, "case_id,path\nP1,a.nii.gz\np1_l3,a.nii.gz\n"))


def test_rows_may_come_from_anywhere(study: Path) -> None:
    (case,) = check_rows([{"case_id": 7, "path": study / "a.nii.gz", "height_m": np.float32(1.5)}])
    assert (case.case_id, case.height_m) == ("7", 1.5)


def test_a_scan_lists_studies_without_their_names(tmp_path: Path) -> None:
    volume = CTVolume(hu_zyx=np.zeros((3, 16, 16), np.int16), affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    write_dicom_series(tmp_path / "Doe^Jane", volume)
    (tmp_path / "b.nii.gz").write_bytes(b"x")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("nothing")
    scan = scan_cases(tmp_path)
    assert [case.case_id for case in scan.cases] == ["case-0001", "case-0002"]
    assert [case.path.name for case in scan.cases] == ["Doe^Jane", "b.nii.gz"]
    assert scan.skipped == (("notes", "no DICOM, NIfTI, NRRD or npz file in it"),)
    named = scan_cases(tmp_path, ids_from_names=True)
    assert [case.case_id for case in named.cases] == ["Doe_Jane", "b"]
    assert len(read_manifest(write_manifest(tmp_path / "cases.csv", scan.cases))) == 2


def test_files_next_to_the_studies_are_named_as_skipped(tmp_path: Path) -> None:
    volume = CTVolume(hu_zyx=np.zeros((3, 16, 16), np.int16), affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    write_dicom_series(tmp_path / "a", volume)
    (tmp_path / "IM0001").write_bytes(b"x")
    scan = scan_cases(tmp_path)
    assert len(scan.cases) == 1
    assert [name for name, _ in scan.skipped] == ["IM0001"]


def test_a_folder_of_loose_dicom_files_is_one_study(tmp_path: Path) -> None:
    volume = CTVolume(hu_zyx=np.zeros((3, 16, 16), np.int16), affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    write_dicom_series(tmp_path / "s", volume)
    assert [case.path for case in scan_cases(tmp_path / "s").cases] == [tmp_path / "s"]


def test_a_folder_without_studies_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no study"):
        scan_cases(tmp_path)
    with pytest.raises(InputError, match="cannot be opened"):
        scan_cases(tmp_path / "none")


def test_own_columns_and_blank_rows(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = 'case_id\tpath\tage\tward\nP1\ta.nii.gz\t63\t"A ""1"""\n\t\t\t\n\t \t\t\nP2\ta.nii.gz\t\tNA\n'
    cases = read_manifest(write(study, text))
    assert [dict(case.extra) for case in cases] == [{"age": "63", "ward": 'A "1"'}, {"age": "", "ward": "NA"}]
    assert "blank rows of the manifest were left out: 2" in caplog.text
    back = read_manifest(write_manifest(study / "again.csv", cases))
    assert [case.extra for case in back] == [case.extra for case in cases]
