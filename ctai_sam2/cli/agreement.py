"""``ctai-sam2 agreement``: two readers, or a reader and a model, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from ctai_sam2.cli.options import AsJson, Out
from ctai_sam2.cli.report import (
    print_files,
    print_json,
    print_line,
    print_table,
    print_warnings,
    reporting_errors,
)

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
        overlaps = _medians(described["overlaps"], "dice", "hd95_mm")
        print_table(overlaps, ("structure", "n", "dice", "hd95_mm"))
    if comparison.volumes:
        print_line("\nOutlines over whole volumes:")
        volumes = _medians([vars(entry) for entry in comparison.volumes], "dice", "difference_percent")
        print_table(volumes, ("structure", "n", "dice", "difference_percent"))
    if comparison.slices is not None:
        chosen = comparison.slices
        print_line(
            f"\nSame slice in {chosen.same} of {chosen.n} cases; "
            f"{chosen.mean_distance:.1f} slices apart on average, {chosen.largest_distance} at most"
        )
    print_warnings(comparison.cautions)
    print_files(vars(files))


def _names(names: str | None, first: Path, second: Path) -> tuple[str, str]:
    if names is None:
        return first.stem, second.stem if second.stem != first.stem else f"{second.stem} (second)"
    one, separator, other = names.partition(",")
    if not (separator and one.strip() and other.strip()):
        from ctai_sam2.errors import InputError

        raise InputError("names are two, with a comma between", received=names, hint="As in anna,model.")
    return one.strip(), other.strip()


def _medians(entries: Sequence[Mapping[str, Any]], *columns: str) -> list[dict[str, object]]:
    """One row per structure: how many entries there are, and the median of what each has of the columns."""
    rows: list[dict[str, object]] = []
    for structure in dict.fromkeys(entry["structure"] for entry in entries):
        chosen = [entry for entry in entries if entry["structure"] == structure]
        row: dict[str, object] = {"structure": structure, "n": len(chosen)}
        for column in columns:
            known = [float(entry[column]) for entry in chosen if entry[column] is not None]
            row[column] = median(known) if known else None
        rows.append(row)
    return rows
