"""The original system's endpoint: one request, one mask as a PNG."""

from __future__ import annotations

import base64
import io
from typing import Any, get_args

import numpy as np
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from ctai_sam2.errors import InputError
from ctai_sam2.image.masks import mask_to_box_xyxy
from ctai_sam2.models import wire
from ctai_sam2.types import Mask, ModelIdentity, Prediction, Prompt

from .answering import Answering, Arrived
from .faults import Fault
from .requesting import decode_base64, file_of, parse_json, read_form, require_points, text_of
from .schemas import ClickBody, ImageType, OriginalBody

_CLICKS = TypeAdapter(list[ClickBody])
_NAMES_WITHOUT_CLICKS = {"middle": "muscle"}
"""What stands for an image type where nobody clicked; L3 has many vertebrae, so it needs a click."""


async def answer_original(answering: Answering, request: Request, arrived: Arrived) -> dict[str, Any]:
    """Answer a request in either of its forms, multipart or JSON.

    Raises
    ------
    Fault, InputError
        If it cannot be used.
    """
    content_type = request.headers.get("content-type", "").lower()
    if content_type.startswith("application/json"):
        asked = parse_json(OriginalBody, arrived.body)
        data = decode_base64(asked.image_data)
    else:
        asked, data = await _read_form(request, arrived.body)
    clicks = asked.click_points or []
    require_points(len(clicks), answering.settings)
    model = answering.require_ready()
    prediction = await answering.predict_sent(
        data, lambda: _prompt_of(asked.image_type, clicks, model), arrived
    )
    return describe(prediction, asked)


def describe(prediction: Prediction, asked: OriginalBody) -> dict[str, Any]:
    """Write the best candidate in the original form."""
    return {
        "mask_data": base64.b64encode(_png_of(prediction.mask)).decode("ascii"),
        "confidence_score": prediction.confidence_score,
        "processing_time_ms": prediction.processing_time_ms,
        "cached": prediction.cached,
        "bounding_box": _box_of(prediction.mask),
        "image_type": asked.image_type,
        "patient_id": asked.patient_id,
        "slice_index": asked.slice_index,
    }


def _prompt_of(image_type: ImageType, clicks: list[ClickBody], model: ModelIdentity) -> Prompt:
    if clicks:
        return Prompt(
            points_xy=np.array([[click.x, click.y] for click in clicks], np.float64).astype(np.float32),
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


async def _read_form(request: Request, body: bytes) -> tuple[OriginalBody, bytes]:
    form = await read_form(request, body)
    data = file_of(form, "file")
    image_type = text_of(form, "image_type") or "auto"
    if image_type not in get_args(ImageType):
        raise _bad_field("image_type", f"one of {', '.join(get_args(ImageType))}")
    slice_index = text_of(form, "slice_index")
    if slice_index and (not slice_index.lstrip("-").isascii() or not slice_index.lstrip("-").isdigit()):
        raise _bad_field("slice_index", "a whole number")
    if slice_index and len(slice_index) > 9:
        raise _bad_field("slice_index", "a whole number of at most nine digits")
    patient_id = text_of(form, "patient_id")
    if patient_id is not None and len(patient_id) > 256:
        raise _bad_field("patient_id", "at most 256 characters")
    try:
        text = text_of(form, "click_points")
        clicks = _CLICKS.validate_json(text) if text and text.strip() else []
    except ValidationError as error:
        raise _bad_field("click_points", 'JSON like [{"x": 256, "y": 300, "label": 1}]') from error
    asked = OriginalBody(
        image_data="",
        image_type=image_type,  # type: ignore[arg-type]
        patient_id=patient_id,
        slice_index=int(slice_index) if slice_index else None,
        click_points=None,
    )
    return asked.model_copy(update={"click_points": clicks}), data


def _bad_field(name: str, wanted: str) -> Fault:
    return Fault(status=422, code=wire.INPUT_INVALID, detail=f"The field '{name}' must be {wanted}.")


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
