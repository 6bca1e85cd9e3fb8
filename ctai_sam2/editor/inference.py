"""Requests to a model while the reader continues.

One background thread makes them; what it is given is a snapshot (slices and masks never
change in place). The result goes to the slice it was requested for, next to what was
drawn elsewhere meanwhile. Where the label was edited in the same place or pointed at
anew, or something newer was requested, it is dropped and nothing changes. A failure
changes nothing either and can be retried.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from ctai_sam2.editor.changes import Aspect
from ctai_sam2.editor.commands import Compound, SetMask
from ctai_sam2.editor.document import Document
from ctai_sam2.editor.history import MODEL_EDIT, Edit, Marks
from ctai_sam2.editor.i18n import Message
from ctai_sam2.errors import CtaiError, InputError
from ctai_sam2.image.masks import as_mask
from ctai_sam2.types import CTSlice, Mask, Prompt

_log = logging.getLogger(__name__)


class MaskSource(Protocol):
    """Source of masks that the view passes to the editor: a segmenter behind one call."""

    def __call__(self, ct_slice: CTSlice, label: str, prompt: Prompt | None, revision: int) -> Any:
        """Segment a label on a slice.

        Parameters
        ----------
        ct_slice : CTSlice
            The slice at the time of the request.
        label : str
            A structure's name.
        prompt : Prompt or None
            Points, box and mask to refine; None for one click without any.
        revision : int
            Of the label; for the caller's own bookkeeping.

        Returns
        -------
        object
            A ``StructureResult``, a ``Prediction`` or an `MaskCandidates`.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskCandidates:
    """Candidate masks for one label.

    Parameters
    ----------
    masks : tuple of ndarray of bool, shape (H, W)
        Best first; at least one.
    scores : tuple of float or None
        Confidence in each, 0 to 1; None where it is not known.
    processing_time_ms : float or None
        Time of the model.
    cached : bool
        True where nothing was computed.
    backend : str
        Which backend made the masks; empty where it is not known.
    warnings : tuple of str
        Reasons to look twice.
    model : str
        Name of the model; empty where it is not known.
    """

    masks: tuple[Mask, ...]
    scores: tuple[float | None, ...]
    processing_time_ms: float | None = None
    cached: bool = False
    backend: str = ""
    warnings: tuple[str, ...] = ()
    model: str = ""

    @classmethod
    def of(cls, result: Any) -> MaskCandidates:
        """Convert what a segmenter or one click returned.

        The first candidate is a result's own, cleaned mask; the others are the model's as they are.

        Raises
        ------
        InputError
            If it has no mask.
        """
        if isinstance(result, cls):
            return result
        prediction = getattr(result, "prediction", None) if hasattr(result, "prediction") else result
        mask = getattr(result, "mask", None)
        if mask is None:
            raise InputError("the segmenter returned no mask", received=type(result).__name__)
        others = () if prediction is None else tuple(prediction.masks[1:])
        scores = () if prediction is None else tuple(float(s) for s in prediction.scores[1:])
        confidence = getattr(result, "confidence", None)
        if confidence is None and prediction is not None:
            confidence = prediction.confidence_score
        return cls(
            masks=tuple(as_mask(each) for each in (mask, *others)),
            scores=(confidence, *scores),
            processing_time_ms=getattr(prediction, "processing_time_ms", None),
            cached=bool(getattr(prediction, "cached", False)),
            backend=str(getattr(prediction, "backend", "")),
            warnings=tuple(getattr(result, "warnings", ())),
            model=str(getattr(getattr(prediction, "identity", None), "name", "")),
        )


State: TypeAlias = Literal["idle", "running", "failed", "disabled"]


