"""Panel over the picture: labels with their numbers, notes, other levels, mask operations and view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TypeAlias

import ipywidgets as ipw

from ctai_sam2.editor import LANGUAGES, Controller, Message, compare_labels, compare_stacks, measure_labels
from ctai_sam2.editor.actions import offered_labels
from ctai_sam2.measure.columns import SIDED_GROUPS
from ctai_sam2.widgets.controls import ControlFactory, set_shown
from ctai_sam2.widgets.label_row import LabelRow

Proposal: TypeAlias = tuple[Message, Callable[[], object]]

_LANGUAGE_NAMES = {"en": "English", "zh": "中文"}
_MASK_ACTIONS = (
    *("fill_holes", "keep_largest", "remove_islands", "grow", "shrink", "smooth", "apply_limit"),
    *("copy_below", "copy_above"),
)
_TOGGLES = ("toggle_groups", "toggle_smooth", "toggle_wheel")
_MAX_HEIGHT_CM = 260.0


class LabelPanel:
    """The panel at the picture's right edge; it can be hidden.

    Parameters
    ----------
    controls : ControlFactory
        Makes its controls.
    labels : sequence of str
        Names of the profile's labels.
    describe : callable
        Lines that an editor adds under its labels' numbers.
    propose : callable
        Other results to choose from: what a button says, and what it does.
    localiser : callable
        HTML that shows where the slice lies; empty where that is not known.
    height_m : callable
        Body height in metres, or None.
    set_height_m : callable or None
        Takes another body height; None where the editor has no use for it.
    """

    def __init__(
        self,
        controls: ControlFactory,
        labels: Sequence[str],
        *,
        describe: Callable[[], Sequence[Message]],
        propose: Callable[[], Sequence[Proposal]],
        localiser: Callable[[], str],
        height_m: Callable[[], float | None],
        set_height_m: Callable[[float | None], object] | None,
    ) -> None:
        self._controls = controls
        self._describe, self._propose, self._localise = describe, propose, localiser
        self._height_m = height_m
        self._offers: list[Proposal] = []
        self._rows = {name: self._label_row(name) for name in labels}
        self._numbers, self._localiser = ipw.HTML(), ipw.HTML()
        self.proposals = ipw.VBox()
        self._height = controls.setting(
            "view.height",
            ipw.BoundedFloatText(min=0, max=_MAX_HEIGHT_CM, step=1),
            lambda cm: set_height_m and set_height_m(cm / 100 if cm else None),
        )
        self._height.add_class("ctai-sam2-field")
        set_shown(self._height, set_height_m is not None)
        self._mask_buttons = {name: controls.action(name) for name in _MASK_ACTIONS}
        self._opacity = controls.setting(
            "view.opacity",
            ipw.FloatSlider(min=0, max=1, step=0.05, readout=False),
            lambda value: controls.controller.adjust(opacity=value),
        )
        self._toggles = {name: controls.toggle(name) for name in _TOGGLES}
        self._comparing = {
            "toggle_differences": controls.toggle("toggle_differences"),
            "take_over": controls.action("take_over"),
        }
        operations = ipw.Box(list(self._mask_buttons.values()))
        view = ipw.Box([self._opacity, *self._toggles.values(), self._language_chooser()])
        self._comparison = ipw.Box(list(self._comparing.values()))
        for box in (operations, view, self._comparison):
            box.add_class("ctai-sam2-wrap")
        drawer = ipw.Accordion(children=[operations, view])
        controls.on_translate(
            lambda _: drawer.set_trait("titles", (controls.text("view.more"), controls.text("view.look")))
        )
        rows = ipw.Box([row.widget for row in self._rows.values()])
        rows.add_class("ctai-sam2-rows")
        self.widget = ipw.Box(
            [rows, self._numbers, self._comparison, self._height, self.proposals, drawer, self._localiser],
        )
        self.widget.add_class("ctai-sam2-panel")

    def refresh(self, controller: Controller, *, measure: bool) -> None:
        """Show the controller's state; ``measure`` also computes the labels' numbers anew."""
        document, view = controller.document, controller.document.view
        offered = offered_labels(document)
        for name, row in self._rows.items():
            row.show(document.labels[name], is_active=name == view.active)
            set_shown(row.widget, name in offered)
        self._toggles["toggle_groups"].value = view.groups
        set_shown(self._toggles["toggle_groups"], "groups" in document.profile.groups)
        self._opacity.value = view.opacity
        self._toggles["toggle_smooth"].value = view.smooth
        self._toggles["toggle_wheel"].value = view.wheel_scrolls
        self._comparing["toggle_differences"].value = view.differences
        set_shown(self._comparison, bool(document.references))
        for name in ("copy_below", "copy_above"):
            set_shown(self._mask_buttons[name], document.slice_count > 1)
        set_shown(self._toggles["toggle_wheel"], document.slice_count > 1)
        self._show_proposals()
        if measure:
            self._height.value = round(100 * (self._height_m() or 0.0), 1)
            self._show_numbers(controller)

    def _show_numbers(self, controller: Controller) -> None:
        document = controller.document
        measured = {row.label: row for row in measure_labels(document)}
        for name, row in self._rows.items():
            found = measured.get(name)
            if found is None:
                row.show_numbers("")
            else:
                outline = f"{found.area_cm2:.1f}" if found.area_cm2 != found.measured_cm2 else ""
                row.show_numbers(f"{found.measured_cm2:.1f} cm² · {found.measured_hu:.0f} HU", outline)
        lines = [message.text(self._controls.language) for message in self._describe()]
        for name, dice in compare_labels(document).items():
            agreement = self._controls.text("view.agreement", dice=f"{dice:.2f}")
            lines.append(f"{self._controls.text(f'label.{name}')} – {agreement}")
        for name, dice in compare_stacks(document).items():
            agreement = self._controls.text("view.agreement_stack", dice=f"{dice:.2f}")
            lines.append(f"{self._controls.text(f'label.{name}')} – {agreement}")
        self._numbers.value = "<br>".join(escape(line) for line in lines)
        self._localiser.value = self._localise()

    def _show_proposals(self) -> None:
        self._offers = list(self._propose())
        captions = [message.text(self._controls.language) for message, _ in self._offers]
        if captions == [button.description for button in self.proposals.children]:
            return
        buttons = []
        for number, caption in enumerate(captions):
            button = ipw.Button(description=caption, tooltip=caption, layout=ipw.Layout(width="auto"))
            button.on_click(
                lambda _, number=number: self._controls.guarded(lambda: self._offers[number][1]())
            )
            buttons.append(button)
        self.proposals.children = buttons

    def _label_row(self, name: str) -> LabelRow:
        controls = self._controls

        def choose() -> None:
            controls.controller.adjust(active=name)
            # Pressed again while active it stays so.
            controls.is_refreshing = True
            try:
                with controls.gathered():
                    for each, row in self._rows.items():
                        row.show(controls.controller.document.labels[each], is_active=each == name)
            finally:
                controls.is_refreshing = False

        row = LabelRow(
            name,
            choose=lambda: controls.guarded(choose),
            change=lambda **settings: controls.guarded(
                lambda: controls.controller.adjust_label(name, **settings)
            ),
        )
        controls.on_translate(row.translate)
        if name in SIDED_GROUPS:
            row.widget.add_class("ctai-sam2-half")
        return row

    def _language_chooser(self) -> ipw.Dropdown:
        options = [(_LANGUAGE_NAMES[language], language) for language in LANGUAGES]
        chooser = ipw.Dropdown(options=options, layout=ipw.Layout(width="90px"))
        controls = self._controls
        chooser.observe(
            lambda change: controls.guarded(lambda: controls.controller.adjust(language=change["new"])),
            "value",
        )

        def say(language: str) -> None:
            chooser.value, chooser.tooltip = language, controls.text("view.language")

        controls.on_translate(say)
        return chooser
