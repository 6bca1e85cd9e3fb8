"""A segmentation service as a segmenter: the contract of `Segmenter` over HTTP, without torch.

The connection, its deadline and its size limit are in `ctai_sam2.models.transport`, retries in
`ctai_sam2.models.retry`, the protocol in `ctai_sam2.models.wire`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray
from requests.adapters import BaseAdapter

from ctai_sam2.errors import (
    CtaiError,
    InputError,
    InvalidResponse,
    ProtocolMismatch,
    SegmenterError,
    ServiceBusy,
    ServiceFailed,
    ServiceRejected,
    ServiceTimeout,
    ServiceUnreachable,
    Unavailable,
)
from ctai_sam2.image.hashing import hash_content
from ctai_sam2.models import wire
from ctai_sam2.models.messages import ErrorBody, HealthBody, ImageBody, PredictionBody, ReadyBody
from ctai_sam2.models.protocol import require_image, require_request
from ctai_sam2.models.retry import RetryingAdapter
from ctai_sam2.models.transport import HttpResponse, HttpTransport, is_loopback, require_service_url, shorten
from ctai_sam2.types import Health, ModelIdentity, Prediction, Prompt, Window
from ctai_sam2.types.context import ClosedByWith

__all__ = ["CONNECT_TIMEOUT_S", "EXTRA_READ_S", "RemoteSegmenter", "is_loopback"]

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.05
"""Just above three seconds, the wait before a lost TCP packet is sent again."""
EXTRA_READ_S = 5.0
"""How much longer than the service's own deadline the client waits for a response."""

_PROBE_READ_S = 5.0
_MAX_TIMEOUT_S = 86_400.0
_IDENTITY_VALID_S = 30.0
_MAX_KNOWN_UPLOADS = 4096


