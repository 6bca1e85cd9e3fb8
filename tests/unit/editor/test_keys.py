"""Keys that a reader chose: one place for what they do, what is shown and what the page catches."""

from __future__ import annotations

from typing import Any

import pytest

from ctai_sam2.editor.keys import KeyMap
from ctai_sam2.errors import InputError


def test_a_key_that_was_given_away_does_one_thing() -> None:
    keys = KeyMap().changed("tool.brush", "e")
    assert keys.action_of("e").name == "tool.brush"
    assert keys.action_of("b") is None
    assert keys.keys_of("tool.eraser") == ()
    assert "b" not in keys.keys
    # The first one again, also from the one that has it by now.
    assert keys.changed("tool.eraser", None).action_of("e").name == "tool.eraser"
    assert keys.changed("tool.eraser", None).keys_of("tool.brush") == ()
    assert keys.changed("tool.eraser", None).changed("tool.brush", None) == KeyMap()
    assert KeyMap.from_json(keys.to_json()) == keys


@pytest.mark.parametrize(
    ("action", "key"), [("tool.brush", "escape"), ("tool.brush", ""), ("cancel", "j"), ("nothing", "j")]
)
def test_keys_that_stay_as_they_are(action: str, key: str) -> None:
    with pytest.raises(InputError):
        KeyMap().changed(action, key)


@pytest.mark.parametrize("kept", [None, [], {"tool.brush": "b"}, {"nothing": ["b"]}, {"cancel": ["b"]}])
def test_a_file_that_cannot_be_used_leaves_the_table(kept: Any) -> None:
    assert KeyMap.from_json(kept) == KeyMap()
