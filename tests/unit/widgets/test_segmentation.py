"""The segmenter that editors share: opened once, and got ready before it is asked for anything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctai_sam2.errors import Unavailable
from ctai_sam2.types import Prediction, Prompt
from ctai_sam2.widgets import segmentation
from tests.fakes import FakeSegmenter


class Slow(FakeSegmenter):
    """Keeps what it is shown, and can refuse."""

    def __init__(self, error: Unavailable | None = None) -> None:
        super().__init__(error=error)
        self.began, self.go_on = threading.Event(), threading.Event()
        self.prepared: list[NDArray[np.uint8]] = []
        self.shown: list[NDArray[np.uint8]] = []

    def warm_up(self) -> None:
        raise NotImplementedError

    def embed(self, image_hw: NDArray[np.uint8]) -> None:
        self.prepared.append(image_hw)
        self.began.set()
        assert self.go_on.wait(30)
        if self.error is not None:
            raise self.error

    def predict(self, image_hw: NDArray[np.uint8], prompt: Prompt, **options: Any) -> Prediction:
        self.shown.append(image_hw)
        return super().predict(image_hw, prompt, **options)


@pytest.mark.parametrize("error", [None, Unavailable("no weights")])
def test_the_slice_in_view_is_embedded_in_the_background_once_an_editor_is_drawn(
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
    assert len(slow.prepared) == 1
    # It is what a click on that slice shows the model.
    if error is None:
        editor._one_click(editor.document.slice, "psoas_left", Prompt.point(30, 20), 0)
        assert np.array_equal(slow.shown[0], slow.prepared[0])


def test_a_segmenter_of_ones_own_is_ones_own_to_load(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation, "_shared", [])
    monkeypatch.setattr(segmentation, "_loading", loading := [])
    opened(segmenter=Slow())
    assert loading == []
