"""The record of a case as stored on disk: versioned JSON, read into a typed value, old versions too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from ctai_sam2.errors import DamagedFile, StorageError
from ctai_sam2.files.atomic import write_text
from ctai_sam2.types import Acquisition

RECORD_VERSION = 2
"""Grows when what a record holds is made otherwise. Version 1: the level's gap from slice indices, no
fingerprint of the slice, no one who chose the level."""

_NAMES_OF_VERSION_1 = {"again": "retry", "qc": "quality", "correction": "review"}

CaseStatus: TypeAlias = Literal["done", "failed", "incomplete"]


def _from_json(value: Any) -> Any:
    return math.nan if value == "nan" else value


def _to_json(value: Any) -> Any:
    return "nan" if isinstance(value, float) and math.isnan(value) else value


Cell: TypeAlias = Annotated[
    float | int | str | None,
    BeforeValidator(_from_json),
    PlainSerializer(_to_json, when_used="json"),
]
"""A cell of the table; JSON has no NaN, so it is written as text."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class CaseQuality(_Part):
    """Numbers that quality control goes by.

    ``hole_share`` and ``stray_share`` are shares of a psoas mask, ``edge_mm`` the length over which the body
    touches the image's edge, ``level_gap_mm`` the distance between the slice measured and the middle of the
    L3 found, ``found_certainty`` how the software knew that L3, ``area_cv`` the variation of areas under
    jittered prompts, ``missing`` the structures not found, ``red_slices`` on how many slices of the range
    of levels a muscle is implausible, by structure.
    """

    hole_share: float = 0.0
    stray_share: float = 0.0
    edge_mm: float = 0.0
    missing: tuple[str, ...] = ()
    level_gap_mm: float | None = None
    found_certainty: str | None = None
    area_cv: Mapping[str, float] = Field(default_factory=dict)
    smallest_confidence: float | None = None
    red_slices: Mapping[str, int] = Field(default_factory=dict)


class CaseReview(_Part):
    """The last reading of a case: who, when (UTC), what was noted, and all structures that were drawn.

    ``stale`` where it was made on another slice than the one measured, and does not count.
    """

    who: str
    when: str
    what: str = ""
    structures: tuple[str, ...] = ()
    readings: int = 1
    stale: bool = False


class CaseError(_Part):
    """Why a case has no numbers: the error's type, and a sentence without names of files."""

    type: str | None = None
    sentence: str | None = None


class CaseRecord(_Part):
    """What became of a case: with it on disk the case counts as done.

    Parameters
    ----------
    version : int
        Of the file it was read from.
    case_id : str
        Name of the case.
    status : {"done", "failed", "incomplete"}
        ``incomplete`` where the segmenter failed in the middle of the case: it is tried again.
    key : str
        Digest of all that decides the record; empty after a review, so that the next run looks at it.
    stamp : str
        Digest of the names, sizes and times of its files.
    retry : bool
        Whether the next run tries it again though nothing changed.
    error : CaseError, optional
        Where there are no numbers.
    seconds : mapping of str to float
        Time by step.
    model_token, content_sha256, inference_key, slice_sha256 : str, optional
        Digests of the model, of all that the image brings into the row, of what decides the predictions,
        and of the pixels of the slice measured.
    row : mapping
        Measurements and provenance by column.
    quality, acquisition, acquisition_warnings, review
        What flags follow from.
    """

    version: int = RECORD_VERSION
    case_id: str
    status: CaseStatus
    key: str
    stamp: str = ""
    retry: bool = False
    error: CaseError | None = None
    seconds: Mapping[str, float] = Field(default_factory=dict)
    model_token: str | None = None
    content_sha256: str | None = None
    inference_key: str | None = None
    slice_sha256: str | None = None
    row: Mapping[str, Cell] = Field(default_factory=dict)
    quality: CaseQuality = Field(default_factory=CaseQuality)
    acquisition: Acquisition = Field(default_factory=Acquisition)
    acquisition_warnings: tuple[str, ...] = ()
    review: CaseReview | None = None

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _read_version_1(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("version") != 1:
            return value
        upgraded = {_NAMES_OF_VERSION_1.get(name, name): entry for name, entry in value.items()}
        if isinstance(upgraded.get("quality"), dict):
            # An index difference times a thickness is no distance.
            gap = upgraded["quality"].get("level_gap_mm")
            upgraded["quality"] = {**upgraded["quality"], "level_gap_mm": None if gap else gap}
        return upgraded

    @model_validator(mode="after")
    def _require_row(self) -> Self:
        if self.status == "done" and not self.row:
            raise ValueError("a case that is done has a row")
        return self

    @property
    def is_done(self) -> bool:
        """Whether it has numbers."""
        return self.status == "done"

    def number(self, column: str) -> float:
        """Return a cell of the row as a number; NaN where there is none."""
        value = self.row.get(column)
        return float(value) if isinstance(value, int | float) else math.nan

    def text(self, column: str) -> str | None:
        """Return a cell of the row as text; None where there is none."""
        value = self.row.get(column)
        return value if isinstance(value, str) else None


def read_case_record(path: Path) -> CaseRecord | None:
    """Read a record of this version or an older one; None where there is none.

    Raises
    ------
    DamagedFile
        If it is there and cannot be read.
    StorageError
        If a newer version wrote it.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, type(error).__name__) from error
    try:
        record = CaseRecord.model_validate_json(content)
    except ValidationError as error:
        raise _damaged(path, f"{error.error_count()} problems") from error
    if record.version > RECORD_VERSION:
        raise StorageError(
            f"the record {path.name} was written by a newer version",
            received=record.version,
            hint="Update ctai-sam2, or choose another folder.",
        )
    return record


def write_case_record(path: Path, record: CaseRecord) -> None:
    """Write a record, whole or not at all.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    write_text(path, record.model_dump_json(indent=2, exclude_none=True) + "\n")


def _damaged(path: Path, reason: str) -> DamagedFile:
    return DamagedFile(
        f"the record {path.name} is damaged",
        received=reason,
        hint="Restore it from a copy, or delete it: the case is then done again.",
    )
