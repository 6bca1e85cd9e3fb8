"""What the service says over HTTP, path by path."""

from __future__ import annotations

import base64
import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from ctai_sam2._version import __version__
from ctai_sam2.errors import DeviceUnavailable, InputError, WeightsMissing
from ctai_sam2.models import wire
from ctai_sam2.types import Prompt
from service.app import openapi_text
from tests.fakes import FAKE_IDENTITY, FakeSegmenter, make_image
from tests.service.running import service_settings, serving
from tests.unit.io.making import ct_dataset, save

IMAGE = make_image((96, 120))
PNG = wire.encode_image(IMAGE)
DIGEST = wire.digest_of(PNG)
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeSegmenter()) as address:
        yield address


def put(url: str, data: bytes = PNG, digest: str | None = None) -> requests.Response:
    return requests.put(f"{url}/v1/images/{digest or wire.digest_of(data)}", data=data, timeout=20)


def segment(url: str, prompt: Any, digest: str = DIGEST) -> requests.Response:
    body = prompt if isinstance(prompt, bytes | str) else json.dumps(prompt)
    return requests.post(f"{url}/v1/images/{digest}/segment", data=body, timeout=20)


def code_of(response: requests.Response) -> tuple[int, str]:
    body = response.json()
    assert set(body) == {"error", "detail", "request_id"}
    assert body["request_id"] == response.headers[wire.REQUEST_ID_HEADER]
    assert "Traceback" not in response.text
    assert 'File "' not in response.text
    return response.status_code, body["error"]


def test_health_and_readiness(url: str) -> None:
    body = requests.get(f"{url}/health", timeout=20).json()
    assert (body["status"], body["model_loaded"], body["service"], body["version"]) == (
        "healthy",
        True,
        "sam2_segmentation",
        __version__,
    )
    assert body["model"] == wire.encode_identity(FAKE_IDENTITY)
    assert requests.get(f"{url}/ready", timeout=20).json() == {"ready": True}


def test_an_image_is_sent_once_and_clicked_often(url: str) -> None:
    sent = put(url)
    assert sent.status_code == 200
    assert sent.json() == {"sha256": DIGEST, "kind": "png", "height": 96, "width": 120}
    for x in (40, 60):
        response = segment(url, {"points": [[x, 48]]})
        prediction = wire.decode_prediction(response.json(), image_sha256=DIGEST, shape_hw=(96, 120))
        expected = FakeSegmenter().predict(IMAGE, Prompt.point(x, 48))
        np.testing.assert_array_equal(prediction.masks, expected.masks)


def test_a_dicom_image_is_windowed_as_asked(url: str, tmp_path: Path) -> None:
    stored = (np.arange(40 * 32).reshape(40, 32) + 900).astype(np.int16)
    data = save(ct_dataset(stored), tmp_path / "x.dcm").read_bytes()
    assert put(url, data).json()["kind"] == "dicom"
    narrow, wide = (
        segment(url, {"points": [[9, 9]], "window": {"level": 40, "width": width}}, wire.digest_of(data))
        for width in (20, 4000)
    )
    assert narrow.json()["masks"] != wide.json()["masks"]


def test_image_and_prompt_in_one_request(url: str) -> None:
    response = requests.post(
        f"{url}/v1/segment",
        files={"file": ("a.png", PNG), "prompt": (None, '{"points": [[40, 48]]}')},
        timeout=20,
    )
    assert response.status_code == 200
    assert response.json()["image"] == DIGEST
    assert segment(url, {"points": [[1, 1]]}).status_code == 200


