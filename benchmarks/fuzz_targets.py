"""What the fuzzer feeds: every decoder and parser of files, messages and stored results, with seeds for each.

A target takes the bytes of one input. It returns where the input is read or refused by one of our errors,
and raises where anything else happens: that is a find. Where a checksum would stop nearly every mutation
(PNG chunks, the digests of cache and journal), the input is tried with the checksum made right as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_PIXELS = 1 << 20
"""Smaller than the service's, so that the fuzzer decodes often rather than much."""
BOUNDARY = "fuzzed"
PNG = b"\x89PNG\r\n\x1a\n"


def image_seeds() -> list[bytes]:
    """Make small files of every kind that is taken: PNG, JPEG, and DICOM in several syntaxes."""
    from PIL import Image
    from pydicom.uid import JPEG2000Lossless, RLELossless

    from ctai_sam2.io import write_dicom_series
    from ctai_sam2.types import Acquisition, CTVolume

    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (12, 16)).astype(np.uint8)
    files = []
    for image, kind in (
        (Image.fromarray(grey), "PNG"),
        (Image.fromarray(grey.astype(np.uint16) * 200), "PNG"),
        (Image.fromarray(grey).convert("P"), "PNG"),
        (Image.fromarray(grey > 99), "PNG"),
        (Image.fromarray(np.stack([grey] * 3, -1)), "PNG"),
        (Image.fromarray(grey), "JPEG"),
    ):
        target = io.BytesIO()
        image.save(target, kind)
        files.append(target.getvalue())
    target = io.BytesIO()
    Image.fromarray(grey).save(target, "JPEG", progressive=True)
    files.append(target.getvalue())
    volume = CTVolume(
        hu_zyx=rng.integers(-1000, 1000, (1, 32, 36)).astype(np.int16),
        affine=np.diag([0.8, 0.8, 5.0, 1.0]),
        acquisition=Acquisition(slice_thickness_mm=5.0),
    )
    from pydicom import dcmread

    with tempfile.TemporaryDirectory() as folder:
        (path,) = write_dicom_series(Path(folder), volume)
        files.append(path.read_bytes())
        for syntax in (RLELossless, JPEG2000Lossless):
            dataset = dcmread(path)
            dataset.compress(syntax)
            target = io.BytesIO()
            dataset.save_as(target)
            files.append(target.getvalue())
    return files


def json_seeds() -> list[bytes]:
    """Make prompts, a mask and a response in the service's own form."""
    from ctai_sam2.models import wire
    from ctai_sam2.types import ModelIdentity, Prediction, Prompt, Window

    mask = np.zeros((24, 24), bool)
    mask[5:9, 6:14] = True
    identity = ModelIdentity(
        name="m", weights_sha256="0" * 64, image_size=64, device="cpu", dtype="float32", code_version="0"
    )
    prediction = Prediction(
        masks=np.stack([mask, ~mask]),
        scores=np.array([0.9, 0.1], np.float32),
        identity=identity,
        processing_time_ms=1.0,
        cached=False,
        backend="local",
    )
    bodies: list[Any] = [
        wire.encode_prompt(Prompt.point(3, 4), Window()),
        wire.encode_prompt(Prompt(structure="muscle", box_xyxy=np.array([1, 2, 9, 9.5]), mask=mask)),
        wire.encode_mask(mask),
        wire.encode_prediction(prediction, "0" * 64),
        {"image_data": "", "image_type": "auto", "click_points": [{"x": 1, "y": 2, "label": 1}]},
    ]
    return [json.dumps(body).encode() for body in bodies]


def form_seeds() -> list[bytes]:
    """Make the bodies of forms, with the boundary that the target announces."""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    image = image_seeds()[0]
    file = f'{head}"file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'.encode() + image
    fields = [
        f'\r\n{head}"{name}"\r\n\r\n{value}'
        for name, value in (
            ("image_type", "middle"),
            ("patient_id", "1"),
            ("slice_index", "-3"),
            ("click_points", '[{"x": 3, "y": 4, "label": 1}]'),
            ("prompt", '{"points": [[3, 4]]}'),
        )
    ]
    return [file + "".join(fields).encode() + f"\r\n--{BOUNDARY}--\r\n".encode()]


