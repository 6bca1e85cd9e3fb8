"""Vertebral levels along a volume, as an editor shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctai_sam2.errors import InputError
from ctai_sam2.structures import LEVELS


@dataclass(frozen=True, kw_only=True)
class LevelSpan:
    """A level and where it lies.

    Parameters
    ----------
    name : str
        Of `ctai_sam2.structures.LEVELS`.
    lower_mm, upper_mm : float
        Its end plates as slice positions, see `CTVolume.slice_positions_mm`.

    Raises
    ------
    InputError
        If there is no such level, or its ends are not finite and in order.
    """

    name: str
    lower_mm: float
    upper_mm: float

    def __post_init__(self) -> None:
        if self.name not in LEVELS:
            raise InputError(
                "no such level", received=str(self.name)[:40], hint=f"Known: {', '.join(LEVELS)}."
            )
        if not (math.isfinite(self.lower_mm) and self.lower_mm <= self.upper_mm < math.inf):
            raise InputError(
                "a level lies between two positions", received=f"{self.lower_mm} to {self.upper_mm} mm"
            )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"name": self.name, "lower_mm": self.lower_mm, "upper_mm": self.upper_mm}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LevelSpan:
        """Read what `to_json` wrote."""
        return cls(
            name=str(value["name"]), lower_mm=float(value["lower_mm"]), upper_mm=float(value["upper_mm"])
        )
