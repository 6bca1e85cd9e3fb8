"""What keys and buttons do: one table of actions, each with its keys and its text.

A key is written as it arrives, in small letters, with ``ctrl+`` (Command counts as
Ctrl) and, where a letter or named key is meant, ``shift+`` in front. Every action
has a text ``action.<name>`` (window presets ``window.<name>``) for a button, since
keys need the canvas's focus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ctai_sam2.editor import commands as do
from ctai_sam2.editor.comparison import take_over
from ctai_sam2.editor.i18n import Message
from ctai_sam2.editor.strip import absent_here, end_here, has_strip, interpolation, lock_here, next_red
from ctai_sam2.editor.view import MAX_BRUSH_MM, MIN_BRUSH_MM, View
from ctai_sam2.errors import InputError
from ctai_sam2.image.windowing import PRESETS
from ctai_sam2.measure.definitions import HuRange

if TYPE_CHECKING:
    from ctai_sam2.editor.controller import Controller
    from ctai_sam2.editor.document import Document

_ZOOM_STEP = 1.25
_BRUSH_STEP = 1.25


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something a key or a button does.

    Parameters
    ----------
    name : str
        For `Controller.do`.
    text : str
        Key of its text in `strings`.
    keys : tuple of str
        Keys that do it; may be empty.
    perform : callable
        Takes the controller.
    """

    name: str
    text: str
    keys: tuple[str, ...]
    perform: Callable[[Controller], object]


def _action(name: str, perform: Callable[[Controller], object], *keys: str) -> Action:
    return Action(name=name, text=f"action.{name}", keys=keys, perform=perform)


def _calling(name: str, *keys: str) -> Action:
    """Make an action that the view does."""
    return _action(name, lambda c: c.call(name), *keys)


def _run_all(controller: Controller) -> object:
    groups = controller.document.profile.groups
    return controller.run("all" if "all" in groups else None)


def _mask_action(name: str, command: Callable[[str], do.Command], *keys: str) -> Action:
    return _action(name, lambda c: c.apply(command(c.document.view.active)), *keys)


def _adjusting(name: str, changes: Callable[[View], dict[str, Any]], *keys: str) -> Action:
    return _action(name, lambda c: c.adjust(**changes(c.document.view)), *keys)


def _zoom(view: View, factor: float) -> dict[str, Any]:
    height, width = view.viewport.canvas_hw
    return {"viewport": view.viewport.zoomed(factor, width / 2, height / 2)}


def _brush(view: View, factor: float) -> dict[str, Any]:
    return {"brush_radius_mm": min(max(view.brush_radius_mm * factor, MIN_BRUSH_MM), MAX_BRUSH_MM)}


def _opacity(view: View, by: float) -> dict[str, Any]:
    return {"opacity": min(max(round(view.opacity + by, 2), 0.0), 1.0)}


def _tissue_limit(controller: Controller) -> HuRange:
    """HU of the active label's tissue; of muscle where all pixels of a label count."""
    profile = controller.document.profile
    return profile.limit_of(controller.document.view.active) or profile.limits["muscle"]


def _toggle_limit(controller: Controller) -> object:
    has_limit = controller.document.view.limit is not None
    return controller.adjust(limit=None if has_limit else _tissue_limit(controller))


def _next_label(controller: Controller) -> object:
    names = offered_labels(controller.document)
    position = names.index(controller.document.view.active)
    return controller.adjust(active=names[(position + 1) % len(names)])


def offered_labels(document: Document) -> list[str]:
    """Labels to choose from: muscle groups where the view says so, the slice has one or one is active."""
    groups = document.profile.groups.get("groups", ())
    view, masks = document.view, document.masks()
    if view.groups or view.active in groups or any(name in masks for name in groups):
        return list(document.labels)
    return [name for name in document.labels if name not in groups]


def _toggle_label(controller: Controller, what: str) -> object:
    name = controller.document.view.active
    label = controller.document.labels[name]
    return controller.adjust_label(name, **{what: not getattr(label, what)})


