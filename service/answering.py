"""The service's work, apart from HTTP: images in, predictions out, and whether the model is ready."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from ctai_sam2.errors import CtaiError, InputError
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.io.uploads import Upload, decode_upload
from ctai_sam2.models import wire
from ctai_sam2.models.protocol import BatchEmbedding, Prefetching, Segmenter, require_image
from ctai_sam2.settings import Settings
from ctai_sam2.types import ModelIdentity, Prediction, Prompt, Window

from .batching import EmbedBatcher
from .faults import Fault, bad_image
from .gate import Gate
from .images import ImageStore
from .metrics import Metrics
from .requesting import read_body

logger = logging.getLogger("ctai_sam2.service")

_Answer = TypeVar("_Answer")

WARM_UP_AGAIN_S = 10.0
"""Pause before loading is tried again where the weights or the device were not there."""


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """A request that was let in and has arrived in full.

    Parameters
    ----------
    body : bytes
        What came.
    deadline_s : float
        By when it must be answered, on the clock of ``time.monotonic``.
    gone : Future
        Done when the client has hung up.
    """

    body: bytes
    deadline_s: float
    gone: asyncio.Future[None]


class Answering:
    """One segmenter behind a gate.

    Parameters
    ----------
    segmenter : Segmenter
        Who segments; whoever opened it closes it.
    settings : Settings
        Limits.
    metrics : Metrics
        Where it is counted.
    """

    def __init__(self, segmenter: Segmenter, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.images = ImageStore(int(settings.image_store_mb * 1e6))
        self.gate = Gate(concurrency=settings.max_concurrency, queue_length=settings.queue_length)
        self.identity: ModelIdentity | None = None
        self.reason = "The model is loading."
        self.has_failed = False
        self._segmenter = segmenter
        self._batcher = (
            EmbedBatcher(segmenter, self.gate, batch_size=settings.batch_size)
            if settings.batch_size > 1 and isinstance(segmenter, BatchEmbedding)
            else None
        )

    async def warm_up_forever(self) -> None:
        """Load the model and run it once; where that cannot be done now, try again later."""
        while self.identity is None:
            try:
                identity = await asyncio.to_thread(self._warm_up)
            except CtaiError as error:
                self.reason, self.has_failed = str(error), True
                logger.warning("the model is not available", extra={"error": type(error).__name__})
            except Exception as error:  # a service that cannot load says so, rather than die and be restarted
                self.reason, self.has_failed = "Loading the model failed unexpectedly.", True
                logger.error("unforeseen", exc_info=error)
            else:
                self.metrics.name_model(identity)
                self.metrics.ready.set(1)
                self.reason, self.has_failed = f"{identity.name} is ready on {identity.device}.", False
                self.identity = identity
                logger.info("ready: %s on %s", identity.name, identity.device)
                return
            await asyncio.sleep(WARM_UP_AGAIN_S)

    def require_ready(self) -> ModelIdentity:
        """Return the model's identity.

        Raises
        ------
        Fault
            If the model is not loaded and warm.
        """
        if self.identity is None:
            raise Fault(
                status=503,
                code="model_unavailable" if self.has_failed else "model_loading",
                detail=self.reason,
                retry_after_s=round(WARM_UP_AGAIN_S) if self.has_failed else 2,
            )
        return self.identity

    @asynccontextmanager
    async def arriving(self, request: Request) -> AsyncIterator[Arrived]:
        """Let a request in, read it, and notice when its client hangs up.

        Raises
        ------
        Fault
            If the model is not ready, the queue is full, or the body is too large or too slow.
        ClientGone
            If the client hangs up before it has sent everything.
        """
        deadline_s = time.monotonic() + self.settings.request_timeout
        self.require_ready()
        with self.gate.admit():
            body = await read_body(request, self.settings, deadline_s=deadline_s)
            gone = asyncio.ensure_future(_hang_up(request))
            try:
                yield Arrived(body=body, deadline_s=deadline_s, gone=gone)
            finally:
                gone.cancel()

    async def keep(self, digest: str, data: bytes, arrived: Arrived) -> Upload:
        """Decode, keep and embed an image.

        Raises
        ------
        Fault
            If its digest is another, or it cannot be used.
        """

        def work() -> Upload:
            upload = self._decode(digest, data)
            if self._batcher is None and isinstance(self._segmenter, Prefetching):
                with self.metrics.stage("embed"):
                    self._segmenter.embed(self._grey(upload, None))
            return upload

        upload = await self._run(work, arrived)
        if self._batcher is not None:
            with self.metrics.stage("embed"):
                await self._batcher.embed(
                    self._grey(upload, None), deadline_s=arrived.deadline_s, gone=arrived.gone
                )
        return upload

    async def segment_kept(
        self, digest: str, prompt: Prompt, window: Window | None, arrived: Arrived
    ) -> bytes:
        """Answer a prompt on an image that is kept.

        Raises
        ------
        Fault
            If it is not (any more).
        """
        upload = self.images.get(digest)
        self.metrics.image_hits.labels("miss" if upload is None else "hit").inc()
        if upload is None:
            raise Fault(
                status=404, code=wire.IMAGE_UNKNOWN, detail="That image is not kept here: send it again."
            )
        return await self._run(lambda: self._write(self._predict(upload, prompt, window), digest), arrived)

    async def segment_sent(
        self, data: bytes, prompt: Prompt, window: Window | None, arrived: Arrived
    ) -> bytes:
        """Answer a prompt on an image sent with it, and keep the image."""
        digest = wire.digest_of(data)
        return await self._run(
            lambda: self._write(self._predict(self._decode(digest, data), prompt, window), digest), arrived
        )

    async def predict_sent(
        self, data: bytes, make_prompt: Callable[[], Prompt], arrived: Arrived
    ) -> Prediction:
        """Answer a prompt on an image sent with it, as a prediction."""
        digest = wire.digest_of(data)
        return await self._run(
            lambda: self._predict(self._decode(digest, data), make_prompt(), None), arrived
        )

    async def _run(self, work: Callable[[], _Answer], arrived: Arrived) -> _Answer:
        return await self.gate.run(work, deadline_s=arrived.deadline_s, gone=arrived.gone)

    def _warm_up(self) -> ModelIdentity:
        if isinstance(self._segmenter, Prefetching):
            self._segmenter.warm_up()
        return self._segmenter.identity

    def _decode(self, digest: str, data: bytes) -> Upload:
        if wire.digest_of(data) != digest:
            raise Fault(
                status=400,
                code="digest_mismatch",
                detail="The SHA-256 of what arrived is not that of the path: it was damaged on the way, "
                "or named wrongly.",
            )
        kept = self.images.get(digest)
        if kept is not None:
            return kept
        try:
            with self.metrics.stage("decode"):
                upload = decode_upload(data, max_pixels=self.settings.max_pixels)
        except InputError as error:
            raise bad_image(error) from error
        except MemoryError as error:
            raise Fault(
                status=503, code="device_unavailable", detail="The memory is used up.", retry_after_s=5
            ) from error
        self.images.put(digest, upload)
        return upload

    def _grey(self, upload: Upload, window: Window | None) -> NDArray[np.uint8]:
        try:
            return require_image(upload.to_grey(window))
        except InputError as error:
            raise bad_image(error) from error

    def _predict(self, upload: Upload, prompt: Prompt, window: Window | None) -> Prediction:
        if upload.kind == "dicom":
            window = window or SOFT_TISSUE
        image = self._grey(upload, window)
        with self.metrics.stage("predict"):
            prediction = self._segmenter.predict(image, prompt, window=window)
        self.metrics.predictions.labels("yes" if prediction.cached else "no").inc()
        if prediction.identity != self.identity:
            self.identity = prediction.identity
            self.metrics.name_model(prediction.identity)
        return prediction

    def _write(self, prediction: Prediction, digest: str) -> bytes:
        with self.metrics.stage("encode"):
            return json.dumps(wire.encode_prediction(prediction, digest), separators=(",", ":")).encode()


async def _hang_up(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
