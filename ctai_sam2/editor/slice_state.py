"""Where a mask of a volume comes from on each slice, and how plausible it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ctai_sam2.errors import InputError
from ctai_sam2.types import SliceGate, SliceSource


@dataclass(frozen=True, kw_only=True)
class SliceState:
    """One label on one slice of a volume.

    Parameters
    ----------
    source : {"anchor", "automatic", "propagated", "interpolated", "absent"}, optional
        Where its mask comes from; None where nothing was decided. An ``anchor`` was drawn or locked by a
        reader and is never replaced; ``absent`` says that the structure is not on this slice.
    gate : {"green", "amber", "red"}, optional
        How plausible the mask is next to its neighbours; None where it was not judged.
    reasons : tuple of str
        Why it is not green.
    confidence : float, optional
        Of the model, 0 to 1.
    is_end : bool
        Whether propagation stops at this slice.

    Raises
    ------
    InputError
        If a source or gate is none of these.
    """

    source: SliceSource | None = None
    gate: SliceGate | None = None
    reasons: tuple[str, ...] = ()
    confidence: float | None = None
    is_end: bool = False

    def __post_init__(self) -> None:
        if self.source is not None and self.source not in get_args(SliceSource):
            raise InputError("no such source of a mask", received=str(self.source)[:40])
        if self.gate is not None and self.gate not in get_args(SliceGate):
            raise InputError("no such gate", received=str(self.gate)[:40])

    @property
    def is_fixed(self) -> bool:
        """Whether a reader decided about the slice: nothing but a reader changes it."""
        return self.source in ("anchor", "absent")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "source": self.source,
            "gate": self.gate,
            "reasons": list(self.reasons),
            "confidence": self.confidence,
            "is_end": self.is_end,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SliceState:
        """Read what `to_json` wrote."""
        confidence = value["confidence"]
        return cls(
            source=value["source"],
            gate=value["gate"],
            reasons=tuple(str(reason) for reason in value["reasons"]),
            confidence=None if confidence is None else float(confidence),
            is_end=bool(value["is_end"]),
        )


@dataclass(frozen=True, kw_only=True)
class StatePatch:
    """One label's state on a slice, before and after."""

    label: str
    before: SliceState | None
    after: SliceState | None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        states = {"before": self.before, "after": self.after}
        return {"label": self.label} | {
            name: None if state is None else state.to_json() for name, state in states.items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StatePatch:
        """Read what `to_json` wrote."""
        before, after = (
            None if value[name] is None else SliceState.from_json(value[name]) for name in ("before", "after")
        )
        return cls(label=str(value["label"]), before=before, after=after)
