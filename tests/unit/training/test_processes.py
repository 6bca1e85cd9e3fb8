"""Work spread over processes."""

import threading

import pytest

from ctai_sam2.training.processes import map_in_processes


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_results_come_in_order(processes: int) -> None:
    assert list(map_in_processes(abs, range(-5, 0), processes)) == [5, 4, 3, 2, 1]


_LOCK = threading.Lock()


def test_a_lock_held_by_another_thread_stops_no_process() -> None:
    # A forked child would inherit the held lock and wait for it for ever.
    with _LOCK:
        assert list(map_in_processes(_takes, [1, 2], 2)) == [1, 2]


def _takes(item: int) -> int:
    with _LOCK:
        return item


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_processes(_divide, [1, 0], 2))


def _divide(item: int) -> float:
    return 1 / item
