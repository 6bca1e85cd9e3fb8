"""What the values and public functions check of their arguments, and how values are frozen."""

from __future__ import annotations

import operator
import reprlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import InputError

T = TypeVar("T")


def set_field(instance: object, name: str, value: object) -> None:
    """Set a field of a frozen value while it is being made."""
    object.__setattr__(instance, name, value)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Make an array read-only."""
    array.setflags(write=False)
    return array


_HINTS = {
    "CTVolume": "Read one with read_study(path); the result of segment_study has it as .volume.",
    "CTSlice": "Take one with volume.axial(index), or read one with read_slice(path).",
    "Prompt": "For example Prompt.point(x, y), with x the column and y the row.",
    "Window": "For example Window(level=40, width=400).",
    "TissueDefinitions": "Take one from ctai_sam2.measure.definitions.TISSUE_DEFINITIONS, by its name.",
    "StudyChange": "It comes from compare_studies(first, second, segmenter).",
    "StudyResult": "It comes from segment_study(volume, segmenter).",
}


def require_type(value: object, wanted: type | tuple[type, ...], what: str) -> None:
    """Check that an argument is of the class that is meant, or one of several, before it fails deep inside.

    Raises
    ------
    InputError
        If it is of another class, with where to get one of that class.
    """
    if not isinstance(value, wanted):
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        names = ["dictionary" if one is Mapping else one.__name__ for one in kinds]
        raise InputError(
            f"{what} must be a {' or a '.join(names)}",
            received=type(value).__name__,
            hint=_HINTS.get(names[0]),
        )


def as_index(value: object, size: int, what: str) -> int:
    """Whole number from 0 to ``size`` - 1.

    Raises
    ------
    InputError
        If it is not whole or out of range; a negative one does not count from the end.
    """
    try:
        index = operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError(
            f"{what}: the index must be a whole number",
            received=repr(value),
            hint=f"Give 0 to {size - 1}.",
        ) from error
    if not 0 <= index < size:
        raise InputError(f"there is no such {what}", received=index, hint=f"Give 0 to {size - 1}.")
    return index


def as_array(value: ArrayLike, what: str) -> NDArray[Any]:
    """Any array-like as an array.

    Raises
    ------
    InputError
        If its rows have different lengths.
    """
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} must be an array", received=f"rows of different lengths in a {type(value).__name__}"
        ) from error


def as_texts(value: str | Iterable[str]) -> tuple[str, ...]:
    """Several texts; one alone is one, not its letters."""
    return (value,) if isinstance(value, str) else tuple(value)


def as_float(value: ArrayLike, what: str) -> NDArray[np.float32]:
    """Numbers as float32, or an error that says what they should be.

    Raises
    ------
    InputError
        If they are no numbers.
    """
    try:
        with np.errstate(over="ignore"):  # infinite then, and refused as such
            return np.array(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what} must be numbers", received=reprlib.repr(value)) from error


def renamed_argument(given: T | None, new: str, former: T | None, old: str) -> T | None:
    """Return an argument that was renamed; its old name still works, with a ``DeprecationWarning``."""
    if former is None:
        return given
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)
    return former
