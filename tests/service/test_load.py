"""Many clients, slow ones, gone ones, and an orderly end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from ctai_sam2.models import CachedSegmenter, RemoteSegmenter, open_segmenter, wire
from ctai_sam2.types import Prediction, Prompt
from service.lifecycle import ImpatientProtocol
from tests.fakes import FakeSegmenter, make_image
from tests.service.running import WAIT_S, service_settings, serving

PROJECT = Path(__file__).resolve().parents[2]
IMAGE = make_image((96, 120))
PNG = wire.encode_image(IMAGE)
DIGEST = wire.digest_of(PNG)
CLICK = b'{"points": [[40, 48]]}'


class Gated(FakeSegmenter):
    """Works only while its gate is open, and tells what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.asked: list[float] = []

    def predict(self, image_hw: Any, prompt: Prompt, **options: Any) -> Prediction:
        self.asked.append(float(prompt.points_xy[0, 0]))
        self.entered.release()
        assert self.open.wait(WAIT_S)
        return super().predict(image_hw, prompt, **options)


def put(url: str) -> None:
    requests.put(f"{url}/v1/images/{DIGEST}", data=PNG, timeout=20).raise_for_status()


def click(url: str, x: float = 40, timeout_s: float = 30) -> requests.Response:
    body = json.dumps({"points": [[x, 48]]})
    return requests.post(f"{url}/v1/images/{DIGEST}/segment", data=body, timeout=timeout_s)


def gauge(url: str, name: str) -> float:
    text = requests.get(f"{url}/metrics", timeout=20).text
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def wait_for(condition: Any) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        threading.Event().wait(0.01)


def raw(url: str, data: bytes) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    opened = socket.create_connection((host, int(port)), timeout=WAIT_S)
    opened.sendall(data)
    return opened


def read_all(opened: socket.socket) -> bytes:
    parts = []
    with opened:
        while True:
            try:
                part = opened.recv(65536)
            except ConnectionResetError:
                break
            if not part:
                break
            parts.append(part)
    return b"".join(parts)


