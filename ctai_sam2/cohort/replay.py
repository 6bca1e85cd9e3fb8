"""Make each number of a cohort's rows again from what is stored, bit for bit, or say what changed."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NoReturn, TypeAlias

import numpy as np

from ctai_sam2._version import __version__
from ctai_sam2.cohort.case import Case
from ctai_sam2.cohort.case_image import content_of, read_image
from ctai_sam2.cohort.case_record import CaseRecord, Cell
from ctai_sam2.cohort.case_row import make_case_row, segment_case_slice
from ctai_sam2.cohort.config import CohortConfig
from ctai_sam2.cohort.corrections import corrected_masks, read_correction
from ctai_sam2.cohort.predictions import CasePredictions, ReplayingSegmenter, read_predictions
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.table import read_summary
from ctai_sam2.cohort.worklist import case_of_summary, config_of_summary
from ctai_sam2.errors import CtaiError, InputError, Unavailable
from ctai_sam2.files.safe_text import from_cell
from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.measure.definitions import TissueDefinitions
from ctai_sam2.models import Segmenter

ChangeKind: TypeAlias = Literal["pixels", "model", "weights", "definitions", "code", "correction", "table"]
ReplayStatus: TypeAlias = Literal["identical", "changed", "not replayed"]


@dataclass(frozen=True, kw_only=True)
class CellDifference:
    """A cell that differs: its column, the row's value, and the recomputed one."""

    column: str
    stored: Cell
    again: Cell


@dataclass(frozen=True, kw_only=True)
class CaseReplay:
    """What became of a row when it was made again.

    Parameters
    ----------
    case_id : str
        Name of the case.
    status : {"identical", "changed", "not replayed"}
        ``not replayed`` where the case has no numbers, or its files cannot be read back.
    cells : int
        Cells compared.
    differences : tuple of CellDifference
        Cells that differ.
    changes : mapping of str to str
        What changed since the row was made, in a sentence by kind: ``pixels``, ``model``, ``weights``,
        ``definitions``, ``code``, ``correction``, ``table``.
    reason : str
        Why it was not replayed.
    has_numbers : bool
        Whether there is a row to be replayed; a failed case has none.
    """

    case_id: str
    status: ReplayStatus
    cells: int = 0
    differences: tuple[CellDifference, ...] = ()
    changes: Mapping[ChangeKind, str] = field(default_factory=dict)
    reason: str = ""
    has_numbers: bool = True

    @property
    def is_fine(self) -> bool:
        """Whether the row is identical, or there is none to be made again."""
        return self.status == "identical" or not self.has_numbers


def replay_cohort(
    folder: str | os.PathLike[str],
    case_ids: Sequence[str] | None = None,
    *,
    definitions: TissueDefinitions | None = None,
    studies: Sequence[Case] | None = None,
    segmenter: Segmenter | None = None,
) -> Iterator[CaseReplay]:
    """Make the rows of a cohort again from its stored slices, predictions, corrections and definitions.

    Nothing is written. The model is not needed: what it predicted is stored.

    Parameters
    ----------
    folder : path-like
        What `run_cohort` wrote.
    case_ids : sequence of str, optional
        Those to make again; all when omitted.
    definitions : TissueDefinitions, optional
        Other definitions than the cohort's: the differences then show what they change.
    studies : sequence of Case, optional
        The manifest's cases: the images are then read, and compared with those that the rows were made from.
    segmenter : Segmenter, optional
        The model: its predictions are then made again, and compared with the stored ones.

    Yields
    ------
    CaseReplay
        For each case, in the cohort's order.

    Raises
    ------
    InputError
        If the folder holds no results, or there is no such case.
    DamagedFile
        If the summary cannot be read.
    """
    store = CohortStore(Path(folder))
    summary = read_summary(store)
    cases = {entry["case_id"]: case_of_summary(entry) for entry in summary["manifest"]}
    wanted = list(cases) if case_ids is None else list(case_ids)
    for case_id in wanted:
        if case_id not in cases:
            raise InputError("there is no such case in the cohort", received=case_id)
    config = config_of_summary(summary)
    images = {case.case_id: case for case in studies or ()}
    table = _read_cells(store.folder / "table.csv")
    for case_id in wanted:
        try:
            yield _replay(
                store,
                cases[case_id],
                config,
                definitions=definitions,
                image=images.get(case_id),
                segmenter=segmenter,
                table=table.get(case_id),
            )
        except Unavailable:
            yield CaseReplay(
                case_id=case_id,
                status="not replayed",
                reason="a prediction that this version asks for is not stored; give the model",
            )
        except CtaiError as error:
            yield CaseReplay(case_id=case_id, status="not replayed", reason=str(error))


def open_cohort_segmenter(folder: str | os.PathLike[str]) -> Segmenter:
    """Open the kind of segmenter that a cohort was run with, as the settings have it now.

    Raises
    ------
    InputError
        If the folder holds no results.
    Unavailable
        If it cannot be opened.
    """
    return config_of_summary(read_summary(CohortStore(Path(folder)))).open_segmenter()


