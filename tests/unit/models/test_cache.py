from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctai_sam2.errors import InputError, ServiceTimeout, Unavailable
from ctai_sam2.models import CachedSegmenter, Segmenter
from ctai_sam2.models.cache_key import make_key
from ctai_sam2.models.cache_store import (
    ENTRY_FILE,
    METADATA_FILE,
    PredictionStore,
    decode_entry,
    encode_entry,
)
from ctai_sam2.types import ModelIdentity, Prediction, Prompt, Window
from tests.fakes import FAKE_IDENTITY, FakeSegmenter, make_image

POINT = Prompt.point(40, 48)
BLOB = np.zeros((96, 120), bool)
BLOB[10:20, 10:30] = True


def assert_same(one: Prediction, other: Prediction) -> None:
    np.testing.assert_array_equal(one.masks, other.masks)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.identity == other.identity
    assert one.window == other.window
    assert one.processing_time_ms == other.processing_time_ms
    assert one.backend == other.backend


def entry_files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.rglob(name))


def age(folder: Path, hours: float) -> None:
    for path in entry_files(folder, "metadata.json"):
        metadata = json.loads(path.read_text())
        metadata["time"] -= hours * 3600
        path.write_text(json.dumps(metadata))


def test_the_second_prediction_is_cached_and_says_so(tmp_path: Path) -> None:
    inner = FakeSegmenter()
    with CachedSegmenter(inner, tmp_path) as segmenter:
        first = segmenter.predict(make_image(), POINT)
        second = segmenter.predict(make_image(), POINT)
    assert (first.cached, second.cached, inner.calls) == (False, True, 1)
    assert_same(first, second)


@pytest.mark.parametrize("window", [None, Window(level=50, width=300)])
def test_predictions_outlive_the_process(tmp_path: Path, window: Window | None) -> None:
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        first = segmenter.predict(make_image(), POINT, window=window)
    later = FakeSegmenter()
    with CachedSegmenter(later, tmp_path) as segmenter:
        again = segmenter.predict(make_image(), POINT, window=window)
    assert later.calls == 0
    assert again.cached
    assert_same(first, again)


@pytest.mark.parametrize(
    ("image", "prompt", "window", "identity"),
    [
        (make_image(seed=1), POINT, None, FAKE_IDENTITY),
        (make_image()[:, ::-1], POINT, None, FAKE_IDENTITY),
        (make_image().reshape(120, 96), POINT, None, FAKE_IDENTITY),
        (make_image(), Prompt.point(40, 49), None, FAKE_IDENTITY),
        (make_image(), Prompt.point(40, 48, label=0), None, FAKE_IDENTITY),
        (make_image(), Prompt(points_xy=[[40, 48]], box_xyxy=(1, 1, 60, 60)), None, FAKE_IDENTITY),
        (make_image(), Prompt(points_xy=[[40, 48]], mask=BLOB), None, FAKE_IDENTITY),
        (make_image(), POINT, Window(), FAKE_IDENTITY),
        (make_image(), POINT, None, replace(FAKE_IDENTITY, weights_sha256="e" * 64)),
        (make_image(), POINT, None, replace(FAKE_IDENTITY, image_size=128)),
        (make_image(), POINT, None, replace(FAKE_IDENTITY, dtype="bfloat16")),
        (make_image(), POINT, None, replace(FAKE_IDENTITY, code_version="9")),
    ],
)
def test_what_the_prediction_depends_on_is_in_the_key(
    image: np.ndarray, prompt: Prompt, window: Window | None, identity: ModelIdentity
) -> None:
    assert make_key(make_image(), POINT, None, FAKE_IDENTITY) != make_key(image, prompt, window, identity)


@pytest.mark.parametrize(
    ("image", "identity"),
    [
        (np.asfortranarray(make_image()), FAKE_IDENTITY),
        (np.ascontiguousarray(make_image()[::-1])[::-1], FAKE_IDENTITY),
        (make_image(), replace(FAKE_IDENTITY, device="cuda:0")),
        (make_image(), replace(FAKE_IDENTITY, name="the same under another name")),
    ],
)
def test_what_it_does_not_depend_on_is_not(image: np.ndarray, identity: ModelIdentity) -> None:
    assert make_key(make_image(), POINT, None, FAKE_IDENTITY) == make_key(image, POINT, None, identity)


