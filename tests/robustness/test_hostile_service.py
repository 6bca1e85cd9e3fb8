"""Whatever responds instead of the service: the client ends in time, in bounds, with one of our errors."""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctai_sam2.errors import (
    CtaiError,
    InputError,
    InvalidResponse,
    SegmenterError,
    ServiceFailed,
    ServiceTimeout,
    ServiceUnreachable,
    Unavailable,
)
from ctai_sam2.models import FallbackSegmenter, RemoteSegmenter, connections, wire
from ctai_sam2.types import Prompt
from tests.fakes import FakeSegmenter, make_image

IMAGE = make_image((96, 120))
POINT = Prompt.point(40, 48)
DIGEST = wire.digest_of(wire.encode_image(IMAGE))
PREDICTION = wire.encode_prediction(FakeSegmenter().predict(IMAGE, POINT), DIGEST)
ALLOWED_S = 1.5
"""Of one request here, the 5 s that a client waits longer taken away."""
SLACK_S = 6.0
"""For a machine that does something else: far below what each of these servers would hold a client."""

Script = Callable[[socket.socket, str], None]


@contextmanager
def raw_server(script: Script, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that reads a request and hands the connection to the script, with the id of the request."""
    listener = socket.create_server(("127.0.0.1", 0))
    closing = threading.Event()

    def serve(connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection:
            connection.settimeout(20)
            while not closing.is_set():
                request = read_request(connection)
                if request is None:
                    return
                script(connection, request)

    def accept() -> None:
        while not closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        closing.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def read_request(connection: socket.socket) -> str | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:] if ": " in line)
    left = int(fields.get("Content-Length", 0)) - len(body)
    while left > 0:
        piece = connection.recv(65536)
        if not piece:
            return None
        left -= len(piece)
    return fields.get(wire.REQUEST_ID_HEADER, "")


def head(status: str, length: int | None, request_id: str, *more: str, ours: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if ours:
        lines += [
            f"{wire.PROTOCOL_HEADER}: {wire.PROTOCOL_VERSION}",
            f"{wire.REQUEST_ID_HEADER}: {request_id}",
        ]
    return ("\r\n".join([*lines, *more]) + "\r\n\r\n").encode("latin-1")


def page(status: str, body: bytes = b"<html>Please log in</html>", *more: str, ours: bool = False) -> Script:
    def script(connection: socket.socket, request_id: str) -> None:
        connection.sendall(head(status, len(body), request_id, *more, ours=ours) + body)

    return script


def said(value: Any, *more: str) -> Script:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return page("200 OK", data, *more, ours=True)


def changed(**values: Any) -> Script:
    return said({**PREDICTION, **values})


def trickle(start: bytes) -> Script:
    """After the start of a response a byte now and then, without end."""

    def script(connection: socket.socket, _: str) -> None:
        connection.sendall(start)
        never = threading.Event()
        while True:
            connection.sendall(b"a")
            never.wait(0.05)

    return script


def flood(start: bytes, piece: bytes) -> Script:
    def script(connection: socket.socket, _: str) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)

    return script


def cut(data: bytes, length: int, *more: str) -> Script:
    def script(connection: socket.socket, request_id: str) -> None:
        connection.sendall(head("200 OK", length, request_id, *more) + data)
        connection.shutdown(socket.SHUT_RDWR)

    return script


def model(**values: Any) -> dict[str, Any]:
    return {**PREDICTION["model"], **values}


BOMB = gzip.compress(bytes(100_000_000), 9)
NESTED = b"[" * 200_000 + b"]" * 200_000
NOT_OURS = {
    "captive portal": page("200 OK"),
    "redirect": page("302 Found", b"", "Location: http://127.0.0.1:9/login"),
    "redirect with a bomb": page("302 Found", BOMB, "Location: /", "Content-Encoding: gzip"),
    "permanent redirect": page("308 Permanent Redirect", b"", "Location: /health"),
    "bad request of a proxy": page("400 Bad Request"),
    "unauthorised of a proxy": page("401 Unauthorized", b"", 'WWW-Authenticate: Basic realm="x"'),
    "forbidden": page("403 Forbidden"),
    "not found": page("404 Not Found"),
    "proxy login": page("407 Proxy Authentication Required", b"", 'Proxy-Authenticate: Basic realm="x"'),
    "proxy limit": page("413 Content Too Large"),
    "unprocessable of another": page(
        "422 Unprocessable Entity", b'{"error": "prompt_invalid", "detail": "x"}'
    ),
    "proxy fault": page("500 Internal Server Error"),
    "network login": page("511 Network Authentication Required"),
    "odd status": page("799 Odd"),
    "no content": page("204 No Content", b""),
    "json of another": page("200 OK", b'{"status": "healthy"}', "Content-Type: application/json"),
}
DAMAGED = {
    "cut json": said(json.dumps(PREDICTION).encode()[:-40]),
    "cut body": cut(b'{"image": ', 1000),
    "cut gzip": cut(gzip.compress(json.dumps(PREDICTION).encode())[:-30], 5000, "Content-Encoding: gzip"),
    "short gzip": said(gzip.compress(json.dumps(PREDICTION).encode())[:-30], "Content-Encoding: gzip"),
    "not gzip": said(b"plain", "Content-Encoding: gzip"),
    "gzip bomb": said(BOMB, "Content-Encoding: gzip"),
    "gzip of gzip": said(gzip.compress(BOMB), "Content-Encoding: gzip, gzip"),
    "deflate bomb": said(zlib.compress(bytes(100_000_000), 9), "Content-Encoding: deflate"),
    "unknown encoding": said(b"x", "Content-Encoding: zebra"),
    "deep json": said(NESTED),
    "deep json in place": said(json.dumps(PREDICTION).encode()[:-1] + b', "more": ' + NESTED + b"}"),
    "long number": said(b'{"image": ' + b"9" * 60_000 + b"}"),
    "not utf-8": said(b'{"image": "\xff"}'),
    "empty": said(b""),
    "null": said(None),
    "list": said([]),
    "flood": flood(head("200 OK", None, ""), b"x" * 65536),
    "declared flood": flood(head("200 OK", 10**12, ""), b"x" * 65536),
    "bad length": page("200 OK", b"{}", "Content-Length: -5"),
    "score above one": changed(scores=[1.5, 0.5, 0.1]),
    "score below zero": changed(scores=[0.5, 0.4, -0.1]),
    "score that is none": changed(scores=[float("nan"), 0.4, 0.1]),
    "scores not sorted": changed(scores=[0.1, 0.4, 0.2]),
    "scores as text": changed(scores=["0.5", "0.4", "0.1"]),
    "too few scores": changed(scores=[0.5]),
    "time that is none": changed(processing_time_ms=float("nan")),
    "infinite time": changed(processing_time_ms=float("inf")),
    "negative time": changed(processing_time_ms=-1),
    "five megabytes of a name": changed(model=model(name="n" * 5_000_000)),
    "a long name": changed(model=model(name="n" * 5_000)),
    "a name with control characters": changed(model=model(name="a\u001b[2J\nb")),
    "a million structures": changed(model=model(structures=["x"] * 10_000)),
    "image size zero": changed(model=model(image_size=0)),
    "image size without end": changed(model=model(image_size=10**400)),
    "another image": changed(image="0" * 64),
    "no masks": changed(masks=[], scores=[]),
    "four masks": changed(masks=PREDICTION["masks"] * 2, scores=[0.1] * 6),
    "mask of another shape": changed(masks=[wire.encode_mask(np.ones((64, 64), bool))], scores=[0.5]),
    "huge mask": changed(
        masks=[{"shape": [4096, 4096], "runs": wire.encode_mask(np.ones((4096, 4096), bool))["runs"]}],
        scores=[0.5],
    ),
}
BROKEN = {
    "no http": lambda connection, _: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "nothing": lambda connection, _: connection.close(),
    "long status line": flood(b"HTTP/1.1 200 ", b"O" * 65536),
    "endless headers": flood(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000),
    "reset": lambda connection, _: (
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0") or connection.close()
    ),
}
SLOW = {
    "trickling body": trickle(head("200 OK", 10_000, "")),
    "trickling body of a stranger": trickle(head("200 OK", 10_000, "", ours=False)),
    "trickling header": trickle(b"HTTP/1.1 200 OK\r\nX-Slow: "),
    "trickling status line": trickle(b"HTTP/1.1 2"),
    "continue without end": flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "silence": lambda connection, _: threading.Event().wait(15),
}
LATER = {
    "years": page("503 Service Unavailable", b"", f"Retry-After: {10**30}", ours=True),
    "five thousand digits": page("503 Service Unavailable", b"", f"Retry-After: {'9' * 5000}", ours=True),
    "negative": page("429 Too Many Requests", b"", "Retry-After: -5", ours=True),
    "text": page("429 Too Many Requests", b"", "Retry-After: soon", ours=True),
    "impossible date": page(
        "503 Service Unavailable", b"", "Retry-After: Wed, 99 Oct 99999999 99:99:99 GMT", ours=True
    ),
    "date far ahead": page(
        "503 Service Unavailable", b"", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", ours=True
    ),
    "flood": flood(b"HTTP/1.1 503 No\r\nRetry-After: 0\r\n\r\n", b"x" * 65536),
}
EVERYTHING = {
    f"{group}: {name}": script
    for group, scripts in {
        "not ours": NOT_OURS,
        "damaged": DAMAGED,
        "broken": BROKEN,
        "slow": SLOW,
        "later": LATER,
    }.items()
    for name, script in scripts.items()
}


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctai_sam2.models.remote.EXTRA_READ_S", 0.0)


@pytest.mark.parametrize("script", EVERYTHING.values(), ids=EVERYTHING)
def test_it_is_unavailable_now_and_the_next_one_does(script: Script) -> None:
    # Those that never end cost the whole time-out.
    timeout_s = 0.4 if script in (*SLOW.values(), LATER["flood"]) else ALLOWED_S
    with raw_server(script) as url:
        remote = RemoteSegmenter(url, request_timeout_s=timeout_s, retry_for_s=0.5)
        with FallbackSegmenter({"remote": remote, "local": FakeSegmenter()}) as segmenter:
            started = time.monotonic()
            tracemalloc.start()
            try:
                prediction = segmenter.predict(IMAGE, POINT)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            took = time.monotonic() - started
    assert prediction.backend == "local"
    assert took < timeout_s + SLACK_S
    assert peak < 60_000_000


@pytest.mark.parametrize(
    ("scripts", "kind"),
    [(NOT_OURS, InvalidResponse), (SLOW, ServiceTimeout), (LATER, Unavailable)],
    ids=["not ours", "slow", "later"],
)
def test_the_error_says_what_it_was(scripts: dict[str, Script], kind: type[CtaiError]) -> None:
    for name, script in scripts.items():
        with (
            raw_server(script) as url,
            RemoteSegmenter(url, request_timeout_s=0.5, retry_for_s=0.2) as remote,
        ):
            with pytest.raises(kind) as caught:
                remote.predict(IMAGE, POINT)
            assert len(str(caught.value)) < 700, name
            assert str(caught.value).isprintable(), name


@pytest.mark.parametrize("name", sorted({**NOT_OURS, **DAMAGED, **BROKEN}))
def test_every_other_call_has_our_errors_too(name: str) -> None:
    script = {**NOT_OURS, **DAMAGED, **BROKEN}[name]
    with (
        raw_server(script) as url,
        RemoteSegmenter(url, request_timeout_s=ALLOWED_S, retry_for_s=0) as remote,
    ):
        assert not remote.health().available
        for call in (lambda: remote.identity, remote.warm_up, lambda: remote.embed(IMAGE)):
            with pytest.raises(SegmenterError):
                call()


def test_a_bad_request_of_ours_is_not_tried_elsewhere() -> None:
    body = json.dumps({"error": wire.INPUT_INVALID, "detail": "No.", "request_id": "x"}).encode()
    other = FakeSegmenter()
    for status in ("422 Unprocessable Content", "400 Bad Request"):
        with raw_server(page(status, body, ours=True)) as url:
            remote = RemoteSegmenter(url, request_timeout_s=ALLOWED_S)
            with (
                FallbackSegmenter({"remote": remote, "local": other}) as segmenter,
                pytest.raises(InputError, match="No"),
            ):
                segmenter.predict(IMAGE, POINT)
    assert other.calls == 0


def test_a_fault_of_the_service_is_tried_elsewhere() -> None:
    body = json.dumps({"error": "internal_error", "detail": "No.", "request_id": "x"}).encode()
    with raw_server(page("500 Internal Server Error", body, ours=True)) as url:
        remote = RemoteSegmenter(url, request_timeout_s=ALLOWED_S)
        with pytest.raises(ServiceFailed):
            remote.predict(IMAGE, POINT)
        with FallbackSegmenter({"remote": remote, "local": FakeSegmenter()}) as segmenter:
            assert segmenter.predict(IMAGE, POINT).backend == "local"


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A whole response of the service, spoilt in a few places."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(spoilt))
        match rng.randrange(4):
            case 0:
                spoilt[place] ^= 1 << rng.randrange(8)
            case 1:
                del spoilt[place : place + rng.randrange(1, 40)]
            case 2:
                spoilt[place:place] = rng.randbytes(rng.randrange(1, 40))
            case _:
                end = min(len(spoilt), place + rng.randrange(1, 60))
                spoilt[place:place] = spoilt[place:end] * rng.randrange(1, 20)
        if not spoilt:
            return b""
    return bytes(spoilt)


@pytest.mark.parametrize("seed", range(4))
def test_random_responses(seed: int) -> None:
    rng = random.Random(seed)
    body = json.dumps(PREDICTION).encode()
    expected = FakeSegmenter().predict(IMAGE, POINT)
    taken = 0

    def script(connection: socket.socket, request_id: str) -> None:
        whole = head("200 OK", len(body), request_id) + body
        if rng.random() < 0.5:
            # Past the head, where most would end: the body under a head that fits it.
            spoilt = mutate(body, rng)
            sent = head("200 OK", len(spoilt), request_id) + spoilt
        else:
            sent = mutate(whole, rng) if rng.random() < 0.9 else rng.randbytes(rng.randrange(2000))
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_RDWR)

    with (
        raw_server(script) as url,
        RemoteSegmenter(url, request_timeout_s=ALLOWED_S, retry_for_s=0) as remote,
    ):
        for _ in range(75):
            try:
                prediction = remote.predict(IMAGE, POINT)
            except (SegmenterError, InputError):
                continue
            taken += 1
            assert prediction.masks.shape == expected.masks.shape
            assert 0 <= prediction.scores.min() <= prediction.scores.max() <= 1
    assert taken < 75


def test_a_trickling_connection_is_let_go() -> None:
    with raw_server(trickle(b"HTTP/1.1 200 OK\r\nX-Slow: ")) as url:
        with (
            RemoteSegmenter(url, request_timeout_s=0.3, retry_for_s=0) as remote,
            pytest.raises(ServiceTimeout),
        ):
            remote.predict(IMAGE, POINT)
        # Every thread of the client is free for another call, or has ended.
        until = time.monotonic() + 10
        while True:
            calls = [thread for thread in threading.enumerate() if thread.name == "service-call"]
            if len(calls) == len(connections._waiting[os.getpid()]):
                break
            assert time.monotonic() < until
            threading.Event().wait(0.01)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_missing_or_damaged_file_of_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    with RemoteSegmenter("https://127.0.0.1:9", request_timeout_s=ALLOWED_S, retry_for_s=0) as remote:
        with pytest.raises(ServiceUnreachable) as caught:
            remote.predict(IMAGE, POINT)
        assert "REQUESTS_CA_BUNDLE" in str(caught.value) or content is not None


def test_a_host_that_is_no_name() -> None:
    for host in ("a" * 70 + ".invalid", "ü" * 80 + ".invalid", "x..y.invalid"):
        with (
            RemoteSegmenter(f"https://{host}", request_timeout_s=ALLOWED_S, retry_for_s=0) as remote,
            pytest.raises(ServiceUnreachable),
        ):
            remote.predict(IMAGE, POINT)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://user:secret@127.0.0.1",
        "http://127.0.0.1/?a=b",
        "http://127.0.0.1/#a",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\n",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError) as caught:
        RemoteSegmenter(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["a\nX-Evil: 1", " padded", "\x00"])
def test_a_key_that_no_header_takes_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="SAM2_API_KEY"):
        RemoteSegmenter("http://127.0.0.1:9", api_key=key)


@pytest.mark.parametrize("host", ["gpu-box", "10.0.0.5", "127.0.0.1.invalid", "[fd00::1]", "0.0.0.0"])
def test_pixels_travel_unencrypted_only_where_that_is_allowed(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match="SAM2_ALLOW_PLAIN_HTTP"):
        RemoteSegmenter(f"http://{host}:8000")
    with pytest.raises(InputError, match="the key"):
        RemoteSegmenter(f"http://{host}:8000", api_key="k" * 16)
    RemoteSegmenter(f"https://{host}:8000", api_key="k" * 16).close()
    with caplog.at_level("WARNING"):
        RemoteSegmenter(f"http://{host}:8000", api_key="k" * 16, allow_plain_http=True).close()
    assert "unencrypted" in caplog.text


def test_a_mask_is_bounded_before_it_is_parsed() -> None:
    """16 million runs of one pixel take 21 kB to send."""
    hostile = {"shape": [4096, 4096], "runs": ""}
    hostile["runs"] = base64.b64encode(zlib.compress(b"\1" * (4096 * 4096), 9)).decode()
    assert len(hostile["runs"]) < 22_000
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="another shape"):
            wire.decode_prompt({"mask": hostile}, shape_hw=(512, 512))
        refused = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        mask = wire.decode_mask(hostile)
        parsed = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused < 1_000_000
    assert parsed < 12 * mask.size
    assert mask.sum() == mask.size // 2
