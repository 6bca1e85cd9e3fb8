"""The first available of several segmenters predicts.

A backend is passed over only when it raises `Unavailable`; a bad request or a
bug surfaces at once, because another backend would only hide it. One that keeps
failing is left alone for a while by a circuit breaker, so that a dead service
does not cost every click its connection time-out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import InputError, Unavailable
from ctai_sam2.models.protocol import Prefetching, Segmenter, require_image, require_request
from ctai_sam2.types import Health, ModelIdentity, Prediction, Prompt, Window
from ctai_sam2.types.context import ClosedByWith
from ctai_sam2.types.slice_follower import SliceFollower, has_slice_memory, open_slice_memory

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
BreakerState = Literal["closed", "open", "half-open"]


class CircuitBreaker:
    """Whether a backend that failed before should be tried now. Safe in threads.

    Closed: it is tried. After ``threshold`` failures in a row it opens: it is not tried. After
    ``cool_down_s`` it is half-open: one caller tries; success closes it, failure opens it again.

    Parameters
    ----------
    threshold : int
        Failures in a row that open it.
    cool_down_s : float
        Seconds it stays open.
    clock : callable
        Returns seconds; only differences matter.

    Examples
    --------
    >>> now = 0.0
    >>> breaker = CircuitBreaker(threshold=1, cool_down_s=30, clock=lambda: now)
    >>> breaker.record_failure(); breaker.state, breaker.try_acquire()
    ('open', False)
    >>> now = 31.0
    >>> breaker.try_acquire(), breaker.try_acquire()
    (True, False)
    >>> breaker.record_success(); breaker.state
    'closed'
    """

    def __init__(
        self, *, threshold: int = 3, cool_down_s: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if threshold < 1 or not cool_down_s >= 0:
            raise InputError(
                "a circuit breaker needs a threshold of at least 1 and a cool-down of at least 0 s",
                received=(threshold, cool_down_s),
            )
        self._threshold = threshold
        self._cool_down_s = cool_down_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._trial_running = False

    @property
    def state(self) -> BreakerState:
        """``closed``, ``open`` or ``half-open``."""
        with self._lock:
            return self._state()

    @property
    def remaining_s(self) -> float:
        """Seconds until an open breaker lets one caller try; 0 otherwise."""
        with self._lock:
            if self._opened_at is None:
                return 0.0
            return max(0.0, self._opened_at + self._cool_down_s - self._clock())

    def try_acquire(self) -> bool:
        """Whether a call may be made now; after a call, success or failure must be recorded."""
        with self._lock:
            state = self._state()
            if state == "closed":
                return True
            if state == "open" or self._trial_running:
                return False
            self._trial_running = True
            return True

    def record_success(self) -> None:
        """Close the breaker."""
        with self._lock:
            self._failures, self._opened_at, self._trial_running = 0, None, False

    def record_failure(self) -> None:
        """Count a failure; open the breaker if it was one too many or a trial."""
        with self._lock:
            self._failures += 1
            if self._trial_running or self._failures >= self._threshold:
                self._opened_at = self._clock()
            self._trial_running = False

    def _state(self) -> BreakerState:
        if self._opened_at is None:
            return "closed"
        return "half-open" if self._clock() - self._opened_at >= self._cool_down_s else "open"


class FallbackSegmenter(ClosedByWith):
    """Tries several segmenters in order; the first that is available predicts.

    Parameters
    ----------
    segmenters : mapping of str to Segmenter
        Backends by name, in the order they are tried. `Prediction.backend` is the name of the one that
        predicted. They belong to this segmenter: closing it closes them.
    threshold, cool_down_s, clock
        Of each backend's `CircuitBreaker`.
    refresh_s : float, optional
        Look at every backend's health in the background, at once and then this often, so that `health`
        returns at once; which are available is logged in one line at first and whenever that changes. Unset
        checks them when `health` is called.

    Raises
    ------
    InputError
        If there is no backend.
    """

    backend = "fallback"

    def __init__(
        self,
        segmenters: Mapping[str, Segmenter],
        *,
        threshold: int = 3,
        cool_down_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        refresh_s: float | None = None,
    ) -> None:
        if not segmenters:
            raise InputError("a fallback needs at least one segmenter")
        if refresh_s is not None and not refresh_s > 0:
            raise InputError("health must be refreshed at a positive interval in s", received=refresh_s)
        self._segmenters = dict(segmenters)
        self._breakers = {
            name: CircuitBreaker(threshold=threshold, cool_down_s=cool_down_s, clock=clock)
            for name in self._segmenters
        }
        self._reasons: dict[str, str] = {}
        self._known_health: dict[str, Health] = {}
        self._closing = threading.Event()
        self._refresher: threading.Thread | None = None
        if refresh_s is not None:
            self._refresher = threading.Thread(
                target=self._refresh_forever, args=(refresh_s,), name="segmenter-health", daemon=True
            )
            self._refresher.start()

    def __repr__(self) -> str:
        return f"FallbackSegmenter({', '.join(map(repr, self._segmenters.values()))})"

    @property
    def identity(self) -> ModelIdentity:
        """The model of the backend that would predict now."""
        return self._first_available(lambda _, segmenter: segmenter.identity)

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Segment what the prompt points at; see `Segmenter.predict`.

        Raises
        ------
        InputError
            If the image or the prompt cannot be used.
        Unavailable
            If no backend is available; the message holds the reason of each.
        """
        image = require_request(image_hw, prompt)
        return self._first_available(
            lambda name, segmenter: replace(segmenter.predict(image, prompt, window=window), backend=name)
        )

    def embed(self, image_hw: NDArray[np.uint8]) -> None:
        """Let the backend that would predict embed a slice, if it can do that ahead of time."""
        image = require_image(image_hw)

        def request(_: str, segmenter: Segmenter) -> None:
            if isinstance(segmenter, Prefetching):
                segmenter.embed(image)

        self._first_available(request)

    @property
    def has_slice_memory(self) -> bool:
        """Whether the network of any backend has a trained memory."""
        return any(map(has_slice_memory, self._segmenters.values()))

    def open_slice_memory(self) -> SliceFollower:
        """Return the memory of the first backend that has one."""
        segmenters = self._segmenters.values()
        return open_slice_memory(next(filter(has_slice_memory, segmenters), next(iter(segmenters))))

    def warm_up(self) -> None:
        """Let the backend that would predict get ready, if it can do that ahead of time."""

        def request(_: str, segmenter: Segmenter) -> None:
            if isinstance(segmenter, Prefetching):
                segmenter.warm_up()

        self._first_available(request)

    def health(self) -> Health:
        """Report the first available backend; if there is none, the reason of each."""
        reasons: list[str] = []
        for name, segmenter in self._segmenters.items():
            health = self._known_health.get(name) or segmenter.health()
            breaker = self._breakers[name]
            if health.available and breaker.state != "open":
                skipped = f" (passed over: {'; '.join(reasons)})" if reasons else ""
                return replace(health, backend=name, detail=health.detail + skipped)
            reasons.append(f"{name}: {self._reason_of(name) if health.available else health.detail}")
        return Health(available=False, backend=self.backend, detail="; ".join(reasons))

    def close(self) -> None:
        """Stop looking at health and close every backend."""
        self._closing.set()
        if self._refresher is not None and self._refresher is not threading.current_thread():
            self._refresher.join()
            self._refresher = None
        for segmenter in self._segmenters.values():
            segmenter.close()
        self._known_health.clear()

    def _first_available(self, request: Callable[[str, Segmenter], _Result]) -> _Result:
        errors: list[Unavailable] = []
        reasons = []
        for name, segmenter in self._segmenters.items():
            breaker = self._breakers[name]
            if not breaker.try_acquire():
                reasons.append(f"{name}: {self._reason_of(name)}")
                continue
            try:
                result = request(name, segmenter)
            except Unavailable as error:
                breaker.record_failure()
                self._reasons[name] = str(error)
                errors.append(error)
                reasons.append(f"{name}: {error}")
                logger.info("backend %s is unavailable: %s", name, error)
                continue
            except BaseException:
                # It responded, if only to refuse: that is no reason to avoid it.
                breaker.record_success()
                raise
            breaker.record_success()
            return result
        raise Unavailable(
            "no segmenter is available: " + "; ".join(reasons),
            hint="Run ctai-sam2 doctor to see what is missing.",
        ) from (errors[-1] if errors else None)

    def _reason_of(self, name: str) -> str:
        remaining_s = self._breakers[name].remaining_s
        return f"{self._reasons.get(name, 'it failed')} Not tried again for {remaining_s:.0f} s."

    def _refresh_forever(self, interval_s: float) -> None:
        reported: dict[str, bool] = {}
        while True:
            for name, segmenter in self._segmenters.items():
                if self._closing.is_set():
                    return
                try:
                    self._known_health[name] = segmenter.health()
                except Exception:  # a health check that fails must not end the checks
                    logger.exception("the health of backend %s cannot be determined", name)
                    self._known_health.pop(name, None)
            found = {name: health.available for name, health in self._known_health.items()}
            if found != reported:
                reported = found
                logger.info("segmenters: %s", self._describe())
            if self._closing.wait(interval_s):
                return

    def _describe(self) -> str:
        """Say in one line which backends are available and which are not."""
        return "; ".join(
            f"{name} {'available' if health.available else 'NOT available'}: {health.detail}"
            for name, health in self._known_health.items()
        )
