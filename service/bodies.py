"""A request's body: read within bounds, kept in memory, parsed.

A large body is parsed in a worker process: 32 MB of JSON or of a form hold a processor for a second, in which
this process would respond to nobody.
"""

from __future__ import annotations

import io
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, NamedTuple, Protocol

import anyio
from pydantic_core import from_json
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ctai_sam2.models import wire

from .faults import ClientGone, Fault

MAX_JSON_VALUES = 100_000
"""Values in one JSON document: a thousand clicks are some four thousand."""

UPLOAD_GRACE_S = 5.0
"""Seconds before a slow body is held against the minimum rate."""


PARSED_HERE_BYTES = 1 << 18
"""Size of the largest body that is parsed in this process: some ms."""

_PIECE_BYTES = 1 << 16

FormParts = list[tuple[str, "str | FilePart"]]
"""Names and contents of a form's parts, in order."""


class FilePart(NamedTuple):
    """A part of a form with a file; its name may be a patient's, and is dropped."""

    content: Any
    """Bytes, or the slice of the body where they are."""


class ParsesBodies(Protocol):
    """What parses a large body somewhere else."""

    async def parse(self, body: bytes, content_type: str | None) -> Any:
        """Return what `parse_json` returns, or for a form of this content type `parse_form`.

        Slices of the body may stand in place of long values.
        """


class ReadRequest(Request):
    """A request whose body is in memory: pixels never touch a disk.

    Parameters
    ----------
    request : Request
        Whose body was read.
    body : bytes
        Its body.
    parser : ParsesBodies
        Parses it where it is large.
    """

    def __init__(self, request: Request, body: bytes, parser: ParsesBodies) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body
        self._parser = parser

    async def json(self) -> Any:
        """Parse the body as JSON."""
        if len(self._body) > PARSED_HERE_BYTES:
            value = await self._parser.parse(self._body, None)
            if isinstance(value, dict):
                texts = {name: self._body[one] for name, one in value.items() if isinstance(one, slice)}
                value.update({name: text.decode() for name, text in texts.items()})
            return value
        return parse_json(self._body)

    async def form(self, **_: Any) -> FormData:  # type: ignore[override]
        """Parse the body as a form of several parts, the only form that is taken."""
        content_type = self.headers.get("content-type", "")
        if len(self._body) > PARSED_HERE_BYTES:
            parts: FormParts = await self._parser.parse(self._body, content_type)
        else:
            parts = parse_form(self._body, content_type)
        return FormData([(name, one if isinstance(one, str) else self._file_of(one)) for name, one in parts])

    def _file_of(self, part: FilePart) -> UploadFile:
        content = self._body[part.content] if isinstance(part.content, slice) else part.content
        return UploadFile(io.BytesIO(content), size=len(content), filename="file")


class _MemoryParser(MultiPartParser):
    """Keeps uploads in memory, which the limit on the body bounds."""

    spool_max_size = 2**31

    def close_files(self) -> None:
        """Close the files of all parts, of those that were begun too."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_body(
    request: Request, *, max_bytes: int, min_bytes_per_s: float, count: Callable[[int], None]
) -> bytes:
    """Read a request's body.

    Parameters
    ----------
    request : Request
        Whose body has not been read.
    max_bytes : int
        Size above which it is refused.
    min_bytes_per_s : float
        Mean rate below which it is refused, after `UPLOAD_GRACE_S`.
    count : callable
        Receives the number of bytes of each part as it arrives.

    Raises
    ------
    Fault
        If it is larger or slower.
    ClientGone
        If the client hangs up.
    """
    started = time.monotonic()
    parts: list[bytes] = []
    size = 0
    while True:
        left_s = started + UPLOAD_GRACE_S + size / min_bytes_per_s - time.monotonic()
        try:
            with anyio.fail_after(max(0.0, left_s)):
                message = await request.receive()
        except TimeoutError:
            raise too_slow() from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            raise too_large(max_bytes)
        count(len(parts[-1]))
        if not message.get("more_body", False):
            return b"".join(parts)


def parse_json(text: bytes) -> Any:
    """Parse JSON of few values, which may be long strings; how deep it nests is bounded by the parser.

    Raises
    ------
    Fault
        If it is not JSON, or holds more values than any request has.
    """
    # Every value but the first follows one of these. Base64 holds none of them.
    if sum(map(text.count, (b",", b"[", b"{", b":"))) > MAX_JSON_VALUES:
        raise Fault(status=413, code="too_large", detail="The JSON holds more values than a request needs.")
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        # The parser's own words can quote what it read.
        raise Fault(
            status=422, code=wire.INPUT_INVALID, detail="The request cannot be read: it is not valid JSON."
        ) from error


def parse_form(body: bytes, content_type: str) -> FormParts:
    """Parse a form of several parts.

    Raises
    ------
    Fault
        If it is none, is damaged, or has too many or too large parts.
    """
    if not content_type.lower().startswith("multipart/form-data"):
        raise _bad_form("a body of multipart/form-data is needed")

    async def pieces() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), _PIECE_BYTES):
            yield body[start : start + _PIECE_BYTES]

    headers = Headers({"content-type": content_type})
    parser = _MemoryParser(headers, pieces(), max_files=1, max_fields=16)
    try:
        return [
            (name, value if isinstance(value, str) else FilePart(value.file.read()))
            for name, value in _finish(parser.parse()).multi_items()
        ]
    except (MultiPartException, LookupError, ValueError) as error:
        raise _bad_form("the form is damaged, or has too many or too large parts") from error
    finally:
        parser.close_files()


def _finish(work: Coroutine[Any, Any, FormData]) -> FormData:
    """Run what is written for an event loop and never waits for one: all bytes are there."""
    try:
        work.send(None)
    except StopIteration as done:
        form: FormData = done.value
        return form
    raise RuntimeError("parsing a form in memory waited for something")


def too_large(max_bytes: int) -> Fault:
    """Make the fault for a request that is larger than allowed."""
    detail = f"The request is larger than the limit of {max_bytes / 1e6:g} MB."
    return Fault(status=413, code="too_large", detail=detail)


def too_slow() -> Fault:
    """Make the fault for a request that does not arrive."""
    return Fault(status=408, code="request_timeout", detail="The request did not arrive in time.")


def _bad_form(problem: str) -> Fault:
    return Fault(status=422, code="form_invalid", detail=f"The form cannot be read: {problem}.")
