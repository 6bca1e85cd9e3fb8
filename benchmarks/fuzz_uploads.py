"""Fuzz what the service takes from strangers, led by coverage: ``python -m benchmarks.fuzz_uploads``.

Needs atheris (``pip install atheris``). Each target runs in a process of its own, which is started anew
when a decoder's compiled code kills it. Findings go to the folder given: inputs that lead to anything
but an image, a mask, a prompt or one of our errors, with their tracebacks; and inputs that killed the
process, took too long or too much memory (libFuzzer's ``crash-``, ``timeout-``, ``oom-``). Exit code 1 if
there are any.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MAX_PIXELS = 1 << 20
"""Smaller than the service's, so that the fuzzer decodes often rather than much."""
MAX_BYTES = 8192
BOUNDARY = "fuzzed"
INSTRUMENTED = [
    "ctai_sam2",
    "service",
    "PIL.Image",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "pydicom.encaps",
    "pydicom.filereader",
    "pydicom.filebase",
    "pydicom.pixels",
    "pydicom.valuerep",
    "pydicom.values",
    "python_multipart",
    "starlette.formparsers",
]
"""What the coverage is of; more would take a minute to start."""


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


def image_target() -> Callable[[bytes], None]:
    """Decode a file as the service does."""
    from ctai_sam2.errors import CtaiError
    from ctai_sam2.io.uploads import decode_upload

    def run(data: bytes) -> None:
        try:
            grey = decode_upload(data, max_pixels=MAX_PIXELS).to_grey()
        except CtaiError as error:
            str(error)
            return
        assert grey.dtype == np.uint8
        assert grey.ndim == 2
        assert 0 < grey.size <= MAX_PIXELS

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
            assert status < 500, f"{method} {path_of(data)} {content_type}: {status}"

    return run


TARGETS: dict[str, tuple[Callable[[], Callable[[bytes], None]], tuple[Callable[[], list[bytes]], ...]]] = {
    "images": (image_target, (image_seeds,)),
    "json": (json_target, (json_seeds,)),
    "http": (http_target, (image_seeds, json_seeds, form_seeds)),
}


def fuzz(target: str, folder: Path, seconds: int, seed: int) -> None:
    """Run one target in this process until the time is over; never returns."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        make, seeders = TARGETS[target]
        run = make()
        for seeder in seeders:  # what is imported late is instrumented as well
            for data in seeder():
                run(data)
    seen: set[str] = set()

    def noting(data: bytes) -> None:
        try:
            run(data)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}"
            if place not in seen:
                seen.add(place)
                name = hashlib.sha256(place.encode()).hexdigest()[:12]
                (folder / f"found-{name}.bin").write_bytes(data)
                (folder / f"found-{name}.txt").write_text(traceback.format_exc(), encoding="utf-8")

    options = {
        "max_total_time": seconds,
        "seed": seed,
        "max_len": MAX_BYTES,
        "timeout": 20,
        "rss_limit_mb": 3072,
        "print_final_stats": 1,
        "verbosity": 0,
        "artifact_prefix": f"{folder}/",
    }
    arguments = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(folder / "corpus")], noting)
    atheris.Fuzz()


def fuzz_in_processes(target: str, folder: Path, seconds: int, examples: list[Path]) -> dict[str, int]:
    """Run one target, starting it anew when it dies; return what was run and found."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    _, seeders = TARGETS[target]
    given = [data for seeder in seeders for data in seeder()]
    given += [path.read_bytes() for path in examples if path.stat().st_size <= MAX_BYTES]
    for data in given:
        (corpus / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    until = time.monotonic() + seconds
    runs = deaths = 0
    while (left_s := int(until - time.monotonic())) > 0:
        command = [sys.executable, "-m", "benchmarks.fuzz_uploads", "--child", target, "--out", str(folder)]
        command += ["--seconds", str(left_s), "--seed", str(deaths + 1)]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
        stats = [line for line in ended.stderr.splitlines() if "number_of_executed_units" in line]
        runs += int(stats[0].split()[-1]) if stats else 0
        if ended.returncode != 0:
            deaths += 1
            (folder / f"death-{deaths}.txt").write_text(ended.stderr[-20_000:], encoding="utf-8")
            if not any(folder.glob("*-*[0-9a-f]")) or deaths > 50:
                break  # it does not even start, or dies at once every time
    found = [
        path for path in folder.iterdir() if path.name.startswith(("found-", "crash-", "timeout-", "oom-"))
    ]
    return {
        "seconds": seconds,
        "runs": runs,
        "corpus": sum(1 for _ in corpus.iterdir()),
        "deaths": deaths,
        "found": len({path.stem for path in found}),
    }


def main() -> int:
    """Fuzz all targets one after the other, or be the process of one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_uploads", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=200, help="of each target (default 200)")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="folder of what is found")
    parser.add_argument("--examples", type=Path, nargs="*", default=[], help="further files to start from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", choices=TARGETS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        fuzz(given.child, given.out, given.seconds, given.seed)
    is_clean = True
    for target in given.targets:
        figures = fuzz_in_processes(target, given.out / target, given.seconds, given.examples)
        print(f"{target:<8}" + "".join(f"{name}: {value:<10}" for name, value in figures.items()))
        is_clean &= figures["found"] == 0 and figures["deaths"] == 0
    return 0 if is_clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
