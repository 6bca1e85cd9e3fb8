"""Services to talk to: on a real socket in a thread, and in process without one."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import requests
from fastapi import FastAPI
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from ctai_sam2.models import Segmenter
from ctai_sam2.settings import Settings
from service.app import make_app
from service.lifecycle import make_server

WAIT_S = 60.0


def service_settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **{"port": 0, "request_timeout": 20, **values})


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        # As in `asyncio.run` there is a first task, with whose end worker processes end.
        self._thread = threading.Thread(
            target=self.loop.run_until_complete, args=(self._end.wait(),), daemon=True
        )
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT_S)

    def close(self) -> None:
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(WAIT_S)
        # Not in this thread: a browser test before may have left a loop of its own running in it.
        last = threading.Thread(target=self.loop.run_until_complete, args=(_cancel_others(),))
        last.start()
        last.join(WAIT_S)
        self.loop.close()


async def _cancel_others() -> None:
    """End what the loop still holds, such as the watch over worker processes, as `asyncio.run` does."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def wait_until_ready(app: FastAPI) -> None:
    async def ready() -> None:
        while app.state.service.identity is None:
            await asyncio.sleep(0.005)

    await asyncio.wait_for(ready(), WAIT_S)


@contextmanager
def serving(
    segmenter: Segmenter, settings: Settings | None = None, *, wait: bool = True, port: int | None = None
) -> Iterator[str]:
    """Run the service by uvicorn on loopback; yields its address."""
    settings = settings or service_settings()
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    app = make_app(segmenter, settings)
    server = make_server(app, settings)
    thread = LoopThread()

    async def start() -> None:
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        # As the service does: it binds its address before it loads the model.
        await server.startup(sockets=[server.config.bind_socket()])
        if wait:
            await wait_until_ready(app)

    async def stop() -> None:
        await server.shutdown()

    try:
        thread.run(start())
        ticking = asyncio.run_coroutine_threadsafe(server.main_loop(), thread.loop)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        ticking.result(WAIT_S)
        thread.run(stop())
        thread.close()


class InProcess(BaseAdapter):
    """Carries requests to an application without a socket."""

    def __init__(self, app: FastAPI, thread: LoopThread) -> None:
        super().__init__()
        self._thread = thread
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", timeout=None
        )

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        parts = urlsplit(str(request.url))
        body = request.body.encode() if isinstance(request.body, str) else request.body
        received = self._thread.run(
            self._client.request(str(request.method), parts.path, content=body, headers=dict(request.headers))
        )
        response = requests.Response()
        response.status_code = received.status_code
        response.reason = received.reason_phrase
        response.headers = CaseInsensitiveDict(received.headers)
        response._content = received.content
        response._content_consumed = True
        response.url = str(request.url)
        response.request = request
        return response

    def close(self) -> None:
        """Nothing is held that the context does not close."""


@contextmanager
def in_process(segmenter: Segmenter, settings: Settings | None = None) -> Iterator[InProcess]:
    app = make_app(segmenter, settings or service_settings())
    thread = LoopThread()
    lifespan = app.router.lifespan_context(app)
    thread.run(lifespan.__aenter__())
    thread.run(wait_until_ready(app))
    try:
        yield InProcess(app, thread)
    finally:
        thread.run(lifespan.__aexit__(None, None, None))
        thread.close()


logging.getLogger("httpx").setLevel(logging.WARNING)
