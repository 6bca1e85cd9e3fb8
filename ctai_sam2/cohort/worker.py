"""What a worker does with a case: read it, ask about it, measure it, write it down.

A case goes no further back than it must: if its answers are kept and still hold,
it is measured again from them; its study is read again only if its files changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.cohort.case_segmentation import (
    Segmented,
    find_level,
    read_image,
    segment_slice,
    sentence_of,
    without_names,
)
from ctai_sam2.cohort.corrections import Correction, read_correction
from ctai_sam2.cohort.manifest import Case
from ctai_sam2.cohort.plan import Plan, Task
from ctai_sam2.cohort.predictions import Answers, Kept, read_kept, write_kept
from ctai_sam2.cohort.store import Store, key_of
from ctai_sam2.errors import AnatomyNotFound, InputError, StorageError, Unavailable
from ctai_sam2.image.body import body_of
from ctai_sam2.image.masks import fill_holes, keep_largest
from ctai_sam2.image.preview import draw_preview
from ctai_sam2.io import write_bytes, write_mask_nifti
from ctai_sam2.journal import fingerprint
from ctai_sam2.models import Prefetching, Segmenter
from ctai_sam2.segmentation import StructureResult
from ctai_sam2.study_outputs import measure_results
from ctai_sam2.types import CTSlice, CTVolume, Mask

_log = logging.getLogger(__name__)

MASK_LABELS: Mapping[str, int] = {
    "vertebra": 7,
    "sat": 5,
    "vat": 6,
    "imat": 4,
    "muscle": 3,
    "psoas_right": 2,
    "psoas_left": 1,
}
"""Labels of the mask files, in the order they are laid over each other: psoas over muscle over the rest."""

Work = Literal["inferred", "measured"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a case.

    Parameters
    ----------
    case_id : str
        Which.
    ok : bool
        Whether it has a row of numbers.
    work : {"inferred", "measured"}
        Whether the model was asked.
    seconds : float
        Time it took.
    error_type, error : str, optional
        Why it has none.
    stops_the_run : bool
        Whether the next case will fare no better: no segmenter, no disk.
    """

    case_id: str
    ok: bool
    work: Work
    seconds: float
    error_type: str | None = None
    error: str | None = None
    stops_the_run: bool = False


