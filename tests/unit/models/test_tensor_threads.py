from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ctai_sam2.models import tensor_threads
from ctai_sam2.models.tensor_threads import run_long, run_short, without_collecting


@pytest.mark.parametrize(("processors", "threads", "places"), [(8, 8, 8), (8, 2, 2), (2, 8, 2), (1, 1, 1)])
def test_prompts_are_decoded_in_as_many_threads_as_pytorch_may_use(
    processors: int, threads: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_threads, "_executors", {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(tensor_threads, "_compute_alone", lambda: None)
    together = threading.Barrier(places)

    def work() -> int:
        together.wait(20)
        return threading.get_ident()

    with ThreadPoolExecutor(8) as callers:
        found = set(callers.map(lambda _: run_short(work), range(8)))
    assert len(found) == places
    assert threading.get_ident() not in found


def test_long_work_is_done_next_to_short_work_and_its_thread_ends() -> None:
    may_end, seen = threading.Event(), []

    def work() -> str:
        seen.append(threading.current_thread())
        assert may_end.wait(20)
        return "done"

    with ThreadPoolExecutor(1) as caller:
        long = caller.submit(run_long, work)
        assert run_short(lambda: 7) == 7
        assert not long.done()
        may_end.set()
        assert long.result(20) == "done"
    assert not seen[0].is_alive()


@pytest.mark.parametrize("do", [run_short, run_long])
def test_errors_reach_the_caller(do: object) -> None:
    def fail() -> None:
        raise KeyError("that one")

    with pytest.raises(KeyError, match="that one"):
        do(fail)  # type: ignore[operator]
    assert do(lambda: 1) == 1  # type: ignore[operator]


def numbers_of_threads() -> dict[str, int]:
    """PyTorch's number of threads in short work, long work, here, and in a thread made now."""
    found: list[int] = []
    new = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    short, long = run_short(torch.get_num_threads), run_long(torch.get_num_threads)
    new.start()
    new.join()
    return {"short": short, "long": long, "here": torch.get_num_threads(), "new": found[0]}


def test_short_work_has_one_thread_and_nothing_else_changes() -> None:
    code = (
        "import json, torch; torch.set_num_threads(3); torch.zeros(4).sum();"
        "from tests.unit.models.test_tensor_threads import numbers_of_threads;"
        "print(json.dumps([numbers_of_threads(), numbers_of_threads()]))"
    )
    for found in json.loads(run_python(code)):
        assert found == {"short": 1, "long": 3, "here": 3, "new": 3}


@pytest.mark.parametrize("wanted", [None, "active"])
def test_threads_wait_asleep_unless_told_otherwise(wanted: str | None) -> None:
    code = """
import builtins, json, os, sys
sys.modules.pop("torch", None)
seen = []
real = builtins.__import__
def watched(name, *rest):
    if name == "torch":
        seen.append(os.environ.get("OMP_WAIT_POLICY"))
        sys.modules["torch"] = object()
        return sys.modules["torch"]
    return real(name, *rest)
from ctai_sam2.models.tensor_threads import import_torch
builtins.__import__ = watched
import_torch(); import_torch()
print(json.dumps([seen, os.environ.get("OMP_WAIT_POLICY")]))
"""
    seen, after = json.loads(run_python(code, OMP_WAIT_POLICY=wanted))
    assert seen[0] == (wanted or "passive")
    assert after == wanted


def run_python(code: str, **variables: str | None) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_WAIT_POLICY": None, **variables}
    given = {name: value for name, value in env.items() if value is not None}
    return subprocess.run(
        [sys.executable, "-c", code], env=given, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_no_garbage_is_looked_for_while_pytorch_is_imported() -> None:
    code = """
import gc
from ctai_sam2.models.tensor_threads import import_torch
before = gc.get_stats()[2]["collections"]
import_torch()
print(gc.get_stats()[2]["collections"] - before, gc.isenabled())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0", "True"]


@pytest.mark.parametrize("enabled", [True, False])
def test_collecting_goes_on_as_it_was(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        with without_collecting():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
