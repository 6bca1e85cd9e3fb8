"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

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
