"""The segmenter that editors share: opened once, and got ready before it is asked for anything."""

from __future__ import annotations

import threading

import pytest

from ctai_sam2.errors import Unavailable
from ctai_sam2.widgets import segmentation
from tests.fakes import FakeSegmenter


class Slow(FakeSegmenter):
    """Counts how often it is got ready, and can refuse."""

    def __init__(self, error: Unavailable | None = None) -> None:
        super().__init__(error=error)
        self.began, self.go_on, self.warm_ups = threading.Event(), threading.Event(), 0

    def embed(self, image_hw: object) -> None:
        raise NotImplementedError

    def warm_up(self) -> None:
        self.warm_ups += 1
        self.began.set()
        assert self.go_on.wait(30)
        if self.error is not None:
            raise self.error


def loading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "loading the model"]


@pytest.mark.parametrize("error", [None, Unavailable("no weights")])
def test_the_model_is_loaded_while_the_editor_is_drawn(
    error: Unavailable | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(error)
    monkeypatch.setattr(segmentation, "_shared", [])
    monkeypatch.setattr(segmentation, "open_segmenter", lambda kind: slow)
    first = segmentation.shared_segmenter()
    # It has begun, and nobody waits for it.
    assert slow.began.wait(30)
    assert segmentation.shared_segmenter() is first is slow
    slow.go_on.set()
    for thread in loading_threads():
        thread.join(30)
    assert slow.warm_ups == 1
