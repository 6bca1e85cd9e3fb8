"""Options that several commands have, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctai_sam2.errors import InputError

if TYPE_CHECKING:
    from ctai_sam2.measure.definitions import TissueDefinitions
    from ctai_sam2.models import Segmenter

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
AnyRegion = Annotated[
    bool, typer.Option("--any-region", help="Go on where the slice shows something other than an abdomen.")
]
AxialIndex = Annotated[
    int | None, typer.Option("--axial-index", help="Mid-L3 slice (0 = lowest); found if not given.")
]
Definitions = Annotated[
    str | None, typer.Option("--definitions", help="HU ranges: a preset's name or a JSON file.")
]
Height = Annotated[float | None, typer.Option("--height-m", help="Body height in metres, for the indices.")]
Model = Annotated[str | None, typer.Option("--model", help="A name from 'models list'.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if missing.")]
OutTable = Annotated[Path | None, typer.Option("--out", "-o", help="Write the rows to this CSV.")]
Series = Annotated[str | None, typer.Option("--series", help="SeriesInstanceUID, where there are several.")]


def definitions_of(name_or_file: str | None) -> TissueDefinitions:
    """Return the HU ranges of ``--definitions``; the default ones without it.

    Raises
    ------
    InputError
        If there is neither such a preset nor such a file, or the file cannot be used.
    """
    from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, load_definitions

    return load_definitions(name_or_file) if name_or_file else DEFAULT_DEFINITIONS


def open_model(name: str | None) -> Segmenter:
    """Open the segmenter of ``--model``; the configured one without it.

    Raises
    ------
    SegmenterError
        If it cannot be opened.
    """
    from ctai_sam2.models import open_segmenter
    from ctai_sam2.settings import Settings

    return open_segmenter(settings=Settings(model=name) if name else Settings())


def numbers_of(text: str | None, count: int | tuple[int, ...], form: str) -> list[float]:
    """Read numbers separated by commas, as many as are wanted.

    Raises
    ------
    InputError
        If they are not numbers, or not so many.
    """
    counts = (count,) if isinstance(count, int) else count
    try:
        values = [float(part) for part in (text or "").split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        raise InputError("numbers separated by commas are needed", received=text, hint=f"Write {form}.")
    return values


def named_paths(entries: Sequence[str]) -> dict[str, Path]:
    """Read ``name=file`` entries.

    Raises
    ------
    InputError
        If an entry has another form.
    """
    named = {}
    for entry in entries:
        name, separator, path = entry.partition("=")
        if not separator or not name or not path:
            raise InputError(
                "a mask is given as name=file", received=entry, hint="For example psoas_left=left.png."
            )
        named[name] = Path(path)
    return named
