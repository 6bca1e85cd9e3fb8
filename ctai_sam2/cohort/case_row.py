"""From a case's stored slice and predictions to its row: the same for a run, a correction and a replay."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctai_sam2.cohort.case import Case
from ctai_sam2.cohort.case_record import Cell
from ctai_sam2.cohort.config import CohortConfig
from ctai_sam2.cohort.predictions import CasePredictions
from ctai_sam2.segmentation import AxialResult, PredictsMasks, segment_axial
from ctai_sam2.study.row import measure_results
from ctai_sam2.types import CTSlice, Mask


def segment_case_slice(
    ct_slice: CTSlice, case: Case, config: CohortConfig, segmenter: PredictsMasks
) -> AxialResult:
    """Segment the slice of a case as its cohort is segmented; see `segment_axial`."""
    return segment_axial(
        ct_slice,
        segmenter,
        structures=config.structures,
        prompts=case.prompts,
        window=config.window,
        definitions=config.definitions,
        confidence_threshold=config.settings.confidence_threshold,
    )


def make_case_row(
    case: Case,
    config: CohortConfig,
    stored: CasePredictions,
    found: AxialResult,
    masks: Mapping[str, Mask],
) -> dict[str, Cell]:
    """Measure a case: its row of numbers with their provenance.

    Parameters
    ----------
    case : Case
        Its height and prompts.
    config : CohortConfig
        Definitions and structures.
    stored : CasePredictions
        Its slice, and how the level is known.
    found : AxialResult
        What the model made of the slice.
    masks : mapping of str to ndarray of bool, shape (H, W)
        Masks that count: the model's, or a reader's in their place.

    Raises
    ------
    InputError
        If the height is not plausible.
    """
    by_user = stored.level_chosen_by == "user"
    row = measure_results(
        stored.ct_slice,
        {str(name): one for name, one in found.structures.items()},
        masks=masks,
        groups=found.muscle_groups,
        height_m=case.height_m,
        definitions=config.definitions,
        axial_index=stored.axial_index,
        l3_certainty="user" if by_user else stored.l3_certainty,
        l3_probability=None if by_user else stored.l3_probability,
        level_chosen_by=stored.level_chosen_by,
        warnings=[without_names(text, case) for text in (*stored.level_warnings, *found.warnings)],
    )
    row["confidence_l3"] = stored.l3_confidence
    return {name: _plain(value) for name, value in row.items()}


def without_names(text: str, case: Case) -> str:
    """Replace the case's file and folder names in a text."""
    path = Path(case.path)
    names = {path.name, path.name.split(".")[0]}
    for name in sorted((n for n in names if len(n) > 2), key=len, reverse=True):
        text = text.replace(name, "…")
    return text


def without_file_names(texts: Sequence[str], case: Case) -> tuple[str, ...]:
    """Replace the names of the case, and of every file and folder within its folder, in texts.

    The folder is listed once, and not at all where there is no text. A name that is a short number is left,
    since it names nobody and stands for sizes and counts as well.
    """
    if not texts:
        return ()
    whole = "\n".join(texts)
    within: set[str] = set()
    # A file has nothing below it.
    for _, folders, files in os.walk(case.path):
        within.update(name for name in (*folders, *files) if len(name) > 2 and name in whole)
    cleaned = list(texts)
    for name in sorted(within, key=len, reverse=True):
        if not (name.isdecimal() and len(name) < 5):
            pattern = re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)")
            cleaned = [pattern.sub("…", text) for text in cleaned]
    return tuple(without_names(text, case) for text in cleaned)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, np.floating) else value
