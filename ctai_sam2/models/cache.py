"""Predictions stored in memory and on disk around any segmenter, with joblib.

The key is five digests and nothing else: pixels (with type and shape), prompt,
window, model (weights, image size, precision) and code version. No path and no
patient can be in it. joblib writes the key's text next to each prediction, and
that is what `CachedSegmenter.why_miss` reads. What the files hold is in
`ctai_sam2.models.cache_store`.

joblib's traps, and what is done about them: its array hash depends on strides
(pixels are hashed here, in C order); it prints arguments (verbose is 0); it
writes arguments to ``metadata.json`` (they are the digests); it drops a
function's cache when its source changes (the memoized function is one line that
has no reason to change); it pickles (its store is replaced).

A prediction is returned before it is on disk: writing takes longer than a click
may. `CachedSegmenter.flush` waits for it, and closing does.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.models.cache_key import CacheKey, explain_miss, make_key
from ctai_sam2.models.protocol import (
    BatchEmbedding,
    Prefetching,
    Segmenter,
    require_image,
    require_request,
)
from ctai_sam2.types import Health, ModelIdentity, Prediction, Prompt, Window
from ctai_sam2.types.context import ClosedByWith
from ctai_sam2.types.slice_follower import SliceFollower, has_slice_memory, open_slice_memory

if TYPE_CHECKING:
    from joblib import Memory

logger = logging.getLogger(__name__)

_SHARE_BETWEEN_TRIMS = 8
"""The disk cache is trimmed when an eighth of what it may hold was written: that looks at all of it."""
_SHARE_BEFORE_FIRST_TRIM = 64
"""The first time sooner: processes that were killed have left more than there should be."""
_MAX_PENDING_WRITES = 32
_MAX_PENDING_BYTES = 32_000_000
_EVICTED_NOTED = 4096


class CachedSegmenter(ClosedByWith):
    """Stores the predictions of another segmenter; `Prediction.cached` tells when one was reused.

    Parameters
    ----------
    inner : Segmenter
        The segmenter that computes. It belongs to this one: closing this closes it.
    folder : path, optional
        Where predictions are stored on disk; None stores them in memory only. Several processes of one user
        may share it. A folder that others can write to is not used.
    expires_hours : float
        Age after which a prediction is computed again.
    max_bytes : int
        The disk cache is trimmed below this size, least recently used first.
    memory_items : int
        Maximum number of predictions in memory, in front of the disk.
    memory_bytes : int
        Maximum size of their masks together.
    clock : callable
        Returns seconds since the epoch.

    Raises
    ------
    InputError
        If a number is out of range.
    """

    backend = "cached"

    def __init__(
        self,
        inner: Segmenter,
        folder: str | Path | None = None,
        *,
        expires_hours: float = 24.0,
        max_bytes: int = 512_000_000,
        memory_items: int = 64,
        memory_bytes: int = 64_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not expires_hours > 0 or max_bytes <= 0 or memory_items < 1 or memory_bytes < 1:
            raise InputError(
                "a cache needs a positive age, size and number of items",
                received=(expires_hours, max_bytes, memory_items, memory_bytes),
            )
        self._inner = inner
        self._expires_s = expires_hours * 3600
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        # Each entry counts for at least its share, which bounds their number as well.
        self._front: LRUCache[CacheKey, tuple[float, Prediction]] = LRUCache(
            memory_bytes,
            getsizeof=lambda entry: max(entry[1].masks.nbytes, memory_bytes // memory_items, 1),
        )
        self._evicted: LRUCache[CacheKey, str] = LRUCache(_EVICTED_NOTED)
        self._writer: tuple[int, ThreadPoolExecutor] | None = None
        self._pending: dict[CacheKey, _PendingWrite] = {}
        self._bytes_to_next_trim = max_bytes // _SHARE_BEFORE_FIRST_TRIM
        self._has_written = False
        self._trouble: str | None = None
        self._folder = None if folder is None else Path(folder).expanduser()

    def __repr__(self) -> str:
        return f"CachedSegmenter({self._inner!r})"

    @property
    def identity(self) -> ModelIdentity:
        """The model of the inner segmenter."""
        return self._inner.identity

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Segment what the prompt points at, or return the stored prediction; see `Segmenter.predict`.

        A stored prediction has ``cached`` set and the processing time of its original run.
        """
        image = require_request(image_hw, prompt)
        identity = self._inner.identity
        key = make_key(image, prompt, window, identity)
        found = self._recall(key)
        if found is not None:
            return found
        stored = self._read(key, (image.shape[0], image.shape[1]))
        if stored is not None:
            self._remember(key, *stored)
            return replace(stored[1], cached=True)
        prediction = self._inner.predict(image, prompt, window=window)
        # Between the identity and the prediction another backend may have taken over.
        if prediction.identity == identity or make_key(image, prompt, window, prediction.identity) == key:
            finished_at = self._clock()
            self._remember(key, finished_at, prediction)
            self._write_behind(key, prediction, finished_at)
        return prediction

    def why_miss(self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None) -> str:
        """Say in a sentence why a prediction is not in the cache, or that it is.

        Raises
        ------
        InputError
            If the image or the prompt cannot be used.
        Unavailable
            If the inner segmenter cannot report its model.
        """
        image = require_request(image_hw, prompt)
        key = make_key(image, prompt, window, self._inner.identity)
        if self._recall(key) is not None:
            return "It is in memory: the stored prediction is returned."
        self.flush()
        entries: list[tuple[CacheKey, float, Path]] = []
        if self._disk is not None:
            from ctai_sam2.models.cache_store import is_intact, read_entries

            entries = list(read_entries(self._disk.memory))
        for known, written_at, path in entries:
            if known == key:
                age_h = (self._clock() - written_at) / 3600
                if age_h * 3600 >= self._expires_s:
                    return (
                        f"The prediction is {age_h:.1f} h old and expired after {self._expires_s / 3600:g} h."
                    )
                if written_at > time.time():
                    return "The stored prediction is dated in the future: it will be computed again."
                if not is_intact(path):
                    return "The stored prediction is corrupt: it will be computed again."
                return "It is on disk: the stored prediction is returned."
        with self._lock:
            was_stored = self._evicted.get(key)
            known_keys = [known for known, _, _ in entries] + list(self._front)
        return was_stored or explain_miss(key, known_keys)

    def embed(self, image_hw: NDArray[np.uint8]) -> None:
        """Let the inner segmenter embed a slice ahead of time, if it can."""
        image = require_image(image_hw)
        if isinstance(self._inner, Prefetching):
            self._inner.embed(image)

    def embed_many(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """Let the inner segmenter embed slices ahead of time, together if it can."""
        if isinstance(self._inner, BatchEmbedding):
            self._inner.embed_many(images)
            return
        for image in images:
            self.embed(image)

    @property
    def has_slice_memory(self) -> bool:
        """Whether the inner segmenter's network has a trained memory."""
        return has_slice_memory(self._inner)

    def open_slice_memory(self) -> SliceFollower:
        """Return the inner segmenter's memory, if it has one; what it follows is not stored."""
        return open_slice_memory(self._inner)

    def warm_up(self) -> None:
        """Let the inner segmenter get ready, if it can do that ahead of time."""
        if isinstance(self._inner, Prefetching):
            self._inner.warm_up()
        _ = self._disk

    def health(self) -> Health:
        """Report the inner segmenter's health, and trouble with the disk cache if there was any so far."""
        health = self._inner.health()
        trouble = f" Warning: {self._trouble}" if self._trouble else ""
        return replace(health, detail=health.detail + trouble)

    def flush(self) -> None:
        """Wait until every prediction so far is on disk."""
        with self._lock:
            pending = [one.future for one in self._pending.values()]
        wait(pending)

    def clear(self) -> None:
        """Remove every prediction, in memory and on disk."""
        self.flush()
        with self._lock:
            self._front.clear()
            self._evicted.clear()
        if self._disk is not None:
            self._disk.memory.clear(warn=False)

    def close(self) -> None:
        """Finish writing, trim the disk cache, empty the memory, close the inner segmenter."""
        self.flush()
        self._trim()
        with self._lock:
            self._front.clear()
            writer, self._writer = self._writer, None
        if writer is not None and writer[0] == os.getpid():
            writer[1].shutdown()
        self._inner.close()

    @cached_property
    def _disk(self) -> _Disk | None:
        """The disk cache or None, opened when first used: joblib is a tenth of an editor's imports."""
        if self._folder is None:
            return None
        from ctai_sam2.models.cache_store import open_memory

        try:
            memory = open_memory(self._folder)
            function = memory.cache(_compute, ignore=["work"], cache_validation_callback=self._is_entry_fresh)
            return _Disk(memory=memory, function=function)
        except InputError as error:
            self._warn(f"predictions are not stored on disk: {error}")
        except OSError as error:
            self._warn(f"predictions are not stored on disk ({error.strerror or type(error).__name__}).")
        return None

    def _is_fresh(self, stored_at: float) -> bool:
        # A time ahead of now, of another machine or before the clock was set back, says nothing of the age.
        return 0 <= self._clock() - stored_at < self._expires_s

    def _is_entry_fresh(self, metadata: dict[str, float]) -> bool:
        """Whether joblib may use an entry; one without metadata is not written completely."""
        return "time" in metadata and 0 <= time.time() - metadata["time"] < self._expires_s

    def _recall(self, key: CacheKey) -> Prediction | None:
        with self._lock:
            pending = self._pending.get(key)
            found = self._front.get(key)
            if found is None and pending is not None:
                found = pending.entry
            if found is None:
                return None
            stored_at, prediction = found
            if not self._is_fresh(stored_at):
                self._front.pop(key, None)
                return None
            return replace(prediction, cached=True)

    def _remember(self, key: CacheKey, stored_at: float, prediction: Prediction) -> None:
        with self._lock:
            if self._front.getsizeof((stored_at, prediction)) <= self._front.maxsize:
                self._front[key] = (stored_at, prediction)

    def _read(self, key: CacheKey, shape_hw: tuple[int, int]) -> tuple[float, Prediction] | None:
        """Let joblib read a prediction; None where there is none that can be used."""
        if self._disk is None:
            return None
        from ctai_sam2.models.cache_store import decode_entry

        try:
            data = self._disk.function(**asdict(key), work=_raise_absent)
        except _Absent:
            return None
        except OSError as error:
            self._warn(f"the disk cache cannot be read ({error.strerror or type(error).__name__}).")
            return None
        if data is None:
            return None
        stored = decode_entry(data, key, shape_hw)
        if stored is None:
            logger.warning("a stored prediction is corrupt and is computed again")
            return None
        return stored if self._is_fresh(stored[0]) else None

    def _write_behind(self, key: CacheKey, prediction: Prediction, stored_at: float) -> None:
        disk = self._disk
        if disk is None:
            return
        with self._lock:
            if self._writer is None or self._writer[0] != os.getpid():  # a forked child has no threads
                self._writer = (os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="prediction-cache"))
                self._pending.clear()
            waiting_bytes = sum(one.entry[1].masks.nbytes for one in self._pending.values())
            is_full = len(self._pending) >= _MAX_PENDING_WRITES or waiting_bytes >= _MAX_PENDING_BYTES
            if not is_full:
                future = self._writer[1].submit(self._write, disk, key, prediction, stored_at)
                self._pending[key] = _PendingWrite(future=future, entry=(stored_at, prediction))
        if is_full:  # the disk is slower than the model: the caller writes, and so waits
            self._write(disk, key, prediction, stored_at)
            return
        future.add_done_callback(lambda done: self._note_written(key, done))

    def _note_written(self, key: CacheKey, future: Future[None]) -> None:
        with self._lock:
            pending = self._pending.get(key)
            if pending is not None and pending.future is future:
                del self._pending[key]

    def _write(self, disk: _Disk, key: CacheKey, prediction: Prediction, stored_at: float) -> None:
        from ctai_sam2.models.cache_store import encode_entry

        data = encode_entry(key, prediction, stored_at)
        if len(data) > self._max_bytes:
            with self._lock:
                self._evicted[key] = "The prediction is larger than the disk cache and was evicted at once."
            return
        try:
            disk.function.call(**asdict(key), work=lambda: data)
        except OSError as error:
            self._warn(
                "a prediction could not be written to the disk cache "
                f"({error.strerror or type(error).__name__})."
            )
            return
        with self._lock:
            self._has_written = True
            self._bytes_to_next_trim -= len(data)
            is_trim_due = self._bytes_to_next_trim < 0
            self._evicted[key] = "The prediction was stored and has been evicted since to bound the cache."
        if is_trim_due:
            self._trim()

    def _trim(self) -> None:
        if not self._has_written or self._disk is None:
            return
        # What is written until the next time has room.
        room = self._max_bytes // _SHARE_BETWEEN_TRIMS
        with self._lock:
            self._bytes_to_next_trim = room
        try:
            self._disk.memory.reduce_size(
                bytes_limit=self._max_bytes - room, age_limit=timedelta(seconds=self._expires_s)
            )
        except (OSError, OverflowError, ValueError) as error:  # dates on the disk may be impossible
            self._warn(f"the disk cache could not be trimmed ({type(error).__name__}).")

    def _warn(self, trouble: str) -> None:
        self._trouble = trouble
        logger.warning("segmenter cache: %s", trouble)


@dataclass(frozen=True, kw_only=True)
class _Disk:
    memory: Memory
    function: Any


@dataclass(frozen=True, kw_only=True)
class _PendingWrite:
    future: Future[None]
    entry: tuple[float, Prediction]


class _Absent(Exception):
    """There is no stored prediction: joblib is to compute nothing, and to store nothing."""


def _raise_absent() -> bytes:
    raise _Absent


def _compute(
    pixels: str, prompt: str, window: str, model: str, code: str, work: Callable[[], bytes]
) -> bytes | None:
    return work()