class RemoteSegmenter(ClosedByWith):
    """A segmentation service; keeps the contract of `Segmenter` and of `Prefetching`. Safe in threads.

    A slice is sent with the first prompt on it, and again by itself when the service no longer has it; any
    further click is a few hundred bytes. Nothing is requested before the first call.

    Every call ends within ``request_timeout_s`` + 5 s, whatever the other side does, and raises nothing but
    the errors below. A response that is not the service's (of a proxy, a login page, a redirect), is
    damaged or out of bounds is `InvalidResponse`, which is `Unavailable`.

    Parameters
    ----------
    url : str
        Address of the service, ``http://`` or ``https://``.
    api_key : str, optional
        Key that the service requires.
    request_timeout_s : float
        Seconds the service may take for a response. The client waits 5 s more, retries included.
    retry_for_s : float, optional
        Seconds spent on retries where they may help; as long as the client waits when omitted.
    connect_timeout_s : float
        Seconds a connection may take to come about.
    allow_plain_http : bool
        Whether pixels and key may travel over ``http://`` to another machine.
    adapter : requests.adapters.BaseAdapter, optional
        How requests travel, instead of over the network with retries.
    clock : callable
        Returns seconds; only differences matter.

    Raises
    ------
    InputError
        If the address, the key or a time cannot be used, or the address is plain http to another machine.
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
        allow_plain_http: bool = False,
        adapter: BaseAdapter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = require_service_url(url, allow_plain_http=allow_plain_http, has_key=bool(api_key))
        if not (0 < request_timeout_s <= _MAX_TIMEOUT_S and 0 < connect_timeout_s <= _MAX_TIMEOUT_S):
            raise InputError(
                "time-outs must be positive and below a day, in s",
                received=(request_timeout_s, connect_timeout_s),
            )
        parts = urlsplit(self.url)
        self._is_readable = parts.scheme == "http" and not is_loopback(parts.hostname or "")
        if self._is_readable:
            logger.warning("slices%s travel unencrypted to %s", " and the key" if api_key else "", self.url)
        self._timeout_s = (connect_timeout_s, request_timeout_s + EXTRA_READ_S)
        self._probe_timeout_s = (connect_timeout_s, min(_PROBE_READ_S, request_timeout_s + EXTRA_READ_S))
        headers = {wire.PROTOCOL_HEADER: wire.PROTOCOL_VERSION}
        if api_key:
            headers[wire.API_KEY_HEADER] = _require_key(api_key)
        retry_for_s = self._timeout_s[1] if retry_for_s is None else retry_for_s
        self._transport = HttpTransport(
            self.url, headers=headers, adapter=adapter or RetryingAdapter(budget_s=retry_for_s)
        )
        self._probe = HttpTransport(self.url, headers=headers, adapter=adapter or RetryingAdapter(budget_s=0))
        self._session = self._transport.session
        self._clock = clock
        self._lock = threading.Lock()
        self._uploads: LRUCache[str, str] = LRUCache(_MAX_KNOWN_UPLOADS)
        self._identity: tuple[float, ModelIdentity] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"RemoteSegmenter({self.url})"

    @property
    def identity(self) -> ModelIdentity:
        """The model of the service, as reported within the last half minute or now.

        Raises
        ------
        Unavailable
            If the service does not report it.
        ProtocolMismatch, ServiceRejected
            If it is another version, or refuses.
        """
        known = self._identity
        if known is not None and 0 <= self._clock() - known[0] < _IDENTITY_VALID_S and not self._closed:
            return known[1]
        return self._request_identity()

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Segment what the prompt points at; see `Segmenter.predict`.

        Raises
        ------
        InputError
            If the image or the prompt cannot be used.
        ServiceUnreachable, ServiceBusy, ServiceTimeout, ServiceFailed, InvalidResponse
            If no prediction can be had now.
        ServiceRejected, ProtocolMismatch
            If the service refuses, for want of a key for example, or speaks another version.
        """
        image = require_request(image_hw, prompt)
        deadline_s = time.monotonic() + self._timeout_s[1]
        shape_hw = (image.shape[0], image.shape[1])
        limit = wire.max_prediction_bytes(shape_hw)
        body = json.dumps(wire.encode_prompt(prompt), separators=(",", ":")).encode()
        key = hash_content(image)
        with self._lock:
            digest = self._uploads.get(key)
        response = None if digest is None else self._request_known(digest, body, deadline_s, limit)
        if digest is None or response is None:
            data = wire.encode_image(image)
            digest = wire.digest_of(data)
            response = self._request(
                "POST",
                wire.SEGMENT_ONCE_PATH,
                deadline_s=deadline_s,
                max_bytes=limit,
                files={"file": ("slice.png", data, "image/png"), "prompt": (None, body, "application/json")},
            )
            self._note_upload(key, digest)
        try:
            prediction = wire.decode_prediction(
                wire.parse_message(PredictionBody, response.body),
                image_sha256=digest,
                shape_hw=shape_hw,
                window=window,
                backend=self.backend,
            )
        except InputError as error:
            raise self._invalid(error) from error
        self._note_identity(prediction.identity)
        return prediction

    def embed(self, image_hw: NDArray[np.uint8]) -> None:
        """Send a slice and let the service embed it; see `Prefetching.embed`."""
        image = require_image(image_hw)
        data = wire.encode_image(image)
        digest = wire.digest_of(data)
        response = self._request(
            "PUT",
            wire.IMAGE_PATH.format(sha256=digest),
            data=data,
            headers={"Content-Type": "image/png"},
        )
        self._parse(ImageBody, response)
        self._note_upload(hash_content(image), digest)

    def warm_up(self) -> None:
        """Make sure that the service is ready: it warms up by itself when it starts."""
        self._parse(ReadyBody, self._request("GET", wire.READY_PATH))

    def health(self) -> Health:
        """Request the service's state, once and briefly."""
        try:
            identity = self._request_identity()
        except CtaiError as error:
            return Health(available=False, backend=self.backend, detail=str(error))
        detail = f"{identity.name} on {identity.device} in {identity.dtype} at {self.url}."
        if self._is_readable:
            detail += " The connection is not encrypted."
        return Health(available=True, backend=self.backend, detail=detail, identity=identity)

    def close(self) -> None:
        """Close the connections; later calls raise `Unavailable`."""
        self._closed = True
        self._transport.close()
        self._probe.close()

    def _request_identity(self) -> ModelIdentity:
        health = self._parse(HealthBody, self._request("GET", wire.HEALTH_PATH, probing=True))
        if health.status != "healthy" or health.model is None:
            reason = shorten(health.detail) or "it is loading its model"
            raise ServiceBusy(f"the service at {self.url} is not ready: {reason}")
        identity = wire.decode_identity(health.model)
        self._note_identity(identity)
        return identity

    def _request_known(
        self, digest: str, body: bytes, deadline_s: float, max_bytes: int
    ) -> HttpResponse | None:
        """Send a prompt on an image that the service had before; None where it has it no more."""
        try:
            return self._request(
                "POST",
                wire.SEGMENT_PATH.format(sha256=digest),
                deadline_s=deadline_s,
                max_bytes=max_bytes,
                data=body,
                headers={"Content-Type": "application/json"},
            )
        except _ImageUnknown:
            logger.info("the service no longer has an image; sending it again")
            return None

    def _request(
        self,
        method: str,
        path: str,
        *,
        probing: bool = False,
        deadline_s: float | None = None,
        max_bytes: int = wire.MAX_SMALL_RESPONSE_BYTES,
        headers: dict[str, str] | None = None,
        **content: Any,
    ) -> HttpResponse:
        """Send one request; return the service's own, successful response to it, or raise."""
        if self._closed:
            raise Unavailable("the connection to the service is closed", hint="Open a new one.")
        timeout_s = self._probe_timeout_s if probing else self._timeout_s
        request_id = uuid.uuid4().hex
        try:
            response = (self._probe if probing else self._transport).exchange(
                method,
                path,
                deadline_s=time.monotonic() + timeout_s[1] if deadline_s is None else deadline_s,
                timeout_s=timeout_s,
                max_bytes=max_bytes,
                headers={**(headers or {}), wire.REQUEST_ID_HEADER: request_id},
                **content,
            )
            self._require_ours(response, request_id)
        except Unavailable:
            self._identity = None
            raise
        return response

    def _require_ours(self, response: HttpResponse, request_id: str) -> None:
        """Raise the error that a response stands for, unless it is the service's to this request."""
        spoken = response.headers.get(wire.PROTOCOL_HEADER)
        code, detail = "", shorten(response.reason)
        if spoken is not None and response.status >= 400:
            try:
                said = wire.parse_message(ErrorBody, response.body)
                code, detail = said.error, shorten(said.detail, 400)
            except InputError:
                logger.debug("an error of the service came without its form")
        # Between client and service may stand a proxy, whose responses hold no version.
        waiting = _waiting_error(response.status, detail, self.url)
        if waiting is not None:
            raise waiting
        if spoken is None:
            raise InvalidResponse(
                f"the server at {self.url} is not the segmentation service",
                received=f"status {response.status} without the header {wire.PROTOCOL_HEADER}",
                hint="A proxy, a login page or another program may stand there: check SAM2_SERVICE_URL and "
                "NO_PROXY.",
            )
        if spoken != wire.PROTOCOL_VERSION:
            raise ProtocolMismatch(
                f"{self.url} speaks another protocol than this client",
                received=f"version {shorten(spoken, 20)}",
                hint=f"Version {wire.PROTOCOL_VERSION} is needed: install the same release on both sides, "
                "or check SAM2_SERVICE_URL.",
            )
        refusal = _refusal(response.status, code, detail, self.url)
        if refusal is not None:
            raise refusal
        if response.headers.get(wire.REQUEST_ID_HEADER) != request_id:
            raise InvalidResponse(f"the response of {self.url} belongs to another request")

    def _parse(self, kind: type[wire.Message], response: HttpResponse) -> wire.Message:
        try:
            return wire.parse_message(kind, response.body)
        except InputError as error:
            raise self._invalid(error) from error

    def _invalid(self, error: InputError) -> InvalidResponse:
        return InvalidResponse(
            f"the response of {self.url} cannot be used: {error.problem}", received=error.received
        )

    def _note_upload(self, key: str, digest: str) -> None:
        with self._lock:
            self._uploads[key] = digest

    def _note_identity(self, identity: ModelIdentity) -> None:
        self._identity = (self._clock(), identity)


