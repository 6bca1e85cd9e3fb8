"""The editor of the mid-L3 axial slice."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ctai_sam2.editor import MIDDLE, Message, Profile
from ctai_sam2.measure.body_composition import measure_slice
from ctai_sam2.study_outputs import TableRow
from ctai_sam2.types import Mask
from ctai_sam2.widgets.editor import MaskEditor


class MiddleMaskEditor(MaskEditor):
    """Psoas of either side and all skeletal muscle ("combo") on an axial slice.

    Display it as the last line of a cell. One click finds both psoas, or all muscle, whichever label is
    active; then brush, polygon and points correct it. See `MaskEditor` for the parameters.

    Examples
    --------
    In a notebook::

        editor = ct.MiddleMaskEditor(volume, index=47)
        editor
    """

    profile: ClassVar[Profile] = MIDDLE

    @property
    def masks(self) -> dict[str, Mask]:
        """Masks of the slice in view that are not empty, each bool (H, W).

        By label: ``psoas_left``, ``psoas_right`` and ``muscle``; ``psoas`` is both sides together.
        """
        masks = super().masks
        sides = [masks[side] for side in ("psoas_left", "psoas_right") if side in masks]
        if sides:
            masks["psoas"] = np.logical_or.reduce(sides)
        return masks

    def _measure(self, index: int) -> TableRow:
        ct_slice = self.document.slice_at(index)
        height_m = self._height_m or ct_slice.acquisition.patient_height_m
        return dict(
            measure_slice(
                ct_slice.hu,
                self.document.masks(index),
                ct_slice.spacing_mm,
                height_m=height_m,
                slice_extent_mm=ct_slice.thickness_mm,
                middle_slice=ct_slice.index,
            )
        )

    def _describe(self) -> list[Message]:
        psoas = self.masks.get("psoas")
        if psoas is None:
            return []
        ct_slice = self.document.slice
        return [
            Message(
                "status.area",
                {
                    "label": Message("label.psoas"),
                    "area": f"{np.count_nonzero(psoas) * ct_slice.pixel_area_mm2 / 100:.1f}",
                    "mean": f"{ct_slice.hu[psoas].mean():.0f}",
                },
            )
        ]
