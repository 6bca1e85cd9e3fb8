"""What a run has to do: decided from the manifest, the settings, and the names, sizes and times of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctai_sam2.cohort.case import Case
from ctai_sam2.cohort.config import CaseTask, CohortConfig
from ctai_sam2.cohort.finished import digest_pairs, is_settled, read_corrections
from ctai_sam2.cohort.store import PREDICTIONS_FOLDER, CohortStore, IndexEntry, key_of, names_in, stamp_of
from ctai_sam2.cohort.table import own_columns
from ctai_sam2.errors import DamagedFile


@dataclass(frozen=True)
class RunPlan:
    """What is to be done.

    Parameters
    ----------
    tasks : list of CaseTask
        Cases to be done.
    case_keys : mapping of str to str
        The key of every case's record, by case.
    entries : mapping of str to IndexEntry
        What the records say, of the cases that have one.
    key : str
        Digest of everything the table follows from.
    studies, corrections : str
        See `ctai_sam2.cohort.finished`.
    """

    tasks: list[CaseTask]
    case_keys: Mapping[str, str]
    entries: Mapping[str, IndexEntry]
    key: str
    studies: str
    corrections: str


def plan_tasks(cases: Sequence[Case], store: CohortStore, config: CohortConfig, token: str) -> RunPlan:
    """Decide from file names, sizes and times, without reading any image, what is to be done."""
    corrections = read_corrections(store, [case.case_id for case in cases])
    predicted, masked = names_in(store.folder / PREDICTIONS_FOLDER), names_in(store.folder / "masks")
    index, states = store.read_index(), store.record_states()
    tasks: list[CaseTask] = []
    case_keys: dict[str, str] = {}
    entries: dict[str, IndexEntry] = {}
    stamps: list[tuple[str, str]] = []
    for case in cases:
        stamp = stamp_of(case.path)
        stamps.append((case.case_id, stamp))
        correction = corrections.get(case.case_id)
        key = key_of([stamp, token, config.inference_part(case), config.row_part(case, correction)])
        case_keys[case.case_id] = key
        try:
            entry = store.index_entry(case.case_id, index, states)
        except DamagedFile:
            # The worker moves it aside.
            entry = None
        if entry is not None:
            entries[case.case_id] = entry
        holds = entry is not None and entry.key == key
        if entry is None or not holds or not is_settled(case.case_id, entry, predicted, masked, config):
            tasks.append(CaseTask(case=case, stamp=stamp, key=key))
    own = own_columns(cases)
    extras = [[case.extra.get(name) for name in own] for case in cases]
    return RunPlan(
        tasks=tasks,
        case_keys=case_keys,
        entries=entries,
        key=key_of([list(case_keys), list(case_keys.values()), list(own), extras]),
        studies=digest_pairs(stamps),
        corrections=digest_pairs(corrections.items()),
    )