def mend_png(data: bytes) -> bytes:
    """Make the checksums of a PNG's chunks right, as far as there are chunks."""
    mended, at = bytearray(data), len(PNG)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        mended[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(mended)


def image_target() -> Callable[[bytes], None]:
    """Decode a file as the service does."""
    from ctai_sam2.errors import CtaiError
    from ctai_sam2.io.uploads import decode_upload

    def decode(data: bytes) -> None:
        try:
            grey = decode_upload(data, max_pixels=MAX_PIXELS).to_grey()
        except CtaiError as error:
            str(error)
            return
        assert grey.dtype == np.uint8
        assert grey.ndim == 2
        assert 0 < grey.size <= MAX_PIXELS

    def run(data: bytes) -> None:
        decode(data)
        if data.startswith(PNG):
            decode(mend_png(data))

    return run


def json_target() -> Callable[[bytes], None]:
    """Decode JSON as a prompt, a mask, a response and the original system's request."""
    from pydantic import ValidationError

    from ctai_sam2.errors import CtaiError
    from ctai_sam2.models import wire
    from service.bodies import parse_json
    from service.faults import Fault, fault_of
    from service.original_api import decode_base64
    from service.schemas import OriginalBody

    def attempt(work: Callable[[], Any]) -> None:
        try:
            work()
        except ValidationError as error:
            str(error)
        except (CtaiError, Fault) as error:
            if fault_of(error).status_code >= 500:
                raise
            str(error)

    def run(data: bytes) -> None:
        attempt(lambda: wire.decode_prompt(parse_json(data)))
        attempt(lambda: decode_base64(OriginalBody.model_validate(parse_json(data)).image_data))
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            return
        attempt(lambda: wire.decode_mask(body, max_side_px=1024))
        attempt(lambda: wire.decode_prediction(body, image_sha256="0" * 64, shape_hw=(24, 24)))

    return run


def form_target() -> Callable[[bytes], None]:
    """Parse a body as a form."""
    from service.bodies import parse_form
    from service.faults import Fault

    def run(data: bytes) -> None:
        try:
            parse_form(data, f"multipart/form-data; boundary={BOUNDARY}")
        except Fault as fault:
            if fault.status_code != 422:
                raise

    return run


def http_target() -> Callable[[bytes], None]:
    """Send a body to every path of the whole application; no response may be 500."""
    from ctai_sam2.models import wire
    from ctai_sam2.settings import Settings
    from service.app import make_app
    from tests.fakes import FakeSegmenter

    settings = Settings(_env_file=None, max_pixels=MAX_PIXELS, image_store_mb=1)
    app = make_app(FakeSegmenter(), settings)
    loop = asyncio.new_event_loop()
    lifespan = app.router.lifespan_context(app)
    loop.run_until_complete(lifespan.__aenter__())
    while app.state.service.identity is None:
        loop.run_until_complete(asyncio.sleep(0.01))
    known = image_seeds()[0]
    form = f"multipart/form-data; boundary={BOUNDARY}"
    asks: list[tuple[str, Callable[[bytes], str], str]] = [
        ("PUT", lambda data: wire.IMAGE_PATH.format(sha256=hashlib.sha256(data).hexdigest()), "image/png"),
        ("POST", lambda _: wire.SEGMENT_PATH.format(sha256=wire.digest_of(known)), "application/json"),
        ("POST", lambda _: wire.SEGMENT_ONCE_PATH, form),
        ("POST", lambda _: wire.ORIGINAL_PATH, form),
        ("POST", lambda _: wire.ORIGINAL_PATH, "application/json"),
    ]

    async def ask(method: str, path: str, content_type: str, data: bytes) -> int:
        statuses: list[int] = []
        sent = iter([{"type": "http.request", "body": data, "more_body": False}])

        async def receive() -> Any:
            for message in sent:
                return message
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(data)).encode())]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
            "scheme": "http",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
        }
        await app(scope, receive, send)
        return statuses[0]

    def run(data: bytes, _: object = lifespan) -> None:  # which would end if nothing held it
        loop.run_until_complete(ask("PUT", asks[0][1](known), "image/png", known))
        for method, path_of, content_type in asks:
            status = loop.run_until_complete(ask(method, path_of(data), content_type, data))
            # A busy machine may be late; anything else above 499 is a fault of the service.
            assert status < 500 or status in (503, 504), f"{method} {content_type}: {status}"

    return run


@dataclass(frozen=True, kw_only=True)
class MessageTarget:
    """What arrives as bytes: where its seeds come from, and what reads it."""

    reader: Callable[[], Callable[[bytes], None]]
    seeders: tuple[Callable[[], list[bytes]], ...]

    def seeds(self, _: Path) -> list[bytes]:
        """Make the seeds."""
        return [data for seeder in self.seeders for data in seeder()]

    def make(self, _: Path) -> Callable[[bytes], None]:
        """Make the function that reads one input."""
        return self.reader()


MESSAGE_TARGETS: dict[str, MessageTarget] = {
    "images": MessageTarget(reader=image_target, seeders=(image_seeds,)),
    "json": MessageTarget(reader=json_target, seeders=(json_seeds,)),
    "forms": MessageTarget(reader=form_target, seeders=(form_seeds,)),
    "http": MessageTarget(reader=http_target, seeders=(image_seeds, json_seeds, form_seeds)),
}