def _replay(
    store: CohortStore,
    case: Case,
    config: CohortConfig,
    *,
    definitions: TissueDefinitions | None,
    image: Case | None,
    segmenter: Segmenter | None,
    table: Mapping[str, str] | None,
) -> CaseReplay:
    record = store.read_record(case.case_id)
    if record is None or not record.is_done:
        return CaseReplay(
            case_id=case.case_id, status="not replayed", reason="the case has no numbers", has_numbers=False
        )
    stored = read_predictions(store.predictions_path(case.case_id))
    changes: dict[ChangeKind, str] = {}
    slice_sha256 = fingerprint(stored.ct_slice)
    if record.slice_sha256 is not None and record.slice_sha256 != slice_sha256:
        changes["pixels"] = "the stored slice is another one than the row was made from"
    if image is not None and content_of(read_image(image)) != record.content_sha256:
        changes["pixels"] = "the study's images are others than the row was made from"
    if definitions is not None and definitions.identifier != record.text("definitions"):
        config = replace(config, definitions=definitions)
        changes["definitions"] = f"{record.text('definitions')} then, {definitions.identifier} now"
    elif config.definitions.identifier != record.text("definitions"):
        changes["definitions"] = f"{record.text('definitions')} then, {config.definitions.identifier} now"
    changes |= _model_changes(record, stored, segmenter)
    replaying = ReplayingSegmenter(_no_model if segmenter is None else lambda: segmenter, stored.predictions)
    found = segment_case_slice(stored.ct_slice, case, config, replaying)
    if segmenter is not None:
        changes |= _prediction_changes(stored, case, config, segmenter)
    correction = read_correction(store, case.case_id)
    counts = correction is not None and correction.slice_sha256 == slice_sha256
    drawn = set(correction.masks) if correction is not None and counts else set()
    if drawn != set(record.review.structures if record.review and not record.review.stale else ()):
        changes["correction"] = "a reader has corrected the case since"
    masks = corrected_masks(found.structures, correction if counts else None)
    again = make_case_row(case, config, stored, found, masks)
    differences = _differences(record.row, again)
    edited = _edited_cells(record.row, table)
    if edited:
        changes["table"] = f"table.csv differs from the record in {', '.join(edited)}"
    if differences and not changes:
        changes["code"] = f"nothing else changed; made by {record.text('code_version')}, now {__version__}"
    return CaseReplay(
        case_id=case.case_id,
        status="changed" if differences or changes else "identical",
        cells=len(record.row),
        differences=differences,
        changes=changes,
    )


def _model_changes(
    record: CaseRecord, stored: CasePredictions, segmenter: Segmenter | None
) -> dict[ChangeKind, str]:
    changes: dict[ChangeKind, str] = {}
    digest, code = record.text("weights_sha256"), record.text("code_version")
    of_predictions = {one.identity.weights_sha256 for one in stored.predictions.values()}
    if digest is not None and of_predictions - {digest}:
        changes["weights"] = "the stored predictions are of other weights than the row names"
    if segmenter is not None:
        identity = segmenter.identity
        if digest is not None and identity.weights_sha256 != digest:
            changes["weights"] = f"{digest[:12]} then, {identity.weights_sha256[:12]} now"
        if record.text("model") not in (None, identity.name):
            changes["model"] = f"{record.text('model')} then, {identity.name} now"
        if code is not None and identity.code_version != code:
            changes["code"] = f"the model ran under {code} then, {identity.code_version} now"
    return changes


def _prediction_changes(
    stored: CasePredictions, case: Case, config: CohortConfig, segmenter: Segmenter
) -> dict[ChangeKind, str]:
    """Make the slice's predictions again and compare their masks and scores with the stored ones."""
    fresh = ReplayingSegmenter(lambda: segmenter)
    segment_case_slice(stored.ct_slice, case, config, fresh)
    compared = [key for key in fresh.used if key in stored.predictions]
    other = sum(
        not (
            np.array_equal(fresh.used[key].masks, stored.predictions[key].masks)
            and np.array_equal(fresh.used[key].scores, stored.predictions[key].scores)
        )
        for key in compared
    )
    if not other:
        return {}
    return {"model": f"{other} of {len(compared)} predictions differ on this machine"}


def _differences(row: Mapping[str, Cell], again: Mapping[str, Cell]) -> tuple[CellDifference, ...]:
    """Cells of a row that differ; columns that an older version did not have are left out."""
    return tuple(
        CellDifference(column=name, stored=value, again=again.get(name))
        for name, value in row.items()
        if not _same(value, again.get(name))
    )


def _edited_cells(row: Mapping[str, Cell], table: Mapping[str, str] | None) -> list[str]:
    """Columns in which the table on disk says otherwise than the record."""
    if table is None:
        return []
    return [name for name, value in row.items() if name in table and not _is_written(value, table[name])]


def _is_written(value: Cell, text: str) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return text == ""
    if isinstance(value, str):
        return from_cell(text) == value
    try:
        return float(text) == float(value)
    except ValueError:
        return False


def _same(first: Cell, second: Cell) -> bool:
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first) and math.isnan(second):
        return True
    return first == second


def _read_cells(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        return {from_cell(row["case_id"]): row for row in csv.DictReader(file) if row.get("case_id")}


def _no_model() -> NoReturn:
    raise Unavailable("no model is open while a row is made again from its predictions")
