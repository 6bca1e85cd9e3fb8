"""What goes into a request for a mask and what comes out: candidates, status, confirmations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from ctai_sam2.editor.i18n import Message
from ctai_sam2.errors import InputError
from ctai_sam2.image.masks import as_mask
from ctai_sam2.types import CTSlice, Mask, Prompt


class MaskSource(Protocol):
    """Source of masks that the view passes to the editor: a segmenter behind one call."""

    def __call__(self, ct_slice: CTSlice, label: str, prompt: Prompt | None, revision: int) -> Any:
        """Segment a label on a slice.

        Parameters
        ----------
        ct_slice : CTSlice
            The slice at the time of the request.
        label : str
            A structure's name.
        prompt : Prompt or None
            Points, box and mask to refine; None for one click without any.
        revision : int
            Of the label; for the caller's own bookkeeping.

        Returns
        -------
        object
            A ``StructureResult``, a ``Prediction`` or an `MaskCandidates`.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskCandidates:
    """Candidate masks for one label.

    Parameters
    ----------
    masks : tuple of ndarray of bool, shape (H, W)
        Best first; at least one.
    scores : tuple of float or None
        Confidence in each, 0 to 1; None where it is not known.
    processing_time_ms : float or None
        Time of the model.
    cached : bool
        True where nothing was computed.
    backend : str
        Which backend made the masks; empty where it is not known.
    warnings : tuple of str
        Reasons to look twice.
    model : str
        Name of the model; empty where it is not known.
    """

    masks: tuple[Mask, ...]
    scores: tuple[float | None, ...]
    processing_time_ms: float | None = None
    cached: bool = False
    backend: str = ""
    warnings: tuple[str, ...] = ()
    model: str = ""

    @classmethod
    def of(cls, result: Any) -> MaskCandidates:
        """Convert what a segmenter or one click returned.

        The first candidate is a result's own, cleaned mask; the others are the model's as they are.

        Raises
        ------
        InputError
            If it has no mask.
        """
        if isinstance(result, cls):
            return result
        prediction = getattr(result, "prediction", None) if hasattr(result, "prediction") else result
        mask = getattr(result, "mask", None)
        if mask is None:
            raise InputError("the segmenter returned no mask", received=type(result).__name__)
        others = () if prediction is None else tuple(prediction.masks[1:])
        scores = () if prediction is None else tuple(float(s) for s in prediction.scores[1:])
        confidence = getattr(result, "confidence", None)
        if confidence is None and prediction is not None:
            confidence = prediction.confidence_score
        return cls(
            masks=tuple(as_mask(each) for each in (mask, *others)),
            scores=(confidence, *scores),
            processing_time_ms=getattr(prediction, "processing_time_ms", None),
            cached=bool(getattr(prediction, "cached", False)),
            backend=str(getattr(prediction, "backend", "")),
            warnings=tuple(getattr(result, "warnings", ())),
            model=str(getattr(getattr(prediction, "identity", None), "name", "")),
        )


State: TypeAlias = Literal["idle", "running", "failed", "disabled"]


@dataclass(frozen=True, kw_only=True)
class InferenceStatus:
    """Where inference stands, ready to be shown.

    Parameters
    ----------
    state : {"idle", "running", "failed", "disabled"}
        ``disabled`` carries its reason as the message, for the button's tooltip.
    message : Message or None
        Message for the user.
    confidence : float or None
        Of the last result's mask, 0 to 1; of several labels the lowest.
    processing_time_ms : float or None
        Of the last result; of several labels the sum.
    elapsed_s : float or None
        From request to result.
    cached : bool
        Whether the last result came from the cache.
    backend : str
        Which backend made it.
    warnings : tuple of str
        What to look at.
    candidate, candidates : int
        Which candidate is shown, from 1, of how many; 0 where there is none.
    """

    state: State = "idle"
    message: Message | None = None
    confidence: float | None = None
    processing_time_ms: float | None = None
    elapsed_s: float | None = None
    cached: bool = False
    backend: str = ""
    warnings: tuple[str, ...] = ()
    candidate: int = 0
    candidates: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Confirmation:
    """Asks before something on slice ``index`` is replaced; closed by `Controller.resolve_confirmation`."""

    message: Message
    index: int
    proceed: Callable[[], object]


def summarise(status: InferenceStatus) -> Message:
    """Put a result into one line."""
    values = {
        "confidence": "–" if status.confidence is None else f"{status.confidence:.0%}",
        "seconds": f"{status.elapsed_s or 0.0:.1f}",
        "backend": status.backend or "–",
    }
    return Message("ai.done_cached" if status.cached else "ai.done", values)
