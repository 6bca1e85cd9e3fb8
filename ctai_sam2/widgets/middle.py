"""The editor of the mid-L3 axial slice."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ctai_sam2.editor import MIDDLE, Message, Profile
from ctai_sam2.measure.body_composition import measure_slice
from ctai_sam2.study_outputs import TableRow
from ctai_sam2.types import CTVolume, Mask
from ctai_sam2.widgets.editor import MaskEditor, Source
from ctai_sam2.widgets.localiser import draw_localiser, known_axial_index


class MiddleMaskEditor(MaskEditor):
    """Psoas of either side, all skeletal muscle ("combo") and fat on an axial slice.

    Display it as the last line of a cell. One click finds both psoas, all muscle or the fat, whichever label
    is active, or psoas and muscle at once; then brush, polygon and points correct it. Of a volume whose L3 is
    outlined in `L3MaskEditor` the slice through its middle is shown first. See `MaskEditor` for the
    parameters.

    Examples
    --------
    In a notebook::

        editor = ct.MiddleMaskEditor(volume, index=47)
        editor
    """

    profile: ClassVar[Profile] = MIDDLE
    _takes_height: ClassVar[bool] = True

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
        return dict(
            measure_slice(
                ct_slice.hu,
                self.document.masks(index),
                ct_slice.spacing_mm,
                height_m=self._height_in_use(index),
                slice_extent_mm=ct_slice.thickness_mm,
                middle_slice=ct_slice.index,
            )
        )

    def _describe(self) -> list[Message]:
        row = self._measure(self.document.index)
        lines = []
        area, mean = row["psoas_area_mm2"], row["psoas_hu_mean"]
        if isinstance(area, float) and isinstance(mean, float):
            values = {"label": Message("label.psoas"), "area": f"{area / 100:.1f}", "mean": f"{mean:.0f}"}
            lines.append(Message("status.area", values))
        if isinstance(row["smi_cm2_m2"], float):
            lines.append(Message("view.smi", {"smi": f"{row['smi_cm2_m2']:.1f}"}))
        return lines

    def _localise(self) -> str:
        source = self.document.source
        # The page side moves the line by itself.
        index = 0 if self._canvas.page_draws else self.document.index
        return draw_localiser(source, index) if isinstance(source, CTVolume) else ""

    def _first_index(self, source: Source) -> int | None:
        if not isinstance(source, CTVolume):
            return None
        return known_axial_index(source, self.folder, list(self._cases), self._cases)
