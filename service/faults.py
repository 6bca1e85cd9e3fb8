"""What can go wrong, as answers: a status, a code for programs, a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass

from ctai_sam2.errors import (
    CtaiError,
    DeviceUnavailable,
    InputError,
    ServiceBusy,
    ServiceTimeout,
    Unavailable,
    WeightsError,
)
from ctai_sam2.models import wire


@dataclass(kw_only=True)
class Fault(Exception):
    """An answer that is an error.

    Parameters
    ----------
    status : int
        HTTP status.
    code : str
        For programs; stays the same when sentences change.
    detail : str
        For people. Never anything of an image, a patient or this program's inside.
    retry_after_s : int, optional
        When asking again may help.
    """

    status: int
    code: str
    detail: str
    retry_after_s: int | None = None


class ClientGone(Exception):
    """Whoever asked has hung up: there is nobody to answer."""


STATUSES: dict[int, str] = {
    400: "The image is not PNG, JPEG or DICOM, is damaged, or is not what its digest says.",
    401: "The API key is missing or wrong.",
    404: "There is no such image (code `image_unknown`: send it again) or no such path.",
    405: "The path does not take this method.",
    408: "The request did not arrive in time.",
    409: "Client and service speak different protocol versions.",
    413: "The request or the image is too large.",
    422: "The prompt cannot be used.",
    429: "The queue is full; come back after `Retry-After` seconds.",
    500: "Something unforeseen; the service goes on.",
    503: "The model is loading or not available; come back after `Retry-After` seconds.",
    504: "The answer was not ready by the deadline.",
}
"""Every error status the service answers with, and what it means."""


def too_large(limit_mb: float) -> Fault:
    """Make the fault for a request that is larger than allowed."""
    return Fault(
        status=413, code="too_large", detail=f"The request is larger than the limit of {limit_mb:g} MB."
    )


def bad_image(error: InputError) -> Fault:
    """Make the fault for an image that cannot be used."""
    is_size = "larger than a CT slice" in error.problem
    return Fault(
        status=413 if is_size else 400,
        code="image_too_large" if is_size else "image_unsupported",
        detail=f"{error} PNG, JPEG and DICOM CT images of one slice are taken.",
    )


def fault_of(error: CtaiError) -> Fault:
    """Turn an error of a segmenter into the answer that stands for it."""
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
    return Fault(status=500, code="internal_error", detail="Something unforeseen happened.")
