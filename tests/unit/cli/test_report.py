from __future__ import annotations

import json

import numpy as np
import pytest
import typer

from ctai_sam2 import errors
from ctai_sam2.cli.report import exit_code_of, print_json, print_table, reporting_errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("a"), 2),
        (errors.AnatomyNotFound("a"), 2),
        (errors.WeightsMissing("a"), 3),
        (errors.DeviceUnavailable("a"), 3),
        (errors.DicomError("a"), 4),
        (errors.GeometryError("a"), 4),
        (errors.StorageError("a"), 5),
        (errors.RecordError("a"), 1),
    ],
)
def test_every_error_has_its_documented_exit_code(error: errors.CtaiError, code: int) -> None:
    assert exit_code_of(error) == code


def test_errors_become_a_sentence_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    @reporting_errors
    def command(as_json: bool) -> None:
        raise errors.DicomError("truncated pixel data", received="a.dcm", hint="Copy it again.")

    with pytest.raises(typer.Exit) as stop:
        command(as_json=False)
    assert stop.value.exit_code == 4
    assert "DicomError: truncated pixel data (received a.dcm). Copy it again." in capsys.readouterr().err
    with pytest.raises(typer.Exit):
        command(as_json=True)
    assert json.loads(capsys.readouterr().out)["error"] == "DicomError"


def test_a_bug_is_not_swallowed() -> None:
    @reporting_errors
    def command() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        command()


def test_json_is_always_valid(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"nan": float("nan"), "array": np.float32(1.5), "list": (1, None), "name": "L3 腰椎"})
    assert json.loads(capsys.readouterr().out) == {
        "nan": None,
        "array": 1.5,
        "list": [1, None],
        "name": "L3 腰椎",
    }


def test_tables_align_and_show_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"a": 1.23456, "b": None}, {"a": 12345.6, "b": "x"}], ("a", "b"))
    assert capsys.readouterr().out.splitlines() == ["a        b", "1.235    –", "12345.6  x"]
