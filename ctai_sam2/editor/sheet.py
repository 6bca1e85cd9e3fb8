"""What is on one slice: masks, prompts and states by label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ctai_sam2.editor.history import Marks, MaskPatch
from ctai_sam2.editor.slice_state import SliceState
from ctai_sam2.types import Mask

Author: TypeAlias = Literal["model", "reader"]
"""Who a mask is from: the model alone, or a person who drew or changed it."""


@dataclass
class Sheet:
    """Masks, prompts and revisions of one slice; a label that is missing is empty."""

    masks: dict[str, Mask] = field(default_factory=dict)
    marks: dict[str, Marks] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    opening: dict[str, Author] = field(default_factory=dict)
    """Who the masks are from that the document was opened with."""
    states: dict[str, SliceState] = field(default_factory=dict)

    def to_json(self, empty: Mask) -> dict[str, Any]:
        """Return plain values, from which `from_json` makes the masks again bit for bit."""
        patches = [MaskPatch.between(name, empty, mask) for name, mask in self.masks.items()]
        return {
            "masks": [patch.to_json() for patch in patches if patch is not None],
            "marks": {name: marks.to_json() for name, marks in self.marks.items() if marks},
            "opening": dict(self.opening),
            "states": {name: state.to_json() for name, state in self.states.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], empty: Mask) -> Sheet:
        """Make a sheet of such values; ``empty`` is a mask without any pixel.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the values are of another kind.
        """
        shape_hw = (empty.shape[0], empty.shape[1])
        patches = [MaskPatch.from_json(each, shape_hw) for each in value["masks"]]
        opening = value.get("opening", {})
        return cls(
            masks={patch.label: patch.apply(empty) for patch in patches},
            marks={name: Marks.from_json(marks) for name, marks in value["marks"].items()},
            opening={name: "model" if author == "model" else "reader" for name, author in opening.items()},
            states={name: SliceState.from_json(each) for name, each in value.get("states", {}).items()},
        )

    @property
    def labels(self) -> set[str]:
        """Labels that something is known of."""
        return {*self.masks, *self.marks, *self.opening, *self.states}
