"""A mutated image with its oracle, and the array that all are made from."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctai_sam2.errors import CtaiError
from ctai_sam2.types import CTSlice, CTVolume

SIZE = 16
PIXEL_MM = (0.75, 0.8)
STEP_MM = 5.0
NAME = "Doe^Jane"
"""What no message may ever repeat."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCase:
    """One mutated input.

    Parameters
    ----------
    name : str
        Unique.
    write : callable
        Writes the files into a folder and returns what is read.
    read : callable
        The reader: returns HU, an error or, for a listing, something to compare.
    expected : ndarray, tuple or other, optional
        The right value; None where an error is demanded.
    error : type or tuple of types, optional
        Which error is demanded.
    words : str
        What its message, or one of the warnings of the image, has to say.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    expected: Any = None
    error: type[CtaiError] | tuple[type[CtaiError], ...] | None = None
    words: str = ""


def failure_of(case: ImageCase, folder: Path) -> str | None:
    """Read a case, and say what is wrong with what came of it; None where it is as it should be."""
    with warnings.catch_warnings():
        # pydicom remarks on what is written wrongly here on purpose.
        warnings.simplefilter("ignore")
        path = case.write(folder)
    try:
        read = case.read(path)
    except CtaiError as error:
        text = str(error)
        text.encode("utf-8")
        if NAME in text:
            return f"the message repeats content: {text}"
        if case.error is None:
            return f"refused: {type(error).__name__}: {text}"
        if not isinstance(error, case.error):
            return f"another error: {type(error).__name__}: {text}"
        return None if case.words in text else f"another message: {text}"
    except BaseException as error:
        return f"untyped: {type(error).__name__}: {error}"
    if case.error is not None:
        return f"taken in silence: {_summary(read)}"
    said = " ".join(getattr(read, "warnings", ()))
    if case.words and case.words not in said:
        return f"not said: {case.words!r} in {said!r}"
    return _difference(read, case.expected)


def _difference(read: Any, expected: Any) -> str | None:
    if isinstance(expected, CTVolume):
        if not np.array_equal(read.hu_zyx, expected.hu_zyx):
            return f"other values: {_summary(read)} for {_summary(expected)}"
        if not np.allclose(read.affine, expected.affine, atol=1e-3):
            return f"another place: {read.affine.tolist()} for {expected.affine.tolist()}"
        return None
    values = read.hu if isinstance(read, CTSlice) else read
    if isinstance(expected, np.ndarray):
        return None if np.array_equal(values, expected) else f"other values: {np.asarray(values).ravel()[:6]}"
    return None if values == expected else f"{values!r} for {expected!r}"


def _summary(read: Any) -> str:
    hu = getattr(read, "hu_zyx", getattr(read, "hu", None))
    return (
        str(read)[:80] if hu is None else f"{hu.shape} {hu.min()}..{hu.max()} {getattr(read, 'warnings', ())}"
    )


def body(index: int = 0, size: int = SIZE) -> np.ndarray[Any, Any]:
    """A slice that differs from its mirror images: air, fat, muscle, bone, and its number in one corner."""
    rng = np.random.default_rng(100 + index)
    hu = np.full((size, size), -1000, np.int16)
    hu[2:-2, 2:-2] = -100
    hu[4:-4, 3:-4] = 50 + rng.integers(-8, 9, (size - 8, size - 7))
    hu[9:12, 6:9] = 400
    hu[4, 4] = 10 + index
    return hu


def stack(count: int = 5, offset: int = 0) -> np.ndarray[Any, Any]:
    return np.stack([body(i + offset) for i in range(count)])


def volume(hu_zyx: np.ndarray[Any, Any], z0: float = 0.0, step: float = STEP_MM) -> CTVolume:
    """The right volume: the array with the affine that its files state."""
    affine = np.diag([PIXEL_MM[1], PIXEL_MM[0], step, 1.0])
    affine[:3, 3] = (-20.0, -30.0, z0)
    return CTVolume(hu_zyx=hu_zyx, affine=affine)


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
