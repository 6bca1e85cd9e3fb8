"""How a slice reaches the model: a square around the patient, in pixels of equal sides.

The model has seen bodies that fill a square, whatever the field of view was.
Where pixels are isotropic, framing is an exact crop and pad; where rows lie
further apart than columns (or the other way round), the coarse axis alone is
interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.image.body import body_of
from ctai_sam2.image.windowing import SOFT_TISSUE, window_to_uint8
from ctai_sam2.types import CTSlice, Mask, Prompt, Window

AIR_HU = -1024.0
"""What lies outside the slice."""

MARGIN = 0.04
"""Air left on each side of the body, as a part of its longer side."""

SAGITTAL_SIDE_MM = 380.0
"""Side of the square on a sagittal slice: from thoracic spine to pelvis, whatever the scan covers."""

_SAGITTAL_STRIDE_MM = 95.0
_ISOTROPIC_RTOL = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A windowed square and its place on the slice.

    Parameters
    ----------
    image : ndarray of uint8, shape (N, N)
        What the model sees.
    pixel_mm : float
        Side of a pixel of the frame: the smaller of the slice's two spacings.
    stretch_yx : tuple of float
        Frame pixels per slice pixel along rows' and columns' direction; 1.0 where nothing is resampled.
    offset_xy : tuple of int
        Frame pixel (0, 0) is this pixel of the stretched slice; may be negative.
    slice_shape_hw : tuple of int
        Shape of the slice.
    window : Window
        The window of the image.
    """

    image: NDArray[np.uint8]
    pixel_mm: float
    stretch_yx: tuple[float, float]
    offset_xy: tuple[int, int]
    slice_shape_hw: tuple[int, int]
    window: Window = SOFT_TISSUE

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or self.image.shape[0] != self.image.shape[1]:
            raise InputError("a frame is square", received=f"shape {self.image.shape}")
        self.image.setflags(write=False)

    @property
    def side_px(self) -> int:
        """Length of a side in pixels of the frame."""
        return int(self.image.shape[0])

    def points_to_frame(self, points_xy: ArrayLike) -> NDArray[np.float64]:
        """Points (x, y) on the slice to points on the frame, shape (N, 2)."""
        points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
        stretch = np.array(self.stretch_yx[::-1])
        # Pixel edges coincide, not pixel centres: the first pixel of both begins at -0.5.
        return np.asarray((points + 0.5) * stretch - 0.5 - np.array(self.offset_xy), dtype=np.float64)

    def points_to_slice(self, points_xy: ArrayLike) -> NDArray[np.float64]:
        """Points (x, y) on the frame to points on the slice: the inverse of `points_to_frame`."""
        points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
        stretch = np.array(self.stretch_yx[::-1])
        return np.asarray((points + np.array(self.offset_xy) + 0.5) / stretch - 0.5, dtype=np.float64)

    def prompt_to_frame(self, prompt: Prompt) -> Prompt:
        """Move a prompt from slice to frame; a box that leaves the frame is clipped to it.

        A negative point outside the frame is left out: nothing beyond the frame can be in the mask.

        Raises
        ------
        InputError
            If a positive point lies outside the frame, where the model would not see it.
        """
        points, labels = self.points_to_frame(prompt.points_xy), np.asarray(prompt.labels)
        last = self.side_px - 0.5
        outside = ((points < -0.5) | (points > last)).any(axis=1)
        points, labels = points[~outside | (labels == 1)], labels[~outside | (labels == 1)]
        outside &= np.asarray(prompt.labels) == 1
        if outside.any():
            raise InputError(
                "a point lies outside the square that is shown to the model",
                received=f"{int(outside.sum())} of {len(outside)} points",
                hint="Click on the patient.",
            )
        box = None
        if prompt.box_xyxy is not None:
            corners = np.clip(self.points_to_frame(np.reshape(prompt.box_xyxy, (2, 2))), -0.5, last)
            box = (float(corners[0, 0]), float(corners[0, 1]), float(corners[1, 0]), float(corners[1, 1]))
        mask = None if prompt.mask is None else self.mask_to_frame(prompt.mask)
        return Prompt(
            points_xy=points.astype(np.float32),
            labels=labels,
            box_xyxy=box,
            mask=mask,
            structure=prompt.structure,
        )

    def mask_to_frame(self, mask: Mask) -> Mask:
        """Move a mask from slice, shape (H, W), to frame, shape (N, N), by nearest pixel.

        Raises
        ------
        InputError
            If the mask has another shape than the slice.
        """
        if mask.shape != self.slice_shape_hw:
            raise InputError("the mask has another shape than the slice", received=f"{mask.shape}")
        rows, inside_rows = self._nearest(0)
        columns, inside_columns = self._nearest(1)
        framed: Mask = mask[np.ix_(rows, columns)] & inside_rows[:, None] & inside_columns[None, :]
        return framed

    def mask_to_slice(self, mask: Mask) -> Mask:
        """Move a mask from frame, shape (N, N), to slice, shape (H, W).

        An exact paste where nothing was resampled; else a slice pixel is set where at least half of its
        area is covered.

        Raises
        ------
        InputError
            If the mask has another shape than the frame.
        """
        if mask.shape != self.image.shape:
            raise InputError("the mask has another shape than the frame", received=f"{mask.shape}")
        if self.stretch_yx == (1.0, 1.0):
            pasted = np.zeros(self.slice_shape_hw, dtype=bool)
            into, source = zip(*(self._overlap(axis) for axis in (0, 1)), strict=True)
            pasted[into] = mask[source]
            return pasted
        covered = self._coverage(0) @ mask.astype(np.float64) @ self._coverage(1).T
        result: Mask = covered >= 0.5 - 1e-9
        return result

    def _nearest(self, axis: int) -> tuple[NDArray[np.intp], Mask]:
        at = np.arange(self.side_px) + self.offset_xy[1 - axis]
        index = np.floor((at + 0.5) / self.stretch_yx[axis]).astype(np.intp)
        size = self.slice_shape_hw[axis]
        return np.clip(index, 0, size - 1), (index >= 0) & (index < size)

    def _overlap(self, axis: int) -> tuple[slice, slice]:
        offset, size = self.offset_xy[1 - axis], self.slice_shape_hw[axis]
        start, stop = max(offset, 0), max(min(offset + self.side_px, size), max(offset, 0))
        return slice(start, stop), slice(start - offset, stop - offset)

    def _coverage(self, axis: int) -> NDArray[np.float64]:
        """Part of each slice pixel (a row each) that each frame pixel (a column each) covers."""
        stretch, size = self.stretch_yx[axis], self.slice_shape_hw[axis]
        low = np.arange(size)[:, None] * stretch
        at = np.arange(self.side_px)[None, :] + self.offset_xy[1 - axis]
        overlap = np.minimum(low + stretch, at + 1.0) - np.maximum(low, at)
        return np.asarray(np.clip(overlap, 0.0, None) / stretch, dtype=np.float64)


