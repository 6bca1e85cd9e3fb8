"""How predictions are stored on disk: JSON in a folder that no other user can write to, managed by joblib.

joblib decides what is stored where and what is removed; only the files differ from its own. Its pickles run
code when they are read, so that anyone who can replace one can run code: none is ever opened. An entry
is the SHA-256 of what follows, a line break, and one JSON object whose masks are encoded as in responses
(`ctai_sam2.models.wire`); it names what it is the prediction of, and is validated as a response is.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import math
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from joblib import Memory, register_store_backend
from joblib._store_backends import CacheItemInfo, FileSystemStoreBackend
from pydantic import FiniteFloat, ValidationError

from ctai_sam2.errors import InputError
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.models import wire
from ctai_sam2.models.cache_key import CacheKey
from ctai_sam2.models.messages import MessageBody, PredictionBody, WindowBody
from ctai_sam2.types import Prediction, Window

logger = logging.getLogger(__name__)

ENTRY_FILE = "prediction.json"
METADATA_FILE = "metadata.json"
_FORMAT_FOLDER = "predictions-2"
"""Numbered with the format of the files. Folders of older formats, which held pickles, are not opened."""
_BACKEND = "ctai-predictions"
_MAX_ENTRY_BYTES = 64_000_000
_ITEM_FOLDER = re.compile("[0-9a-f]{32}")


class StoredPrediction(MessageBody):
    """What a file of the cache holds."""

    key: dict[str, str]
    stored_at: FiniteFloat
    backend: str
    window: WindowBody | None
    prediction: PredictionBody


def open_memory(folder: Path) -> Memory:
    """Open joblib's memory in a folder of predictions, which is made if need be.

    Raises
    ------
    InputError
        If others can write to the folder, or it belongs to another user.
    OSError
        If it cannot be made or written to.
    """
    place = folder / _FORMAT_FOLDER
    for one in (folder, place):
        one.mkdir(parents=True, exist_ok=True, mode=0o700)
        require_private(one)
    probe = place / f".probe-{os.getpid()}-{time.monotonic_ns()}"
    probe.write_bytes(b"")
    probe.unlink()
    register_store_backend(_BACKEND, PredictionStore)
    return Memory(place, backend=_BACKEND, verbose=0)


def require_private(folder: Path) -> None:
    """Refuse a folder that others can write to, where the system has such permissions.

    Raises
    ------
    InputError
        If they can, or if it belongs to another user.
    """
    if os.name != "posix":
        return
    state = folder.stat()
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InputError(
            "others can write to the folder of the prediction cache",
            received=f"mode {stat.S_IMODE(state.st_mode):o}",
            hint="Run chmod go-w on it, or set SAM2_CACHE_DIR to another.",
        )
    if state.st_uid not in (os.geteuid(), 0):
        raise InputError(
            "the folder of the prediction cache belongs to another user", hint="Set SAM2_CACHE_DIR."
        )


def encode_entry(key: CacheKey, prediction: Prediction, stored_at: float) -> bytes:
    """Write a prediction as the content of a file."""
    window = prediction.window
    content = {
        "key": asdict(key),
        "stored_at": stored_at,
        "backend": prediction.backend,
        "window": None if window is None else {"level": float(window.level), "width": float(window.width)},
        "prediction": wire.encode_prediction(prediction, key.pixels),
    }
    body = json.dumps(content, separators=(",", ":")).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode_entry(data: bytes, key: CacheKey, shape_hw: tuple[int, int]) -> tuple[float, Prediction] | None:
    """Read what `encode_entry` wrote; None where it is damaged or belongs to another key.

    Returns
    -------
    stored_at : float
        Seconds since the epoch.
    prediction : Prediction
    """
    body = _intact_body(data)
    if body is None:
        return None
    try:
        stored = StoredPrediction.model_validate_json(body)
        if stored.key != asdict(key):
            return None
        window = stored.window
        return stored.stored_at, wire.decode_prediction(
            stored.prediction,
            image_sha256=key.pixels,
            shape_hw=shape_hw,
            window=None if window is None else Window(level=window.level, width=window.width),
            backend=stored.backend,
        )
    except (ValidationError, InputError):
        return None


def is_intact(path: Path) -> bool:
    """Whether a file of the cache is what was written."""
    return _intact_body(_read_bounded(path)) is not None


def read_entries(memory: Memory) -> Iterator[tuple[CacheKey, float, Path]]:
    """Give key, time of writing and file of every entry that says what it is."""
    for item in memory.store_backend.get_items():
        folder = Path(item.path)
        metadata = _read_metadata(folder / METADATA_FILE)
        arguments = metadata.get("input_args")
        if metadata and isinstance(arguments, dict):
            parts = {str(name): str(text).strip("'") for name, text in arguments.items()}
            try:
                yield CacheKey(**parts), metadata["time"], folder / ENTRY_FILE
            except TypeError:
                logger.warning("an entry of the prediction cache is of another form and is not used")


class PredictionStore(FileSystemStoreBackend):
    """joblib's store of files, with bytes in place of pickles."""

    def load_item(self, call_id: Sequence[str], *_: Any, **__: Any) -> bytes | None:
        """Return the bytes of an entry: empty where they cannot be read, None where it is gone."""
        path = self._entry(call_id)
        if not path.exists():
            return None  # another process has removed it since it was found
        data = _read_bounded(path)
        try:
            # What was used last is removed last, also where the file system does not note reading.
            os.utime(path, (time.time(), path.stat().st_mtime))
        except OSError as error:
            logger.debug("the use of an entry cannot be noted (%s)", type(error).__name__)
        return data

    def dump_item(self, call_id: Sequence[str], item: bytes, *_: Any, **__: Any) -> None:
        """Write the bytes of an entry, whole or not at all.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        path = self._entry(call_id)

        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        try:
            temporary.write_bytes(item)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def contains_item(self, call_id: Sequence[str]) -> bool:
        """Whether there is such an entry, readable or not."""
        return self._entry(call_id).exists()

    def get_metadata(self, call_id: Sequence[str]) -> dict[str, Any]:
        """Return what joblib noted about an entry; empty where that is missing or damaged."""
        return _read_metadata(self._entry(call_id).with_name(METADATA_FILE))

    def get_items(self) -> list[Any]:
        """Return folder, size and last use of every entry."""
        items = []
        for place, _, names in os.walk(self.location):
            if not _ITEM_FOLDER.fullmatch(os.path.basename(place)):
                continue
            states = [state for name in names if (state := _stat(os.path.join(place, name))) is not None]
            entry = _stat(os.path.join(place, ENTRY_FILE)) or _stat(place)
            if entry is not None:
                used = datetime.datetime.fromtimestamp(entry.st_atime)
                items.append(CacheItemInfo(place, sum(state.st_size for state in states), used))
        return items

    def _entry(self, call_id: Sequence[str]) -> Path:
        return Path(self.location, *call_id, ENTRY_FILE)


def _read_bounded(path: Path) -> bytes:
    """Read a file, or nothing where it cannot be read or is larger than any entry."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_ENTRY_BYTES + 1)
    except OSError as error:
        logger.warning("an entry of the prediction cache cannot be read (%s)", type(error).__name__)
        return b""
    return data if len(data) <= _MAX_ENTRY_BYTES else b""


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = parse_json(file.read(1 << 16))
        written_at = float(found["time"])
        if not math.isfinite(written_at):
            raise ValueError("not a time")
    except FileNotFoundError:
        return {}  # another process has not finished writing
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(
            "the note to an entry of the prediction cache is damaged (%s): computed again",
            type(error).__name__,
        )
        return {}
    return {**found, "time": written_at}


def _intact_body(data: bytes) -> bytes | None:
    check, _, body = data.partition(b"\n")
    return body if body and hashlib.sha256(body).hexdigest().encode() == check else None


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:  # another process is removing it
        return None
