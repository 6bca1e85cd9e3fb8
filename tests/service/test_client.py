"""The client: what it sends, when it tries again, and which error stands for what."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from ctai_sam2.errors import (
    CtaiError,
    DeviceUnavailable,
    InputError,
    InvalidResponse,
    ProtocolMismatch,
    ServiceBusy,
    ServiceFailed,
    ServiceRejected,
    ServiceTimeout,
    ServiceUnreachable,
    Unavailable,
)
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.io import read_case_npz
from ctai_sam2.models import (
    CachedSegmenter,
    FallbackSegmenter,
    LocalSegmenter,
    RemoteSegmenter,
    open_segmenter,
    wire,
)
from ctai_sam2.phantom import make_axial_slice, reference_parameters
from ctai_sam2.settings import Settings
from ctai_sam2.types import Prompt
from tests.fakes import FAKE_IDENTITY, FakeSegmenter, make_image
from tests.service.running import service_settings, serving

IMAGE = make_image((96, 120))
POINT = Prompt.point(40, 48)
NOBODY = "http://127.0.0.1:9"

Reply = Callable[[BaseHTTPRequestHandler, bytes], None]


@contextmanager
def scripted(
    *replies: Reply, context: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """A server that gives these replies in turn, the last one for ever; yields address and requests."""
    asked: list[tuple[str, str, bytes]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                asked.append((self.command, self.path, body))
                turn = replies[min(len(asked), len(replies)) - 1]
            turn(self, body)

        do_GET = do_POST = do_PUT = reply

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def say(status: int, body: Any = None, *, protocol: str | None = wire.PROTOCOL_VERSION, **more: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler, sent: bytes) -> None:
        data = json.dumps(body).encode() if not isinstance(body, bytes) else body
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        if protocol is not None:
            handler.send_header(wire.PROTOCOL_HEADER, protocol)
        given = more.pop("request_id", handler.headers.get(wire.REQUEST_ID_HEADER, ""))
        handler.send_header(wire.REQUEST_ID_HEADER, given)
        for name, value in more.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return reply


def refuse(status: int, code: str, **more: str) -> Reply:
    return say(status, {"error": code, "detail": "No.", "request_id": "x"}, **more)


def reset(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    handler.close_connection = True
    handler.connection.close()


def half_a_reply(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"image": ')
    handler.close_connection = True


def hang(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    threading.Event().wait(3)
    handler.close_connection = True


def right(handler: BaseHTTPRequestHandler, sent: bytes) -> None:
    prediction = FakeSegmenter().predict(IMAGE, POINT)
    say(200, wire.encode_prediction(prediction, wire.digest_of(wire.encode_image(IMAGE))))(handler, sent)


def test_a_further_click_is_small() -> None:
    image = window_to_uint8(
        make_axial_slice(reference_parameters(), z_mm=0.0, rng=np.random.default_rng(0)).hu
    )
    sizes: list[tuple[int, int]] = []
    with LocalSegmenter() as local, serving(local) as url, RemoteSegmenter(url) as remote:
        first = remote.predict(image, Prompt.point(300, 270))
        remote._session.hooks["response"].append(
            lambda response, **_: sizes.append((len(response.request.body), len(response.content)))
        )
        for prompt in (
            Prompt(points_xy=[[300, 270], [280, 260]], labels=[1, 0], structure="psoas_left"),
            Prompt(points_xy=[[300, 270]], mask=first.mask),
            Prompt(structure="muscle"),
        ):
            there = remote.predict(image, prompt)
            here = local.predict(image, prompt)
            np.testing.assert_array_equal(there.masks, here.masks)
            np.testing.assert_array_equal(there.scores, here.scores)
    assert len(sizes) == 3
    assert max(up for up, _ in sizes) <= 4000
    assert max(down for _, down in sizes) <= 8000


@pytest.mark.realdata
def test_responses_on_real_slices_are_small(real_data: Path) -> None:
    cases = sorted((real_data / "dev" / "cases").glob("*axial*.npz"))
    assert cases
    with LocalSegmenter() as local:
        for case in cases:
            image = window_to_uint8(read_case_npz(case).slice.hu)
            for name in ("muscle", "psoas_left"):
                prediction = local.predict(image, Prompt(structure=name))
                reply = wire.encode_prediction(prediction, "0" * 64)
                assert len(json.dumps(reply, separators=(",", ":"))) <= 8000


def test_an_image_is_sent_once_and_again_when_it_is_gone() -> None:
    def is_sent(asked: list[tuple[str, str, bytes]]) -> list[bool]:
        return [b"PNG" in body for _, _, body in asked]

    unknown = refuse(404, wire.IMAGE_UNKNOWN)
    with scripted(right, right, unknown, right) as (url, asked), RemoteSegmenter(url) as remote:
        for _ in range(3):
            remote.predict(IMAGE, POINT)
    assert is_sent(asked) == [True, False, False, True]


def test_a_service_that_keeps_one_image_serves_two() -> None:
    images = [make_image((96, 120), seed) for seed in (1, 2)]
    with (
        serving(FakeSegmenter(), service_settings(image_store_mb=0.001)) as url,
        RemoteSegmenter(url) as remote,
    ):
        for _ in range(2):
            for image in images:
                reply = remote.predict(image, POINT)
                np.testing.assert_array_equal(reply.masks, FakeSegmenter().predict(image, POINT).masks)


@pytest.mark.parametrize(
    ("reply", "kind", "tries"),
    [
        (refuse(400, "image_unsupported"), ServiceRejected, 1),
        (refuse(401, "key_invalid"), ServiceRejected, 1),
        (refuse(403, "no"), ServiceRejected, 1),
        (refuse(413, "too_large", Retry_After="1"), ServiceRejected, 1),
        (refuse(422, wire.INPUT_INVALID), InputError, 1),
        (refuse(409, wire.PROTOCOL_MISMATCH), ProtocolMismatch, 1),
        (refuse(500, "internal_error"), ServiceFailed, 1),
        (say(302, {}, Location="http://127.0.0.1:9/"), ServiceRejected, 1),
        (say(200, {}, protocol=None), InvalidResponse, 1),
        (say(404, b"<html>not ours</html>", protocol=None), InvalidResponse, 1),
        (say(200, {}, protocol="99"), ProtocolMismatch, 1),
        (say(200, {}, request_id="f" * 32), InvalidResponse, 1),
        (say(200, b"not json"), InvalidResponse, 1),
        (say(200, {}), InvalidResponse, 1),
        (say(200, []), InvalidResponse, 1),
        (reset, ServiceUnreachable, 2),
        (half_a_reply, ServiceUnreachable, 1),
    ],
)
def test_every_failure_has_its_error(reply: Reply, kind: type[CtaiError], tries: int) -> None:
    with (
        scripted(reply) as (url, asked),
        RemoteSegmenter(url, request_timeout_s=5) as remote,
        pytest.raises(kind) as caught,
    ):
        remote.predict(IMAGE, POINT)
    assert len(asked) == tries
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, ServiceBusy), (503, ServiceBusy), (502, ServiceUnreachable), (504, ServiceTimeout)],
)
def test_what_a_later_try_may_mend_is_tried_again(status: int, kind: type[CtaiError]) -> None:
    busy = refuse(status, "busy", Retry_After="0")
    with scripted(busy, busy, right) as (url, asked), RemoteSegmenter(url) as remote:
        assert remote.predict(IMAGE, POINT).backend == "remote"
        assert len(asked) == 3
    with (
        scripted(refuse(status, "busy", Retry_After="3600")) as (url, asked),
        RemoteSegmenter(url, request_timeout_s=0.1, connect_timeout_s=1) as remote,
    ):
        remote._session.mount("http://", type(remote._session.adapters["http://"])(budget_s=0.3))
        started = time.monotonic()
        with pytest.raises(kind):
            remote.predict(IMAGE, POINT)
        assert time.monotonic() - started < 5


def test_a_time_out_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctai_sam2.models.remote.EXTRA_READ_S", 0.0)
    with (
        scripted(hang) as (url, asked),
        RemoteSegmenter(url, request_timeout_s=0.2) as remote,
        pytest.raises(ServiceTimeout, match=r"within 0\.2 s"),
    ):
        remote.predict(IMAGE, POINT)
    assert len(asked) == 1


def test_nobody_there() -> None:
    with RemoteSegmenter(NOBODY) as remote:
        with pytest.raises(ServiceUnreachable, match="SAM2_SERVICE_URL"):
            remote.predict(IMAGE, POINT)
        with pytest.raises(ServiceUnreachable):
            _ = remote.identity
        assert not remote.health().available
        with pytest.raises(ServiceUnreachable):
            remote.warm_up()


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A certificate authority of one's own, and a server's certificate that it signed, with its key."""

    ca: Path
    server: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, which makes the certificates")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(command: str) -> None:
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True, timeout=60, cwd=folder)

    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=hospital-ca -keyout ca.key -out ca.pem")
    openssl("req -newkey rsa:2048 -nodes -subj /CN=service -keyout server.key -out server.csr")
    (folder / "names.txt").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names.txt "
        "-out server.crt"
    )
    server = folder / "server.pem"
    server.write_bytes((folder / "server.key").read_bytes() + (folder / "server.crt").read_bytes())
    return Authority(ca=folder / "ca.pem", server=server)


