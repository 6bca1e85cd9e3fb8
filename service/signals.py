"""SIGTERM before there is a server. Imports nothing that takes time."""

from __future__ import annotations

import os
import signal


def end_at_once_on_sigterm() -> None:
    """Let SIGTERM end this process at once, until the server listens for it.

    The first process of a container would otherwise not hear it: the kernel drops signals for which that
    process has no handler.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
