"""The lines of a record: what they hold, and which of them can be trusted.

Each line is one JSON object ``{"n": number, "check": digest, "event": …}``. The
digest covers the number, the event and the digest before, so a line that was torn,
changed, lost or moved does not fit. The first line names the format and the slice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ctai_sam2.errors import InputError, RecordError

FORMAT = "ctai_sam2 annotation record"
VERSION = 1
FIRST_CHECK = ""


def make_header(slice_sha256: str) -> dict[str, Any]:
    """Make the first line's event."""
    return {"format": FORMAT, "version": VERSION, "slice_sha256": slice_sha256}


def encode_line(number: int, event: Mapping[str, Any], check_before: str) -> tuple[bytes, str]:
    """Encode a line, ended by a line feed, and its digest for the line after.

    Raises
    ------
    InputError
        If the event holds something JSON cannot say exactly.
    """
    try:
        body = json.dumps(event, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"an event cannot be written as JSON: {error}") from error
    check = _check(number, body, check_before)
    return f'{{"n":{number},"check":"{check}","event":{body}}}\n'.encode("ascii"), check


def read_lines(content: bytes) -> Iterator[tuple[dict[str, Any], str, int]]:
    """Events that can be trusted, each with its digest and the byte after its line.

    A last line that is torn (no line feed, or its digest does not fit) is left out: it was never
    reported as saved.

    Raises
    ------
    RecordError
        If a line before the last does not fit: that is no crash but damage.
    """
    start, number, check = 0, 0, FIRST_CHECK
    while (end := content.find(b"\n", start)) >= 0:
        decoded = _decode(content[start:end], number, check)
        if decoded is None:
            if content.find(b"\n", end + 1) >= 0 or number == 0:
                raise RecordError(
                    "the annotation record is damaged" if number else "the file is no annotation record",
                    received=f"line {number + 1} does not fit",
                    hint="Restore a copy of it, or keep it aside and start a new one."
                    if number
                    else "Choose another file name; nothing was changed.",
                )
            return
        event, check = decoded
        start, number = end + 1, number + 1
        yield event, check, start


def _decode(line: bytes, number: int, check_before: str) -> tuple[dict[str, Any], str] | None:
    try:
        value = json.loads(line)
        body = json.dumps(value["event"], sort_keys=True, separators=(",", ":"), allow_nan=False)
        fits = value["n"] == number and value["check"] == _check(number, body, check_before)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not fits or not isinstance(value["event"], dict):
        return None
    return value["event"], str(value["check"])


def _check(number: int, body: str, check_before: str) -> str:
    return hashlib.sha256(f"{check_before} {number} {body}".encode("ascii")).hexdigest()[:16]