@dataclass(frozen=True, kw_only=True)
class InferenceStatus:
    """Where inference stands, ready to be shown.

    Parameters
    ----------
    state : {"idle", "running", "failed", "disabled"}
        ``disabled`` carries its reason as the message, for the button's tooltip.
    message : Message or None
        Message for the user.
    confidence : float or None
        Of the last result's mask, 0 to 1; of several labels the lowest.
    processing_time_ms : float or None
        Of the last result; of several labels the sum.
    elapsed_s : float or None
        From request to result.
    cached : bool
        Whether the last result came from the cache.
    backend : str
        Which backend made it.
    warnings : tuple of str
        What to look at.
    candidate, candidates : int
        Which candidate is shown, from 1, of how many; 0 where there is none.
    """

    state: State = "idle"
    message: Message | None = None
    confidence: float | None = None
    processing_time_ms: float | None = None
    elapsed_s: float | None = None
    cached: bool = False
    backend: str = ""
    warnings: tuple[str, ...] = ()
    candidate: int = 0
    candidates: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Confirmation:
    """Asks before something on slice ``index`` is replaced; closed by `Controller.resolve_confirmation`."""

    message: Message
    index: int
    proceed: Callable[[], object]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    label: str
    index: int
    ct_slice: CTSlice
    prompt: Prompt | None
    revision: int
    mask: Mask
    marks: Marks


@dataclass
class _Shown:
    """The result that a label's mask came from, the candidate shown, and the mask after limits."""

    result: MaskCandidates
    candidate: int
    mask: Mask


@dataclass
class _Request:
    group: str
    refine: bool = False
    use_marks: bool = True
    cause: Edit | None = None


