"""The editor of the mid-L3 axial slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ctai_sam2.editor import MIDDLE, Message, Profile
from ctai_sam2.editor.strip import Direction
from ctai_sam2.measure.body_composition import measure_slice
from ctai_sam2.measure.columns import SIDED_GROUPS
from ctai_sam2.segmentation.volume import VolumeResult
from ctai_sam2.study.row import TableRow
from ctai_sam2.types import CTVolume, Mask, Progress
from ctai_sam2.widgets.canvas import Guide
from ctai_sam2.widgets.cases import Cases, Source
from ctai_sam2.widgets.editor import MaskEditor
from ctai_sam2.widgets.localiser import draw_localiser, known_axial_index
from ctai_sam2.widgets.volume_steps import (
    Found,
    describe_volume,
    load_result,
    propagation,
    range_segmentation,
    take,
    to_result,
)


class MiddleMaskEditor(MaskEditor):
    """Psoas of either side, all skeletal muscle ("combo") and fat on an axial slice.

    Display it as the last line of a cell. One click finds both psoas, all muscle or the fat, whichever label
    is active, or psoas and muscle at once; then brush, polygon and points correct it. Of a volume whose L3 is
    outlined in `L3MaskEditor` the slice through its middle is shown first. See `CaseEditor` for the
    parameters.

    Examples
    --------
    In a notebook::

        editor = ct.MiddleMaskEditor(volume, index=47)
        editor
    """

    profile: ClassVar[Profile] = MIDDLE
    _takes_height: ClassVar[bool] = True
    _line_index = 0
    """Slice at which the localiser's line is drawn where the page side does not move it."""

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

    @property
    def volume_result(self) -> VolumeResult | None:
        """All that is outlined on the volume, as `segment_volume` gives it; None for a single slice."""
        with self.controller.lock:
            return to_result(self.document)

    def load_result(self, result: VolumeResult) -> None:
        """Take over the masks, gates and levels of a `VolumeResult` as one step that can be undone.

        Raises
        ------
        InputError
            If it is of another volume, or none of its structures has a label here.
        """
        self.controller.say(load_result(self.controller, result))

    def set_range(self, first: int, last: int) -> None:
        """Choose which slices of the volume count: propagation ends there, and volumes are of them.

        Raises
        ------
        InputError
            If the range is outside the volume.
        """
        self.controller.set_range(first, last)

    def propagate(self, *directions: Direction, wait_s: float | None = 300.0) -> None:
        """Segment on from the slice in view, up to slices that a reader decided about, and wait for it.

        Parameters
        ----------
        *directions : {"up", "down"}
            Towards the head or the feet; both when omitted.
        wait_s : float or None
            How long to wait at most.
        """
        self._propagate(directions or ("up", "down"))
        self.controller.inference.wait(wait_s)

    def save(self, folder: str | Path | None = None) -> list[Path]:
        """Write what `CaseEditor.save` writes and, of a volume with several slices, its masks and tables."""
        files = super().save(folder)
        result = self.volume_result if len(self.document.indices) > 1 else None
        if result is not None:
            from ctai_sam2.study.volume_outputs import write_volume_result  # brings what reads files

            written = write_volume_result(result, files[-1].parent / "volume")
            files = [*written.masks, written.slices, written.levels, *files]
        return files

    def _show_case(self) -> None:
        super()._show_case()
        self.controller.handlers |= {
            "from_here_up": lambda: self._propagate(("up",)),
            "from_here_down": lambda: self._propagate(("down",)),
            "from_here_both": lambda: self._propagate(("up", "down")),
            "segment_range": self._segment_range,
        }

    def _propagate(self, directions: Sequence[Direction]) -> None:
        if self._is_by_slice():
            return
        if self._segmenter is not None and self.controller.inference.status.state != "disabled":
            with self.controller.lock:
                work = propagation(self.controller, self._segmenter, directions)
            if work is None:
                label = Message(f"label.{self.document.view.active}")
                self.controller.say(Message("status.nothing_to_propagate", {"label": label}))
                return
            self._run(work)

    def _segment_range(self) -> None:
        if self._is_by_slice():
            return
        if self._segmenter is not None:
            with self.controller.lock:
                work = range_segmentation(self.controller, self._segmenter)
            if work is not None:
                self._run(work)

    def _is_by_slice(self) -> bool:
        """Say so where the active label cannot be followed through a volume."""
        active = self.document.view.active
        if active not in SIDED_GROUPS:
            return False
        self.controller.say(Message("status.slice_by_slice", {"label": Message(f"label.{active}")}))
        return True

    def _run(self, work: Callable[[Progress], Found]) -> None:
        controller = self.controller
        controller.inference.run_task(work, lambda found: take(controller, found))

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
        return [*lines, *describe_volume(self.document, self.document.view.active)]

    def _localise(self) -> str:
        source = self.document.source
        if not self._display.canvas.page_draws:
            self._line_index = self.document.index
        # The page side moves the line by itself; with another one the picture would be sent anew.
        return draw_localiser(source, self._line_index) if isinstance(source, CTVolume) else ""

    def _make_partner(self, source: Cases, **options: Any) -> MaskEditor:
        from ctai_sam2.widgets.l3 import L3MaskEditor

        return L3MaskEditor(source, **options)

    def _line_of(self, partner: MaskEditor) -> Guide | None:
        return "column", partner.document.index

    def _first_index(self, source: Source) -> int | None:
        if not isinstance(source, CTVolume):
            return None
        return known_axial_index(source, self.folder, list(self._cases), self._cases)
