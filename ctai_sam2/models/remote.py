"""A segmentation service as a segmenter: the contract of `Segmenter` over HTTP, without torch.

Retries, and how long they may take, are in `ctai_sam2.models.retry`;
what is said is in `ctai_sam2.models.wire`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
from numpy.typing import NDArray
from requests.adapters import BaseAdapter
from urllib3.exceptions import HTTPError

from ctai_sam2.errors import (
    CtaiError,
    InputError,
    ProtocolMismatch,
    SegmenterError,
    ServiceBusy,
    ServiceRejected,
    ServiceTimeout,
    ServiceUnreachable,
    Unavailable,
)
from ctai_sam2.models import wire
from ctai_sam2.models.protocol import require_image, require_request
from ctai_sam2.models.retry import RetryingAdapter
from ctai_sam2.types import Health, ModelIdentity, Prediction, Prompt, Window

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.05
"""Just above three seconds, the wait before a lost TCP packet is sent again."""
EXTRA_READ_S = 5.0
"""How much longer than the service's own deadline the client waits for an answer."""

_PROBE_READ_S = 5.0
_IDENTITY_KEPT_S = 30.0
_IMAGES_REMEMBERED = 4096
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class RemoteSegmenter:
    """A segmentation service; keeps the contract of `Segmenter` and of `Prefetching`. Safe in threads.

    A slice is sent with the first prompt on it, and again by itself when the service no longer has it; any
    further click is a few hundred bytes. Nothing is asked of the service before the first call.

    Parameters
    ----------
    url : str
        Address of the service, ``http://`` or ``https://``.
    api_key : str, optional
        Key the service asks for.
    request_timeout_s : float
        Seconds the service may take for an answer. The client waits 5 s more.
    retry_for_s : float, optional
        Seconds spent on trying again where that may help; as long as the wait for an answer when omitted.
    connect_timeout_s : float
        Seconds a connection may take to come about.
    adapter : requests.adapters.BaseAdapter, optional
        How requests travel, instead of over the network with retries.
    clock : callable
        Returns seconds; only differences matter.

    Raises
    ------
    InputError
        If the address or a time cannot be used.
    """

    backend = "remote"

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        request_timeout_s: float = 30.0,
        retry_for_s: float | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        adapter: BaseAdapter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError("the address of a service begins with http:// or https://", received=url)
        if not (request_timeout_s > 0 and connect_timeout_s > 0):
            raise InputError(
                "time-outs must be positive, in s", received=(request_timeout_s, connect_timeout_s)
            )
        self.url = url.rstrip("/")
        self._timeout = (connect_timeout_s, request_timeout_s + EXTRA_READ_S)
        self._probe_timeout = (connect_timeout_s, min(_PROBE_READ_S, request_timeout_s + EXTRA_READ_S))
        headers = {wire.PROTOCOL_HEADER: wire.PROTOCOL_VERSION}
        if api_key:
            # Headers are bytes told as Latin-1; this keeps a key of any letters what it is.
            headers[wire.API_KEY_HEADER] = api_key.encode().decode("latin-1")
        patient = adapter or RetryingAdapter(
            budget_s=self._timeout[1] if retry_for_s is None else retry_for_s
        )
        self._session = _open_session(parts.hostname, headers, patient)
        self._probe = _open_session(parts.hostname, headers, adapter or RetryingAdapter(budget_s=0))
        self._clock = clock
        self._lock = threading.Lock()
        self._uploaded: OrderedDict[str, str] = OrderedDict()
        self._identity: tuple[float, ModelIdentity] | None = None
        self._closed = False

    @property
    def identity(self) -> ModelIdentity:
        """The model of the service, as told within the last half minute or asked now.

        Raises
        ------
        Unavailable
            If the service cannot tell.
        ProtocolMismatch, ServiceRejected
            If it is another version, or refuses.
        """
        known = self._identity
        if known is not None and self._clock() - known[0] < _IDENTITY_KEPT_S and not self._closed:
            return known[1]
        return self._ask_health()

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Segment what the prompt points at; see `Segmenter.predict`.

        Raises
        ------
        InputError
            If the image or the prompt cannot be used.
        ServiceUnreachable, ServiceBusy, ServiceTimeout
            If no answer can be had now.
        ServiceRejected, ProtocolMismatch
            If the service refuses, for want of a key for example, or speaks another version.
        """
        image = require_request(image_hw, prompt)
        body = json.dumps(wire.encode_prompt(prompt), separators=(",", ":")).encode()
        key = _key_of(image)
        digest = self._recall(key) or ""
        answer = self._ask_known(digest, body) if digest else None
        if answer is None:
            data = wire.encode_image(image)
            digest = wire.digest_of(data)
            answer = self._ask(
                "POST",
                wire.SEGMENT_ONCE_PATH,
                files={"file": ("slice.png", data, "image/png"), "prompt": (None, body, "application/json")},
            )
            self._remember(key, digest)
        shape_hw = (image.shape[0], image.shape[1])
        try:
            prediction = wire.decode_prediction(
                answer, image_sha256=digest, shape_hw=shape_hw, window=window, backend=self.backend
            )
        except InputError as error:
            raise ProtocolMismatch(
                f"the service's answer cannot be used: {error.problem}", received=error.received
            ) from error
        self._note_identity(prediction.identity)
        return prediction

    def embed(self, image_hw: NDArray[np.uint8]) -> None:
        """Send a slice and let the service embed it; see `Prefetching.embed`."""
        image = require_image(image_hw)
        data = wire.encode_image(image)
        digest = wire.digest_of(data)
        self._ask(
            "PUT",
            wire.IMAGE_PATH.format(sha256=digest),
            data=data,
            headers={"Content-Type": "image/png"},
        )
        self._remember(_key_of(image), digest)

    def warm_up(self) -> None:
        """Make sure that the service is ready: it warms up by itself when it starts."""
        self._ask("GET", wire.READY_PATH)

    def health(self) -> Health:
        """Ask the service how it is, once and briefly."""
        try:
            identity = self._ask_health()
        except CtaiError as error:
            return Health(available=False, backend=self.backend, detail=str(error))
        detail = f"{identity.name} on {identity.device} in {identity.dtype} at {self.url}."
        return Health(available=True, backend=self.backend, detail=detail, identity=identity)

    def close(self) -> None:
        """Close the connections; later calls raise `Unavailable`."""
        self._closed = True
        self._session.close()
        self._probe.close()

    def __enter__(self) -> RemoteSegmenter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask_health(self) -> ModelIdentity:
        told = self._ask("GET", wire.HEALTH_PATH, probing=True)
        if not isinstance(told, dict) or told.get("status") != "healthy":
            reason = told.get("detail") if isinstance(told, dict) else None
            raise ServiceBusy(
                f"the service at {self.url} is not ready: {reason or 'it is loading its model'}"
            )
        try:
            identity = wire.decode_identity(told.get("model"))
        except InputError as error:
            raise ProtocolMismatch("the service does not tell its model", received=self.url) from error
        self._note_identity(identity)
        return identity

    def _ask_known(self, digest: str, body: bytes) -> Any:
        """Ask about an image the service had before; None where it has it no more."""
        try:
            return self._ask(
                "POST",
                wire.SEGMENT_PATH.format(sha256=digest),
                data=body,
                headers={"Content-Type": "application/json"},
            )
        except _ImageUnknown:
            logger.info("the service no longer has an image; sending it again")
            return None

    def _ask(self, method: str, path: str, *, probing: bool = False, **content: Any) -> Any:
        if self._closed:
            raise Unavailable("the connection to the service is closed", hint="Open a new one.")
        request_id = uuid.uuid4().hex
        headers = {**content.pop("headers", {}), wire.REQUEST_ID_HEADER: request_id}
        try:
            response = (self._probe if probing else self._session).request(
                method,
                self.url + path,
                headers=headers,
                timeout=self._probe_timeout if probing else self._timeout,
                allow_redirects=False,
                **content,
            )
        except (requests.RequestException, HTTPError) as error:
            self._identity = None
            raise self._failure(error) from error
        return self._read(response, request_id)

    def _read(self, response: requests.Response, request_id: str) -> Any:
        status = response.status_code
        if status in (502, 503, 504):
            self._identity = None
        try:
            body = response.json()
        except ValueError:
            body = None
        code, detail = "", response.reason or ""
        if isinstance(body, dict) and isinstance(body.get("error"), str):
            code, detail = body["error"], str(body.get("detail", ""))
        # Between client and service may stand a proxy, whose answers say nothing of versions.
        error = _error_of(status, code, detail, self.url)
        if isinstance(error, Unavailable):
            raise error
        spoken = response.headers.get(wire.PROTOCOL_HEADER)
        if spoken != wire.PROTOCOL_VERSION:
            raise ProtocolMismatch(
                f"{self.url} speaks another protocol than this client",
                received=f"version {spoken}" if spoken else "no version",
                hint=f"Version {wire.PROTOCOL_VERSION} is needed: install the same release on both sides, "
                "or check SAM2_SERVICE_URL.",
            )
        if error is not None:
            raise error
        if response.headers.get(wire.REQUEST_ID_HEADER) != request_id or body is None:
            raise ProtocolMismatch("the service answered another question, or in another form")
        return body

    def _failure(self, error: Exception) -> Unavailable:
        if isinstance(error, requests.ReadTimeout):
            return ServiceTimeout(
                f"the service at {self.url} did not answer within {self._timeout[1]:g} s",
                hint="Raise SAM2_REQUEST_TIMEOUT on both sides, or use a smaller model.",
            )
        if isinstance(error, requests.exceptions.SSLError):
            return ServiceUnreachable(
                f"the service at {self.url} shows a certificate that is not trusted here",
                hint="Name the PEM file of its authority in REQUESTS_CA_BUNDLE.",
            )
        return ServiceUnreachable(
            f"the service at {self.url} cannot be reached",
            received=type(error).__name__,
            hint="Start it, or correct SAM2_SERVICE_URL.",
        )

    def _recall(self, key: str) -> str | None:
        with self._lock:
            digest = self._uploaded.get(key)
            if digest is not None:
                self._uploaded.move_to_end(key)
            return digest

    def _remember(self, key: str, digest: str) -> None:
        with self._lock:
            self._uploaded[key] = digest
            self._uploaded.move_to_end(key)
            while len(self._uploaded) > _IMAGES_REMEMBERED:
                self._uploaded.popitem(last=False)

    def _note_identity(self, identity: ModelIdentity) -> None:
        self._identity = (self._clock(), identity)


class _ImageUnknown(ServiceRejected):
    """The service does not have the image."""


def _error_of(status: int, code: str, detail: str, url: str) -> SegmenterError | InputError | None:
    """Turn an answer into the error it stands for, or None where it is no error."""
    said = detail.rstrip(".") or f"status {status}"
    if 200 <= status < 300:
        return None
    if status in (429, 503):
        return ServiceBusy(f"the service at {url} asks to come back later: {said}")
    if status == 504:
        return ServiceTimeout(f"the service at {url} did not get done in time: {said}")
    if status == 502:
        return ServiceUnreachable(f"the service at {url} cannot be reached: {said}")
    if code == wire.IMAGE_UNKNOWN:
        return _ImageUnknown(said)
    if code == wire.INPUT_INVALID:
        return InputError(said)
    if code == wire.PROTOCOL_MISMATCH:
        return ProtocolMismatch(said)
    hint = "Set SAM2_API_KEY to the key of the service." if status == 401 else None
    return ServiceRejected(f"the service at {url} refused: {said}", received=f"status {status}", hint=hint)


def _open_session(host: str, headers: dict[str, str], adapter: BaseAdapter) -> requests.Session:
    session = requests.Session()
    session.headers.update(headers)
    # On this machine there is no proxy in between, whatever the environment says of the internet.
    session.trust_env = not is_loopback(host)
    # What else the environment would tell, an authority of one's own, holds there too.
    session.verify = next((os.environ[name] for name in _CA_VARIABLES if os.environ.get(name)), True)
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine itself.

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


def _key_of(image: NDArray[np.uint8]) -> str:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
