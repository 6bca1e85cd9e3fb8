"""Segmenters and checkpoints that tests need and the package must not have."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.models.protocol import require_request
from ctai_sam2.types import Health, ModelIdentity, Prediction, Prompt, Window
from ctai_sam2.types.context import ClosedByWith

FAKE_IDENTITY = ModelIdentity(
    name="fake", weights_sha256="f" * 64, image_size=64, device="cpu", dtype="float32", code_version="0"
)


class FakeSegmenter(ClosedByWith):
    """Predicts discs around the prompt whose pixels are as bright as under it."""

    def __init__(
        self,
        *,
        error: Exception | None = None,
        identity: ModelIdentity = FAKE_IDENTITY,
        backend: str = "fake",
    ) -> None:
        self.error = error
        self._identity = identity
        self.backend = backend
        self.calls = 0
        self.embedded = 0
        self.closed = 0
        self._lock = threading.Lock()

    @property
    def identity(self) -> ModelIdentity:
        if self.error is not None:
            raise self.error
        return self._identity

    @identity.setter
    def identity(self, identity: ModelIdentity) -> None:
        self._identity = identity

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        image = require_request(image_hw, prompt)
        with self._lock:
            self.calls += 1
        if self.error is not None:
            raise self.error
        x, y = _centre_of(prompt)
        rows, columns = np.indices(image.shape)
        distance = np.hypot(columns - x, rows - y)
        bright = image.astype(int)
        near = abs(bright - bright[round(y), round(x)]) < 64
        masks = np.stack([near & (distance < radius) for radius in (8, 16, 32)])
        scores = np.sort(masks.mean((1, 2)))[::-1]
        return Prediction(
            masks=masks,
            scores=scores,
            identity=self._identity,
            processing_time_ms=1.0,
            backend=self.backend,
            window=window,
        )

    def embed(self, image_hw: NDArray[np.uint8]) -> None:
        self.embedded += 1

    def warm_up(self) -> None:
        self.embedded += 1

    def health(self) -> Health:
        if self.error is not None:
            return Health(available=False, backend=self.backend, detail=str(self.error))
        return Health(available=True, backend=self.backend, detail="It is a fake.", identity=self._identity)

    def close(self) -> None:
        self.closed += 1


class RememberingSegmenter(FakeSegmenter):
    """Has a memory, which carries masks on unchanged and looks at each slice that it passes."""

    has_slice_memory = True

    def open_slice_memory(self) -> RememberingSegmenter:
        return self

    def follow(
        self,
        slice_at: Callable[[int], NDArray[np.uint8]],
        count: int,
        anchors: Mapping[int, NDArray[np.bool_]],
        *,
        start: int,
        reverse: bool = False,
    ) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        mask = anchors[start]
        for place in range(start, -1, -1) if reverse else range(start, count):
            mask = anchors.get(place, mask)
            assert slice_at(place).shape == mask.shape
            yield place, mask


def save_random_checkpoint(path: Path, config: str, *, image_size: int | None = None, seed: int = 0) -> Path:
    """Save a network with random weights in Meta's checkpoint format."""
    import torch

    from ctai_sam2.models.sam2_network import build_sam2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_sam2(config, image_size=image_size)
    torch.save({"model": model.state_dict()}, path)
    return path


def make_image(shape_hw: tuple[int, int] = (96, 120), seed: int = 0) -> NDArray[np.uint8]:
    """A blob on noise: enough structure that prompts get different predictions."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(shape_hw)
    blob = 150 * np.exp(-(((rows - shape_hw[0] / 2) / 20) ** 2) - ((columns - shape_hw[1] / 3) / 25) ** 2)
    return (blob + rng.integers(0, 80, shape_hw)).astype(np.uint8)


def _centre_of(prompt: Prompt) -> tuple[float, float]:
    if len(prompt.points_xy):
        return float(prompt.points_xy[0, 0]), float(prompt.points_xy[0, 1])
    if prompt.box_xyxy is not None:
        x0, y0, x1, y1 = prompt.box_xyxy
        return (x0 + x1) / 2, (y0 + y1) / 2
    rows, columns = np.nonzero(prompt.mask)
    return float(columns.mean()), float(rows.mean())
