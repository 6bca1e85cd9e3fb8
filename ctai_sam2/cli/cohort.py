"""``ctai-sam2 cohort``: many studies, one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctai_sam2.cli.options import (
    MASK_FORM,
    AsJson,
    Definitions,
    Model,
    definitions_of,
    pairs_of,
    progress_bar,
)
from ctai_sam2.cli.report import (
    counted,
    print_files,
    print_json,
    print_line,
    print_note,
    print_table,
    print_warnings,
    reporting_errors,
)
from ctai_sam2.errors import CtaiError, InputError, StorageError, Unavailable

if TYPE_CHECKING:
    from ctai_sam2.cohort.runner import CohortRun
    from ctai_sam2.cohort.worklist import Worklist

app = typer.Typer(
    name="cohort",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure many studies; review what is flagged.",
)

Results = Annotated[Path, typer.Argument(help="Folder that 'cohort run' wrote.")]

INTERRUPTED = 130
NOTHING_MEASURED = 4
"""Exit code where all cases failed: as for unusable image data."""
_FAILURES_SHOWN = 5


@app.command()
@reporting_errors
def scan(
    folder: Annotated[Path, typer.Argument(help="Folder whose entries are studies.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write (CSV).")] = Path("cases.csv"),
    ids_from_names: Annotated[
        bool,
        typer.Option("--ids-from-names", help="Name cases after their folders (often patients' names)."),
    ] = False,
    all_series: Annotated[
        bool,
        typer.Option("--all-series", help="A row for every axial stack, not one a study."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a manifest that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the studies of a folder as a manifest, to be completed by hand."""
    from ctai_sam2.cohort import scan_cases, write_manifest

    if out.exists() and not force:
        raise InputError(f"there is a manifest {out.name} already", hint="Add --force to replace it.")
    with progress_bar("study", hidden=as_json) as show:
        found = scan_cases(folder, ids_from_names=ids_from_names, all_series=all_series, progress=show)
    write_manifest(out, found.cases)
    if as_json:
        print_json(
            {
                "manifest": out,
                "cases": len(found.cases),
                "skipped": len(found.skipped),
                "left_out": [{"entry": name, "reason": reason} for name, reason in found.skipped],
                "series": [one.to_row() for one in found.series],
            }
        )
        return
    if found.series:
        print_table(
            [one.to_row() for one in found.series],
            ("entry", "case_id", "plane", "slices", "thickness_mm", "kernel", "phase", "kvp", "sex",
             "description", "left_out"),
        )  # fmt: skip
    left_out = f" Entries left out: {len(found.skipped)}." if found.skipped else ""
    written = counted(len(found.cases), "case")
    print_line(f"{written} written to {out}. Add heights, delete what you do not want.{left_out}")
    print_warnings(f"{name}: {reason}" for name, reason in found.skipped)


