"""Loads schemathesis' plugin here, where a test needs it: importing it takes longer than importing pytest."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    from schemathesis.pytest import plugin

    if not config.pluginmanager.is_registered(plugin):
        config.pluginmanager.register(plugin, "schemathesis")
