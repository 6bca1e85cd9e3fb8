"""Loaded before all plugins, see `pyproject.toml`: leaves out what costs time and no test needs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator

import pytest

# Notebooks are checked by jsonschema, which builds a grammar of addresses as it is imported: 2.5 s, most of
# the time in which pytest or JupyterLab's server starts. Without it jsonschema does not check international
# addresses, of which notebooks have none.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect thousands of tests, which stay to the end, without looking for garbage among them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
