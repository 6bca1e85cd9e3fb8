"""What became of a case, and how a case without numbers is written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ctai_sam2.cohort.case import Case
from ctai_sam2.cohort.case_record import CaseError, CaseRecord
from ctai_sam2.cohort.case_row import without_file_names
from ctai_sam2.cohort.config import CaseTask
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.errors import CtaiError, OtherRegion

WorkKind = Literal["inferred", "measured"]


@dataclass(frozen=True, kw_only=True)
class CaseOutcome:
    """What became of a case.

    Parameters
    ----------
    case_id : str
        Name of the case.
    ok : bool
        Whether it has a row of numbers.
    work : {"inferred", "measured"}
        Whether the model was called.
    seconds : float
        Time it took.
    error_type, error : str, optional
        Why it has none.
    stops_the_run : bool
        Whether the next case will fare no better: no segmenter, no disk.
    image_changed : bool
        Whether the image is another one than in the last run.
    """

    case_id: str
    ok: bool
    work: WorkKind
    seconds: float
    error_type: str | None = None
    error: str | None = None
    stops_the_run: bool = False
    image_changed: bool = False


def write_failure(
    store: CohortStore,
    task: CaseTask,
    outcome: CaseOutcome,
    *,
    retry: bool = False,
    incomplete: bool = False,
) -> CaseOutcome:
    """Write the record of a case without numbers; with ``retry`` the next run tries it once more.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    store.drop_results(task.case.case_id)
    store.write_record(
        CaseRecord(
            case_id=task.case.case_id,
            status="incomplete" if incomplete else "failed",
            key=task.key,
            stamp=task.stamp,
            retry=retry,
            error=CaseError(type=outcome.error_type, sentence=outcome.error),
            seconds={"all": round(outcome.seconds, 4)},
        )
    )
    return outcome


def sentence_of(error: BaseException, case: Case) -> tuple[str, str]:
    """Type and sentence of an error, without the names of the case's files, which may name a patient.

    Of an unexpected error only its type and where in this package it came up are given.
    """
    if isinstance(error, OtherRegion):
        # The hint of a single call, to allow any region, is of no use here: a cohort does not.
        hint = "Choose a slice at L3 (mid_l3_index), or leave the case out."
        error = OtherRegion(error.problem, received=error.received, hint=hint)
    if isinstance(error, CtaiError):
        return type(error).__name__, without_file_names([str(error)], case)[0]
    if isinstance(error, MemoryError):
        return "MemoryError", "there was not enough memory for this case."
    place = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if str(name).startswith("ctai_sam2"):
            place = f" in {name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__, f"an unexpected error{place}; please report it."
