"""When a request to a service is tried again, and for how long at most."""

from __future__ import annotations

import random
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    InvalidHeader,
    MaxRetryError,
    NewConnectionError,
    ReadTimeoutError,
)
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import Retry

from ctai_sam2.models.connections import CallAdapter, running_call

if TYPE_CHECKING:
    from typing_extensions import Self

RETRIED_STATUS = (429, 502, 503, 504)
"""Statuses that may change with a later try. No other refusal does."""

_CONNECT_RETRIES = 2
_RESET_RETRIES = 1
_STATUS_RETRIES = 30
_LONGEST_PAUSE_S = 10.0
_MAX_DRAINED_BYTES = 65_536


class BoundedRetry(Retry):
    """urllib3's `Retry` with a bound on the time spent in all.

    Nothing is tried again where another try as long as the longest so far would end after the deadline.
    A time-out is never tried again: it has cost its time already. Pauses, those that a service asks for
    included, are at most 10 s, with up to a quarter added at random, so that clients turned away together do
    not come back together.
    """

    deadline_s: float = 0.0
    _started_s: float = 0.0
    _longest_s: float = 0.0

    @classmethod
    def within(cls, budget_s: float) -> BoundedRetry:
        """Make the retries of one request, whose time runs from now."""
        retry = cls(
            total=None,
            connect=_CONNECT_RETRIES,
            read=_RESET_RETRIES,
            status=_STATUS_RETRIES,
            redirect=0,
            other=0,
            allowed_methods=None,  # every request of ours may be repeated: it changes nothing but caches
            status_forcelist=RETRIED_STATUS,
            backoff_factor=0.2,
            backoff_max=_LONGEST_PAUSE_S / 4,
            backoff_jitter=0.2,
            raise_on_status=False,
            respect_retry_after_header=True,
        )
        retry._started_s = time.monotonic()
        retry.deadline_s = retry._started_s + budget_s
        return retry

    def new(self, **changes: Any) -> Self:
        """Return a copy with changes and the same deadline."""
        retry = super().new(**changes)
        retry.deadline_s = self.deadline_s
        retry._started_s = self._started_s
        retry._longest_s = self._longest_s
        return retry

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        """Count a failed try, and give up where it is one too many, a time-out, or too late."""
        if isinstance(error, ReadTimeoutError):
            raise error
        left = None if response is None else response.length_remaining
        if response is not None and (left is None or left > _MAX_DRAINED_BYTES):
            # urllib3 reads what is left of a response before it tries again, however much that is.
            response.close()
        now = time.monotonic()
        self._longest_s = max(self._longest_s, now - self._started_s)
        is_timeout = isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError)
        if (is_timeout or now + self._longest_s > self.deadline_s) and _pool is not None:
            raise MaxRetryError(_pool, url or "", error) from error
        return super().increment(method, url, response, error, _pool, _stacktrace)

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Seconds the service asks to wait, bounded and spread; None where that cannot be read."""
        try:
            pause_s = super().get_retry_after(response)
        except (InvalidHeader, ValueError, OverflowError, TypeError):  # a date may be impossible in many ways
            return None
        if pause_s is None or pause_s != pause_s:
            return None
        left = max(0.0, self.deadline_s - time.monotonic())
        return min(pause_s, _LONGEST_PAUSE_S, left) * (1 + random.random() / 4)

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        """Pause before the next try, whose time runs from the end of the pause."""
        super().sleep(response)
        self._started_s = time.monotonic()


class RetryingAdapter(CallAdapter):
    """Pooled connections whose requests are tried again within a time budget each.

    Parameters
    ----------
    budget_s : float
        Seconds that one request may spend on tries and pauses; 0 tries once.
    connections : int
        Connections kept open.
    """

    def __init__(self, *, budget_s: float, connections: int = 32) -> None:
        self._budget_s = budget_s
        super().__init__(pool_connections=2, pool_maxsize=connections)

    @property
    def max_retries(self) -> Retry:
        """The retries of one request: each gets its own, because its deadline counts from now."""
        call = running_call()
        left_s = self._budget_s if call is None else call.deadline_s - time.monotonic()
        budget_s = min(self._budget_s, left_s)
        if budget_s <= 0:
            return Retry(0, read=False, redirect=0, respect_retry_after_header=False)
        return BoundedRetry.within(budget_s)

    @max_retries.setter
    def max_retries(self, _: Retry) -> None:
        """Ignore what the base class sets."""
