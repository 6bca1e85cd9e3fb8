"""The rail of tools and editing steps, and the bar of options for the tool in use."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as ipw

from ctai_sam2.editor import Controller
from ctai_sam2.editor.view import MAX_BRUSH_MM, MIN_BRUSH_MM
from ctai_sam2.image.windowing import PRESETS
from ctai_sam2.measure.definitions import HuRange
from ctai_sam2.types import Window
from ctai_sam2.widgets.controls import ControlFactory, set_shown
from ctai_sam2.widgets.style import SPINNER

_TOOL_ICONS = {
    **{"click": "crosshairs", "box": "object-group", "brush": "paint-brush", "eraser": "eraser"},
    **{"polygon": "draw-polygon", "lasso": "pencil", "rectangle": "vector-square", "flood": "fill-drip"},
    **{"take": "exchange", "ruler": "ruler", "roi": "bullseye", "pan": "hand-paper", "window": "adjust"},
}
_STEPS = ("undo", "redo", "clear", "zoom_in", "zoom_out", "fit", "brush_smaller", "brush_larger")
_CUSTOM = "custom"


class ToolRail:
    """Icons of all tools, and of undo, redo, clear, zoom and brush size.

    Parameters
    ----------
    controls : ControlFactory
        Makes them.
    tools : tuple of str
        Of the profile.
    """

    def __init__(self, controls: ControlFactory, tools: tuple[str, ...]) -> None:
        self._controls, self._names = controls, tools
        self._tools = ipw.ToggleButtons(options=tools, icons=[_TOOL_ICONS[tool] for tool in tools])
        self._tools.add_class("ctai-sam2-tools")
        self._tools.observe(
            lambda change: controls.guarded(lambda: controls.controller.adjust(tool=change["new"])), "value"
        )
        controls.on_translate(self._translate)
        self._buttons = {name: controls.action(name, is_icon=True) for name in _STEPS}
        self._toggles = {
            name: controls.toggle(name, is_icon=True) for name in ("toggle_outline", "toggle_limit")
        }
        steps = ipw.Box([*self._buttons.values(), *self._toggles.values()])
        steps.add_class("ctai-sam2-steps")
        self.widget = ipw.Box([self._tools, steps])
        self.widget.add_class("ctai-sam2-rail")

    def refresh(self, controller: Controller) -> None:
        """Show the controller's state."""
        view, history = controller.document.view, controller.document.history
        self._tools.value = view.tool
        self._buttons["undo"].disabled = not history.done
        self._buttons["redo"].disabled = not history.undone
        self._toggles["toggle_outline"].value = view.outline_only
        self._toggles["toggle_limit"].value = view.limit is not None

    def _translate(self, language: str) -> None:
        say = self._controls
        # Setting the options would choose the first of them.
        chosen = self._tools.value
        self._tools.options = [(say.text(f"tool.{tool}"), tool) for tool in self._names]
        self._tools.value = chosen
        self._tools.tooltips = [
            f"{say.tooltip(f'tool.{tool}')}\n{say.text(f'help.{tool}')}" for tool in self._names
        ]


