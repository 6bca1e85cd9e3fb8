"""The wire form: what is encoded is decoded, and what is not ours is refused in good order."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ctai_sam2.errors import InputError
from ctai_sam2.models import wire
from ctai_sam2.types import Prompt, Window
from tests.fakes import FAKE_IDENTITY, FakeSegmenter, make_image

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))
coordinates = st.floats(-100, 5000, width=32)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(masks)
def test_masks_come_back(mask: np.ndarray) -> None:
    sent = json.loads(json.dumps(wire.encode_mask(mask)))
    np.testing.assert_array_equal(wire.decode_mask(sent), mask)


@given(
    points=st.lists(st.tuples(coordinates, coordinates, st.integers(0, 1)), max_size=9),
    mask=st.none() | masks,
    structure=st.none() | st.just("psoas_left"),
    window=st.none() | st.builds(Window, level=coordinates, width=st.floats(1, 4000)),
    corner=st.none() | st.tuples(coordinates, coordinates),
)
def test_prompts_come_back_to_the_last_bit(
    points: list[tuple[float, float, int]],
    mask: np.ndarray | None,
    structure: str | None,
    window: Window | None,
    corner: tuple[float, float] | None,
) -> None:
    prompt = Prompt(
        points_xy=[[x, y] for x, y, _ in points],  # type: ignore[arg-type]
        labels=[label for _, _, label in points],  # type: ignore[arg-type]
        box_xyxy=None if corner is None else (*corner, corner[0] + 8, corner[1] + 8.5),
        mask=mask,
        structure=structure,
    )
    found, found_window = wire.decode_prompt(json.loads(json.dumps(wire.encode_prompt(prompt, window))))
    np.testing.assert_array_equal(found.points_xy, prompt.points_xy)
    np.testing.assert_array_equal(found.labels, prompt.labels)
    assert (found.box_xyxy, found.structure, found_window) == (prompt.box_xyxy, structure, window)
    assert (found.mask is None) == (mask is None)
    if mask is not None:
        np.testing.assert_array_equal(found.mask, mask)


def test_predictions_come_back() -> None:
    image = make_image((48, 64))
    prediction = FakeSegmenter().predict(image, Prompt.point(9, 9))
    sent = json.loads(json.dumps(wire.encode_prediction(prediction, "0" * 64)))
    found = wire.decode_prediction(sent, image_sha256="0" * 64, shape_hw=(48, 64))
    np.testing.assert_array_equal(found.masks, prediction.masks)
    np.testing.assert_array_equal(found.scores, prediction.scores)
    assert (found.identity, found.backend) == (FAKE_IDENTITY, "remote")


def test_masks_are_encoded_once_for_the_response_and_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = FakeSegmenter().predict(make_image((48, 64)), Prompt.point(9, 9))
    encode, asked = wire.encode_mask, []

    def encode_and_note(mask: np.ndarray) -> dict[str, Any]:
        asked.append(mask)
        return encode(mask)

    monkeypatch.setattr(wire, "encode_mask", encode_and_note)
    with ThreadPoolExecutor(4) as pool:
        sent = list(pool.map(lambda name: wire.encode_prediction(prediction, name), "abcd"))
    assert len(asked) == len(prediction.masks)
    assert [one["image"] for one in sent] == list("abcd")
    assert all(one["masks"] == sent[0]["masks"] for one in sent)
    other = FakeSegmenter().predict(make_image((48, 64)), Prompt.point(30, 30))
    assert wire.encode_prediction(other, "a")["masks"] != sent[0]["masks"]


@given(st.integers(1, 4096 * 4096))
def test_runs_of_any_length(length: int) -> None:
    values = np.array([0, length, 1, 127, 128], np.int64)
    np.testing.assert_array_equal(
        wire._unpack_integers(np.frombuffer(wire._pack_integers(values), np.uint8)), values
    )


def test_images_come_back_under_their_digest() -> None:
    from ctai_sam2.io.uploads import decode_upload

    image = make_image((48, 64))
    data = wire.encode_image(image)
    np.testing.assert_array_equal(decode_upload(data).to_grey(), image)
    assert wire.digest_of(data) == hashlib.sha256(data).hexdigest()
    assert data == wire.encode_image(np.asfortranarray(image))


def deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "travels as"),
        ({"shape": [4], "runs": ""}, "travels as"),
        ({"shape": [4, 4], "runs": "%"}, "travels as"),
        ({"shape": [4, 4], "runs": 5}, "travels as"),
        ({"shape": [10**400, 1], "runs": ""}, "impossible shape"),
        ({"shape": [0, 4], "runs": ""}, "impossible shape"),
        ({"shape": [5000, 5000], "runs": ""}, "impossible shape"),
        ({"shape": [float("inf"), 4], "runs": ""}, "travels as"),
        ({"shape": [4, 4], "runs": "AAAA"}, "damaged"),
        ({"shape": [4, 4], "runs": deflated(b"")}, "do not fit"),
        ({"shape": [4, 4], "runs": deflated(bytes([15]))}, "do not fit"),
        ({"shape": [4, 4], "runs": deflated(bytes([0x90]))}, "do not fit"),
        ({"shape": [4, 4], "runs": deflated(bytes([0xFF] * 9 + [1]))}, "do not fit"),
        ({"shape": [4, 4], "runs": deflated(bytes(10_000_000))}, "do not fit"),
        ({"shape": [4, 4], "runs": base64.b64encode(zlib.compress(b"12")[:-3]).decode()}, "do not fit"),
    ],
)
def test_masks_that_are_none(value: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        wire.decode_mask(value)


@given(
    st.one_of(
        anything,
        st.fixed_dictionaries(
            {},
            optional={name: anything for name in ("points", "labels", "box", "mask", "structure", "window")},
        ),
    )
)
def test_any_prompt_is_read_or_refused(body: Any) -> None:
    if not isinstance(body, dict):
        return
    try:
        wire.decode_prompt(body)
    except InputError:
        return


@given(
    st.one_of(
        anything,
        st.fixed_dictionaries(
            {
                "image": st.just("0" * 64),
                "masks": st.just([wire.encode_mask(np.ones((8, 8), bool))]) | anything,
                "scores": st.just([0.5]) | anything,
                "model": st.just(wire.encode_identity(FAKE_IDENTITY)) | anything,
                "processing_time_ms": st.just(1.0) | anything,
                "cached": anything,
            }
        ),
    )
)
def test_any_response_is_read_or_refused(body: Any) -> None:
    try:
        found = wire.decode_prediction(body, image_sha256="0" * 64, shape_hw=(8, 8))
    except InputError:
        return
    assert found.masks.shape[1:] == (8, 8)
