"""One HTTP exchange with a service: one deadline, one size limit, and this package's errors alone.

Redirects are not followed, cookies are not stored, and of what comes back nothing is believed: whether it is
the service's is decided in `ctai_sam2.models.remote`.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from urllib3.exceptions import ReadTimeoutError

from ctai_sam2.errors import InputError, InvalidResponse, ServiceTimeout, ServiceUnreachable, Unavailable
from ctai_sam2.models.connections import Call, DeadlinePassed

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name a file of trusted certificates, the first that is set counts."""

_PIECE_BYTES = 16_384
_ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})
"""Encodings of a body that are read. Several on top of each other inflate beyond any bound."""


@dataclass(frozen=True, kw_only=True)
class HttpResponse:
    """The response, from the service or from a proxy.

    Parameters
    ----------
    status : int
        HTTP status.
    reason : str
        Its reason phrase.
    headers : mapping of str to str
        Names without regard to case.
    body : bytes
        Decoded, complete and within the size limit.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class HttpTransport:
    """Pooled connections to one service. Safe in threads.

    Parameters
    ----------
    url : str
        Address of the service, for messages and to tell whether it is this machine.
    headers : mapping of str to str
        Sent with every request.
    adapter : requests.adapters.BaseAdapter
        How requests travel.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str], adapter: BaseAdapter) -> None:
        self._url = url
        self.session = _Session()
        self.session.headers.update({"Accept-Encoding": "gzip, deflate", **headers})
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # On this machine there is no proxy in between, whatever the environment says of the internet.
        self.session.trust_env = not is_loopback(urlsplit(url).hostname or "")
        # A certificate authority that the environment names is used there too.
        named = (os.environ.get(name) for name in CA_VARIABLES)
        self.session.verify = next((path for path in named if path), True)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, adapter)

    def exchange(
        self,
        method: str,
        path: str,
        *,
        deadline_s: float,
        timeout_s: tuple[float, float],
        max_bytes: int,
        **content: Any,
    ) -> HttpResponse:
        """Send a request and read the response.

        Parameters
        ----------
        method, path : str
            What is requested.
        deadline_s : float
            By when the whole exchange, retries included, must be over, on the clock of ``time.monotonic``.
        timeout_s : tuple of float
            Seconds to connect, and seconds without a byte.
        max_bytes : int
            A larger response is refused; no more of it than that is held in memory.
        **content
            As for ``requests.Session.request``: ``data``, ``files``, ``headers``.

        Raises
        ------
        ServiceTimeout
            If the deadline passed.
        ServiceUnreachable
            If there is no connection, or it broke.
        InvalidResponse
            If the response is too large, or damaged.
        """

        def work() -> HttpResponse:
            with self.session.request(
                method,
                self._url + path,
                timeout=timeout_s,
                allow_redirects=False,
                stream=True,
                **content,
            ) as response:
                body = self._read(response, max_bytes=max_bytes, deadline_s=deadline_s)
                return HttpResponse(
                    status=response.status_code,
                    reason=response.reason or "",
                    headers=response.headers,
                    body=body,
                )

        try:
            return Call(work, deadline_s=deadline_s).run()
        except Unavailable:
            raise
        except DeadlinePassed as error:
            raise self._too_late(timeout_s[1]) from error
        except Exception as error:  # the libraries below raise errors of a dozen packages, and of none
            raise self._failure(error, timeout_s[1]) from error

    def close(self) -> None:
        """Close the connections that are open and idle."""
        self.session.close()

    def _read(self, response: requests.Response, *, max_bytes: int, deadline_s: float) -> bytes:
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise InvalidResponse(
                f"the response of {self._url} is encoded in a way that is not read",
                received=shorten(encoding),
            )
        pieces: list[bytes] = []
        size = 0
        for piece in response.iter_content(_PIECE_BYTES):
            size += len(piece)
            if size > max_bytes:
                raise InvalidResponse(
                    f"the response of {self._url} is larger than any of the service's",
                    received=f"more than {max_bytes} bytes",
                )
            if time.monotonic() > deadline_s:
                raise DeadlinePassed
            pieces.append(piece)
        return b"".join(pieces)

    def _too_late(self, allowed_s: float) -> ServiceTimeout:
        return ServiceTimeout(
            f"the service at {self._url} did not respond within {allowed_s:g} s",
            hint="Raise SAM2_REQUEST_TIMEOUT on both sides, or use a smaller model.",
        )

    def _failure(self, error: Exception, allowed_s: float) -> Unavailable:
        if isinstance(error, requests.ReadTimeout) or _is_caused_by(error, ReadTimeoutError):
            return self._too_late(allowed_s)
        missing = self.session.verify
        if isinstance(error, OSError) and isinstance(missing, str) and not os.path.exists(missing):
            return ServiceUnreachable(
                "the file of trusted certificates that the environment names does not exist",
                hint=f"Correct {' or '.join(CA_VARIABLES)}, or unset it.",
            )
        if isinstance(error, requests.exceptions.SSLError):
            return ServiceUnreachable(
                f"the service at {self._url} shows a certificate that is not trusted here",
                hint="Name the PEM file of its authority in REQUESTS_CA_BUNDLE.",
            )
        if isinstance(error, requests.exceptions.ProxyError):
            return ServiceUnreachable(
                f"the proxy in front of {self._url} refused",
                hint="Add the service's name to NO_PROXY, or correct HTTPS_PROXY.",
            )
        if isinstance(error, requests.exceptions.ContentDecodingError):
            return InvalidResponse(f"the response of {self._url} is damaged", received=type(error).__name__)
        return ServiceUnreachable(
            f"the service at {self._url} cannot be reached",
            received=type(error).__name__,
            hint="Start it, or correct SAM2_SERVICE_URL.",
        )


