"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real CT development data, or a skip with the reason."""
    named = os.environ.get("CTAI_SAM2_REAL_DATA")
    folder = Path(named) if named else PROJECT.parent / "shared" / "data"
    if not (folder / "dev").is_dir():
        pytest.skip(
            f"real CT data is not on this machine (looked in {folder.name}/dev; set CTAI_SAM2_REAL_DATA)"
        )
    return folder


# Files that take longest are handed out first, so that no worker is left with one at the end.
LONGEST = (
    *("tests/browser/", "notebooks/", "tests/integration/", "tests/unit/cohort/", "tests/service/"),
    *("tests/docs/", "tests/contract/", "tests/robustness/", "tests/unit/models/", "tests/unit/cli/"),
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: next(
                (place for place, start in enumerate(LONGEST) if item.nodeid.startswith(start)), len(LONGEST)
            )
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the browser tests on one worker: they share JupyterLab, a kernel and Chromium."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return LONGEST[0] if nodeid.startswith(LONGEST[0]) else str(super()._split_scope(nodeid))

    if config.getvalue("dist") != "loadfile":
        return None
    # In the order of collection, not by the number of tests.
    config.option.loadscopereorder = False
    return ByFile(config, log)