class _ImageUnknown(ServiceRejected):
    """The service does not have the image."""


def _waiting_error(status: int, detail: str, url: str) -> Unavailable | None:
    """Return the error of a status that means "not now", from the service or a proxy."""
    said = detail.rstrip(".") or f"status {status}"
    if status in (429, 503):
        return ServiceBusy(f"the service at {url} asks to come back later: {said}")
    if status == 504:
        return ServiceTimeout(f"the service at {url} did not get done in time: {said}")
    if status == 502:
        return ServiceUnreachable(f"the service at {url} cannot be reached: {said}")
    return None


def _refusal(status: int, code: str, detail: str, url: str) -> SegmenterError | InputError | None:
    """Return the error that a response of the service stands for, or None where it is no error."""
    said = detail.rstrip(".") or f"status {status}"
    if 200 <= status < 300:
        return None
    if status >= 500:
        return ServiceFailed(f"the service at {url} failed: {said}", received=f"status {status}")
    if code == wire.IMAGE_UNKNOWN:
        return _ImageUnknown(said)
    if code == wire.INPUT_INVALID:
        return InputError(said)
    if code == wire.PROTOCOL_MISMATCH:
        return ProtocolMismatch(said)
    hint = "Set SAM2_API_KEY to the key of the service." if status == 401 else None
    return ServiceRejected(f"the service at {url} refused: {said}", received=f"status {status}", hint=hint)


def _require_key(api_key: str) -> str:
    """Check a key and write it as a header takes it: bytes, read as Latin-1."""
    if api_key != api_key.strip() or not api_key.isprintable():
        raise InputError(
            "a key begins and ends with no space and holds no line break", hint="Correct SAM2_API_KEY."
        )
    return api_key.encode().decode("latin-1")
