"""From settings to a listening process that ends in good order."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
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
_CONNECTIONS = 1000


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, but a client that does not finish the head of its request is cut off.

    It has no access log either: paths and queries are the clients' own words.
    """

    headers_s = HEADERS_S
    _head_timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start counting: the first head is due."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that begin a head start its time."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._head_timer is None:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting."""
        self._stop_timer()
        super().connection_lost(exc)

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


def open_served_segmenter(settings: Settings) -> Segmenter:
    """Open what the service serves: SAM2 in this process, with the answer cache in front.

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
    """Refuse to listen to other machines without a key.

    Raises
    ------
    InputError
        If there is none, or a short one.
    """
    if is_loopback(settings.host):
        return
    key = "" if settings.api_key is None else settings.api_key.get_secret_value()
    if len(key) < 16:
        raise InputError(
            "a service that other machines reach needs a key of at least 16 characters",
            received=f"SAM2_HOST={settings.host} and {'a short' if key else 'no'} SAM2_API_KEY",
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
        limit_concurrency=_CONNECTIONS,
        backlog=512,
        **options,
    )
    return uvicorn.Server(config)


def serve(settings: Settings | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; requests under way are answered first.

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
    with open_served_segmenter(settings) as segmenter:
        set_up_logging()
        # uvicorn ends in order on this signal and then raises it again; what is open must still be closed.
        with suppress(ValueError):  # signals belong to the main thread
            signal.signal(signal.SIGTERM, lambda *_: None)
        server = make_server(make_app(segmenter, settings), settings)
        try:
            server.run()
        except SystemExit as error:
            raise Unavailable(
                "the service could not start",
                received=f"{settings.host}:{settings.port}",
                hint="Another program may listen there: choose another SAM2_PORT.",
            ) from error
