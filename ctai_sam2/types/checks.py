"""What the values check and how they are frozen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import InputError


def set_field(instance: object, name: str, value: object) -> None:
    """Set a field of a frozen value while it is being made."""
    object.__setattr__(instance, name, value)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Make an array read-only."""
    array.setflags(write=False)
    return array


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
        raise InputError(f"{what} must be numbers", received=type(value).__name__) from error
