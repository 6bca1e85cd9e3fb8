"""Manifests and readers' tables as people and programs write them: the right cells, or a refusal with its place."""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ctai_sam2.agreement import read_readings
from ctai_sam2.cohort import read_manifest
from ctai_sam2.errors import CtaiError

HEAD = "case_id,path,height_m,sex,mid_l3_index,ward"
ROW = "P1,a.nii.gz,1.75,F,12,A"
RIGHT = ("P1", "a.nii.gz", 1.75, "F", 12, "A")


def table(*rows: str, head: str = HEAD, end: str = "\n") -> str:
    return end.join([head, *rows]) + end


def cell(**changes: str) -> str:
    cells = dict(zip(HEAD.split(","), ROW.split(","), strict=True)) | changes
    return ",".join(cells[name] for name in HEAD.split(","))


GOOD: Mapping[str, tuple[str | bytes, list[tuple[Any, ...]]]] = {
    "plain": (table(ROW), [RIGHT]),
    "no line break at the end": (table(ROW).rstrip("\n"), [RIGHT]),
    "Windows line breaks": (table(ROW, end="\r\n"), [RIGHT]),
    "byte order mark": (table(ROW).encode("utf-8-sig"), [RIGHT]),
    "semicolons": (table(ROW).replace(",", ";"), [RIGHT]),
    "semicolons and decimal commas": (table(ROW).replace(",", ";").replace("1.75", "1,75"), [RIGHT]),
    "tabs": (table(ROW).replace(",", "\t"), [RIGHT]),
    "all cells quoted": (table(*(",".join(f'"{c}"' for c in ROW.split(",")),)), [RIGHT]),
    "spaces around cells": (table(" P1 , a.nii.gz , 1.75 , F , 12 , A "), [RIGHT]),
    "blank lines": (table("", ROW, "", ",,,,,", " , ,,,,"), [RIGHT]),
    "columns in another order": (table("A,F,P1,1.75,12,a.nii.gz", head="ward,sex,case_id,height_m,mid_l3_index,path"), [RIGHT]),
    "empty cells": (table("P1,a.nii.gz,,,,"), [("P1", "a.nii.gz", None, None, None, "")]),
    "a short row": (table("P1,a.nii.gz"), [("P1", "a.nii.gz", None, None, None, "")]),
    "sex in small letters": (table(cell(sex="f")), [RIGHT]),
    "sex unknown": (table(cell(sex="U")), [(*RIGHT[:3], None, *RIGHT[4:])]),
    "an index as a float": (table(cell(mid_l3_index="12.0")), [RIGHT]),
    "a comma in quotes": (table(cell(ward='"A, B"')), [(*RIGHT[:5], "A, B")]),
    "a line break in quotes": (table(cell(ward='"A\nB"')), [(*RIGHT[:5], "A\nB")]),
    "a quotation mark": (table(cell(ward='"A ""1"""')), [(*RIGHT[:5], 'A "1"')]),
    "NA as text": (table(cell(ward="NA")), [(*RIGHT[:5], "NA")]),
    "a formula": (table(cell(ward="'=1+1")), [(*RIGHT[:5], "=1+1")]),
    "another script": (table(cell(ward="腹部")), [(*RIGHT[:5], "腹部")]),
    "a pseudonym like a number": (table(cell(case_id="0012")), [("0012", *RIGHT[1:])]),
    "a pseudonym like NA": (table(cell(case_id="NA")), [("NA", *RIGHT[1:])]),
    "a pseudonym like a date": (table(cell(case_id="2020-01-02")), [("2020-01-02", *RIGHT[1:])]),
    "a pseudonym like a large number": (table(cell(case_id="12345678901234567890")), [("12345678901234567890", *RIGHT[1:])]),
    "two cases": (table(ROW, cell(case_id="P2", height_m="1,60".join('""'))), [RIGHT, ("P2", "a.nii.gz", 1.6, *RIGHT[3:])]),
    "a name with a space": (table(cell(path="b c.nii.gz")), [("P1", "b c.nii.gz", *RIGHT[2:])]),
    "a name with a comma": (table(cell(path='"b,c.nii.gz"')), [("P1", "b,c.nii.gz", *RIGHT[2:])]),
    "a name with an apostrophe": (table(cell(path="''d.nii.gz")), [("P1", "'d.nii.gz", *RIGHT[2:])]),
    "a name in another script": (table(cell(path="腹.nii.gz")), [("P1", "腹.nii.gz", *RIGHT[2:])]),
    "a name that is no UTF-8": (table(cell(path="\\udce9.nii.gz")), [("P1", os.fsdecode(b"\xe9.nii.gz"), *RIGHT[2:])]),
}  # fmt: skip