def frame_slice(
    ct_slice: CTSlice,
    *,
    window: Window = SOFT_TISSUE,
    margin: float = MARGIN,
    focus_box_xyxy: Sequence[float] | None = None,
) -> Frame:
    """Cut the square around the patient out of a slice and window it.

    Parameters
    ----------
    ct_slice : CTSlice
        The slice.
    window : Window
        40/400 by default, as in training.
    margin : float
        Air on each side, as a part of the longer side of what is framed; 0 or more.
    focus_box_xyxy : sequence of 4 floats, optional
        Frame this box, in pixels of the slice, instead of the body.

    Raises
    ------
    AnatomyNotFound
        If there is no body and no box was given.
    InputError
        If the margin is negative, or the box has no extent.
    """
    if margin < 0:
        raise InputError("margin must not be negative", received=margin)
    spacing = ct_slice.spacing_mm
    pixel_mm = min(spacing)
    isotropic = np.isclose(spacing[0], spacing[1], rtol=_ISOTROPIC_RTOL, atol=0.0)
    stretch = (1.0, 1.0) if isotropic else (spacing[0] / pixel_mm, spacing[1] / pixel_mm)
    if focus_box_xyxy is None:
        rows, columns = np.nonzero(body_of(ct_slice))
        box = np.array([columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5])
    else:
        box = np.asarray(focus_box_xyxy, dtype=np.float64)
        if box.shape != (4,) or not (box[2] > box[0] and box[3] > box[1]):
            raise InputError("the box to frame has no area", received=box.tolist())
    edges = (box + 0.5) * np.array([stretch[1], stretch[0], stretch[1], stretch[0]])
    side_mm = float(max(edges[2] - edges[0], edges[3] - edges[1])) * (1 + 2 * margin) * pixel_mm
    side = max(int(np.ceil(side_mm / pixel_mm - 1e-6)), 8)
    offset_x = int(np.floor((edges[0] + edges[2] - side) / 2 + 0.5))
    offset_y = int(np.floor((edges[1] + edges[3] - side) / 2 + 0.5))
    rows_hu = _take(ct_slice.hu.astype(np.float32), 0, stretch[0], offset_y, side)
    square = _take(rows_hu, 1, stretch[1], offset_x, side)
    return Frame(
        image=window_to_uint8(square, window),
        pixel_mm=pixel_mm,
        stretch_yx=stretch,
        offset_xy=(offset_x, offset_y),
        slice_shape_hw=ct_slice.shape_hw,
        window=window,
    )