@pytest.mark.parametrize("is_named", [True, False])
def test_an_authority_of_ones_own_is_named_by_the_environment(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, is_named: bool
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    if is_named:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca))
    with (
        scripted(right, context=authority.context()) as (url, asked),
        RemoteSegmenter(url, api_key="k" * 16) as remote,
    ):
        if is_named:
            assert remote.predict(IMAGE, POINT).backend == "remote"
        else:
            with pytest.raises(ServiceUnreachable, match="REQUESTS_CA_BUNDLE"):
                remote.predict(IMAGE, POINT)
    assert len(asked) == is_named


def test_a_certificate_of_another_host_is_not_trusted(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca))
    with scripted(right, context=authority.context()) as (url, asked):
        elsewhere = url.replace("127.0.0.1", "localhost")
        with RemoteSegmenter(elsewhere) as remote, pytest.raises(ServiceUnreachable, match="not trusted"):
            remote.predict(IMAGE, POINT)
    assert asked == []


def test_the_real_service_behind_tls_of_ones_own(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca))
    with (
        serving(FakeSegmenter(), service_settings(api_key="k" * 16)) as plain,
        tls_proxy(plain, authority) as url,
        RemoteSegmenter(url, api_key="k" * 16) as remote,
    ):
        reply = remote.predict(IMAGE, POINT)
        assert remote.health().available
        assert "not encrypted" not in remote.health().detail
    np.testing.assert_array_equal(reply.masks, FakeSegmenter().predict(IMAGE, POINT).masks)


