"""Values of a parsed DICOM file: one that is missing, empty or malformed is None."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom.tag import BaseTag


def functional_value(dataset: Any, frame: int, sequence: str, keyword: str) -> Any:
    """Get a value from the per-frame functional groups, else the shared ones, else the top level."""
    for groups, index in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = value_of(dataset, groups)
        if items and index < len(items):
            nested = value_of(items[index], sequence)
            if nested:
                value = value_of(nested[0], keyword)
                if value is not None:
                    return value
    return value_of(dataset, keyword)


def value_of(dataset: Any, keyword: str) -> Any:
    """Get a value, or None where the element is missing, empty or malformed."""
    try:
        # Asked for by tag: asked for by keyword, each missing element would cost an exception.
        element = dataset.get(tag_of(keyword))
        value = None if element is None else element.value
    except Exception:  # a malformed element is as good as a missing one
        return None
    return None if value is None or (isinstance(value, str) and not value.strip()) else value


@cache
def tag_of(keyword: str) -> BaseTag:
    """Tag of an element of the standard."""
    from pydicom.tag import Tag

    return Tag(keyword)


def number_of(value: Any) -> float | None:
    """One finite float, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def texts_of(value: Any) -> list[str]:
    """Return the texts of an element with one value or several; empty ones are left out."""
    if value is None:
        return []
    items = [value] if isinstance(value, str) else list(value)
    return [text for text in (str(item).strip() for item in items) if text]
