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
from functools import partial
from typing import TypeVar

import numpy as np

from ctai_sam2.editor.authorship import author_of
from ctai_sam2.editor.changes import Aspect
from ctai_sam2.editor.commands import Compound, SetMask
from ctai_sam2.editor.document import Document
from ctai_sam2.editor.history import MODEL_EDIT, Edit, Marks
from ctai_sam2.editor.i18n import Message
from ctai_sam2.editor.inference_status import (
    Confirmation,
    InferenceStatus,
    MaskCandidates,
    MaskSource,
    summarise,
)
from ctai_sam2.errors import CtaiError, InputError
from ctai_sam2.types import CTSlice, Mask, Progress, Prompt

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")


class _Superseded(Exception):
    """Ends work whose result is no longer wanted."""


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
        self._again: Callable[[], bool] | None = None
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
            return self._again is not None and self._again()

    def run_task(self, work: Callable[[Progress], _Found], take: Callable[[_Found], Message | None]) -> bool:
        """Run other work in the background thread, with the same spinner, cancel, failure and retry.

        Parameters
        ----------
        work : callable
            Called there with a `Progress`, which ends it once it was cancelled.
        take : callable
            Called with the result under the lock, unless it was cancelled; returns what to say.

        Returns
        -------
        bool
            Whether it was started.
        """

        def taken(found: _Found) -> None:
            self._set(InferenceStatus(message=take(found)))

        with self._lock:
            if self.status.state == "disabled":
                self._notify("inference")
                return False
            self._again = partial(self.run_task, work, take)
            run = self._run + 1

            def progress(done: int, total: int, step: str) -> None:
                with self._lock:
                    if run != self._run:
                        raise _Superseded
                    values = {"done": done, "total": total}
                    self._set(InferenceStatus(state="running", message=Message("ai.slices", values)))

            self._spawn(lambda: work(progress), taken)
            return True

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
        return author_of(self._document, job.label) == "reader"

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
        self._again = partial(self.request, request.group, refine=request.refine, use_marks=request.use_marks)
        began = time.perf_counter()
        self._spawn(
            lambda: self._segment(jobs),
            lambda results: self._take(jobs, results, time.perf_counter() - began, request.cause),
        )
        return True

    def _segment(self, jobs: tuple[_Job, ...]) -> list[MaskCandidates]:
        results: list[MaskCandidates] = []
        if self._mask_source is None:
            return results
        for job in jobs:
            found = self._mask_source(job.ct_slice, job.label, job.prompt, job.revision)
            results.append(MaskCandidates.of(found))
            if any(mask.shape != job.ct_slice.shape_hw for mask in results[-1].masks):
                raise InputError("the segmenter's mask has another shape than the slice")
        return results

    def _spawn(self, work: Callable[[], _Found], take: Callable[[_Found], None]) -> None:
        self._run += 1
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ctai-sam2-editor")
        self._set(InferenceStatus(state="running", message=Message("ai.running")))
        self._future = self._executor.submit(self._work, self._run, work, take)

    def _work(self, run: int, work: Callable[[], _Found], take: Callable[[_Found], None]) -> None:
        if run != self._run:
            return
        try:
            found = work()
        except _Superseded:
            return
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
                take(found)

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
            warnings=tuple(dict.fromkeys(text for result in results for text in result.warnings)),
            candidate=1,
            candidates=max(len(result.masks) for result in results),
        )
        self._set(replace(status, message=summarise(status)))

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
