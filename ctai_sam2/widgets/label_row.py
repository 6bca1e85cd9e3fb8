"""One label in the panel: its colour, its buttons, its numbers."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import ipywidgets as ipw

from ctai_sam2.editor import Label, text
from ctai_sam2.widgets.controls import set_shown


class LabelRow:
    """A label: its colour, a button to make it active, whether it is shown and locked, its numbers.

    Parameters
    ----------
    name : str
        The label's.
    choose : callable
        Makes it active.
    change : callable
        Takes ``visible``, ``locked`` or ``colour`` by keyword.
    """

    def __init__(self, name: str, *, choose: Callable[[], None], change: Callable[..., None]) -> None:
        self._name = name
        self._colour = ipw.ColorPicker(concise=True)
        self._numbers = ipw.HTML()
        self._active, self._shown, self._locked = ipw.ToggleButton(), ipw.ToggleButton(), ipw.ToggleButton()
        self._active.add_class("ctai-sam2-label")
        for toggle in (self._shown, self._locked):
            toggle.add_class("ctai-sam2-icon")
        self._active.observe(lambda _: choose(), "value")
        self._shown.observe(lambda now: change(visible=now["new"]), "value")
        self._locked.observe(lambda now: change(locked=now["new"]), "value")
        self._colour.observe(lambda now: change(colour=now["new"].upper()), "value")
        self.widget = ipw.Box([self._colour, self._active, self._shown, self._locked, self._numbers])
        self.widget.add_class("ctai-sam2-row")

    def translate(self, language: str) -> None:
        """Speak another language."""
        label = text(f"label.{self._name}", language)
        self._active.description = self._active.tooltip = label
        self._shown.tooltip = text("view.show", language, label=label)
        self._locked.tooltip = text("view.lock", language, label=label)
        self._colour.tooltip = text("view.colour", language, label=label)

    def show(self, label: Label, *, is_active: bool) -> None:
        """Show the label's state."""
        self._active.value = is_active
        self._active.button_style = "info" if is_active else ""
        self._shown.value, self._locked.value = label.visible, label.locked
        self._shown.icon = "eye" if label.visible else "eye-slash"
        self._locked.icon = "lock" if label.locked else "unlock"
        self._colour.value = label.colour.lower()

    def show_numbers(self, words: str, outline_cm2: str = "") -> None:
        """Show what was measured, and in grey the outline's area where it differs; no line for nothing."""
        outline = f' <span class="ctai-sam2-outline">({escape(outline_cm2)})</span>' if outline_cm2 else ""
        set_shown(self._numbers, bool(words))
        self._numbers.value = f'<span class="ctai-sam2-numbers">{escape(words)}{outline}</span>'
