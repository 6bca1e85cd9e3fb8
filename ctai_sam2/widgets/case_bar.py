"""The bar above the picture: which case, what became of the others, accept and next, save, help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from types import MappingProxyType
from typing import Literal, TypeAlias

import ipywidgets as ipw

from ctai_sam2.editor import Controller
from ctai_sam2.widgets.controls import ControlFactory, set_shown

CaseState: TypeAlias = Literal["open", "drawn", "done"]

_SIGNS: Mapping[str, str] = {"open": "○", "drawn": "◐", "done": "●"}


@dataclass(frozen=True, kw_only=True)
class CaseList:
    """The cases of an editor, as the bar shows them.

    Parameters
    ----------
    name : str
        The case in view.
    states : mapping of str to CaseState
        Of every case, in order: nothing done, drawn on, or its row written.
    flags : mapping of str to str
        Why to look at a case, where that is known.
    """

    name: str
    states: Mapping[str, CaseState]
    flags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class CaseBar:
    """Title, cases and what is done with the one in view.

    Parameters
    ----------
    controls : ControlFactory
        Makes its controls.
    choose : callable
        Opens a case by its name.
    """

    def __init__(self, controls: ControlFactory, *, choose: Callable[[str], object]) -> None:
        self._controls = controls
        self._title, self._saved, self._count = ipw.HTML(), ipw.HTML(), ipw.HTML()
        self._chooser = ipw.Dropdown(options=[""])
        self._chooser.add_class("ctai-sam2-cases")
        self._chooser.observe(lambda change: controls.guarded(lambda: choose(change["new"])), "value")
        self._steps = [controls.action(name, is_icon=True) for name in ("previous_case", "next_case")]
        self._accept = controls.action("accept")
        self._partner = controls.action("open_partner", is_icon=True)
        space = ipw.Box()
        space.add_class("ctai-sam2-space")
        self.widget = ipw.Box(
            [
                *(self._title, self._steps[0], self._chooser, self._steps[1], self._count, space),
                *(self._saved, controls.action("save"), self._accept),
                *(
                    self._partner,
                    controls.action("panel", is_icon=True),
                    controls.action("help", is_icon=True),
                ),
            ]
        )
        self.widget.add_class("ctai-sam2-head")
        self._saved.add_class("ctai-sam2-saved")
        self._title.add_class("ctai-sam2-title")

    def refresh(self, controller: Controller, cases: CaseList) -> None:
        """Show the controller's state and the cases'."""
        self._title.value = (
            f"<b>{escape(self._controls.text(f'title.{controller.document.profile.name}'))}</b>"
        )
        names = list(cases.states)
        number, several = names.index(cases.name) + 1, len(names) > 1
        options = []
        for place, (name, state) in enumerate(cases.states.items(), start=1):
            sign, why = (" ⚑", f" – {cases.flags[name]}") if name in cases.flags else ("", "")
            # The closed list is as wide as the number; opened it is as wide as its names.
            options.append((f"{_SIGNS[state]} {place}{sign}\u2003{name}{why}", name))
        if list(self._chooser.options) != options:
            self._chooser.options = options
        self._chooser.value = cases.name
        done = sum(state == "done" for state in cases.states.values())
        case = self._controls.text("view.case", number=number, count=len(names), name=cases.name)
        self._chooser.tooltip = case
        counted = self._controls.text("view.done_cases", done=done, count=len(names))
        self._count.value = escape(f"{case} · {counted}")
        for widget in (*self._steps, self._chooser, self._count):
            set_shown(widget, several)
        # Next to a list of cases the title goes first where there is little room.
        (self._title.add_class if several else self._title.remove_class)("ctai-sam2-spare")
        self._steps[0].disabled, self._steps[1].disabled = number == 1, number == len(names)
        set_shown(self._partner, controller.document.slice_count > 1)
        key = "view.unsaved" if controller.unsaved else "view.kept"
        if not controller.has_record:
            key = "view.no_journal"
        is_kept = key == "view.kept"
        kind, sign = ("good", "✓") if is_kept else ("bad", "⚠")
        words = escape(self._controls.text(key))
        self._saved.value = f'<div class="ctai-sam2-{kind}" role="status">{sign} {words}</div>'
