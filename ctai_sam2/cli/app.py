"""The commands of ``ctai-sam2``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ctai_sam2 import __version__
from ctai_sam2.cli import cohort, models
from ctai_sam2.cli.agreement import agreement
from ctai_sam2.cli.change import change
from ctai_sam2.cli.evaluate import evaluate
from ctai_sam2.cli.exchange import export, import_
from ctai_sam2.cli.replay import replay
from ctai_sam2.cli.report import print_json, print_line, print_table, reporting_errors
from ctai_sam2.cli.serve import serve
from ctai_sam2.cli.study_report import report
from ctai_sam2.cli.volume import SeveralNames, split_names
from ctai_sam2.errors import InputError

if TYPE_CHECKING:
    from ctai_sam2.measure.definitions import TissueDefinitions
    from ctai_sam2.models import Segmenter
    from ctai_sam2.segmentation import StudyResult
    from ctai_sam2.structures import Structure
    from ctai_sam2.study.outputs import TableRow
    from ctai_sam2.types import Prompt

app = typer.Typer(
    name="ctai-sam2",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Boxes and colors around the help would take as long to import as everything else.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help=(
        "One-click psoas, skeletal muscle and L3 segmentation on CT with SAM2. Research use, not diagnosis. "
        "Exit codes: 0 done, 1 unforeseen, 2 unusable input, 3 no segmenter or weights, 4 unsuitable image "
        "data, 5 nothing could be written, 6 a replayed row came out otherwise."
    ),
)
app.add_typer(models.app, name="models")
app.add_typer(cohort.app, name="cohort")
app.command()(agreement)
app.command()(change)
app.command()(evaluate)
app.command()(export)
app.command("import")(import_)
app.command()(replay)
app.command()(report)
app.command()(serve)

Definitions = Annotated[
    str | None, typer.Option("--definitions", help="HU ranges: a preset's name or a JSON file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if missing.")]
Model = Annotated[str | None, typer.Option("--model", help="A name from 'models list'.")]
Series = Annotated[str | None, typer.Option("--series", help="SeriesInstanceUID, where there are several.")]
Height = Annotated[
    float | None, typer.Option("--height-m", help="Patient height in metres, for the indices.")
]
Slices = Annotated[
    int, typer.Option("--slices", help="1, 3 or 5: also print the median areas of that many slices.")
]

AnyRegion = Annotated[
    bool, typer.Option("--any-region", help="Go on where the slice shows something other than an abdomen.")
]

SHOWN = (
    "structure",
    "area_cm2",
    "hu_mean",
    "confidence",
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Say the version and stop.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
) -> None:
    """Set up logging; say the version."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


@app.command()
@reporting_errors
def demo(
    out: Out = Path("demo-output"),
    study: Annotated[
        Path | None,
        typer.Option("--study", help="DICOM folder or NIfTI; without it a phantom study is made."),
    ] = None,
    model: Model = None,
    series: Series = None,
    axial_index: Annotated[
        int | None, typer.Option("--axial-index", help="Mid-L3 slice (0 = lowest), where you know it.")
    ] = None,
    slices: Slices = 1,
    height_m: Height = None,
    definitions: Definitions = None,
    as_json: AsJson = False,
) -> None:
    """Run the main job: study -> L3 -> mid-L3 slice -> psoas, muscle, fat -> table, masks, overlay."""
    from ctai_sam2.cli.demo import make_demo_study

    if study is None:
        study = out / "study"
        print_line(f"Making a phantom CT study (DICOM) in {study}", as_json=as_json)
        make_demo_study(study)
        height_m = height_m or 1.75
    _segment_and_report(study, out, model, series, axial_index, height_m, definitions, as_json, slices)


