"""What every request passes: identification, key, version, size, and one form for all errors."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctai_sam2.errors import CtaiError
from ctai_sam2.models import wire
from ctai_sam2.settings import Settings

from .faults import ClientGone, Fault, fault_of, too_large
from .logs import logger
from .metrics import Metrics

OPEN_PATHS = frozenset({wire.HEALTH_PATH, wire.READY_PATH, wire.METRICS_PATH, "/openapi.json"})
"""No key is asked for here: orchestrators and Prometheus have none, and nothing here is about an image."""

_DRAINED_BYTES = 1_000_000
_DRAIN_S = 2.0


class Guard:
    """ASGI middleware around the whole application.

    Parameters
    ----------
    app : ASGI application
        What it guards.
    settings : Settings
        Key and limits.
    metrics : Metrics
        Where answers are counted.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._max_bytes = int(settings.max_body_mb * 1e6)
        key = settings.api_key
        self._key = None if key is None else key.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        try:
            self._require_leave(scope, exchange)
            await self._app(scope, exchange.receive, exchange.send)
        except ClientGone:
            self._metrics.dropped.inc()
            exchange.status = 499
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # Nothing a request holds may end the process or show its inside.
            fault = error if isinstance(error, Fault) else None
            if fault is None and isinstance(error, CtaiError):
                fault = fault_of(error)
            if fault is None or fault.status == 500:
                logger.error("unforeseen", exc_info=error, extra={"request_id": exchange.request_id})
                fault = Fault(status=500, code="internal_error", detail="Something unforeseen happened.")
            if not exchange.has_started:
                await send_fault(fault, exchange.request_id, exchange.send)
        finally:
            self._note(scope, exchange)

    def _require_leave(self, scope: Scope, exchange: _Exchange) -> None:
        headers = exchange.headers
        spoken = headers.get(wire.PROTOCOL_HEADER.lower())
        if spoken is not None and spoken != wire.PROTOCOL_VERSION:
            raise Fault(
                status=409,
                code=wire.PROTOCOL_MISMATCH,
                detail=f"This service speaks protocol version {wire.PROTOCOL_VERSION}, the client another: "
                "install the same release on both sides.",
            )
        if self._key is not None and scope["path"] not in OPEN_PATHS:
            given = headers.get(wire.API_KEY_HEADER.lower(), "")
            if not hmac.compare_digest(given.encode("latin-1"), self._key):
                raise Fault(
                    status=401,
                    code="key_invalid",
                    detail=f"The header {wire.API_KEY_HEADER} is missing or wrong.",
                )
        if exchange.declared_bytes is not None and exchange.declared_bytes > self._max_bytes:
            raise too_large(self._settings.max_body_mb)

    def _note(self, scope: Scope, exchange: _Exchange) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        took_s = time.perf_counter() - exchange.started
        self._metrics.requests.labels(method, route, str(exchange.status)).inc()
        self._metrics.latency.labels(route).observe(took_s)
        quiet = route in OPEN_PATHS and exchange.status < 400
        logger.log(
            logging.DEBUG if quiet else logging.INFO,
            "answered",
            extra={
                "request_id": exchange.request_id,
                "method": method,
                "route": route,
                "status": exchange.status,
                "ms": round(took_s * 1000, 1),
                "bytes_in": exchange.received_bytes,
            },
        )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


class _Exchange:
    """One request and its answer: counts what arrives, marks what leaves."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = self.headers.get(wire.REQUEST_ID_HEADER.lower(), "")
        self.request_id = given if wire.is_request_id(given) else uuid.uuid4().hex
        length = self.headers.get("content-length", "")
        self.declared_bytes = int(length) if length.isascii() and length.isdigit() else None
        self.started = time.perf_counter()
        self.received_bytes = 0
        self.status = 500
        self.has_started = False
        self._receive, self._send = receive, send
        self._body_done = self.declared_bytes in (0, None) and "transfer-encoding" not in self.headers

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received_bytes += len(message.get("body", b""))
            self._body_done = not message.get("more_body", False)
        else:
            self._body_done = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            self.status = message["status"]
            headers = list(message.get("headers", []))
            headers += [
                (wire.REQUEST_ID_HEADER.lower().encode(), self.request_id.encode()),
                (wire.PROTOCOL_HEADER.lower().encode(), wire.PROTOCOL_VERSION.encode()),
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
            ]
            if not self._body_done and not await self._drain():
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def _drain(self) -> bool:
        """Read what is still to come, if that is little: a connection closed on a sender loses the answer."""
        if self.declared_bytes is not None and self.declared_bytes > _DRAINED_BYTES:
            return False
        until = time.monotonic() + _DRAIN_S
        while not self._body_done and self.received_bytes <= _DRAINED_BYTES:
            try:
                await asyncio.wait_for(self.receive(), max(0.0, until - time.monotonic()))
            except asyncio.TimeoutError:
                return False
        return self._body_done


async def send_fault(fault: Fault, request_id: str, send: Send) -> None:
    """Answer with an error."""
    body = json.dumps(describe_fault(fault, request_id)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if fault.retry_after_s is not None:
        headers.append((b"retry-after", str(fault.retry_after_s).encode()))
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def describe_fault(fault: Fault, request_id: str) -> dict[str, Any]:
    """Write an error as JSON values."""
    return {"error": fault.code, "detail": fault.detail, "request_id": request_id}
