from __future__ import annotations

import threading

import numpy as np
import pytest

from ctai_sam2.errors import (
    DeviceUnavailable,
    InputError,
    ServiceBusy,
    ServiceRejected,
    ServiceTimeout,
    Unavailable,
    WeightsError,
    WeightsMissing,
)
from ctai_sam2.models import FallbackSegmenter
from ctai_sam2.models.fallback import CircuitBreaker
from ctai_sam2.types import Health, Prompt
from tests.fakes import FakeSegmenter, make_image

POINT = Prompt.point(40, 48)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_available_is_used_and_named() -> None:
    first, second = FakeSegmenter(), FakeSegmenter()
    with FallbackSegmenter({"one": first, "two": second}) as segmenter:
        assert segmenter.predict(make_image(), POINT).backend == "one"
    assert (first.calls, second.calls) == (1, 0)


@pytest.mark.parametrize(
    "error", [Unavailable, WeightsMissing, DeviceUnavailable, ServiceBusy, ServiceTimeout]
)
def test_moves_on_when_a_backend_is_unavailable(error: type[Unavailable]) -> None:
    down = FakeSegmenter(error=error("not now"))
    with FallbackSegmenter({"one": down, "two": FakeSegmenter()}) as segmenter:
        assert segmenter.predict(make_image(), POINT).backend == "two"
        assert segmenter.health().backend == "two"
        assert "one: not now" in segmenter.health().detail


@pytest.mark.parametrize(
    "error", [InputError("bad"), ServiceRejected("no"), WeightsError("damaged"), RuntimeError("bug")]
)
def test_does_not_move_on_for_anything_else(error: Exception) -> None:
    other = FakeSegmenter()
    with FallbackSegmenter({"one": FakeSegmenter(error=error), "two": other}) as segmenter:
        for _ in range(5):
            with pytest.raises(type(error)):
                segmenter.predict(make_image(), POINT)
    assert other.calls == 0


def test_a_bad_request_never_reaches_a_backend() -> None:
    backend = FakeSegmenter()
    with FallbackSegmenter({"one": backend}) as segmenter, pytest.raises(InputError):
        segmenter.predict(np.zeros((3, 3), np.float32), POINT)
    assert backend.calls == 0


def test_with_nothing_available_every_reason_is_told() -> None:
    backends = {
        "local": FakeSegmenter(error=WeightsMissing("no weights")),
        "remote": FakeSegmenter(error=ServiceTimeout("no response in 30 s")),
    }
    with FallbackSegmenter(backends) as segmenter:
        with pytest.raises(Unavailable, match=r"local: no weights.*remote: no response in 30 s"):
            segmenter.predict(make_image(), POINT)
        with pytest.raises(Unavailable, match="no weights"):
            _ = segmenter.identity
        health = segmenter.health()
    assert not health.available
    assert "local: no weights" in health.detail
    assert "remote: no response in 30 s" in health.detail


def test_a_backend_that_keeps_failing_is_left_alone_until_it_has_cooled_down() -> None:
    clock = Clock()
    first = FakeSegmenter(error=ServiceTimeout("no response"))
    with FallbackSegmenter(
        {"one": first, "two": FakeSegmenter()}, threshold=2, cool_down_s=30, clock=clock
    ) as segmenter:
        for _ in range(5):
            assert segmenter.predict(make_image(), POINT).backend == "two"
        assert first.calls == 2
        first.error = None
        clock.now += 29
        assert segmenter.predict(make_image(), POINT).backend == "two"
        assert "no response" in segmenter.health().detail
        clock.now += 2
        assert segmenter.predict(make_image(), POINT).backend == "one"
        assert segmenter.health().backend == "one"


def test_a_failed_trial_opens_the_breaker_again() -> None:
    clock = Clock()
    first = FakeSegmenter(error=ServiceTimeout("no response"))
    backends = {"one": first, "two": FakeSegmenter()}
    with FallbackSegmenter(backends, threshold=3, cool_down_s=30, clock=clock) as segmenter:
        for _ in range(3):
            segmenter.predict(make_image(), POINT)
        clock.now += 31
        segmenter.predict(make_image(), POINT)
        segmenter.predict(make_image(), POINT)
    assert first.calls == 4


def test_an_open_breaker_still_gives_its_reason_when_none_is_available() -> None:
    backend = FakeSegmenter(error=ServiceBusy("queue is full"))
    with FallbackSegmenter({"remote": backend}, threshold=1, clock=Clock()) as segmenter:
        for _ in range(2):
            with pytest.raises(Unavailable, match="queue is full"):
                segmenter.predict(make_image(), POINT)
        with pytest.raises(Unavailable, match="Not tried again for 30 s"):
            segmenter.predict(make_image(), POINT)
    assert backend.calls == 1


def test_breaker_lets_one_of_many_threads_try() -> None:
    clock = Clock()
    breaker = CircuitBreaker(threshold=1, cool_down_s=5, clock=clock)
    breaker.record_failure()
    clock.now += 5
    assert breaker.state == "half-open"
    allowed: list[bool] = []
    threads = [threading.Thread(target=lambda: allowed.append(breaker.try_acquire())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert allowed.count(True) == 1
    breaker.record_success()
    assert breaker.state == "closed"


def test_a_success_forgets_earlier_failures() -> None:
    breaker = CircuitBreaker(threshold=2)
    for _ in range(3):
        breaker.record_failure()
        breaker.record_success()
    assert breaker.state == "closed"


def test_health_is_refreshed_in_the_background_and_stops_with_close() -> None:
    asked = threading.Event()

    class Watched(FakeSegmenter):
        def health(self) -> Health:
            asked.set()
            return super().health()

    segmenter = FallbackSegmenter({"one": Watched()}, refresh_s=0.001)
    assert asked.wait(10)
    asked.clear()
    assert asked.wait(10)
    segmenter.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "segmenter-health"]


def test_a_health_check_that_raises_does_not_end_the_checks(caplog: pytest.LogCaptureFixture) -> None:
    twice = threading.Event()
    count = []

    class Broken(FakeSegmenter):
        def health(self) -> Health:
            count.append(1)
            if len(count) >= 2:
                twice.set()
            raise RuntimeError("a bug")

    with FallbackSegmenter({"one": Broken()}, refresh_s=0.001):
        assert twice.wait(10)
    assert "cannot be determined" in caplog.text


def test_close_closes_every_backend() -> None:
    backends = {"one": FakeSegmenter(), "two": FakeSegmenter()}
    FallbackSegmenter(backends).close()
    assert [backend.closed for backend in backends.values()] == [1, 1]


@pytest.mark.parametrize(
    "options", [{"threshold": 0}, {"cool_down_s": -1}, {"refresh_s": 0}, {"cool_down_s": float("nan")}]
)
def test_numbers_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        FallbackSegmenter({"one": FakeSegmenter()}, **options)  # type: ignore[arg-type]


def test_no_backend_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        FallbackSegmenter({})
