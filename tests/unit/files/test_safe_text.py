"""Text reads back as it was written, and is safe where it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctai_sam2.errors import InputError
from ctai_sam2.files.atomic import write_json, write_table_csv
from ctai_sam2.files.safe_text import for_terminal, from_cell, is_device_name, read_table, safe_stem, to_cell

ANY_TEXT = st.text(st.characters(exclude_categories=()) | st.sampled_from("\\ud05c'=+-@＝ \t\n\udce9"))


@given(ANY_TEXT)
def test_a_cell_reads_back_exactly(text: str) -> None:
    assert from_cell(to_cell(text)) == text
    to_cell(text).encode("utf-8")


@given(ANY_TEXT)
def test_nothing_in_a_cell_is_run_or_moves_the_cursor(text: str) -> None:
    assert to_cell(text)[:1] not in {*"=+-@＝＋－＠"}
    assert "\x1b" not in for_terminal(text)
    for_terminal(text).encode("utf-8")


@given(st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_file_names_of_labels_are_never_the_same(names: list[str]) -> None:
    stems: list[str] = []
    for name in names:
        stems.append(safe_stem(name, stems))
    assert len({stem.casefold() for stem in stems}) == len(names)
    assert not any(is_device_name(stem) or "/" in stem or len(stem.encode()) > 200 for stem in stems)


@pytest.mark.parametrize(
    "cell",
    ["NA", "nan", "<NA>", "None", " p1", "p1 ", "'p1", "=1+1", "-5", "＝1", "a\nb", 'a"b', "a,b;c", "患者"],
)
def test_tables_read_back(tmp_path: Path, cell: str) -> None:
    path = write_table_csv(tmp_path / "t.csv", [{"name": cell, "x": 1.5}])
    assert read_table(path)[1] == [{"name": cell, "x": "1.5"}]


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("a;b\n1,5;2\n", ";"),
        ("a\tb\n1,5\t2\n", "\t"),
        ('a,b\r\n"1,5",2\r\n', ","),
        ("\ufeffa;b\n1,5;2\n", ";"),
    ],
)
def test_tables_of_other_programs(tmp_path: Path, text: str, separator: str) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8"))
    assert read_table(tmp_path / "t.csv") == (["a", "b"], [{"a": "1,5", "b": "2"}], separator)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty table"),
        (b"a,a\n1,2\n", "a column twice"),
        (b"a,b\n1,5,2\n", "more cells in a row"),
        (b"a\n\xff\n", "no CSV table in UTF-8"),
        (b'a\n"1\n', "no CSV table in UTF-8"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.csv")


def test_json_holds_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = b"p\xe9".decode("utf-8", "surrogateescape")
    assert json.loads(write_json(tmp_path / "a.json", {"path": name}).read_bytes()) == {"path": name}
