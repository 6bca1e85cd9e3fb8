"""Text that is safe where it is written, and reads back as it was: table cells, file names, terminals.

Names of files and labels of other programs may hold anything: spaces, quotes, formulas, line breaks, bytes
that are no UTF-8, names that Windows keeps for its devices. What is written is changed as little as its place
demands, in a way that its reader undoes exactly.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from ctai_sam2.errors import InputError
from ctai_sam2.files.folders import read_file

_FORMULA = "=+-@＝＋－＠"
_LITERAL = "\\u005cu"
_ESCAPED = re.compile(r"\\u(005cu|d[89a-f][0-9a-f]{2})")
_DEVICES = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])(?:\..*)?", re.IGNORECASE)
_LONGEST_STEM_BYTES = 120


def to_cell(text: str) -> str:
    """Write text as a table's cell that a spreadsheet shows and does not run; `from_cell` undoes it.

    Text that begins with a sign that starts a formula, with an apostrophe or white space, or ends in white
    space, gets an apostrophe in front. Bytes of file names that are no UTF-8 become backslash escapes.

    Examples
    --------
    >>> to_cell("=1+1"), to_cell("p1 "), to_cell("'p1"), to_cell("p1")
    ("'=1+1", "'p1 ", "''p1", 'p1')
    """
    text = to_utf8(text)
    return "'" + text if _needs_apostrophe(text) else text


def from_cell(cell: str) -> str:
    """Read a cell that `to_cell` wrote; other cells are read without the white space around them.

    Examples
    --------
    >>> from_cell("'=1+1"), from_cell("'p1 "), from_cell("''p1"), from_cell(" p1 "), from_cell("'p1")
    ('=1+1', 'p1 ', "'p1", 'p1', "'p1")
    """
    if cell.startswith("'") and _needs_apostrophe(cell[1:]):
        return from_utf8(cell[1:])
    return from_utf8(cell.strip())


def to_utf8(text: str) -> str:
    r"""Write the undecodable bytes of a file's name as backslash escapes; `from_utf8` undoes it.

    Examples
    --------
    >>> to_utf8(b"p\xe9".decode("utf-8", "surrogateescape"))
    'p\\udce9'
    """
    safe = text.replace("\\u", _LITERAL)
    return "".join(f"\\u{ord(c):04x}" if 0xD800 <= ord(c) <= 0xDFFF else c for c in safe)


def from_utf8(text: str) -> str:
    """Undo `to_utf8`; text that it did not write stays."""
    return _ESCAPED.sub(lambda found: "\\u" if found[1] == "005cu" else chr(int(found[1], 16)), text)


def for_terminal(text: str) -> str:
    r"""Return text in which nothing moves the cursor, changes colors or cannot be encoded.

    Line breaks and tabs stay.

    Examples
    --------
    >>> for_terminal("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(
        c if c in "\n\t" or not _is_unsafe(c) else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def is_device_name(name: str) -> bool:
    """Tell whether Windows keeps a file name for a device, with any ending.

    Examples
    --------
    >>> is_device_name("con"), is_device_name("NUL.nii.gz"), is_device_name("console")
    (True, True, False)
    """
    return _DEVICES.fullmatch(name.rstrip(" .")) is not None


def safe_stem(name: str, taken: Collection[str] = ()) -> str:
    """Return a file name, without an ending, for a label: letters, digits, dash and underscore.

    Parameters
    ----------
    name : str
        Any text.
    taken : collection of str
        Names in use; the result differs from each, also where letters' case does not count.

    Examples
    --------
    >>> safe_stem("Muscle 1"), safe_stem("Muscle_1", ["Muscle_1"]), safe_stem("con")
    ('Muscle_1', 'Muscle_1_2', 'con_')
    """
    plain = unicodedata.normalize("NFC", name)
    stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in plain) or "_"
    while len(stem.encode("utf-8", "replace")) > _LONGEST_STEM_BYTES:
        stem = stem[:-1]
    if is_device_name(stem):
        stem += "_"
    used = {one.casefold() for one in taken}
    result, number = stem, 1
    while result.casefold() in used:
        number += 1
        result = f"{stem}_{number}"
    return result


def separator_of(header: str) -> str:
    r"""Return what separates the cells of a table, by its first line: comma, semicolon or tab.

    Examples
    --------
    >>> separator_of("case_id;path"), separator_of("path\tsex")
    (';', '\t')
    """
    return max(",;\t", key=header.count)


def read_table(path: str | os.PathLike[str]) -> tuple[list[str], list[dict[str, str]], str]:
    """Read a CSV table: separated by commas, semicolons or tabs, with or without a byte order mark.

    Returns
    -------
    header : list of str
        Columns.
    rows : list of dict of str to str
        By column; cells as `from_cell` reads them. A row shorter than the header has empty cells.
    separator : str
        What separated the cells.

    Raises
    ------
    InputError
        If the file is missing, is no table in UTF-8, or a row has more cells than the header.
    """
    path = Path(path)
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is no CSV table in UTF-8", hint="Save it as CSV (UTF-8).") from error
    separator = separator_of(text.split("\n", 1)[0])
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise InputError(f"{path.name} is no CSV table in UTF-8", hint="Save it as CSV (UTF-8).") from error
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    if not lines:
        raise InputError(f"{path.name} is an empty table")
    header = [from_cell(cell) for cell in lines[0]]
    double = sorted({name for name in header if name and header.count(name) > 1})
    if double:
        raise InputError(f"{path.name} has a column twice", received=", ".join(double)[:100])
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) > len(header) and any(cell.strip() for cell in line[len(header) :]):
            raise InputError(
                f"{path.name} has more cells in a row than columns",
                received=f"row {number}",
                hint="Put quotation marks around cells that hold the separator.",
            )
        cells = [from_cell(cell) for cell in line] + [""] * (len(header) - len(line))
        rows.append(dict(zip(header, cells, strict=False)))
    return header, rows, separator


def _needs_apostrophe(text: str) -> bool:
    return bool(text) and (text[0] in _FORMULA or text[0] == "'" or text[0].isspace() or text[-1].isspace())


def _is_unsafe(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cc", "Cs")
        or character in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"
    )
