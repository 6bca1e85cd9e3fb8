"""``ctai-sam2 evaluate``: score a model on slices with reference masks."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctai_sam2.cli.options import AsJson, Out, pairs_of, progress_bar, split_pair
from ctai_sam2.cli.report import print_files, print_json, print_table, print_warnings, reporting_errors
from ctai_sam2.errors import InputError
from ctai_sam2.files.folders import read_file
from ctai_sam2.files.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctai_sam2.evaluation import SummaryRow

Words = list[str] | None

SHOWN = ("slices", "structure", "method", "prompt", "n", "dice", "fails", "hd95_mm", "time_ms")


@reporting_errors
def evaluate(
    cases: Annotated[
        Path | None, typer.Argument(help="Folder of .npz slices with reference masks; or see --phantoms.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A name from 'models list', or a weights file.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Network of a weights file: a name or a YAML file.")
    ] = None,
    fold: Annotated[
        Words,
        typer.Option(
            "--fold", help="WORD=weights: scores cases whose name contains WORD, as unseen; repeatable."
        ),
    ] = None,
    unseen: Annotated[
        Words, typer.Option("--unseen", help="Cases with this word count as unseen; repeatable.")
    ] = None,
    all_unseen: Annotated[
        bool, typer.Option("--all-unseen", help="No case was in training (embedded model: phantoms only).")
    ] = False,
    skip: Annotated[Words, typer.Option("--skip", help="WORD:STRUCTURE not to score; repeatable.")] = None,
    notes: Annotated[
        Path | None,
        typer.Option(
            "--notes",
            help='JSON: {"WORD": {"phase": "arterial", "slice_mm": 3}} of cases with that word, for tables.',
        ),
    ] = None,
    structure: Annotated[
        Words,
        typer.Option("--structure", "-s", help="Score these masks instead of the usual; repeatable."),
    ] = None,
    phantoms: Annotated[int, typer.Option("--phantoms", min=0, help="Fresh phantoms per plane.")] = 0,
    phantom_seed: Annotated[int, typer.Option("--phantom-seed", min=0)] = 90210,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Score classical methods as well.")
    ] = True,
    untrained: Annotated[
        bool, typer.Option("--untrained/--no-untrained", help="Score the network with random weights too.")
    ] = True,
    peer: Annotated[
        Words, typer.Option("--peer", help="Score another model from boxes: lite-medsam; repeatable.")
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Score the network's own masks: no names, no clean-up.")
    ] = False,
    out: Out = Path("ctai-evaluation"),
    as_json: AsJson = False,
) -> None:
    """Score a model with simulated clicks, boxes and no points: CSV, JSON, figure and an HTML report."""
    from ctai_sam2.evaluation import (
        Plan,
        describe,
        evaluate_model,
        locate_model,
        open_model,
        open_untrained,
        write_evaluation,
    )
    from ctai_sam2.evaluation.peers import open_peer
    from ctai_sam2.files.atomic import require_writable
    from ctai_sam2.models.factory import open_store
    from ctai_sam2.settings import Settings

    settings = Settings()
    store = open_store(settings)
    source = locate_model(model or settings.model, config=config, store=store)
    fold_sources = {
        word: locate_model(Path(path), config=config, store=store)
        for word, path in pairs_of(fold, "--fold WORD=weights.safetensors").items()
    }
    chosen: dict[str, Any] = {"structures": tuple(structure)} if structure else {}
    plan = Plan(
        skip=tuple(split_pair(entry, "--skip WORD:STRUCTURE", ":") for entry in skip or ()),
        unseen=tuple(unseen or ()),
        all_unseen=all_unseen,
        baselines=baselines,
        bare=bare,
        notes=_read_notes(notes) if notes else {},
        **chosen,
    )
    require_writable(out)
    peers = [open_peer(name) for name in dict.fromkeys(peer or ())]
    opening: dict[str, Any] = {
        "device": settings.device,
        "dtype": settings.dtype,
        "num_threads": settings.num_threads,
    }
    with contextlib.ExitStack() as stack:
        show = stack.enter_context(progress_bar("slice", hidden=as_json))
        segmenter = stack.enter_context(open_model(source, store=store, **opening))
        evaluation = evaluate_model(
            segmenter,
            cases=cases,
            plan=plan,
            folds={
                word: stack.enter_context(open_model(one, store=store, **opening))
                for word, one in fold_sources.items()
            },
            untrained=stack.enter_context(open_untrained(source, **opening)) if untrained else None,
            peers=peers,
            phantoms=phantoms,
            phantom_seed=phantom_seed,
            progress=show,
        )
    files = write_evaluation(evaluation, out)
    if as_json:
        print_json({**describe(evaluation), "files": vars(files)})
        return
    print_table(_shown(evaluation.summarise()), SHOWN)
    print_warnings([*evaluation.skipped, *(f"{name}: {why}" for name, why in evaluation.not_run.items())])
    print_files(vars(files))


def _read_notes(path: Path) -> dict[str, dict[str, Any]]:
    content = read_file(path)
    try:
        notes = parse_json(content.decode("utf-8"), unique_keys=True)
    except ValueError as error:
        raise InputError("the notes on cases cannot be read", received=path.name) from error
    if not isinstance(notes, dict) or not all(isinstance(one, dict) for one in notes.values()):
        raise InputError(
            "the notes on cases have another form",
            received=path.name,
            hint='Write {"WORD": {"phase": "arterial", "slice_mm": 3}}.',
        )
    return notes


def _shown(summary: Sequence[SummaryRow]) -> list[dict[str, object]]:
    return [
        {**row.to_row(), "slices": row.group, "fails": f"{100 * row.failure_rate:.0f} %"} for row in summary
    ]
