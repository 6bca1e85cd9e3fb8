"""What an evaluation leaves on disk: tables, a document, a figure and a page to read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ctai_sam2._version import __version__
from ctai_sam2.evaluation.figure import draw_figure, name_group
from ctai_sam2.evaluation.reliability import draw_reliability, pair_scores, tabulate_reliability
from ctai_sam2.evaluation.runner import Evaluation
from ctai_sam2.evaluation.scores import FAILED_BELOW, GROUPS, MAX_CLICKS, SCORE_COLUMNS, Score
from ctai_sam2.evaluation.summary import BREAKDOWN_COLUMNS, SUMMARY_COLUMNS, break_down
from ctai_sam2.files.atomic import write_bytes, write_json, write_table_csv, write_text

PROTOCOL: Final = {
    "first_click": "pixel of the reference's largest piece that is farthest from its border",
    "next_clicks": "the same of the largest connected error; every prompt holds all clicks so far",
    "box": "exact bounding box of the reference, with the first click",
    "button": "one click without points: prompts from anatomy, HU limits, clean-up",
    "max_clicks": MAX_CLICKS,
    "noc_not_reached": MAX_CLICKS + 1,
    "failed_below_dice": FAILED_BELOW,
}


@dataclass(frozen=True, kw_only=True)
class EvaluationFiles:
    """Files of an evaluation.

    Parameters
    ----------
    scores_csv : Path
        One row for each case, structure, method and prompt.
    summary_csv : Path
        Medians, area bias with limits of agreement, and how many confident numbers were good.
    breakdown_csv : Path
        Predictions without points by patient, level, phase, slice thickness and body size.
    json : Path
        Both, with the models and the protocol.
    figure : Path
        Distributions of Dice (PNG).
    report : Path
        A page that needs no other file and no network (HTML).
    reliability : Path
        Reliability diagram of the confidence (PNG).
    """

    scores_csv: Path
    summary_csv: Path
    breakdown_csv: Path
    json: Path
    figure: Path
    report: Path
    reliability: Path


def describe(evaluation: Evaluation) -> dict[str, Any]:
    """Return the summary document: models, protocol, what was left out, medians; without single scores."""
    return {
        "model": asdict(evaluation.identity),
        "folds": {word: asdict(identity) for word, identity in evaluation.folds.items()},
        "code_version": __version__,
        "cases": evaluation.cases,
        "scores": len(evaluation.rows),
        "protocol": PROTOCOL,
        "skipped": list(evaluation.skipped),
        "not_run": dict(evaluation.not_run),
        "peers": dict(evaluation.peers),
        "reliability": {
            name: [asdict(one) for one in tabulate_reliability(*pair_scores(scores))]
            for name, scores in _by_group(evaluation).items()
        },
        "summary": [row.to_row() for row in evaluation.summarise()],
    }


def write_evaluation(evaluation: Evaluation, folder: str | os.PathLike[str]) -> EvaluationFiles:
    """Write scores.csv, summary.csv, breakdown.csv, scores.json, dice.png, reliability.png and report.html.

    Each is written whole or not at all.

    Parameters
    ----------
    evaluation : Evaluation
        What to write.
    folder : path-like
        Made if missing; older results in it are replaced.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    from ctai_sam2.evaluation.report import render_report

    out = Path(folder)
    summary = evaluation.summarise()
    document = describe(evaluation)
    rows = [score.to_row() for score in evaluation.rows]
    figure = draw_figure(evaluation.rows)
    reliability = draw_reliability(_by_group(evaluation))
    return EvaluationFiles(
        scores_csv=write_table_csv(out / "scores.csv", rows, SCORE_COLUMNS),
        summary_csv=write_table_csv(out / "summary.csv", [row.to_row() for row in summary], SUMMARY_COLUMNS),
        breakdown_csv=write_table_csv(
            out / "breakdown.csv",
            [row.to_row() for row in break_down(evaluation.rows)],
            BREAKDOWN_COLUMNS,
        ),
        json=write_json(out / "scores.json", {**document, "scores": rows}),
        figure=write_bytes(out / "dice.png", figure),
        reliability=write_bytes(out / "reliability.png", reliability),
        report=write_text(out / "report.html", render_report(evaluation, summary, figure, reliability)),
    )


def _by_group(evaluation: Evaluation) -> dict[str, Sequence[Score]]:
    groups: dict[str, Sequence[Score]] = {}
    for group in GROUPS:
        scores = [score for score in evaluation.rows if score.group == group]
        if scores:
            groups[name_group(group)] = scores
    return groups