def _copy(controller: Controller, by: int) -> object:
    document = controller.document
    try:
        command = do.copied_mask(document, document.view.active, document.index + by)
    except InputError as error:
        controller.refuse(error)
        return None
    return controller.apply(command)


def _take_over(controller: Controller) -> None:
    command = take_over(controller.document)
    if command is None:
        controller.say(Message("status.nothing_to_take"))
    else:
        controller.apply(command)


def _decide(name: str, command: Callable[[Document, str], do.Command | do.Compound], *keys: str) -> Action:
    """Make an action that decides about the active label on the slice of a volume in view."""

    def perform(controller: Controller) -> object:
        document = controller.document
        return controller.apply(command(document, document.view.active)) if has_strip(document) else None

    return _action(name, perform, *keys)


def _toggle_differences(controller: Controller) -> None:
    is_on = not controller.document.view.differences
    controller.adjust(differences=is_on)
    if is_on:
        controller.say(Message("view.differences"))


def _interpolate(controller: Controller) -> None:
    document = controller.document
    steps = interpolation(document, document.view.active) if has_strip(document) else []
    count = controller.apply_all(steps)
    key = "status.interpolated" if count else "status.nothing_to_interpolate"
    controller.say(Message(key, {"count": count} if count else {}))


def _next_red(controller: Controller) -> None:
    document = controller.document
    index = next_red(document, document.view.active) if has_strip(document) else None
    if index is None:
        label = Message(f"label.{document.view.active}")
        controller.say(Message("status.no_red", {"label": label}))
    else:
        controller.go_to(index)


def _key_of_tool(tool: str) -> str:
    keys = {"click": "c", "box": "x", "brush": "b", "eraser": "e", "polygon": "p", "lasso": "l"}
    keys |= {"rectangle": "r", "flood": "f", "take": "q", "ruler": "m", "roi": "o", "pan": "h", "window": "w"}
    return keys[tool]


_TOOLS = tuple(
    Action(
        name=f"tool.{tool}",
        text=f"tool.{tool}",
        keys=(_key_of_tool(tool),),
        perform=lambda c, tool=tool: c.adjust(tool=tool),  # type: ignore[misc]
    )
    for tool in (
        *("click", "box", "brush", "eraser", "polygon", "lasso"),
        *("rectangle", "flood", "take", "ruler", "roi", "pan", "window"),
    )
)
_WINDOWS = tuple(
    Action(
        name=f"window.{name.replace(' ', '_')}",
        text=f"window.{name.replace(' ', '_')}",
        keys=(str(number),),
        perform=lambda c, window=window: c.adjust(window=window),  # type: ignore[misc]
    )
    for number, (name, window) in enumerate(PRESETS.items(), start=1)
)

