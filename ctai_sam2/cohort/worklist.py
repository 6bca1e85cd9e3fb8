"""Flagged cases one after the other: look, correct or accept; the table follows.

Any editor can be attached: `Worklist.edit` opens a case in the pure editor
(`ctai_sam2.editor.Controller`), to which a view belongs, and `Editing.save` takes
what was drawn. Masks from elsewhere go in by `Worklist.correct`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ctai_sam2.cohort.case import Case, parse_prompt
from ctai_sam2.cohort.config import CaseTask, CohortConfig
from ctai_sam2.cohort.corrections import add_reading, read_note
from ctai_sam2.cohort.predictions import read_predictions
from ctai_sam2.cohort.qc import MEANINGS, find_flags
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.table import current_record, read_summary, sex_of, write_results
from ctai_sam2.cohort.worker import CaseWorker
from ctai_sam2.editor import MIDDLE, Controller, Document
from ctai_sam2.editor.commands import Compound, SetMask
from ctai_sam2.editor.inference_status import MaskSource
from ctai_sam2.errors import DamagedFile, InputError
from ctai_sam2.journal import Record, fingerprint
from ctai_sam2.measure.definitions import TissueDefinitions
from ctai_sam2.measure.reference_values import DEFAULT_REFERENCE
from ctai_sam2.settings import Settings
from ctai_sam2.types import CTSlice, Mask, Window
from ctai_sam2.types.closing import ClosedByWith


@dataclass(frozen=True, kw_only=True)
class WorklistItem:
    """A case of the list.

    Parameters
    ----------
    case_id : str
        Which.
    flags : mapping of str to str
        Why to look at it: flags in order of gravity, each with a sentence.
    reviewed_by : str or None
        Who looked at it last.
    """

    case_id: str
    flags: Mapping[str, str]
    reviewed_by: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is flagged and not reviewed."""
        return bool(self.flags) and self.reviewed_by is None


@dataclass(frozen=True, kw_only=True, eq=False)
class ReviewCase:
    """A case to look at.

    Parameters
    ----------
    item : WorklistItem
        Which, and why.
    ct_slice : CTSlice
        The slice that was measured.
    masks : mapping of str to ndarray of bool, shape (H, W)
        As they count now: the reader's where there are any, the model's for the rest.
    """

    item: WorklistItem
    ct_slice: CTSlice
    masks: Mapping[str, Mask]

    def changes(self, drawn: Mapping[str, Mask]) -> dict[str, Mask]:
        """Return those of a reader's masks that differ from the ones here; an empty one only if it erases."""
        nothing = np.zeros(self.ct_slice.shape_hw, dtype=bool)
        return {name: mask for name, mask in drawn.items() if (mask != self.masks.get(name, nothing)).any()}


