"""Drawing with ipycanvas safely: one process-wide manager, several editors, several threads.

All canvases of a process share one manager that collects commands without a lock and
remembers which canvas is current. `drawing` takes a lock, starts from a known state
and leaves one behind, also after an error: else every canvas would stay frozen. Lock
order: a controller's lock first, then this one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from ipycanvas import Canvas
from ipycanvas.utils import commands_to_buffer

PAINT_EVERY_S = 0.033

SendDrawings: TypeAlias = Callable[[Any, Any, Sequence[Any]], object]
"""Takes the manager, a message's content and its buffers."""

_DRAWING = threading.RLock()
_send: ContextVar[SendDrawings | None] = ContextVar("ctai_sam2_send_drawings", default=None)


@contextmanager
def drawing(canvas: Canvas) -> Iterator[None]:
    """Send what is drawn in the block as one message.

    Parameters
    ----------
    canvas : Canvas
        Any canvas of this process; its manager is all that is used.
    """
    manager = canvas._canvas_manager
    with _DRAWING:
        outer = manager._caching
        # A page that was reloaded has no current canvas, whatever the manager believes: name it again.
        manager._current_canvas = None
        manager._caching = True
        try:
            yield
        finally:
            try:
                _flush(manager)
            finally:
                manager._commands_cache, manager._buffers_cache = [], []
                manager._caching = outer
                manager._current_canvas = None


@contextmanager
def sending_drawings_to(send: SendDrawings) -> Iterator[None]:
    """Give what is drawn in the block, in this thread, to a function instead of sending it."""
    token = _send.set(send)
    try:
        yield
    finally:
        _send.reset(token)


def _flush(manager: Any) -> None:
    send = _send.get()
    if send is None:
        manager.flush()
    elif manager._commands_cache:
        content, commands = commands_to_buffer(manager._commands_cache)
        send(manager, content, [commands, *manager._buffers_cache])


class Pacer:
    """Runs something soon, and not more often than the eye sees.

    The first request runs at once in the caller's thread; requests that follow within
    ``every_s`` are served together at its end, in a thread of their own.

    Parameters
    ----------
    run : callable
        What to run; it must not raise and may be called from any thread.
    every_s : float
        Shortest time between two runs; 0 runs every request at once.
    """

    def __init__(self, run: Callable[[], None], every_s: float = PAINT_EVERY_S) -> None:
        self._run, self._every_s = run, every_s
        self._mutex = threading.Lock()
        self._timer: threading.Timer | None = None
        self._next_s = 0.0
        self._closed = False

    def request(self) -> None:
        """Request a run."""
        with self._mutex:
            if self._closed or self._timer is not None:
                return
            wait_s = self._next_s - time.monotonic()
            if wait_s > 0:
                self._timer = threading.Timer(wait_s, self._fire)
                self._timer.daemon = True
                self._timer.start()
                return
            self._next_s = time.monotonic() + self._every_s
        self._run()

    def close(self) -> None:
        """Run no more."""
        with self._mutex:
            self._closed = True
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _fire(self) -> None:
        with self._mutex:
            if self._closed:
                return
            self._timer = None
            self._next_s = time.monotonic() + self._every_s
        self._run()