def test_predictions_expire_in_memory_and_on_disk(tmp_path: Path) -> None:
    now = time.time()
    inner = FakeSegmenter()
    with CachedSegmenter(inner, tmp_path, expires_hours=24, clock=lambda: now) as segmenter:
        segmenter.predict(make_image(), POINT)
        segmenter.flush()
        now += 23.9 * 3600
        assert segmenter.predict(make_image(), POINT).cached
        age(tmp_path, hours=24.1)
        now += 0.2 * 3600
        assert "expired after 24 h" in segmenter.why_miss(make_image(), POINT)
        assert not segmenter.predict(make_image(), POINT).cached
    assert inner.calls == 2


def test_memory_is_bounded_and_falls_back_to_disk(tmp_path: Path) -> None:
    inner = FakeSegmenter()
    with CachedSegmenter(inner, tmp_path, memory_items=2) as segmenter:
        for seed in range(4):
            segmenter.predict(make_image(seed=seed), POINT)
        assert len(segmenter._front) == 2
        assert segmenter.predict(make_image(seed=0), POINT).cached
    assert inner.calls == 4


def test_memory_is_bounded_in_bytes() -> None:
    size = FakeSegmenter().predict(make_image(), POINT).masks.nbytes
    with CachedSegmenter(FakeSegmenter(), memory_bytes=3 * size) as segmenter:
        for seed in range(6):
            segmenter.predict(make_image(seed=seed), POINT)
        assert len(segmenter._front) == 3
        assert segmenter.predict(make_image(seed=5), POINT).cached
        assert not segmenter.predict(make_image(seed=0), POINT).cached
    with CachedSegmenter(FakeSegmenter(), memory_bytes=size - 1) as segmenter:
        segmenter.predict(make_image(), POINT)
        assert not segmenter.predict(make_image(), POINT).cached


def test_the_disk_is_bounded(tmp_path: Path) -> None:
    with CachedSegmenter(FakeSegmenter(), tmp_path, max_bytes=20_000, memory_items=1) as segmenter:
        for seed in range(40):
            segmenter.predict(make_image(seed=seed), POINT)
            segmenter.flush()
        assert len(entry_files(tmp_path, ENTRY_FILE)) < 40
    kept = entry_files(tmp_path, ENTRY_FILE) + entry_files(tmp_path, "metadata.json")
    assert 0 < sum(path.stat().st_size for path in kept) <= 20_000


def test_the_whole_disk_is_looked_at_only_where_much_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    real = PredictionStore.get_items

    def look(self: PredictionStore) -> list[Any]:
        found = real(self)
        looks.append(len(found))
        return found

    monkeypatch.setattr(PredictionStore, "get_items", look)
    with CachedSegmenter(FakeSegmenter(), tmp_path, memory_items=1) as segmenter:
        for seed in range(40):
            segmenter.predict(make_image(seed=seed), POINT)
        segmenter.flush()
        assert looks == []
    assert looks == [40]
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        assert segmenter.predict(make_image(seed=3), POINT).cached
    assert looks == [40], "nothing was written"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"garbage" * 100,
        lambda data: data.replace(b"scores", b"scorse"),
    ],
    ids=["empty", "truncated", "garbage", "altered"],
)
def test_a_corrupt_prediction_warns_and_is_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[bytes], bytes]
) -> None:
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        first = segmenter.predict(make_image(), POINT)
    [path] = entry_files(tmp_path, ENTRY_FILE)
    path.write_bytes(spoil(path.read_bytes()))
    inner = FakeSegmenter()
    with CachedSegmenter(inner, tmp_path) as segmenter:
        assert "corrupt" in segmenter.why_miss(make_image(), POINT)
        with caplog.at_level(logging.WARNING):
            again = segmenter.predict(make_image(), POINT)
        assert caplog.records
    assert (again.cached, inner.calls) == (False, 1)
    np.testing.assert_array_equal(first.masks, again.masks)
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        assert segmenter.predict(make_image(), POINT).cached


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    prediction = FakeSegmenter().predict(make_image(), POINT)
    key = make_key(make_image(), POINT, None, FAKE_IDENTITY)
    data = encode_entry(key, prediction, 1.0)
    assert decode_entry(data, key, (96, 120)) is not None
    for place in range(0, len(data), 7):
        spoilt = bytearray(data)
        spoilt[place] ^= 4
        assert decode_entry(bytes(spoilt), key, (96, 120)) is None


