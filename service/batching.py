"""Embeds the images of several waiting requests in one run of the encoder."""

from __future__ import annotations

import asyncio
from collections import deque

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.models.protocol import BatchEmbedding

from .faults import ClientGone, Fault
from .gate import Gate


class EmbedBatcher:
    """Gathers images while the encoder is busy, and embeds them together when it is free.

    Nothing waits for company: an image that comes to a free encoder goes alone.

    Parameters
    ----------
    segmenter : BatchEmbedding
        Who embeds.
    gate : Gate
        Where a run takes its turn.
    batch_size : int
        Images in one run at most.
    """

    def __init__(self, segmenter: BatchEmbedding, gate: Gate, *, batch_size: int) -> None:
        self._segmenter = segmenter
        self._gate = gate
        self._batch_size = batch_size
        self._pending: deque[tuple[NDArray[np.uint8], asyncio.Future[None], float]] = deque()
        self._runner: asyncio.Task[None] | None = None

    async def embed(self, image: NDArray[np.uint8], *, deadline_s: float, gone: asyncio.Future[None]) -> None:
        """Embed an image, perhaps with others.

        Raises
        ------
        Fault
            If the deadline passes first.
        ClientGone
            If the client hangs up first; its image is then dropped from the queue.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._pending.append((image, done, deadline_s))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.ensure_future(self._run())
        left_s = max(0.0, deadline_s - loop.time())
        await asyncio.wait({done, gone}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            done.result()
            return
        done.cancel()
        if gone.done():
            raise ClientGone
        raise Fault(status=504, code="deadline", detail="The answer was not ready by the deadline.")

    async def _run(self) -> None:
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        while self._pending:
            taken: list[tuple[asyncio.Future[None], float]] = []

            def work(taken: list[tuple[asyncio.Future[None], float]] = taken) -> None:
                # Chosen as late as possible, when the turn has come: whoever waits by then comes along.
                images: list[NDArray[np.uint8]] = []
                while self._pending and len(images) < self._batch_size:
                    image, done, deadline_s = self._pending.popleft()
                    if not done.done():
                        images.append(image)
                        taken.append((done, deadline_s))
                if images:
                    self._segmenter.embed_many(images)

            latest = max(deadline_s for _, _, deadline_s in self._pending)
            try:
                await self._gate.run(work, deadline_s=latest, gone=never)
            except Exception as error:
                if not taken:  # the turn never came, and never would for those behind either
                    taken = [(done, deadline_s) for _, done, deadline_s in self._pending]
                    self._pending.clear()
                for done, _ in taken:
                    if not done.done():
                        done.set_exception(error)
            else:
                for done, _ in taken:
                    if not done.done():
                        done.set_result(None)
