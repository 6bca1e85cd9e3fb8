"""The segmenter that editors share: opened once, and got ready before it is asked for anything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

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


@pytest.mark.parametrize("error", [None, Unavailable("no weights")])
def test_the_model_is_loaded_in_the_background_once_an_editor_is_drawn(
    error: Unavailable | None, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, loading = Slow(error), []
    monkeypatch.setattr(segmentation, "_shared", [])
    monkeypatch.setattr(segmentation, "_loading", loading)
    monkeypatch.setattr(segmentation, "open_segmenter", lambda kind: slow)
    editor = opened(segmenter="auto")
    # It has begun, and nobody waits for it.
    assert slow.began.wait(30)
    assert editor.document.shape_hw == (40, 60)
    opened(segmenter="auto", name="second")
    slow.go_on.set()
    for thread in loading:
        thread.join(30)
    assert slow.warm_ups == 1


def test_a_segmenter_of_ones_own_is_ones_own_to_load(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation, "_shared", [])
    monkeypatch.setattr(segmentation, "_loading", loading := [])
    opened(segmenter=Slow())
    assert loading == []
