"""The JSON of the original system's endpoint; that of the package's own client is in ``models.messages``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from ctai_sam2.models.messages import Label, MessageBody
from ctai_sam2.types import MAX_POINTS

ImageType = Literal["L3", "middle", "auto"]
SliceIndex = Annotated[int, Field(ge=-999_999_999, le=999_999_999)]


class ClickBody(MessageBody):
    """A click."""

    x: FiniteFloat
    y: FiniteFloat
    label: Label = 1


Clicks = Annotated[list[ClickBody], Field(max_length=MAX_POINTS, fail_fast=True)]


class OriginalBody(MessageBody):
    """The JSON form of the original system's request."""

    image_data: str = Field(description="PNG, JPEG or DICOM in base64; a data: URL will do")
    image_type: ImageType = "auto"
    patient_id: str | None = Field(
        None, description="given back, and neither logged nor kept", max_length=256
    )
    slice_index: SliceIndex | None = None
    click_points: list[ClickBody] | None = Field(None, max_length=MAX_POINTS, fail_fast=True)


class BoundingBoxBody(MessageBody):
    """A box around the mask, in pixels."""

    x: int
    y: int
    width: int
    height: int


class OriginalResponseBody(MessageBody):
    """The original system's response."""

    mask_data: str = Field(description="a PNG in base64, 0 and 255")
    confidence_score: float
    processing_time_ms: float
    cached: bool
    bounding_box: BoundingBoxBody | None = Field(description="null where the mask is empty")
    image_type: ImageType
    patient_id: str | None
    slice_index: int | None


class CacheStatsBody(MessageBody):
    """What is kept for further clicks."""

    images: int
    image_bytes: int
    predictions: int
    cached_predictions: int


class OriginalHealthBody(MessageBody):
    """The original system's health response."""

    enabled: bool
    available: bool
    cache_stats: CacheStatsBody
