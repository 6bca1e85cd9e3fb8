"""The JSON that is taken and given, as models: they check it, and OpenAPI describes it by them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from ctai_sam2.io.uploads import UploadKind
from ctai_sam2.models import wire
from ctai_sam2.types import MAX_POINTS, Prompt, Window

Label = Literal[0, 1]
ImageType = Literal["L3", "middle", "auto"]
SliceIndex = Annotated[int, Field(ge=-999_999_999, le=999_999_999)]
Pair = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]

# Lists are checked with `fail_fast`: a million wrong items would otherwise be a million errors.


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, protected_namespaces=())


class MaskBody(_Body):
    """A mask: run lengths of COCO's form as variable-length integers, deflated, in base64."""

    shape: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=2, max_length=2)] = Field(
        description="[rows, columns]"
    )
    runs: str = Field(max_length=4_000_000)


class WindowBody(_Body):
    """A grey window in HU."""

    level: FiniteFloat
    width: Annotated[FiniteFloat, Field(gt=0)]


class PromptBody(_Body):
    """What is pointed at, in pixels: x is the column, y the row, (0, 0) the centre of the first."""

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

    def decode(self) -> tuple[Prompt, Window | None]:
        """Return the prompt and its window; expands a mask.

        Raises
        ------
        InputError
            If it cannot be used.
        """
        return wire.decode_prompt(self.model_dump(exclude_none=True))


class ModelBody(_Body):
    """The model that predicts."""

    name: str
    sha256: str = Field(description="of the weights")
    image_size: int
    device: str
    dtype: str
    code_version: str
    structures: list[str]


class PredictionBody(_Body):
    """Candidate masks, best first."""

    image: str = Field(description="SHA-256 of the image the masks are of")
    masks: list[MaskBody] = Field(
        min_length=1,
        max_length=3,
        description="The best mask, then the pixels in which each further candidate differs from it",
    )
    scores: list[float] = Field(description="confidence in each, 0 to 1")
    model: ModelBody
    processing_time_ms: float
    cached: bool


class ImageBody(_Body):
    """An image that is kept."""

    sha256: str
    kind: UploadKind
    height: int
    width: int


class HealthBody(_Body):
    """How the service is; it responds with this as long as it lives."""

    status: Literal["healthy", "loading", "unavailable"]
    model_loaded: bool
    service: Literal["sam2_segmentation"]
    version: str
    protocol: str
    model: ModelBody | None
    detail: str


class ReadyBody(_Body):
    """The model is loaded and has run once."""

    ready: Literal[True]


class ErrorBody(_Body):
    """What went wrong."""

    error: str = Field(description="a code, for programs")
    detail: str = Field(description="a sentence, for people")
    request_id: str


class ClickBody(_Body):
    """A click."""

    x: FiniteFloat
    y: FiniteFloat
    label: Label = 1


Clicks = Annotated[list[ClickBody], Field(max_length=MAX_POINTS, fail_fast=True)]


class OriginalBody(_Body):
    """The JSON form of the original system's request."""

    image_data: str = Field(description="PNG, JPEG or DICOM in base64; a data: URL will do")
    image_type: ImageType = "auto"
    patient_id: str | None = Field(
        None, description="given back, and neither logged nor kept", max_length=256
    )
    slice_index: SliceIndex | None = None
    click_points: list[ClickBody] | None = Field(None, max_length=MAX_POINTS, fail_fast=True)


class BoundingBoxBody(_Body):
    """A box around the mask, in pixels."""

    x: int
    y: int
    width: int
    height: int


class OriginalResponseBody(_Body):
    """The original system's response."""

    mask_data: str = Field(description="a PNG in base64, 0 and 255")
    confidence_score: float
    processing_time_ms: float
    cached: bool
    bounding_box: BoundingBoxBody | None = Field(description="null where the mask is empty")
    image_type: ImageType
    patient_id: str | None
    slice_index: int | None


class CacheStatsBody(_Body):
    """What is kept for further clicks."""

    images: int
    image_bytes: int
    predictions: int
    cached_predictions: int


class OriginalHealthBody(_Body):
    """The original system's health response."""

    enabled: bool
    available: bool
    cache_stats: CacheStatsBody
