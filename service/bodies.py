"""A request's body: read within bounds, kept in memory, parsed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
from pydantic_core import from_json
from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ctai_sam2.models import wire

from .faults import ClientGone, Fault

MAX_JSON_VALUES = 100_000
"""Values in one JSON document: a thousand clicks are some four thousand."""

UPLOAD_GRACE_S = 5.0
"""Seconds before a slow body is held against the minimum rate."""


class ReadRequest(Request):
    """A request whose body is in memory: pixels never touch a disk."""

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body

    async def json(self) -> Any:
        """Parse the body as JSON."""
        return parse_json(self._body)

    async def form(self, **_: Any) -> FormData:  # type: ignore[override]
        """Parse the body as a form of several parts, the only form that is taken."""
        if not self.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise _bad_form("a body of multipart/form-data is needed")
        try:
            headers = Headers(raw=self.scope["headers"])
            return await _MemoryParser(headers, self.stream(), max_files=1, max_fields=16).parse()
        except (MultiPartException, LookupError, ValueError) as error:
            raise _bad_form("the form is damaged, or has too many or too large parts") from error


class _MemoryParser(MultiPartParser):
    """Keeps uploads in memory, which the limit on the body bounds."""

    spool_max_size = 2**31


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


def too_large(max_bytes: int) -> Fault:
    """Make the fault for a request that is larger than allowed."""
    detail = f"The request is larger than the limit of {max_bytes / 1e6:g} MB."
    return Fault(status=413, code="too_large", detail=detail)


def too_slow() -> Fault:
    """Make the fault for a request that does not arrive."""
    return Fault(status=408, code="request_timeout", detail="The request did not arrive in time.")


def _bad_form(problem: str) -> Fault:
    return Fault(status=422, code="form_invalid", detail=f"The form cannot be read: {problem}.")
