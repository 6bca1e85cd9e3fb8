"""The command ``ctai-sam2``: wires the rooms together, and is the only one that prints.

Exit codes: 0 done; 1 an unexpected error; 2 wrong usage or unusable
input; 3 no segmenter or no weights available; 4 damaged or unsuitable image
data; 5 nothing could be written or read back; 6 a replayed row differs or
cannot be made again.
"""

from __future__ import annotations

import gc
import os
import signal

__all__ = ["main"]


def main() -> None:
    """Run the command line (the console script's entry point)."""
    if os.getpid() == 1:
        # For the first process of a container the kernel drops signals that have no handler.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    # What a command imports and makes lives as long as it does: to look for garbage as often as usual took a
    # tenth of its time.
    gc.set_threshold(100_000)
    from ctai_sam2.cli.app import app

    app()
