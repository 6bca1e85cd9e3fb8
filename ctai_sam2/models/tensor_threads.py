"""The threads in which tensors are computed on a CPU.

PyTorch's OpenMP keeps a team of workers for every thread that ever computed and still
lives. As soon as there are more workers than processors they no longer wait actively
for each other, and the many small operations of the mask decoder take twice as long:
with a service's or an editor's threads asking in turn, always. So the answers of a
process are computed in as many threads as have room with their teams, which is one
unless PyTorch was told to use fewer threads than there are processors; and what takes
long (loading, the image encoder) in a thread that ends, and its team with it, when it
is done. A click does not wait for that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_executors: dict[int, ThreadPoolExecutor] = {}
"""By process: a forked child has none of its parent's threads."""


def answer(work: Callable[[], T]) -> T:
    """Do short work in a thread of this process that answers, when it is its turn."""
    with _lock:
        executor = _executors.get(os.getpid())
        if executor is None:
            executor = ThreadPoolExecutor(_places(), thread_name_prefix="answering")
            _executors[os.getpid()] = executor
    return executor.submit(work).result()


def toil(work: Callable[[], T]) -> T:
    """Do long work in a thread that ends with it; several run beside each other."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, name="toiling", daemon=True)
    thread.start()
    try:
        return done.result()
    finally:
        # Whoever asked goes on when the team is gone, too.
        thread.join()


def _places() -> int:
    import torch

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // torch.get_num_threads())
