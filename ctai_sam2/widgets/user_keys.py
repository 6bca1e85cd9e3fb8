"""The keys that a user chose, in a file that all editors share."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from ctai_sam2.editor.keys import KeyMap
from ctai_sam2.errors import StorageError
from ctai_sam2.files.atomic import write_json
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.settings import Settings


def keys_path() -> Path:
    """Return the file that the settings name, else the one in the user's configuration folder."""
    named = Settings().editor_keys
    return named or Path(platformdirs.user_config_dir("ctai_sam2", appauthor=False)) / "editor_keys.json"


def read_keys() -> KeyMap:
    """Read the user's keys; those of the table where there is no file or it cannot be used."""
    try:
        return KeyMap.from_json(parse_json(keys_path().read_text(encoding="utf-8"), unique_keys=True))
    except (OSError, ValueError):
        return KeyMap()


def write_keys(keys: KeyMap) -> None:
    """Keep the user's keys.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    path = keys_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError("the keys cannot be kept", received=error.strerror) from error
    write_json(path, keys.to_json())
