"""Review of flagged cases, one after the other: correct or accept; the table is updated.

`Worklist.edit` opens a case in the editor without a screen (`ctai_sam2.editor.Controller`), to which
any view can be attached, and `Editing.save` stores what was drawn. Masks drawn elsewhere are stored by
`Worklist.correct`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from numpy.typing import ArrayLike

from ctai_sam2.cohort.case import Case, parse_prompt
from ctai_sam2.cohort.case_image import content_of, read_image
from ctai_sam2.cohort.config import CaseTask, CohortConfig
from ctai_sam2.cohort.corrections import add_reading, read_note, require_reader
from ctai_sam2.cohort.manifest import read_manifest
from ctai_sam2.cohort.predictions import read_predictions
from ctai_sam2.cohort.qc import MEANINGS, find_flags
from ctai_sam2.cohort.review_case import ReviewCase, WorklistItem
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.table import contradictions_of, current_record, person_of, read_summary, write_results
from ctai_sam2.cohort.volumes import correct_levels, has_levels, read_levels
from ctai_sam2.cohort.worker import CaseWorker
from ctai_sam2.editor import MIDDLE, Controller, Document
from ctai_sam2.editor.commands import Compound, SetMask
from ctai_sam2.editor.inference_status import MaskSource
from ctai_sam2.errors import DamagedFile, InputError, StorageError
from ctai_sam2.journal import Record, fingerprint
from ctai_sam2.measure.definitions import TissueDefinitions
from ctai_sam2.measure.reference_values import DEFAULT_REFERENCE
from ctai_sam2.settings import Settings
from ctai_sam2.types import CTVolume, Mask, Window
from ctai_sam2.types.context import ClosedByWith


class Worklist:
    """The cases of a cohort that a reader should look at, the most serious first.

    Parameters
    ----------
    folder : path-like
        What `run_cohort` wrote.
    manifest : path-like, optional
        The manifest of the run, which says where the studies are; the results do not. With it, cases whose
        range of levels was segmented are reviewed as volumes.

    Raises
    ------
    InputError
        If the folder holds no results of a cohort, or the manifest cannot be read.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, manifest: str | os.PathLike[str] | None = None
    ) -> None:
        self.store = CohortStore(Path(folder).resolve())
        studies = () if manifest is None else read_manifest(manifest)
        self._studies = {case.case_id: case for case in studies}
        self._volume: tuple[str, CTVolume] | None = None
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
        """All flagged cases, those not reviewed first, the most serious first."""
        flagged = [item for item in self._items.values() if item.flags]
        return tuple(sorted(flagged, key=_gravity))

    def __iter__(self) -> Iterator[WorklistItem]:
        """Go through the open cases; one that is closed meanwhile is left out."""
        for item in self.items:
            if self._items[item.case_id].is_open:
                yield self._items[item.case_id]

    def load(self, case_id: str) -> ReviewCase:
        """Read slice and masks of a case, and its range of levels where `has_levels` says so.

        Raises
        ------
        InputError
            If there is no such case, it has no masks, or its study is not the one that was segmented.
        DicomError, GeometryError
            If its study cannot be read.
        StorageError
            If its files cannot be read back.
        """
        item = self._require(case_id)
        record = self.store.read_record(case_id)
        if record is None or not record.is_done:
            raise InputError("the case has no masks to look at", received=case_id)
        stored = read_predictions(self.store.predictions_path(case_id))
        masks = self._worker().masks_of(self._cases[case_id])
        levels = None
        if self.has_levels(case_id):
            levels = read_levels(self.store, self._config, case_id, self._read_volume(case_id))
        review = record.review
        return ReviewCase(
            item=item,
            ct_slice=stored.ct_slice,
            masks=MappingProxyType(masks),
            axial_index=stored.axial_index,
            levels=levels,
            corrected=frozenset(() if review is None or review.stale else review.structures),
        )

    def has_levels(self, case_id: str) -> bool:
        """Whether a case has a range of levels to look at: segmented, and the manifest names its study."""
        is_wanted = self._config.levels is not None and case_id in self._studies
        return is_wanted and has_levels(self.store, case_id)

    def accept(self, case_id: str, *, who: str, what: str = "") -> bool:
        """Record that a reader accepts the masks of a case as they are; see `correct`.

        Raises
        ------
        InputError, StorageError
            As in `correct`.
        """
        return self.correct(case_id, {}, who=who, what=what)

    def correct(
        self,
        case_id: str,
        masks: Mapping[str, ArrayLike],
        *,
        who: str,
        what: str = "",
        volume_masks: Mapping[str, Mapping[int, ArrayLike]] | None = None,
    ) -> bool:
        """Put a reader's masks in place of the model's, with who, when and what, and correct the tables.

        Parameters
        ----------
        case_id : str
            Name of the case.
        masks : mapping of str to array_like of bool, shape (H, W)
            By structure, on the slice of `load`.
        who : str
            The reader.
        what : str
            A note.
        volume_masks : mapping of str to mapping of int to array_like, optional
            Masks of the range of levels, by structure and axial index; see `ReviewCase.volume_changes`.

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
            If something cannot be written, or masks of a range are given while a run holds the folder.
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
        drawn = {name: one for name, one in (volume_masks or {}).items() if one}
        require_reader(who)
        lock = self.store.try_lock()
        try:
            if drawn:
                if lock is None:
                    raise StorageError(
                        "a run is writing to the cohort's folder, so the range of levels cannot be corrected",
                        hint="Sign the case again when the run has ended; what was drawn is kept.",
                    )
                correct_levels(self.store, self._config, case_id, self._read_volume(case_id), drawn)
            add_reading(
                self.store,
                case_id,
                slice_sha256=fingerprint(ct_slice),
                who=who,
                what=what,
                masks=masks,
                volume_structures=tuple(sorted(drawn)),
            )
            if lock is not None:
                self._merge(case_id, record.stamp)
        finally:
            if lock is not None:
                os.close(lock)
        self._items = self._read_items()
        return lock is not None

    def edit(self, case_id: str, *, mask_source: MaskSource | None = None) -> Editing:
        """Open a case in the pure editor, with a journal that survives a crash; attach a view to it.

        Parameters
        ----------
        case_id : str
            Name of the case.
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

    def _merge(self, case_id: str, stamp: str) -> None:
        """Measure a case again and write the tables; hold the lock."""
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

    def _read_volume(self, case_id: str) -> CTVolume:
        """Read a case's study, once for looking at it and correcting it."""
        if self._volume is not None and self._volume[0] == case_id:
            return self._volume[1]
        if case_id not in self._studies:
            raise InputError(
                "the path of the case's study is not known",
                received=case_id,
                hint="Give the run's manifest: Worklist(folder, manifest=...).",
            )
        image, record = read_image(self._studies[case_id]), self.store.read_record(case_id)
        if not isinstance(image, CTVolume) or record is None or content_of(image) != record.content_sha256:
            raise InputError(
                "the case's study is not the one that was segmented",
                received=case_id,
                hint="Run the cohort again, then review it.",
            )
        self._volume = (case_id, image)
        return image

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
            sexes=[person_of(c, r).sex for c, r in zip(self._cases.values(), records, strict=True)],
            same_patient=self._summary.get("same_patient"),
            contradictions=[
                contradictions_of(c, r) for c, r in zip(self._cases.values(), records, strict=True)
            ],
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
        """Release the journal; what was drawn and not saved is still there the next time."""
        self.record.close()


def config_of_summary(summary: Mapping[str, Any]) -> CohortConfig:
    """Return the configuration that a cohort was run with, from its summary."""
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
        levels=tuple(options["levels"]) if options.get("levels") else None,
    )


def case_of_summary(entry: Mapping[str, Any]) -> Case:
    """Return a case listed in a summary, which does not hold the path of its images."""
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
