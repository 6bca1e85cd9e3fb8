"""Decoding and parsing where they can be ended: in a process of its own, within bounds of time and memory.

A decoder cannot be interrupted in a thread, and a small file can take it seconds. A small plain PNG, which
is what the package's client sends, cannot, and is decoded in a thread of this process.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import to_process

from ctai_sam2.errors import InputError
from ctai_sam2.io.uploads import Upload, decode_upload
from ctai_sam2.settings import Settings

from .decoders import decode_within, parse_within, prepare, resource
from .faults import Fault, bad_image
from .limits import Turns
from .metrics import Metrics

logger = logging.getLogger("ctai_sam2.service")

PLAIN_PIXELS = 1024 * 1024
"""Pixels of the largest image decoded in this process: some 10 ms."""

_STARTS = 3
_STOPPED = (TimeoutError, MemoryError, anyio.BrokenWorkerProcess)
_Result = TypeVar("_Result")
_PNG = b"\x89PNG\r\n\x1a\n"
_PLAIN_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND"})


class DecodeWorkers:
    """Decodes images and parses large bodies; what might take long in worker processes, clients in turn.

    Parameters
    ----------
    settings : Settings
        Number, time and memory of workers; pixels of an image.
    turns : Turns
        Where the decoding in this process takes its turn.
    metrics : Metrics
        Where workers that were killed are counted.
    """

    def __init__(self, settings: Settings, turns: Turns, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._own_turns = turns
        self._turns = Turns(settings.decode_workers)
        self._processes = anyio.CapacityLimiter(settings.decode_workers)
        self._starting: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start a worker, so that the first image does not wait for that.

        A request that is given up meanwhile does not end it: on a machine where starting takes longer than
        a request may, no image would ever be decoded.

        Raises
        ------
        BrokenWorkerProcess
            If none can be started.
        """
        starting = asyncio.ensure_future(self._start())
        self._starting.add(starting)
        starting.add_done_callback(self._has_started)
        await asyncio.shield(starting)

    def _has_started(self, starting: asyncio.Task[None]) -> None:
        self._starting.discard(starting)
        if not starting.cancelled():
            starting.exception()  # raised where somebody waits for it, and of no interest elsewhere

    async def _start(self) -> None:
        for tries_left in reversed(range(_STARTS)):
            try:
                await to_process.run_sync(prepare, cancellable=True, limiter=self._processes)
                return
            except anyio.BrokenWorkerProcess:  # killed while it was idle, perhaps: another will do
                if not tries_left:
                    raise

    async def decode(self, data: bytes) -> Upload:
        """Decode an image.

        Raises
        ------
        Fault
            If it cannot be used, or takes more time or memory than allowed.
        """
        max_pixels = self._settings.max_pixels
        try:
            if is_plain_png(data):
                return await self._own_turns.run(lambda: decode_upload(data, max_pixels=max_pixels))
            return await self._run_apart(decode_within, data, max_pixels)
        except InputError as error:
            raise bad_image(error) from error
        except _STOPPED as error:
            raise self._stopped(error, "Decoding the image") from error

    async def parse(self, body: bytes, content_type: str | None) -> Any:
        """Parse a large body, a form or JSON; see `ParsesBodies`.

        Raises
        ------
        Fault
            If it cannot be parsed, or not within the bounds.
        """
        try:
            return await self._run_apart(parse_within, body, content_type)
        except _STOPPED as error:
            raise self._stopped(error, "Parsing the request") from error

    def _stopped(self, error: Exception, what: str) -> Fault:
        self._metrics.decodes_stopped.inc()
        logger.warning("decoding was stopped", extra={"error": type(error).__name__})
        limits = f"{self._settings.decode_timeout:g} s or {self._settings.decode_memory_mb:g} MB"
        return Fault(status=413, code="image_too_large", detail=f"{what} takes more than {limits}.")

    async def _run_apart(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Run something in a worker, with the bounds on memory and time as its last arguments."""
        async with self._turns.hold():
            try:
                await self.start()
            except anyio.BrokenWorkerProcess as error:
                raise Fault(
                    status=503,
                    code="device_unavailable",
                    detail="No process could be started that reads the request.",
                    retry_after_s=5,
                ) from error
            bounds = int(self._settings.decode_memory_mb * 1e6), self._settings.decode_timeout
            # Where the worker bounds its own processor time, a busy machine costs no image its decoding.
            with anyio.fail_after(self._settings.decode_timeout if resource is None else None):
                return await to_process.run_sync(
                    partial(work, *arguments, *bounds), cancellable=True, limiter=self._processes
                )


def is_plain_png(data: bytes) -> bool:
    """Tell whether a file is a PNG of one grey channel, without interlacing, small, and holds nothing else.

    Examples
    --------
    >>> is_plain_png(b"GIF89a")
    False
    """
    if not data.startswith(_PNG) or len(data) < 33:
        return False
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if width * height > PLAIN_PIXELS or depth > 8 or colour != 0 or interlaced:
        return False
    at = len(_PNG)
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] not in _PLAIN_CHUNKS:
            return False
        at += 12 + int(struct.unpack(">I", data[at : at + 4])[0])
    return at == len(data) <= 2 * PLAIN_PIXELS
