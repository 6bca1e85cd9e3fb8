"""Loaded before all plugins, see `pyproject.toml`: leaves out what is slow to import and no test needs."""

from __future__ import annotations

import sys

# Notebooks are checked by jsonschema, which builds a grammar of addresses as it is imported: 2.5 s, most of
# the time in which pytest or JupyterLab's server starts. Without it jsonschema does not check international
# addresses, of which notebooks have none.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