def test_an_entry_that_is_half_written_is_computed_again(tmp_path: Path) -> None:
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        segmenter.predict(make_image(), POINT)
    [path] = entry_files(tmp_path, "metadata.json")
    path.unlink()
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        assert not segmenter.predict(make_image(), POINT).cached


@pytest.mark.parametrize("text", ["", "{", "[]", '{"time": "now"}', '{"time": NaN}', "[" * 60_000])
def test_a_damaged_note_is_said_and_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        segmenter.predict(make_image(), POINT)
    [path] = entry_files(tmp_path, METADATA_FILE)
    path.write_text(text)
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter, caplog.at_level(logging.WARNING):
        assert not segmenter.predict(make_image(), POINT).cached
    assert "damaged" in caplog.text


def test_an_entry_of_another_prediction_is_not_taken(tmp_path: Path) -> None:
    """Both are intact: only what they say they are tells them apart."""
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        for x in (40, 60):
            segmenter.predict(make_image(), Prompt.point(x, 48))
    one, other = entry_files(tmp_path, ENTRY_FILE)
    one.write_bytes(other.read_bytes())
    inner = FakeSegmenter()
    with CachedSegmenter(inner, tmp_path) as segmenter:
        for x in (40, 60):
            found = segmenter.predict(make_image(), Prompt.point(x, 48))
            np.testing.assert_array_equal(
                found.masks, FakeSegmenter().predict(make_image(), Prompt.point(x, 48)).masks
            )
    assert inner.calls == 1


@pytest.mark.parametrize("hours", [-1, -1000, -(10**6)])
def test_an_entry_dated_in_the_future_is_computed_again(tmp_path: Path, hours: float) -> None:
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        segmenter.predict(make_image(), POINT)
    age(tmp_path, hours=hours)
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        assert "future" in segmenter.why_miss(make_image(), POINT)
        assert not segmenter.predict(make_image(), POINT).cached
        segmenter.flush()
        assert "in memory" in segmenter.why_miss(make_image(), POINT)


def test_a_clock_set_back_outdates_what_was_stored_before(tmp_path: Path) -> None:
    now = time.time()
    inner = FakeSegmenter()
    with CachedSegmenter(inner, tmp_path, clock=lambda: now) as segmenter:
        segmenter.predict(make_image(), POINT)
        segmenter.flush()
        now -= 3600
        assert not segmenter.predict(make_image(), POINT).cached
        assert segmenter.predict(make_image(), POINT).cached
    assert inner.calls == 2


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
@pytest.mark.parametrize("place", ["", "predictions-2"])
def test_a_folder_that_others_can_write_to_is_neither_read_nor_written(
    tmp_path: Path, mode: int, place: str
) -> None:
    folder = tmp_path / "cache"
    with CachedSegmenter(FakeSegmenter(), folder) as segmenter:
        segmenter.predict(make_image(), POINT)
    (folder / place).chmod(mode)
    before = sorted(folder.rglob("*"))
    inner = FakeSegmenter()
    with CachedSegmenter(inner, folder) as segmenter:
        assert not segmenter.predict(make_image(), POINT).cached
        assert segmenter.predict(make_image(), POINT).cached
        assert "others can write" in segmenter.health().detail
    assert inner.calls == 1
    assert sorted(folder.rglob("*")) == before