@pytest.mark.parametrize(
    ("data", "digest", "expected"),
    [
        (b"", None, (400, "image_unsupported")),
        (b"%PDF-1.7", None, (400, "image_unsupported")),
        (PNG[:200], None, (400, "image_unsupported")),
        (PNG, "0" * 64, (400, "digest_mismatch")),
        (PNG, "not-a-digest", (422, "digest_invalid")),
        (PNG, DIGEST.upper(), (422, "digest_invalid")),
        (wire.encode_image(np.zeros((4, 400), np.uint8)), None, (400, "image_unsupported")),
    ],
)
def test_images_that_are_refused(
    url: str, data: bytes, digest: str | None, expected: tuple[int, str]
) -> None:
    assert code_of(put(url, data, digest)) == expected


@pytest.mark.parametrize(
    "prompt",
    [
        {},
        {"points": [[500, 1]]},
        {"points": [[1, -20]]},
        {"points": [[1]]},
        {"points": [[1, 2, 3]]},
        {"points": "everywhere"},
        {"points": [["1", "2"]]},
        {"points": [[1, 1]], "labels": [2]},
        {"points": [[1, 1]], "labels": [1, 0]},
        {"points": [[1, 1]] * 1025},
        {"points": [[1e300, 1]]},
        {"points": [[1, 1]], "box": [5, 5, 5, 9]},
        {"box": [0, 0, 1e9, 9]},
        {"mask": {"shape": [4, 4], "runs": ""}},
        {"mask": wire.encode_mask(np.ones((5, 5), bool))},
        {"mask": {"shape": [10**400, 4], "runs": ""}},
        {"structure": "Müller, Erika"},
        {"points": [[1, 1]], "window": {"level": 1, "width": 0}},
        "",
        "null",
        "[]",
        "{",
        '{"points": [[NaN, 1]]}',
        '{"points": [[Infinity, 1]]}',
        '{"points": [[1e999, 1]]}',
        '{"points": [[' + "9" * 5000 + ", 1]]}",
        "[" * 100_000,
        b"\xff\xfe\x00",
        '{"points": [[1, 1]], "points": null}',
    ],
)
def test_prompts_that_are_refused(url: str, prompt: Any) -> None:
    put(url)
    response = segment(url, prompt)
    assert code_of(response) == (422, "prompt_invalid")
    assert "Müller" not in response.json()["detail"] or "structure" in response.json()["detail"]
    assert segment(url, {"points": [[1, 1]]}).status_code == 200


def test_a_million_points_are_refused_by_size(url: str) -> None:
    put(url)
    assert code_of(segment(url, {"points": [[1, 1]] * 1_000_000})) == (413, "too_large")


def test_fewer_points_where_the_settings_say_so() -> None:
    with serving(FakeSegmenter(), service_settings(max_points=3)) as url:
        put(url)
        assert segment(url, {"points": [[1, 1]] * 3}).status_code == 200
        assert code_of(segment(url, {"points": [[1, 1]] * 4})) == (422, "prompt_invalid")


def test_an_unknown_image_asks_for_itself(url: str) -> None:
    assert code_of(segment(url, {"points": [[1, 1]]}, "1" * 64)) == (404, "image_unknown")


def test_unknown_paths_and_methods(url: str) -> None:
    assert code_of(requests.get(f"{url}/nothing", timeout=20)) == (404, "path_unknown")
    refused = requests.delete(f"{url}/health", timeout=20)
    assert code_of(refused) == (405, "method_not_allowed")
    assert refused.headers["Allow"] == "GET"


