"""From settings to a listening process that ends in good order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ctai_sam2.errors import InputError, Unavailable
from ctai_sam2.models import CachedSegmenter, Segmenter, open_segmenter
from ctai_sam2.models.factory import cache_folder
from ctai_sam2.models.remote import is_loopback
from ctai_sam2.settings import Settings

from .app import make_app
from .logs import set_up_logging

logger = logging.getLogger("ctai_sam2.service")

HEADERS_S = 10.0
"""Seconds a client may take for the head of a request."""

_KEEP_ALIVE_S = 75
_SWITCH_S = 0.0005


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, with bounds: on the time for the head of a request, and on open connections.

    Past the bound on connections the one that is silent for longest is closed, of the client that has
    most; a request that is worked on keeps its connection. There is no access log: paths and queries are
    the clients' own words.
    """

    headers_s = HEADERS_S
    _head_timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.access_log = False
        self._heard_at = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start counting: the first head is due."""
        super().connection_made(transport)
        # Head and body of a response are two messages: without this, the second of them would wait until the
        # client confirms the first, 40 ms. asyncio sees to it only for sockets that it makes itself.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        service = self.config.app.state.service  # type: ignore[union-attr]
        if len(self.connections) > service.settings.max_connections:
            service.metrics.connections_closed.inc()
            self._close_one()
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that begin a head start its time."""
        self._heard_at = self.loop.time()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._head_timer is None:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting."""
        self._stop_timer()
        super().connection_lost(exc)

    @property
    def is_working(self) -> bool:
        """Whether a request has arrived and has no response yet."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_started

    def _close_one(self) -> None:
        idle = [one for one in self.connections if isinstance(one, ImpatientProtocol) and not one.is_working]
        held = Counter(one._host for one in idle)
        most = max(held.values())
        silent = min((one for one in idle if held[one._host] == most), key=lambda one: one._heard_at)
        self.connections.discard(silent)
        silent.transport.abort()

    @property
    def _host(self) -> str:
        return "" if self.client is None else self.client[0]

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.headers_s, self._give_up)

    def _give_up(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Server(uvicorn.Server):
    """uvicorn's server, which hears the signals that `serve` passes on, from its first moment."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals as they are."""
        yield


def open_served_segmenter(settings: Settings) -> Segmenter:
    """Open what the service serves: SAM2 in this process, with the cache in front.

    Raises
    ------
    InputError
        If a setting cannot be used.
    Unavailable
        If segmentation is switched off.
    """
    return CachedSegmenter(
        open_segmenter("local", settings),
        cache_folder(settings),
        expires_hours=settings.cache_expire_hours,
        max_bytes=int(settings.cache_max_mb * 1e6),
    )


def require_safe(settings: Settings) -> None:
    """Refuse to listen to other machines without a key, or anywhere with a key of blanks.

    Raises
    ------
    InputError
        If there is none, or a short or blank one.
    """
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    length = len("".join((key or "").split()))  # blanks are easily guessed, and lost on the way
    if length >= 16 or (is_loopback(settings.host) and (key is None or length)):
        return
    kind = "no" if key is None else ("a short" if length else "a blank")
    raise InputError(
        "a service that other machines reach needs a key of at least 16 characters, and no key may be blank",
        received=f"SAM2_HOST={settings.host} and {kind} SAM2_API_KEY",
        hint="Set SAM2_API_KEY on both sides, or SAM2_HOST=127.0.0.1.",
    )


def make_server(app: FastAPI, settings: Settings, **options: Any) -> uvicorn.Server:
    """Make the server around an application: limits on connections and heads, orderly end on SIGTERM."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=ImpatientProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.request_timeout) + 1,
        backlog=512,
        **options,
    )
    return Server(config)


def serve(settings: Settings | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; requests under way are completed first.

    A signal that comes before the server is made ends the process at once, later ones in order.

    Parameters
    ----------
    settings : Settings, optional
        Read from the environment when omitted.

    Raises
    ------
    InputError
        If a setting cannot be used, or the address cannot be listened on.
    Unavailable
        If segmentation is switched off.
    """
    settings = settings or Settings()
    require_safe(settings)
    # A thread that computes asks for the interpreter after each operation of a network: with Python's 5 ms it
    # waits for the thread that reads and writes responses.
    sys.setswitchinterval(_SWITCH_S)
    with open_served_segmenter(settings) as segmenter:
        set_up_logging()
        app = make_app(segmenter, settings)
        server = make_server(app, settings)
        with suppress(ValueError):  # signals belong to the main thread
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, server.handle_exit)
        try:
            server.run(sockets=[server.config.bind_socket()])  # before the model is loaded
        except SystemExit as error:
            raise Unavailable(
                "the service could not start",
                received=f"{settings.host}:{settings.port}",
                hint="Another program may listen there: choose another SAM2_PORT.",
            ) from error
        if app.state.service.is_loading:
            # The model is being loaded in a thread that cannot be stopped, and holds what closing waits for.
            logging.shutdown()
            os._exit(0)