class Worklist:
    """The cases of a cohort that a reader should look at, the gravest first.

    Parameters
    ----------
    folder : path-like
        What `run_cohort` wrote.

    Raises
    ------
    InputError
        If the folder holds no results of a cohort.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.store = CohortStore(Path(folder).resolve())
        summary = read_summary(self.store)
        self._config = config_of_summary(summary)
        self._token = str(summary["model_token"])
        self._summary = summary
        self._cases = {entry["case_id"]: case_of_summary(entry) for entry in summary["manifest"]}
        # Summaries written before there were keys have none.
        self._case_keys = {
            entry["case_id"]: entry["key"] for entry in summary["manifest"] if entry.get("key")
        }
        self._items = self._read_items()

    @property
    def journal_folder(self) -> Path:
        """Where an editor keeps what was drawn and not saved yet."""
        return self.store.folder / "corrections"

    @property
    def items(self) -> tuple[WorklistItem, ...]:
        """All flagged cases, those not reviewed first, the gravest of them first."""
        flagged = [item for item in self._items.values() if item.flags]
        return tuple(sorted(flagged, key=_gravity))

    def __iter__(self) -> Iterator[WorklistItem]:
        """Go through the open cases; one that is closed meanwhile is left out."""
        for item in self.items:
            if self._items[item.case_id].is_open:
                yield self._items[item.case_id]

    def load(self, case_id: str) -> ReviewCase:
        """Read slice and masks of a case.

        Raises
        ------
        InputError
            If there is no such case, or it has no masks.
        StorageError
            If its files cannot be read back.
        """
        item = self._require(case_id)
        record = self.store.read_record(case_id)
        if record is None or not record.is_done:
            raise InputError("the case has no masks to look at", received=case_id)
        stored = read_predictions(self.store.predictions_path(case_id))
        masks = self._worker().masks_of(self._cases[case_id])
        return ReviewCase(item=item, ct_slice=stored.ct_slice, masks=MappingProxyType(masks))

    def accept(self, case_id: str, *, who: str, what: str = "") -> bool:
        """Store that a reader looked at a case and lets its masks stand; see `correct`.

        Raises
        ------
        InputError, StorageError
            As in `correct`.
        """
        return self.correct(case_id, {}, who=who, what=what)

    def correct(self, case_id: str, masks: Mapping[str, ArrayLike], *, who: str, what: str = "") -> bool:
        """Put a reader's masks in place of the model's, with who, when and what, and correct the table.

        Parameters
        ----------
        case_id : str
            Which.
        masks : mapping of str to array_like of bool, shape (H, W)
            By structure, on the slice of `load`.
        who : str
            The reader.
        what : str
            A note.

        Returns
        -------
        bool
            Whether the table was corrected at once. Where a run holds the folder it is not: the correction is
            stored, and the next run takes it up.

        Raises
        ------
        InputError
            If there is no such case, the reviewer's name is missing, or a mask does not fit.
        StorageError
            If something cannot be written.
        """
        self._require(case_id)
        record = self.store.read_record(case_id)
        if record is None or not record.is_done:
            raise InputError("the case has no masks to correct", received=case_id)
        ct_slice = read_predictions(self.store.predictions_path(case_id)).ct_slice
        for name, mask in masks.items():
            if getattr(mask, "shape", None) != ct_slice.shape_hw:
                raise InputError(
                    f"the mask {name} has another shape than the slice",
                    received=f"{getattr(mask, 'shape', None)} for {ct_slice.shape_hw}",
                )
        add_reading(self.store, case_id, slice_sha256=fingerprint(ct_slice), who=who, what=what, masks=masks)
        merged = self._merge(case_id, record.stamp)
        self._items = self._read_items()
        return merged

    def edit(self, case_id: str, *, mask_source: MaskSource | None = None) -> Editing:
        """Open a case in the pure editor, with a journal that survives a crash; attach a view to it.

        Parameters
        ----------
        case_id : str
            Which.
        mask_source : MaskSource, optional
            For further clicks; without it one click is disabled and everything else works.

        Raises
        ------
        InputError, StorageError
            As in `load`.
        RecordError
            If the case is open elsewhere.
        """
        case = self.load(case_id)
        # One journal for each slice: a study that changed begins a new one, the old one stays.
        name = f"{case_id}-{fingerprint(case.ct_slice)[:12]}.record.jsonl"
        record = Record.open(self.store.correction_path(case_id).with_name(name), case.ct_slice)
        try:
            document = Document(case.ct_slice, MIDDLE)
            controller = Controller(document, mask_source=mask_source, record=record)
            if not document.indices:
                names = [name for name in document.labels if name in case.masks]
                first = tuple(SetMask(label=name, mask=case.masks[name]) for name in names)
                controller.apply(Compound(commands=first))
        except BaseException:
            record.close()
            raise
        return Editing(worklist=self, case=case, controller=controller, record=record)

    def _merge(self, case_id: str, stamp: str) -> bool:
        lock = self.store.try_lock()
        if lock is None:
            return False
        try:
            worker = self._worker()
            worker.measure_again(CaseTask(case=self._cases[case_id], stamp=stamp, key=""))
            write_results(
                self.store,
                list(self._cases.values()),
                self._config,
                key="",
                case_keys=self._case_keys,
                model_token=self._token,
                notes={
                    "replaced": self._summary.get("replaced", []),
                    "same_patient": self._summary.get("same_patient", {}),
                    "cautions": self._summary.get("cautions", []),
                },
            )
        finally:
            os.close(lock)
        return True

    def _worker(self) -> CaseWorker:
        return CaseWorker(self.store, self._config, self._token)

    def _require(self, case_id: str) -> WorklistItem:
        if case_id not in self._items:
            raise InputError("there is no such case in the cohort", received=case_id)
        return self._items[case_id]

    def _read_items(self) -> dict[str, WorklistItem]:
        records = [current_record(self.store, name, self._case_keys) for name in self._cases]
        flags = find_flags(
            records,
            confidence_threshold=self._config.settings.confidence_threshold,
            sexes=[sex_of(c, r) for c, r in zip(self._cases.values(), records, strict=True)],
            same_patient=self._summary.get("same_patient"),
        )
        items = {}
        for case_id, found in zip(self._cases, flags, strict=True):
            try:
                note = read_note(self.store, case_id)
            except DamagedFile as error:
                note, found = None, {"failed": str(error), **found}
            who = None if note is None else note.entries[-1].who
            items[case_id] = WorklistItem(case_id=case_id, flags=found, reviewed_by=who)
        return items


@dataclass(frozen=True, kw_only=True, eq=False)
class Editing(ClosedByWith):
    """A case being edited; a view is attached to ``controller``. Close it, or use it in a ``with`` block.

    Parameters
    ----------
    worklist : Worklist
        Where it is saved.
    case : ReviewCase
        As it was opened.
    controller : Controller
        The editor.
    record : Record
        Its journal.
    """

    worklist: Worklist
    case: ReviewCase
    controller: Controller
    record: Record = field(repr=False)

    @property
    def changed(self) -> dict[str, Mask]:
        """Masks that differ from those the case was opened with."""
        with self.controller.lock:
            document = self.controller.document
            drawn = {name: document.mask(name) for name in document.labels}
        return self.case.changes(drawn)

    def save(self, *, who: str, what: str = "") -> bool:
        """Store what was drawn, or that nothing had to be; see `Worklist.correct`.

        Raises
        ------
        InputError, StorageError
            As in `Worklist.correct`.
        """
        return self.worklist.correct(self.case.item.case_id, self.changed, who=who, what=what)

    def close(self) -> None:
        """Let go of the journal; what is drawn and not saved is there again the next time."""
        self.record.close()


def config_of_summary(summary: Mapping[str, Any]) -> CohortConfig:
    """Return how a cohort was run, by its summary."""
    options = summary["plan"]
    return CohortConfig(
        segmenter=options["segmenter"],
        structures=tuple(options["structures"]),
        definitions=TissueDefinitions.from_json(json.dumps(summary["definitions"])),
        window=Window(level=options["window"][0], width=options["window"][1]),
        settings=Settings(confidence_threshold=options["confidence_threshold"]),
        robustness_trials=options["robustness_trials"],
        smi_cutoffs=options["smi_cutoffs"],
        smd_cutoffs=options["smd_cutoffs"],
        reference=options.get("reference", DEFAULT_REFERENCE),
    )


def case_of_summary(entry: Mapping[str, Any]) -> Case:
    """Return a case of a summary's manifest; where its images are is not in it."""
    return Case(
        case_id=entry["case_id"],
        path=Path("read-already"),
        height_m=entry["height_m"],
        weight_kg=entry["weight_kg"],
        sex=entry["sex"],
        age_years=entry.get("age_years"),
        cut_offs=entry.get("cut_offs"),
        prompts={name: parse_prompt(text, name) for name, text in entry["prompts"].items()},
        extra=entry.get("extra", {}),
    )


def _gravity(item: WorklistItem) -> tuple[bool, int, int, str]:
    order = list(MEANINGS)
    worst = min((order.index(name) for name in item.flags), default=len(order))
    return item.reviewed_by is not None, worst, -len(item.flags), item.case_id
