"""``ctai-sam2 agreement``: two readers, or a reader and a model, compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctai_sam2.cli.options import AsJson, Out
from ctai_sam2.cli.report import print_json, print_line, print_table, reporting_errors

if TYPE_CHECKING:
    from ctai_sam2.agreement import VolumeOverlap

SHOWN = ("measure", "scope", "n", "icc", "icc_low", "icc_high", "cv_percent", "bias", "loa_low", "loa_high")
SHOWN_DIVISION = ("measure", "n_divided", "slice_sd", "contour_sd", "slice_share", "contour_share")


@reporting_errors
def agreement(
    first: Annotated[
        Path, typer.Argument(help="CSV with a case column, or a folder of cases as 'segment' writes them.")
    ],
    second: Annotated[Path, typer.Argument(help="The other reader's, or the model's.")],
    out: Out = Path("ctai-agreement"),
    measure: Annotated[
        list[str] | None,
        typer.Option("--measure", "-m", help="Column to compare; the usual ones if not given."),
    ] = None,
    crossed_first: Annotated[
        Path | None,
        typer.Option("--crossed-first", help="First reader's measurements on the second's slices."),
    ] = None,
    crossed_second: Annotated[
        Path | None,
        typer.Option("--crossed-second", help="Second reader's measurements on the first's slices."),
    ] = None,
    names: Annotated[
        str | None, typer.Option("--names", help="What to call them: first,second; else the files' names.")
    ] = None,
    confidence: Annotated[float, typer.Option("--confidence", help="Level of the intervals.")] = 0.95,
    as_json: AsJson = False,
) -> None:
    """Compare readers: Dice, HD95, ICC, CV, Bland-Altman; choice of the slice apart from the contour."""
    from ctai_sam2.agreement import (
        compare_readers,
        describe_comparison,
        read_readings,
        write_comparison,
    )

    comparison = compare_readers(
        read_readings(first),
        read_readings(second),
        crossed_a=None if crossed_first is None else read_readings(crossed_first),
        crossed_b=None if crossed_second is None else read_readings(crossed_second),
        measures=measure,
        names=_names(names, first, second),
        confidence=confidence,
    )
    files = write_comparison(comparison, out)
    described = describe_comparison(comparison)
    if as_json:
        print_json({**described, "files": vars(files)})
        return
    print_line(
        f"{len(comparison.cases)} cases; differences are {comparison.first} minus {comparison.second}\n"
    )
    print_table(described["measures"], SHOWN)
    divided = [row for row in described["measures"] if row["n_divided"] is not None]
    if divided:
        print_line("\nSlice apart from contour:")
        print_table(divided, SHOWN_DIVISION)
    if comparison.overlaps:
        print_line("\nOutlines on one slice:")
        print_table(_overlap_rows(described["overlaps"]), ("structure", "n", "dice", "hd95_mm"))
    if comparison.volumes:
        print_line("\nOutlines over whole volumes:")
        print_table(_volume_rows(comparison.volumes), ("structure", "n", "dice", "difference_percent"))
    if comparison.slices is not None:
        chosen = comparison.slices
        print_line(
            f"\nSame slice in {chosen.same} of {chosen.n} cases; "
            f"{chosen.mean_distance:.1f} slices apart on average, {chosen.largest_distance} at most"
        )
    for text in comparison.cautions:
        typer.secho(f"Note: {text}", fg="yellow")
    print_line("\nWritten:")
    for name, path in vars(files).items():
        if path is not None:
            print_line(f"  {name:<9} {path}")


def _names(names: str | None, first: Path, second: Path) -> tuple[str, str]:
    if names is None:
        return first.stem, second.stem if second.stem != first.stem else f"{second.stem} (second)"
    one, separator, other = names.partition(",")
    if not (separator and one.strip() and other.strip()):
        from ctai_sam2.errors import InputError

        raise InputError("names are two, with a comma between", received=names, hint="As in anna,model.")
    return one.strip(), other.strip()


def _volume_rows(volumes: Sequence[VolumeOverlap]) -> list[dict[str, object]]:
    from statistics import median

    rows: list[dict[str, object]] = []
    for structure in dict.fromkeys(entry.structure for entry in volumes):
        chosen = [entry for entry in volumes if entry.structure == structure]
        rows.append(
            {
                "structure": structure,
                "n": len(chosen),
                "dice": median(entry.dice for entry in chosen),
                "difference_percent": median(entry.difference_percent for entry in chosen),
            }
        )
    return rows


def _overlap_rows(overlaps: list[dict[str, object]]) -> list[dict[str, object]]:
    import numpy as np

    rows: list[dict[str, object]] = []
    for structure in dict.fromkeys(str(entry["structure"]) for entry in overlaps):
        chosen = [entry for entry in overlaps if entry["structure"] == structure]
        distances = [float(str(e["hd95_mm"])) for e in chosen if e["hd95_mm"] is not None]
        rows.append(
            {
                "structure": structure,
                "n": len(chosen),
                "dice": float(np.median([float(str(e["dice"])) for e in chosen])),
                "hd95_mm": float(np.median(distances)) if distances else None,
            }
        )
    return rows
