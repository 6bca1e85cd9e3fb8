"""Who may work now, who waits, who is turned away.

Model and decoders block, so they run in as many threads as may work at once.
What waits is bounded, has a deadline, and is dropped as soon as nobody waits
for its answer. A thread cannot be stopped: work under way past its deadline
keeps its place until it ends, and only its answer is dropped.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from .faults import ClientGone, Fault

_Answer = TypeVar("_Answer")


class Gate:
    """Bounds how much is worked on and how much waits. Used from one event loop.

    Parameters
    ----------
    concurrency : int
        Jobs worked on at the same time.
    queue_length : int
        Requests let in beyond those.
    """

    def __init__(self, *, concurrency: int, queue_length: int) -> None:
        self._concurrency = concurrency
        self._places = concurrency + queue_length
        self._slots = asyncio.Semaphore(concurrency)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="segmenting")
        self._mean_s = 0.1
        self.admitted = 0
        self.running = 0

    @property
    def waiting(self) -> int:
        """Requests that are let in and not worked on."""
        return max(0, self.admitted - self.running)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Let a request in until the block is left.

        Raises
        ------
        Fault
            If there is no place.
        """
        if self.admitted >= self._places:
            raise Fault(
                status=429,
                code="queue_full",
                detail=f"{self.waiting} requests are waiting already.",
                retry_after_s=self.retry_after_s(),
            )
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1

    def retry_after_s(self) -> int:
        """Whole seconds in which what is waiting now may be done."""
        return max(1, min(30, math.ceil(self.waiting * self._mean_s / self._concurrency)))

    async def run(
        self, work: Callable[[], _Answer], *, deadline_s: float, gone: asyncio.Future[None]
    ) -> _Answer:
        """Wait for a turn, then work in a thread.

        Parameters
        ----------
        work : callable
            What to do; never started once the deadline is over or the client gone.
        deadline_s : float
            On the clock of ``time.monotonic``.
        gone : Future
            Done when the client has hung up.

        Raises
        ------
        Fault
            If the deadline passes first.
        ClientGone
            If the client hangs up first.
        """
        await self._wait(asyncio.ensure_future(self._slots.acquire()), deadline_s, gone, self._slots.release)
        started = time.monotonic()
        self.running += 1
        try:
            job = asyncio.get_running_loop().run_in_executor(self._pool, work)
        except BaseException:
            self._leave(started)
            raise
        job.add_done_callback(lambda done: self._finish(done, started))
        return await self._wait(job, deadline_s, gone, None)

    def close(self) -> None:
        """Start nothing any more; wait for what is under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _finish(self, job: asyncio.Future[_Answer], started: float) -> None:
        self._leave(started)
        if not job.cancelled():
            job.exception()  # seen here, where perhaps nobody waits for it any more

    def _leave(self, started: float) -> None:
        self.running -= 1
        self._slots.release()
        self._mean_s += 0.1 * (time.monotonic() - started - self._mean_s)

    async def _wait(
        self,
        task: asyncio.Future[_Answer],
        deadline_s: float,
        gone: asyncio.Future[None],
        undo: Callable[[], None] | None,
    ) -> _Answer:
        left_s = max(0.0, deadline_s - time.monotonic())
        try:
            waiters: set[asyncio.Future[Any]] = {task, gone}
            await asyncio.wait(waiters, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._abandon(task, undo)
            raise
        if gone.done():
            self._abandon(task, undo)
            raise ClientGone
        if not task.done():
            self._abandon(task, undo)
            raise Fault(status=504, code="deadline", detail="The answer was not ready by the deadline.")
        return task.result()

    @staticmethod
    def _abandon(task: asyncio.Future[_Answer], undo: Callable[[], None] | None) -> None:
        if undo is None:
            return  # work under way; it leaves its place when it ends
        if task.done() and not task.cancelled() and task.exception() is None:
            undo()
        else:
            task.cancel()
