from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ctai_sam2.models import tensor_threads
from ctai_sam2.models.tensor_threads import answer, toil


@pytest.mark.parametrize(("processors", "threads", "places"), [(8, 8, 1), (8, 2, 4), (2, 8, 1), (3, 2, 1)])
def test_answers_come_from_as_many_threads_as_have_room(
    processors: int, threads: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_threads, "_executors", {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    together = threading.Barrier(places)

    def work() -> int:
        together.wait(20)
        return threading.get_ident()

    with ThreadPoolExecutor(8) as callers:
        found = set(callers.map(lambda _: answer(work), range(8)))
    assert len(found) == places
    assert threading.get_ident() not in found


def test_long_work_is_done_beside_answers_and_its_thread_ends() -> None:
    may_end, seen = threading.Event(), []

    def work() -> str:
        seen.append(threading.current_thread())
        assert may_end.wait(20)
        return "done"

    with ThreadPoolExecutor(1) as caller:
        long = caller.submit(toil, work)
        assert answer(lambda: 7) == 7
        assert not long.done()
        may_end.set()
        assert long.result(20) == "done"
    assert not seen[0].is_alive()


@pytest.mark.parametrize("do", [answer, toil])
def test_errors_reach_who_asked(do: object) -> None:
    def fail() -> None:
        raise KeyError("that one")

    with pytest.raises(KeyError, match="that one"):
        do(fail)  # type: ignore[operator]
    assert do(lambda: 1) == 1  # type: ignore[operator]
