"""Output of commands: tables for people, JSON for programs, errors with exit codes."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer

from ctai_sam2.errors import (
    CtaiError,
    DicomError,
    GeometryError,
    InputError,
    SegmenterError,
    StorageError,
    WeightsError,
)
from ctai_sam2.files.safe_text import for_terminal

_FILES_LISTED = 3
"""More files of one kind in one folder are counted, not listed."""

_OWN_COLORS = re.compile(r"\x1b\[[0-9;]*m")

P = ParamSpec("P")
R = TypeVar("R")

EXIT_CODES: tuple[tuple[type[CtaiError], int], ...] = (
    (InputError, 2),
    (WeightsError, 3),
    (SegmenterError, 3),
    (DicomError, 4),
    (GeometryError, 4),
    (StorageError, 5),
    (CtaiError, 1),
)
"""First match counts; documented in the package's docstring and the README."""


def exit_code_of(error: CtaiError) -> int:
    """Exit code that stands for an error."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def reporting_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn our errors into one sentence on stderr (or JSON on stdout) and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except CtaiError as error:
            if kwargs.get("as_json"):
                print_json({"error": type(error).__name__, "detail": str(error)})
            else:
                typer.secho(for_terminal(f"{type(error).__name__}: {error}"), fg="red", err=True)
            raise typer.Exit(exit_code_of(error)) from None

    return run


def print_json(value: object) -> None:
    """Write one JSON document to stdout; NaN becomes null."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False)
    # What the terminal's encoding or UTF-8 cannot say becomes JSON's own escapes.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def print_line(text: str = "", *, as_json: bool = False) -> None:
    """Write a line for a person: to stdout, or to stderr where stdout carries JSON."""
    typer.echo(_encodable(_printable(text), err=as_json), err=as_json)


def print_note(text: str, *, err: bool = True) -> None:
    """Write a note for a person, to stderr unless it belongs to what stdout says."""
    typer.secho(_encodable(for_terminal(f"Note: {text}"), err=err), fg="yellow", err=err)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, in the plural unless it is one.

    Examples
    --------
    >>> counted(1, "slice"), counted(0, "case")
    ('1 slice', '0 cases')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Write rows as aligned text."""
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells), 0) for i, name in enumerate(columns)]
    typer.secho("  ".join(name.ljust(w) for name, w in zip(columns, widths, strict=True)).rstrip(), bold=True)
    for line in cells:
        text = "  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip()
        typer.echo(_encodable(text, err=False))


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    return for_terminal(str(value))


def _printable(text: str) -> str:
    """Text without what a terminal would act on, but with the colors this package sets itself."""
    pieces = _OWN_COLORS.split(text)
    marks = _OWN_COLORS.findall(text)
    return "".join(a + b for a, b in zip(map(for_terminal, pieces), [*marks, ""], strict=True))


def _encodable(text: str, *, err: bool) -> str:
    """Text that the stream's encoding can say, with escapes for what it cannot."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings to stdout, a line each."""
    for text in warnings:
        print_note(text, err=False)


def print_files(files: Mapping[str, Any]) -> None:
    """Print what was written where; many files of one folder as the folder and their number."""
    rows: list[tuple[str, object]] = []
    for name, value in files.items():
        paths = [value] if not isinstance(value, list | tuple) else list(value)
        folders = {Path(path).parent for path in paths if path is not None}
        if len(paths) > _FILES_LISTED and len(folders) == 1:
            rows.append((name, f"{folders.pop()}{os.sep}  ({len(paths)} files)"))
        else:
            rows += [(name, path) for path in paths if path is not None]
    width = max((len(name) for name, _ in rows), default=0)
    print_line("\nWritten:")
    for name, where in rows:
        print_line(f"  {name.replace('_', ' '):<{width}}  {where}")
