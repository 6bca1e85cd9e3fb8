"""What a view talks to: a session with its pointer, keys, buttons and model.

A view forwards presses, moves, releases, wheels and keys, calls `Controller.do` for
its buttons, and redraws what a `Change` names; everything it shows can be read
again from here.
"""

from __future__ import annotations

from collections.abc import Callable

from ctai_sam2.editor.actions import BY_NAME, key_combination
from ctai_sam2.editor.document import Document
from ctai_sam2.editor.i18n import Message
from ctai_sam2.editor.inference import Inference
from ctai_sam2.editor.inference_status import Confirmation, MaskSource
from ctai_sam2.editor.keys import KeyMap
from ctai_sam2.editor.pointer import PointerSession
from ctai_sam2.editor.session import KeepsEvents
from ctai_sam2.errors import InputError


class Controller(PointerSession):
    """The editor behind a view.

    Parameters
    ----------
    document : Document
        What is edited; untouched if a record is given.
    mask_source : MaskSource, optional
        Makes masks; without it one click is disabled with a reason.
    record : KeepsEvents, optional
        Replayed now; every later step is written to it.
    auto_run : bool
        Whether each click and box starts inference at once.

    Raises
    ------
    RecordError
        If the record does not fit the document.
    """

    def __init__(
        self,
        document: Document,
        *,
        mask_source: MaskSource | None = None,
        record: KeepsEvents | None = None,
        auto_run: bool = False,
    ) -> None:
        super().__init__(document, record=record)
        self.handlers: dict[str, Callable[[], object]] = {}
        """What the view does for actions that are not about the document: ``save``, ``accept``, ``help`` …"""
        self.auto_run = auto_run
        self.keys = KeyMap()
        """Which key does what."""
        self.inference: Inference = Inference(
            document, mask_source, lock=self.lock, perform=self.apply, notify=self._announce
        )

    @property
    def confirmation(self) -> Confirmation | None:
        """The pending confirmation, until `resolve_confirmation`."""
        return self.inference.confirmation

    @property
    def run_message(self) -> Message:
        """Text of the run button: one click, or how many points there are to run."""
        marks = self.document.marks(self.document.view.active)
        count = len(marks.points) + (marks.box_xyxy is not None)
        return Message("action.run_points", {"count": count}) if count else Message("action.run")

    def key(self, key: str, modifiers: frozenset[str] = frozenset(), *, pressed: bool = True) -> bool:
        """Take a key, named as browsers do (``"z"``, ``"Escape"``); return whether it means anything."""
        with self.lock:
            action = self.keys.action_of(key_combination(key, modifiers))
            if action is None:
                return False
            if pressed:
                self.do(action.name)
            elif action.name == "hold_pan":
                self.hold_pan(False)
            return True

    def do(self, action: str) -> None:
        """Do what a button says: an action of `actions.ACTIONS` by its name.

        Raises
        ------
        InputError
            If there is no such action.
        """
        with self.lock:
            if action not in BY_NAME:
                raise InputError("no such action", received=action)
            if action.startswith("tool.") and action.removeprefix("tool.") not in self.document.profile.tools:
                return
            BY_NAME[action].perform(self)

    def run(self, group: str | None = None, *, refine: bool = False, joined: bool = False) -> bool:
        """Request masks of a group or label; see `Inference.request`.

        When omitted: of the active label alone where it was pointed at or is refined, else of the group it
        belongs to, as one click.
        """
        with self.lock:
            return self.inference.request(group or self._meant(refine), refine=refine, joined=joined)

    def confirm(self, message: Message, proceed: Callable[[], object]) -> None:
        """Ask the reader for a confirmation; `resolve_confirmation` proceeds or changes nothing."""
        self.inference.confirm(message, proceed)

    def call(self, name: str) -> None:
        """Do what the view offers under this name; nothing where it offers no such thing."""
        handler = self.handlers.get(name)
        if handler is not None:
            handler()

    def resolve_confirmation(self, accepted: bool) -> None:
        """Close the `confirmation`; a refusal changes nothing."""
        self.inference.resolve_confirmation(accepted)

    def finish(self) -> None:
        """Enter: close the polygon under way; where there is none, accept the case."""
        with self.lock:
            if self.tool.busy:
                self._gesture(self.tool.finish)
            else:
                self.call("accept")

    def cancel(self) -> None:
        """Escape: refuse the confirmation, or drop the gesture, or close the help, or cancel inference."""
        with self.lock:
            if self.confirmation is not None:
                self.resolve_confirmation(False)
            elif not (self.cancel_gesture() or self._dismiss()):
                self.inference.cancel()

    def close(self) -> None:
        """Stop the worker. The record stays open: its owner closes it."""
        self.inference.close()

    def _dismiss(self) -> bool:
        """Close what the view shows over the picture; whether there was anything."""
        handler = self.handlers.get("dismiss")
        return handler is not None and bool(handler())

    def _pointed_at(self) -> None:
        if self._runs_by_itself:
            self.run(joined=True)

    @property
    def _runs_by_itself(self) -> bool:
        """Whether a click runs the model: not where there is none, nor before there is a point."""
        marks = self.document.marks(self.document.view.active)
        return self.auto_run and self.inference.status.state != "disabled" and bool(marks)

    def _meant(self, refine: bool) -> str:
        document, active = self.document, self.document.view.active
        if refine or document.marks(active):
            return active
        groups = document.profile.groups.items()
        return next((group for group, labels in groups if active in labels), active)
