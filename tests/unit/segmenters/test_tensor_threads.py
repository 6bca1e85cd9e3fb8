from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ctai_sam2.segmenters.tensor_threads import answer, toil


def test_all_answers_of_a_process_come_from_one_thread() -> None:
    with ThreadPoolExecutor(4) as callers:
        threads = set(callers.map(lambda _: answer(threading.get_ident), range(20)))
    assert threads == {answer(threading.get_ident)}
    assert threading.get_ident() not in threads


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
