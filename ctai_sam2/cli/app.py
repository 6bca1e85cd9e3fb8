"""The commands of ``ctai-sam2``."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ctai_sam2 import __version__
from ctai_sam2.cli import cohort, models
from ctai_sam2.cli.agreement import agreement
from ctai_sam2.cli.change import change
from ctai_sam2.cli.evaluate import evaluate
from ctai_sam2.cli.exchange import export, import_
from ctai_sam2.cli.options import (
    MASK_FORM,
    AnyRegion,
    AsJson,
    AxialIndex,
    Definitions,
    Height,
    Model,
    Out,
    OutTable,
    SegmentKind,
    Series,
    definitions_of,
    open_model,
    pairs_of,
    refuse_other_options,
)
from ctai_sam2.cli.replay import replay
from ctai_sam2.cli.report import (
    print_json,
    print_line,
    print_table,
    print_warnings,
    reporting_errors,
)
from ctai_sam2.cli.serve import serve
from ctai_sam2.cli.study_report import report
from ctai_sam2.cli.volume import SeveralNames, split_names
from ctai_sam2.cli.whole_study import StudyOptions, segment_whole

if TYPE_CHECKING:
    from ctai_sam2.segmentation.volume import FollowWith
    from ctai_sam2.structures import Structure

app = typer.Typer(
    name="ctai-sam2",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Boxes and colors around the help would take as long to import as everything else.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help=(
        "One-click psoas, skeletal muscle and L3 segmentation on CT with SAM2. Research use, not diagnosis. "
        "Exit codes: 0 done, 1 unexpected error, 2 unusable input, 3 no segmenter or weights, 4 unsuitable "
        "image data, 5 nothing could be written, 6 a replayed row differs or cannot be made again."
    ),
)

Slices = Annotated[
    int, typer.Option("--slices", help="1, 3 or 5: also print the median areas of that many slices.")
]


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
    axial_index: AxialIndex = None,
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
    options = StudyOptions(
        model=model,
        series=series,
        axial_index=axial_index,
        slices=slices,
        height_m=height_m,
        definitions=definitions,
    )
    segment_whole(study, out, options, as_json=as_json)


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
    axial_index: AxialIndex = None,
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
    follow: Annotated[
        str,
        typer.Option(
            "--follow",
            help="With --levels: memory follows each structure with SAM2's own memory, from anchors or the "
            "middle slice. SAM 2.1 and MedSAM2 have one.",
        ),
    ] = "prompts",
    dicom: Annotated[
        list[str] | None, typer.Option("--dicom", help="With --levels: seg or rtstruct as well; repeatable.")
    ] = None,
    any_region: AnyRegion = False,
    as_json: AsJson = False,
) -> None:
    """Segment a study (all structures), every slice of a range of levels, or one structure on one slice."""
    kind: SegmentKind = "levels" if levels is not None else "study" if structure is None else "structure"
    refuse_other_options(
        kind,
        {
            "--structure": structure is not None,
            "--point": bool(point),
            "--box": box is not None,
            "--spacing-mm": spacing_mm is not None,
            "--window": window is not None,
            "--axial-index": axial_index is not None,
            "--slices": slices != 1,
            "--height-m": height_m is not None,
            "--structures": bool(structures),
            "--every-mm": every_mm is not None,
            "--follow": follow != "prompts",
            "--dicom": bool(dicom),
            "--any-region": any_region,
        },
    )
    if levels is not None:
        from ctai_sam2.cli.volume import segment_levels
        from ctai_sam2.files.atomic import require_writable
        from ctai_sam2.segmentation.volume import EVERY_MM

        require_writable(out)
        with open_model(model) as segmenter:
            segment_levels(
                path,
                out,
                segmenter,
                levels=levels,
                structures=split_names(structures) or ("psoas", "muscle"),
                every_mm=EVERY_MM if every_mm is None else every_mm,
                follow=cast("FollowWith", follow),
                dicom=split_names(dicom),
                series=series,
                definitions=definitions_of(definitions),
                as_json=as_json,
            )
        return
    if structure is None:
        options = StudyOptions(
            model=model,
            series=series,
            axial_index=axial_index,
            slices=slices,
            height_m=height_m,
            definitions=definitions,
            any_region=any_region,
        )
        segment_whole(path, out, options, as_json=as_json)
        return

    from ctai_sam2.cli.one_structure import segment_one

    segment_one(
        path,
        structure,
        out,
        points=point or (),
        box=box,
        spacing_mm=spacing_mm,
        window=window,
        model=model,
        series=series,
        axial_index=axial_index,
        definitions=definitions,
        any_region=any_region,
        as_json=as_json,
    )


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
    out: OutTable = None,
    any_region: AnyRegion = False,
    as_json: AsJson = False,
) -> None:
    """Measure areas and HU under masks drawn or corrected elsewhere."""
    from ctai_sam2.study.outputs import measure_files, write_rows

    row = measure_files(
        image,
        pairs_of(masks, MASK_FORM),
        axial_index=axial_index,
        series_uid=series,
        height_m=height_m,
        definitions=definitions_of(definitions),
        any_region=any_region,
    )
    if out is not None:
        write_rows(out, [row])
    if as_json:
        print_json(row)
        return
    print_table([{"column": k, "value": v} for k, v in row.items() if v is not None], ("column", "value"))
    print_warnings(str(row["warnings"]).split(" | ") if row["warnings"] else ())


@app.command()
@reporting_errors
def sensitivity(
    study: Annotated[Path, typer.Argument(help="DICOM folder or NIfTI volume.")],
    axial_index: AxialIndex = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Slices on each side.")] = 2,
    structure: Annotated[
        list[str] | None, typer.Option("--structure", "-s", help="psoas and muscle if not given; repeatable.")
    ] = None,
    model: Model = None,
    series: Series = None,
    out: OutTable = None,
    any_region: AnyRegion = False,
    as_json: AsJson = False,
) -> None:
    """Report how areas and HU change on the slices above and below mid-L3."""
    from ctai_sam2.io import read_study
    from ctai_sam2.segmentation import find_mid_l3, slice_sensitivity
    from ctai_sam2.study.outputs import write_rows

    volume = read_study(study, series_uid=series)
    with open_model(model) as segmenter:
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
    print_warnings(tuple(f"slice {row.axial_index}: {row.error}" for row in found if row.error))


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


# After the commands of this module: the list of commands begins with those for a newcomer.
app.command()(report)
app.command()(change)
app.command()(replay)
app.command()(export)
app.command("import")(import_)
app.command()(agreement)
app.command()(evaluate)
app.command()(serve)
app.add_typer(cohort.app, name="cohort")
app.add_typer(models.app, name="models")
