"""What a segmenter predicts, and which model it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.types.checks import frozen, set_field
from ctai_sam2.types.ct import Window
from ctai_sam2.types.prompts import Mask


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which model made a prediction: enough to reproduce a mask or to notice that it changed.

    Parameters
    ----------
    name : str
        Registry name, for example ``sam2-ct-nano``.
    weights_sha256 : str
        Hex digest of the weights file.
    image_size : int
        Side in pixels at which the encoder runs.
    device, dtype : str
        For example ``cpu``, ``float32``.
    code_version : str
        Version of this package.
    structures : tuple of str
        Structures that the model knows by name, see `Prompt`.
    """

    name: str
    weights_sha256: str
    image_size: int
    device: str
    dtype: str
    code_version: str
    structures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Health:
    """Whether a segmenter is available, and why not.

    Parameters
    ----------
    available : bool
        True if it can make a prediction now.
    backend : str
        ``local``, ``remote``, ``cached``, ``fallback`` or a test's name.
    detail : str
        One sentence for a person.
    identity : ModelIdentity, optional
        The model it would use.
    """

    available: bool
    backend: str
    detail: str
    identity: ModelIdentity | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Prediction:
    """Candidate masks, best first, and where they came from.

    Parameters
    ----------
    masks : array_like of bool, shape (K, H, W)
        One to three candidates.
    scores : array_like, shape (K,)
        Confidence in each, 0 to 1, decreasing: the model's predicted IoU; where its weights carry a
        calibration, as the embedded ones do, the probability that the mask reaches a Dice of 0.85.
    identity : ModelIdentity
        The model that made them.
    processing_time_ms : float
        Time the model took; for a cached prediction, the time of the original run.
    cached : bool
        True where nothing was computed.
    backend : str
        The segmenter that made it.
    window : Window, optional
        The window the image was made with, where known.

    Raises
    ------
    InputError
        If shapes disagree or scores are not sorted.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    identity: ModelIdentity
    processing_time_ms: float
    cached: bool = False
    backend: str = "local"
    window: Window | None = None

    def __post_init__(self) -> None:
        masks = np.asarray(self.masks)
        scores = np.array(self.scores, dtype=np.float32)
        if masks.ndim != 3 or masks.dtype != np.bool_ or len(masks) == 0 or scores.shape != (len(masks),):
            raise InputError(
                "a prediction is boolean masks (K, H, W) with K scores",
                received=f"{masks.dtype} {masks.shape} and {scores.shape}",
            )
        if not np.isfinite(scores).all() or (np.diff(scores) > 0).any():
            raise InputError("scores must be finite and sorted best first", received=scores.tolist())
        set_field(self, "masks", frozen(masks.view()))
        set_field(self, "scores", frozen(scores))

    def __repr__(self) -> str:
        count, rows, columns = self.masks.shape
        return (
            f"Prediction({count} masks of {rows} x {columns}, confidence {self.confidence_score:.2f}, "
            f"{self.identity.name} by {self.backend})"
        )

    @property
    def mask(self) -> Mask:
        """The best candidate, shape (H, W)."""
        best: Mask = self.masks[0]
        return best

    @property
    def confidence_score(self) -> float:
        """Confidence in the best candidate, 0 to 1; see `scores`."""
        return float(self.scores[0])

    def with_candidate_first(self, index: int) -> Prediction:
        """Only candidate ``index``, as a prediction of its own."""
        if not 0 <= index < len(self.masks):
            raise InputError("no such candidate", received=index, hint=f"Give 0 to {len(self.masks) - 1}.")
        return replace(self, masks=self.masks[index : index + 1], scores=self.scores[index : index + 1])
