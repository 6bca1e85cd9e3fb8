"""Fixtures of cohort tests."""

from __future__ import annotations

import pytest

from tests.unit.cohort.making import do_here


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs do their cases in the test's process."""
    do_here(monkeypatch)
