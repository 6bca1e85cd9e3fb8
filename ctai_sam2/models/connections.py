"""HTTP connections that end with the call they serve.

A time-out of a socket counts from one byte to the next, so that a server which sends a byte now and then is
never late. Here a call has a deadline as a whole: it runs in a thread of its own, and when its time is up the
caller continues and the connection is shut down, which ends the thread as well.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

T = TypeVar("T")


class DeadlinePassed(Exception):
    """A call took longer than it may."""


class Call(Generic[T]):
    """One piece of work over HTTP, done in a thread of its own before a deadline.

    Parameters
    ----------
    work : callable
        What is done.
    deadline_s : float
        By when, on the clock of ``time.monotonic``.
    """

    def __init__(self, work: Callable[[], T], *, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._work = work
        self._lock = threading.Lock()
        self._connections: list[HTTPConnection] = []
        self._is_abandoned = False
        self._result: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> T:
        """Do the work and return its result, or raise what it raised.

        Raises
        ------
        DeadlinePassed
            If it is not done in time; its connections are closed then.
        """
        thread = threading.Thread(target=self._run, name="service-call", daemon=True)
        thread.start()
        thread.join(max(0.0, self.deadline_s - time.monotonic()))
        if thread.is_alive():
            self._abandon()
            raise DeadlinePassed
        if self._error is not None:
            raise self._error
        return self._result[0]

    def use(self, connection: HTTPConnection) -> None:
        """Note a connection, to be shut down at the deadline.

        Raises
        ------
        OSError
            If the deadline has passed.
        """
        with self._lock:
            if self._is_abandoned:
                raise OSError("the deadline of this call has passed")
            self._connections.append(connection)

    def _run(self) -> None:
        _running.call = self
        try:
            self._result.append(self._work())
        except BaseException as error:  # it belongs to the caller, who raises it
            self._error = error
        finally:
            with self._lock:
                self._connections.clear()

    def _abandon(self) -> None:
        with self._lock:
            self._is_abandoned = True
            for connection in self._connections:
                found: Any = connection.sock
                if isinstance(found, socket.socket):
                    with suppress(OSError):  # it may have ended by itself
                        # The TLS layer is left alone: the other thread may be in it.
                        socket.socket.shutdown(found, socket.SHUT_RDWR)


_running = threading.local()


def running_call() -> Call[Any] | None:
    """Return the call that this thread works on, if any."""
    found: Call[Any] | None = getattr(_running, "call", None)
    return found


class _Connection(HTTPConnection):
    def request(self, *args: Any, **more: Any) -> None:
        _note(self)
        super().request(*args, **more)


class _SecureConnection(HTTPSConnection):
    def connect(self) -> None:
        _note(self)
        super().connect()

    def request(self, *args: Any, **more: Any) -> None:
        _note(self)
        super().request(*args, **more)


def _note(connection: HTTPConnection) -> None:
    call = running_call()
    if call is not None:
        call.use(connection)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class CallAdapter(HTTPAdapter):
    """Pooled connections that a `Call` can shut down, direct and through a proxy."""

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **more: Any) -> Any:
        """Make the pools of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **more)
        if hasattr(manager, "pool_classes_by_scheme"):
            manager.pool_classes_by_scheme = _POOLS
        return manager


_POOLS = {"http": _Pool, "https": _SecurePool}
