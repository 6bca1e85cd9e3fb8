"""The bar under the picture: which slice of a volume, where it lies, and which ones are outlined."""

from __future__ import annotations

from html import escape

import ipywidgets as ipw

from ctai_sam2.editor import Controller
from ctai_sam2.editor.localiser import position_mm
from ctai_sam2.types import CTVolume
from ctai_sam2.widgets.controls import ControlFactory, set_shown


class SliceBar:
    """A slider with a mark for every outlined slice; not shown for a single one.

    Parameters
    ----------
    controls : ControlFactory
        Connects it.
    """

    def __init__(self, controls: ControlFactory) -> None:
        self._controls = controls
        self._slider = controls.setting(
            "view.slice", ipw.IntSlider(min=0, max=0), lambda index: controls.controller.go_to(index)
        )
        self._marks, self._position = ipw.HTML(), ipw.HTML()
        self._marks.add_class("ctai-sam2-marks")
        track = ipw.Box([self._slider, self._marks])
        track.add_class("ctai-sam2-track")
        self.widget = ipw.Box([track, self._position])
        self.widget.add_class("ctai-sam2-slices")

    def refresh(self, controller: Controller, *, measure: bool) -> None:
        """Show the slice in view; ``measure`` also looks anew which slices are outlined."""
        document = controller.document
        set_shown(self.widget, document.slice_count > 1)
        if document.slice_count == 1:
            return
        last = document.slice_count - 1
        self._slider.max = last
        self._slider.value = document.index
        number = self._controls.text("view.slice_of", number=document.index + 1, count=last + 1)
        place = position_mm(document)
        where = "" if place is None else f" · {place[0]} {place[1]:.1f} mm"
        numbers = document.source.instance_numbers if isinstance(document.source, CTVolume) else ()
        if document.profile.plane == "axial" and numbers and numbers[document.index] is not None:
            where += f" · {self._controls.text('view.instance', number=numbers[document.index])}"
        self._position.value = f'<span class="ctai-sam2-numbers">{escape(number + where)}</span>'
        if measure:
            self._marks.value = "".join(
                f'<span style="left:{100 * index / last:.2f}%" title="{index}"></span>'
                for index in document.indices
            )
