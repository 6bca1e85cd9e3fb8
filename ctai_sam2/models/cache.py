"""Answers kept in memory and on disk around any segmenter, with joblib.

The key is five digests and nothing else: pixels (with type and shape), prompt,
window, model (weights, image size, precision) and code version. No path and no
patient can be in it. joblib writes the key's text beside each answer, and that
is what `CachedSegmenter.why_miss` reads.

joblib's traps, and what is done about them: its array hash depends on strides
(pixels are hashed here, in C order); it prints arguments (verbose is 0); it
writes arguments to ``metadata.json`` (they are the digests); it drops a
function's cache when its source changes (the memoized function is one line that
has no reason to change).
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from joblib import Memory, expires_after, load
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

logger = logging.getLogger(__name__)

_WRITES_BETWEEN_TRIMS = 16
_FORGOTTEN_KEPT = 4096


class CachedSegmenter:
    """Keeps the answers of another segmenter; `Prediction.cached` tells when one was reused.

    Parameters
    ----------
    inner : Segmenter
        Who computes. It belongs to this segmenter: closing this closes it.
    folder : path, optional
        Where answers are kept on disk; None keeps them in memory only. Several processes may share it. Keep
        it private: answers are read back with pickle.
    expires_hours : float
        Age after which an answer is computed again.
    max_bytes : int
        The disk cache is trimmed below this size, least recently used first.
    memory_items : int
        Answers kept in memory in front of the disk.
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not expires_hours > 0 or max_bytes <= 0 or memory_items < 1:
            raise InputError(
                "a cache needs a positive age, size and number of items",
                received=(expires_hours, max_bytes, memory_items),
            )
        self._inner = inner
        self._expires_s = expires_hours * 3600
        self._max_bytes = max_bytes
        self._memory_items = memory_items
        self._clock = clock
        self._lock = threading.Lock()
        self._front: OrderedDict[CacheKey, tuple[float, Prediction]] = OrderedDict()
        self._stored: OrderedDict[CacheKey, str] = OrderedDict()
        self._writes = 0
        self._trouble: str | None = None
        self._on_disk = folder is not None
        self._memory = self._open_memory(folder)
        is_fresh = expires_after(seconds=max(1, round(self._expires_s)))
        self._memoized = self._memory.cache(
            _answer,
            ignore=["work"],
            # An answer without metadata is one that another process has not finished writing.
            cache_validation_callback=lambda metadata: "time" in metadata and bool(is_fresh(metadata)),
        )

    @property
    def identity(self) -> ModelIdentity:
        """The model of the inner segmenter."""
        return self._inner.identity

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Segment what the prompt points at, or give the kept answer; see `Segmenter.predict`.

        A kept answer has ``cached`` set and the processing time of its original run.
        """
        image = require_request(image_hw, prompt)
        key = make_key(image, prompt, window, self._inner.identity)
        found = self._recall(key)
        if found is not None:
            return found
        run = _Run(
            lambda: self._inner.predict(image, prompt, window=window),
            # Between asking for the identity and for the answer another backend may have taken over.
            lambda prediction: make_key(image, prompt, window, prediction.identity) == key,
            self._clock,
        )
        stored = self._ask_disk(key, run)
        if stored is not None:
            self._remember(key, *stored)
            return replace(stored[1], cached=True)
        prediction = run.compute()
        if run.is_keepable:
            self._remember(key, run.finished_at, prediction)
        return prediction

    def why_miss(self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None) -> str:
        """Say in a sentence why an answer is not in the cache, or that it is.

        Raises
        ------
        InputError
            If the image or the prompt cannot be used.
        Unavailable
            If the inner segmenter cannot tell its model.
        """
        image = require_request(image_hw, prompt)
        key = make_key(image, prompt, window, self._inner.identity)
        if self._recall(key) is not None:
            return "It is in memory: asking again gives the kept answer."
        entries = list(self._read_entries())
        for known, written_at, path in entries:
            if known == key:
                age_h = (self._clock() - written_at) / 3600
                if age_h * 3600 >= self._expires_s:
                    return f"The answer is {age_h:.1f} h old and expired after {self._expires_s / 3600:g} h."
                if not _can_read(path):
                    return "The kept answer is corrupt: it will be computed again."
                return "It is on disk: asking again gives the kept answer."
        with self._lock:
            was_stored = self._stored.get(key)
        if was_stored is not None:
            return was_stored
        known_keys = [known for known, _, _ in entries] + list(self._front)
        return explain_miss(key, known_keys)

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

    def warm_up(self) -> None:
        """Let the inner segmenter get ready, if it can do that ahead of time."""
        if isinstance(self._inner, Prefetching):
            self._inner.warm_up()

    def health(self) -> Health:
        """Report the inner segmenter's health, and trouble with the disk cache if there is any."""
        health = self._inner.health()
        trouble = f" Warning: {self._trouble}" if self._trouble else ""
        return replace(health, detail=health.detail + trouble)

    def clear(self) -> None:
        """Forget every answer, in memory and on disk."""
        with self._lock:
            self._front.clear()
            self._stored.clear()
        self._memory.clear(warn=False)

    def close(self) -> None:
        """Trim the disk cache, drop the memory, close the inner segmenter."""
        self._trim()
        with self._lock:
            self._front.clear()
        self._inner.close()

    def __enter__(self) -> CachedSegmenter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open_memory(self, folder: str | Path | None) -> Memory:
        if folder is None:
            return Memory(None, verbose=0)
        path = Path(folder).expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            probe = path / f".probe-{threading.get_ident()}-{id(self)}"
            probe.write_bytes(b"")
            probe.unlink()
            return Memory(path, verbose=0)
        except OSError as error:
            self._on_disk = False
            self._warn(f"answers are not kept on disk ({error.strerror or type(error).__name__}).")
            return Memory(None, verbose=0)

    def _recall(self, key: CacheKey) -> Prediction | None:
        with self._lock:
            found = self._front.get(key)
            if found is None:
                return None
            stored_at, prediction = found
            if self._clock() - stored_at >= self._expires_s:
                del self._front[key]
                return None
            self._front.move_to_end(key)
            return replace(prediction, cached=True)

    def _remember(self, key: CacheKey, stored_at: float, prediction: Prediction) -> None:
        with self._lock:
            self._front[key] = (stored_at, prediction)
            self._front.move_to_end(key)
            while len(self._front) > self._memory_items:
                self._front.popitem(last=False)

    def _ask_disk(self, key: CacheKey, run: _Run) -> tuple[float, Prediction] | None:
        """Let joblib read the answer or run the inner segmenter; None where only the run counts."""
        if not self._on_disk:
            return None
        arguments = asdict(key)
        try:
            payload = self._memoized(**arguments, work=run.pack)
        except _NotKept:
            return None
        except Exception as error:
            if run.error is not None:
                raise
            self._warn(f"the disk cache failed ({type(error).__name__}).")
            return None
        if run.has_answer:
            self._note_write(key, arguments)
            return None
        stored = _unpack(payload)
        if stored is None:
            logger.warning("a kept answer is corrupt and is computed again")
            self._rewrite(arguments, run)
        return stored

    def _rewrite(self, arguments: dict[str, str], run: _Run) -> None:
        try:
            self._memoized.call(**arguments, work=run.pack)
        except _NotKept:
            return
        except Exception as error:
            if run.error is not None:
                raise
            self._warn(f"the disk cache failed ({type(error).__name__}).")

    def _note_write(self, key: CacheKey, arguments: dict[str, str]) -> None:
        if not self._memoized.check_call_in_cache(**arguments, work=None):
            self._warn("an answer could not be written to the disk cache (full or read-only?).")
            return
        with self._lock:
            self._writes += 1
            is_trim_due = self._writes % _WRITES_BETWEEN_TRIMS == 0
            self._stored[key] = "The answer was kept and has been evicted since to bound the cache."
            while len(self._stored) > _FORGOTTEN_KEPT:
                self._stored.popitem(last=False)
        if is_trim_due:
            self._trim()

    def _trim(self) -> None:
        if not self._on_disk:
            return
        try:
            self._memory.reduce_size(
                bytes_limit=self._max_bytes, age_limit=timedelta(seconds=self._expires_s)
            )
        except Exception as error:  # another process may be removing the same answers
            self._warn(f"the disk cache could not be trimmed ({type(error).__name__}).")

    def _read_entries(self) -> Iterator[tuple[CacheKey, float, Path]]:
        if not self._on_disk:
            return
        for item in self._memory.store_backend.get_items():
            folder = Path(item.path)
            try:
                metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
                parts = {name: str(text).strip("'") for name, text in metadata["input_args"].items()}
                yield CacheKey(**parts), float(metadata["time"]), folder / "output.pkl"
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue

    def _warn(self, trouble: str) -> None:
        self._trouble = trouble
        logger.warning("segmenter cache: %s", trouble)


