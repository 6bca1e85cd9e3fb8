"""What an editor shows: picture, events and controls, painted together."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ctai_sam2.editor import Change, Controller, Message
from ctai_sam2.errors import CtaiError
from ctai_sam2.widgets.canvas import Guide, SliceCanvas
from ctai_sam2.widgets.canvas_manager import PAINT_EVERY_S, Pacer
from ctai_sam2.widgets.events import Events
from ctai_sam2.widgets.panel import Panel, PanelSource

_log = logging.getLogger(__name__)

_SIZE = (600, 540)
"""Of a picture whose page has not said yet how much is visible, in CSS pixels."""


class Display:
    """Picture, events and panel of an editor; shows its errors, too.

    Parameters
    ----------
    controller : Controller
        Of the first case; `show` brings it up, and the next one's.
    source : PanelSource
        What the panel shows and does.
    width, height : int or None
        Of the picture, in CSS pixels; it fills what is visible where both are None.
    """

    def __init__(
        self, controller: Controller, source: PanelSource, *, width: int | None, height: int | None
    ) -> None:
        self._is_closed = False
        self._measure_again = True
        self.pacer = Pacer(self.paint, PAINT_EVERY_S)
        self.canvas = SliceCanvas(
            controller, width=width or _SIZE[0], height=height or _SIZE[1], on_ready=self.request
        )
        self.events = Events(
            self.canvas,
            self.guard,
            controls=lambda: (self.panel.widget,),
            fills=width is None and height is None,
        )
        self.panel = Panel(
            controller,
            self.canvas.widget,
            source,
            guard=self.guard,
            gathered=self.events.bundles.gathered,
            is_early=self.events.is_early,
            pixel_ratio=lambda: self.canvas.pixel_ratio,
        )
        self.widget = self.panel.widget
        self.widget.children = (*self.widget.children, self.events.companion)

    @property
    def controller(self) -> Controller:
        """The controller of the case in view."""
        return self.canvas.controller

    def show(self, controller: Controller) -> None:
        """Show another case from now on."""
        if controller is not self.controller:
            self.canvas.show(controller)
        self.events.attach(controller)
        self.panel.show(controller)

    def take(self, change: Change) -> None:
        """Take a change, under the controller's lock, perhaps from the background thread."""
        self.canvas.require(change)
        self._measure_again |= bool(change.aspects & {"mask", "slice", "labels"})
        self.request()

    def measure_again(self) -> None:
        """Compute the labels' numbers anew with the next picture."""
        self._measure_again = True
        self.request()

    def draw_guide(self, line: Guide | None) -> None:
        """Draw a line where another editor's slice lies."""
        if line != self.canvas.guide:
            self.canvas.guide = line
            self.request()

    def request(self) -> None:
        """Paint soon."""
        self.pacer.request()

    def paint(self) -> None:
        """Send what is not on the page yet."""

        def paint() -> None:
            with self.controller.lock, self.events.bundles.gathered():
                measure, self._measure_again = self._measure_again, False
                self.canvas.paint()
                self.panel.refresh(measure=measure)
                self.events.show()

        try:
            paint()
        except Exception as error:
            # Nothing above would show it: ipywidgets drops what a callback raises.
            _log.exception("painting the editor failed")
            self.controller.message = Message("view.error", {"why": type(error).__name__})

    def guard(self, act: Callable[[], object]) -> None:
        """Run what a page requested; what it raises is shown in the status line."""
        try:
            if not self._is_closed:
                act()
        except CtaiError as error:
            self.controller.refuse(error)
        except Exception as error:
            _log.exception("an event of the editor failed")
            self.controller.say(Message("view.error", {"why": type(error).__name__}))

    def close(self) -> None:
        """Take no more input, and paint no more by itself."""
        self._is_closed = True
        self.pacer.close()

    def freeze(self) -> None:
        """Show for the last time that the editor is closed."""
        self.panel.freeze()
