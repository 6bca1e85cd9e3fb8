"""Downloads against a real HTTP server on this machine that misbehaves on demand."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ctai_sam2.errors import CtaiError, InputError, StorageError, WeightsError, WeightsMissing
from ctai_sam2.models import download as download_module
from ctai_sam2.models.download import download_checkpoint
from ctai_sam2.models.registry import Checkpoint, ModelStore

CONTENT = random.Random(0).randbytes(1 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `cuts` are the numbers of bytes after which the next responses are cut off."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[str | None] = []
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.honours_range = True
        self.content = CONTENT
        self.tells_length = True
        self.is_silent = False
        self.done = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        span = self.headers.get("Range")
        server.requests.append(span)
        if server.is_silent:
            server.done.wait(30)
            return
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        if not self.path.endswith("/model.pt"):
            self.send_error(404)
            return
        start = start_of(span) if span and server.honours_range else 0
        whole = len(server.content)
        if start >= whole:
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if server.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cuts:
            body = body[: server.cuts.pop(0)]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.done.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def checkpoint(server: Server) -> Checkpoint:
    return Checkpoint(
        name="model",
        file_name="model.pt",
        config="sam2_ct_nano",
        licence="none",
        source="https://example.org/model",
        url=f"{server.url}/model.pt",
        sha256=SHA256,
        size_bytes=len(CONTENT),
    )


@pytest.fixture
def store(tmp_path: Path, checkpoint: Checkpoint) -> ModelStore:
    return ModelStore(tmp_path / "models", checkpoints=[checkpoint])


def fetch(store: ModelStore, **options: Any) -> Path:
    return download_checkpoint(
        "model", store, **{"sleep": lambda _: None, "timeout_s": (5.0, 5.0), **options}
    )


def leftovers(store: ModelStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir()) if store.folder.is_dir() else []


def start_of(span: str) -> int:
    return int(span.removeprefix("bytes=").rstrip("-"))


def test_a_checkpoint_arrives_whole_with_progress(server: Server, store: ModelStore) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(store, progress=lambda here, total: seen.append((here, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [here for here, _ in seen] == sorted(here for here, _ in seen)
    assert leftovers(store) == ["model.pt"]
    assert store.verify("model").verified


def test_what_is_there_is_not_fetched_again(server: Server, store: ModelStore) -> None:
    fetch(store)
    fetch(store)
    assert len(server.requests) == 1


def test_a_wrong_file_of_that_name_is_replaced(server: Server, store: ModelStore) -> None:
    store.make_folder()
    (store.folder / "model.pt").write_bytes(b"an older one")
    assert fetch(store).read_bytes() == CONTENT


def test_a_cut_connection_is_taken_up_where_it_stopped(server: Server, store: ModelStore) -> None:
    server.cuts = [300_000, 400_000]
    assert fetch(store).read_bytes() == CONTENT
    first, second, third = server.requests
    assert first is None
    assert second is not None
    assert third is not None
    assert 0 < start_of(second) <= 300_000 < start_of(third) <= 700_000


def test_a_later_call_continues_what_an_earlier_one_left(server: Server, store: ModelStore) -> None:
    server.cuts = [300_000]
    with pytest.raises(WeightsMissing, match="cut"):
        fetch(store, attempts=1)
    assert [name for name in leftovers(store) if not name.endswith(".part")] == []
    assert fetch(store).read_bytes() == CONTENT
    assert server.requests[-1] is not None
    assert 0 < start_of(server.requests[-1]) <= 300_000
    assert leftovers(store) == ["model.pt"]


def test_a_server_without_ranges_sends_it_again_from_the_start(server: Server, store: ModelStore) -> None:
    server.cuts = [300_000]
    server.honours_range = False
    assert fetch(store).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_server_that_ends_early_without_a_length_is_noticed(server: Server, store: ModelStore) -> None:
    server.tells_length = False
    server.cuts = [1000] * 3
    with pytest.raises(WeightsMissing, match=r"3000 of 1048576|only \d+ of 1048576"):
        fetch(store)


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, store: ModelStore) -> None:
    store.make_folder()
    (store.folder / f"model.pt.{SHA256[:8]}.part").write_bytes(b"x" * (len(CONTENT) + 5))
    assert fetch(store).read_bytes() == CONTENT


def test_a_range_beyond_the_end_starts_again(server: Server, tmp_path: Path, checkpoint: Checkpoint) -> None:
    store = ModelStore(tmp_path, checkpoints=[replace(checkpoint, size_bytes=None)])
    (tmp_path / f"model.pt.{SHA256[:8]}.part").write_bytes(b"x" * (len(CONTENT) + 5))
    assert fetch(store).read_bytes() == CONTENT


def test_a_wrong_file_of_the_right_size_is_refused_and_removed(server: Server, store: ModelStore) -> None:
    server.content = CONTENT[::-1]
    with pytest.raises(WeightsError, match="not the one it claims to be") as caught:
        fetch(store)
    assert not isinstance(caught.value, WeightsMissing)
    assert leftovers(store) == []


def test_a_page_instead_of_the_file_is_refused_by_its_size(server: Server, store: ModelStore) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(WeightsError, match="another file"):
        fetch(store)
    assert leftovers(store) == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_told_and_not_repeated(server: Server, store: ModelStore, status: int) -> None:
    server.statuses = [status] * 3
    with pytest.raises(WeightsMissing, match=str(status)):
        fetch(store)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, store: ModelStore, status: int) -> None:
    server.statuses = [status]
    waits: list[float] = []
    assert fetch(store, sleep=waits.append).read_bytes() == CONTENT
    assert waits == [1.0]


def test_a_silent_server_times_out(server: Server, store: ModelStore) -> None:
    server.is_silent = True
    with pytest.raises(WeightsMissing, match="did not respond in time"):
        fetch(store, timeout_s=(5.0, 0.05), attempts=1)
    assert leftovers(store) == []


def test_no_server_at_all(tmp_path: Path, checkpoint: Checkpoint) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/model.pt"
        store = ModelStore(tmp_path, checkpoints=[replace(checkpoint, url=url)])
        with pytest.raises(WeightsMissing, match="connection failed"):
            fetch(store)


def test_a_mirror_is_asked_for_the_original_name(
    server: Server, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    unreachable = replace(checkpoint, url="http://127.0.0.1:1/model.pt")
    store = ModelStore(tmp_path, checkpoints=[unreachable])
    assert fetch(store, mirror_url=f"{server.url}/mirror/").read_bytes() == CONTENT


def test_a_proxy_of_the_environment_is_used(
    server: Server, tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    store = ModelStore(
        tmp_path, checkpoints=[replace(checkpoint, url="http://weights.invalid/some/model.pt")]
    )
    assert fetch(store).read_bytes() == CONTENT


@pytest.mark.parametrize("announced", [True, False])
def test_a_full_disk_leaves_nothing(
    server: Server, store: ModelStore, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    if announced:
        monkeypatch.setattr(
            download_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})()
        )
    else:

        def refuse(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(download_module.os, "fsync", refuse)
    with pytest.raises(WeightsError, match="no room on the disk"):
        fetch(store)
    assert leftovers(store) == []


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "file").write_text("in the way")
    store = ModelStore(tmp_path / "file" / "models", checkpoints=[checkpoint])
    with pytest.raises(StorageError, match="SAM2_MODEL_PATH"):
        fetch(store)


def test_a_missing_file_of_certificates_is_named(
    server: Server, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "hospital.pem"))
    with pytest.raises(InputError, match="REQUESTS_CA_BUNDLE"):
        fetch(store)
    assert not server.requests


def test_without_a_known_digest_nothing_is_asked_of_the_network(
    server: Server, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    store = ModelStore(tmp_path, checkpoints=[replace(checkpoint, sha256=None)])
    with pytest.raises(InputError, match="--sha256"):
        fetch(store)
    assert server.requests == []
    fetch(store, sha256=SHA256.upper())
    assert store.verify("model").verified
    (tmp_path / "model.pt").write_bytes(b"changed later")
    with pytest.raises(WeightsError):
        store.verify("model")


def test_a_digest_that_contradicts_the_known_one_is_refused(server: Server, store: ModelStore) -> None:
    with pytest.raises(InputError, match="not the known one"):
        fetch(store, sha256="0" * 64)
    with pytest.raises(InputError, match="64 hexadecimal"):
        fetch(store, sha256="abc")
    assert server.requests == []


@pytest.mark.parametrize("name", ["sam2-ct-nano", "no-such-model"])
def test_what_cannot_be_downloaded_is_an_input_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        download_checkpoint(name, ModelStore(tmp_path))


def test_no_message_holds_the_folder(server: Server, store: ModelStore) -> None:
    server.statuses = [404]
    with pytest.raises(CtaiError) as caught:
        fetch(store)
    assert str(store.folder) not in str(caught.value)
