"""One label in the panel: its colour, its buttons, its numbers."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import ipywidgets as ipw

from ctai_sam2.editor import Label, text


class LabelRow:
    """A label: its colour, a button to make it active, whether it is shown and locked, its numbers.

    Parameters
    ----------
    name : str
        The label's.
    choose : callable
        Makes it active.
    change : callable
        Takes ``visible`` or ``locked`` by keyword.
    """

    def __init__(self, name: str, *, choose: Callable[[], None], change: Callable[..., None]) -> None:
        self._name = name
        self._swatch, self._numbers = ipw.HTML(), ipw.HTML(layout=ipw.Layout(flex="0 0 auto"))
        self._active = ipw.ToggleButton(layout=ipw.Layout(width="150px"))
        self._shown = ipw.ToggleButton(layout=ipw.Layout(width="34px"))
        self._locked = ipw.ToggleButton(layout=ipw.Layout(width="34px"))
        for toggle in (self._shown, self._locked):
            toggle.add_class("ctai-sam2-icon")
        self._active.observe(lambda _: choose(), "value")
        self._shown.observe(lambda now: change(visible=now["new"]), "value")
        self._locked.observe(lambda now: change(locked=now["new"]), "value")
        self.widget = ipw.HBox(
            [self._swatch, self._active, self._shown, self._locked, self._numbers],
            layout=ipw.Layout(align_items="center"),
        )

    def translate(self, language: str) -> None:
        """Speak another language."""
        label = text(f"label.{self._name}", language)
        self._active.description = self._active.tooltip = label
        self._shown.tooltip = text("view.show", language, label=label)
        self._locked.tooltip = text("view.lock", language, label=label)

    def show(self, label: Label, *, is_active: bool) -> None:
        """Show the label's state."""
        self._active.value = is_active
        self._active.button_style = "info" if is_active else ""
        self._shown.value, self._locked.value = label.visible, label.locked
        self._shown.icon = "eye" if label.visible else "eye-slash"
        self._locked.icon = "lock" if label.locked else "unlock"
        self._swatch.value = f'<span class="ctai-sam2-swatch" style="background:{label.colour}"></span>'

    def show_numbers(self, words: str) -> None:
        """Show what was measured."""
        self._numbers.value = f'<span class="ctai-sam2-numbers">{escape(words)}</span>'
