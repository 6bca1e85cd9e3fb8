"""The list of cases of a cohort: read from CSV or Parquet, checked as a whole before anything is run."""

from __future__ import annotations

import csv
import difflib
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ctai_sam2.cohort.case import CASE_ID, Case, format_prompt, parse_prompt
from ctai_sam2.errors import CtaiError, InputError, ManifestError
from ctai_sam2.files.atomic import write_table_csv
from ctai_sam2.files.safe_text import from_cell, is_device_name, separator_of
from ctai_sam2.measure.cutoffs import parse_cutoff_choice
from ctai_sam2.types import Prompt

_log = logging.getLogger(__name__)

PROMPTED: tuple[str, ...] = ("psoas_left", "psoas_right", "muscle", "vertebra")
"""Structures that a row may hold a prompt for, in the column ``prompt_<structure>``."""

COLUMNS: tuple[str, ...] = (
    "case_id",
    "path",
    "series_uid",
    "mid_l3_index",
    "l3_x",
    "l3_y",
    "sagittal_index",
    "height_m",
    "sex",
    "weight_kg",
    "age_years",
    "cut_offs",
    *(f"prompt_{name}" for name in PROMPTED),
)
"""Columns of a manifest in order; ``case_id`` and ``path`` are required, others come through to the table."""

_REQUIRED = ("case_id", "path")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_SHOWN = 50
_L3_SUFFIX = "_l3"
"""Of the file with a case's L3 mask; see `CohortStore.l3_path`."""

T = TypeVar("T")


class Problem(NamedTuple):
    """One thing wrong with a manifest: the row as a spreadsheet counts it, the column, and what it is."""

    row: int
    column: str
    text: str

    def __str__(self) -> str:
        return f"row {self.row}, {self.column}: {self.text}"


def read_manifest(path: str | os.PathLike[str]) -> list[Case]:
    """Read and check a manifest.

    Parameters
    ----------
    path : path-like
        ``.csv`` (UTF-8; separated by commas, or by semicolons or tabs as some spreadsheets write) or
        ``.parquet``. Paths in it are relative to its folder.

    Returns
    -------
    list of Case
        In the file's order.

    Raises
    ------
    InputError
        If the file cannot be read.
    ManifestError
        If anything in it cannot be used; lists every problem by row and column.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no manifest {path.name}", hint="Make one with 'ctai-sam2 cohort scan'.")
    try:
        header, rows = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except CtaiError:
        raise
    except Exception as error:  # parsers raise many kinds for damaged files
        raise InputError(
            f"{path.name} cannot be read as a table ({type(error).__name__})",
            hint="Save it as CSV in UTF-8 with one header line.",
        ) from error
    return check_rows(rows, base=path.parent, columns=header)


def check_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    base: str | os.PathLike[str] = ".",
    columns: Sequence[str] | None = None,
) -> list[Case]:
    """Turn table rows into cases, or list everything that is wrong with them.

    Parameters
    ----------
    rows : iterable of mapping
        By column; cells may be text or numbers, empty ones None, NaN or "". Rows without any cell are
        left out, and their number is logged.
    base : path-like
        What relative paths are relative to.
    columns : sequence of str, optional
        The header; the keys of the first row when omitted.

    Raises
    ------
    ManifestError
        If anything cannot be used.
    """
    listed = list(rows)
    header = list(columns) if columns is not None else list(listed[0]) if listed else []
    problems = _check_header(header)
    cases: list[Case] = []
    seen: dict[str, int] = {}
    # Columns whose prompts, heights and so on are read; the rest is the user's own.
    own = [str(name).strip() for name in header if str(name).strip() not in ("", *COLUMNS)]
    readers: list[_RowReader] = []
    blank = 0
    for number, row in enumerate(listed, start=2):
        cells = {str(name).strip(): _as_text(value) for name, value in row.items() if name is not None}
        if not any(cells.values()):
            blank += 1
            continue
        reader = _RowReader(number, cells, own, _raw_path(row))
        readers.append(reader)
        if row.get(None):  # type: ignore[call-overload]
            reader.note("cells", "there are more cells than columns; put quotation marks around prompts")
        case = reader.read(Path(base))
        first = seen.setdefault(cells.get("case_id", "").lower() or f"\0{number}", number)
        if first != number:
            reader.note("case_id", f"is that of row {first} too")
        if case is not None and not reader.problems:
            cases.append(case)
    if blank:
        _log.warning("blank rows of the manifest were left out: %d", blank)
    _note_ambiguous(readers)
    problems += [problem for reader in readers for problem in reader.problems]
    if not problems and not cases:
        problems.append(Problem(1, "case_id", "there is no case in the table"))
    if problems:
        raise ManifestError(
            f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'} in the manifest:"
            + _listed(problems),
            hint="Nothing was run; correct the manifest and run again.",
        )
    return cases


def write_manifest(path: str | os.PathLike[str], cases: Sequence[Case]) -> Path:
    """Write cases as CSV that `read_manifest` reads back; paths are relative to it where they lie below it.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    target = Path(path)
    own = dict.fromkeys(name for case in cases for name in case.extra)
    rows = [_to_row(case, target.parent.resolve()) for case in cases]
    return write_table_csv(target, rows, (*COLUMNS, *own))