class OptionBar:
    """One click and its candidates, and the settings of the tool in use.

    Parameters
    ----------
    controls : ControlFactory
        Makes them.
    check : callable
        Looks again whether one click is available, where it was not.
    """

    def __init__(self, controls: ControlFactory, check: Callable[[], object], *, has_groups: bool) -> None:
        self._controls = controls
        actions = ("run", "run_all", "refine", "clear_prompts", "previous_candidate", "next_candidate")
        self._buttons = {name: controls.action(name) for name in (*actions, "cancel", "retry")}
        self._closing = {name: controls.action(name) for name in ("finish", "step_back")}
        self._has_groups = has_groups
        self._check = controls.button("action.retry", check)
        self._spinner = ipw.HTML(SPINNER)
        self._sign = ipw.ToggleButton(value=True, layout=ipw.Layout(width="auto"))
        self._sign.observe(
            lambda change: controls.guarded(lambda: controls.controller.adjust(positive=change["new"])),
            "value",
        )
        self._brush = controls.setting(
            "view.brush",
            ipw.BoundedFloatText(min=MIN_BRUSH_MM, max=MAX_BRUSH_MM, step=0.5),
            lambda value: controls.controller.adjust(brush_radius_mm=value),
        )
        self._tolerance = controls.setting(
            "view.tolerance",
            ipw.BoundedFloatText(min=0, max=5000, step=5),
            lambda value: controls.controller.adjust(flood_tolerance_hu=value),
        )
        self._reach = controls.setting(
            "view.reach",
            ipw.BoundedFloatText(min=0, max=1000, step=5),
            lambda value: controls.controller.adjust(flood_radius_mm=value or None),
        )
        self._limit = self._limit_chooser()
        self._low = controls.setting(
            "view.limit_low", ipw.BoundedIntText(min=-3000, max=3000), self._take_low
        )
        self._high = controls.setting(
            "view.limit_high", ipw.BoundedIntText(min=-3000, max=3000), self._take_high
        )
        self._window = self._window_chooser()
        for field in (self._brush, self._tolerance, self._reach, self._low, self._high):
            field.add_class("ctai-sam2-field")
        controls.on_translate(lambda _: self._sign.set_trait("tooltip", controls.tooltip("toggle_sign")))
        self.widget = ipw.Box(
            [
                *self._buttons.values(),
                *(self._check, self._spinner, self._sign, *self._closing.values()),
                *(self._brush, self._tolerance, self._reach),
                *(self._limit, self._low, self._high, self._window),
            ]
        )
        self.widget.add_class("ctai-sam2-options")

    def refresh(self, controller: Controller) -> None:
        """Show the controller's state."""
        view, tool = controller.document.view, controller.document.view.tool
        self._sign.value = view.positive
        self._sign.description = self._controls.text("view.positive" if view.positive else "view.negative")
        set_shown(self._sign, tool == "click")
        if abs(self._brush.value - view.brush_radius_mm) > 0.01:
            self._brush.value = view.brush_radius_mm
        set_shown(self._brush, tool in ("brush", "eraser"))
        self._tolerance.value = view.flood_tolerance_hu
        set_shown(self._tolerance, tool == "flood" and view.limit is None)
        self._reach.value = view.flood_radius_mm or 0.0
        set_shown(self._reach, tool == "flood")
        for name in ("finish", "step_back"):
            set_shown(self._closing[name], tool == "polygon")
        limits = controller.document.profile.limits
        names = [name for name, limit in limits.items() if limit == view.limit]
        # Two tissues may share a range; the one that was chosen stays.
        if self._limit.value not in names:
            self._limit.value = "" if view.limit is None else names[0] if names else _CUSTOM
        if view.limit is not None:
            self._low.value, self._high.value = int(view.limit.low_hu), int(view.limit.high_hu)
        for field in (self._low, self._high):
            set_shown(field, view.limit is not None)
        self._show_window(view.window)
        self._show_inference(controller)

    def _show_inference(self, controller: Controller) -> None:
        status = controller.inference.status
        running, blocked = status.state == "running", status.state == "disabled"
        reason = "" if status.message is None else status.message.text(self._controls.language)
        self._buttons["run"].description = controller.run_message.text(self._controls.language)
        for name in ("run", "run_all", "refine"):
            self._buttons[name].disabled = running or blocked
            self._buttons[name].tooltip = reason if blocked else self._controls.tooltip(name)
        set_shown(self._buttons["run_all"], self._has_groups)
        set_shown(self._spinner, running)
        set_shown(self._buttons["cancel"], running)
        set_shown(self._buttons["retry"], status.state == "failed")
        # Where there is no segmenter at all, its state cannot change.
        is_down = blocked and status.message is not None and status.message.key != "ai.no_segmenter"
        set_shown(self._check, is_down)
        for name in ("previous_candidate", "next_candidate"):
            set_shown(self._buttons[name], status.candidates > 1)
        marks = controller.document.marks(controller.document.view.active)
        set_shown(self._buttons["clear_prompts"], bool(marks))
        mask = controller.document.mask(controller.document.view.active)
        set_shown(self._buttons["refine"], bool(mask.any()))

    def _limit_chooser(self) -> ipw.Dropdown:
        chooser = ipw.Dropdown(options=[""])
        controls = self._controls

        def choose(name: str) -> None:
            limits = controls.controller.document.profile.limits
            if name != _CUSTOM:
                controls.controller.adjust(limit=limits.get(name))

        def say(language: str) -> None:
            names = list(controls.controller.document.profile.limits)
            chooser.options = [
                (controls.text("view.no_limit"), ""),
                *((controls.text(f"limit.{name}"), name) for name in names),
                (controls.text("view.custom"), _CUSTOM),
            ]
            chooser.tooltip = controls.tooltip("toggle_limit")

        chooser.observe(lambda change: controls.guarded(lambda: choose(change["new"])), "value")
        controls.on_translate(say)
        return chooser

    def _take_low(self, low: int) -> None:
        self._controls.controller.adjust(limit=HuRange(low_hu=low, high_hu=self._high.value))

    def _take_high(self, high: int) -> None:
        self._controls.controller.adjust(limit=HuRange(low_hu=self._low.value, high_hu=high))

    def _show_window(self, window: Window) -> None:
        """Show which preset is in use, or level and width where it is none of them."""
        numbers = {"level": f"{window.level:.0f}", "width": f"{window.width:.0f}"}
        name = next((name for name, preset in PRESETS.items() if preset == window), "")
        custom = self._controls.text(
            "view.custom" if name else "view.custom_window", **({} if name else numbers)
        )
        options = [*self._window.options[:-1], (custom, "")]
        if list(self._window.options) != options:
            self._window.options = options
        self._window.value = name
        self._window.tooltip = self._controls.text("view.window", **numbers)

    def _window_chooser(self) -> ipw.Dropdown:
        chooser = ipw.Dropdown(options=["", *PRESETS])
        controls = self._controls

        def choose(name: str) -> None:
            if name:
                controls.controller.adjust(window=PRESETS[name])

        def say(language: str) -> None:
            presets = [(controls.text(f"window.{name.replace(' ', '_')}"), name) for name in PRESETS]
            chooser.options = [*presets, (controls.text("view.custom"), "")]

        chooser.observe(lambda change: controls.guarded(lambda: choose(change["new"])), "value")
        controls.on_translate(say)
        return chooser
