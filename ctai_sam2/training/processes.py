"""Work spread over processes that start afresh."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast

from joblib import Parallel, delayed

T = TypeVar("T")
R = TypeVar("R")


def map_in_processes(function: Callable[[T], R], items: Iterable[T], processes: int) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in order, computed in a number of processes.

    The processes are started afresh rather than forked: a fork of a program that already runs
    threads (a network's, a decoder's) can wait for a lock that none of its own threads will release.

    Parameters
    ----------
    function : callable
        Picklable.
    items : iterable
        Picklable too.
    processes : int
        With one, the calling process computes.
    """
    parallel = Parallel(n_jobs=max(processes, 1), return_as="generator")
    return cast("Iterator[R]", parallel(delayed(function)(item) for item in items))
