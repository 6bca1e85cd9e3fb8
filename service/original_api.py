"""The original system's endpoint: one request, as a form or as JSON, and one mask as a PNG."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Annotated, Any

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, File, Form, UploadFile
from pydantic import Json
from starlette.routing import Match
from starlette.types import Scope

from ctai_sam2.errors import InputError
from ctai_sam2.image.masks import mask_to_box_xyxy
from ctai_sam2.models import wire
from ctai_sam2.types import Mask, ModelIdentity, Prediction, Prompt

from .auth import KEY
from .faults import Fault, error_responses
from .limits import LimitedRoute
from .schemas import (
    ClickBody,
    Clicks,
    ImageType,
    OriginalBody,
    OriginalHealthBody,
    OriginalResponseBody,
    SliceIndex,
)
from .segmentation import SegmentationService, Service

_NAMES_WITHOUT_CLICKS = {"middle": "muscle"}
"""What stands for an image type without a click; L3 has many vertebrae, so it needs a click."""


class _JsonRoute(LimitedRoute):
    """A path for JSON, next to the same path for forms."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match where the content type is that of JSON."""
        types = [value for name, value in scope.get("headers", ()) if name == b"content-type"]
        if not types or not types[0].lower().startswith(b"application/json"):
            return Match.NONE, {}
        return super().matches(scope)


_PIECE_CHARS = 1 << 20


router = APIRouter(tags=["original"], dependencies=[KEY])
_json_router = APIRouter(route_class=_JsonRoute)
_form_router = APIRouter(route_class=LimitedRoute)
_json_schema = OriginalBody.model_json_schema(ref_template="#/components/schemas/{model}")
_json_schema.pop("$defs")


@_json_router.post(wire.ORIGINAL_PATH, include_in_schema=False)
async def segment_original_json(service: Service, body: OriginalBody) -> OriginalResponseBody:
    """Segment an image sent in base64."""
    data = await to_thread.run_sync(decode_base64, body.image_data)
    return await _segment(service, data, body)


@_form_router.post(
    wire.ORIGINAL_PATH,
    responses=error_responses(400, 401, 403, 408, 409, 413, 422, 429, 500, 503, 504),
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": _json_schema}}}},
    summary="The original system's request: an image and clicks in, one mask as a PNG out.",
)
async def segment_original(
    *,
    service: Service,
    file: Annotated[UploadFile, File(description="PNG, JPEG or DICOM")],
    image_type: Annotated[ImageType, Form()] = "auto",
    patient_id: Annotated[str | None, Form(max_length=256)] = None,
    slice_index: Annotated[SliceIndex | None, Form()] = None,
    click_points: Annotated[
        Json[Clicks], Form(default_factory=list, description='[{"x": 256, "y": 300, "label": 1}]')
    ],
) -> OriginalResponseBody:
    """Segment an image sent as a file."""
    body = OriginalBody(
        image_data="",
        image_type=image_type,
        patient_id=patient_id,
        slice_index=slice_index,
        click_points=click_points,
    )
    return await _segment(service, await file.read(), body)


@router.get(
    wire.ORIGINAL_HEALTH_PATH,
    response_model=OriginalHealthBody,
    responses=error_responses(401, 403, 409, 500),
    summary="The original system's health request.",
)
async def original_health(service: Service) -> dict[str, Any]:
    """Say whether the service can segment."""
    images, size = service.images.usage()
    made, reused = service.metrics.count_predictions()
    return {
        "enabled": service.settings.enabled,
        "available": service.identity is not None,
        "cache_stats": {
            "images": images,
            "image_bytes": size,
            "predictions": made + reused,
            "cached_predictions": reused,
        },
    }


router.include_router(_json_router)
router.include_router(_form_router)


def decode_base64(text: str) -> bytes:
    """Decode an image in base64, also as a ``data:`` URL.

    Raises
    ------
    Fault
        If it is not base64.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        if "=" in text[:-2]:
            raise ValueError("padding before the end")
        # In pieces: other threads, the event loop's above all, take their turn between two of them.
        return b"".join(
            base64.b64decode(text[start : start + _PIECE_CHARS], validate=True)
            for start in range(0, len(text), _PIECE_CHARS)
        )
    except (binascii.Error, ValueError) as error:
        raise Fault(
            status=400, code="image_unsupported", detail="The image data is not valid base64."
        ) from error


async def _segment(service: SegmentationService, data: bytes, body: OriginalBody) -> OriginalResponseBody:
    clicks = body.click_points or []
    service.require_points(len(clicks))
    prompt = _prompt_of(body.image_type, clicks, service.require_ready())
    _, upload = await service.decode(data)
    prediction = await service.predict(upload, lambda: prompt)
    return await to_thread.run_sync(_describe, prediction, body)


def _prompt_of(image_type: ImageType, clicks: list[ClickBody], model: ModelIdentity) -> Prompt:
    if clicks:
        return Prompt(
            points_xy=np.array([[click.x, click.y] for click in clicks], np.float64),
            labels=np.array([click.label for click in clicks], np.int32),
        )
    name = _NAMES_WITHOUT_CLICKS.get(image_type)
    if name is None or name not in model.structures:
        raise InputError(
            "click_points are needed for this image type and model",
            received=image_type,
            hint='Give at least one, for example [{"x": 256, "y": 300, "label": 1}].',
        )
    return Prompt(structure=name)


def _describe(prediction: Prediction, body: OriginalBody) -> OriginalResponseBody:
    return OriginalResponseBody.model_validate(
        {
            "mask_data": base64.b64encode(_png_of(prediction.mask)).decode("ascii"),
            "confidence_score": prediction.confidence_score,
            "processing_time_ms": prediction.processing_time_ms,
            "cached": prediction.cached,
            "bounding_box": _box_of(prediction.mask),
            "image_type": body.image_type,
            "patient_id": body.patient_id,
            "slice_index": body.slice_index,
        }
    )


def _box_of(mask: Mask) -> dict[str, int] | None:
    box = mask_to_box_xyxy(mask)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    return {"x": x0, "y": y0, "width": x1 - x0 + 1, "height": y1 - y0 + 1}


def _png_of(mask: Mask) -> bytes:
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(target, "PNG")
    return target.getvalue()