class _Session(requests.Session):
    """A session that does not look where a redirect leads: even that reads the body without a bound."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


def require_service_url(url: str, *, allow_plain_http: bool, has_key: bool) -> str:
    """Check the address of a service; return it without a slash at its end.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``, a host, and possibly a port and a path.
    allow_plain_http : bool
        Whether plain http is accepted beyond this machine.
    has_key : bool
        Whether a key would travel too.

    Raises
    ------
    InputError
        If it is no such address, holds a password, or is plain http to another machine without leave.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(
            "the address of a service cannot be read", hint="Correct SAM2_SERVICE_URL."
        ) from None
    if parts.scheme not in ("http", "https") or not host:
        raise InputError("the address of a service begins with http:// or https://", received=shorten(url))
    if parts.username is not None or parts.password is not None:
        raise InputError("the address of a service holds no user name or password", hint="Use SAM2_API_KEY.")
    if parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise InputError("the address of a service is scheme, host, port and path", received=shorten(url))
    if parts.scheme == "http" and not is_loopback(host) and not allow_plain_http:
        what = "the pixels and the key" if has_key else "the pixels"
        raise InputError(
            f"over plain http to another machine, {what} could be read on the way",
            received=shorten(url),
            hint="Use https://, or set SAM2_ALLOW_PLAIN_HTTP=true for a network that you trust.",
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shorten(text: str, length: int = 200) -> str:
    r"""Bound a text from elsewhere for use in a message: printable, and not longer than ``length``.

    Examples
    --------
    >>> shorten("a\x1b[31m b" + "c" * 9, 8)
    'a [31m…'
    """
    clean = " ".join("".join(one if one.isprintable() else " " for one in text[: 4 * length]).split())
    return clean if len(clean) <= length else clean[: length - 2].rstrip() + "…"


def _is_caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    for _ in range(10):
        if error is None:
            return False
        if isinstance(error, kind) or any(isinstance(one, kind) for one in error.args):
            return True
        error = error.__cause__ or error.__context__
    return False