def test_no_pickle_is_ever_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle is read")

    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        segmenter.predict(make_image(), POINT)
    [path] = entry_files(tmp_path, ENTRY_FILE)
    evil = pickle.dumps(Evil())
    for name in (ENTRY_FILE, METADATA_FILE, "output.pkl"):
        path.with_name(name).write_bytes(evil)
    old = tmp_path / "ctai_sam2" / "segmenters" / "cached" / "_answer" / ("0" * 32)
    old.mkdir(parents=True)
    (old / "output.pkl").write_bytes(evil)
    monkeypatch.setattr("joblib.numpy_pickle.load", refuse)
    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        segmenter.why_miss(make_image(), POINT)
        assert not segmenter.predict(make_image(), POINT).cached
    assert not (tmp_path / "executed").exists()
    assert (old / "output.pkl").read_bytes() == evil


def test_a_prediction_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = threading.Event()
    write = PredictionStore.dump_item

    def slowly(self: PredictionStore, *arguments: Any, **more: Any) -> None:
        assert may_write.wait(30)
        write(self, *arguments, **more)

    monkeypatch.setattr(PredictionStore, "dump_item", slowly)
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        segmenter.predict(make_image(), POINT)
        assert entry_files(tmp_path, ENTRY_FILE) == []
        may_write.set()
    assert len(entry_files(tmp_path, ENTRY_FILE)) == 1


def test_a_folder_that_cannot_be_made_costs_only_the_disk_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    inner = FakeSegmenter()
    with CachedSegmenter(inner, tmp_path / "file" / "cache") as segmenter:
        assert segmenter.health().available
        assert not segmenter.predict(make_image(), POINT).cached
        assert "not stored on disk" in segmenter.health().detail
        assert segmenter.predict(make_image(), POINT).cached
    assert inner.calls == 1


def test_a_full_disk_costs_only_the_disk_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    inner = FakeSegmenter()
    with CachedSegmenter(inner, tmp_path) as segmenter:
        monkeypatch.setattr(PredictionStore, "dump_item", refuse)
        prediction = segmenter.predict(make_image(), POINT)
        assert not prediction.cached
        segmenter.flush()
        assert "disk cache" in segmenter.health().detail
        assert segmenter.predict(make_image(), POINT).cached
    assert inner.calls == 1


def test_a_folder_removed_underneath_does_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    inner = FakeSegmenter()
    with CachedSegmenter(inner, folder, memory_items=1) as segmenter:
        segmenter.predict(make_image(), POINT)
        segmenter.flush()
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        segmenter.predict(make_image(seed=1), POINT)
        segmenter.predict(make_image(), POINT)
    assert inner.calls == 3


def test_nothing_of_the_image_or_the_user_is_in_the_files(tmp_path: Path) -> None:
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        segmenter.predict(make_image(), Prompt.point(40.25, 48.75))
    [path] = entry_files(tmp_path, "metadata.json")
    metadata = json.loads(path.read_text())
    assert set(metadata["input_args"]) == {"pixels", "prompt", "window", "model", "code"}
    assert len(path.read_text()) < 1000
    assert "40.25" not in path.read_text()
    if os.name == "posix":
        with CachedSegmenter(FakeSegmenter(), tmp_path / "fresh") as segmenter:
            segmenter.predict(make_image(), POINT)
            assert (tmp_path / "fresh").stat().st_mode & 0o077 == 0


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
            segmenter.predict(make_image(), POINT)
            segmenter.clear()
    assert capfd.readouterr() == ("", "")


def test_errors_of_the_inner_segmenter_pass_and_nothing_is_kept(tmp_path: Path) -> None:
    class Moody(FakeSegmenter):
        def predict(
            self, image_hw: np.ndarray, prompt: Prompt, *, window: Window | None = None
        ) -> Prediction:
            if self.calls == 0:
                self.calls = 1
                raise ServiceTimeout("no response")
            return super().predict(image_hw, prompt, window=window)

    with CachedSegmenter(Moody(), tmp_path) as segmenter:
        with pytest.raises(ServiceTimeout):
            segmenter.predict(make_image(), POINT)
        assert not segmenter.predict(make_image(), POINT).cached


