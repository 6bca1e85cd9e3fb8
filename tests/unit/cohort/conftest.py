"""Where the cases of a run are done: in the test's process, unless a test is about worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ctai_sam2.cohort import runner
from tests.unit.cohort.making import do_here, in_processes


@pytest.fixture(scope="package", autouse=True)
def here() -> Iterator[None]:
    """Let runs do their cases in the test's process."""
    with pytest.MonkeyPatch.context() as patch:
        do_here(patch)
        yield


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs start worker processes, as they do outside of tests."""
    monkeypatch.setattr(runner, "_dispatch_here", in_processes)
