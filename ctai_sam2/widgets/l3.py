"""The editor of L3 on a sagittal slice."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ctai_sam2 import segmentation
from ctai_sam2.editor import L3, Box, Message, Profile
from ctai_sam2.editor.commands import SetMask
from ctai_sam2.editor.localiser import row_of_axial
from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.study.row import TableRow
from ctai_sam2.types import CTVolume
from ctai_sam2.widgets.canvas import Guide
from ctai_sam2.widgets.cases import Cases, Source
from ctai_sam2.widgets.editor import MaskEditor
from ctai_sam2.widgets.label_panel import Proposal

_MOST_PROPOSALS = 4


class L3MaskEditor(MaskEditor):
    """The third lumbar vertebra on a sagittal slice: mask, bounding rectangles, middle.

    Display it as the last line of a cell. Drag rectangles, as many as needed, or let one click find the
    body and its mask. Of a volume the slice through the spine is shown first. See `CaseEditor` for the
    parameters.
    """

    profile: ClassVar[Profile] = L3

    @property
    def rectangles(self) -> list[Box]:
        """Boxes around the mask's separate parts: (x0, y0, x1, y1), corners on pixel centres, inclusive."""
        with self.controller.lock:
            return self.document.rectangles("l3")

    @property
    def mid_row(self) -> int | None:
        """Row half-way between the mask's upper and lower end; None while there is no mask."""
        with self.controller.lock:
            return self._mid_row(self.document.index)

    @property
    def axial_index(self) -> int | None:
        """Of a volume, the axial slice through the middle of L3 (0 is the most inferior)."""
        with self.controller.lock:
            return self._axial_index(self.document.index)

    @property
    def levels(self) -> segmentation.L3Result | None:
        """Vertebral bodies that one click found on the slice in view, with their probabilities to be L3."""
        return None if self._one_click is None else self._one_click.levels(self.document.slice)

    def choose_level(self, candidate: int) -> None:
        """Take another of the bodies of `levels` for L3, as one undoable step; the model is not called again.

        Parameters
        ----------
        candidate : int
            Into ``levels.candidates``.

        Raises
        ------
        InputError
            If one click has found no such body on the slice in view.
        """
        with self.controller.lock:
            found = self.levels
            if found is None:
                raise InputError("one click has found no bodies on this slice", hint="Run it first.")
            chosen = found.choose(candidate).l3
            if chosen is not None:
                self.controller.apply(SetMask(label="l3", mask=chosen.mask, origin="ai"))

    def _propose(self) -> list[Proposal]:
        found = self.levels
        if found is None or not found.proposals:
            return []
        start = found.proposals[0]
        offers: list[Proposal] = []
        for index in sorted(found.proposals[:_MOST_PROPOSALS]):
            candidate = found.candidates[index]
            if candidate.result is None:
                continue
            key = "here" if index == start else "higher" if index < start else "lower"
            chance = "–" if candidate.l3_probability is None else f"{candidate.l3_probability:.0%}"
            values = {"steps": abs(index - start), "chance": chance}
            offers.append((Message(f"view.l3_{key}", values), partial(self.choose_level, index)))
        return offers

    def _measure(self, index: int) -> TableRow:
        ct_slice, mask = self.document.slice_at(index), self.document.mask("l3", index)
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max(), rows.max()) if rows.size else (None,) * 4
        row: TableRow = {
            "structure": "l3",
            "sagittal_index": ct_slice.index,
            "area_cm2": float(rows.size) * ct_slice.pixel_area_mm2 / 100,
            "hu_mean": float(ct_slice.hu[mask].mean()) if rows.size else None,
            "mid_l3_row": self._mid_row(index),
            "mid_l3_axial_index": self._axial_index(index),
        }
        names = ("x0", "y0", "x1", "y1")
        row |= {name: None if value is None else int(value) for name, value in zip(names, box, strict=True)}
        return row

    def _describe(self) -> list[Message]:
        lines = [
            Message(
                "view.rectangle", {"number": number, **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))}
            )
            for number, box in enumerate(self.rectangles, start=1)
        ]
        row, axial = self.mid_row, self.axial_index
        if axial is not None:
            lines.append(Message("view.mid_l3_axial", {"row": row, "index": axial}))
        elif row is not None:
            lines.append(Message("view.mid_l3", {"row": row}))
        return lines

    def _mid_row(self, index: int) -> int | None:
        rows = np.flatnonzero(self.document.mask("l3", index).any(axis=1))
        return int(rows[0] + rows[-1]) // 2 if rows.size else None

    def _axial_index(self, index: int) -> int | None:
        mask = self.document.mask("l3", index)
        source = self.document.source
        if not isinstance(source, CTVolume) or not mask.any():
            return None
        return segmentation.mid_l3_axial_index(source, mask)

    def _make_partner(self, source: Cases, **options: Any) -> MaskEditor:
        from ctai_sam2.widgets.middle import MiddleMaskEditor

        return MiddleMaskEditor(source, index=self.axial_index, **options)

    def _line_of(self, partner: MaskEditor) -> Guide | None:
        source = self.document.source
        if not isinstance(source, CTVolume):
            return None
        return "row", row_of_axial(source, partner.document.index)

    def _first_index(self, source: Source) -> int | None:
        if isinstance(source, CTVolume):
            # Where no spine is seen the middle slice serves as well as any.
            with suppress(AnatomyNotFound):
                return segmentation.choose_sagittal_index(source)
        return None
