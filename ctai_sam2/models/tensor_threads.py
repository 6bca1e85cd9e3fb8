"""The threads in which tensors are computed on a CPU, and what they cost a busy machine.

PyTorch divides each operation among a team of OpenMP threads, which wait for each other at its end. Where
another process takes a processor, all wait for the one that lost it, and the default is to wait by spinning,
which takes the processor away from it once more. Next to other work, two threads took 7.5 times as long as
one for the mask decoder, and 9 times for the encoder.

So the decoder, whose operations are small, computes each prompt in one thread, and several prompts at the
same time in as many threads as PyTorch may use. The image encoder, whose operations are large, uses the team,
in a thread that ends, and its team with it, when it is done; and where PyTorch is imported here first, the
team waits asleep. How many threads share an operation never depends on the load: sums would be rounded in
another order, and the same prompt would not give the same scores.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

_lock = threading.Lock()
_default_lock = threading.Lock()
_executors: dict[int, ThreadPoolExecutor] = {}
"""By process: a forked child has none of its parent's threads."""


def run_short(work: Callable[[], T]) -> T:
    """Do short work, single-threaded, in a thread of this process reserved for that."""
    with _lock:
        executor = _executors.get(os.getpid())
        if executor is None:
            executor = ThreadPoolExecutor(
                _places(), thread_name_prefix="decoding", initializer=_compute_alone
            )
            _executors[os.getpid()] = executor
    return executor.submit(work).result()


def run_long(work: Callable[[], T]) -> T:
    """Do long work, multi-threaded, in a thread that ends with it; several may run at the same time."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            if "torch" in sys.modules:
                with _default_lock:  # this thread takes over the number of threads now
                    sys.modules["torch"].get_num_threads()
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, name="encoding", daemon=True)
    thread.start()
    try:
        return done.result()
    finally:
        # The caller also continues when the team is gone.
        thread.join()


def import_torch() -> None:
    """Import PyTorch so that its threads wait asleep, unless the environment says how they wait.

    Where it is loaded already, they wait as they do. Meanwhile no garbage is collected: an import
    leaves none, and looking for it again and again takes a tenth of the time.

    Raises
    ------
    ImportError, OSError
        If it cannot be imported, or a shared library of it is missing.
    """
    if "torch" in sys.modules:
        import torch  # may still be under way in another thread

        return
    choose = not any(name in os.environ for name in _WAITING)
    collecting = gc.isenabled()
    gc.disable()
    if choose:
        os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        import torch  # noqa: F401
    finally:
        if choose:
            os.environ.pop("OMP_WAIT_POLICY", None)
        if collecting:
            gc.enable()


def _compute_alone() -> None:
    """Let this thread compute without a team, and leave the number of threads of all others as it is."""
    import torch

    with _default_lock:
        default = torch.get_num_threads()
        torch.set_num_threads(1)
        # The number holds for the thread that sets it, and for those that come later.
        restoring = threading.Thread(target=torch.set_num_threads, args=(default,))
        restoring.start()
        restoring.join()


def _places() -> int:
    import torch

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(processors, torch.get_num_threads()))
