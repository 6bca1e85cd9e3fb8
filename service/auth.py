"""What every request passes first: identification, key, host, version and size; and what is noted of it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from urllib.parse import urlsplit

from fastapi import Security
from fastapi.security import APIKeyHeader
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctai_sam2.models import wire
from ctai_sam2.models.remote import is_loopback
from ctai_sam2.settings import Settings

from .bodies import too_large
from .faults import ClientGone, Fault, respond
from .logs import logger
from .metrics import Metrics

OPEN_PATHS = frozenset({wire.HEALTH_PATH, wire.READY_PATH, wire.METRICS_PATH, "/openapi.json"})
"""No key is needed here: orchestrators and Prometheus have none, and nothing here is about an image."""

KEY = Security(APIKeyHeader(name=wire.API_KEY_HEADER, scheme_name="key", auto_error=False))
"""Describes the key. `Guard` checks it, before anything of a body is read."""

_DRAINED_BYTES = 1_000_000
_DRAIN_S = 2.0
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


class Guard:
    """ASGI middleware around the whole application.

    Parameters
    ----------
    app : ASGI application
        What it guards.
    settings : Settings
        Key and limits.
    metrics : Metrics
        Where responses are counted.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._max_bytes = int(settings.max_body_mb * 1e6)
        key = settings.api_key
        self._hosts = frozenset(settings.allowed_host_names)
        self._has_host_check = key is None or bool(self._hosts)
        self._key = None if key is None else key.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
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
        except Exception as error:  # nothing a request holds may end the process or show its inside
            response = respond(Request(scope), error)
            if not exchange.has_started:
                await response(scope, exchange.receive, exchange.send)
        finally:
            self._note(scope, exchange)

    def _require_leave(self, scope: Scope, exchange: _Exchange) -> None:
        headers = exchange.headers
        if self._has_host_check and "*" not in self._hosts:
            self._require_host(headers)
        if headers.get(wire.PROTOCOL_HEADER, wire.PROTOCOL_VERSION) != wire.PROTOCOL_VERSION:
            raise Fault(
                status=409,
                code=wire.PROTOCOL_MISMATCH,
                detail=f"This service speaks protocol version {wire.PROTOCOL_VERSION}, the client another: "
                "install the same release on both sides.",
            )
        if self._key is not None and scope["path"] not in OPEN_PATHS:
            given = headers.get(wire.API_KEY_HEADER, "")
            if not hmac.compare_digest(given.encode("latin-1"), self._key):
                raise Fault(
                    status=401,
                    code="key_invalid",
                    detail=f"The header {wire.API_KEY_HEADER} is missing or wrong.",
                )
        if exchange.declared_bytes is not None and exchange.declared_bytes > self._max_bytes:
            raise too_large(self._max_bytes)

    def _require_host(self, headers: Headers) -> None:
        """Refuse what a browser sends for a page of another site: it needs no key to reach this machine."""
        hosts, origin = headers.getlist("host"), headers.get("origin")
        if any(not self._is_allowed(host) for host in hosts) or len(hosts) > 1:
            raise Fault(
                status=403,
                code="host_forbidden",
                detail="That host is not a name of this service: add it to SAM2_ALLOWED_HOSTS.",
            )
        if origin is not None:
            sender = origin.partition("://")[2]
            if sender not in hosts and _name_of(sender) not in self._hosts:
                raise Fault(
                    status=403,
                    code="origin_forbidden",
                    detail="The request comes from a page of another site: see SAM2_ALLOWED_HOSTS.",
                )

    def _is_allowed(self, host: str) -> bool:
        name = _name_of(host)
        return name is not None and (name in self._hosts or is_loopback(name))

    def _note(self, scope: Scope, exchange: _Exchange) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        took_s = time.perf_counter() - exchange.started
        self._metrics.requests.labels(method, route, str(exchange.status)).inc()
        self._metrics.latency.labels(route).observe(took_s)
        quiet = route in OPEN_PATHS and exchange.status < 400
        logger.log(
            logging.DEBUG if quiet else logging.INFO,
            "responded",
            extra={
                "request_id": exchange.request_id,
                "method": method,
                "route": route,
                "status": exchange.status,
                "ms": round(took_s * 1000, 1),
                "bytes_in": exchange.received_bytes,
            },
        )


def _name_of(host: str) -> str | None:
    """Return the name in a Host header, without its port; None where it is none."""
    try:
        return urlsplit(f"//{host}").hostname if not set("/?#@\\") & set(host) else None
    except ValueError:
        return None


class _Exchange:
    """One request and its response: counts what arrives, marks what leaves."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = Headers(scope=scope)
        given = self.headers.get(wire.REQUEST_ID_HEADER, "")
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
        """Read what is still to come, if it is little: closing on a sender loses the response."""
        if self.declared_bytes is not None and self.declared_bytes > _DRAINED_BYTES:
            return False
        until = time.monotonic() + _DRAIN_S
        while not self._body_done and self.received_bytes <= _DRAINED_BYTES:
            try:
                await asyncio.wait_for(self.receive(), max(0.0, until - time.monotonic()))
            except asyncio.TimeoutError:
                return False
        return self._body_done
