"""Acting on an editor as its page does, and reading what it shows."""

from __future__ import annotations

from typing import Any

from ctai_sam2.widgets import MaskEditor


def act(editor: MaskEditor, event: str, **content: Any) -> None:
    """Send an event as the page does, through ipycanvas."""
    editor._display.canvas.widget[3]._handle_frontend_event(None, {"event": event, **content}, [])


def drag(editor: MaskEditor, *points: tuple[float, float]) -> None:
    places = [editor.document.view.viewport.to_screen(*point) for point in points]
    for event, (x, y) in zip(["mouse_down", *["mouse_move"] * len(places)], places, strict=False):
        act(editor, event, x=x, y=y)
    act(editor, "mouse_up", x=places[-1][0], y=places[-1][1])


def tell(editor: MaskEditor, **content: Any) -> None:
    """Send an event as the page does, through the companion."""
    editor._display.events.companion._handle_custom_msg(content, [])


def paint(editor: MaskEditor) -> int:
    editor.do("tool.brush")
    drag(editor, (10, 10), (25, 14))
    return int(sum(mask.sum() for mask in editor.masks.values()))


def controls(widget: Any, kind: str) -> list[Any]:
    found = [widget] if type(widget).__name__ == kind else []
    for child in getattr(widget, "children", ()):
        found += controls(child, kind)
    return found


def button(editor: MaskEditor, words: str) -> Any:
    editor._display.panel.refresh()
    [found] = [b for b in controls(editor.widget, "Button") if b.description == words]
    return found


def shown(editor: MaskEditor) -> str:
    editor._display.panel.refresh()
    return " ".join(html.value for html in controls(editor.widget, "HTML"))
