"""One message for all that a paint changes, states of controls and drawings, instead of one message each.

A message of a kernel names itself and the one that it follows, in about 500 bytes; a stroke changes a dozen
controls. The page side takes a bundle apart and hands each widget its part, as if it had come alone. Where
the page side cannot run nothing is bundled.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import ipywidgets as ipw
from ipycanvas import Canvas, MultiCanvas

from ctai_sam2.widgets.canvas_manager import sending_drawings_to
from ctai_sam2.widgets.companion import Companion

_DEFLATED_BELOW = 16_000
"""Larger bundles are images, which are deflated already."""


class Bundles:
    """Sends what a block changes on the page as one message, once a page has said that it takes bundles.

    Parameters
    ----------
    companion : Companion
        The page side, which takes bundles apart.
    roots : callable
        Widgets whose states, with those of all in them, go into the bundle. Canvases are sent on their own:
        one that changes its size is emptied, and must be before it is drawn on.
    """

    def __init__(self, companion: Companion, roots: Callable[[], Iterable[ipw.Widget]]) -> None:
        self._companion, self._roots = companion, roots
        self._is_wanted = False
        self._thread: int | None = None
        self._parts: list[tuple[str, dict[str, Any], int]] = []
        self._buffers: list[Any] = []

    def want(self, number: int) -> bool:
        """Take a page's word that it takes bundles, the next one being ``number + 1``; whether it missed any.

        A page that was loaded while bundles were sent may have read the states before them: the next bundle
        then holds every state, and everything is to be drawn anew.
        """
        self._is_wanted = True
        missed = number != self._companion.bundles
        if missed:
            with self.gathered():
                for widget in _widgets_in(self._roots()):
                    self._add(widget, widget.keys)
                # The companion's program and style (names with an underscore) never change.
                self._add(self._companion, [name for name in self._companion.keys if name[0] != "_"])
        return missed

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Send what the block changes as one message, also after an error.

        What another thread draws meanwhile goes out by itself, and the states that it changes with the rest.
        """
        if not self._is_wanted or self._thread is not None:
            yield
            return
        widgets = [*_widgets_in(self._roots()), self._companion]
        self._thread, self._parts, self._buffers = threading.get_ident(), [], []
        with ExitStack() as held:
            for widget in widgets:
                held.enter_context(widget.hold_sync())
            try:
                with sending_drawings_to(self.send):
                    yield
            finally:
                # What holding collected goes out here, and not widget by widget when it ends.
                for widget in widgets[:-1]:
                    self._take_states(widget)
                if self._parts or self._companion._states_to_send:
                    self._companion.bundles += 1
                    self._take_states(self._companion)
                self._thread = None
                if self._parts:
                    self._companion.send(*_packed(self._parts, self._buffers))

    def send(self, widget: ipw.Widget, content: Any, buffers: Sequence[Any] = ()) -> None:
        """Send a widget a message of its own, in the bundle where one is under way."""
        if self._thread != threading.get_ident():
            widget.send(content, list(buffers))
            return
        self._parts.append((widget.model_id, {"method": "custom", "content": content}, len(buffers)))
        self._buffers += buffers

    def _take_states(self, widget: ipw.Widget) -> None:
        names = sorted(widget._states_to_send)
        self._add(widget, names)
        widget._states_to_send.difference_update(names)

    def _add(self, widget: ipw.Widget, names: Sequence[str]) -> None:
        if names:
            state = widget.get_state(names)
            # While ipywidgets takes a value from the page, it sends none that it believes is there.
            known = widget._property_lock
            known.update({name: value for name, value in state.items() if name in known})
            self._parts.append((widget.model_id, {"method": "update", "state": state}, 0))


def _packed(parts: Sequence[object], buffers: Sequence[Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Make one buffer of parts and buffers, deflated where that makes it smaller."""
    pieces = [json.dumps(parts).encode(), *(bytes(buffer) for buffer in buffers)]
    whole = b"".join(pieces)
    is_deflated = len(whole) < _DEFLATED_BELOW
    content = {"event": "bundle", "sizes": [len(piece) for piece in pieces], "deflated": is_deflated}
    return content, [zlib.compress(whole) if is_deflated else whole]


def _widgets_in(roots: Iterable[ipw.Widget]) -> Iterator[ipw.Widget]:
    for widget in roots:
        if isinstance(widget, Canvas | MultiCanvas | Companion):
            continue
        yield widget
        for name in ("layout", "style"):
            part = getattr(widget, name, None)
            if isinstance(part, ipw.Widget):
                yield part
        yield from _widgets_in(getattr(widget, "children", ()))
