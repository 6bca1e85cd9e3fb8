"""What a worker does with a case: read it, segment it, measure it, write its record.

A case goes no further back than it must: if its predictions are stored and still hold,
it is measured again from them; its study is read again only if its files changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.cohort.case import Case
from ctai_sam2.cohort.case_image import content_of, read_image
from ctai_sam2.cohort.case_record import CaseQuality, CaseRecord
from ctai_sam2.cohort.case_row import make_case_row, segment_case_slice, without_file_names
from ctai_sam2.cohort.config import CaseTask, CohortConfig
from ctai_sam2.cohort.corrections import corrected_masks, read_correction
from ctai_sam2.cohort.outcome import CaseOutcome, WorkKind, sentence_of, write_failure
from ctai_sam2.cohort.predictions import (
    CasePredictions,
    ReplayingSegmenter,
    read_predictions,
    write_predictions,
)
from ctai_sam2.cohort.qc import quality_numbers
from ctai_sam2.cohort.store import CohortStore, key_of
from ctai_sam2.cohort.volumes import red_slices, write_levels
from ctai_sam2.errors import (
    AnatomyNotFound,
    DamagedFile,
    InputError,
    StorageError,
    Unavailable,
)
from ctai_sam2.files.atomic import write_bytes
from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.image.preview import draw_preview
from ctai_sam2.io import write_mask_nifti
from ctai_sam2.io.label_tables import COHORT_LABELS
from ctai_sam2.models import Prefetching, Segmenter
from ctai_sam2.segmentation import AxialResult, StructureResult, robustness, segment_study
from ctai_sam2.structures import COHORT_MASK_LABELS, Structure
from ctai_sam2.types import CTSlice, CTVolume, Mask

_log = logging.getLogger(__name__)

_LINE_MM = 2.0
_JITTERED: tuple[Structure, ...] = ("psoas_left", "psoas_right", "muscle")

T = TypeVar("T")


class CaseWorker:
    """Does cases one after the other, with one model, and reads the next while the model works.

    Parameters
    ----------
    store : CohortStore
        Where results go.
    config : CohortConfig
        How cases are treated.
    model_token : str
        Which model the run is made with; see `CohortConfig.model_token`.
    notify : callable, optional
        Called with ``"loading"`` before the model is loaded and ``"ready"`` after: the case is not to blame
        for the time that takes.
    """

    def __init__(
        self,
        store: CohortStore,
        config: CohortConfig,
        model_token: str,
        *,
        notify: Callable[[str], None] = lambda word: None,
    ) -> None:
        self._notify = notify
        self._store = store
        self._config = config
        self._token = model_token
        self._segmenter: Segmenter | None = None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reading")
        self._ahead: tuple[str, Future[CTVolume | CTSlice]] | None = None

    def do(self, task: CaseTask, *, then: CaseTask | None = None) -> CaseOutcome:
        """Do a case and write its record, also of a failure; meanwhile read the one after it."""
        started = time.perf_counter()
        changed = False
        try:
            old = self._read_old(task)
            work, record = self._make_record(task, old, then)
            self._store.write_record(record)
            before = None if old is None else old.content_sha256
            changed = before is not None and before != record.content_sha256
        except Exception as error:  # whatever a case does, the others continue
            return self._failed(task, error, time.perf_counter() - started)
        return CaseOutcome(
            case_id=task.case.case_id,
            ok=True,
            work=work,
            seconds=time.perf_counter() - started,
            image_changed=changed,
        )

    def masks_of(self, case: Case) -> dict[str, Mask]:
        """Return a case's masks as they count, from its stored predictions and what readers drew.

        Raises
        ------
        DamagedFile
            If its files cannot be read back.
        Unavailable
            If a prediction is missing among them and the model cannot be called.
        """
        stored = read_predictions(self._store.predictions_path(case.case_id))
        replaying = ReplayingSegmenter(self._live, stored.predictions)
        found = self._segment_slice(stored.ct_slice, case, replaying)
        correction = read_correction(self._store, case.case_id)
        fits = correction is not None and correction.slice_sha256 == fingerprint(stored.ct_slice)
        return corrected_masks(found.structures, correction if fits else None)

    def measure_again(self, task: CaseTask) -> None:
        """Make a case's row again from its stored predictions, as after a correction; its study is not read.

        Raises
        ------
        InputError
            If the case has no row.
        StorageError
            If its predictions cannot be read back, or the record cannot be written.
        Unavailable
            If a prediction is missing among them and the model cannot be called.
        """
        case_id = task.case.case_id
        old = self._store.read_record(case_id)
        if old is None or not old.is_done:
            raise InputError("the case has no row to correct", received=case_id)
        stored = read_predictions(self._store.predictions_path(case_id))
        replaying = ReplayingSegmenter(self._live, stored.predictions)
        found = self._segment_slice(stored.ct_slice, task.case, replaying)
        stored = replace(stored, predictions=dict(replaying.used))
        record = self._write(task, stored, found, replaying)
        known = {name: getattr(old, name) for name in ("content_sha256", "inference_key", "seconds")}
        self._store.write_record(record.model_copy(update=known))

    def close(self) -> None:
        """Release the model."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        if self._segmenter is not None:
            self._segmenter.close()

    def _live(self) -> Segmenter:
        if self._segmenter is None:
            self._notify("loading")
            segmenter = self._config.open_segmenter()
            if isinstance(segmenter, Prefetching):
                segmenter.warm_up()
            self._segmenter = segmenter
            self._notify("ready")
        return self._segmenter

    def _failed(self, task: CaseTask, error: Exception, seconds: float) -> CaseOutcome:
        case_id = task.case.case_id
        is_outage = isinstance(error, Unavailable)
        is_damage = isinstance(error, DamagedFile)
        stops = is_outage or (isinstance(error, StorageError) and not is_damage)
        if not stops:
            _log.info("case %s failed", case_id, exc_info=not isinstance(error, AnatomyNotFound))
        kind, sentence = sentence_of(error, task.case)
        outcome = CaseOutcome(
            case_id=case_id,
            ok=False,
            work="inferred",
            seconds=seconds,
            error_type=kind,
            error=sentence,
            stops_the_run=stops,
        )
        if stops and not is_outage:
            return outcome  # A disk that takes nothing takes no record of the failure either.
        return write_failure(self._store, task, outcome, retry=is_outage or is_damage, incomplete=is_outage)

    def _read_old(self, task: CaseTask) -> CaseRecord | None:
        try:
            return self._store.read_record(task.case.case_id)
        except DamagedFile:
            self._store.set_aside(self._store.record_path(task.case.case_id))
            return None

    def _make_record(
        self, task: CaseTask, old: CaseRecord | None, then: CaseTask | None
    ) -> tuple[WorkKind, CaseRecord]:
        content = old.content_sha256 if old is not None and old.stamp == task.stamp else None
        times: dict[str, float] = {}
        image: CTVolume | CTSlice | None = None
        if old is None or content is None or not self._still_holds(old, content, task):
            image = _timed(times, "read", lambda: self._read(task))
            content = content_of(image)
        self._read_ahead(then)
        inference_key = self._inference_key(content, task)
        stored: CasePredictions | None = None
        if old is not None and (old.model_token, old.content_sha256) == (self._token, content):
            stored = self._read_stored(task)
        replaying = ReplayingSegmenter(self._live, None if stored is None else stored.predictions)
        if stored is None or old is None or old.inference_key != inference_key or not stored.is_gap_known:
            image = self._read(task) if image is None else image
            known = image
            stored, found = _timed(times, "segment", lambda: self._segment(known, task.case, replaying))
            self._draw_sagittal(task.case, stored, image)
            case_id = task.case.case_id
            about = _timed(
                times,
                "levels",
                lambda: write_levels(self._store, self._config, case_id, known, self._live),
            )
            stored = replace(stored, level_warnings=(*stored.level_warnings, *about))
        else:
            ct_slice = stored.ct_slice
            found = _timed(times, "segment", lambda: self._segment_slice(ct_slice, task.case, replaying))
        complete = stored
        area_cv = _timed(times, "robustness", lambda: self._jitter(complete, found, task.case, replaying))
        complete = replace(complete, predictions=dict(replaying.used))
        record = _timed(
            times, "write", lambda: self._write(task, complete, found, replaying, area_cv=area_cv)
        )
        times = {name: round(value, 4) for name, value in times.items() if value >= 5e-5}
        return ("inferred" if replaying.live_calls else "measured"), record.model_copy(
            update={"content_sha256": content, "inference_key": inference_key, "seconds": times}
        )

    def _still_holds(self, old: CaseRecord, content: str, task: CaseTask) -> bool:
        return (
            old.inference_key == self._inference_key(content, task)
            and old.model_token == self._token
            and self._store.predictions_path(task.case.case_id).is_file()
        )

    def _inference_key(self, content: str, task: CaseTask) -> str:
        return key_of([content, self._token, self._config.inference_part(task.case)])

    def _read_stored(self, task: CaseTask) -> CasePredictions | None:
        path = self._store.predictions_path(task.case.case_id)
        if not path.is_file():
            return None
        try:
            return read_predictions(path)
        except DamagedFile as error:
            _log.info("case %s is done anew: %s", task.case.case_id, error)
            self._store.set_aside(path)
            return None

    def _read(self, task: CaseTask) -> CTVolume | CTSlice:
        if self._ahead is not None and self._ahead[0] == task.key:
            future, self._ahead = self._ahead[1], None
            return future.result()
        return read_image(task.case)

    def _read_ahead(self, then: CaseTask | None) -> None:
        if then is None:
            return
        try:
            old = self._store.read_record(then.case.case_id)
        except StorageError:
            old = None
        if old is not None and old.stamp == then.stamp:
            return
        self._ahead = (then.key, self._reader.submit(read_image, then.case))

    def _segment(
        self, image: CTVolume | CTSlice, case: Case, replaying: ReplayingSegmenter
    ) -> tuple[CasePredictions, AxialResult]:
        """Find the slice to measure and segment it; the predictions are filled in by the caller."""
        if isinstance(image, CTSlice):
            if case.mid_l3_index not in (None, 0):
                raise InputError(
                    "the case is a single slice", received=case.mid_l3_index, hint="Leave the index empty."
                )
            stored = CasePredictions(ct_slice=image, axial_index=None, predictions={}, level_chosen_by="user")
            return stored, self._segment_slice(image, case, replaying)
        config = self._config
        study = segment_study(
            image,
            replaying,
            axial_index=case.mid_l3_index,
            l3_xy=case.l3_xy,
            sagittal_index=case.sagittal_index,
            structures=config.structures,
            prompts=case.prompts,
            window=config.window,
            definitions=config.definitions,
            confidence_threshold=config.settings.confidence_threshold,
        )
        others = {*image.warnings, *study.axial.warnings}
        sagittal = study.sagittal
        l3 = None if sagittal is None else sagittal.l3
        stored = CasePredictions(
            ct_slice=study.axial.ct_slice,
            axial_index=study.axial_index,
            predictions={},
            l3_mask=None if l3 is None else l3.mask,
            l3_slice=None if sagittal is None or l3 is None else sagittal.ct_slice,
            l3_certainty=None if sagittal is None else sagittal.certainty,
            l3_probability=None if sagittal is None else sagittal.probability,
            l3_confidence=None if l3 is None else l3.confidence,
            l3_gap_mm=study.l3_gap_mm,
            level_chosen_by=study.level_chosen_by,
            level_warnings=tuple(text for text in study.warnings if text not in others),
        )
        return stored, study.axial

    def _segment_slice(self, ct_slice: CTSlice, case: Case, replaying: ReplayingSegmenter) -> AxialResult:
        return segment_case_slice(ct_slice, case, self._config, replaying)

    def _jitter(
        self, stored: CasePredictions, found: AxialResult, case: Case, replaying: ReplayingSegmenter
    ) -> dict[str, float]:
        """Coefficient of variation of areas under jittered prompts, where it is wanted."""
        variation: dict[str, float] = {}
        if not self._config.robustness_trials:
            return variation
        for name in _JITTERED:
            if name not in found.structures or found.structures[name].prompted_by == "name":
                continue
            try:
                result = robustness(
                    stored.ct_slice,
                    case.prompts.get(name, name),
                    replaying,
                    structure=name,
                    n=self._config.robustness_trials,
                    window=self._config.window,
                    definitions=self._config.definitions,
                )
            except InputError:
                continue
            if np.isfinite(result.area_cv):
                variation[name] = result.area_cv
        return variation

    def _draw_sagittal(self, case: Case, stored: CasePredictions, image: CTVolume | CTSlice) -> None:
        """Draw L3 on its sagittal slice with a line where the axial slice lies; pixels are not stored."""
        if stored.l3_slice is None or stored.l3_mask is None or stored.axial_index is None:
            return
        depth = image.hu_zyx.shape[0] if isinstance(image, CTVolume) else 1
        half = max(1, round(_LINE_MM / stored.l3_slice.spacing_mm[0] / 2))
        row = depth - 1 - stored.axial_index
        line = np.zeros(stored.l3_mask.shape, np.bool_)
        line[max(row - half + 1, 0) : row + half] = True
        # The line takes the color of the vertebra, which has no outline on this picture.
        picture = draw_preview(stored.l3_slice, {"l3": stored.l3_mask, "vertebra": line})
        write_bytes(self._store.l3_picture_path(case.case_id), picture)

    def _write(
        self,
        task: CaseTask,
        stored: CasePredictions,
        found: AxialResult,
        replaying: ReplayingSegmenter,
        *,
        area_cv: Mapping[str, float] | None = None,
    ) -> CaseRecord:
        case, store, config = task.case, self._store, self._config
        ct_slice = stored.ct_slice
        slice_sha256 = fingerprint(ct_slice)
        correction = read_correction(store, case.case_id)
        stale = correction is not None and correction.slice_sha256 != slice_sha256
        masks = corrected_masks(found.structures, None if stale else correction)
        if area_cv is None:
            area_cv = self._jitter(stored, found, case, replaying)
            stored = replace(stored, predictions=dict(replaying.used))
        # Most of the time of writing is waiting for the disk: several files wait together, while measuring.
        with ThreadPoolExecutor(max_workers=3, thread_name_prefix="writing") as writer:
            writing = []
            predictions_path = store.predictions_path(case.case_id)
            if replaying.live_calls or not predictions_path.is_file():
                writing.append(writer.submit(write_predictions, predictions_path, stored))
            if stored.l3_mask is not None and stored.l3_slice is not None:
                l3_path = store.l3_path(case.case_id)
                writing.append(writer.submit(write_mask_nifti, l3_path, stored.l3_mask, stored.l3_slice))
            labels = label_map(masks, ct_slice.shape_hw)
            mask_path = store.mask_path(case.case_id)
            writing.append(writer.submit(write_mask_nifti, mask_path, labels, ct_slice, names=COHORT_LABELS))
            picture_path = store.picture_path(case.case_id)
            writing.append(writer.submit(lambda: write_bytes(picture_path, draw_preview(ct_slice, masks))))
            row = make_case_row(case, config, stored, found, masks)
            quality = quality_numbers(ct_slice, masks)
        for one in writing:
            one.result()
        return CaseRecord(
            case_id=case.case_id,
            status="done",
            key=task.key,
            stamp=task.stamp,
            model_token=self._token,
            slice_sha256=slice_sha256,
            row=row,
            quality=CaseQuality(
                **quality,
                missing=tuple(sorted(found.missing)),
                level_gap_mm=None if stored.l3_gap_mm is None else round(stored.l3_gap_mm, 3),
                found_certainty=stored.l3_certainty,
                area_cv=dict(area_cv),
                smallest_confidence=_smallest_confidence(found.structures),
                red_slices={} if config.levels is None else red_slices(store, case.case_id),
            ),
            acquisition_warnings=without_file_names(ct_slice.warnings, case),
            acquisition=ct_slice.acquisition,
            review=None if correction is None else correction.review(stale=stale),
        )


def label_map(masks: Mapping[str, Mask], shape_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Lay masks over each other as one label map, see `COHORT_MASK_LABELS`."""
    labels = np.zeros(shape_hw, np.uint8)
    for name, value in COHORT_MASK_LABELS.items():
        if name in masks:
            labels[masks[name]] = value
    return labels


def _smallest_confidence(structures: Mapping[Structure, StructureResult]) -> float | None:
    known = [one.confidence for one in structures.values() if one.confidence is not None]
    return min(known) if known else None


def _timed(times: dict[str, float], name: str, action: Callable[[], T]) -> T:
    started = time.perf_counter()
    result = action()
    times[name] = time.perf_counter() - started
    return result
