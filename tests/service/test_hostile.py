"""Files and bodies made to harm, over a socket: each is refused, and the next request is handled."""

from __future__ import annotations

import gc
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from pydicom.uid import JPEG2000Lossless

from ctai_sam2.models import LocalSegmenter, wire
from ctai_sam2.models.sam2_inference import Network
from tests.fakes import FakeSegmenter, make_image
from tests.service.running import service_settings, serving
from tests.service.test_load import click, head, put, raw, read_all
from tests.unit.io.making import ct_dataset, save

PNG = wire.encode_image(make_image((96, 120)))
DIGEST = wire.digest_of(PNG)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeSegmenter()) as address:
        put(address)
        yield address


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *between: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *between, chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros_deflated(size: int) -> bytes:
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def dicom(folder: Path, **changes: Any) -> bytes:
    stored = np.random.default_rng(1).integers(0, 4000, (40, 32)).astype(np.int16)
    return save(ct_dataset(stored, **changes), folder / "x.dcm").read_bytes()


def jpeg2000_of_another_size(folder: Path) -> bytes:
    dataset = ct_dataset(np.random.default_rng(1).integers(0, 4000, (40, 32)).astype(np.int16))
    save(dataset, folder / "x.dcm")
    dataset.compress(JPEG2000Lossless)
    data = save(dataset, folder / "x.dcm").read_bytes()
    at = data.index(b"\xff\x4f\xff\x51") + 8
    return data[:at] + struct.pack(">2I", 60_000, 60_000) + data[at + 8 :]


FILES: dict[str, tuple[Callable[[Path], bytes], tuple[int, str | None]]] = {
    "a picture of 3.6 gigapixels": (lambda _: png(60_000, 60_000, bytes(100)), (413, "image_too_large")),
    "a picture a little too large": (lambda _: png(8000, 8000, bytes(100)), (413, "image_too_large")),
    # The picture is complete before the rest is inflated.
    "rows that inflate to 256 MB": (
        lambda _: png(64, 64, b"")[:33] + chunk(b"IDAT", zeros_deflated(1 << 28)) + chunk(b"IEND", b""),
        (200, None),
    ),
    "a comment that inflates to 256 MB": (
        lambda _: png(64, 64, bytes(65 * 64), chunk(b"zTXt", b"c\0\0" + zeros_deflated(1 << 28))),
        (400, "image_unsupported"),
    ),
    "a profile that inflates to 256 MB": (
        lambda _: png(64, 64, bytes(64), chunk(b"iCCP", b"c\0\0" + zeros_deflated(1 << 28))),
        (400, "image_unsupported"),
    ),
    "DICOM of 4 gigapixels": (
        lambda folder: dicom(folder, Rows=65535, Columns=65535),
        (400, "image_unsupported"),
    ),
    "DICOM larger than a slice": (
        lambda folder: dicom(folder, Rows=8000, Columns=8000),
        (413, "image_too_large"),
    ),
    "DICOM of 2 billion frames": (
        lambda folder: dicom(folder, NumberOfFrames="2000000000"),
        (400, "image_unsupported"),
    ),
    "JPEG 2000 larger inside": (jpeg2000_of_another_size, (413, "image_too_large")),
    "deflated DICOM": (
        lambda folder: dicom(folder).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"),
        (400, "image_unsupported"),
    ),
}


def peak_mb() -> float:
    """Return the most memory this process ever had, in MB, and begin anew where the system can."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pytest.skip("this system does not tell the peak of a process's memory")
    return next(int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize("name", FILES)
def test_bombs_cost_little_memory(url: str, tmp_path: Path, name: str) -> None:
    make, expected = FILES[name]
    data = make(tmp_path)
    gc.collect()
    peak_mb()
    before = peak_mb()
    response = requests.put(f"{url}/v1/images/{wire.digest_of(data)}", data=data, timeout=30)
    assert (response.status_code, response.json().get("error")) == expected
    assert "Traceback" not in response.text
    assert peak_mb() - before < 100
    assert click(url).status_code == 200


def test_what_follows_a_declared_length_is_no_part_of_it(url: str) -> None:
    request = head(f"/v1/images/{DIGEST}", Content_Length=len(PNG)) + PNG
    responses = read_all(raw(url, request + bytes(100) + b"\r\n\r\n"))
    assert responses.startswith(b"HTTP/1.1 200")
    assert responses.count(b"HTTP/1.1 ") <= 2
    assert responses.count(b"HTTP/1.1 2") == 1
    assert click(url).status_code == 200


def test_a_body_that_drips_is_cut_off_at_the_deadline() -> None:
    with serving(FakeSegmenter(), service_settings(request_timeout=0.4)) as url:
        opened = raw(url, head(f"/v1/images/{DIGEST}", Content_Length=len(PNG)))
        over = threading.Event()

        def drip() -> None:
            for byte in PNG:
                if over.wait(0.02):
                    return
                try:
                    opened.sendall(bytes([byte]))
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        response = read_all(opened)
        over.set()
        dripping.join()
        assert response.startswith(b"HTTP/1.1 408")
        put(url)


def test_a_gpu_without_memory_is_told_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with LocalSegmenter(device="cpu") as segmenter, serving(segmenter) as url:
        with monkeypatch.context() as patched:
            patched.setattr(Network, "encode", fail)
            refused = requests.put(f"{url}/v1/images/{DIGEST}", data=PNG, timeout=30)
        assert (refused.status_code, refused.json()["error"]) == (503, "device_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        assert "CUDA" not in refused.text
        put(url)
        assert click(url).status_code == 200