def test_the_originals_form(url: str) -> None:
    response = requests.post(
        f"{url}/api/segmentation/sam2",
        files={"file": ("slice.png", PNG, "image/png")},
        data={
            "image_type": "middle",
            "patient_id": "P-1",
            "slice_index": "12",
            "click_points": '[{"x": 40, "y": 48, "label": 1}]',
        },
        timeout=20,
    ).json()
    expected = FakeSegmenter().predict(IMAGE, Prompt.point(40, 48))
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(response.pop("mask_data")))))
    np.testing.assert_array_equal(mask, expected.mask.astype(np.uint8) * 255)
    rows, columns = np.nonzero(expected.mask)
    assert response == {
        "confidence_score": expected.confidence_score,
        "processing_time_ms": 1.0,
        "cached": False,
        "bounding_box": {
            "x": columns.min(),
            "y": rows.min(),
            "width": np.ptp(columns) + 1,
            "height": np.ptp(rows) + 1,
        },
        "image_type": "middle",
        "patient_id": "P-1",
        "slice_index": 12,
    }


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_the_originals_json(url: str, prefix: str) -> None:
    response = requests.post(
        f"{url}/api/segmentation/sam2",
        json={
            "image_data": prefix + base64.b64encode(PNG).decode(),
            "image_type": "L3",
            "click_points": [{"x": 40, "y": 48}],
        },
        timeout=20,
    )
    assert response.status_code == 200
    assert response.json()["patient_id"] is None


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"image_type": "L3"}, (422, "prompt_invalid")),
        ({"image_type": "L9"}, (422, "prompt_invalid")),
        ({"slice_index": "first"}, (422, "prompt_invalid")),
        ({"slice_index": "9" * 5000}, (422, "prompt_invalid")),
        ({"click_points": "here"}, (422, "prompt_invalid")),
        ({"click_points": '[{"x": NaN, "y": 1}]'}, (422, "prompt_invalid")),
        ({"click_points": '[{"x": 1e12, "y": 1}]'}, (422, "prompt_invalid")),
        ({"click_points": '[{"x": 1e300, "y": 1}]'}, (422, "prompt_invalid")),
        ({"patient_id": "x" * 300}, (422, "prompt_invalid")),
    ],
)
def test_the_originals_form_refused(url: str, form: dict[str, str], code: tuple[int, str]) -> None:
    response = requests.post(f"{url}/api/segmentation/sam2", files={"file": PNG}, data=form, timeout=20)
    assert code_of(response) == code


def test_forms_that_are_none(url: str) -> None:
    address = f"{url}/api/segmentation/sam2"
    assert code_of(requests.post(address, timeout=20)) == (422, "form_invalid")
    assert code_of(requests.post(address, data={"file": "x"}, timeout=20)) == (422, "form_invalid")
    for headers, body in [
        ({"Content-Type": "multipart/form-data"}, b"x"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--y\r\nnonsense"),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            b"--x\r\nContent-Disposition: form-data\r\n\r\n",
        ),
    ]:
        assert code_of(requests.post(address, data=body, headers=headers, timeout=20))[0] == 422
    bad = requests.post(address, json={"image_data": "%%%"}, timeout=20)
    assert code_of(bad) == (400, "image_unsupported")


def test_the_originals_health(url: str) -> None:
    body = requests.get(f"{url}/api/segmentation/sam2/health", timeout=20).json()
    assert body["enabled"]
    assert body["available"]
    assert set(body["cache_stats"]) == {"images", "image_bytes", "predictions", "cached_predictions"}