@contextmanager
def tls_proxy(plain: str, authority: Authority) -> Iterator[str]:
    """A TLS proxy in front of a service, as nginx is in a hospital."""

    def forward(handler: BaseHTTPRequestHandler, sent: bytes) -> None:
        given = {name: value for name, value in handler.headers.items() if name.lower() != "host"}
        response = requests.request(
            handler.command, plain + handler.path, data=sent, headers=given, timeout=20
        )
        handler.send_response(response.status_code)
        for name, value in response.headers.items():
            if name.lower() not in ("content-length", "date", "server"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(response.content)))
        handler.end_headers()
        handler.wfile.write(response.content)

    with scripted(forward, context=authority.context()) as (url, _):
        yield url


def test_a_response_about_another_image_is_never_taken() -> None:
    other = wire.encode_prediction(FakeSegmenter().predict(IMAGE, POINT), "0" * 64)
    with (
        scripted(say(200, other)) as (url, _),
        RemoteSegmenter(url) as remote,
        pytest.raises(ProtocolMismatch, match="another image"),
    ):
        remote.predict(IMAGE, POINT)


def test_a_key_is_sent_and_its_lack_told() -> None:
    key = "Schlüssel-für-Łódź"
    with serving(FakeSegmenter(), service_settings(api_key=key)) as url:
        with RemoteSegmenter(url, api_key=key) as remote:
            remote.predict(IMAGE, POINT)
        with RemoteSegmenter(url) as remote, pytest.raises(ServiceRejected, match="SAM2_API_KEY"):
            remote.predict(IMAGE, POINT)