def frame_sagittal(
    ct_slice: CTSlice,
    *,
    window: Window = SOFT_TISSUE,
    at_xy: Sequence[float] | None = None,
) -> Frame:
    """Cut a square of `SAGITTAL_SIDE_MM` out of a sagittal slice, so that vertebrae always look as large.

    A body taller than the square is covered by overlapping squares at fixed places, of which the one
    whose middle is nearest to the point is taken: clicks near each other share an image, and with it an
    embedding.

    Parameters
    ----------
    ct_slice : CTSlice
        Sagittal; superior up.
    window : Window
        As for `frame_slice`.
    at_xy : sequence of 2 floats, optional
        What is looked at, (column, row) in pixels of the slice; the body's middle when omitted.

    Raises
    ------
    AnatomyNotFound
        If there is no body.
    """
    rows, columns = np.nonzero(body_of(ct_slice))
    low = np.array([columns.min() - 0.5, rows.min() - 0.5])
    high = np.array([columns.max() + 0.5, rows.max() + 0.5])
    at = (low + high) / 2 if at_xy is None else np.asarray(at_xy, dtype=np.float64)
    size = SAGITTAL_SIDE_MM / np.array(ct_slice.spacing_mm[::-1])
    stride = _SAGITTAL_STRIDE_MM / np.array(ct_slice.spacing_mm[::-1])
    middle = np.array(
        [_nearest_middle(*ends) for ends in zip(low, high, size, stride, at, strict=True)], dtype=np.float64
    )
    box = (*(middle - size / 2), *(middle + size / 2))
    return frame_slice(ct_slice, window=window, margin=0.0, focus_box_xyxy=box)


def _nearest_middle(low: float, high: float, size: float, stride: float, at: float) -> float:
    if high - low <= size:
        return (low + high) / 2
    count = int(np.ceil((high - low - size) / stride)) + 1
    middles = np.linspace(low + size / 2, high - size / 2, count)
    return float(middles[np.argmin(np.abs(middles - at))])


def _take(hu: NDArray[Any], axis: int, stretch: float, offset: int, side: int) -> NDArray[np.float32]:
    """Read ``side`` pixels along an axis, linearly between slice pixels, air outside the slice."""
    size = hu.shape[axis]
    edge = (np.arange(side) + offset + 0.5) / stretch
    inside = (edge > 0) & (edge < size)
    centre = np.clip(edge - 0.5, 0, size - 1)
    low = np.floor(centre).astype(np.intp)
    high = np.minimum(low + 1, size - 1)
    part = (centre - low).astype(np.float32)
    shape = (-1, 1) if axis == 0 else (1, -1)
    taken = np.take(hu, low, axis) * (1 - part.reshape(shape)) + np.take(hu, high, axis) * part.reshape(shape)
    return np.asarray(np.where(inside.reshape(shape), taken, AIR_HU), dtype=np.float32)