class Inference:
    """Runs requests for a document; made by the controller, which it calls back under the lock.

    Parameters
    ----------
    document : Document
        What it reads and, through ``perform``, changes.
    mask_source : MaskSource or None
        None disables it.
    lock : RLock
        The controller's.
    perform : callable
        Does a command on a slice (``index``, ``joined``) and notifies observers.
    notify : callable
        Notifies observers that these aspects changed.
    """

    def __init__(
        self,
        document: Document,
        mask_source: MaskSource | None,
        *,
        lock: threading.RLock,
        perform: Callable[..., object],
        notify: Callable[..., None],
    ) -> None:
        self._document, self._mask_source, self._lock = document, mask_source, lock
        self._perform, self._notify = perform, notify
        self._executor: ThreadPoolExecutor | None = None
        self._run = 0
        self._future: Future[None] | None = None
        self._last: _Request | None = None
        self._shown: dict[tuple[int, str], _Shown] = {}
        self.confirmation: Confirmation | None = None
        self.status = InferenceStatus()
        self.set_available(None if mask_source is not None else Message("ai.no_segmenter"))

    def set_available(self, reason: Message | None) -> None:
        """Enable with None, or disable with the reason; a run under way is cancelled by disabling."""
        with self._lock:
            if self._mask_source is None:
                reason = reason or Message("ai.no_segmenter")
            if reason is not None:
                self._run += 1
                self._set(InferenceStatus(state="disabled", message=reason))
            elif self.status.state == "disabled":
                self._set(InferenceStatus())

    def request(
        self, group: str, *, refine: bool = False, use_marks: bool = True, joined: bool = False
    ) -> bool:
        """Request masks of a group or label of the profile; whether it was started at once.

        Without start there is a reason in the status, or a `confirmation` to resolve. ``joined``: the result
        is one step with the newest edit, the click that requests it.

        Raises
        ------
        InputError
            If there is no such group or label.
        """
        with self._lock:
            if self.status.state == "disabled":
                self._notify("inference")
                return False
            newest = self._document.history.done[-1:]
            request = _Request(
                group=group,
                refine=refine,
                use_marks=use_marks,
                cause=newest[0] if joined and newest else None,
            )
            if any(self._needs_confirmation(job) for job in self._jobs(request)):
                if joined:
                    # A click must not be held up by a confirmation: the run button asks for it.
                    return False
                # What is drawn while the confirmation is open belongs in the snapshot.
                self.confirm(Message("ai.confirm_replace"), lambda: self._start(request))
                return False
            return self._start(request)

    def confirm(self, message: Message, proceed: Callable[[], object]) -> None:
        """Ask for a confirmation on the slice in view; `resolve_confirmation` proceeds or changes nothing."""
        with self._lock:
            self.confirmation = Confirmation(message=message, index=self._document.index, proceed=proceed)
            self._notify("confirm")

    def retry(self) -> bool:
        """Repeat the last request with the current state; False where there was none."""
        with self._lock:
            last = self._last
            if last is None:
                return False
            return self.request(last.group, refine=last.refine, use_marks=last.use_marks)

    def cancel(self) -> bool:
        """Drop the run under way when it ends; whether there was one."""
        with self._lock:
            running = self.status.state == "running"
            if running:
                self._run += 1
                self._set(InferenceStatus(message=Message("ai.cancelled")))
            return running

    def cycle(self, label: str, step: int = 1) -> bool:
        """Show the next of the model's candidates; asks for confirmation where the mask was edited since."""
        with self._lock:
            key = (self._document.index, label)
            shown = self._shown.get(key)
            if shown is None or len(shown.result.masks) < 2 or self._document.labels[label].locked:
                self._set(replace(self.status, message=Message("ai.no_candidates")))
                return False
            if not np.array_equal(shown.mask, self._document.mask(label)):
                self.confirm(Message("ai.confirm_replace"), lambda: self._show(label, shown, step))
                return False
            self._show(label, shown, step)
            return True

    def resolve_confirmation(self, accepted: bool) -> None:
        """Close the pending confirmation; a refusal, or another slice in view now, changes nothing."""
        with self._lock:
            pending, self.confirmation = self.confirmation, None
            self._notify("confirm")
            if pending is not None and accepted and pending.index == self._document.index:
                pending.proceed()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the last requested run has ended, for scripts and notebooks; False on time-out.

        Never call it while holding the lock.
        """
        future = self._future
        return future is None or future.cancelled() or not wait([future], timeout_s).not_done

    def close(self) -> None:
        """Drop what is under way and let the worker go; may be called twice."""
        with self._lock:
            self._run += 1
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _job(self, label: str, refine: bool, use_marks: bool) -> _Job:
        document = self._document
        mask = document.mask(label) if refine and document.mask(label).any() else None
        marks = document.marks(label)
        prompt = marks.to_prompt(mask=mask) if use_marks else None
        if prompt is None and mask is not None:
            prompt = Prompt(mask=mask)
        return _Job(
            label=label,
            index=document.index,
            ct_slice=document.slice,
            prompt=prompt,
            revision=document.revision_of(label),
            mask=document.mask(label),
            marks=marks,
        )

    def _needs_confirmation(self, job: _Job) -> bool:
        return self._document.author_of(job.label) == "reader"

    def _jobs(self, request: _Request) -> tuple[_Job, ...]:
        """One job per unlocked label; where some were pointed at, of those alone."""
        document = self._document
        names = [
            name for name in document.profile.labels_of(request.group) if not document.labels[name].locked
        ]
        marked = [name for name in names if request.use_marks and document.marks(name)]
        return tuple(self._job(name, request.refine, request.use_marks) for name in marked or names)

    def _start(self, request: _Request) -> bool:
        jobs = self._jobs(request)
        if not jobs:
            label = Message(f"label.{request.group}")
            self._set(replace(self.status, message=Message("status.locked", {"label": label})))
            return False
        self._run += 1
        self._last = request
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ctai-sam2-editor")
        self._set(InferenceStatus(state="running", message=Message("ai.running")))
        self._future = self._executor.submit(self._work, self._run, jobs, request.cause)
        return True

    def _work(self, run: int, jobs: tuple[_Job, ...], cause: Edit | None) -> None:
        began = time.perf_counter()
        if self._mask_source is None or run != self._run:
            return
        try:
            results = []
            for job in jobs:
                found = self._mask_source(job.ct_slice, job.label, job.prompt, job.revision)
                results.append(MaskCandidates.of(found))
                if any(mask.shape != job.ct_slice.shape_hw for mask in results[-1].masks):
                    raise InputError("the segmenter's mask has another shape than the slice")
        except Exception as error:
            if not isinstance(error, CtaiError):
                _log.exception("the request for a mask failed")
            with self._lock:
                if run == self._run:
                    why = str(error) if isinstance(error, CtaiError) else type(error).__name__
                    self._set(InferenceStatus(state="failed", message=Message("ai.failed", {"why": why})))
            return
        with self._lock:
            if run == self._run:
                self._take(jobs, results, time.perf_counter() - began, cause)

    def _take(
        self, jobs: tuple[_Job, ...], results: list[MaskCandidates], elapsed_s: float, cause: Edit | None
    ) -> None:
        document = self._document
        pairs = tuple(zip(jobs, results, strict=True))
        stale = any(self._is_stale(job, result) for job, result in pairs)
        if stale or any(document.labels[job.label].locked for job in jobs):
            self._set(InferenceStatus(message=Message("ai.stale")))
            return
        index = jobs[0].index
        drawn = {job.label: document.mask(job.label, index) ^ job.mask for job in jobs}
        newest = document.history.done[-1:]
        commands = [SetMask(label=job.label, mask=result.masks[0], origin="ai") for job, result in pairs]
        self._perform(
            commands[0] if len(commands) == 1 else Compound(commands=tuple(commands), name=MODEL_EDIT),
            index=index,
            joined=cause is not None and bool(newest) and newest[0] is cause,
            made_by=next((result.model for result in results if result.model), ""),
        )
        for job, result in pairs:
            self._shown[index, job.label] = _Shown(result, 0, document.mask(job.label, index))
        # What was drawn elsewhere meanwhile stays, as a step of its own on top of the model's.
        again = tuple(
            SetMask(label=label, mask=document.mask(label, index) ^ changed, origin="redrawn")
            for label, changed in drawn.items()
            if changed.any()
        )
        if again:
            self._perform(Compound(commands=again, name="edit.set_mask_redrawn"), index=index)
        times = [a.processing_time_ms for a in results if a.processing_time_ms is not None]
        scores = [a.scores[0] for a in results if a.scores[0] is not None]
        status = InferenceStatus(
            confidence=min(scores, default=None),
            processing_time_ms=sum(times) if times else None,
            elapsed_s=elapsed_s,
            cached=all(result.cached for result in results),
            backend=results[0].backend,
            warnings=tuple(text for result in results for text in result.warnings),
            candidate=1,
            candidates=max(len(result.masks) for result in results),
        )
        self._set(replace(status, message=_summarise(status)))

    def _is_stale(self, job: _Job, result: MaskCandidates) -> bool:
        """Whether the label was pointed at anew, or edited where it was or where the model puts it."""
        document = self._document
        if job.revision == document.revision_of(job.label, job.index):
            return False
        changed = document.mask(job.label, job.index) ^ job.mask
        touched = changed & (job.mask | result.masks[0])
        return document.marks(job.label, job.index) != job.marks or bool(touched.any())

    def _show(self, label: str, shown: _Shown, step: int) -> None:
        count = len(shown.result.masks)
        shown.candidate = (shown.candidate + step) % count
        self._perform(
            SetMask(label=label, mask=shown.result.masks[shown.candidate], origin="ai"),
            made_by=shown.result.model,
        )
        shown.mask = self._document.mask(label)
        status = replace(
            self.status,
            confidence=shown.result.scores[shown.candidate],
            candidate=shown.candidate + 1,
            candidates=count,
        )
        values = {"number": status.candidate, "count": count}
        self._set(replace(status, message=Message("ai.candidate", values)))

    def _set(self, status: InferenceStatus) -> None:
        aspect: Aspect = "inference"
        self.status = status
        self._notify(aspect)


def _summarise(status: InferenceStatus) -> Message:
    values = {
        "confidence": "–" if status.confidence is None else f"{status.confidence:.0%}",
        "seconds": f"{status.elapsed_s or 0.0:.1f}",
        "backend": status.backend or "–",
    }
    return Message("ai.done_cached" if status.cached else "ai.done", values)