class _RowReader:
    """Reads one row and notes what is wrong with it."""

    def __init__(self, number: int, cells: Mapping[str, str], own: Sequence[str], raw_path: str) -> None:
        self.number = number
        self.cells = cells
        self.own = own
        self.raw_path = raw_path
        self.problems: list[Problem] = []
        self.path: Path | None = None
        self.is_path_exact = True

    def note(self, column: str, text: str) -> None:
        self.problems.append(Problem(self.number, column, text))

    def read(self, base: Path) -> Case | None:
        case_id = self.cells.get("case_id", "")
        if not CASE_ID.fullmatch(case_id):
            self.note(
                "case_id",
                "is missing"
                if not case_id
                else "must be up to 80 letters, digits, dots, dashes and underscores, the first no sign",
            )
        elif is_device_name(case_id):
            self.note("case_id", "is a name that Windows keeps for a device; choose another")
        path = self._path(base)
        l3_x, l3_y = self._number("l3_x", -0.5, 1e5), self._number("l3_y", -0.5, 1e5)
        if (self.cells.get("l3_x", "") == "") != (self.cells.get("l3_y", "") == ""):
            self.note("l3_x", "a click needs both l3_x and l3_y")
        sagittal_index = self._index("sagittal_index")
        height_m = self._number("height_m", 0.4, 2.6, hint="give metres")
        weight_kg = self._number("weight_kg", 2, 500, hint="give kilograms")
        age_years = self._number("age_years", 0, 120, hint="give years")
        cut_offs = self._cut_offs()
        sex = self._sex()
        mid_l3_index = self._index("mid_l3_index")
        prompts = {name: self._prompt(name) for name in PROMPTED if self.cells.get(f"prompt_{name}")}
        if prompts and mid_l3_index is None and not self.cells.get("path", "").lower().endswith(".npz"):
            self.note("mid_l3_index", "prompts are drawn on one slice: say which")
        if self.problems or path is None:
            return None
        return Case(
            case_id=case_id,
            path=path,
            series_uid=self.cells.get("series_uid") or None,
            mid_l3_index=mid_l3_index,
            l3_xy=None if l3_x is None or l3_y is None else (l3_x, l3_y),
            sagittal_index=sagittal_index,
            height_m=height_m,
            sex=sex,
            weight_kg=weight_kg,
            age_years=age_years,
            cut_offs=cut_offs,
            prompts={name: prompt for name, prompt in prompts.items() if prompt is not None},
            extra={name: self.cells.get(name, "") for name in self.own},
        )

    def _path(self, base: Path) -> Path | None:
        text = self.cells.get("path", "")
        if not text:
            self.note("path", "is missing")
            return None
        # A name may end in a space or begin with an apostrophe: the cell as it stands is another path then.
        exact = base / self.raw_path
        places = [path for path in dict.fromkeys((exact, base / text)) if _exists(path)]
        if not places:
            self.note("path", "there is nothing at this path (relative paths start at the manifest's folder)")
            return None
        if len(places) > 1:
            self.note("path", "is ambiguous: two entries differ by a space or an apostrophe only; rename one")
            return None
        self.path, self.is_path_exact = places[0], places[0] == exact
        return places[0]

    def _number(self, column: str, low: float, high: float, *, hint: str = "") -> float | None:
        return self._parsed(column, float, lambda v: math.isfinite(v) and low <= v <= high, low, high, hint)

    def _index(self, column: str) -> int | None:
        return self._parsed(column, _as_index, lambda v: 0 <= v < 100_000, 0, 99_999, "a whole number")

    def _parsed(
        self,
        column: str,
        parse: Callable[[str], T],
        fits: Callable[[T], bool],
        low: float,
        high: float,
        hint: str,
    ) -> T | None:
        text = self.cells.get(column, "")
        if not text:
            return None
        try:
            # Spreadsheets of many countries write 1,75.
            value = parse(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
        except ValueError:
            self.note(column, f"is no number (received {text[:20]!r}{'; ' + hint if hint else ''})")
            return None
        if not fits(value):
            more = f"; {hint}" if hint else ""
            self.note(column, f"lies outside {low:g} to {high:g} (received {text[:20]}{more})")
            return None
        return value

    def _sex(self) -> str | None:
        text = self.cells.get("sex", "").upper()
        if text in ("", "M", "F"):
            return text or None
        if text in ("O", "U", "X"):
            return None
        self.note("sex", "must be M or F, or empty where it is not known")
        return None

    def _cut_offs(self) -> str | None:
        text = self.cells.get("cut_offs", "")
        try:
            if text:
                parse_cutoff_choice(text)
        except CtaiError as error:
            self.note("cut_offs", str(error).rstrip("."))
        return text or None

    def _prompt(self, name: str) -> Prompt | None:
        try:
            return parse_prompt(self.cells[f"prompt_{name}"], name)
        except CtaiError as error:
            self.note(f"prompt_{name}", str(error).rstrip("."))
            return None


def _note_ambiguous(readers: Sequence[_RowReader]) -> None:
    """Note what only a row next to it shows: paths that are one once trimmed, results that share a file."""
    rows_at: dict[Path, list[_RowReader]] = {}
    for reader in readers:
        if reader.path is not None:
            rows_at.setdefault(reader.path, []).append(reader)
    for same in rows_at.values():
        if len(same) > 1:
            for reader in same:
                if not reader.is_path_exact:
                    reader.note(
                        "path", f"is that of row {_other(reader, same)} but for spaces; correct one of them"
                    )
    ids = {reader.cells.get("case_id", "").lower(): reader.number for reader in readers}
    for reader in readers:
        case_id = reader.cells.get("case_id", "").lower()
        first = ids.get(case_id.removesuffix(_L3_SUFFIX))
        if case_id.endswith(_L3_SUFFIX) and first is not None:
            reader.note("case_id", f"names the file of the L3 mask of row {first}; choose another")


def _other(reader: _RowReader, same: Sequence[_RowReader]) -> int:
    return next(one.number for one in same if one is not reader)


def _raw_path(row: Mapping[str, Any]) -> str:
    """Return the cell of the path as it stands, spaces and all."""
    value = next(
        (value for name, value in row.items() if name is not None and str(name).strip() == "path"), ""
    )
    return str(value) if isinstance(value, (str, Path)) else ""


def _exists(path: Path) -> bool:
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):
        return False


