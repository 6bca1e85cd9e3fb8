"""Buttons, toggles and fields that do an action of the controller and speak the language in view."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import ipywidgets as ipw

from ctai_sam2.editor import Controller, Message, text
from ctai_sam2.editor.actions import BY_NAME
from ctai_sam2.errors import CtaiError

Guard = Callable[[Callable[[], object]], None]
"""Runs something and shows what it raises."""

Gathered = Callable[[], AbstractContextManager[None]]
"""Sends what a block changes in one message, and so in order with what a paint changes."""

KEY_NAMES = {" ": "Space", "arrowup": "↑", "arrowdown": "↓", "arrowleft": "←", "arrowright": "→"}
_ICONS = {
    **{"undo": "undo", "redo": "repeat", "clear": "trash", "run": "magic", "save": "save"},
    **{"fit": "expand", "zoom_in": "search-plus", "zoom_out": "search-minus", "accept": "check"},
    **{"toggle_outline": "circle-o", "toggle_limit": "tint", "help": "question", "panel": "columns"},
    **{"open_partner": "clone", "previous_case": "chevron-left", "next_case": "chevron-right"},
    **{"from_here_up": "arrow-up", "from_here_down": "arrow-down", "from_here_both": "arrows-v"},
    **{"segment_range": "bars", "interpolate": "ellipsis-v", "next_red": "flag", "lock_here": "lock"},
    **{"absent_here": "ban", "end_here": "stop", "undo_slice": "history"},
    **{"brush_smaller": "minus", "brush_larger": "plus", "finish": "check-square", "step_back": "reply"},
}
_GLYPHS = {"next_candidate": "›", "previous_candidate": "‹"}


def key_text(key: str) -> str:
    """Write a key as a keyboard shows it.

    Examples
    --------
    >>> key_text("ctrl+z"), key_text("shift+arrowleft"), key_text("+")
    ('Ctrl+Z', 'Shift+←', '+')
    """
    parts = key.split("+") if len(key) > 1 else [key]
    return "+".join(KEY_NAMES.get(part, part.capitalize() if part != "" else "+") for part in parts)


class ControlFactory:
    """Makes controls, translates them together, and keeps their handlers from reacting to a mere refresh.

    Parameters
    ----------
    controller : callable
        Returns the controller that is shown at the time.
    guard : callable
        Runs every handler and shows its errors.
    gathered : callable
        Around what changes controls outside of a refresh.
    is_early : callable
        Whether the page still shows another case than the controller's.
    """

    def __init__(
        self,
        controller: Callable[[], Controller],
        guard: Guard,
        gathered: Gathered = nullcontext,
        is_early: Callable[[], bool] = lambda: False,
    ) -> None:
        self._controller, self._guard, self.gathered = controller, guard, gathered
        self._is_early = is_early
        self._on_translate: list[Callable[[str], object]] = []
        self.is_refreshing = False
        self.language = ""

    @property
    def controller(self) -> Controller:
        """The controller that is shown."""
        return self._controller()

    def guarded(self, act: Callable[[], object]) -> None:
        """Run a control's handler, unless a refresh moved the control, or another case was in view."""

        def run() -> None:
            with self.controller.lock:
                if self.is_refreshing:
                    return
                if self._is_early():
                    self.controller.say(Message("view.too_early"))
                else:
                    act()

        self._guard(run)

    def translate(self, language: str) -> None:
        """Write every control's words in another language."""
        self.language = language
        for apply in self._on_translate:
            apply(language)

    def on_translate(self, apply: Callable[[str], object]) -> None:
        """Call something with each language that is chosen."""
        self._on_translate.append(apply)

    def text(self, key: str, **values: Any) -> str:
        """Look a text up in the language in view."""
        return text(key, self.language, **values)

    def tooltip(self, action: str) -> str:
        """Return what an action does, and its keys."""
        keys = ", ".join(key_text(key) for key in self.controller.keys.keys_of(action))
        return self.text(BY_NAME[action].text) + (f"  [{keys}]" if keys else "")

    def button(self, key: str, act: Callable[[], object], *, icon: str = "", style: str = "") -> ipw.Button:
        """Make a button with a text of the table."""
        button = ipw.Button(icon=icon, button_style=style, layout=ipw.Layout(width="auto"))
        button.on_click(lambda _: self.guarded(act))

        def say(language: str) -> None:
            button.description = button.tooltip = text(key, language)

        self.on_translate(say)
        return button

    def action(self, name: str, *, is_icon: bool = False) -> ipw.Button:
        """Make the button of an action; as an icon its words are for screen readers and the tooltip."""
        button = self.button(
            BY_NAME[name].text,
            lambda: self.controller.do(name),
            icon=_ICONS.get(name, ""),
            style="primary" if name in ("run", "accept") else "",
        )
        if is_icon or name in _GLYPHS:
            button.add_class("ctai-sam2-icon")

        def say(_: str) -> None:
            button.tooltip = self.tooltip(name)
            button.description = _GLYPHS.get(name, button.description)

        self.on_translate(say)
        return button

    def toggle(self, name: str, *, is_icon: bool = False) -> ipw.ToggleButton:
        """Make the toggle of an action that switches something on and off."""
        toggle = ipw.ToggleButton(icon=_ICONS.get(name, ""), layout=ipw.Layout(width="auto"))
        toggle.observe(lambda _: self.guarded(lambda: self.controller.do(name)), "value")
        if is_icon:
            toggle.add_class("ctai-sam2-icon")

        def say(_: str) -> None:
            toggle.description, toggle.tooltip = self.text(BY_NAME[name].text), self.tooltip(name)

        self.on_translate(say)
        return toggle

    def setting(self, key: str, control: Any, take: Callable[[Any], object]) -> Any:
        """Connect a field with what takes its value; a value that is refused is set back."""

        def change(event: Any) -> None:
            def act() -> None:
                try:
                    take(event["new"])
                except CtaiError:
                    self.is_refreshing = True
                    try:
                        with self.gathered():
                            control.value = event["old"]
                    finally:
                        self.is_refreshing = False
                    raise

            self.guarded(act)

        control.observe(change, "value")

        def say(language: str) -> None:
            control.description = control.tooltip = text(key, language)

        self.on_translate(say)
        return control


def set_shown(widget: ipw.Widget, is_shown: bool) -> None:
    """Show a widget, or take it out of the layout."""
    widget.layout.display = None if is_shown else "none"