class Worker:
    """Does cases one after the other, with one model, and reads the next while the model works.

    Parameters
    ----------
    store : Store
        Where results go.
    plan : Plan
        How cases are treated.
    model_token : str
        Tells which model the run is made with.
    tell : callable, optional
        Told ``"loading"`` before the model is loaded and ``"ready"`` after: the case is not to blame for
        the time that takes.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        model_token: str,
        *,
        tell: Callable[[str], None] = lambda word: None,
    ) -> None:
        self._tell = tell
        self._store = store
        self._plan = plan
        self._token = model_token
        self._segmenter: Segmenter | None = None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reading")
        self._ahead: tuple[str, Future[CTVolume | CTSlice]] | None = None

    def do(self, task: Task, *, then: Task | None = None) -> Outcome:
        """Do a case and write its record, also of a failure; meanwhile read the one after it."""
        started = time.perf_counter()
        work: Work = "inferred"
        try:
            work, record = self._make_record(task, then)
            self._store.write_record(task.case.case_id, record)
        except Exception as error:  # whatever a case does, the others go on
            stops = isinstance(error, (Unavailable, StorageError))
            if not stops:
                _log.info(
                    "case %s failed", task.case.case_id, exc_info=not isinstance(error, AnatomyNotFound)
                )
            kind, sentence = sentence_of(error, task.case)
            outcome = Outcome(
                case_id=task.case.case_id,
                ok=False,
                work=work,
                seconds=time.perf_counter() - started,
                error_type=kind,
                error=sentence,
                stops_the_run=stops,
            )
            return outcome if stops else write_failure(self._store, task, outcome)
        return Outcome(case_id=task.case.case_id, ok=True, work=work, seconds=time.perf_counter() - started)

    def masks_of(self, case: Case) -> dict[str, Mask]:
        """Return a case's masks as they count, from its kept answers and what readers drew.

        Raises
        ------
        StorageError
            If its files cannot be read back.
        Unavailable
            If an answer is missing among them and the model cannot be asked.
        """
        kept = read_kept(self._store.answers_path(case.case_id))
        found = segment_slice(kept.ct_slice, case.prompts, self._plan, Answers(self._live, kept.answers))
        correction = read_correction(self._store, case.case_id)
        fits = correction is not None and correction.slice_sha256 == fingerprint(kept.ct_slice)
        return corrected_masks(found.structures, correction if fits else None)

    def measure_again(self, task: Task) -> None:
        """Make a case's row again from its kept answers, as after a correction; its study is not read.

        Raises
        ------
        InputError
            If the case has no row.
        StorageError
            If its answers cannot be read back, or the record cannot be written.
        Unavailable
            If an answer is missing among them and the model cannot be asked.
        """
        case_id = task.case.case_id
        old = self._store.read_record(case_id)
        if old is None or old["status"] != "done":
            raise InputError("the case has no row to correct", received=case_id)
        kept = read_kept(self._store.answers_path(case_id))
        answers = Answers(self._live, kept.answers)
        found = segment_slice(kept.ct_slice, task.case.prompts, self._plan, answers)
        kept = replace(kept, answers=dict(answers.used))
        record = self._write(task, kept, found, answers.asked > 0)
        known = {name: old[name] for name in ("content_sha256", "inference_key", "seconds")}
        self._store.write_record(case_id, {**record, **known})

    def close(self) -> None:
        """Let go of the model."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        if self._segmenter is not None:
            self._segmenter.close()

    def _live(self) -> Segmenter:
        if self._segmenter is None:
            self._tell("loading")
            segmenter = self._plan.open_segmenter()
            if isinstance(segmenter, Prefetching):
                segmenter.warm_up()
            self._segmenter = segmenter
            self._tell("ready")
        return self._segmenter

    def _make_record(self, task: Task, then: Task | None) -> tuple[Work, dict[str, Any]]:
        case, store = task.case, self._store
        old = store.read_record(case.case_id) or {}
        content: str | None = old.get("content_sha256") if old.get("stamp") == task.stamp else None
        times: dict[str, float] = {}
        image: CTVolume | CTSlice | None = None
        if content is None or not self._still_holds(old, content, task):
            image = _timed(times, "read", lambda: self._read(task))
            content = content_of(image)
        self._read_ahead(then)
        inference_key = self._inference_key(content, task)
        kept: Kept | None = None
        if old.get("model_token") == self._token and old.get("content_sha256") == content:
            kept = self._read_kept(task)
        answers = Answers(self._live, None if kept is None else kept.answers)
        if kept is None or old.get("inference_key") != inference_key:
            image = self._read(task) if image is None else image
            known = image
            kept = _timed(times, "level", lambda: self._find_level(known, task, answers))
        ct_slice = kept.ct_slice
        found = _timed(times, "segment", lambda: segment_slice(ct_slice, case.prompts, self._plan, answers))
        kept = replace(kept, answers=dict(answers.used))
        record = _timed(times, "write", lambda: self._write(task, kept, found, answers.asked > 0))
        record |= {
            "content_sha256": content,
            "inference_key": inference_key,
            "seconds": {name: round(value, 4) for name, value in times.items()},
        }
        return ("inferred" if answers.asked else "measured"), record

    def _still_holds(self, old: Mapping[str, Any], content: str, task: Task) -> bool:
        return (
            old.get("inference_key") == self._inference_key(content, task)
            and old.get("model_token") == self._token
            and self._store.answers_path(task.case.case_id).is_file()
        )

    def _inference_key(self, content: str, task: Task) -> str:
        return key_of([content, self._token, self._plan.inference_part(task.case)])

    def _read_kept(self, task: Task) -> Kept | None:
        try:
            return read_kept(self._store.answers_path(task.case.case_id))
        except StorageError as error:
            _log.info("case %s is done anew: %s", task.case.case_id, error)
            return None

    def _read(self, task: Task) -> CTVolume | CTSlice:
        if self._ahead is not None and self._ahead[0] == task.key:
            future, self._ahead = self._ahead[1], None
            return future.result()
        return read_image(task.case)

    def _read_ahead(self, then: Task | None) -> None:
        if then is None:
            return
        old = self._store.read_record(then.case.case_id)
        if old is not None and old.get("stamp") == then.stamp:
            return
        self._ahead = (then.key, self._reader.submit(read_image, then.case))

    def _find_level(self, image: CTVolume | CTSlice, task: Task, answers: Answers) -> Kept:
        level = find_level(image, task.case, self._plan, answers)
        l3 = None if level.sagittal is None else level.sagittal.l3
        return Kept(
            ct_slice=level.ct_slice,
            axial_index=level.axial_index,
            answers={},
            l3_mask=None if l3 is None else l3.mask,
            l3_slice=None if level.sagittal is None or l3 is None else level.sagittal.ct_slice,
            l3_certainty=None if level.sagittal is None else level.sagittal.certainty,
            l3_probability=None if level.sagittal is None else level.sagittal.probability,
            l3_confidence=None if l3 is None else l3.confidence,
            l3_index=level.l3_index,
            level_warnings=level.warnings,
        )

    def _write(self, task: Task, kept: Kept, found: Segmented, asked: bool) -> dict[str, Any]:
        case, store, plan = task.case, self._store, self._plan
        ct_slice = kept.ct_slice
        correction = read_correction(store, case.case_id)
        stale = correction is not None and correction.slice_sha256 != fingerprint(ct_slice)
        masks = corrected_masks(found.structures, None if stale else correction)
        # Most of the time of writing is waiting for the disk: several files wait together, beside measuring.
        with ThreadPoolExecutor(max_workers=3, thread_name_prefix="writing") as writer:
            writing = []
            if asked or not store.answers_path(case.case_id).is_file():
                writing.append(writer.submit(write_kept, store.answers_path(case.case_id), kept))
            if kept.l3_mask is not None and kept.l3_slice is not None:
                l3_path = store.l3_path(case.case_id)
                writing.append(writer.submit(write_mask_nifti, l3_path, kept.l3_mask, kept.l3_slice))
            labels = label_map(masks, ct_slice.shape_hw)
            writing.append(writer.submit(write_mask_nifti, store.mask_path(case.case_id), labels, ct_slice))
            picture_path = store.picture_path(case.case_id)
            writing.append(writer.submit(lambda: write_bytes(picture_path, draw_preview(ct_slice, masks))))
            row = measure_results(
                ct_slice,
                found.structures,
                masks=masks,
                height_m=case.height_m,
                definitions=plan.definitions,
                axial_index=kept.axial_index,
                l3_certainty=kept.l3_certainty,
                l3_probability=kept.l3_probability,
                warnings=[without_names(t, case) for t in (*kept.level_warnings, *found.warnings)],
            )
            quality = quality_numbers(ct_slice, masks)
        for one in writing:
            one.result()
        row["confidence_l3"] = kept.l3_confidence
        return {
            "case_id": case.case_id,
            "status": "done",
            "key": task.key,
            "stamp": task.stamp,
            "model_token": self._token,
            "row": {name: _plain(value) for name, value in row.items()},
            "qc": {
                **quality,
                "missing": sorted(found.missing),
                "level_gap_mm": _level_gap_mm(kept),
                "area_cv": dict(found.area_cv),
                "smallest_confidence": _smallest_confidence(found.structures),
            },
            "acquisition_warnings": [without_names(text, case) for text in ct_slice.warnings],
            "acquisition": asdict(ct_slice.acquisition),
            "correction": None if correction is None else {**correction.describe(), "stale": stale},
        }


