"""One suite for every segmenter: passing it is what makes them exchangeable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.errors import InputError, Unavailable
from ctai_sam2.models import (
    CachedSegmenter,
    FallbackSegmenter,
    LocalSegmenter,
    Prefetching,
    RemoteSegmenter,
    Segmenter,
)
from ctai_sam2.types import Prediction, Prompt, Window
from tests.fakes import FakeSegmenter, make_image, save_random_checkpoint
from tests.service.running import InProcess, in_process, serving

IMAGE_SIZE = 64
SHAPE = (96, 120)
BLOB = np.zeros(SHAPE, bool)
BLOB[30:60, 30:60] = True

PROMPTS = {
    "point": Prompt.point(40, 48),
    "corner": Prompt.point(119, 95),
    "two points": Prompt(points_xy=[[40, 48], [90.5, 10.25]], labels=[1, 0]),
    "box": Prompt(box_xyxy=(20, 20, 80, 70)),
    "box and points": Prompt(points_xy=[[40, 48], [22, 22]], labels=[1, 0], box_xyxy=(20, 20, 80, 70)),
    "mask and point": Prompt(points_xy=[[40, 48]], mask=BLOB),
    "mask": Prompt(mask=BLOB),
}

QUESTIONS = [(make_image(SHAPE, seed), prompt) for seed in (11, 12) for prompt in PROMPTS.values()]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    return save_random_checkpoint(path, "sam2_ct_nano", image_size=IMAGE_SIZE)


class KeptOpen(LocalSegmenter):
    """One network for all tests: building it takes longer than most of them."""

    def close(self) -> None:
        pass


def open_local(checkpoint: Path, kind: type[LocalSegmenter] = LocalSegmenter) -> LocalSegmenter:
    return kind(checkpoint, config="sam2_ct_nano", image_size=IMAGE_SIZE, device="cpu")


@pytest.fixture(scope="module")
def shared_local(checkpoint: Path) -> LocalSegmenter:
    return open_local(checkpoint, KeptOpen)


def with_failing_first(local: Segmenter) -> Segmenter:
    return FallbackSegmenter({"failing": FakeSegmenter(error=Unavailable("it is down")), "local": local})


SERVICES = ExitStack()


@pytest.fixture(scope="module", autouse=True)
def services_end_with_the_module() -> Iterator[None]:
    yield
    SERVICES.close()
    service_of.cache_clear()


@cache
def service_of(local: LocalSegmenter, kind: str) -> str | InProcess:
    """One service for all tests of a network: starting it takes longer than most of them."""
    if kind == "in process":
        return SERVICES.enter_context(in_process(local))
    return SERVICES.enter_context(serving(CachedSegmenter(local) if kind == "cached" else local))


def remote_to(local: LocalSegmenter, kind: str = "") -> RemoteSegmenter:
    found = service_of(local, kind)
    if isinstance(found, InProcess):
        return RemoteSegmenter("http://127.0.0.1", adapter=found)
    return RemoteSegmenter(found)


KINDS: dict[str, Callable[[LocalSegmenter, Path], Segmenter]] = {
    "local": lambda local, _: local,
    "cached": lambda local, folder: CachedSegmenter(local, folder),
    "cached in memory": lambda local, _: CachedSegmenter(local),
    "fallback": lambda local, _: with_failing_first(local),
    "cached fallback": lambda local, folder: CachedSegmenter(with_failing_first(local), folder),
    "fake": lambda _, __: FakeSegmenter(),
    "remote": lambda local, _: remote_to(local),
    "remote in process": lambda local, _: remote_to(local, "in process"),
    "remote cached": lambda local, _: remote_to(local, "cached"),
    "cached remote": lambda local, folder: CachedSegmenter(remote_to(local), folder),
    "fallback to remote": lambda local, _: with_failing_first(remote_to(local)),
}


@pytest.fixture(params=KINDS)
def segmenter(
    request: pytest.FixtureRequest, shared_local: LocalSegmenter, tmp_path: Path
) -> Iterator[Segmenter]:
    with KINDS[request.param](shared_local, tmp_path / "cache") as opened:
        yield opened


@pytest.fixture
def image() -> np.ndarray:
    return make_image(SHAPE)


def assert_same(one: Prediction, other: Prediction) -> None:
    np.testing.assert_array_equal(one.masks, other.masks)
    np.testing.assert_array_equal(one.scores, other.scores)


def test_is_a_segmenter(segmenter: Segmenter) -> None:
    assert isinstance(segmenter, Segmenter)
    assert isinstance(segmenter, Prefetching)


@pytest.mark.parametrize("name", PROMPTS)
def test_prediction_has_the_promised_form(segmenter: Segmenter, image: np.ndarray, name: str) -> None:
    window = Window(level=40, width=400)
    prediction = segmenter.predict(image, PROMPTS[name], window=window)
    assert 1 <= len(prediction.masks) <= 3
    assert prediction.masks.shape[1:] == SHAPE
    assert prediction.masks.dtype == np.bool_
    assert (np.diff(prediction.scores) <= 0).all()
    assert prediction.scores.min() >= 0
    assert prediction.scores.max() <= 1
    assert prediction.processing_time_ms > 0
    assert prediction.window == window
    assert prediction.identity == segmenter.identity


def test_different_prompts_get_different_predictions(segmenter: Segmenter, image: np.ndarray) -> None:
    predictions = [segmenter.predict(image, PROMPTS[name]) for name in ("point", "corner", "box")]
    assert not np.array_equal(predictions[0].masks, predictions[1].masks)
    assert not np.array_equal(predictions[1].masks, predictions[2].masks)


def test_same_question_gets_the_same_prediction_whatever_came_between(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    first = segmenter.predict(image, PROMPTS["point"])
    segmenter.predict(make_image((64, 64), seed=1), Prompt.point(5, 5))
    segmenter.predict(image, PROMPTS["box"])
    assert_same(first, segmenter.predict(image, PROMPTS["point"]))


@pytest.fixture(scope="module")
def serial_predictions(checkpoint: Path) -> list[Prediction]:
    with open_local(checkpoint) as alone:
        return [alone.predict(*question) for question in QUESTIONS]


def test_threads_get_the_results_of_serial_calls(
    segmenter: Segmenter, serial_predictions: list[Prediction]
) -> None:
    if isinstance(segmenter, FakeSegmenter):
        serial_predictions = [segmenter.predict(*question) for question in QUESTIONS]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda question: segmenter.predict(*question), QUESTIONS * 2))
    for prediction, expected in zip(threaded, serial_predictions * 2, strict=True):
        assert_same(prediction, expected)


def test_inputs_are_not_changed(segmenter: Segmenter, image: np.ndarray) -> None:
    prompt = PROMPTS["box and points"]
    kept_image, kept_points = image.copy(), prompt.points_xy.copy()
    segmenter.predict(image, prompt)
    np.testing.assert_array_equal(image, kept_image)
    np.testing.assert_array_equal(prompt.points_xy, kept_points)
    assert image.flags.writeable


@pytest.mark.parametrize("layout", ["fortran", "reversed view", "every second pixel", "read-only"])
def test_memory_layout_makes_no_difference(segmenter: Segmenter, image: np.ndarray, layout: str) -> None:
    wide = np.zeros((SHAPE[0] * 2, SHAPE[1] * 2), np.uint8)
    wide[::2, ::2] = image
    read_only = image.copy()
    read_only.setflags(write=False)
    laid_out = {
        "fortran": np.asfortranarray(image),
        "reversed view": np.ascontiguousarray(image[::-1, ::-1])[::-1, ::-1],
        "every second pixel": wide[::2, ::2],
        "read-only": read_only,
    }[layout]
    prompt = PROMPTS["point"]
    assert_same(segmenter.predict(laid_out, prompt), segmenter.predict(image, prompt))


def test_writing_into_the_image_afterwards_does_not_change_the_past(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    original = image.copy()
    first = segmenter.predict(image, PROMPTS["point"])
    masks = first.masks.copy()
    image[:] = np.roll(image, 9, axis=1) // 2
    second = segmenter.predict(image, PROMPTS["point"])
    np.testing.assert_array_equal(first.masks, masks)
    assert not np.array_equal(second.masks, masks)
    assert_same(first, segmenter.predict(original, PROMPTS["point"]))


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (np.zeros((32, 32), np.float32), "uint8"),
        (np.zeros((32, 32), np.int16), "uint8"),
        (np.zeros((32, 32), bool), "uint8"),
        (np.zeros((32, 32, 3), np.uint8), "grey"),
        (np.zeros((0, 0), np.uint8), "empty"),
        (np.zeros((4, 400), np.uint8), "pixels a side"),
        (np.zeros((8, 5000), np.uint8), "pixels a side"),
        (None, "uint8"),
    ],
)
def test_images_that_cannot_be_used_are_refused(segmenter: Segmenter, bad: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        segmenter.predict(bad, Prompt.point(1, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (Prompt(), "empty"),
        (Prompt.point(500, 1), "outside"),
        (Prompt.point(1, -2), "outside"),
        (Prompt(box_xyxy=(0, 0, 500, 10)), "leaves the slice"),
        (Prompt(mask=np.ones((4, 4), bool)), "another shape"),
        ("psoas", "a Prompt"),
        (None, "a Prompt"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(
    segmenter: Segmenter, image: np.ndarray, prompt: Prompt, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        segmenter.predict(image, prompt)


def test_a_refusal_does_not_spoil_what_follows(segmenter: Segmenter, image: np.ndarray) -> None:
    with pytest.raises(InputError):
        segmenter.predict(image, Prompt())
    assert segmenter.health().available
    segmenter.predict(image, PROMPTS["point"])


def test_identity_is_stable_and_whole(segmenter: Segmenter, image: np.ndarray) -> None:
    before = segmenter.identity
    segmenter.predict(image, PROMPTS["point"])
    assert segmenter.identity == before
    assert len(before.weights_sha256) == 64
    assert all([before.name, before.device, before.dtype, before.code_version])


def test_health_speaks_before_and_after(segmenter: Segmenter, image: np.ndarray) -> None:
    before = segmenter.health()
    assert before.available
    assert before.detail
    segmenter.predict(image, PROMPTS["point"])
    after = segmenter.health()
    assert after.available
    assert after.identity == segmenter.identity


def test_embedding_ahead_changes_no_prediction(segmenter: Segmenter, image: np.ndarray) -> None:
    assert isinstance(segmenter, Prefetching)
    segmenter.warm_up()
    segmenter.embed(image)
    ahead = segmenter.predict(image, PROMPTS["point"])
    assert_same(ahead, segmenter.predict(image, PROMPTS["point"]))


@pytest.mark.parametrize("kind", KINDS)
def test_close_may_be_called_twice(kind: str, checkpoint: Path, tmp_path: Path, image: np.ndarray) -> None:
    segmenter = KINDS[kind](open_local(checkpoint), tmp_path)
    segmenter.predict(image, PROMPTS["point"])
    segmenter.close()
    segmenter.close()
    segmenter.health()
