"""The application: which path does what."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ctai_sam2._version import __version__
from ctai_sam2.models import wire
from ctai_sam2.models.protocol import Segmenter
from ctai_sam2.settings import Settings

from . import schemas
from .answering import Answering
from .describing import describe_api, error_responses, form_body, json_body, raw_body
from .faults import STATUSES, Fault
from .guarding import Guard, describe_fault
from .metrics import Metrics
from .original import answer_original
from .requesting import file_of, parse_prompt, read_form, text_of

logger = logging.getLogger("ctai_sam2.service")

_WORK_ERRORS = (400, 401, 408, 409, 413, 422, 429, 500, 503, 504)


def make_app(segmenter: Segmenter, settings: Settings | None = None) -> FastAPI:
    """Make the service's ASGI application.

    The model is loaded, and run once, when the application starts; until then ``/ready`` says 503.

    Parameters
    ----------
    segmenter : Segmenter
        Who segments. It is not closed with the application: whoever opened it does that.
    settings : Settings, optional
        Limits and key; read from the environment when omitted.

    Returns
    -------
    FastAPI
        To be run by any ASGI server, in one process per model.
    """
    settings = settings or Settings()
    metrics = Metrics()
    answering = Answering(segmenter, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.ensure_future(answering.warm_up_forever())
        try:
            yield
        finally:
            warming.cancel()
            with suppress(asyncio.CancelledError):
                await warming
            await asyncio.to_thread(answering.gate.close)
            answering.images.clear()
            logger.info("stopped")

    app = FastAPI(
        title="ctai_sam2 segmentation service",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # their pages would load scripts from the internet
        redoc_url=None,
    )
    app.state.answering = answering
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    _add_observation(app, answering)
    _add_segmentation(app, answering)
    _add_original(app, answering)
    describe_api(app)
    return app


def _add_observation(app: FastAPI, answering: Answering) -> None:
    @app.get(
        wire.HEALTH_PATH,
        response_model=schemas.HealthBody,
        responses=error_responses(409, 500),
        summary="Is the service alive, and which model does it have?",
        tags=["observation"],
    )
    async def health() -> Response:
        identity = answering.identity
        status = "healthy" if identity else ("unavailable" if answering.has_failed else "loading")
        return JSONResponse(
            {
                "status": status,
                "model_loaded": identity is not None,
                "service": "sam2_segmentation",
                "version": __version__,
                "protocol": wire.PROTOCOL_VERSION,
                "model": None if identity is None else wire.encode_identity(identity),
                "detail": answering.reason,
            }
        )

    @app.get(
        wire.READY_PATH,
        response_model=schemas.ReadyBody,
        responses=error_responses(409, 500, 503),
        summary="Is the model loaded and warm?",
        tags=["observation"],
    )
    async def ready() -> Response:
        answering.require_ready()
        return JSONResponse({"ready": True})

    @app.get(
        wire.METRICS_PATH,
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **error_responses(409, 500),
        },
        summary="Figures for Prometheus.",
        tags=["observation"],
    )
    async def metrics() -> Response:
        figures = answering.metrics
        figures.waiting.set(answering.gate.waiting)
        figures.running.set(answering.gate.running)
        images, size = answering.images.usage()
        figures.images.set(images)
        figures.image_bytes.set(size)
        return Response(figures.expose(), media_type="text/plain; version=0.0.4")


def _add_segmentation(app: FastAPI, answering: Answering) -> None:
    settings = answering.settings

    @app.put(
        wire.IMAGE_PATH,
        response_model=schemas.ImageBody,
        responses=error_responses(*_WORK_ERRORS),
        openapi_extra=raw_body("image/png", "image/jpeg", "application/dicom"),
        summary="Send a slice once, under the SHA-256 of the file; it is embedded and kept.",
        tags=["segmentation"],
    )
    async def put_image(sha256: str, request: Request) -> Response:
        _require_digest(sha256)
        async with answering.arriving(request) as arrived:
            upload = await answering.keep(sha256, arrived.body, arrived)
        height, width = upload.pixels.shape
        return JSONResponse({"sha256": sha256, "kind": upload.kind, "height": height, "width": width})

    @app.post(
        wire.SEGMENT_PATH,
        response_model=schemas.PredictionBody,
        responses=error_responses(*_WORK_ERRORS, 404),
        openapi_extra=json_body(schemas.PromptBody),
        summary="Answer a prompt on a slice that was sent before.",
        tags=["segmentation"],
    )
    async def segment(sha256: str, request: Request) -> Response:
        _require_digest(sha256)
        async with answering.arriving(request) as arrived:
            prompt, window = await asyncio.to_thread(parse_prompt, arrived.body, settings)
            answer = await answering.segment_kept(sha256, prompt, window, arrived)
        return Response(answer, media_type="application/json")

    @app.post(
        wire.SEGMENT_ONCE_PATH,
        response_model=schemas.PredictionBody,
        responses=error_responses(*_WORK_ERRORS),
        openapi_extra=form_body(
            {
                "file": {"type": "string", "format": "binary", "description": "PNG, JPEG or DICOM"},
                "prompt": {"$ref": "#/components/schemas/PromptBody"},
            },
            required=["file", "prompt"],
        ),
        summary="Answer a prompt on a slice sent with it; the slice is kept as well.",
        tags=["segmentation"],
    )
    async def segment_once(request: Request) -> Response:
        async with answering.arriving(request) as arrived:
            form = await read_form(request, arrived.body)
            data = file_of(form, "file")
            prompt, window = await asyncio.to_thread(parse_prompt, text_of(form, "prompt") or "", settings)
            answer = await answering.segment_sent(data, prompt, window, arrived)
        return Response(answer, media_type="application/json")


def _add_original(app: FastAPI, answering: Answering) -> None:
    @app.post(
        wire.ORIGINAL_PATH,
        response_model=schemas.OriginalAnswerBody,
        responses=error_responses(*_WORK_ERRORS),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    **form_body(
                        {
                            "file": {
                                "type": "string",
                                "format": "binary",
                                "description": "PNG, JPEG or DICOM",
                            },
                            "image_type": {"type": "string", "enum": ["L3", "middle", "auto"]},
                            "patient_id": {"type": "string", "maxLength": 256},
                            "slice_index": {"type": "integer"},
                            "click_points": {
                                "type": "string",
                                "description": 'JSON: [{"x": 256, "y": 300, "label": 1}]',
                            },
                        },
                        required=["file"],
                    )["requestBody"]["content"],
                    **json_body(schemas.OriginalBody)["requestBody"]["content"],
                },
            }
        },
        summary="The original system's request: an image and clicks in, one mask as a PNG out.",
        tags=["original"],
    )
    async def segment_original(request: Request) -> Response:
        async with answering.arriving(request) as arrived:
            answer: dict[str, Any] = await answer_original(answering, request, arrived)
        return JSONResponse(answer)

    @app.get(
        wire.ORIGINAL_HEALTH_PATH,
        response_model=schemas.OriginalHealthBody,
        responses=error_responses(401, 409, 500),
        summary="The original system's health request.",
        tags=["original"],
    )
    async def original_health() -> Response:
        images, size = answering.images.usage()
        made, reused = answering.metrics.count_predictions()
        return JSONResponse(
            {
                "enabled": answering.settings.enabled,
                "available": answering.identity is not None,
                "cache_stats": {
                    "images": images,
                    "image_bytes": size,
                    "predictions": made + reused,
                    "cached_predictions": reused,
                },
            }
        )


def _require_digest(sha256: str) -> None:
    if not wire.is_digest(sha256):
        raise Fault(
            status=422,
            code="digest_invalid",
            detail="An image is named by its SHA-256: 64 small hexadecimal digits.",
        )


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Give the framework's own refusals, no such path or method, the form of all errors."""
    assert isinstance(error, HTTPException)
    code = {404: "path_unknown", 405: "method_not_allowed"}.get(error.status_code, "refused")
    detail = STATUSES.get(error.status_code, "The request was refused.")
    fault = Fault(status=error.status_code, code=code, detail=detail)
    return JSONResponse(
        describe_fault(fault, request.scope["state"]["request_id"]),
        status_code=error.status_code,
        headers=dict(error.headers or {}),
    )
