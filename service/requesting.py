"""From a request's bytes to what is asked: bodies, forms, prompts, images."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncGenerator, Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ctai_sam2.errors import InputError
from ctai_sam2.models import wire
from ctai_sam2.settings import Settings
from ctai_sam2.types import Prompt, Window

from .faults import ClientGone, Fault, too_large
from .schemas import PromptBody

_Model = TypeVar("_Model", bound=BaseModel)

MAX_PROMPT_BYTES = 1_000_000
"""A prompt of a thousand points and a mask is far below."""


class _MemoryParser(MultiPartParser):
    """Keeps uploads in memory, which the limit on the body bounds: pixels never touch a disk."""

    spool_max_size = max_file_size = 2**31


async def read_body(request: Request, settings: Settings, *, deadline_s: float) -> bytes:
    """Read a request's body.

    Raises
    ------
    Fault
        If it is larger than the settings allow, or does not arrive by the deadline.
    ClientGone
        If the client hangs up.
    """
    limit = int(settings.max_body_mb * 1e6)
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            message = await asyncio.wait_for(request.receive(), max(0.0, deadline_s - time.monotonic()))
        except asyncio.TimeoutError:
            raise Fault(
                status=408, code="request_timeout", detail="The request did not arrive in time."
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large(settings.max_body_mb)
        if not message.get("more_body", False):
            return b"".join(parts)


async def read_form(request: Request, body: bytes) -> dict[str, bytes | str]:
    """Parse a multipart body: the content of files, the text of fields.

    Raises
    ------
    Fault
        If it is not multipart, or is damaged.
    """
    headers = Headers(raw=request.scope["headers"])

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    if not headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise _bad_form("a body of multipart/form-data is needed")
    try:
        form = await _MemoryParser(headers, stream(), max_files=1, max_fields=16).parse()
    except (MultiPartException, KeyError, UnicodeError) as error:
        raise _bad_form("the form is damaged, or has too many or too large parts") from error
    try:
        return {
            name: await part.read() if isinstance(part, UploadFile) else part
            for name, part in form.multi_items()
        }
    finally:
        await form.close()


def file_of(form: Mapping[str, bytes | str], name: str) -> bytes:
    """Return the content of a form's file.

    Raises
    ------
    Fault
        If it is not there.
    """
    part = form.get(name)
    if not isinstance(part, bytes):
        raise _bad_form(f"the part '{name}' with a file is missing")
    return part


def text_of(form: Mapping[str, bytes | str], name: str) -> str | None:
    """Return the text of a form's field, or None.

    Raises
    ------
    Fault
        If it is a file.
    """
    part = form.get(name)
    if isinstance(part, bytes):
        raise _bad_form(f"the part '{name}' must be a field without a file name")
    return part


def parse_json(model: type[_Model], text: bytes | str) -> _Model:
    """Parse JSON and check its form.

    Raises
    ------
    Fault
        If it is not JSON, or of another form; names the place, never the content.
    """
    if len(text) > MAX_PROMPT_BYTES and model is PromptBody:
        raise Fault(status=413, code="too_large", detail="A prompt is never larger than 1 MB.")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:80]
        where = f" at '{place}'" if place else ""
        # The parser's own words can quote what it read.
        reason = "it is not valid JSON" if first["type"] == "json_invalid" else str(first["msg"])
        raise Fault(
            status=422, code=wire.INPUT_INVALID, detail=f"The prompt cannot be read{where}: {reason}."
        ) from error


def parse_prompt(text: bytes | str, settings: Settings) -> tuple[Prompt, Window | None]:
    """Parse a prompt.

    Raises
    ------
    Fault, InputError
        If it cannot be used.
    """
    body = parse_json(PromptBody, text).model_dump(exclude_none=True)
    prompt, window = wire.decode_prompt(body)
    require_points(len(prompt.points_xy), settings)
    return prompt, window


def require_points(count: int, settings: Settings) -> None:
    """Refuse more points than the settings allow."""
    if count > settings.max_points:
        raise InputError("too many points", received=count, hint=f"At most {settings.max_points}.")


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
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Fault(
            status=400, code="image_unsupported", detail="The image data is not valid base64."
        ) from error


def _bad_form(problem: str) -> Fault:
    return Fault(status=422, code="form_invalid", detail=f"The form cannot be read: {problem}.")
