"""Options that several commands have, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from ctai_sam2.errors import InputError

if TYPE_CHECKING:
    from ctai_sam2.measure.definitions import TissueDefinitions
    from ctai_sam2.models import Segmenter

MASK_FORM = "--mask name=file or name=file#label, as in psoas_left=left.png"
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
AnyRegion = Annotated[
    bool,
    typer.Option("--any-region", help="Continue even if the slice shows something other than an abdomen."),
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


SegmentKind: TypeAlias = Literal["study", "structure", "levels"]
"""What ``segment`` does: a whole study, one structure on one slice, or every slice of a range."""

_KINDS_OF: Mapping[str, tuple[SegmentKind, ...]] = {
    **dict.fromkeys(("--structure", "--point", "--box", "--spacing-mm", "--window"), ("structure",)),
    **dict.fromkeys(("--slices", "--height-m"), ("study",)),
    **dict.fromkeys(("--axial-index", "--any-region"), ("study", "structure")),
    **dict.fromkeys(("--structures", "--every-mm", "--follow", "--dicom"), ("levels",)),
}
"""Which options of ``segment`` have an effect on what; those not named have one on all."""


def refuse_other_options(kind: SegmentKind, given: Mapping[str, bool]) -> None:
    """Refuse options of ``segment`` that would have no effect.

    Raises
    ------
    InputError
        If one was given that is for something else.
    """
    unfit = [name for name, is_given in given.items() if is_given and kind not in _KINDS_OF[name]]
    if not unfit:
        return
    what = {
        "study": "a whole study",
        "structure": "one structure (--structure)",
        "levels": "a range of levels (--levels)",
    }[kind]
    ways = []
    if kind == "study":
        if any("structure" in _KINDS_OF[name] for name in unfit):
            ways.append("add --structure, for example psoas_left")
        if any("levels" in _KINDS_OF[name] for name in unfit):
            ways.append("add --levels, for example T12-L5")
    raise InputError(
        "options that have no effect here were given",
        received=f"{', '.join(unfit)} for {what}",
        hint=f"Leave {'it' if len(unfit) == 1 else 'them'} out{''.join(f', or {way}' for way in ways)}.",
    )


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


@contextmanager
def progress_bar(unit: str, *, hidden: bool | None, **options: Any) -> Iterator[Callable[..., None]]:
    """Show a bar while the block works; yields what to call with done, total and, maybe, on what."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=hidden, **options) as bar:

        def show(done: int, total: int | None, now: str = "") -> None:
            bar.total = total
            if now:
                bar.set_description(now, refresh=False)
            bar.update(done - bar.n)

        yield show


def split_pair(entry: str, form: str, separator: str = "=") -> tuple[str, str]:
    """Read an option of two words with a sign between; ``form`` says how it is written.

    Raises
    ------
    InputError
        If a word or the sign is missing.
    """
    word, found, value = entry.partition(separator)
    if not (word and found and value):
        raise InputError("an option has another form", received=entry, hint=f"Write {form}.")
    return word, value


def pairs_of(entries: Sequence[str] | None, form: str) -> dict[str, str]:
    """Read options such as ``name=file``, each word once.

    Raises
    ------
    InputError
        If an entry has another form, or a word is given twice.
    """
    pairs: dict[str, str] = {}
    for entry in entries or ():
        word, value = split_pair(entry, form)
        if word in pairs:
            raise InputError("a word is given twice", received=word, hint=f"Write {form} once for each word.")
        pairs[word] = value
    return pairs