def write_failure(store: Store, task: Task, outcome: Outcome, *, again: bool = False) -> Outcome:
    """Write down that a case failed; with ``again`` the next run tries it once more.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    store.drop_results(task.case.case_id)
    store.write_record(
        task.case.case_id,
        {
            "case_id": task.case.case_id,
            "status": "failed",
            "key": task.key,
            "stamp": task.stamp,
            "again": again,
            "error": {"type": outcome.error_type, "sentence": outcome.error},
            "seconds": {"all": round(outcome.seconds, 4)},
        },
    )
    return outcome


def content_of(image: CTVolume | CTSlice) -> str:
    """Digest of all that an image brings into a row: pixels, geometry, acquisition and warnings."""
    affine = None if image.affine is None else np.asarray(image.affine).round(6).tolist()
    positions = None
    if isinstance(image, CTVolume):
        positions = np.asarray(image.slice_positions_mm).round(6).tolist()
    return key_of([fingerprint(image), affine, positions, asdict(image.acquisition), list(image.warnings)])


def corrected_masks(
    structures: Mapping[str, StructureResult], correction: Correction | None
) -> dict[str, Mask]:
    """Masks as they count: the reader's where there are any, the model's for the rest."""
    masks: dict[str, Mask] = {name: one.mask for name, one in structures.items()}
    if correction is None or not correction.masks:
        return masks
    masks.update(correction.masks)
    if any(name.startswith("psoas") for name in correction.masks):
        # Both sides together follow from the sides, or an erased part would come back.
        masks.pop("psoas", None)
        if "psoas_left" in masks and "psoas_right" in masks:
            masks["psoas"] = masks["psoas_left"] | masks["psoas_right"]
    return masks


def label_map(masks: Mapping[str, Mask], shape_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Lay masks over each other as one label map, see `MASK_LABELS`."""
    labels = np.zeros(shape_hw, np.uint8)
    for name, value in MASK_LABELS.items():
        if name in masks:
            labels[masks[name]] = value
    return labels


