"""Scores of models: simulated clicks, boxes and no points at all, on slices with reference masks."""

from ctai_sam2.evaluation.files import EvaluationFiles, describe, write_evaluation
from ctai_sam2.evaluation.model_sources import ModelSource, locate_model, open_model, open_untrained
from ctai_sam2.evaluation.reliability import (
    ReliabilityBin,
    draw_reliability,
    fit_calibration,
    pair_scores,
    tabulate_reliability,
)
from ctai_sam2.evaluation.runner import (
    PHANTOM_SEED,
    Evaluation,
    Plan,
    evaluate_model,
    make_phantom_cases,
)
from ctai_sam2.evaluation.scores import SCORE_COLUMNS, Score, compare
from ctai_sam2.evaluation.summary import SUMMARY_COLUMNS, TARGETS, SummaryRow, summarise

__all__ = [
    "PHANTOM_SEED",
    "SCORE_COLUMNS",
    "SUMMARY_COLUMNS",
    "TARGETS",
    "Evaluation",
    "EvaluationFiles",
    "ModelSource",
    "Plan",
    "ReliabilityBin",
    "Score",
    "SummaryRow",
    "compare",
    "describe",
    "draw_reliability",
    "evaluate_model",
    "fit_calibration",
    "locate_model",
    "make_phantom_cases",
    "open_model",
    "open_untrained",
    "pair_scores",
    "summarise",
    "tabulate_reliability",
    "write_evaluation",
]
