"""The service's work, apart from HTTP: images in, predictions out, and whether the model is ready."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import numpy as np
from anyio import to_thread
from fastapi import Depends, Request
from numpy.typing import NDArray

from ctai_sam2._version import __version__
from ctai_sam2.errors import CtaiError, InputError
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.io.uploads import Upload
from ctai_sam2.models import wire
from ctai_sam2.models.messages import PromptBody
from ctai_sam2.models.protocol import BatchEmbedding, Prefetching, Segmenter, require_image
from ctai_sam2.settings import Settings
from ctai_sam2.types import ModelIdentity, Prediction, Prompt, Window

from .batching import EmbedBatcher
from .faults import Fault, bad_image
from .images import ImageStore
from .limits import Admission, Turns
from .metrics import Metrics
from .workers import DecodeWorkers

logger = logging.getLogger("ctai_sam2.service")

WARM_UP_AGAIN_S = 10.0
"""Pause before loading is tried again where the weights or the device were not there."""


class SegmentationService:
    """One segmenter, and the requests for it.

    Parameters
    ----------
    segmenter : Segmenter
        Makes the predictions; the caller closes it.
    settings : Settings
        Limits.
    """

    def __init__(self, segmenter: Segmenter, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.images = ImageStore(int(settings.image_store_mb * 1e6))
        self.admission = Admission(
            settings.max_concurrency + settings.queue_length, max_bytes=int(settings.bodies_mb * 1e6)
        )
        self.turns = Turns(settings.max_concurrency)
        self.identity: ModelIdentity | None = None
        self.reason = "The model is loading."
        self.has_failed = False
        self._segmenter = segmenter
        self._loading: threading.Thread | None = None
        self.workers = DecodeWorkers(settings, self.turns, self.metrics)
        self._batcher = (
            EmbedBatcher(segmenter, self.turns, batch_size=settings.batch_size)
            if settings.batch_size > 1 and isinstance(segmenter, BatchEmbedding)
            else None
        )

    @property
    def waiting(self) -> int:
        """Requests that hold a place and are not worked on."""
        return max(0, self.admission.admitted - self.turns.running)

    @property
    def is_loading(self) -> bool:
        """Whether the model is being loaded, in a thread that cannot be stopped."""
        return self._loading is not None and self._loading.is_alive()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the model in the background; at the end of the block, wait for work under way."""
        starting = asyncio.ensure_future(self._warm_up_forever())
        try:
            yield
        finally:
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            await self.turns.close()
            self.images.clear()
            logger.info("stopped")

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

    def health(self) -> dict[str, Any]:
        """Describe the service as `HealthBody`."""
        identity = self.identity
        return {
            "status": "healthy" if identity else ("unavailable" if self.has_failed else "loading"),
            "model_loaded": identity is not None,
            "service": "sam2_segmentation",
            "version": __version__,
            "protocol": wire.PROTOCOL_VERSION,
            "model": None if identity is None else wire.encode_identity(identity),
            "detail": self.reason,
        }

    def figures(self) -> bytes:
        """Write what Prometheus reads."""
        self.metrics.waiting.set(self.waiting)
        self.metrics.running.set(self.turns.running)
        images, size = self.images.usage()
        self.metrics.images.set(images)
        self.metrics.image_bytes.set(size)
        return self.metrics.expose()

    async def decode(self, data: bytes, digest: str | None = None) -> tuple[str, Upload]:
        """Decode an image, and store it.

        Parameters
        ----------
        data : bytes
            The file.
        digest : str, optional
            The SHA-256 it should have.

        Returns
        -------
        str
            The SHA-256 it has.
        Upload
            The image.

        Raises
        ------
        Fault
            If its digest is another, or it cannot be used.
        """
        found = await to_thread.run_sync(wire.digest_of, data)
        if digest not in (None, found):
            raise Fault(
                status=400,
                code="digest_mismatch",
                detail="The SHA-256 of what arrived is not that of the path: it was damaged on the way, "
                "or named wrongly.",
            )
        upload = self.images.get(found)
        if upload is None:
            with self.metrics.stage("decode"):
                upload = await self.workers.decode(data)
            self.images.put(found, upload)
        return found, upload

    async def embed(self, upload: Upload) -> None:
        """Embed an image ahead of the first click on it, where the segmenter can.

        Raises
        ------
        Fault
            If it cannot be used.
        """
        image = await to_thread.run_sync(_grey_of, upload, None)
        with self.metrics.stage("embed"):
            if self._batcher is not None:
                await self._batcher.embed(image)
            elif isinstance(self._segmenter, Prefetching):
                segmenter = self._segmenter
                await self.turns.run(lambda: segmenter.embed(image))

    def find_image(self, digest: str) -> Upload:
        """Return a stored image.

        Raises
        ------
        Fault
            If it is not stored (any more).
        """
        upload = self.images.get(digest)
        self.metrics.image_hits.labels("miss" if upload is None else "hit").inc()
        if upload is None:
            raise Fault(
                status=404, code=wire.IMAGE_UNKNOWN, detail="That image is not stored here: send it again."
            )
        return upload

    async def segment(self, digest: str, upload: Upload, prompt: PromptBody) -> dict[str, Any]:
        """Predict, and describe the prediction as `PredictionBody`.

        Raises
        ------
        Fault, InputError
            If image or prompt cannot be used.
        """

        def work() -> dict[str, Any]:
            height, width = upload.pixels.shape
            # A mask of another shape is refused before it is unpacked: a few kB may stand for 16 megapixels.
            prediction = self._predict(upload, *wire.decode_prompt(prompt, shape_hw=(height, width)))
            with self.metrics.stage("encode"):
                return wire.encode_prediction(prediction, digest)

        self.require_points(len(prompt.points or ()))
        return await self.turns.run(work)

    async def predict(self, upload: Upload, make_prompt: Callable[[], Prompt]) -> Prediction:
        """Predict.

        Raises
        ------
        Fault, InputError
            If image or prompt cannot be used.
        """
        return await self.turns.run(lambda: self._predict(upload, make_prompt(), None))

    def require_points(self, count: int) -> None:
        """Refuse more points than the settings allow."""
        if count > self.settings.max_points:
            raise InputError("too many points", received=count, hint=f"At most {self.settings.max_points}.")

    def _predict(self, upload: Upload, prompt: Prompt, window: Window | None) -> Prediction:
        if upload.kind == "dicom":
            window = window or SOFT_TISSUE
        image = _grey_of(upload, window)
        with self.metrics.stage("predict"):
            prediction = self._segmenter.predict(image, prompt, window=window)
        self.metrics.predictions.labels("yes" if prediction.cached else "no").inc()
        if prediction.identity != self.identity:
            self.identity = prediction.identity
            self.metrics.name_model(prediction.identity)
        return prediction

    async def _warm_up_forever(self) -> None:
        """Load the model and run it once; where that cannot be done now, try again later."""
        while self.identity is None:
            try:
                identity = await self._load()
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
                await self.workers.start()
                return
            await asyncio.sleep(WARM_UP_AGAIN_S)

    async def _load(self) -> ModelIdentity:
        """Load the model in a thread that the process does not wait for when it ends."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[ModelIdentity] = loop.create_future()

        def settle(action: Callable[[Any], None], value: object) -> None:
            if not done.done():
                action(value)

        def run() -> None:
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                try:
                    if isinstance(self._segmenter, Prefetching):
                        self._segmenter.warm_up()
                    identity = self._segmenter.identity
                except Exception as error:
                    loop.call_soon_threadsafe(settle, done.set_exception, error)
                else:
                    loop.call_soon_threadsafe(settle, done.set_result, identity)

        self._loading = threading.Thread(target=run, name="loading", daemon=True)
        self._loading.start()
        return await done


async def service_of(request: Request) -> SegmentationService:
    """Return the service behind the application; a dependency of every path.

    Without ``async`` each request would wait for a thread that returns it, and that for the model's thread.
    """
    service: SegmentationService = request.app.state.service
    return service


Service = Annotated[SegmentationService, Depends(service_of)]


def _grey_of(upload: Upload, window: Window | None) -> NDArray[np.uint8]:
    try:
        return require_image(upload.to_grey(window))
    except InputError as error:
        raise bad_image(error) from error
