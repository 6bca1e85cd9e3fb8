"""Who is let in, who works now, who waits: places and turns, fair between clients.

A request's body is read before the request takes a place in the queue, so that
a client that sends slowly does not block the others. What waits is bounded, has a deadline,
and is dropped as soon as its client is gone. Where all places are
taken, the client with most requests in the queue loses its newest to another.

A thread cannot be stopped: work under way past its deadline keeps its turn
until it ends, and only its response is dropped.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, TypeVar

import anyio
from anyio import to_thread
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from ctai_sam2.models import wire

from .bodies import ReadRequest, read_body, too_slow
from .faults import ClientGone, Fault

MAX_PROMPT_BYTES = 1_000_000
"""A prompt of a thousand points and a mask is far below."""

_Result = TypeVar("_Result")


class Ticket:
    """One request under way: whose it is, how far it has come, and how to end it early."""

    def __init__(self, client: str = "") -> None:
        self.client = client
        self.scope = anyio.CancelScope()
        self.received_bytes = 0
        self.stage: Literal["arriving", "waiting", "working"] = "arriving"
        self.reason: Exception | None = None

    def drop(self, reason: Exception) -> None:
        """End the request early, for this reason."""
        self.reason = reason
        self.scope.cancel()


current_ticket: ContextVar[Ticket] = ContextVar("current_ticket")


class Admission:
    """Bounds the requests under way. Used from one event loop.

    Parameters
    ----------
    places : int
        Requests that have arrived and have no result yet.
    max_bytes : int
        Bodies in memory, of all requests together.
    """

    def __init__(self, places: int, *, max_bytes: int) -> None:
        self._places = places
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tickets: dict[Ticket, None] = {}  # in the order of arrival

    @property
    def admitted(self) -> int:
        """Requests that hold a place."""
        return sum(ticket.stage != "arriving" for ticket in self._tickets)

    @contextmanager
    def track(self, client: str, timeout_s: float) -> Iterator[Ticket]:
        """Follow a request from its first byte to its result.

        Raises
        ------
        Fault, ClientGone
            If it is ended early, with the reason.
        """
        ticket = Ticket(client)
        ticket.scope.deadline = anyio.current_time() + timeout_s
        self._tickets[ticket] = None
        outer = current_ticket.set(ticket)
        try:
            with ticket.scope:
                yield ticket
        finally:
            current_ticket.reset(outer)
            self._forget(ticket)
        if ticket.scope.cancelled_caught:
            raise ticket.reason or (too_slow() if ticket.stage == "arriving" else _deadline())

    def count_bytes(self, ticket: Ticket, size: int) -> None:
        """Count what arrives of a body; too much in all ends the request that arrives for longest.

        Raises
        ------
        Fault
            If no other request can be ended for this one.
        """
        ticket.received_bytes += size
        self._bytes += size
        while self._bytes > self._max_bytes and len(self._tickets) > 1:
            full = Fault(
                status=429,
                code="queue_full",
                detail="The bodies of requests take all the memory that they may.",
                retry_after_s=1,
            )
            slowest = next(other for other in self._tickets if other.stage == "arriving")
            if slowest is ticket:
                raise full
            self._forget(slowest)
            slowest.drop(full)

    def enter(self, ticket: Ticket, *, retry_after_s: int) -> None:
        """Give a request that has arrived its place.

        Raises
        ------
        Fault
            If there is none.
        """
        if self.admitted >= self._places:
            full = Fault(
                status=429,
                code="queue_full",
                detail=f"{self.admitted} requests are under way already.",
                retry_after_s=retry_after_s,
            )
            waiting = [other for other in self._tickets if other.stage == "waiting"]
            held = Counter(other.client for other in waiting)
            client, most = max(held.items(), key=lambda item: item[1], default=("", 0))
            if most < held[ticket.client] + 2:
                raise full
            newest = next(other for other in reversed(waiting) if other.client == client)
            self._forget(newest)
            newest.drop(full)
        ticket.stage = "waiting"

    def _forget(self, ticket: Ticket) -> None:
        if ticket in self._tickets:
            del self._tickets[ticket]
            self._bytes -= ticket.received_bytes


class Turns:
    """Lets a number of requests work at the same time, clients in turn. Used from one event loop."""

    def __init__(self, concurrency: int) -> None:
        self.running = 0
        self._concurrency = concurrency
        self._mean_s = 0.1
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the client whose turn is next first
        self._threads = anyio.CapacityLimiter(concurrency)
        self._jobs: set[asyncio.Future[Any]] = set()

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Wait for a turn, and keep it until the block is left."""
        await self._take()
        started = time.monotonic()
        try:
            yield
        finally:
            self._leave(time.monotonic() - started)

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Wait for a turn, then work in a thread; what has not begun when the request ends never does."""
        await self._take()
        started = time.monotonic()
        job = asyncio.ensure_future(to_thread.run_sync(work, limiter=self._threads))
        self._jobs.add(job)

        def finish(done: asyncio.Future[_Result]) -> None:
            self._jobs.discard(job)
            self._leave(time.monotonic() - started)
            if not done.cancelled():
                done.exception()  # seen here, where its client may be gone

        job.add_done_callback(finish)
        return await asyncio.shield(job)

    def retry_after_s(self, waiting: int) -> int:
        """Whole seconds in which so many may be done."""
        return max(1, min(30, math.ceil(waiting * self._mean_s / self._concurrency)))

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._jobs:
            await asyncio.wait(self._jobs)

    async def _take(self) -> None:
        ticket = current_ticket.get()
        if self.running < self._concurrency:
            self.running += 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(ticket.client, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # it came at the same moment
                    self._leave(None)
                raise
        ticket.stage = "working"

    def _leave(self, took_s: float | None) -> None:
        if took_s is not None:
            self._mean_s += 0.1 * (took_s - self._mean_s)
        self.running -= 1
        while self._waiting:
            client = next(iter(self._waiting))
            turns = self._waiting.pop(client)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns
            if not turn.done():
                self.running += 1
                turn.set_result(None)
                return


class LimitedRoute(APIRoute):
    """A path that does work: its body is read first, then it has a place in the queue, and a deadline."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()
        prompt_alone = self.path_format == wire.SEGMENT_PATH

        async def handle_within_limits(request: Request) -> Response:
            service = request.app.state.service
            service.require_ready()
            limits = service.settings
            max_bytes = MAX_PROMPT_BYTES if prompt_alone else int(limits.max_body_mb * 1e6)
            client = request.client.host if request.client else ""
            with service.admission.track(client, limits.request_timeout) as ticket:
                body = await read_body(
                    request,
                    max_bytes=max_bytes,
                    min_bytes_per_s=limits.min_upload_kb_s * 1000,
                    count=partial(service.admission.count_bytes, ticket),
                )
                service.admission.enter(ticket, retry_after_s=service.turns.retry_after_s(service.waiting))
                watching = asyncio.ensure_future(_drop_on_hang_up(request.receive, ticket))
                try:
                    response = await handle(ReadRequest(request, body, service.workers))
                finally:
                    watching.cancel()
            return response

        return handle_within_limits


async def _drop_on_hang_up(receive: Receive, ticket: Ticket) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    ticket.drop(ClientGone())


def _deadline() -> Fault:
    return Fault(status=504, code="deadline", detail="The result was not ready by the deadline.")
