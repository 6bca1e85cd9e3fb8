"""The lines of a journal: what they hold, and which of them can be trusted.

Each line is one JSON object ``{"n": number, "check": digest, "event": …}``. The
digest covers the number, the event and the digest before, so a line that was torn,
changed, lost or moved does not fit. The first line names the format and the slice.

Nothing is ever cut off a journal: another writer may have confirmed what looks like
a torn end by now. A line written after an end that does not fit has ``"skip": bytes``
in front of its event, covered by the digest: so many bytes before it are no line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ctai_sam2.errors import InputError, RecordError
from ctai_sam2.files.json_text import parse_json

FORMAT = "ctai_sam2 annotation record"
VERSION = 1
FIRST_CHECK = ""
CLOSED = b"#\n"
"""Written after an end that is torn, so that it never becomes a line; a line ends with a brace."""


def make_header(slice_sha256: str) -> dict[str, Any]:
    """Make the first line's event."""
    return {"format": FORMAT, "version": VERSION, "slice_sha256": slice_sha256}


def encode_line(
    number: int, event: Mapping[str, Any], check_before: str, *, skip_bytes: int = 0
) -> tuple[bytes, str]:
    """Encode a line, ended by a line feed, and its digest for the line after.

    Parameters
    ----------
    number : int
        Of the line, from 0.
    event : mapping
        Plain values.
    check_before : str
        Digest of the line before; `FIRST_CHECK` for the first.
    skip_bytes : int
        How many bytes between the line before and this one do not count.

    Raises
    ------
    InputError
        If the event holds something JSON cannot say exactly.
    """
    try:
        body = json.dumps(event, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"an event cannot be written as JSON: {error}") from error
    check = _check(number, body, check_before, skip_bytes)
    skip = f'"skip":{skip_bytes},' if skip_bytes else ""
    return f'{{"n":{number},"check":"{check}",{skip}"event":{body}}}\n'.encode("ascii"), check


def read_lines(content: bytes) -> Iterator[tuple[dict[str, Any], str, int]]:
    """Events that can be trusted, each with its digest and the byte after its line.

    An end that is torn (no line feed, or its digest does not fit) is left out: it was never reported as
    saved. So are ends that several writers in turn left torn, each closed by the next, and what a later line
    that fits says to skip.

    Raises
    ------
    RecordError
        If a line before the last does not fit: that is no crash but damage.
    """
    start, number, check = 0, 0, FIRST_CHECK
    while (end := content.find(b"\n", start)) >= 0:
        found = _decode(content[start:end], number, check, skip_bytes=0)
        if found is None:
            found, end = _decode_after_gap(content, start, number, check)
        if found is None:
            rest = content[start:].split(b"\n")[:-1]
            is_torn = all(line.endswith(CLOSED[:-1]) for line in rest) or (number > 0 and len(rest) == 1)
            if not is_torn:
                raise RecordError(
                    "the annotation journal is damaged" if number else "the file is no annotation journal",
                    received=f"line {number + 1} does not fit",
                    hint="Restore a copy of it, or keep it aside and start a new one."
                    if number
                    else "Choose another file name; nothing was changed.",
                )
            return
        event, check = found
        start, number = end + 1, number + 1
        yield event, check, start


def _decode_after_gap(
    content: bytes, start: int, number: int, check: str
) -> tuple[tuple[dict[str, Any], str] | None, int]:
    """Find the line that names the bytes from ``start`` on as skipped; with the place of its line feed."""
    begin = content.find(b"\n", start) + 1
    while (end := content.find(b"\n", begin)) >= 0:
        found = _decode(content[begin:end], number, check, skip_bytes=begin - start)
        if found is not None:
            return found, end
        begin = end + 1
    return None, -1


def _decode(
    line: bytes, number: int, check_before: str, *, skip_bytes: int
) -> tuple[dict[str, Any], str] | None:
    try:
        value = parse_json(line)
        body = json.dumps(value["event"], sort_keys=True, separators=(",", ":"), allow_nan=False)
        fits = (
            value["n"] == number
            and value.get("skip", 0) == skip_bytes
            and value["check"] == _check(number, body, check_before, skip_bytes)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not fits or not isinstance(value["event"], dict):
        return None
    return value["event"], str(value["check"])


def _check(number: int, body: str, check_before: str, skip_bytes: int) -> str:
    skip = f"skip {skip_bytes} " if skip_bytes else ""
    return hashlib.sha256(f"{check_before} {number} {skip}{body}".encode("ascii")).hexdigest()[:16]
