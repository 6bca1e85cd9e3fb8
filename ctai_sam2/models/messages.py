"""The JSON that client and service exchange, as models: each side validates with them what the other sends.

Everything in them is bounded, so that a message that validates is also small. What a mask or a prompt means
is decided in `ctai_sam2.models.wire`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from ctai_sam2.models.protocol import MAX_SIDE_PX
from ctai_sam2.types import MAX_POINTS

MAX_DETAIL = 4000
"""Characters of a sentence for people; a longer one is cut by who sends it."""

MAX_CANDIDATES = 3
"""Masks in one prediction."""

SHA256_PATTERN = "^[0-9a-f]{64}$"

_MAX_DAY_MS = 86_400_000.0


def _require_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not hold control characters")
    return text


PrintableText = Annotated[str, AfterValidator(_require_printable)]
Label = Literal[0, 1]
Pair = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]


class MessageBody(BaseModel):
    """A JSON object of the protocol. Fields that are not known are ignored."""

    model_config = ConfigDict(strict=True, protected_namespaces=())


class MaskBody(MessageBody):
    """A mask: run lengths of COCO's form as variable-length integers, deflated, in base64."""

    shape: Annotated[list[Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]], Field(min_length=2, max_length=2)] = (
        Field(description="[rows, columns]")
    )
    runs: str = Field(max_length=4_000_000)


class WindowBody(MessageBody):
    """A grey window in HU."""

    level: FiniteFloat
    width: Annotated[FiniteFloat, Field(gt=0)]


class PromptBody(MessageBody):
    """What is pointed at, in pixels: x is the column, y the row, (0, 0) the centre of the first."""

    # The first wrong item ends the check: a million of them would otherwise be a million errors.
    points: list[Pair] | None = Field(
        None, description="[[x, y], ...]", max_length=MAX_POINTS, fail_fast=True
    )
    labels: list[Label] | None = Field(
        None,
        description="1 foreground, 0 background; all foreground when absent",
        max_length=MAX_POINTS,
        fail_fast=True,
    )
    box: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)] | None = Field(
        None, description="[x0, y0, x1, y1]"
    )
    mask: MaskBody | None = Field(None, description="a previous mask to refine")
    structure: str | None = Field(
        None, description="what is meant, for models that know names", pattern="^[a-z][a-z0-9_]{0,31}$"
    )
    window: WindowBody | None = Field(
        None, description="applied to a DICOM image; soft tissue (40, 400) when absent"
    )


class ModelBody(MessageBody):
    """The model that made a prediction."""

    name: PrintableText = Field(max_length=255)
    sha256: PrintableText = Field(description="of the weights", max_length=64)
    image_size: int = Field(ge=1, le=65_536)
    device: PrintableText = Field(max_length=64)
    dtype: PrintableText = Field(max_length=64)
    code_version: PrintableText = Field(max_length=64)
    structures: list[Annotated[PrintableText, Field(max_length=64)]] = Field(max_length=256)


class PredictionBody(MessageBody):
    """Candidate masks, best first."""

    image: str = Field(description="SHA-256 of the image the masks are of", pattern=SHA256_PATTERN)
    masks: list[MaskBody] = Field(
        min_length=1,
        max_length=MAX_CANDIDATES,
        description="The best mask, then the pixels in which each further candidate differs from it",
    )
    scores: list[Annotated[FiniteFloat, Field(ge=0, le=1)]] = Field(
        min_length=1, max_length=MAX_CANDIDATES, description="confidence in each, 0 to 1"
    )
    model: ModelBody
    processing_time_ms: FiniteFloat = Field(ge=0, le=_MAX_DAY_MS)
    cached: bool


class ImageBody(MessageBody):
    """An image that is stored."""

    sha256: str = Field(pattern=SHA256_PATTERN)
    kind: Literal["png", "jpeg", "dicom"]
    height: int
    width: int


class HealthBody(MessageBody):
    """The state of the service, reported for as long as it lives."""

    status: Literal["healthy", "loading", "unavailable"]
    model_loaded: bool
    service: Literal["sam2_segmentation"]
    version: PrintableText = Field(max_length=64)
    protocol: PrintableText = Field(max_length=64)
    model: ModelBody | None
    detail: str = Field(max_length=MAX_DETAIL)


class ReadyBody(MessageBody):
    """The model is loaded and has made a prediction."""

    ready: Literal[True]


class ErrorBody(MessageBody):
    """What went wrong."""

    error: PrintableText = Field(description="a code, for programs", max_length=64)
    detail: str = Field(description="a sentence, for people", max_length=MAX_DETAIL)
    request_id: str = Field(max_length=64)
