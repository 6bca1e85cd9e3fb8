"""A service under attack: work is bounded before it is done, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image, PngImagePlugin

from ctai_sam2.models import wire
from service import bodies
from service.bodies import PARSED_HERE_BYTES
from service.faults import Fault
from service.limits import Admission, Turns, current_ticket
from service.metrics import Metrics
from service.workers import DecodeWorkers, is_plain_png
from tests.fakes import FakeSegmenter, make_image
from tests.service.running import WAIT_S, service_settings, serving
from tests.service.test_load import (
    DIGEST,
    PNG,
    Gated,
    click,
    end,
    free_port,
    gauge,
    head,
    put,
    raw,
    read_all,
    wait_for,
)
from tests.service.test_load import start as start_process

ORIGINAL = "/api/segmentation/sam2"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeSegmenter(), service_settings(decode_timeout=1, decode_memory_mb=96)) as address:
        put(address)
        yield address


def upload(url: str, data: bytes) -> requests.Response:
    return requests.put(f"{url}/v1/images/{wire.digest_of(data)}", data=data, timeout=WAIT_S)


def slow_jpeg() -> bytes:
    """Return a small progressive JPEG with one scan so often that decoding takes many seconds."""
    target = io.BytesIO()
    noise = np.kron(np.random.default_rng(0).integers(0, 255, (64, 64)), np.ones((64, 64))).astype(np.uint8)
    Image.fromarray(noise).save(target, "JPEG", progressive=True, quality=30)
    data = target.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 400 + data[-2:]


def deep_picture() -> bytes:
    """Return a PNG of 16 bit that takes some hundred MB to decode."""
    target = io.BytesIO()
    Image.fromarray(np.zeros((4096, 4096), np.uint16)).save(target, "PNG")
    return target.getvalue()


def test_decoding_that_takes_too_long_is_ended(url: str) -> None:
    before = gauge(url, "ctai_decodes_stopped_total")
    response = upload(url, slow_jpeg())
    assert (response.status_code, response.json()["error"]) == (413, "image_too_large")
    assert "1 s" in response.json()["detail"]
    assert gauge(url, "ctai_decodes_stopped_total") == before + 1
    assert click(url).status_code == 200


@pytest.mark.skipif(not hasattr(os, "setpriority"), reason="no priorities of processes on this system")
def test_decoding_gives_way_to_the_model() -> None:
    look = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"
    script = f"from service.decoders import prepare; prepare(); prepare(); {look}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == max(5, os.getpriority(os.PRIO_PROCESS, 0))


def test_decoding_that_takes_too_much_memory_is_ended(url: str) -> None:
    assert upload(url, deep_picture()).status_code in (400, 413)
    assert click(url).status_code == 200
    with serving(FakeSegmenter()) as roomy:
        assert upload(roomy, deep_picture()).status_code == 200


def test_a_client_that_hangs_up_ends_its_decoding() -> None:
    data = slow_jpeg()
    with serving(FakeSegmenter(), service_settings(decode_timeout=300, decode_workers=1)) as url:
        gone = raw(url, head(f"/v1/images/{wire.digest_of(data)}", Content_Length=len(data)) + data)
        wait_for(lambda: gauge(url, "ctai_queue_waiting") == 1)
        assert requests.get(f"{url}/health", timeout=WAIT_S).status_code == 200
        assert gauge(url, "ctai_queue_waiting") == 1, "the health waited for the picture"
        gone.close()
        wait_for(lambda: gauge(url, "ctai_dropped_total") == 1)
        target = io.BytesIO()
        Image.fromarray(make_image((64, 64))).save(target, "JPEG")
        assert upload(url, target.getvalue()).status_code == 200


def test_a_worker_that_starts_slowly_outlives_the_request_it_was_started_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> list[str]:
        log: list[str] = []
        may_go_on = asyncio.Event()

        async def start_slowly(*_: object, **__: object) -> None:
            log.append("started")
            await may_go_on.wait()
            log.append("ready")

        monkeypatch.setattr("service.workers.to_process.run_sync", start_slowly)
        workers = DecodeWorkers(service_settings(), Turns(1), Metrics())
        request = asyncio.ensure_future(workers.start())
        while not log:
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        assert request.cancelled()
        may_go_on.set()
        for _ in range(9):
            await asyncio.sleep(0)
        return log

    assert asyncio.run(run()) == ["started", "ready"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, True), ({"pnginfo": True}, False), ({"mode": "RGB"}, False), ({"size": (1200, 1200)}, False)],
)
def test_only_small_plain_pictures_are_decoded_in_the_service(
    changes: dict[str, object], expected: bool
) -> None:
    image = Image.fromarray(make_image((512, 512))).convert(str(changes.get("mode", "L")))
    if "size" in changes:
        image = image.resize((1200, 1200))
    info = PngImagePlugin.PngInfo()
    if "pnginfo" in changes:
        info.add_text("a", "b", zip=True)
    target = io.BytesIO()
    image.save(target, "PNG", pnginfo=info)
    assert is_plain_png(target.getvalue()) is expected
    assert is_plain_png(target.getvalue()[:-5]) is False


def test_a_mask_of_another_shape_is_refused_unread(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire.zlib, "decompressobj", lambda: pytest.fail("it was unpacked"))
    mask = wire.encode_mask(np.zeros((4096, 4096), bool))
    response = requests.post(f"{url}/v1/images/{DIGEST}/segment", json={"mask": mask}, timeout=WAIT_S)
    assert (response.status_code, response.json()["error"]) == (422, "prompt_invalid")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('{"image_data": "", "click_points": [' + "0," * 10_000_000 + "0]}", 413),
        ('{"image_data": "", "click_points": [' + "0," * 40_000 + "0]}", 422),
        ('{"image_data": ' + "[" * 50_000, 422),
        ('{"image_data": ' + "[" * 5_000_000, 413),
        ('{"click_points": [{"x": 1, "y": 1}], "image_data": "' + "\\u0041" * 3_000_000 + '"}', 400),
        ('{"image_data": ' + "9" * 5_000_000 + "}", 422),
    ],
)
def test_json_is_bounded_before_it_is_parsed(url: str, text: str, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    response = requests.post(url + ORIGINAL, data=text, headers=headers, timeout=WAIT_S)
    assert response.status_code == status
    assert len(response.content) < 1000


LARGE = 2 * PARSED_HERE_BYTES


def form_of(content: bytes) -> tuple[bytes, str]:
    files, fields = {"file": ("a", content)}, {"click_points": '[{"x": 1, "y": 2}]'}
    prepared = requests.Request("POST", "http://x", files=files, data=fields).prepare()
    assert isinstance(prepared.body, bytes)
    return prepared.body, str(prepared.headers["Content-Type"])


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (json.dumps({"image_data": "A" * LARGE, "click_points": [{"x": 1, "y": 2}]}).encode(), None, 400),
        (b'{"image_data": "' + b"\\u0041" * LARGE + b'"}', None, 422),
        (b'{"image_data": "A", "x": [' + b",".join([b"9" * 4000] * (LARGE // 4000)) + b"]}", None, 400),
        (b"[" * 200 + b" " * LARGE, None, 422),
        (*form_of(b"\r\n--" * LARGE), 400),
        (b"\r\n" * LARGE, "multipart/form-data; boundary=x", 422),
    ],
    ids=["base64", "escapes", "long numbers", "damaged", "almost boundaries", "no parts"],
)
def test_large_bodies_are_parsed_in_a_process_that_can_be_ended(
    url: str, monkeypatch: pytest.MonkeyPatch, body: bytes, content_type: str | None, status: int
) -> None:
    def parse_here(*_: object) -> None:
        raise AssertionError("parsed in the service's own process")

    monkeypatch.setattr(bodies, "parse_json", parse_here)
    monkeypatch.setattr(bodies, "parse_form", parse_here)
    response = requests.post(
        url + ORIGINAL,
        data=body,
        headers={"Content-Type": content_type or "application/json"},
        timeout=WAIT_S,
    )
    assert response.status_code == status, response.text


def test_what_is_parsed_elsewhere_is_the_same(url: str) -> None:
    # Noise hardly packs, so that the picture is large.
    noise = np.random.default_rng(1).integers(0, 256, (900, 900)).astype(np.uint8)
    image = wire.encode_image(noise)
    assert len(image) > LARGE
    click = {"click_points": '[{"x": 30, "y": 40, "label": 1}]', "patient_id": "7"}
    by_form = requests.post(url + ORIGINAL, files={"file": ("a.png", image)}, data=click, timeout=WAIT_S)
    value = {"image_data": base64.b64encode(image).decode(), "click_points": [{"x": 30, "y": 40}]}
    by_json = requests.post(url + ORIGINAL, json={**value, "patient_id": "7"}, timeout=WAIT_S)
    # Some writers of JSON escape each slash: the text then stands nowhere in the body as it is meant.
    escaped = json.dumps({**value, "patient_id": "7"}).replace("/", "\\/")
    by_escapes = requests.post(
        url + ORIGINAL, data=escaped, headers={"Content-Type": "application/json"}, timeout=WAIT_S
    )
    assert [one.status_code for one in (by_form, by_json, by_escapes)] == [200] * 3
    masks = {one.json()["mask_data"] for one in (by_form, by_json, by_escapes)}
    assert len(masks) == 1
    assert {one.json()["patient_id"] for one in (by_form, by_json, by_escapes)} == {"7"}


def test_parsing_that_takes_too_much_memory_is_ended(url: str) -> None:
    # One character beyond ASCII makes all of them take four bytes.
    body = b'{"image_data": "' + b"A" * 30_000_000 + "\U0001f600".encode() + b'"}'
    headers = {"Content-Type": "application/json"}
    response = requests.post(url + ORIGINAL, data=body, headers=headers, timeout=WAIT_S)
    assert response.status_code == 413, response.text
    assert requests.get(url + wire.HEALTH_PATH, timeout=WAIT_S).status_code == 200


def test_bodies_that_stall_hold_no_place() -> None:
    with serving(FakeSegmenter(), service_settings(max_concurrency=1, queue_length=0)) as url:
        stalled = [
            raw(url, head(f"/v1/images/{DIGEST}", Content_Length=len(PNG)) + PNG[:50]) for _ in range(5)
        ]
        put(url)
        assert click(url).status_code == 200
        assert gauge(url, "ctai_queue_waiting") == 0
        for one in stalled:
            one.close()


def test_a_body_below_the_minimum_rate_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "UPLOAD_GRACE_S", 0.2)
    with serving(FakeSegmenter(), service_settings(request_timeout=300)) as url:
        response = read_all(raw(url, head(f"/v1/images/{DIGEST}", Content_Length=len(PNG)) + PNG[:50]))
    assert response.startswith(b"HTTP/1.1 408")


def test_bodies_are_bounded_together() -> None:
    with serving(FakeSegmenter(), service_settings(bodies_mb=0.2, request_timeout=60)) as url:
        hoarding = raw(url, head(f"/v1/images/{DIGEST}", Content_Length=190_000) + bytes(180_000))
        wait_for(lambda: upload(url, PNG + bytes(60_000)).status_code == 200)
        assert read_all(hoarding).startswith(b"HTTP/1.1 429")


def test_idle_connections_make_room_for_others() -> None:
    with serving(FakeSegmenter(), service_settings(max_connections=5)) as url:
        put(url)
        idle = [raw(url, b"") for _ in range(30)]
        assert click(url).status_code == 200
        assert requests.get(f"{url}/health", timeout=WAIT_S).status_code == 200
        assert gauge(url, "ctai_connections_closed_total") >= 25
        for one in idle:
            one.close()


def test_a_request_that_is_worked_on_keeps_its_connection() -> None:
    segmenter = Gated()
    with serving(segmenter, service_settings(max_connections=4)) as url:
        put(url)
        request = head(f"/v1/images/{DIGEST}/segment", Content_Length=22).replace(b"PUT", b"POST", 1)
        working = raw(
            url, request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + b'{"points": [[40, 48]]}'
        )
        assert segmenter.entered.acquire(timeout=WAIT_S)
        idle = [raw(url, b"") for _ in range(10)]
        segmenter.open.set()
        assert read_all(working).startswith(b"HTTP/1.1 200")
        for one in idle:
            one.close()


async def _admit(admission: Admission, client: str, log: list[str]) -> None:
    try:
        with admission.track(client, 60) as ticket:
            admission.enter(ticket, retry_after_s=1)
            log.append(f"in {client}")
            await asyncio.Event().wait()
    except Fault as fault:
        log.append(f"{fault.status_code} {client}")


def test_a_full_queue_is_shared_between_clients() -> None:
    async def run() -> list[str]:
        admission = Admission(3, max_bytes=1000)
        log: list[str] = []
        tasks = []
        for client in ("greedy", "greedy", "greedy", "greedy", "modest", "modest"):
            tasks.append(asyncio.ensure_future(_admit(admission, client, log)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return log

    log = asyncio.run(run())
    assert log.count("in modest") == 1
    assert log.count("429 greedy") == 2
    assert log.count("429 modest") == 1


def test_clients_work_in_turn() -> None:
    async def run() -> list[str]:
        admission, turns = Admission(100, max_bytes=1000), Turns(1)
        order: list[str] = []

        async def work(client: str) -> None:
            with admission.track(client, 60) as ticket:
                admission.enter(ticket, retry_after_s=1)
                async with turns.hold():
                    order.append(current_ticket.get().client)
                    await asyncio.sleep(0)

        await asyncio.gather(*(work(client) for client in "aaaaab"))
        return order

    assert asyncio.run(run()).index("b") <= 2


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "attacker.example"}, "host_forbidden"),
        ({"Host": "attacker.example:8000"}, "host_forbidden"),
        ({"Host": "127.0.0.1.attacker.example"}, "host_forbidden"),
        ({"Host": "127.0.0.1@attacker.example"}, "host_forbidden"),
        ({"Host": "[::1"}, "host_forbidden"),
        ({"Origin": "http://attacker.example"}, "origin_forbidden"),
        ({"Origin": "null"}, "origin_forbidden"),
        ({"Origin": "http://127.0.0.1:9"}, "origin_forbidden"),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, None),
        ({"Host": "[::1]:8000"}, None),
    ],
)
def test_a_service_without_a_key_is_not_for_other_sites(
    url: str, headers: dict[str, str], code: str | None
) -> None:
    for path in (ORIGINAL + "/health", "/health", "/nothing"):
        response = requests.get(url + path, headers=headers, timeout=WAIT_S)
        assert response.json().get("error") == (code or (None if "health" in path else "path_unknown"))
        assert response.status_code == (403 if code else 200 if "health" in path else 404)
        assert "attacker" not in response.text


def test_other_names_are_named_in_the_settings() -> None:
    with serving(FakeSegmenter(), service_settings(allowed_hosts="Box.example, b.example")) as url:
        for name, status in (("box.example", 200), ("b.example:1", 200), ("c.example", 403)):
            for headers in ({"Host": name}, {"Origin": f"https://{name}"}):
                assert requests.get(f"{url}/health", headers=headers, timeout=WAIT_S).status_code == status
    with serving(FakeSegmenter(), service_settings(api_key="k" * 16)) as url:
        assert requests.get(f"{url}/health", headers={"Host": "any"}, timeout=WAIT_S).status_code == 200


def test_there_is_no_redirect(url: str) -> None:
    for path in ("/health/", ORIGINAL + "/", "/v1/segment/"):
        response = requests.get(url + path, allow_redirects=False, timeout=WAIT_S)
        assert response.status_code == 404
        assert "Location" not in response.headers


@pytest.mark.parametrize(
    "value", ["--5", "-", "+-5", "5-", "٥", "0x5", "1e3", "9" * 4000, "-" * 4000, "\x00"]
)
def test_an_odd_slice_index_is_refused(url: str, value: str) -> None:
    form = {"slice_index": value, "click_points": '[{"x": 40, "y": 48}]'}
    response = requests.post(url + ORIGINAL, files={"file": PNG}, data=form, timeout=WAIT_S)
    assert response.status_code in (200, 422)
    assert response.status_code == 422 or response.json()["slice_index"] == 5


@pytest.mark.parametrize(
    "charset", ["odd", "utf-7", "idna", "base64_codec", "zip", "\xff", "undefined", "utf-16"]
)
def test_an_odd_charset_is_no_fault_of_the_service(url: str, charset: str) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="patient_id"\r\n\r\n\xff\xfe+AAA\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + PNG + b"\r\n--x--\r\n"
    )
    for kind in ("multipart/form-data; boundary=x", "application/json", "text/plain"):
        headers = {"Content-Type": f"{kind}; charset={charset}".encode("latin-1")}
        response = requests.post(url + ORIGINAL, data=body, headers=headers, timeout=WAIT_S)
        assert response.status_code < 500


def test_a_stop_right_after_the_start_is_heard(tmp_path: Path) -> None:
    environment = {"SAM2_PORT": str(free_port()), "SAM2_CACHE_DIR": str(tmp_path)}
    processes = [start_process(**environment) for _ in range(1)]
    for process, pause_s in zip(processes, (0.3,), strict=True):
        try:
            time.sleep(pause_s)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=WAIT_S)
        finally:
            end(process)
        assert process.returncode in (0, -signal.SIGTERM)


def hears_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(caught >> signal.SIGTERM - 1 & 1)


@pytest.mark.parametrize("moment", ["when it is heard first", "while the model is loaded"])
def test_a_stop_is_heard_as_the_first_process(tmp_path: Path, moment: str) -> None:
    project = Path(__file__).resolve().parents[2]
    command = ["unshare", "--pid", "--fork", "--kill-child"]
    if sys.platform != "linux" or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a process namespace")
    run = subprocess.Popen(
        [*command, sys.executable, "-m", "service"],
        cwd=project,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(project),
            "SAM2_PORT": str(free_port()),
            "SAM2_DEVICE": "cpu",
            "SAM2_CACHE_DIR": str(tmp_path),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    try:
        wait_for(lambda: children.read_text().strip())
        child = int(children.read_text())
        wait_for(lambda: hears_sigterm(child))
        if moment != "when it is heard first":
            assert run.stderr is not None
            assert any("Started server process" in line for line in run.stderr)
        subprocess.run(["kill", str(child)], check=True)
        run.communicate(timeout=WAIT_S)
    finally:
        end(run)
    assert run.returncode == 0
