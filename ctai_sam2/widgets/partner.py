"""Two editors of one volume, one per plane: each shows where the other one's slice lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as ipw

from ctai_sam2.widgets.canvas import Guide
from ctai_sam2.widgets.display import Display

if TYPE_CHECKING:
    from ctai_sam2.widgets.editor import MaskEditor


class PartnerPlace:
    """The place under an editor for the one of the other plane.

    Parameters
    ----------
    editor : MaskEditor
        Whose place it is.
    display : Display
        The editor's.
    line_of : callable
        Where another editor's slice cuts the slices of this one.
    """

    def __init__(
        self, editor: MaskEditor, display: Display, line_of: Callable[[MaskEditor], Guide | None]
    ) -> None:
        self._editor, self._display, self._line_of = editor, display, line_of
        # A box that stretches its content: an editor has no width of its own.
        self.widget = ipw.VBox()
        self._other: PartnerPlace | None = None

    @property
    def partner(self) -> MaskEditor | None:
        """The editor of the other plane; None where there is none."""
        return None if self._other is None else self._other._editor

    def put(self, other: PartnerPlace) -> None:
        """Show another editor here, and in both where the other one's slice lies."""
        self._other, other._other = other, self
        self.widget.children = (other._editor.widget,)
        self.show_lines()

    def leave(self) -> None:
        """Close the partner that is shown here; one that this editor is shown under stays open."""
        other, self._other = self._other, None
        self._display.canvas.guide = None
        if other is None:
            return
        other._other = None
        other._display.canvas.guide = None
        if other._editor.widget in self.widget.children:
            self.widget.children = ()
            other._editor.close()
        else:
            other.widget.children = ()
            other._display.request()

    def show_lines(self) -> None:
        """Show in both editors where the other one's slice lies."""
        other = self._other
        if other is None:
            return
        for place, partner in ((self, other), (other, self)):
            place._display.draw_guide(place._line_of(partner._editor))
