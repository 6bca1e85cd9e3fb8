"""A case of a worklist, as a reader opens it, and what a reader changed of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ctai_sam2.segmentation import VolumeResult
from ctai_sam2.types import CTSlice, Mask


@dataclass(frozen=True, kw_only=True)
class WorklistItem:
    """A case of the list.

    Parameters
    ----------
    case_id : str
        Name of the case.
    flags : mapping of str to str
        Why to look at it: flags in order of gravity, each with a sentence.
    reviewed_by : str or None
        Who looked at it last.
    """

    case_id: str
    flags: Mapping[str, str]
    reviewed_by: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is flagged and not reviewed."""
        return bool(self.flags) and self.reviewed_by is None


@dataclass(frozen=True, kw_only=True, eq=False)
class ReviewCase:
    """A case to look at.

    Parameters
    ----------
    item : WorklistItem
        Which, and why.
    ct_slice : CTSlice
        The slice that was measured.
    masks : mapping of str to ndarray of bool, shape (H, W)
        As they count now: the reader's where there are any, the model's for the rest.
    axial_index : int or None
        Where the slice lies in its volume.
    levels : VolumeResult or None
        The range of levels, where there is one and the study can be read.
    corrected : frozenset of str
        Structures of ``masks`` that are a reader's.
    """

    item: WorklistItem
    ct_slice: CTSlice
    masks: Mapping[str, Mask]
    axial_index: int | None = None
    levels: VolumeResult | None = None
    corrected: frozenset[str] = frozenset()

    def changes(self, drawn: Mapping[str, Mask]) -> dict[str, Mask]:
        """Return those of a reader's masks that differ from the ones here; an empty one only if it erases."""
        nothing = np.zeros(self.ct_slice.shape_hw, dtype=bool)
        shown = self.masks if self.axial_index is None else self.shown_masks(self.axial_index)
        return {name: mask for name, mask in drawn.items() if (mask != shown.get(name, nothing)).any()}

    def shown_masks(self, axial_index: int) -> dict[str, Mask]:
        """Masks of a slice of the volume as a reader is to see them: on the slice measured, ``masks``."""
        levels = self.levels
        found: dict[str, Mask] = {}
        if levels is not None:
            for name, slices in levels.structure_slices.items():
                if axial_index in slices:
                    found[name] = slices[axial_index].full(self.ct_slice.shape_hw)
        return {**found, **(self.masks if axial_index == self.axial_index else {})}

    def volume_changes(
        self, drawn: Callable[[str, int], Mask], is_confirmed: Callable[[str, int], bool]
    ) -> dict[str, dict[int, Mask]]:
        """Return a reader's masks of the range of levels that differ from those here, or are confirmed.

        A correction of the slice that was measured belongs to the range too, also one from before.

        Parameters
        ----------
        drawn : callable
            Mask, shape (H, W), of a structure on a slice.
        is_confirmed : callable
            Whether a reader decided that this mask stays.
        """
        changed: dict[str, dict[int, Mask]] = {}
        levels = self.levels
        if levels is None:
            return changed
        nothing = np.zeros(self.ct_slice.shape_hw, dtype=bool)
        for name, slices in levels.structure_slices.items():
            for index in levels.indices:
                one, mask = slices.get(index), drawn(name, index)
                was_decided = one is not None and one.source in ("anchor", "absent")
                shown = self.shown_masks(index)
                if index == self.axial_index and name in self.corrected and one is not None:
                    shown[name] = one.full(self.ct_slice.shape_hw)
                is_new = is_confirmed(name, index) and not was_decided
                if is_new or (mask != shown.get(name, nothing)).any():
                    changed.setdefault(name, {})[index] = mask
        return changed
