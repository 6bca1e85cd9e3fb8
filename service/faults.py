"""What can go wrong, as responses: a status, a code for programs, a sentence for people."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ctai_sam2.errors import (
    DeviceUnavailable,
    InputError,
    ServiceBusy,
    ServiceTimeout,
    Unavailable,
    WeightsError,
)
from ctai_sam2.models import wire
from ctai_sam2.models.messages import MAX_DETAIL, ErrorBody

logger = logging.getLogger("ctai_sam2.service")

STATUSES: dict[int, str] = {
    400: "The image is not PNG, JPEG or DICOM, is damaged, or is not what its digest says.",
    401: "The API key is missing or wrong.",
    403: "The request comes from a page of another site, or names another host (`SAM2_ALLOWED_HOSTS`).",
    404: "There is no such image (code `image_unknown`: send it again) or no such path.",
    405: "The path does not take this method.",
    408: "The request did not arrive in time.",
    409: "Client and service speak different protocol versions.",
    413: "The request or the image is too large.",
    422: "The prompt cannot be used.",
    429: "The queue is full; come back after `Retry-After` seconds.",
    500: "An unexpected error; the service continues.",
    503: "The model is loading or not available; come back after `Retry-After` seconds.",
    504: "The result was not ready by the deadline.",
}
"""Every error status of the service, and what it means."""


class Fault(HTTPException):
    """A response that is an error.

    Parameters
    ----------
    status : int
        HTTP status.
    code : str
        For programs; stays the same when sentences change.
    detail : str
        For people. Never anything of an image, a patient or the inside of this program.
    retry_after_s : int, optional
        When another try may help.
    """

    def __init__(self, *, status: int, code: str, detail: str, retry_after_s: int | None = None) -> None:
        headers = None if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        super().__init__(status, detail=detail, headers=headers)
        self.code = code
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a worker process raise it."""
        make = partial(
            Fault,
            status=self.status_code,
            code=self.code,
            detail=self.detail,
            retry_after_s=self.retry_after_s,
        )
        return make, ()


class ClientGone(Exception):
    """The client has disconnected before the response."""


def bad_image(error: InputError) -> Fault:
    """Make the fault for an image that cannot be used."""
    is_size = "larger than a CT slice" in error.problem
    return Fault(
        status=413 if is_size else 400,
        code="image_too_large" if is_size else "image_unsupported",
        detail=f"{error} PNG, JPEG and DICOM CT images of one slice are taken.",
    )


def fault_of(error: Exception) -> Fault:
    """Turn an error into the response that stands for it."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, RequestValidationError):
        return _fault_of_validation(error)
    if isinstance(error, HTTPException):  # the framework's own: no such path or method
        code = {404: "path_unknown", 405: "method_not_allowed"}.get(error.status_code, "refused")
        detail = STATUSES.get(error.status_code, "The request was refused.")
        fault = Fault(status=error.status_code, code=code, detail=detail)
        fault.headers = error.headers
        return fault
    if isinstance(error, InputError):
        return Fault(status=422, code=wire.INPUT_INVALID, detail=str(error))
    if isinstance(error, DeviceUnavailable):
        return Fault(status=503, code="device_unavailable", detail=str(error), retry_after_s=5)
    if isinstance(error, ServiceTimeout):
        return Fault(status=504, code="deadline", detail=str(error))
    if isinstance(error, ServiceBusy):
        return Fault(status=429, code="queue_full", detail=str(error), retry_after_s=1)
    if isinstance(error, WeightsError | Unavailable):
        return Fault(status=503, code="model_unavailable", detail=str(error), retry_after_s=10)
    return Fault(status=500, code="internal_error", detail="An unexpected error occurred.")


def respond(request: Request, error: Exception) -> Response:
    """Respond with the error; an unforeseen one is logged, without its message."""
    fault, request_id = fault_of(error), request.scope["state"]["request_id"]
    if fault.status_code == 500:
        logger.error("unforeseen", exc_info=error, extra={"request_id": request_id})
    body = ErrorBody(error=fault.code, detail=fault.detail[:MAX_DETAIL], request_id=request_id)
    return JSONResponse(body.model_dump(), status_code=fault.status_code, headers=fault.headers)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a path for OpenAPI."""
    retry = {"Retry-After": {"description": "in s", "schema": {"type": "integer"}}}
    return {
        status: {
            "model": ErrorBody,
            "description": STATUSES[status],
            **({"headers": retry} if status in (429, 503) else {}),
        }
        for status in sorted(statuses)
    }


def _fault_of_validation(error: RequestValidationError) -> Fault:
    """Name the place of the first problem, never the content."""
    first = error.errors()[0]
    where, *path = first["loc"]
    if where == "path":
        return Fault(
            status=422,
            code="digest_invalid",
            detail="An image is named by its SHA-256: 64 small hexadecimal digits.",
        )
    if path == ["file"]:
        return Fault(status=422, code="form_invalid", detail="The part 'file' with a file is missing.")
    place = ".".join(str(part) for part in path)[:80]
    # The parser's own words can quote what it read.
    reason = "it is not valid JSON" if first["type"] == "json_invalid" else str(first["msg"])
    at = f" at '{place}'" if place else ""
    return Fault(status=422, code=wire.INPUT_INVALID, detail=f"The request cannot be read{at}: {reason}.")