@app.command(cls=SeveralNames)
@reporting_errors
def segment(
    path: Annotated[Path, typer.Argument(help="DICOM folder, NIfTI volume, or one slice with --structure.")],
    out: Out = Path("ctai-output"),
    structure: Annotated[
        str | None,
        typer.Option("--structure", "-s", help="Segment only this on one slice: psoas_left, muscle, l3, …"),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option("--point", help="x,y or x,y,label (1 foreground, 0 background); repeatable."),
    ] = None,
    box: Annotated[str | None, typer.Option("--box", help="x0,y0,x1,y1 in pixels.")] = None,
    spacing_mm: Annotated[
        str | None, typer.Option("--spacing-mm", help="row,column; PNG and JPEG only.")
    ] = None,
    window: Annotated[str | None, typer.Option("--window", help="level,width of a PNG or JPEG.")] = None,
    model: Model = None,
    series: Series = None,
    axial_index: Annotated[
        int | None, typer.Option("--axial-index", help="Mid-L3 slice (0 = lowest).")
    ] = None,
    slices: Slices = 1,
    height_m: Height = None,
    definitions: Definitions = None,
    levels: Annotated[
        str | None, typer.Option("--levels", help="Every slice of these vertebrae, for example T12-L5.")
    ] = None,
    structures: Annotated[
        list[str] | None,
        typer.Option("--structures", help="With --levels: one or more names; psoas and muscle if not given."),
    ] = None,
    every_mm: Annotated[
        float | None,
        typer.Option(
            "--every-mm",
            min=0.0,
            help="With --levels: segment at this distance (9 if not given), interpolate between; 0 for every "
            "slice.",
        ),
    ] = None,
    dicom: Annotated[
        list[str] | None, typer.Option("--dicom", help="With --levels: seg or rtstruct as well; repeatable.")
    ] = None,
    any_region: AnyRegion = False,
    as_json: AsJson = False,
) -> None:
    """Segment a study (all structures), every slice of a range of levels, or one structure on one slice."""
    if levels is not None:
        from ctai_sam2.cli.volume import segment_levels
        from ctai_sam2.files.atomic import require_writable as _require_writable
        from ctai_sam2.segmentation.volume import EVERY_MM

        if structure or point or box or axial_index is not None or height_m is not None or slices != 1:
            raise InputError(
                "a range of levels is segmented without points, boxes, a slice or a height",
                hint="Leave out --structure, --point, --box, --axial-index, --slices and --height-m, or "
                "--levels.",
            )
        _require_writable(out)
        with _open_segmenter(model) as segmenter:
            segment_levels(
                path,
                out,
                segmenter,
                levels=levels,
                structures=split_names(structures) or ("psoas", "muscle"),
                every_mm=EVERY_MM if every_mm is None else every_mm,
                dicom=split_names(dicom),
                series=series,
                definitions=_definitions(definitions),
                as_json=as_json,
            )
        return
    if structures or dicom or every_mm is not None:
        raise InputError(
            "--structures, --every-mm and --dicom are for a range of levels", hint="Add --levels T12-L5."
        )
    if structure is None:
        if point or box:
            raise InputError(
                "points and boxes need a structure", hint="Add --structure, for example psoas_left."
            )
        _segment_and_report(
            path, out, model, series, axial_index, height_m, definitions, as_json, slices, any_region
        )
        return

    from ctai_sam2.files.atomic import require_writable
    from ctai_sam2.io import read_slice, read_study
    from ctai_sam2.io.pictures import PICTURE_SUFFIXES
    from ctai_sam2.segmentation import segment_structure
    from ctai_sam2.settings import Settings
    from ctai_sam2.structures import STRUCTURES
    from ctai_sam2.study.outputs import claim_folder, describe_structure, write_structure
    from ctai_sam2.types import Window

    prompt = _prompt(point or [], box)
    if structure not in STRUCTURES:
        raise InputError("no such structure", received=structure, hint=f"One of {', '.join(STRUCTURES)}.")
    limits = _definitions(definitions)
    require_writable(out)
    if axial_index is not None:
        ct = read_study(path, series_uid=series).axial(axial_index)
    elif path.is_dir():
        raise InputError(
            "one structure is segmented on one slice, and this is a folder",
            hint="Add --axial-index, the number of the slice (0 = lowest), or leave out --structure.",
        )
    elif path.suffix.lower() in PICTURE_SUFFIXES:
        level_width = _numbers(window, 2, "--window level,width") if window else None
        ct = read_slice(
            path,
            spacing_mm=_pair(_numbers(spacing_mm, 2, "--spacing-mm row,column")) if spacing_mm else None,
            window=Window(level=level_width[0], width=level_width[1]) if level_width else None,
        )
    else:
        ct = read_slice(path)
    with _open_segmenter(model) as segmenter:
        result = segment_structure(
            ct,
            structure,
            segmenter,
            prompt=prompt,
            definitions=limits,
            confidence_threshold=Settings().confidence_threshold,
            any_region=any_region,
        )
    claim_folder(out, ct)
    files = write_structure(ct, result, out, definitions=limits)
    row = describe_structure(ct, result)
    if as_json:
        print_json({**row, "warnings": list(result.warnings), "files": files})
        return
    print_table([row], SHOWN)
    _print_warnings(result.warnings)
    _print_files(files)