def _check_header(header: Sequence[str]) -> list[Problem]:
    names = [str(name).strip() for name in header]
    problems = [Problem(1, name, "this column is missing") for name in _REQUIRED if name not in names]
    for name in names:
        if name in COLUMNS:
            if names.count(name) > 1:
                problems.append(Problem(1, name, "this column is there twice"))
            continue
        meant = difflib.get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.8)
        if meant and meant[0] not in names:
            problems.append(Problem(1, name[:30], f"there is no such column; is {meant[0]} meant?"))
        elif name.startswith("prompt_"):
            problems.append(Problem(1, name[:30], f"prompts are taken for {', '.join(PROMPTED)}"))
    return list(dict.fromkeys(problems))


def _listed(problems: Sequence[Problem]) -> str:
    ordered = sorted(problems, key=lambda problem: problem.row)
    lines = [str(problem) for problem in ordered[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN} more")
    return "\n  " + "\n  ".join(lines)


def _read_csv(path: Path) -> tuple[list[str], list[dict[Any, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if "\0" in file.read():
            raise InputError(
                f"{path.name} holds zero bytes, so it is no text", hint="Save it as CSV in UTF-8."
            )
        file.seek(0)
        first = file.readline()
        file.seek(0)
        # Rows too long keep their further cells under the key None.
        reader = csv.DictReader(file, delimiter=separator_of(first))
        rows: list[dict[Any, Any]] = []
        for row in reader:
            # The reader leaves blank lines out; a person counts them.
            rows += [{}] * (reader.line_num - 2 - len(rows)) if _is_one_line(row) else []
            rows.append(row)
        return list(reader.fieldnames or ()), rows


def _is_one_line(row: Mapping[Any, Any]) -> bool:
    return not any(isinstance(cell, str) and "\n" in cell for cell in row.values())


def _read_parquet(path: Path) -> tuple[list[str], list[dict[Any, Any]]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "Parquet files need pyarrow", hint="Install ctai-sam2[cohort], or give a CSV file."
        ) from error
    table = pyarrow.parquet.read_table(path)
    return list(table.column_names), table.to_pylist()


def _as_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float | np.floating):
        return f"{float(value):.17g}"
    if isinstance(value, str):
        return from_cell(value)
    # pandas has several objects for a missing value, which are no text.
    text = str(value)
    return "" if text in ("<NA>", "NaT") else text.strip()


def _as_index(text: str) -> int:
    value = float(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


def _to_row(case: Case, folder: Path) -> dict[str, Any]:
    path = case.path.resolve()
    row: dict[str, Any] = {
        "case_id": case.case_id,
        "path": (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix(),
        "series_uid": case.series_uid,
        "mid_l3_index": case.mid_l3_index,
        "l3_x": None if case.l3_xy is None else case.l3_xy[0],
        "l3_y": None if case.l3_xy is None else case.l3_xy[1],
        "sagittal_index": case.sagittal_index,
        "height_m": case.height_m,
        "sex": case.sex,
        "weight_kg": case.weight_kg,
        "age_years": case.age_years,
        "cut_offs": case.cut_offs,
    }
    row.update({f"prompt_{name}": format_prompt(prompt) for name, prompt in case.prompts.items()})
    row.update(case.extra)
    return row
