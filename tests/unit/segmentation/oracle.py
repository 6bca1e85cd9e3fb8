"""A segmenter that knows the truth: of several masks it returns the one the prompt points at best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.image.frame import Frame
from ctai_sam2.types import Mask, ModelIdentity, Prediction, Prompt, Window

IDENTITY = ModelIdentity(
    name="oracle", weights_sha256="0" * 64, image_size=256, device="cpu", dtype="float32", code_version="0"
)


class Oracle:
    """Returns the known mask whose box fits best and that holds the positive points."""

    identity = IDENTITY

    def __init__(self, frame: Frame, masks: Sequence[Mask]) -> None:
        self.masks = [frame.mask_to_frame(mask) for mask in masks]
        self.asked: list[Prompt] = []

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        prompt.require_within(image_hw.shape)  # type: ignore[arg-type]
        self.asked.append(prompt)
        scores = [fit(mask, prompt) for mask in self.masks]
        best = int(np.argmax(scores))
        return Prediction(
            masks=self.masks[best][None],
            scores=np.array([max(scores[best], 0.0)]),
            identity=IDENTITY,
            processing_time_ms=1.0,
            window=window,
        )


def fit(mask: Mask, prompt: Prompt) -> float:
    columns, rows = np.rint(prompt.points_xy).astype(int).T
    right = float(np.mean(mask[rows, columns] == (np.asarray(prompt.labels) == 1))) if len(rows) else 0.0
    return 0.5 * right + 0.5 * (box_iou(prompt.box_xyxy, box_of(mask)) if prompt.box_xyxy else 0.0)


def box_of(mask: Mask) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(mask)
    return columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def dice(a: Mask, b: Mask) -> float:
    return 2 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0)


def right_points(prompt: Prompt, mask: Mask, label: int) -> float:
    """Part of the points of a label that lie where they should."""
    points = np.rint(prompt.points_xy[np.asarray(prompt.labels) == label]).astype(int)
    return float(np.mean(mask[points[:, 1], points[:, 0]] == bool(label))) if len(points) else 1.0
