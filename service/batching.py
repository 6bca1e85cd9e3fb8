"""Embeds the images of several waiting requests in one run of the encoder."""

from __future__ import annotations

import asyncio
from collections import deque

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.models.protocol import BatchEmbedding

from .limits import Ticket, Turns, current_ticket


class EmbedBatcher:
    """Gathers images while the encoder is busy, and embeds them together when it is free.

    Nothing waits for company: an image that comes to a free encoder goes alone.

    Parameters
    ----------
    segmenter : BatchEmbedding
        Embeds.
    turns : Turns
        Where a run takes its turn.
    batch_size : int
        Images in one run at most.
    """

    def __init__(self, segmenter: BatchEmbedding, turns: Turns, *, batch_size: int) -> None:
        self._segmenter = segmenter
        self._turns = turns
        self._batch_size = batch_size
        self._pending: deque[tuple[NDArray[np.uint8], asyncio.Future[None]]] = deque()
        self._runner: asyncio.Task[None] | None = None

    async def embed(self, image: NDArray[np.uint8]) -> None:
        """Embed an image, perhaps with others; one whose request ends first is left out."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((image, done))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.ensure_future(self._run())
        await done

    async def _run(self) -> None:
        current_ticket.set(Ticket())  # the work is of several requests
        while self._pending:
            taken: list[asyncio.Future[None]] = []

            def work(taken: list[asyncio.Future[None]] = taken) -> None:
                # Chosen as late as possible, when the turn has come: what waits by then comes along.
                images: list[NDArray[np.uint8]] = []
                while self._pending and len(images) < self._batch_size:
                    image, done = self._pending.popleft()
                    if not done.done():
                        images.append(image)
                        taken.append(done)
                if images:
                    self._segmenter.embed_many(images)

            error: Exception | None = None
            try:
                await self._turns.run(work)
            except Exception as raised:
                error = raised
            for done in taken:
                if not done.done():
                    done.set_result(None) if error is None else done.set_exception(error)