def quality_numbers(ct_slice: CTSlice, masks: Mapping[str, Mask]) -> dict[str, float]:
    """Numbers that quality control goes by: holes and stray parts of the psoas, body at the image's edge."""
    numbers = {"hole_share": 0.0, "stray_share": 0.0, "edge_mm": _body_at_edge_mm(ct_slice)}
    for name in ("psoas_left", "psoas_right"):
        mask = masks.get(name)
        if mask is None or not mask.any():
            continue
        area = float(mask.sum())
        numbers["hole_share"] = max(numbers["hole_share"], float(fill_holes(mask).sum()) / area - 1)
        numbers["stray_share"] = max(numbers["stray_share"], 1 - float(keep_largest(mask).sum()) / area)
    return {name: round(value, 4) for name, value in numbers.items()}


def _body_at_edge_mm(ct_slice: CTSlice) -> float:
    """Length over which the body touches the image's edge: there it is cut off."""
    try:
        body = body_of(ct_slice)
    except AnatomyNotFound:
        return 0.0
    row_mm, column_mm = ct_slice.spacing_mm
    across = float(body[0].sum() + body[-1].sum()) * column_mm
    return across + float(body[:, 0].sum() + body[:, -1].sum()) * row_mm


def _level_gap_mm(kept: Kept) -> float | None:
    """Distance between the slice measured and the middle of the L3 that was found."""
    if kept.axial_index is None or kept.l3_index is None or kept.ct_slice.thickness_mm is None:
        return None
    return round(abs(kept.axial_index - kept.l3_index) * kept.ct_slice.thickness_mm, 3)


def _smallest_confidence(structures: Mapping[str, StructureResult]) -> float | None:
    known = [one.confidence for one in structures.values() if one.confidence is not None]
    return min(known) if known else None


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else "nan"
    return value


def _timed(times: dict[str, float], name: str, action: Callable[[], T]) -> T:
    started = time.perf_counter()
    result = action()
    times[name] = time.perf_counter() - started
    return result