def head(path: str, **headers: object) -> bytes:
    lines = [
        f"PUT {path} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_the_queue_is_bounded_and_says_when_to_come_back() -> None:
    segmenter = Gated()
    settings = service_settings(max_concurrency=1, queue_length=2)
    with serving(segmenter, settings) as url, ThreadPoolExecutor(3) as pool:
        put(url)
        waiting = [pool.submit(click, url) for _ in range(3)]
        wait_for(lambda: gauge(url, "ctai_queue_waiting") == 2)
        turned_away = click(url)
        assert (turned_away.status_code, turned_away.json()["error"]) == (429, "queue_full")
        assert int(turned_away.headers["Retry-After"]) >= 1
        assert requests.get(f"{url}/health", timeout=20).status_code == 200
        segmenter.open.set()
        assert [response.result().status_code for response in waiting] == [200] * 3
        assert click(url).status_code == 200


def test_a_large_upload_is_turned_away_with_a_response() -> None:
    segmenter = Gated()
    settings = service_settings(max_concurrency=1, queue_length=0)
    with serving(segmenter, settings) as url, ThreadPoolExecutor(1) as pool:
        put(url)
        running = pool.submit(click, url)
        assert segmenter.entered.acquire(timeout=WAIT_S)
        response = requests.put(f"{url}/v1/images/{'0' * 64}", data=bytes(900_000), timeout=20)
        assert response.status_code == 429
        segmenter.open.set()
        assert running.result().status_code == 200


def test_past_the_deadline_it_says_so_and_goes_on() -> None:
    segmenter = Gated()
    settings = service_settings(max_concurrency=1, request_timeout=0.3)
    with serving(segmenter, settings) as url, ThreadPoolExecutor(2) as pool:
        put(url)
        responses = [pool.submit(click, url, x) for x in (40, 41)]
        assert [a.result().status_code for a in responses] == [504, 504]
        assert len(segmenter.asked) == 1, "what waited past its deadline must not be started"
        assert gauge(url, "ctai_running") == 1
        segmenter.open.set()
        wait_for(lambda: gauge(url, "ctai_running") == 0)
        assert click(url).status_code == 200


def test_work_of_a_client_that_hung_up_is_never_started() -> None:
    segmenter = Gated()
    with serving(segmenter, service_settings(max_concurrency=1)) as url, ThreadPoolExecutor(2) as pool:
        put(url)
        first = pool.submit(click, url, 40)
        assert segmenter.entered.acquire(timeout=WAIT_S)
        request = head(f"/v1/images/{DIGEST}/segment", Content_Length=len(CLICK)).replace(b"PUT", b"POST", 1)
        gone = raw(url, request + CLICK.replace(b"40", b"99"))
        wait_for(lambda: gauge(url, "ctai_queue_waiting") == 1)
        gone.close()
        wait_for(lambda: gauge(url, "ctai_dropped_total") == 1)
        assert gauge(url, "ctai_queue_waiting") == 0
        last = pool.submit(click, url, 41)
        segmenter.open.set()
        assert (first.result().status_code, last.result().status_code) == (200, 200)
        assert segmenter.asked == [40, 41]


def test_a_gigabyte_is_refused_unread() -> None:
    with serving(FakeSegmenter()) as url:
        response = read_all(raw(url, head(f"/v1/images/{DIGEST}", Content_Length=10**9)))
        assert response.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in response.lower()
        assert b'"too_large"' in response


def test_a_body_without_a_length_is_cut_off_at_the_limit() -> None:
    with serving(FakeSegmenter(), service_settings(max_body_mb=0.1)) as url:
        endless = (bytes(65536) for _ in range(1000))
        try:
            response = requests.put(f"{url}/v1/images/{DIGEST}", data=endless, timeout=20)
        except requests.ConnectionError:
            pass  # cut off while sending is as good
        else:
            assert response.status_code == 413
        assert requests.get(f"{url}/ready", timeout=20).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head("/v1/images/x", Content_Length="-5"), b"400"),
        (head("/v1/images/x", Content_Length="12a"), b"400"),
        (head("/v1/images/x", Content_Length="1\r\nContent-Length: 2"), b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"GET " + b"/a" * 60_000 + b" HTTP/1.1\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_http_is_refused(sent: bytes, status: bytes) -> None:
    with serving(FakeSegmenter()) as url:
        opened = raw(url, sent)
        opened.shutdown(socket.SHUT_WR)
        assert read_all(opened)[9:12] in (status, b"")
        assert requests.get(f"{url}/ready", timeout=20).status_code == 200


def test_a_body_shorter_than_declared_costs_a_deadline_at_most() -> None:
    with serving(FakeSegmenter(), service_settings(request_timeout=0.3)) as url:
        response = read_all(raw(url, head(f"/v1/images/{DIGEST}", Content_Length=len(PNG)) + PNG[:50]))
        assert response.startswith(b"HTTP/1.1 408")
        broken = raw(url, head(f"/v1/images/{DIGEST}", Content_Length=len(PNG)) + PNG[:50])
        broken.close()
        put(url)


def test_slow_heads_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImpatientProtocol, "headers_s", 0.2)
    with serving(FakeSegmenter()) as url:
        never = raw(url, b"")
        drop_by_drop = raw(url, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
        again = raw(url, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert read_all(never) == b""
        assert read_all(drop_by_drop) == b""
        assert again.recv(65536).startswith(b"HTTP/1.1 200")
        again.sendall(b"GET /he")
        assert b"HTTP/1.1" not in read_all(again)
        assert requests.get(f"{url}/ready", timeout=20).status_code == 200


def test_no_part_of_a_response_waits_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    options = []
    take = ImpatientProtocol.data_received

    def look(self: ImpatientProtocol, data: bytes) -> None:
        served = self.transport.get_extra_info("socket")
        options.append(served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        take(self, data)

    monkeypatch.setattr(ImpatientProtocol, "data_received", look)
    with serving(FakeSegmenter()) as url:
        assert requests.get(f"{url}/health", timeout=20).status_code == 200
    assert options
    assert all(options)


def test_two_hundred_clients_get_their_own_masks() -> None:
    images = [make_image((48, 64), seed) for seed in range(20)]
    questions = [(images[i % 20], Prompt.point(5 + i % 50, 5 + i % 37)) for i in range(200)]

    with serving(FakeSegmenter(), service_settings(max_concurrency=2, queue_length=32)) as url:

        def ask(question: tuple[np.ndarray, Prompt]) -> Prediction:
            with RemoteSegmenter(url) as remote:
                return remote.predict(*question)

        with ThreadPoolExecutor(200) as pool:
            responses = list(pool.map(ask, questions))
        assert gauge(url, "ctai_queue_waiting") == 0
    here = FakeSegmenter()
    for (image, prompt), response in zip(questions, responses, strict=True):
        np.testing.assert_array_equal(response.masks, here.predict(image, prompt).masks)


def test_a_full_disk_costs_the_cache_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with serving(CachedSegmenter(FakeSegmenter(), tmp_path / "cache")) as url:
        put(url)
        monkeypatch.setattr("ctai_sam2.models.cache_store.PredictionStore.dump_item", full)
        responses = [click(url, x) for x in (40, 40, 41)]
        assert [response.status_code for response in responses] == [200] * 3
        assert responses[1].json()["cached"]


def test_hits_and_misses_of_the_prediction_cache_are_counted(tmp_path: Path) -> None:
    for is_kept in (False, True):
        with serving(CachedSegmenter(FakeSegmenter(), tmp_path)) as url, RemoteSegmenter(url) as remote:
            assert remote.predict(IMAGE, Prompt.point(40, 48)).cached is is_kept


class Batching(Gated):
    """Embeds in batches, while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def embed_many(self, images: Any) -> None:
        self.batches.append(len(images))
        self.entered.release()
        assert self.open.wait(WAIT_S)


def test_waiting_images_are_embedded_together() -> None:
    segmenter = Batching()
    settings = service_settings(max_concurrency=1, batch_size=4)
    files = [wire.encode_image(make_image((32, 32), seed)) for seed in range(6)]

    def send(data: bytes) -> int:
        return requests.put(f"{url}/v1/images/{wire.digest_of(data)}", data=data, timeout=30).status_code

    with serving(segmenter, settings) as url, ThreadPoolExecutor(6) as pool:
        first = pool.submit(send, files[0])
        assert segmenter.entered.acquire(timeout=WAIT_S)
        rest = [pool.submit(send, data) for data in files[1:]]
        wait_for(lambda: gauge(url, "ctai_queue_waiting") == 5)
        segmenter.open.set()
        assert [first.result(), *(sent.result() for sent in rest)] == [200] * 6
    assert segmenter.batches[0] == 1
    assert sum(segmenter.batches) == 6
    assert max(segmenter.batches) <= 4


def start(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "service"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "SAM2_DEVICE": "cpu", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(WAIT_S)
    if process.stderr is not None:
        process.stderr.close()


def is_ready(process: subprocess.Popen[str], url: str) -> bool:
    assert process.poll() is None
    try:
        # Not /ready: its refusals are logged, and fill the pipe that nobody empties yet.
        return bool(requests.get(f"{url}/health", timeout=5).json()["model_loaded"])
    except requests.RequestException:  # it may import for seconds without responding
        return False


def test_a_real_process_starts_responds_and_ends_in_order(tmp_path: Path) -> None:
    port = free_port()
    process = start(SAM2_PORT=str(port), SAM2_CACHE_DIR=str(tmp_path))
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: is_ready(process, url))
        with RemoteSegmenter(url) as remote, ThreadPoolExecutor(4) as pool:
            remote.predict(IMAGE, Prompt.point(40, 48))
            asked = [
                pool.submit(remote.predict, make_image((300, 300), seed), Prompt.point(9, 9))
                for seed in range(4)
            ]
            wait_for(lambda: gauge(url, "ctai_running") > 0 or all(one.done() for one in asked))
            process.send_signal(signal.SIGTERM)
            for one in asked:
                assert one.result(WAIT_S).backend == "remote"
        _, output = process.communicate(timeout=WAIT_S)
    finally:
        end(process)
    assert process.returncode == 0
    lines = [json.loads(line) for line in output.splitlines()]
    assert any(line["event"] == "stopped" for line in lines)
    assert {line["route"] for line in lines if line["event"] == "responded"} >= {"/v1/segment"}


def test_work_goes_on_without_a_killed_process_and_returns_to_the_next(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {"SAM2_PORT": str(port), "SAM2_CACHE_DIR": str(tmp_path / "service")}
    settings = service_settings(service_url=url, device="cpu", cache_dir=tmp_path / "client")
    first = start(**environment)
    second: subprocess.Popen[str] | None = None
    try:
        wait_for(lambda: is_ready(first, url))
        with open_segmenter("auto", settings) as segmenter:
            responses = [segmenter.predict(IMAGE, Prompt.point(40, 48))]
            end(first)
            responses.append(segmenter.predict(IMAGE, Prompt.point(41, 48)))
            second = start(**environment)
            wait_for(lambda: is_ready(second, url))
            responses.append(segmenter.predict(IMAGE, Prompt.point(42, 48)))
            with RemoteSegmenter(url) as remote:
                np.testing.assert_array_equal(
                    remote.predict(IMAGE, Prompt.point(41, 48)).masks, responses[1].masks
                )
    finally:
        for process in (first, second):
            if process is not None:
                end(process)
    assert [response.backend for response in responses] == ["remote", "local", "remote"]


def test_it_does_not_listen_to_others_without_a_key() -> None:
    process = start(SAM2_HOST="0.0.0.0", SAM2_PORT="0")
    _, output = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert "SAM2_API_KEY" in output


def test_a_taken_port_is_told_in_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(SAM2_PORT=str(taken.getsockname()[1]), SAM2_CACHE_DIR=str(tmp_path))
        _, output = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert "SAM2_PORT" in output
    assert "Traceback" not in output
