"""Calls with a deadline: threads are used again, and a call that hangs holds nobody but itself."""

from __future__ import annotations

import os
import threading
import time

import pytest

from ctai_sam2.models import connections
from ctai_sam2.models.connections import Call, DeadlinePassed, running_call

LONG_S = 20.0


@pytest.fixture(autouse=True)
def no_threads_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_waiting", {})


def in_time(work: object) -> object:
    return Call(work, deadline_s=time.monotonic() + LONG_S).run()  # type: ignore[arg-type]


def test_one_thread_works_on_calls_that_follow_each_other() -> None:
    used = {in_time(threading.get_ident) for _ in range(20)}
    assert len(used) == 1
    assert threading.get_ident() not in used


def test_calls_at_the_same_time_have_a_thread_each() -> None:
    together = threading.Barrier(4)

    def work() -> int:
        together.wait(LONG_S)
        return threading.get_ident()

    found: list[object] = []
    callers = [threading.Thread(target=lambda: found.append(in_time(work))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(set(found)) == 4


def test_a_call_that_hangs_keeps_its_thread_and_others_get_another() -> None:
    may_end, seen = threading.Event(), []

    def hang() -> None:
        seen.append(threading.current_thread())
        may_end.wait(LONG_S)

    with pytest.raises(DeadlinePassed):
        Call(hang, deadline_s=time.monotonic() + 0.01).run()
    assert in_time(threading.current_thread) is not seen[0]
    may_end.set()


def test_an_error_is_the_callers_and_the_thread_continues() -> None:
    def fail() -> None:
        raise KeyError("that one")

    first = in_time(threading.get_ident)
    with pytest.raises(KeyError, match="that one"):
        in_time(fail)
    assert in_time(threading.get_ident) == first


def test_each_thread_knows_its_call_alone() -> None:
    call = Call(running_call, deadline_s=time.monotonic() + LONG_S)
    assert call.run() is call
    assert running_call() is None


def test_threads_that_nobody_needs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_IDLE_S", 0.01)
    thread = in_time(threading.current_thread)
    assert isinstance(thread, threading.Thread)
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert connections._waiting[os.getpid()] == []
    assert in_time(lambda: 7) == 7


def test_no_more_threads_wait_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_IDLE", 0)
    thread = in_time(threading.current_thread)
    assert isinstance(thread, threading.Thread)
    thread.join(LONG_S)
    assert not thread.is_alive()