class _NotKept(Exception):
    """Keeps joblib from storing an answer."""


class _Run:
    """One computation that joblib may or may not start, and what came of it."""

    def __init__(
        self,
        predict: Callable[[], Prediction],
        is_keepable: Callable[[Prediction], bool],
        clock: Callable[[], float],
    ) -> None:
        self._predict = predict
        self._judge = is_keepable
        self._clock = clock
        self._prediction: Prediction | None = None
        self.error: BaseException | None = None
        self.finished_at = 0.0

    @property
    def has_answer(self) -> bool:
        return self._prediction is not None

    @property
    def is_keepable(self) -> bool:
        return self._prediction is not None and self._judge(self._prediction)

    def compute(self) -> Prediction:
        if self._prediction is None:
            try:
                self._prediction = self._predict()
            except BaseException as error:
                self.error = error
                raise
            self.finished_at = self._clock()
        return self._prediction

    def pack(self) -> dict[str, Any]:
        prediction = self.compute()
        if not self.is_keepable:
            raise _NotKept
        return _pack(prediction, self.finished_at)


def _answer(pixels: str, prompt: str, window: str, model: str, code: str, work: Callable[[], Any]) -> Any:
    return work()


def _pack(prediction: Prediction, stored_at: float) -> dict[str, Any]:
    bits = zlib.compress(np.packbits(prediction.masks).tobytes(), 1)
    content = {
        "shape": tuple(int(side) for side in prediction.masks.shape),
        "bits": bits,
        "scores": [float(score) for score in prediction.scores],
        "identity": asdict(prediction.identity),
        "processing_time_ms": float(prediction.processing_time_ms),
        "backend": prediction.backend,
        "window": None if prediction.window is None else asdict(prediction.window),
        "stored_at": stored_at,
    }
    return {**content, "check": _checksum(content)}


def _unpack(payload: Any) -> tuple[float, Prediction] | None:
    """Rebuild a kept answer, or None where it is not what was written."""
    try:
        content = {name: value for name, value in payload.items() if name != "check"}
        if payload["check"] != _checksum(content):
            return None
        count = int(np.prod(content["shape"]))
        bits = np.frombuffer(zlib.decompress(content["bits"]), np.uint8)
        window = content["window"]
        return content["stored_at"], Prediction(
            masks=np.unpackbits(bits, count=count).astype(bool).reshape(content["shape"]),
            scores=np.array(content["scores"], np.float32),
            identity=ModelIdentity(**content["identity"]),
            processing_time_ms=content["processing_time_ms"],
            backend=content["backend"],
            window=None if window is None else Window(**window),
        )
    except (AttributeError, KeyError, TypeError, ValueError, zlib.error):
        return None


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()


def _can_read(path: Path) -> bool:
    try:
        return _unpack(load(path)) is not None
    except Exception:  # a damaged pickle raises whatever it likes
        return False
