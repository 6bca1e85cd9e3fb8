"""Starting, logging and failing before there is a client; and batches that go wrong."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from ctai_sam2.cli.serve import _find_service
from ctai_sam2.errors import DeviceUnavailable, InputError, Unavailable
from ctai_sam2.models import Prefetching, wire
from service.__main__ import main
from service.app import openapi_text
from service.lifecycle import open_served_segmenter, require_safe, serve
from service.logs import JsonFormatter
from tests.fakes import FakeSegmenter, make_image
from tests.service.running import service_settings, serving


def test_the_command_writes_the_openapi_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["service", "--openapi"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main() == 0
    assert capsys.readouterr().out == openapi_text()


@pytest.mark.parametrize(
    ("host", "key", "is_safe"),
    [
        ("127.0.0.1", None, True),
        ("::1", None, True),
        ("localhost", None, True),
        ("0.0.0.0", None, False),
        ("::", None, False),
        ("gpu-box", None, False),
        ("0.0.0.0", "short", False),
        ("0.0.0.0", "k" * 16, True),
        ("0.0.0.0", " " * 16, False),
        ("0.0.0.0", "\t" * 16, False),
        ("127.0.0.1", " " * 16, False),
        ("127.0.0.1", "k", True),
    ],
)
def test_others_are_listened_to_only_with_a_key(host: str, key: str | None, is_safe: bool) -> None:
    settings = service_settings(host=host, api_key=key)
    if is_safe:
        require_safe(settings)
        return
    with pytest.raises(InputError, match="SAM2_API_KEY") as caught:
        require_safe(settings)
    assert "short" not in str(caught.value) or key == "short"


def test_what_is_served_is_sam2_with_a_cache(tmp_path: Path) -> None:
    with open_served_segmenter(service_settings(cache_dir=tmp_path / "cache", device="cpu")) as segmenter:
        assert isinstance(segmenter, Prefetching)
        segmenter.warm_up()
        assert segmenter.health().available
    assert (tmp_path / "cache").is_dir()
    with pytest.raises(Unavailable, match="switched off"):
        serve(service_settings(enabled=False))


def test_the_command_line_finds_the_service() -> None:
    assert _find_service().serve is serve


def test_a_log_line_is_json_of_known_fields_and_no_message_of_an_error() -> None:
    try:
        raise ValueError("Erika Mustermann")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "unforeseen", (), sys.exc_info())
    record.request_id = "a" * 32
    record.patient = "Erika Mustermann"
    line = JsonFormatter().format(record)
    entry = json.loads(line)
    assert (entry["event"], entry["error"], entry["request_id"]) == ("unforeseen", "ValueError", "a" * 32)
    assert entry["where"].startswith(__name__)
    assert "Erika" not in line


class FailingBatches(FakeSegmenter):
    """Fails to embed in batches on request."""

    failure: Exception | None = None

    def embed_many(self, images: Any) -> None:
        if self.failure is not None:
            raise self.failure


@pytest.mark.parametrize(
    ("failure", "status"), [(DeviceUnavailable("no memory"), 503), (RuntimeError("a bug"), 500)]
)
def test_a_batch_that_fails_is_told_to_all_and_the_next_goes_on(failure: Exception, status: int) -> None:
    segmenter = FailingBatches()
    files = [wire.encode_image(make_image((32, 32), seed)) for seed in range(4)]
    statuses: list[int] = []

    def send(data: bytes) -> None:
        url_of_it = f"{url}/v1/images/{wire.digest_of(data)}"
        statuses.append(requests.put(url_of_it, data=data, timeout=30).status_code)

    def send_all() -> list[int]:
        statuses.clear()
        threads = [threading.Thread(target=send, args=(data,)) for data in files]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return statuses

    with serving(segmenter, service_settings(batch_size=3)) as url:
        segmenter.failure = failure
        assert send_all() == [status] * 4
        segmenter.failure = None
        assert send_all() == [200] * 4
