"""Keys of actions: those of the table, and those that a reader chose instead.

One place for both: what a key does, what the tooltips and the list behind ``?`` show,
and which keys the page catches all come from a `KeyMap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ctai_sam2.editor.actions import ACTIONS, BY_NAME, Action
from ctai_sam2.errors import InputError

RESERVED = frozenset({"escape", "tab", "shift+tab", "enter", " "})
"""Keys that stay as they are: a way out, a way on, and what buttons take."""


@dataclass(frozen=True, kw_only=True)
class KeyMap:
    """Which key does what.

    Parameters
    ----------
    changes : mapping of str to tuple of str
        By an action's name, its keys in place of the table's; written as in `actions.key_combination`.

    Examples
    --------
    >>> keys = KeyMap().changed("tool.brush", "shift+b")
    >>> keys.keys_of("tool.brush"), keys.action_of("b"), keys.action_of("shift+b").name
    (('shift+b',), None, 'tool.brush')
    """

    changes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def keys_of(self, action: str) -> tuple[str, ...]:
        """Keys that do an action."""
        return self.changes.get(action, BY_NAME[action].keys)

    def action_of(self, key: str) -> Action | None:
        """Return the action that a key does; None where it does nothing."""
        return next((action for action in ACTIONS if key in self.keys_of(action.name)), None)

    @property
    def keys(self) -> list[str]:
        """Every key that does something, sorted."""
        return sorted({key for action in ACTIONS for key in self.keys_of(action.name)})

    def changed(self, action: str, key: str | None) -> KeyMap:
        """Give an action another key, which no other action has then; None: the table's again.

        Raises
        ------
        InputError
            If there is no such action, or the key is one that stays as it is.
        """
        if action not in BY_NAME:
            raise InputError("no such action", received=action)
        if (key is not None and (not key or key in RESERVED)) or RESERVED & set(BY_NAME[action].keys):
            raise InputError("this key stays as it is", received=key or action)
        changes = dict(self.changes)
        if key is None:
            changes.pop(action, None)
            taken = BY_NAME[action].keys
        else:
            changes[action] = taken = (key,)
        for other in ACTIONS:
            kept = tuple(each for each in changes.get(other.name, other.keys) if each not in taken)
            if other.name != action and kept != changes.get(other.name, other.keys):
                changes[other.name] = kept
        return KeyMap(changes={name: keys for name, keys in changes.items() if keys != BY_NAME[name].keys})

    @classmethod
    def from_json(cls, kept: Any) -> KeyMap:
        """Take changes as `to_json` gives them; what cannot be used is as in the table."""
        if not isinstance(kept, Mapping):
            return cls()
        changes: dict[str, tuple[str, ...]] = {}
        for name, keys in kept.items():
            is_known = name in BY_NAME and not RESERVED & set(BY_NAME[name].keys)
            if is_known and isinstance(keys, list) and all(isinstance(key, str) for key in keys):
                changes[name] = tuple(key for key in keys if key and key not in RESERVED)
        return cls(changes=changes)

    def to_json(self) -> dict[str, list[str]]:
        """Return the changes as JSON has them."""
        return {name: list(keys) for name, keys in self.changes.items()}