@app.command()
@reporting_errors
def run(
    manifest: Annotated[Path, typer.Argument(help="Manifest (CSV or Parquet), see 'cohort scan'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")] = Path("cohort-results"),
    workers: Annotated[int | None, typer.Option("--workers", "-w", help="Cases at the same time.")] = None,
    segmenter: Annotated[
        str, typer.Option("--segmenter", help="local, or remote: the service of the settings.")
    ] = "local",
    model: Model = None,
    dask: Annotated[str | None, typer.Option("--dask", help="Dask scheduler, tcp://host:8786.")] = None,
    structure: Annotated[
        list[str] | None, typer.Option("--structure", "-s", help="All if not given; repeatable.")
    ] = None,
    definitions: Definitions = None,
    cut_offs: Annotated[
        list[str] | None,
        typer.Option("--cut-offs", help="A table's name, or smi=name, smd=name; repeatable. See the docs."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Reference values for z-scores and percentiles.")
    ] = None,
    robustness: Annotated[
        int, typer.Option("--robustness", min=0, help="Jittered prompts per structure; 0 for none.")
    ] = 0,
    levels: Annotated[
        str | None, typer.Option("--levels", help="Every slice of these vertebrae as well: T12-L5.")
    ] = None,
    time_limit_s: Annotated[float, typer.Option("--time-limit-s", help="Seconds for one case.")] = 600.0,
    memory_limit_mb: Annotated[
        float | None, typer.Option("--memory-limit-mb", help="Memory of one worker process.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed cases again.")] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
    as_json: AsJson = False,
) -> None:
    """Segment and measure every case; run it again and only what is missing or changed is done."""
    from ctai_sam2.cli.volume import parse_levels
    from ctai_sam2.cohort import CohortConfig, run_cohort
    from ctai_sam2.measure.cutoffs import parse_cutoff_choice
    from ctai_sam2.measure.reference_values import DEFAULT_REFERENCE
    from ctai_sam2.settings import Settings
    from ctai_sam2.structures import AXIAL_STRUCTURES

    chosen = parse_cutoff_choice(";".join(cut_offs)) if cut_offs else {}
    config = CohortConfig(
        workers=workers,
        segmenter=segmenter,
        settings=Settings(model=model) if model else Settings(),
        dask=dask,
        structures=tuple(structure) if structure else AXIAL_STRUCTURES,  # type: ignore[arg-type]
        definitions=definitions_of(definitions),
        robustness_trials=robustness,
        levels=None if levels is None else parse_levels(levels),
        reference=reference or DEFAULT_REFERENCE,
        **{f"{name}_cutoffs": table for name, table in chosen.items()},  # type: ignore[arg-type]
        time_limit_s=time_limit_s,
        memory_limit_mb=memory_limit_mb,
        retry_failed=retry_failed,
        progress=not as_json,
    )
    try:
        done = run_cohort(manifest, out, config=config)
    except KeyboardInterrupt:
        _report_partial(out, report)
        typer.secho(
            "Stopped. What was done is stored; run the same command to continue.", fg="yellow", err=True
        )
        raise typer.Exit(INTERRUPTED) from None
    except (Unavailable, StorageError):
        _report_partial(out, report)
        raise
    page = _write_report(done.files.folder) if report else None
    counts = {
        name: getattr(done, name)
        for name in (
            *("cases", "inferred", "measured", "unchanged", "failed", "incomplete", "not_done", "flagged"),
            *("replaced", "set_aside", "not_in_manifest"),
        )
    }
    if as_json:
        print_json({**counts, "seconds": done.seconds, "files": vars(done.files), "report": page})
    else:
        _print_run(done, out, page)
    if done.cases and done.failed == done.cases:
        raise typer.Exit(NOTHING_MEASURED)


@app.command("report")
@reporting_errors
def write_page(results: Results, as_json: AsJson = False) -> None:
    """Write report.html: flagged cases first, overlays, distributions, a table that sorts."""
    from ctai_sam2.cohort.report import write_report

    page = write_report(results)
    if as_json:
        print_json({"report": page})
    else:
        print_line(str(page))


@app.command()
@reporting_errors
def methods(results: Results, as_json: AsJson = False) -> None:
    """Write methods.md and methods.bib: a methods paragraph with citations, and a reporting checklist."""
    from ctai_sam2.cohort.methods import write_methods

    files = write_methods(results)
    if as_json:
        print_json(vars(files))
    else:
        print_line(f"{files.markdown}\n{files.bibtex}")


@app.command()
@reporting_errors
def review(
    results: Results,
    accept: Annotated[
        str | None, typer.Option("--accept", help="Case whose masks stand as they are.")
    ] = None,
    correct: Annotated[str | None, typer.Option("--correct", help="Case that gets other masks.")] = None,
    mask: Annotated[
        list[str] | None, typer.Option("--mask", "-m", help="name=file or name=file#label; repeatable.")
    ] = None,
    who: Annotated[str, typer.Option("--by", help="The reader.")] = "",
    note: Annotated[str, typer.Option("--note", help="What was seen or done.")] = "",
    as_json: AsJson = False,
) -> None:
    """List flagged cases not reviewed, the most serious first; accept one, or give it corrected masks."""
    from ctai_sam2.cohort.worklist import Worklist

    if accept and correct:
        raise InputError("a case is accepted or corrected", hint="Give --accept or --correct.")
    if bool(mask) != bool(correct):
        raise InputError("a correction needs masks, and masks a case", hint="--correct ID --mask name=file.")
    worklist = Worklist(results)
    merged = None
    if accept:
        merged = worklist.accept(accept, who=who, what=note)
    elif correct:
        merged = worklist.correct(correct, _read_masks(worklist, correct, mask or []), who=who, what=note)
    open_items = [item for item in worklist.items if item.is_open]
    if as_json:
        listed = [{"case_id": item.case_id, "flags": dict(item.flags)} for item in open_items]
        print_json({"open": listed, "flagged": len(worklist.items), "merged": merged})
        return
    if merged is False:
        print_warnings(["kept; a run holds the folder, the next one takes it up."])
    print_table(
        [
            {"case": item.case_id, "flags": " ".join(item.flags), "why": "; ".join(item.flags.values())}
            for item in open_items
        ],
        ("case", "flags", "why"),
    )
    print_line(f"\n{len(open_items)} of {len(worklist.items)} flagged cases are open.")
    if any("failed" not in item.flags for item in open_items):
        print_line(
            "Next: look at its picture in report.html, then --accept CASE --by NAME, or --correct CASE "
            "--mask name=file --by NAME."
        )


def _print_run(done: CohortRun, out: Path, page: Path | None) -> None:
    """Print what was done, why cases failed, where the results are, and what to do next."""
    print_line(
        f"{counted(done.cases, 'case')} in {done.seconds:.1f} s: {done.inferred} segmented, {done.measured} "
        f"measured again, {done.unchanged} unchanged. {done.failed} failed, {done.flagged} flagged."
    )
    print_warnings([*_failures(done), *_notes_on(done)])
    print_files(
        {
            "table": done.files.csv,
            "parquet": done.files.parquet,
            "summary": done.files.summary,
            "report": page,
        }
    )
    if done.is_partial:
        print_line("\nNext: run the same command again, it continues.")
    elif done.flagged:
        print_line(f"\nNext: ctai-sam2 cohort review {out}")


def _failures(done: CohortRun) -> list[str]:
    """Why cases have no numbers, for the first few of them."""
    from ctai_sam2.cohort import read_table

    if not done.failed:
        return []
    table = read_table(done.files.folder)
    failed = table[table["status"] == "failed"]
    rows = zip(failed["case_id"], failed["error_type"], failed["error"], strict=True)
    shown = [f"{case_id} failed: {kind}: {text}" for case_id, kind, text in rows][:_FAILURES_SHOWN]
    more = len(failed) - len(shown)
    return [*shown, f"and {counted(more, 'more case')} that failed, see table.csv"] if more else shown


def _notes_on(done: CohortRun) -> list[str]:
    """Sentences on all that the table leaves out or that is not as in the last run."""
    notes = list(done.cautions)
    if done.is_partial:
        notes.append(
            f"the table is partial: {done.incomplete} cases incomplete, {done.not_done} not done; "
            "run it again"
        )
    if done.replaced:
        notes.append(f"the images of {done.replaced} cases are others than in the last run")
    if done.set_aside:
        notes.append(f"damaged files were moved aside and made again: {', '.join(done.set_aside[:5])}")
    if done.not_in_manifest:
        notes.append(
            f"results of {len(done.not_in_manifest)} cases that are not in the manifest are in the folder "
            "and not in the table"
        )
    return notes


def _report_partial(folder: Path, wanted: bool) -> None:
    """Write the report of a run that was ended, and say what its table holds."""
    from ctai_sam2.cohort.store import CohortStore
    from ctai_sam2.cohort.table import read_summary

    try:
        summary = read_summary(CohortStore(folder))
        page = _write_report(folder) if wanted else None
    except CtaiError:
        return
    typer.secho(
        f"The table is partial: {summary['done']} of {summary['cases']} cases done, "
        f"{summary['failed']} failed, {summary.get('incomplete', 0)} incomplete, "
        f"{summary['not_done']} not done.",
        fg="yellow",
        err=True,
    )
    if page is not None:
        typer.secho(f"  {page}", err=True)


def _write_report(folder: Path) -> Path | None:
    from ctai_sam2.cohort.report import write_report_of_table

    try:
        return write_report_of_table(folder)
    except InputError as error:
        print_note(str(error))
        return None


def _read_masks(worklist: Worklist, case_id: str, entries: list[str]) -> dict[str, Any]:
    from ctai_sam2.exchange import read_structure_mask, split_label

    ct_slice = worklist.load(case_id).ct_slice
    masks = {}
    for name, file in pairs_of(entries, MASK_FORM).items():
        path, label = split_label(file)
        found = read_structure_mask(path, ct_slice, name, label=label)
        for note in found.warnings:
            print_note(note)
        masks[name] = found[name]
    return masks
