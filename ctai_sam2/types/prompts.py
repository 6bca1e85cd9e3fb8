"""What a person or a rule points at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.types.checks import as_array, as_float, frozen, set_field

Mask: TypeAlias = NDArray[np.bool_]

MAX_POINTS = 1024
"""More points than any person or rule places; beyond it a request is a mistake."""

_POINTS_SHOWN = 4
_STRUCTURE_NAME = re.compile("[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Prompt:
    """What a person or a rule points at, in pixel coordinates of the slice.

    Parameters
    ----------
    points_xy : array_like, shape (N, 2), optional
        Points as (column, row).
    labels : array_like, shape (N,), optional
        1 for foreground, 0 for background; all foreground when omitted.
    box_xyxy : sequence of 4 floats, optional
        (x0, y0, x1, y1) with x0 < x1 and y0 < y1.
    mask : array_like, shape (H, W), optional
        A previous boolean mask to refine.
    structure : str, optional
        What is meant, such as ``psoas_left``, for models that know structures by name. Others go by points,
        box and mask alone.

    Raises
    ------
    InputError
        If shapes disagree, a number is not finite, a label is not 0 or 1, the box has no area, or the
        structure is no name.
    """

    points_xy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: NDArray[np.int32] | None = None
    box_xyxy: tuple[float, float, float, float] | None = None
    mask: Mask | None = None
    structure: str | None = None

    def __post_init__(self) -> None:
        points = as_float(self.points_xy, "points")
        if points.size == 0:
            points = points.reshape(0, 2)
        if points.ndim != 2 or points.shape[1] != 2:
            raise InputError(
                "points must be pairs (x, y)",
                received=f"an array of shape {points.shape}",
                hint="Give an array of shape (N, 2), such as [[x, y]] for one point.",
            )
        if len(points) > MAX_POINTS:
            raise InputError("too many points", received=len(points), hint=f"At most {MAX_POINTS}.")
        if not np.isfinite(points).all():
            raise InputError(
                "a point is not a finite number", hint="Drop the points that are NaN or infinite."
            )
        labels = np.ones(len(points), np.int32) if self.labels is None else as_array(self.labels, "labels")
        if labels.shape != (len(points),):
            raise InputError(
                "one label per point is needed",
                received=f"{labels.size} labels for {len(points)} points"
                if labels.ndim
                else "a single number",
                hint="For example labels=[1, 0] for two points.",
            )
        if not np.isin(labels, (0, 1)).all():
            raise InputError(
                "labels are 1 (foreground) or 0 (background)",
                received=", ".join(sorted({str(v) for v in labels.tolist()})),
            )
        set_field(self, "points_xy", frozen(points))
        set_field(self, "labels", frozen(labels.astype(np.int32)))
        if self.box_xyxy is not None:
            set_field(self, "box_xyxy", _checked_box(self.box_xyxy))
        if self.mask is not None:
            mask = np.asarray(self.mask)
            if mask.ndim != 2 or mask.dtype != np.bool_:
                raise InputError(
                    "a mask prompt is a boolean array (H, W)",
                    received=f"{mask.dtype} of shape {mask.shape}",
                    hint="Compare with a threshold first, for example mask > 0.",
                )
            set_field(self, "mask", frozen(np.array(mask)))
        if self.structure is not None and not _STRUCTURE_NAME.fullmatch(str(self.structure)):
            raise InputError(
                "a structure is named in small letters, digits and underscores",
                received=str(self.structure)[:40],
                hint="For example psoas_left.",
            )

    @classmethod
    def point(cls, x: float, y: float, *, label: int = 1, structure: str | None = None) -> Prompt:
        """One point at column ``x``, row ``y``."""
        return cls(
            points_xy=as_float([[x, y]], "points"),
            labels=as_array([label], "labels"),
            structure=structure,
        )

    def __repr__(self) -> str:
        points = [
            f"{'+' if label else '-'}({x:g}, {y:g})"
            for (x, y), label in zip(self.points_xy, np.asarray(self.labels), strict=True)
        ]
        parts = [*points[:_POINTS_SHOWN]]
        if len(points) > _POINTS_SHOWN:
            parts.append(f"and {len(points) - _POINTS_SHOWN} more points")
        if self.box_xyxy is not None:
            parts.append(f"box ({', '.join(f'{value:g}' for value in self.box_xyxy)})")
        if self.mask is not None:
            parts.append(f"mask of {int(self.mask.sum())} pixels")
        if self.structure is not None:
            parts.append(f"structure {self.structure}")
        return f"Prompt({', '.join(parts)})"

    @property
    def is_placed(self) -> bool:
        """True where a point, a box or a mask says where; a structure's name alone does not."""
        return len(self.points_xy) > 0 or self.box_xyxy is not None or self.mask is not None

    def require_within(self, shape_hw: tuple[int, int]) -> None:
        """Check the prompt against the slice it is meant for.

        Raises
        ------
        InputError
            If the prompt is empty, a point or the box lies outside the slice, or the mask has another shape.
        """
        height, width = shape_hw
        if not self.is_placed and self.structure is None:
            raise InputError("the prompt is empty", hint="Give at least a point, a box or a mask.")
        x, y = self.points_xy[:, 0], self.points_xy[:, 1]
        outside = (x < -0.5) | (y < -0.5) | (x > width - 0.5) | (y > height - 0.5)
        if outside.any():
            first = tuple(round(float(v), 1) for v in self.points_xy[int(np.argmax(outside))])
            raise InputError(
                f"{int(outside.sum())} of {len(x)} points lie outside the slice of {width} x {height} pixels",
                received=f"first (x, y) = {first}",
                hint="Points are (column, row) from (0, 0) at the top left.",
            )
        if self.box_xyxy is not None:
            x0, y0, x1, y1 = self.box_xyxy
            if x0 < -0.5 or y0 < -0.5 or x1 > width - 0.5 or y1 > height - 0.5:
                raise InputError(
                    f"the box leaves the slice of {width} x {height} pixels",
                    received=self.box_xyxy,
                    hint="Clip it to the slice.",
                )
        if self.mask is not None and self.mask.shape != (height, width):
            raise InputError(
                "the mask prompt has another shape than the slice",
                received=f"{self.mask.shape} for a slice of {(height, width)}",
            )


def _checked_box(box: Sequence[float]) -> tuple[float, float, float, float]:
    values = as_float(box, "box corners")
    if values.shape != (4,) or not np.isfinite(values).all():
        raise InputError("a box is four finite numbers (x0, y0, x1, y1)", received=f"shape {values.shape}")
    x0, y0, x1, y1 = (float(v) for v in values)
    if x1 <= x0 or y1 <= y0:
        raise InputError(
            "the box has no area",
            received=(x0, y0, x1, y1),
            hint="Give x0 < x1 and y0 < y1: two corners in pixels, not width and height.",
        )
    return x0, y0, x1, y1