BAD: Mapping[str, tuple[str | bytes, str]] = {
    "empty": ("", "column is missing"),
    "a header alone": (table(), "no case"),
    "no path": (table("P1", head="case_id"), "path: this column is missing"),
    "a column misspelt": (table(ROW, head=HEAD.replace("height_m", "hight_m")), "did you mean height_m"),
    "a column twice": (table(ROW, head=HEAD.replace("ward", "sex")), "appears twice"),
    "a case twice": (table(ROW, ROW), "row 3, case_id: is also that of row 2"),
    "a case twice but for case": (table(ROW, cell(case_id="p1")), "row 3, case_id"),
    "more cells than columns": (table(ROW + ",x"), "row 2, cells"),
    "decimal commas among commas": (table(ROW.replace("1.75", "1,75")), "row 2"),
    "height in cm": (table(cell(height_m="175")), "row 2, height_m"),
    "height in feet": (table(cell(height_m="5'9")), "row 2, height_m"),
    "height of nobody": (table(cell(height_m="0")), "row 2, height_m"),
    "height is nan": (table(cell(height_m="nan")), "row 2, height_m"),
    "height is infinite": (table(cell(height_m="inf")), "row 2, height_m"),
    "height with a unit": (table(cell(height_m="1.75 m")), "row 2, height_m"),
    "sex as a number": (table(cell(sex="1")), "row 2, sex"),
    "sex as a word": (table(cell(sex="female")), "row 2, sex"),
    "an index that is no whole number": (table(cell(mid_l3_index="12.5")), "row 2, mid_l3_index"),
    "a negative index": (table(cell(mid_l3_index="-1")), "row 2, mid_l3_index"),
    "a pseudonym with a path in it": (table(cell(case_id="../P1")), "row 2, case_id"),
    "a pseudonym with a space": (table(cell(case_id="P 1")), "row 2, case_id"),
    "a pseudonym in another script": (table(cell(case_id="患者")), "row 2, case_id"),
    "a device's name": (table(cell(case_id="con")), "row 2, case_id"),
    "a path to nothing": (table(cell(path="gone.nii.gz")), "row 2, path"),
    "no path in a row": (table(cell(path="")), "row 2, path: is missing"),
    "no pseudonym in a row": (table(cell(case_id="")), "row 2, case_id: is missing"),
    "Unicode of 16 bits": (table(ROW).encode("utf-16"), "UTF-8"),
    "Chinese Windows": (table(cell(ward="腹部")).encode("gb18030"), "UTF-8"),
    "Western Windows": (table(cell(ward="Größe")).encode("cp1252"), "UTF-8"),
    "a zero byte": (table(ROW.replace("A", "\0")), ""),
    "an Excel file": (b"PK\x03\x04" + bytes(range(256)), ""),
}  # fmt: skip


def write(folder: Path, content: str | bytes) -> Path:
    for name in (
        "a.nii.gz",
        "b c.nii.gz",
        "b,c.nii.gz",
        "'d.nii.gz",
        "腹.nii.gz",
        os.fsdecode(b"\xe9.nii.gz"),
    ):
        (folder / name).write_bytes(b"x")
    path = folder / "cases.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", GOOD)
def test_a_manifest_is_read_as_it_is_meant(tmp_path: Path, name: str) -> None:
    content, expected = GOOD[name]
    cases = read_manifest(write(tmp_path, content))
    found = [(c.case_id, c.path.name, c.height_m, c.sex, c.mid_l3_index, c.extra["ward"]) for c in cases]
    assert found == expected


@pytest.mark.parametrize("name", BAD)
def test_a_manifest_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    with pytest.raises(CtaiError) as refused:
        read_manifest(write(tmp_path, content))
    assert words in str(refused.value)


READINGS: Mapping[str, tuple[Callable[[str], str | bytes], bool]] = {
    "plain": (lambda t: t, True),
    "byte order mark": (lambda t: t.encode("utf-8-sig"), True),
    "semicolons": (lambda t: t.replace(",", ";"), True),
    "semicolons and decimal commas": (lambda t: t.replace(",", ";").replace(".", ","), True),
    "tabs": (lambda t: t.replace(",", "\t"), True),
    "Windows line breaks": (lambda t: t.replace("\n", "\r\n"), True),
    "blank lines": (lambda t: t.replace("\n", "\n\n"), True),
    "quoted": (lambda t: "\n".join(",".join(f'"{c}"' for c in line.split(",")) for line in t.splitlines()), True),
    "case for case_id": (lambda t: t.replace("case_id", "case"), True),
    "a unit": (lambda t: t.replace("101.5", "101.5 cm2"), False),
    "a case twice": (lambda t: t.replace("q,", "p,"), False),
    "thousands or decimals": (lambda t: t.replace("101.5", '"1,015"'), False),
    "semicolons, points and a whole thousand": (lambda t: t.replace(",", ";").replace("101.5", "101.500"), True),
    "commas and thousands": (lambda t: t.replace(",", ";").replace(".", ",").replace("101,5", "1.015"), False),
    "half a slice": (lambda t: t.replace("smd_hu", "middle_slice").replace("41", "41.5"), False),
    "a column twice": (lambda t: t.replace("smd_hu", "sma_cm2"), False),
    "more cells than columns": (lambda t: t.replace("101.5", "101.5,3"), False),
    "no case column": (lambda t: t.replace("case_id", "who"), False),
    "Western Windows": (lambda t: t.replace("p,", "é,").encode("cp1252"), False),
}  # fmt: skip


@pytest.mark.parametrize("name", READINGS)
def test_a_readers_table(tmp_path: Path, name: str) -> None:
    change, is_good = READINGS[name]
    content = change("case_id,sma_cm2,smd_hu\np,101.5,41\nq,99.25,38.5\n")
    path = tmp_path / "reader.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if not is_good:
        with pytest.raises(CtaiError):
            read_readings(path)
        return
    assert {one.case: dict(one.values) for one in read_readings(path)} == {
        "p": {"sma_cm2": 101.5, "smd_hu": 41.0},
        "q": {"sma_cm2": 99.25, "smd_hu": 38.5},
    }
