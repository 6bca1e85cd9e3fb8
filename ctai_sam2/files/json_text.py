"""Parsing JSON that others may have written: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes, *, unique_keys: bool = False) -> Any:
    """Parse JSON.

    Parameters
    ----------
    text : str or bytes
        The document.
    unique_keys : bool
        Refuse an object in which a key stands twice, instead of taking the last one: for files that people
        write by hand.

    Raises
    ------
    ValueError
        If it is not JSON, is nested more deeply than can be read, or a key stands twice.

    Examples
    --------
    >>> parse_json('{"a": [1, 2]}')
    {'a': [1, 2]}
    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: JSON is nested too deeply
    >>> parse_json('{"a": 1, "a": 2}', unique_keys=True)
    Traceback (most recent call last):
    ValueError: a key stands twice in a JSON object
    """
    try:
        return json.loads(text, object_pairs_hook=_unique if unique_keys else None)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key stands twice in a JSON object")
    return result
