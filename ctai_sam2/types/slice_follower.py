"""Networks with a memory that follow a structure through a stack, and segmenters that have one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.types.prompts import Mask


class SliceFollower(Protocol):
    """A network with memory, such as `ctai_sam2.models.slice_memory.SliceMemory`."""

    def follow(
        self,
        slice_at: Callable[[int], NDArray[np.uint8]],
        count: int,
        anchors: Mapping[int, Mask],
        *,
        start: int,
        reverse: bool = False,
    ) -> Iterator[tuple[int, Mask]]:
        """Yield index and mask from ``start`` to one end of a stack, guided by the masks drawn on it."""
        ...


@runtime_checkable
class SegmenterWithMemory(Protocol):
    """A segmenter whose network may have a memory that was trained to follow what is drawn."""

    @property
    def has_slice_memory(self) -> bool:
        """True where there is one; no weights are loaded to say so."""
        ...

    def open_slice_memory(self) -> SliceFollower:
        """Return the memory, with the weights of the segmenter.

        Raises
        ------
        InputError
            If the network has none that was trained.
        Unavailable
            If it cannot be loaded now.
        """
        ...


def has_slice_memory(segmenter: object) -> bool:
    """Whether a segmenter's network has a memory that was trained."""
    return isinstance(segmenter, SegmenterWithMemory) and segmenter.has_slice_memory


def open_slice_memory(segmenter: object) -> SliceFollower:
    """Return the memory of a segmenter's network.

    Raises
    ------
    InputError
        If it has none that was trained, or is not in this process.
    Unavailable
        If it cannot be loaded now.
    """
    if isinstance(segmenter, SegmenterWithMemory):
        return segmenter.open_slice_memory()
    raise no_slice_memory(type(segmenter).__name__)


def no_slice_memory(received: str) -> InputError:
    """Make the error for a segmenter without a trained memory."""
    return InputError(
        "this model has no trained memory to follow slices with",
        received=received,
        hint="Use SAM 2.1 or MedSAM2 in this process; following with prompts works with every model.",
    )
