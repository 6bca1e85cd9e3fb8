"""Everything around the picture: buttons, sliders, labels with their numbers, and the status lines.

A control does an action of the controller and shows its state; it decides nothing.
`Panel.refresh` writes every state anew, and a page is told only what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any, TypeAlias

import ipywidgets as ipw

from ctai_sam2.editor import (
    LANGUAGES,
    Controller,
    Message,
    compare_labels,
    measure_labels,
    text,
)
from ctai_sam2.editor.actions import BY_NAME
from ctai_sam2.editor.document import MAX_BRUSH_MM, MIN_BRUSH_MM
from ctai_sam2.image.windowing import PRESETS
from ctai_sam2.widgets.events import Guard
from ctai_sam2.widgets.label_row import LabelRow
from ctai_sam2.widgets.style import SPINNER, STYLE

Proposal: TypeAlias = tuple[Message, Callable[[], object]]

_LANGUAGE_NAMES = {"en": "English", "zh": "中文"}
_MASK_ACTIONS = (
    *("fill_holes", "keep_largest", "remove_islands", "grow", "shrink", "smooth", "apply_limit"),
    *("copy_below", "copy_above"),
)
_ICONS = {
    "undo": "undo",
    "redo": "repeat",
    "run": "magic",
    "fit": "arrows-alt",
    "zoom_in": "search-plus",
    "zoom_out": "search-minus",
}
_NARROW = {"zoom_in", "zoom_out", "next_candidate", "previous_candidate", "brush_smaller", "brush_larger"}
_GLYPHS = {
    "next_candidate": "›",
    "previous_candidate": "‹",
    "brush_smaller": "−",
    "brush_larger": "+",
    "zoom_in": "",
    "zoom_out": "",
}
_KEY_NAMES = {" ": "Space", "arrowup": "↑", "arrowdown": "↓"}


class Panel:
    """The controls of an editor.

    Parameters
    ----------
    controller : Controller
        What they act on, until `show` is given another one.
    canvas : Widget
        The picture, placed in the middle.
    guard : callable
        Runs every handler and shows its errors.
    save : callable
        Does what the save button says.
    step_case : callable, optional
        Takes -1 or 1: opens the previous or next case; without it there are no such buttons.
    describe : callable
        Lines that an editor adds under its labels' numbers.
    check : callable
        Looks again whether one click is available, where it was not.
    propose : callable
        Other answers to choose from: what a button says, and what it does.
    """

    def __init__(
        self,
        controller: Controller,
        canvas: ipw.Widget,
        *,
        guard: Guard,
        save: Callable[[], object],
        step_case: Callable[[int], object] | None,
        describe: Callable[[], Sequence[Message]],
        check: Callable[[], object],
        propose: Callable[[], Sequence[Proposal]],
    ) -> None:
        self._controller, self._guard, self._describe = controller, guard, describe
        self._propose = propose
        self._offers: list[Proposal] = []
        self._refreshing = self._is_frozen = False
        self._language = ""
        self._retext: list[Callable[[str], None]] = []
        self._title, self._saved, self._case = ipw.HTML(), ipw.HTML(), ipw.HTML()
        self._toast, self._status, self._readout = ipw.HTML(), ipw.HTML(), ipw.HTML()
        self._question, self._numbers, self._help = ipw.HTML(), ipw.HTML(), ipw.HTML()
        self._spinner = ipw.HTML(SPINNER)
        self._buttons = {name: self._action_button(name) for name in _BUTTON_ACTIONS}
        self._check = self._button("action.retry", check)
        self._toggles = {name: self._action_toggle(name) for name in ("toggle_outline", "toggle_limit")}
        self._sign = self._sign_toggle()
        self._tools = self._tool_chooser()
        self._window = self._window_chooser()
        self._brush = self._number(
            "view.brush",
            ipw.BoundedFloatText(
                min=MIN_BRUSH_MM, max=MAX_BRUSH_MM, step=0.5, layout=ipw.Layout(width="150px")
            ),
            "brush_radius_mm",
        )
        self._opacity = self._number(
            "view.opacity",
            ipw.FloatSlider(min=0, max=1, step=0.05, readout=False, layout=ipw.Layout(width="98%")),
            "opacity",
        )
        self._slice = self._slice_slider()
        self._rows = {name: self._label_row(name) for name in controller.document.labels}
        self._choice = self._language_chooser()
        self._save = self._button("view.save", save, icon="save")
        self._proposals = ipw.VBox()
        self._confirm = ipw.HBox(
            [
                self._question,
                self._button("view.continue", lambda: self._controller.answer(True), style="warning"),
                self._button("action.cancel", lambda: self._controller.answer(False)),
            ]
        )
        self._confirm.add_class("ctai-sam2-confirm")
        cases: list[ipw.Widget] = []
        if step_case is not None:
            cases = [
                self._button("view.previous_case", lambda: step_case(-1)),
                self._case,
                self._button("view.next_case", lambda: step_case(1)),
            ]
        self.widget = self._lay_out(canvas, cases)
        self.show(controller)

    def show(self, controller: Controller, case: Message | None = None) -> None:
        """Act on another controller from now on."""
        with controller.lock:
            self._controller = controller
            self._case_message = case
            self._language = ""
            self.refresh()

    def freeze(self) -> None:
        """Take no more input: the editor is closed."""
        self._is_frozen = True
        self.refresh()

    def guarded(self, act: Callable[[], object]) -> None:
        """Run a control's handler, unless it is the panel itself that moved the control."""

        def run() -> None:
            with self._controller.lock:
                if not self._refreshing:
                    act()

        self._guard(run)

    # Showing ---------------------------------------------------------------------------------

    def refresh(self, *, measure: bool = True) -> None:
        """Show the controller's state; ``measure`` also computes the labels' numbers anew."""
        with self._controller.lock:
            outer, self._refreshing = self._refreshing, True
            try:
                if self._language != self._controller.document.view.language:
                    self._translate()
                    measure = True
                self._show_view()
                self._show_inference()
                self._show_status()
                if measure:
                    self._show_numbers()
                if self._is_frozen:
                    for control in _controls_in(self.widget):
                        control.disabled = True
            finally:
                self._refreshing = outer

    def _translate(self) -> None:
        self._language = self._controller.document.view.language
        for apply in self._retext:
            apply(self._language)
        self._title.value = f"<b>{self._text(f'title.{self._controller.document.profile.name}')}</b>"
        self._help.value = self._help_table()
        self._choice.value = self._language
        if self._case_message is not None:
            self._case.value = escape(self._case_message.text(self._language))

    def _show_view(self) -> None:
        document, view = self._controller.document, self._controller.document.view
        self._tools.value = view.tool
        if abs(self._brush.value - view.brush_radius_mm) > 0.01:
            self._brush.value = view.brush_radius_mm
        self._opacity.value = view.opacity
        names = [name for name, window in PRESETS.items() if window == view.window]
        self._window.value = names[0] if names else ""
        self._sign.value = view.positive
        self._sign.description = self._text("view.positive" if view.positive else "view.negative")
        self._toggles["toggle_outline"].value = view.outline_only
        self._toggles["toggle_limit"].value = view.limit is not None
        self._slice.max = document.slice_count - 1
        self._slice.value = document.index
        self._slice.layout.display = None if document.slice_count > 1 else "none"
        for name in ("copy_below", "copy_above"):
            self._buttons[name].layout.display = None if document.slice_count > 1 else "none"
        self._buttons["undo"].disabled = not document.history.done
        self._buttons["redo"].disabled = not document.history.undone
        for name, row in self._rows.items():
            row.show(document.labels[name], is_active=name == view.active)
        outlining = view.tool == "polygon"
        for name in ("finish", "step_back"):
            self._buttons[name].layout.display = None if outlining else "none"

    def _show_inference(self) -> None:
        inference = self._controller.inference
        status = inference.status
        running, blocked = status.state == "running", status.state == "disabled"
        told = "" if status.message is None else status.message.text(self._language)
        run = self._buttons["run"]
        run.description = self._controller.run_message.text(self._language)
        for name in ("run", "refine"):
            self._buttons[name].disabled = running or blocked
        run.tooltip = told if blocked else self._tooltip("run")
        _set_shown(self._spinner, running)
        _set_shown(self._buttons["cancel"], running)
        _set_shown(self._buttons["retry"], status.state == "failed")
        # With no segmenter at all there is nothing to look at again.
        _set_shown(
            self._check, blocked and status.message is not None and status.message.key != "ai.no_segmenter"
        )
        several = status.candidates > 1
        _set_shown(self._buttons["previous_candidate"], several)
        _set_shown(self._buttons["next_candidate"], several)
        kind = {"failed": "bad", "disabled": "off", "running": "busy"}.get(status.state, "good")
        lines = [escape(told), *(f"⚠ {escape(warning)}" for warning in status.warnings)]
        self._toast.value = _line(kind, "<br>".join(lines), role="status") if told else ""
        self._show_proposals()
        question = self._controller.confirmation
        self._question.value = "" if question is None else escape(question.message.text(self._language))
        _set_shown(self._confirm, question is not None)

    def _show_proposals(self) -> None:
        self._offers = list(self._propose())
        captions = [message.text(self._language) for message, _ in self._offers]
        if captions == [button.description for button in self._proposals.children]:
            return
        buttons = []
        for number, caption in enumerate(captions):
            button = ipw.Button(description=caption, tooltip=caption, layout=ipw.Layout(width="auto"))
            button.on_click(lambda _, number=number: self.guarded(lambda: self._offers[number][1]()))
            buttons.append(button)
        self._proposals.children = buttons

    def _show_status(self) -> None:
        message = self._controller.message or Message(f"help.{self._controller.document.view.tool}")
        self._status.value = _line("plain", escape(message.text(self._language)), role="status")
        here = self._controller.readout
        self._readout.value = _line(
            "readout",
            "&nbsp;"
            if here is None
            else text(
                "status.readout",
                self._language,
                x=here.column,
                y=here.row,
                hu=f"{here.hu:.0f}",
                x_mm=f"{here.x_mm:.1f}",
                y_mm=f"{here.y_mm:.1f}",
            ),
        )
        key = "view.unsaved" if self._controller.unsaved else "view.kept"
        if not self._controller.has_record:
            key = "view.no_journal"
        mark = "✓" if key == "view.kept" else "⚠"
        self._saved.value = _line("good" if mark == "✓" else "bad", f"{mark} {self._text(key)}")

    def _show_numbers(self) -> None:
        document = self._controller.document
        measured = {row.label: row for row in measure_labels(document)}
        for name, row in self._rows.items():
            found = measured.get(name)
            row.show_numbers("–" if found is None else f"{found.area_cm2:.1f} cm² · {found.mean_hu:.0f} HU")
        lines = [message.text(self._language) for message in self._describe()]
        for name, dice in compare_labels(document).items():
            agreement = text("view.agreement", self._language, dice=f"{dice:.2f}")
            lines.append(f"{self._text(f'label.{name}')} – {agreement}")
        self._numbers.value = "<br>".join(escape(line) for line in lines)

    # Building --------------------------------------------------------------------------------

    def _lay_out(self, canvas: ipw.Widget, cases: list[ipw.Widget]) -> ipw.VBox:
        # What comes and goes lies beside or under the picture, which must not move under a drawing hand.
        b = self._buttons
        wrap = {"flex_flow": "row wrap", "align_items": "center"}
        space = ipw.Box(layout=ipw.Layout(flex="1 1 auto"))
        header = ipw.HBox([self._title, *cases, space, self._saved, self._save, self._choice])
        asking = ipw.HBox(
            [
                *(b[name] for name in ("run", "refine", "clear_prompts")),
                self._sign,
                *(b[name] for name in ("previous_candidate", "next_candidate", "cancel", "retry")),
                self._check,
                self._spinner,
            ]
        )
        editing = ipw.HBox(
            [
                *(b[name] for name in ("undo", "redo", "clear", "finish", "step_back")),
                *(b["brush_smaller"], self._brush, b["brush_larger"]),
                self._toggles["toggle_limit"],
            ]
        )
        for row in (header, asking, editing):
            row.layout = ipw.Layout(**wrap)
        more = ipw.Accordion(
            children=[
                ipw.Box([b[name] for name in _MASK_ACTIONS], layout=ipw.Layout(**wrap)),
                self._help,
            ]
        )
        self._retext.append(
            lambda language: more.set_trait(
                "titles", (text("view.more", language), text("view.help", language))
            )
        )
        side = ipw.VBox(
            [
                self._confirm,
                *(row.widget for row in self._rows.values()),
                self._numbers,
                self._proposals,
                self._window,
                self._opacity,
                ipw.HBox([self._toggles["toggle_outline"], b["zoom_out"], b["zoom_in"], b["fit"]]),
                more,
            ],
            layout=ipw.Layout(width="400px", flex="0 0 auto"),
        )
        told = [self._readout, self._status, self._toast]
        picture = ipw.VBox(
            [canvas, self._slice, *told], layout=ipw.Layout(flex="0 0 auto", width=canvas.layout.width)
        )
        middle = ipw.HBox([picture, side], layout=ipw.Layout(flex_flow="row wrap"))
        widget = ipw.VBox([ipw.HTML(STYLE), header, self._tools, asking, editing, middle])
        widget.add_class("ctai-sam2-editor")
        return widget

    def _text(self, key: str) -> str:
        return text(key, self._language)

    def _tooltip(self, action: str) -> str:
        keys = ", ".join(_KEY_NAMES.get(key, key) for key in BY_NAME[action].keys)
        return self._text(BY_NAME[action].text) + (f"  [{keys}]" if keys else "")

    def _button(self, key: str, act: Callable[[], object], *, icon: str = "", style: str = "") -> ipw.Button:
        button = ipw.Button(icon=icon, button_style=style, layout=ipw.Layout(width="auto"))
        button.on_click(lambda _: self.guarded(act))

        def say(language: str) -> None:
            button.description = button.tooltip = text(key, language)

        self._retext.append(say)
        return button

    def _action_button(self, name: str) -> ipw.Button:
        button = self._button(
            BY_NAME[name].text,
            lambda: self._controller.do(name),
            icon=_ICONS.get(name, ""),
            style="primary" if name == "run" else "",
        )
        if name in _NARROW:
            button.layout.width = "36px"
            button.add_class("ctai-sam2-icon")

        def say(_: str) -> None:
            button.tooltip = self._tooltip(name)
            button.description = _GLYPHS.get(name, button.description)

        self._retext.append(say)
        return button

    def _action_toggle(self, name: str) -> ipw.ToggleButton:
        toggle = ipw.ToggleButton(layout=ipw.Layout(width="auto"))
        toggle.observe(lambda _: self.guarded(lambda: self._controller.do(name)), "value")

        def say(_: str) -> None:
            toggle.description, toggle.tooltip = self._text(BY_NAME[name].text), self._tooltip(name)

        self._retext.append(say)
        return toggle

    def _sign_toggle(self) -> ipw.ToggleButton:
        toggle = ipw.ToggleButton(value=True, layout=ipw.Layout(width="auto"))
        toggle.observe(
            lambda change: self.guarded(lambda: self._controller.adjust(positive=change["new"])), "value"
        )
        self._retext.append(lambda _: toggle.set_trait("tooltip", self._tooltip("toggle_sign")))
        return toggle

    def _tool_chooser(self) -> ipw.ToggleButtons:
        tools = self._controller.document.profile.tools
        chooser = ipw.ToggleButtons(options=tools)
        chooser.style.button_width = "auto"
        chooser.observe(
            lambda change: self.guarded(lambda: self._controller.adjust(tool=change["new"])), "value"
        )

        def say(_: str) -> None:
            chooser.options = [(self._text(f"tool.{tool}"), tool) for tool in tools]
            chooser.tooltips = [
                f"{self._tooltip(f'tool.{tool}')}\n{self._text(f'help.{tool}')}" for tool in tools
            ]

        self._retext.append(say)
        return chooser

    def _window_chooser(self) -> ipw.Dropdown:
        chooser = ipw.Dropdown(options=["", *PRESETS], layout=ipw.Layout(width="98%"))

        def choose(name: str) -> None:
            if name:
                self._controller.adjust(window=PRESETS[name])

        def say(language: str) -> None:
            presets = [(text(f"window.{name.replace(' ', '_')}", language), name) for name in PRESETS]
            chooser.options = [*presets, (text("view.custom", language), "")]
            chooser.description = text("view.window", language)

        chooser.observe(lambda change: self.guarded(lambda: choose(change["new"])), "value")
        self._retext.append(say)
        return chooser

    def _number(self, key: str, control: Any, setting: str) -> Any:
        """Connect a control of a number with a setting of the view."""
        control.observe(
            lambda change: self.guarded(lambda: self._controller.adjust(**{setting: change["new"]})), "value"
        )

        def say(language: str) -> None:
            control.description = control.tooltip = text(key, language)

        self._retext.append(say)
        return control

    def _slice_slider(self) -> ipw.IntSlider:
        slider = ipw.IntSlider(min=0, max=0, layout=ipw.Layout(width="98%"))
        slider.observe(lambda change: self.guarded(lambda: self._controller.go_to(change["new"])), "value")
        self._retext.append(lambda language: slider.set_trait("description", text("view.slice", language)))
        return slider

    def _label_row(self, name: str) -> LabelRow:
        def choose() -> None:
            self._controller.adjust(active=name)
            # Pressed again while active it stays so.
            self.refresh(measure=False)

        row = LabelRow(
            name,
            choose=lambda: self.guarded(choose),
            change=lambda **settings: self.guarded(lambda: self._controller.adjust_label(name, **settings)),
        )
        self._retext.append(row.translate)
        return row

    def _language_chooser(self) -> ipw.Dropdown:
        options = [(_LANGUAGE_NAMES[language], language) for language in LANGUAGES]
        chooser = ipw.Dropdown(options=options, layout=ipw.Layout(width="90px"))
        chooser.observe(
            lambda change: self.guarded(lambda: self._controller.adjust(language=change["new"])), "value"
        )
        return chooser

    def _help_table(self) -> str:
        tools = self._controller.document.profile.tools
        names = [f"tool.{tool}" for tool in tools]
        names += [name for name in BY_NAME if not name.startswith("tool.") and BY_NAME[name].keys]
        rows = []
        for name in names:
            action = BY_NAME[name]
            keys = " ".join(f"<kbd>{escape(_KEY_NAMES.get(key, key))}</kbd>" for key in action.keys)
            key = action.text.replace("tool.", "help.") if action.name in names[: len(tools)] else ""
            words = escape(self._text(action.text)) + (f": {escape(self._text(key))}" if key else "")
            rows.append(f"<tr><td>{keys}</td><td>{words}</td></tr>")
        hint = f"<p>{escape(self._text('view.keys_hint'))}</p>"
        return f'<div class="ctai-sam2-help">{hint}<table>{"".join(rows)}</table></div>'


_BUTTON_ACTIONS = (
    *("run", "refine", "clear_prompts", "previous_candidate", "next_candidate", "cancel", "retry"),
    *("undo", "redo", "clear", "finish", "step_back", "brush_smaller", "brush_larger"),
    *("zoom_out", "zoom_in", "fit", *_MASK_ACTIONS),
)


def _set_shown(widget: ipw.Widget, is_shown: bool) -> None:
    widget.layout.display = None if is_shown else "none"


def _line(kind: str, content: str, *, role: str = "") -> str:
    told = f' role="{role}"' if role else ""
    return f'<div class="ctai-sam2-{kind}"{told}>{content}</div>'


def _controls_in(widget: ipw.Widget) -> list[ipw.Widget]:
    found = [widget] if "disabled" in widget.traits() else []
    for child in getattr(widget, "children", ()):
        found += _controls_in(child)
    return found
