"""The contract every segmenter keeps, and the checks all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.types import Health, ModelIdentity, Prediction, Prompt, Window

MIN_SIDE_PX = 8
"""Below this a slice shows nothing a prompt could mean."""
MAX_SIDE_PX = 4096
"""Above this it is no CT slice, and the upsampled masks would take hundreds of megabytes."""

_Self = TypeVar("_Self", bound="Segmenter")


@runtime_checkable
class Segmenter(Protocol):
    """Predicts candidate masks for a prompt on a slice.

    What every implementation promises, in process or over a network:

    - **Stateless to the caller.** Any image may follow any other; embeddings are cached inside, keyed by
      content.
    - **Deterministic.** The same image and prompt give the same masks and scores, whatever was requested
      before.
    - **Safe to call from several threads**, with the results of serial calls.
    - **Nothing is changed**: neither the image nor the prompt. Any memory layout of the image will do.
    - **One to three candidates**, best first by predicted IoU, of the image's shape.
    - **Typed errors.** `InputError` for what the caller can correct, `Unavailable` (and its children) where
      another segmenter might succeed; anything else is a bug.
    - **Nothing heavy before it is needed**: constructing is cheap and does not fail for want of weights, a
      device or a service. `health` tells.
    """

    @property
    def identity(self) -> ModelIdentity:
        """The model that makes the predictions; stable while it stays the same model.

        Raises
        ------
        Unavailable
            If there is none now.
        """
        ...

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Segment what the prompt points at.

        Parameters
        ----------
        image_hw : ndarray of uint8, shape (H, W)
            The windowed slice, `MIN_SIDE_PX` to `MAX_SIDE_PX` pixels a side.
        prompt : Prompt
            Points, box or mask in pixel coordinates of the slice.
        window : Window, optional
            The window the image was made with; handed through to the prediction.

        Raises
        ------
        InputError
            If the image or the prompt cannot be used.
        Unavailable
            If no prediction can be made now.
        """
        ...

    def health(self) -> Health:
        """Whether a prediction can be requested now, and why not. Never raises."""
        ...

    def close(self) -> None:
        """Release memory, files and connections. May be called twice."""
        ...

    def __enter__(self: _Self) -> _Self:
        """Return itself; leaving the block closes it."""
        ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class Prefetching(Protocol):
    """A segmenter that can do the slow half of the work before the prompt is known."""

    def embed(self, image_hw: NDArray[np.uint8]) -> None:
        """Compute and keep the embedding of a slice, for example of the reader's next one.

        Raises
        ------
        InputError
            If the image cannot be used.
        Unavailable
            If it cannot be done now.
        """
        ...

    def warm_up(self) -> None:
        """Load the model and run it once, so that the first real prompt does not wait for that.

        Raises
        ------
        Unavailable
            If it cannot be done now.
        """
        ...


@runtime_checkable
class BatchEmbedding(Protocol):
    """A segmenter that embeds several slices in less time than one after the other."""

    def embed_many(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """Compute and keep the embeddings of several slices, each of any shape.

        Raises
        ------
        InputError
            If an image cannot be used; then nothing is computed.
        Unavailable
            If it cannot be done now.
        """
        ...


def require_image(image_hw: ArrayLike) -> NDArray[np.uint8]:
    """Check an image for use by a segmenter.

    Parameters
    ----------
    image_hw : array_like
        Should be uint8 of shape (H, W), `MIN_SIDE_PX` to `MAX_SIDE_PX` pixels a side.

    Returns
    -------
    ndarray of uint8, shape (H, W)
        The same pixels in C order; copied only where they were not.

    Raises
    ------
    InputError
        If the type, the number of dimensions or the size is wrong.

    Examples
    --------
    >>> require_image(np.zeros((16, 16), np.uint8)).shape
    (16, 16)
    """
    image = np.asarray(image_hw)
    if image.dtype != np.uint8:
        raise InputError(
            "a segmenter takes a windowed slice of uint8",
            received=str(image.dtype),
            hint="Apply a window to the Hounsfield units first.",
        )
    if image.ndim != 2:
        raise InputError(
            "a segmenter takes a grey image (H, W)",
            received=f"shape {image.shape}",
            hint="Pass one slice without colour channels.",
        )
    if image.size == 0:
        raise InputError("the image is empty", received=f"shape {image.shape}")
    if min(image.shape) < MIN_SIDE_PX or max(image.shape) > MAX_SIDE_PX:
        raise InputError(
            f"an image must have {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels a side",
            received=f"shape {image.shape}",
        )
    return np.ascontiguousarray(image)


def require_request(image_hw: ArrayLike, prompt: Prompt) -> NDArray[np.uint8]:
    """Check an image and the prompt meant for it; return the image as `require_image` does.

    Raises
    ------
    InputError
        If the image cannot be used, or the prompt is none, empty or leaves the image.
    """
    image = require_image(image_hw)
    if not isinstance(prompt, Prompt):
        raise InputError("a segmenter takes a Prompt", received=type(prompt).__name__)
    prompt.require_within((image.shape[0], image.shape[1]))
    return image