@app.command()
@reporting_errors
def measure(
    image: Annotated[Path, typer.Argument(help="Slice or volume the mask was drawn on (DICOM or NIfTI).")],
    masks: Annotated[
        list[str], typer.Option("--mask", "-m", help="name=file or name=file#label; repeatable.")
    ],
    axial_index: Annotated[
        int | None, typer.Option("--axial-index", help="Slice of a volume (0 = lowest).")
    ] = None,
    series: Series = None,
    height_m: Height = None,
    definitions: Definitions = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the row to this CSV.")] = None,
    any_region: AnyRegion = False,
    as_json: AsJson = False,
) -> None:
    """Measure areas and HU under masks drawn or corrected elsewhere."""
    from ctai_sam2.study.outputs import measure_files, write_rows

    row = measure_files(
        image,
        _named_paths(masks),
        axial_index=axial_index,
        series_uid=series,
        height_m=height_m,
        definitions=_definitions(definitions),
        any_region=any_region,
    )
    if out is not None:
        write_rows(out, [row])
    if as_json:
        print_json(row)
        return
    print_table([{"column": k, "value": v} for k, v in row.items() if v is not None], ("column", "value"))
    _print_warnings(str(row["warnings"]).split(" | ") if row["warnings"] else ())


@app.command()
@reporting_errors
def sensitivity(
    study: Annotated[Path, typer.Argument(help="DICOM folder or NIfTI volume.")],
    axial_index: Annotated[
        int | None, typer.Option("--axial-index", help="Mid-L3 slice (0 = lowest); found if not given.")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Slices on each side.")] = 2,
    structure: Annotated[
        list[str] | None, typer.Option("--structure", "-s", help="psoas and muscle if not given; repeatable.")
    ] = None,
    model: Model = None,
    series: Series = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the rows to this CSV.")] = None,
    any_region: AnyRegion = False,
    as_json: AsJson = False,
) -> None:
    """Report how areas and HU change on the slices above and below mid-L3."""
    from ctai_sam2.io import read_study
    from ctai_sam2.segmentation import find_mid_l3, slice_sensitivity
    from ctai_sam2.study.outputs import write_rows

    volume = read_study(study, series_uid=series)
    with _open_segmenter(model) as segmenter:
        if axial_index is None:
            axial_index = find_mid_l3(volume, segmenter)
        found = slice_sensitivity(
            volume,
            axial_index,
            segmenter,
            k=k,
            structures=cast("list[Structure]", structure or ["psoas", "muscle"]),
            any_region=any_region,
        )
    rows = [asdict(row) for row in found]
    if out is not None:
        write_rows(out, rows)
    if as_json:
        print_json({"axial_index": axial_index, "rows": rows})
        return
    print_table(rows, ("structure", "axial_index", "offset_mm", "area_cm2", "hu_mean", "area_change_pct"))
    _print_warnings(tuple(f"slice {row.axial_index}: {row.error}" for row in found if row.error))


@app.command()
@reporting_errors
def doctor(as_json: AsJson = False) -> None:
    """Check Python, torch, device, SAM2, weights, cache, service and widgets; name the failing layer."""
    from ctai_sam2.cli.doctor import examine
    from ctai_sam2.settings import Settings

    checks = examine(Settings())
    failed = [check.layer for check in checks if check.status == "fail"]
    if as_json:
        print_json({"ok": not failed, "failed": failed, "checks": [vars(check) for check in checks]})
    else:
        for check in checks:
            colour = {"ok": "green", "warn": "yellow", "fail": "red"}[check.status]
            print_line(f"{typer.style(check.status.rjust(4), fg=colour)}  {check.layer:<13} {check.detail}")
            if check.hint:
                print_line(f"{'':19} -> {check.hint}")
        print_line(f"\nFailing: {', '.join(failed)}" if failed else "\nReady.")
    if failed:
        raise typer.Exit(3)


def _segment_and_report(
    study: Path,
    out: Path,
    model: str | None,
    series: str | None,
    axial_index: int | None,
    height_m: float | None,
    definitions: str | None,
    as_json: bool,
    slices: int,
    any_region: bool = False,
) -> None:
    from ctai_sam2.files.atomic import require_writable
    from ctai_sam2.io import read_study
    from ctai_sam2.measure.body_composition import require_height
    from ctai_sam2.segmentation import segment_study
    from ctai_sam2.settings import Settings
    from ctai_sam2.study.outputs import claim_folder, measure_study, write_study

    # What would be refused at the end is refused before the work.
    require_height(height_m)
    limits = _definitions(definitions)
    require_writable(out)
    volume = read_study(study, series_uid=series)
    claim_folder(out, volume)
    depth, height, width = volume.shape_zyx
    print_line(f"Read {depth} slices of {height} x {width}", as_json=as_json)
    with _open_segmenter(model) as segmenter:
        identity = segmenter.identity
        print_line(f"One click with {identity.name} on {identity.device}", as_json=as_json)
        result = segment_study(
            volume,
            segmenter,
            axial_index=axial_index,
            definitions=limits,
            confidence_threshold=Settings().confidence_threshold,
            slices=slices,
            any_region=any_region,
        )
    row = measure_study(result, height_m=height_m, definitions=limits)
    if not as_json:
        # The numbers are shown while the pictures are drawn.
        _print_study(result, row)
    files = write_study(result, row, out, definitions=limits)
    if as_json:
        medians = [asdict(median) for median in result.medians]
        print_json(
            {"measurements": row, "medians": medians, "warnings": list(result.warnings), "files": vars(files)}
        )
        return
    _print_files(vars(files))


def _definitions(name_or_file: str | None) -> TissueDefinitions:
    from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, load_definitions

    return load_definitions(name_or_file) if name_or_file else DEFAULT_DEFINITIONS


def _print_study(result: StudyResult, row: TableRow) -> None:
    from ctai_sam2.study.outputs import summarise

    print_line()
    print_table(summarise(result), SHOWN)
    print_line()
    if result.medians:
        print_line("Median of several slices, with the smallest and largest area:")
        print_table(
            [asdict(median) for median in result.medians],
            ("structure", "area_cm2", "low_cm2", "high_cm2", "slices"),
        )
        print_line()
    indices = (
        "middle_slice",
        "sma_cm2",
        "smi_cm2_m2",
        "smd_hu",
        "pmi_cm2_m2",
        "psoas_asymmetry",
        "definitions",
    )
    print_table([{"column": name, "value": row.get(name)} for name in indices], ("column", "value"))
    _print_warnings(result.warnings)


def _print_warnings(warnings: Sequence[str]) -> None:
    for text in warnings:
        typer.secho(f"Note: {text}", fg="yellow")


def _print_files(files: Any) -> None:
    print_line("\nWritten:")
    for name, value in files.items():
        paths = value if isinstance(value, (list, tuple)) else [value]
        for path in paths:
            if path is not None:
                print_line(f"  {name:<13} {path}")


def _open_segmenter(model: str | None) -> Segmenter:
    from ctai_sam2.models import open_segmenter
    from ctai_sam2.settings import Settings

    return open_segmenter(settings=Settings(model=model) if model else Settings())


def _prompt(points: Sequence[str], box: str | None) -> Prompt | None:
    from ctai_sam2.types import Prompt

    if not points and box is None:
        return None
    parsed = [_numbers(text, (2, 3), "--point x,y or x,y,label") for text in points]
    corners = _numbers(box, 4, "--box x0,y0,x1,y1") if box else None
    return Prompt(
        points_xy=[values[:2] for values in parsed],  # type: ignore[arg-type]
        labels=[values[2] if len(values) == 3 else 1 for values in parsed],  # type: ignore[arg-type]
        box_xyxy=tuple(corners) if corners else None,  # type: ignore[arg-type]
    )


def _numbers(text: str | None, count: int | tuple[int, ...], form: str) -> list[float]:
    counts = (count,) if isinstance(count, int) else count
    try:
        values = [float(part) for part in (text or "").split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        raise InputError("numbers separated by commas are needed", received=text, hint=f"Write {form}.")
    return values


def _pair(values: Sequence[float]) -> tuple[float, float]:
    return values[0], values[1]


def _named_paths(entries: Sequence[str]) -> dict[str, Path]:
    named = {}
    for entry in entries:
        name, separator, path = entry.partition("=")
        if not separator or not name or not path:
            raise InputError(
                "a mask is given as name=file", received=entry, hint="For example psoas_left=left.png."
            )
        named[name] = Path(path)
    return named
