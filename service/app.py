"""The application: which path does what."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, File, Form, Path, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import Json
from starlette.exceptions import HTTPException

from ctai_sam2._version import __version__
from ctai_sam2.errors import CtaiError
from ctai_sam2.models import wire
from ctai_sam2.models.messages import (
    SHA256_PATTERN,
    HealthBody,
    ImageBody,
    PredictionBody,
    PromptBody,
    ReadyBody,
)
from ctai_sam2.models.protocol import Segmenter
from ctai_sam2.settings import Settings

from . import original_api
from .auth import KEY, Guard
from .faults import error_responses, respond
from .limits import LimitedRoute
from .segmentation import SegmentationService, Service

Digest = Annotated[str, Path(pattern=SHA256_PATTERN)]

_WORK_ERRORS = (400, 401, 403, 408, 409, 413, 422, 429, 500, 503, 504)
_BINARY = {"schema": {"type": "string", "format": "binary"}}

observation = APIRouter(tags=["observation"])
segmentation = APIRouter(tags=["segmentation"], route_class=LimitedRoute, dependencies=[KEY])


def make_app(segmenter: Segmenter, settings: Settings | None = None) -> FastAPI:
    """Make the service's ASGI application.

    The model is loaded, and run once, when the application starts; until then ``/ready`` says 503.

    Parameters
    ----------
    segmenter : Segmenter
        Makes the predictions. It is not closed with the application: the caller closes it.
    settings : Settings, optional
        Limits and key; read from the environment when omitted.

    Returns
    -------
    FastAPI
        To be run by any ASGI server, in one process per model.
    """
    settings = settings or Settings()
    service = SegmentationService(segmenter, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="ctai_sam2 segmentation service",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # their pages would load scripts from the internet
        redoc_url=None,
        redirect_slashes=False,  # the address would be made from the request's Host
        strict_content_type=False,  # clients of JSON need not name it
    )
    app.state.service = service
    app.add_middleware(Guard, settings=settings, metrics=service.metrics)
    for kind in (HTTPException, RequestValidationError, CtaiError):
        app.add_exception_handler(kind, respond)
    for router in (observation, segmentation, original_api.router):
        app.include_router(router)
    return app


def openapi_text() -> str:
    """Write the OpenAPI document as it is stored under ``docs``: made without a model."""
    from ctai_sam2.models.local import LocalSegmenter

    app = make_app(LocalSegmenter(), Settings(_env_file=None))
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


@observation.get(
    wire.HEALTH_PATH,
    response_model=HealthBody,
    responses=error_responses(403, 409, 500),
    summary="Is the service alive, and which model does it have?",
)
async def health(service: Service) -> dict[str, Any]:
    """Describe the service."""
    return service.health()


@observation.get(
    wire.READY_PATH,
    response_model=ReadyBody,
    responses=error_responses(403, 409, 500, 503),
    summary="Is the model loaded and warm?",
)
async def ready(service: Service) -> dict[str, bool]:
    """Say yes, or 503."""
    service.require_ready()
    return {"ready": True}


@observation.get(
    wire.METRICS_PATH,
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **error_responses(403, 409, 500),
    },
    summary="Figures for Prometheus.",
)
async def metrics(service: Service) -> Response:
    """Write all figures."""
    return Response(service.figures(), media_type="text/plain; version=0.0.4")


@segmentation.put(
    wire.IMAGE_PATH,
    response_model=ImageBody,
    responses=error_responses(*_WORK_ERRORS),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"image/png": _BINARY, "image/jpeg": _BINARY, "application/dicom": _BINARY},
        }
    },
    summary="Send a slice once, under the SHA-256 of the file; it is embedded and stored.",
)
async def put_image(sha256: Digest, service: Service, request: Request) -> dict[str, Any]:
    """Store and embed an image."""
    _, upload = await service.decode(await request.body(), sha256)
    await service.embed(upload)
    height, width = upload.pixels.shape
    return {"sha256": sha256, "kind": upload.kind, "height": height, "width": width}


@segmentation.post(
    wire.SEGMENT_PATH,
    response_model=PredictionBody,
    responses=error_responses(*_WORK_ERRORS, 404),
    summary="Segment by a prompt a slice that was sent before.",
)
async def segment(sha256: Digest, prompt: PromptBody, service: Service) -> dict[str, Any]:
    """Segment a stored image."""
    return await service.segment(sha256, service.find_image(sha256), prompt)


@segmentation.post(
    wire.SEGMENT_ONCE_PATH,
    response_model=PredictionBody,
    responses=error_responses(*_WORK_ERRORS),
    summary="Segment by a prompt a slice sent with it; the slice is stored as well.",
)
async def segment_once(
    service: Service,
    file: Annotated[UploadFile, File(description="PNG, JPEG or DICOM")],
    prompt: Annotated[Json[PromptBody], Form()],
) -> dict[str, Any]:
    """Store an image and segment it."""
    digest, upload = await service.decode(await file.read())
    return await service.segment(digest, upload, prompt)
