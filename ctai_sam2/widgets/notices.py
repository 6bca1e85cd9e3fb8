"""What the editor says over the picture: questions, results, warnings, failures, status and read-out."""

from __future__ import annotations

from html import escape

import ipywidgets as ipw

from ctai_sam2.editor import Controller, Message, show_warning
from ctai_sam2.widgets.controls import ControlFactory, key_text, set_shown

_KINDS = {"failed": "bad", "disabled": "off", "running": "busy"}


class Notices:
    """Lines over the picture that let pointer events through, and a question that does not.

    Parameters
    ----------
    controls : ControlFactory
        Makes the question's buttons.
    """

    def __init__(self, controls: ControlFactory) -> None:
        self._controls = controls
        self._toast, self._status, self._readout = ipw.HTML(), ipw.HTML(), ipw.HTML()
        self._question = ipw.HTML()
        self.question = ipw.Box(
            [
                self._question,
                controls.button(
                    "view.continue", lambda: controls.controller.resolve_confirmation(True), style="warning"
                ),
                controls.button("action.cancel", lambda: controls.controller.resolve_confirmation(False)),
            ]
        )
        self.question.add_class("ctai-sam2-confirm")
        self._readout.add_class("ctai-sam2-readout-line")
        self.lines = ipw.Box([self._status, self._toast])
        self.lines.add_class("ctai-sam2-notices")
        self.readout = self._readout

    def refresh(self, controller: Controller) -> None:
        """Show the controller's state."""
        language = self._controls.language
        status = controller.inference.status
        said = "" if status.message is None else status.message.text(language)
        lines = [escape(said), *(f"⚠ {escape(show_warning(each, language))}" for each in status.warnings)]
        self._toast.value = _line(_KINDS.get(status.state, "good"), "<br>".join(lines)) if said else ""
        question = controller.confirmation
        words = "" if question is None else escape(question.message.text(language))
        keys = f"<small>{key_text('ctrl+enter')} / Esc</small>" if words else ""
        self._question.value = f'<span role="alertdialog">{words} {keys}</span>' if words else ""
        set_shown(self.question, question is not None)
        message = controller.message or Message(f"help.{controller.document.view.tool}")
        self._status.value = _line("plain", escape(message.text(language)))
        here = controller.readout
        if here is None:
            self._readout.value = ""
            return
        numbers = {"x": here.column, "y": here.row, "hu": f"{here.hu:.0f}"}
        numbers |= {"x_mm": f"{here.x_mm:.1f}", "y_mm": f"{here.y_mm:.1f}"}
        self._readout.value = escape(self._controls.text("status.readout", **numbers))


def _line(kind: str, content: str) -> str:
    return f'<div class="ctai-sam2-{kind}" role="status">{content}</div>'