ACTIONS: tuple[Action, ...] = (
    _action("run", lambda c: c.run(), "a"),
    _action("refine", lambda c: c.run(refine=True), "g"),
    _action("run_all", _run_all, "shift+a"),
    _action("retry", lambda c: c.inference.retry()),
    _action("cancel", lambda c: c.cancel(), "escape"),
    _action("finish", lambda c: c.finish(), "enter"),
    _action("confirm", lambda c: c.resolve_confirmation(True), "ctrl+enter"),
    _calling("save", "ctrl+s"),
    _calling("accept"),
    _calling("next_case", "shift+arrowright"),
    _calling("previous_case", "shift+arrowleft"),
    _calling("open_partner", "shift+o"),
    _calling("help", "?"),
    _calling("panel", "d"),
    _action("step_back", lambda c: c.step_back(), "backspace"),
    _action("undo", lambda c: c.undo(), "ctrl+z"),
    _action("redo", lambda c: c.redo(), "ctrl+y", "ctrl+shift+z"),
    _mask_action("clear", lambda label: do.Clear(label=label), "delete"),
    _mask_action("clear_prompts", lambda label: do.ClearPrompts(label=label), "shift+delete"),
    _action("next_candidate", lambda c: c.inference.cycle(c.document.view.active, 1), "."),
    _action("previous_candidate", lambda c: c.inference.cycle(c.document.view.active, -1), ","),
    _adjusting("toggle_sign", lambda v: {"positive": not v.positive}, "n"),
    _adjusting("brush_smaller", lambda v: _brush(v, 1 / _BRUSH_STEP), "["),
    _adjusting("brush_larger", lambda v: _brush(v, _BRUSH_STEP), "]"),
    _mask_action("fill_holes", lambda label: do.FillHoles(label=label), "i"),
    _mask_action("keep_largest", lambda label: do.KeepLargest(label=label), "j"),
    _mask_action("remove_islands", lambda label: do.RemoveIslands(label=label)),
    _mask_action("grow", lambda label: do.Grow(label=label), "shift+g"),
    _mask_action("shrink", lambda label: do.Shrink(label=label), "shift+s"),
    _mask_action("smooth", lambda label: do.Smooth(label=label), "s"),
    _action(
        "apply_limit",
        lambda c: c.apply(
            do.LimitToHu(label=c.document.view.active, limits=c.document.view.limit or _tissue_limit(c))
        ),
    ),
    _action("toggle_limit", _toggle_limit, "t"),
    _action("take_over", _take_over, "shift+q"),
    _action("toggle_differences", _toggle_differences, "shift+d"),
    _calling("from_here_up", "shift+arrowup"),
    _calling("from_here_down", "shift+arrowdown"),
    _calling("from_here_both", "shift+b"),
    _calling("segment_range"),
    _decide("end_here", end_here, "shift+e"),
    _decide("absent_here", absent_here, "shift+n"),
    _decide("lock_here", lock_here, "shift+l"),
    _action("interpolate", _interpolate, "shift+i"),
    _action("next_red", _next_red, "shift+r"),
    _action("undo_slice", lambda c: c.undo_slice(), "shift+z"),
    _action("copy_below", lambda c: _copy(c, -1), "shift+pagedown"),
    _action("copy_above", lambda c: _copy(c, 1), "shift+pageup"),
    _adjusting("zoom_in", lambda v: _zoom(v, _ZOOM_STEP), "+", "="),
    _adjusting("zoom_out", lambda v: _zoom(v, 1 / _ZOOM_STEP), "-"),
    _adjusting("fit", lambda v: {"viewport": v.viewport.fitted()}, "0"),
    _action("hold_pan", lambda c: c.hold_pan(True), " "),
    _action("next_slice", lambda c: c.scroll(1), "pageup", "arrowup"),
    _action("previous_slice", lambda c: c.scroll(-1), "pagedown", "arrowdown"),
    _action("next_label", _next_label, "k"),
    _action("toggle_visible", lambda c: _toggle_label(c, "visible"), "v"),
    _action("toggle_lock", lambda c: _toggle_label(c, "locked")),
    _adjusting("toggle_outline", lambda v: {"outline_only": not v.outline_only}, "u"),
    _adjusting("toggle_smooth", lambda v: {"smooth": not v.smooth}, "y"),
    _adjusting("toggle_groups", lambda v: {"groups": not v.groups}, "shift+m"),
    _adjusting("toggle_wheel", lambda v: {"wheel_scrolls": not v.wheel_scrolls}),
    _adjusting("more_opaque", lambda v: _opacity(v, 0.1)),
    _adjusting("less_opaque", lambda v: _opacity(v, -0.1)),
    *_TOOLS,
    *_WINDOWS,
)
"""Everything keys and buttons do."""

BY_NAME = MappingProxyType({action.name: action for action in ACTIONS})


def key_combination(key: str, modifiers: frozenset[str]) -> str:
    """Write a key as the table does.

    Examples
    --------
    >>> key_combination("Z", frozenset({"meta", "shift"})), key_combination("]", frozenset())
    ('ctrl+shift+z', ']')
    """
    held = bool(modifiers & {"ctrl", "meta"})
    # Shift is part of how "+" or "?" is typed, and no modifier there.
    shift = "shift" in modifiers and (key.isalpha() or len(key) > 1)
    return ("ctrl+" if held else "") + ("shift+" if shift else "") + key.lower()
