"""Everything around the picture, put together: bars, rail, label panel, notices and help.

A control does an action of the controller and shows its state; it decides nothing.
`Panel.refresh` writes every state anew, and a page is sent only what differs. Where
things lie is written in `style`; the page side keeps the height at what is visible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import ipywidgets as ipw

from ctai_sam2.editor import Controller, Message
from ctai_sam2.editor.actions import BY_NAME
from ctai_sam2.editor.keys import RESERVED
from ctai_sam2.widgets.case_bar import CaseBar, CaseList
from ctai_sam2.widgets.controls import ControlFactory, Gathered, Guard, key_text
from ctai_sam2.widgets.label_panel import LabelPanel, Proposal
from ctai_sam2.widgets.notices import Notices
from ctai_sam2.widgets.slice_bar import SliceBar
from ctai_sam2.widgets.strip import SliceStrip
from ctai_sam2.widgets.style import STYLE
from ctai_sam2.widgets.tool_rail import OptionBar, ToolRail


@dataclass(frozen=True, kw_only=True)
class PanelSource:
    """What an editor gives its panel to show and do.

    Parameters
    ----------
    cases : callable
        Returns the list of cases.
    choose_case : callable
        Opens a case by its name.
    check_segmenter : callable
        Looks again whether one click is available, where it was not.
    describe : callable
        Lines that an editor adds under its labels' numbers.
    propose : callable
        Other results to choose from: what a button says, and what it does.
    localiser : callable
        HTML that shows where the slice lies.
    height_m : callable
        Body height in metres, or None.
    set_height_m : callable or None
        Takes another body height.
    """

    cases: Callable[[], CaseList]
    choose_case: Callable[[str], object]
    check_segmenter: Callable[[], object]
    describe: Callable[[], Sequence[Message]]
    propose: Callable[[], Sequence[Proposal]]
    localiser: Callable[[], str]
    height_m: Callable[[], float | None]
    set_height_m: Callable[[float | None], object] | None


class Panel:
    """The controls of an editor around its canvas.

    Parameters
    ----------
    controller : Controller
        What they act on; `show` brings them up, also with another one.
    canvas : Widget
        The picture.
    source : PanelSource
        What else they show and do.
    guard : callable
        Runs every handler and shows its errors.
    gathered : callable
        Around what changes controls outside of a paint.
    is_early : callable
        Whether the page still shows another case.
    pixel_ratio : callable
        The screen's pixels per CSS pixel.
    """

    def __init__(
        self,
        controller: Controller,
        canvas: ipw.Widget,
        source: PanelSource,
        *,
        guard: Guard,
        gathered: Gathered,
        is_early: Callable[[], bool],
        pixel_ratio: Callable[[], float],
    ) -> None:
        self._controller, self._source = controller, source
        self._is_frozen = False
        controls = self._controls = ControlFactory(lambda: self._controller, guard, gathered, is_early)
        profile = controller.document.profile
        self._cases = CaseBar(controls, choose=source.choose_case)
        self._options = OptionBar(controls, source.check_segmenter, has_groups="all" in profile.groups)
        self._rail = ToolRail(controls, profile.tools)
        self._notices = Notices(controls)
        self._labels = LabelPanel(
            controls,
            [label.name for label in profile.labels],
            describe=source.describe,
            propose=source.propose,
            localiser=source.localiser,
            height_m=source.height_m,
            set_height_m=source.set_height_m,
        )
        self._proposals = self._labels.proposals
        self._slices = SliceBar(controls)
        self._strip = SliceStrip(controls, pixel_ratio)
        self._help = ipw.HTML()
        self._help.add_class("ctai-sam2-help")
        self._help.layout.display = "none"
        controls.on_translate(lambda _: self._help.set_trait("value", self._help_table()))
        stage = ipw.Box(
            [canvas, self._notices.lines, self._notices.question, self._notices.readout, self._help]
        )
        stage.add_class("ctai-sam2-stage")
        body = ipw.Box([self._rail.widget, self._strip.widget, stage, self._labels.widget])
        body.add_class("ctai-sam2-body")
        self.widget = ipw.Box(
            [
                ipw.HTML(STYLE, layout=ipw.Layout(display="none")),
                *(self._cases.widget, self._options.widget, body, self._slices.widget),
            ]
        )
        self.widget.add_class("ctai-sam2-editor")

    def show(self, controller: Controller) -> None:
        """Act on another controller from now on."""
        with controller.lock:
            self._controller = controller
            controller.handlers |= {"help": self.toggle_help, "panel": self.toggle_labels}
            controller.handlers |= {"keys": self.show_keys, "dismiss": self.close_help}
            self._controls.language = ""
            self.refresh()

    def freeze(self) -> None:
        """Take no more input: the editor is closed."""
        self._is_frozen = True
        self.refresh()

    def toggle_help(self) -> None:
        """Show the list of keys, or hide it."""
        with self._controls.gathered():
            self._help.layout.display = None if self._help.layout.display == "none" else "none"

    def close_help(self) -> bool:
        """Hide the list of keys; whether it was shown."""
        was_shown: bool = self._help.layout.display != "none"
        if was_shown:
            self.toggle_help()
        return was_shown

    def show_keys(self) -> None:
        """Write tooltips and the list of keys anew: keys were changed."""
        self._controls.language = ""
        with self._controls.gathered():
            self.refresh()

    def toggle_labels(self) -> None:
        """Hide the panel over the picture, or show it."""
        layout = self._labels.widget.layout
        with self._controls.gathered():
            layout.display = None if layout.display == "none" else "none"

    def guarded(self, act: Callable[[], object]) -> None:
        """Run a control's handler, unless it is the panel itself that moved the control."""
        self._controls.guarded(act)

    def refresh(self, *, measure: bool = True) -> None:
        """Show the controller's state; ``measure`` also computes the labels' numbers anew."""
        controls = self._controls
        with self._controller.lock:
            outer, controls.is_refreshing = controls.is_refreshing, True
            try:
                language = self._controller.document.view.language
                if controls.language != language:
                    controls.translate(language)
                    measure = True
                self._cases.refresh(self._controller, self._source.cases())
                self._rail.refresh(self._controller)
                self._options.refresh(self._controller)
                self._labels.refresh(self._controller, measure=measure)
                self._slices.refresh(self._controller, measure=measure)
                self._strip.refresh(self._controller)
                self._notices.refresh(self._controller)
                if self._is_frozen:
                    for control in _controls_in(self.widget):
                        control.disabled = True
            finally:
                controls.is_refreshing = outer

    def _help_table(self) -> str:
        tools = [f"tool.{tool}" for tool in self._controller.document.profile.tools]
        keymap = self._controller.keys
        names = [*tools, *(n for n in BY_NAME if not n.startswith("tool."))]
        rows = []
        for name in names:
            action, texts = BY_NAME[name], [key_text(key) for key in keymap.keys_of(name)]
            if RESERVED & set(action.keys):
                keys = " ".join(f"<kbd>{escape(each)}</kbd>" for each in texts)
            else:
                shown = " ".join(texts) or "…"
                keys = f'<button class="ctai-sam2-key" data-action="{name}">{escape(shown)}</button>'
            words = escape(self._controls.text(action.text))
            if name in tools:
                words += f": {escape(self._controls.text(action.text.replace('tool.', 'help.')))}"
            rows.append(f"<tr><td>{keys}</td><td>{words}</td></tr>")
        hints = (escape(self._controls.text(key)) for key in ("view.keys_hint", "view.keys_change"))
        hint = f"<p>{'<br>'.join(hints)}</p>"
        return f"<div>{hint}<table>{''.join(rows)}</table></div>"


def _controls_in(widget: ipw.Widget) -> list[ipw.Widget]:
    found = [widget] if "disabled" in widget.traits() else []
    for child in getattr(widget, "children", ()):
        found += _controls_in(child)
    return found