def test_a_prediction_of_another_model_than_announced_is_not_cached(tmp_path: Path) -> None:
    class Switching(FakeSegmenter):
        @property
        def identity(self) -> ModelIdentity:
            return replace(FAKE_IDENTITY, name="announced", weights_sha256="a" * 64)

    inner = Switching()
    with CachedSegmenter(inner, tmp_path) as segmenter:
        for _ in range(2):
            prediction = segmenter.predict(make_image(), POINT)
            assert prediction.identity == FAKE_IDENTITY
            assert not prediction.cached
    assert entry_files(tmp_path, ENTRY_FILE) == []


def test_without_any_model_it_is_unavailable(tmp_path: Path) -> None:
    with (
        CachedSegmenter(FakeSegmenter(error=Unavailable("down")), tmp_path) as segmenter,
        pytest.raises(Unavailable, match="down"),
    ):
        segmenter.predict(make_image(), POINT)


def test_why_miss_names_the_part_that_differs(tmp_path: Path) -> None:
    inner = FakeSegmenter()
    with CachedSegmenter(inner, tmp_path) as segmenter:
        assert "Nothing is stored" in segmenter.why_miss(make_image(), POINT)
        segmenter.predict(make_image(), POINT)
        assert "in memory" in segmenter.why_miss(make_image(), POINT)
        assert "never segmented" in segmenter.why_miss(make_image(seed=1), POINT)
        assert "another prompt" in segmenter.why_miss(make_image(), Prompt.point(1, 1))
        assert "another window" in segmenter.why_miss(make_image(), POINT, window=Window())
        inner.identity = replace(FAKE_IDENTITY, weights_sha256="0" * 64)
        assert "another model" in segmenter.why_miss(make_image(), POINT)
        inner.identity = replace(FAKE_IDENTITY, code_version="0.9")
        assert "another version of this package (0, now 0.9)" in segmenter.why_miss(make_image(), POINT)
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        assert "on disk" in segmenter.why_miss(make_image(), POINT)


def test_why_miss_knows_the_evicted(tmp_path: Path) -> None:
    with CachedSegmenter(FakeSegmenter(), tmp_path, max_bytes=1, memory_items=1) as segmenter:
        for seed in range(17):
            segmenter.predict(make_image(seed=seed), POINT)
        assert "evicted" in segmenter.why_miss(make_image(seed=0), POINT)


def test_clear_forgets(tmp_path: Path) -> None:
    inner = FakeSegmenter()
    with CachedSegmenter(inner, tmp_path) as segmenter:
        segmenter.predict(make_image(), POINT)
        segmenter.clear()
        assert "Nothing is stored" in segmenter.why_miss(make_image(), POINT)
        segmenter.predict(make_image(), POINT)
    assert inner.calls == 2


def _fill(folder: str, start: int) -> int:
    with CachedSegmenter(FakeSegmenter(), folder, max_bytes=100_000) as segmenter:
        for seed in range(12):
            segmenter.predict(make_image(seed=(start + seed) % 12), POINT)
    return 0


def test_processes_may_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_fill, args=(str(tmp_path), start)) for start in (0, 4)]
    for worker in workers:
        worker.start()
    _fill(str(tmp_path), 8)
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    fresh: Segmenter = FakeSegmenter()
    with CachedSegmenter(FakeSegmenter(), tmp_path) as segmenter:
        for seed in range(12):
            prediction = segmenter.predict(make_image(seed=seed), POINT)
            np.testing.assert_array_equal(prediction.masks, fresh.predict(make_image(seed=seed), POINT).masks)


@pytest.mark.parametrize("options", [{"expires_hours": 0}, {"max_bytes": 0}, {"memory_items": 0}])
def test_numbers_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        CachedSegmenter(FakeSegmenter(), **options)  # type: ignore[arg-type]


def test_embedding_many_is_passed_on_to_segmenters_that_can(tmp_path: Path) -> None:
    class Many(FakeSegmenter):
        many = 0

        def embed_many(self, images: object) -> None:
            self.many += 1

    for inner, expected in ((Many(), (1, 0)), (FakeSegmenter(), (0, 2))):
        with CachedSegmenter(inner, tmp_path) as cached:
            cached.embed_many([make_image((32, 32), 1), make_image((32, 32), 2)])
        assert (getattr(inner, "many", 0), inner.embedded) == expected
