"""The process that segments cases: ``python -m ctai_sam2.cohort.worker_process``, commanded on stdin.

It ends with its input: if its starter is killed, so is it. Its output carries outcomes
only; what libraries print there goes to the error stream.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

_HEAD = struct.Struct("<Q")


def send(stream: BinaryIO, value: Any) -> None:
    """Write a value as one frame.

    Raises
    ------
    OSError
        If the other side is gone.
    """
    content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_HEAD.pack(len(content)) + content)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one frame.

    Raises
    ------
    EOFError
        If the other side is gone.
    """
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise EOFError
    (size,) = _HEAD.unpack(head)
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    # Frames come from the process that started this one, or that this one started.
    return pickle.loads(content)


def main() -> None:
    """Do cases until the input ends."""
    # Ctrl-C is handled by the starter.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.path[:0] = [path for path in receive(sys.stdin.buffer) if path not in sys.path]

    from ctai_sam2.cohort.store import CohortStore
    from ctai_sam2.cohort.worker import CaseWorker

    folder, config, token = receive(sys.stdin.buffer)
    worker = CaseWorker(CohortStore(Path(folder)), config, token, notify=lambda word: send(output, word))
    send(output, "ready")
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        while True:
            try:
                inbox.put(receive(sys.stdin.buffer))
            except (EOFError, OSError):
                # Also in the middle of a case: its files are whole or not there.
                os._exit(0)

    threading.Thread(target=listen, daemon=True, name="listening").start()
    while True:
        task, then = inbox.get()
        send(output, worker.do(task, then=then))


if __name__ == "__main__":
    main()
