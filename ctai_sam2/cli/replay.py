"""``ctai-sam2 replay``: make the numbers of a row again, or say what changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctai_sam2.cli.options import AsJson
from ctai_sam2.cli.report import counted, print_json, print_line, print_table, reporting_errors
from ctai_sam2.errors import InputError

if TYPE_CHECKING:
    from ctai_sam2.cohort.replay import CaseReplay

CAME_OUT_OTHERWISE = 6
"""Exit code where a row is not the same when it is made again, or cannot be made again."""


@reporting_errors
def replay(
    row: Annotated[
        Path,
        typer.Argument(help="A cohort's folder, table.csv or records/CASE.json; with --study a study's."),
    ],
    case: Annotated[list[str] | None, typer.Option("--case", help="Only these cases; repeatable.")] = None,
    study: Annotated[
        Path | None, typer.Option("--study", help="The images of a single study's row (DICOM or NIfTI).")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", help="Read the studies too, and compare their pixels."),
    ] = None,
    definitions: Annotated[
        str | None, typer.Option("--definitions", help="Other HU ranges: shows what they change.")
    ] = None,
    with_model: Annotated[
        bool, typer.Option("--with-model", help="Run the model as well, and compare its predictions.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make each number of a row again, bit for bit, from predictions, corrections and definitions.

    Exit code 0: all rows that have numbers are identical; 6: one differs or cannot be made again, and the
    output says why.
    """
    from contextlib import nullcontext

    from ctai_sam2.cohort.manifest import read_manifest
    from ctai_sam2.cohort.replay import open_cohort_segmenter, replay_cohort
    from ctai_sam2.measure.definitions import load_definitions

    if study is not None:
        if case or manifest or with_model:
            raise InputError(
                "a single study has no cases", hint="Leave --case, --manifest, --with-model out."
            )
        _replay_study(row, study, definitions, as_json)
        return
    folder, named = _locate(row)
    case_ids = list(case or ()) or ([named] if named else None)
    opened = open_cohort_segmenter(folder) if with_model else nullcontext(None)
    with opened as segmenter:
        replays = list(
            replay_cohort(
                folder,
                case_ids,
                definitions=load_definitions(definitions) if definitions else None,
                studies=read_manifest(manifest) if manifest else None,
                segmenter=segmenter,
            )
        )
    if as_json:
        print_json({"rows": [_as_plain(one) for one in replays]})
    else:
        _print(replays)
    if not all(one.is_fine for one in replays):
        raise typer.Exit(CAME_OUT_OTHERWISE)


def _replay_study(row: Path, study: Path, definitions: str | None, as_json: bool) -> None:
    from ctai_sam2.measure.definitions import load_definitions
    from ctai_sam2.study.replay import replay_study

    found = replay_study(
        row if row.is_dir() else row.parent,
        study,
        definitions=load_definitions(definitions) if definitions else None,
    )
    if as_json:
        print_json({"cells": found.cells, "changes": found.changes, "differences": found.differences})
    else:
        for text in found.changes.values():
            print_line(f"Changed: {text}")
        for column, (stored, again) in found.differences.items():
            print_line(f"  {column}: {stored} -> {again}")
        same = found.cells - len(found.differences)
        print_line(f"{same} of {found.cells} cells are identical, bit for bit.")
    if not found.is_identical:
        raise typer.Exit(CAME_OUT_OTHERWISE)


def _locate(row: Path) -> tuple[Path, str | None]:
    """Folder of the cohort, and the case where one record was named."""
    if row.is_dir():
        return row, None
    if row.suffix == ".json" and row.parent.name == "records":
        return row.parent.parent, row.stem
    if row.name == "table.csv":
        return row.parent, None
    raise InputError(
        "a row is replayed from a cohort's results",
        received=row.name,
        hint="Give the folder, its table.csv, or records/CASE.json; for a single study add --study.",
    )


def _as_plain(one: CaseReplay) -> dict[str, object]:
    return {
        "case_id": one.case_id,
        "status": one.status,
        "cells": one.cells,
        "changes": dict(one.changes),
        "differences": [vars(difference) for difference in one.differences],
        "reason": one.reason,
    }


def _print(replays: list[CaseReplay]) -> None:
    print_table(
        [
            {
                "case": one.case_id,
                "status": one.status,
                "cells": one.cells,
                "different": len(one.differences),
                "what changed": "; ".join(one.changes.values()) or one.reason,
            }
            for one in replays
        ],
        ("case", "status", "cells", "different", "what changed"),
    )
    for one in replays:
        for difference in one.differences:
            print_line(
                f"  {one.case_id} {difference.column}: {difference.stored} then, {difference.again} now"
            )
    with_numbers = [one for one in replays if one.has_numbers]
    same = sum(one.status == "identical" for one in with_numbers)
    without = len(replays) - len(with_numbers)
    print_line(
        f"\n{same} of {len(with_numbers)} rows are identical, bit for bit."
        + (f" Without numbers: {counted(without, 'case')}." if without else "")
    )