def test_identity_follows_the_service_and_is_forgotten_with_it() -> None:
    now = [0.0]
    segmenter = FakeSegmenter()
    with serving(segmenter) as url:
        remote = RemoteSegmenter(url, clock=lambda: now[0])
        assert remote.identity == FAKE_IDENTITY
    assert remote.identity == FAKE_IDENTITY
    now[0] = 60.0
    with pytest.raises(Unavailable):
        _ = remote.identity
    remote.close()
    with pytest.raises(Unavailable, match="closed"):
        remote.predict(IMAGE, POINT)


def test_a_service_that_is_loading_is_not_available() -> None:
    with (
        serving(FakeSegmenter(error=DeviceUnavailable("no memory")), wait=False) as url,
        RemoteSegmenter(url) as remote,
    ):
        health = remote.health()
        assert not health.available
        assert "not ready" in health.detail


def open_auto(tmp_path: Path, url: str, **values: Any) -> CachedSegmenter:
    settings = Settings(_env_file=None, cache_dir=tmp_path / "cache", device="cpu", service_url=url, **values)
    opened = open_segmenter("auto", settings)
    assert isinstance(opened, CachedSegmenter)
    return opened


def test_killed_and_brought_back_in_mid_work() -> None:
    now = [0.0]
    local = FakeSegmenter()
    with serving(FakeSegmenter()) as url:
        port = int(url.rpartition(":")[2])
        remote = RemoteSegmenter(url)
        segmenter = FallbackSegmenter(
            {"remote": remote, "local": local}, threshold=1, cool_down_s=30, clock=lambda: now[0]
        )
        assert segmenter.predict(IMAGE, POINT).backend == "remote"
    assert segmenter.predict(IMAGE, POINT).backend == "local"
    with serving(FakeSegmenter(), port=port):
        assert segmenter.predict(IMAGE, POINT).backend == "local"
        now[0] = 31.0
        assert segmenter.predict(IMAGE, POINT).backend == "remote"
    segmenter.close()


@pytest.mark.parametrize(("prefer", "backend"), [("service", "remote"), ("local", "local")])
def test_auto_asks_in_the_order_of_the_settings(tmp_path: Path, prefer: str, backend: str) -> None:
    with serving(FakeSegmenter()) as url, open_auto(tmp_path, url, prefer=prefer) as segmenter:
        assert segmenter.predict(IMAGE, POINT).backend == backend


def test_auto_goes_on_alone_and_says_so_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "ctai_sam2.models.fallback"), open_auto(tmp_path, NOBODY) as segmenter:
        assert segmenter.predict(IMAGE, POINT).backend == "local"
    lines = [record.getMessage() for record in caplog.records if "segmenters:" in record.getMessage()]
    assert len(lines) == 1
    assert "remote NOT available" in lines[0]
    assert "local available" in lines[0]


def test_of_several_services_the_first_available_is_used() -> None:
    settings = Settings(_env_file=None, service_url=f"{NOBODY}, http://127.0.0.1:10")
    with open_segmenter("remote", settings) as segmenter, pytest.raises(Unavailable):
        segmenter.predict(IMAGE, POINT)
    with serving(FakeSegmenter()) as url:
        settings = Settings(_env_file=None, service_url=f"{NOBODY},{url}")
        with open_segmenter("remote", settings) as segmenter:
            assert segmenter.predict(IMAGE, POINT).identity == FAKE_IDENTITY
            assert segmenter.health().available


@pytest.mark.parametrize("url", ["ftp://host", "host:8000", ""])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(InputError):
        RemoteSegmenter(url)
    with pytest.raises(InputError):
        open_segmenter("remote", Settings(_env_file=None, service_url=None))
