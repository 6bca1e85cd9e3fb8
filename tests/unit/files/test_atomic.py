from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ctai_sam2.errors import InputError, StorageError
from ctai_sam2.files.atomic import atomic_write, write_json, write_table_csv, write_text


def test_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    write_text(target, "old")
    write_text(target, "größer\n")
    assert target.read_text(encoding="utf-8") == "größer\n"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_a_failing_block_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def write_half() -> None:
        with atomic_write(target) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "word"), [(errno.ENOSPC, "no space left"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota")]
)
def test_disk_errors_name_the_file_and_keep_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, word: str
) -> None:
    target = tmp_path / "table.csv"
    write_text(target, "old")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=f"table.csv could not be written.*{word}"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_a_real_limit_on_file_size_is_a_storage_error(tmp_path: Path) -> None:
    code = (
        "import sys, resource\n"
        "from ctai_sam2.files.atomic import write_text\n"
        "from ctai_sam2.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    write_text(sys.argv[1], 'x' * 100000)\n"
        "except StorageError as error:\n"
        "    sys.stdout.write(str(error))\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "big.txt")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert run.stdout.startswith("big.txt could not be written: file too large")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("file")
    with pytest.raises(StorageError, match=r"b\.txt could not be written"):
        write_text(tmp_path / "a" / "b.txt", "x")


def test_table_quotes_empties_and_defuses_formulas(tmp_path: Path) -> None:
    rows = [
        {"name": "a,b", "value": 1.5, "note": None},
        {"name": "=1+1", "value": float("nan")},
        {"name": "x", "value": -2.0, "note": "+"},
    ]
    path = write_table_csv(tmp_path / "t.csv", rows)
    assert path.read_text() == "name,value,note\n\"a,b\",1.5,\n'=1+1,,\nx,-2.0,'+\n"


def test_table_refuses_cells_without_a_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="outside the table's columns"):
        write_table_csv(tmp_path / "t.csv", [{"a": 1, "b": 2}], ["a"])
    assert list(tmp_path.iterdir()) == []


def test_json_refuses_what_it_cannot_say(tmp_path: Path) -> None:
    assert write_json(tmp_path / "a.json", {"a": "ä"}).read_text(encoding="utf-8") == '{\n  "a": "ä"\n}\n'
    for value in (float("nan"), object()):
        with pytest.raises(InputError, match="JSON"):
            write_json(tmp_path / "b.json", value)
    assert not (tmp_path / "b.json").exists()