def test_metrics_name_the_model_and_count(url: str) -> None:
    put(url)
    segment(url, {"points": [[1, 1]]})
    text = requests.get(f"{url}/metrics", timeout=20).text
    assert 'ctai_model_info{device="cpu",dtype="float32",name="fake"' in text
    assert 'ctai_requests_total{method="POST",route="/v1/images/{sha256}/segment",status="200"}' in text
    for stage in ("decode", "embed", "predict", "encode"):
        assert f'ctai_stage_seconds_count{{stage="{stage}"}}' in text
    assert "ctai_queue_waiting 0.0" in text
    assert 'ctai_image_store_total{result="hit"}' in text
    assert DIGEST not in text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DeviceUnavailable("the memory of cuda is used up"), (503, "device_unavailable")),
        (WeightsMissing("the checkpoint is not on this machine"), (503, "model_unavailable")),
        (InputError("a point " + "far " * 4000), (422, wire.INPUT_INVALID)),
        (RuntimeError("Erika Mustermann, born 1970"), (500, "internal_error")),
        (MemoryError(), (500, "internal_error")),
    ],
)
def test_a_segmenter_that_fails_is_handled(
    error: Exception, expected: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    segmenter = FakeSegmenter()
    with serving(segmenter) as url:
        put(url)
        segmenter.error = error
        response = segment(url, {"points": [[1, 1]]})
        assert code_of(response) == expected
        assert "Erika" not in response.text
        assert ("Retry-After" in response.headers) == (expected[0] == 503)
        segmenter.error = None
        assert segment(url, {"points": [[1, 1]]}).status_code == 200


@pytest.mark.parametrize(
    "error", [WeightsMissing("the checkpoint is not here"), RuntimeError("a secret of the loader")]
)
def test_without_a_model_it_lives_and_says_why(error: Exception) -> None:
    with serving(FakeSegmenter(error=error), wait=False) as url:
        body = requests.get(f"{url}/health", timeout=20)
        assert body.status_code == 200
        assert not body.json()["model_loaded"]
        assert "secret" not in body.text
        for response in (requests.get(f"{url}/ready", timeout=20), put(url)):
            status, code = code_of(response)
            assert status == 503
            assert code in ("model_loading", "model_unavailable")
            assert int(response.headers["Retry-After"]) > 0


def test_the_key_is_asked_for_where_images_are(url: str) -> None:
    with serving(FakeSegmenter(), service_settings(api_key="k" * 16)) as guarded:
        for path in ("/health", "/ready", "/metrics", "/openapi.json"):
            assert requests.get(guarded + path, timeout=20).status_code == 200
        assert code_of(put(guarded)) == (401, "key_invalid")
        for key in ("", "k" * 15, "K" * 16, "schlüssel".encode().decode("latin-1")):
            response = requests.get(
                f"{guarded}/api/segmentation/sam2/health", headers={wire.API_KEY_HEADER: key}, timeout=20
            )
            assert code_of(response) == (401, "key_invalid")
        response = requests.get(
            f"{guarded}/api/segmentation/sam2/health", headers={wire.API_KEY_HEADER: "k" * 16}, timeout=20
        )
        assert response.status_code == 200


def test_another_protocol_is_refused(url: str) -> None:
    response = requests.get(f"{url}/health", headers={wire.PROTOCOL_HEADER: "0"}, timeout=20)
    assert code_of(response) == (409, wire.PROTOCOL_MISMATCH)


def test_a_request_id_is_taken_only_where_it_can_name_nobody(url: str) -> None:
    for given, is_taken in [("a" * 32, True), ("Erika Mustermann", False)]:
        response = requests.get(f"{url}/health", headers={wire.REQUEST_ID_HEADER: given}, timeout=20)
        assert (response.headers[wire.REQUEST_ID_HEADER] == given) is is_taken


def test_logs_hold_nothing_of_patients(url: str, caplog: pytest.LogCaptureFixture) -> None:
    secret = "Mustermann-1970"

    def ours() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name.startswith(("ctai", "service", "uvicorn"))]

    with caplog.at_level("DEBUG"):
        requests.get(f"{url}/{secret}?name={secret}", timeout=20)
        requests.post(
            f"{url}/api/segmentation/sam2",
            files={"file": (f"{secret}.png", PNG)},
            data={"patient_id": secret, "click_points": f'[{{"x": "{secret}"}}]'},
            headers={"User-Agent": secret, "Referer": secret},
            timeout=20,
        )
        segment(url, {"structure": secret})
        until = time.monotonic() + 20  # a line is written after its response has left, at this level
        while len(ours()) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    assert len(ours()) >= 3
    assert all(secret not in str(vars(record)) for record in ours())


def test_the_openapi_document_is_the_committed_one(url: str) -> None:
    committed = (PROJECT / "docs" / "openapi.json").read_text(encoding="utf-8")
    assert json.loads(openapi_text()) == json.loads(committed), (
        "run: python -m service --openapi > docs/openapi.json"
    )
    assert requests.get(f"{url}/openapi.json", timeout=20).json() == json.loads(committed)
