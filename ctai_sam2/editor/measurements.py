"""Numbers that follow the pointer and the masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctai_sam2.editor.document import Document
from ctai_sam2.editor.i18n import Message
from ctai_sam2.editor.shapes import pixel_of
from ctai_sam2.image.masks import area_mm2
from ctai_sam2.measure.body_composition import GROUP_MASK_NAMES, MASK_NAMES, Row, measure_slice

_MEASURABLE = (*MASK_NAMES, *GROUP_MASK_NAMES)
_TISSUE_OF = {"muscle": "combo"}


@dataclass(frozen=True, kw_only=True)
class Readout:
    """What is under the pointer.

    Parameters
    ----------
    column, row : int
        The pixel.
    hu : float
        Its value.
    x_mm, y_mm : float
        Distance of the pointer from the first pixel's centre, along the image's axes.
    """

    column: int
    row: int
    hu: float
    x_mm: float
    y_mm: float


@dataclass(frozen=True, kw_only=True)
class LabelNumbers:
    """A label in numbers: what is outlined, and what of it the row of the table counts.

    Parameters
    ----------
    label : str
        Whose.
    area_cm2, mean_hu : float
        Of all pixels outlined; mean NaN for an empty mask.
    measured_cm2, measured_hu : float
        Of the pixels in the tissue's HU range, as in the row; all muscle holds the psoas too.
    """

    label: str
    area_cm2: float
    mean_hu: float
    measured_cm2: float
    measured_hu: float


@dataclass(frozen=True, kw_only=True)
class RegionNumbers:
    """HU along a ruler or in an elliptic region.

    Parameters
    ----------
    length_mm : float
        Length of the ruler, or the ellipse's longer axis.
    area_mm2 : float
        Of the region's pixels; 0 for a ruler.
    mean_hu, sd_hu, min_hu, max_hu : float
        NaN where no pixel is met.
    """

    length_mm: float
    area_mm2: float
    mean_hu: float
    sd_hu: float
    min_hu: float
    max_hu: float


def read_out(document: Document, x: float, y: float) -> Readout | None:
    """Read what is at an image point; None outside of the image."""
    row, column = pixel_of(x, y)
    height, width = document.shape_hw
    if not (0 <= row < height and 0 <= column < width):
        return None
    row_mm, column_mm = document.slice.spacing_mm
    return Readout(
        column=column, row=row, hu=float(document.slice.hu[row, column]), x_mm=x * column_mm, y_mm=y * row_mm
    )


def measure_labels(document: Document) -> list[LabelNumbers]:
    """Area and mean HU of every label that has a pixel, as outlined and as the table's row counts them."""
    hu, spacing_mm = document.slice.hu, document.slice.spacing_mm
    masks = document.masks()
    row = measure_document(document) if any(label in _MEASURABLE for label in masks) else {}
    found = []
    for label, mask in masks.items():
        area, mean = area_mm2(mask, spacing_mm) / 100.0, float(hu[mask].mean(dtype=np.float64))
        measured, measured_hu = area, mean
        if label in _MEASURABLE:
            tissue = _TISSUE_OF.get(label, label)
            measured = _number(row[f"{tissue}_area_mm2"]) / 100.0
            measured_hu = _number(row[f"{tissue}_hu_mean"])
        found.append(
            LabelNumbers(
                label=label, area_cm2=area, mean_hu=mean, measured_cm2=measured, measured_hu=measured_hu
            )
        )
    return found


def measure_document(document: Document, *, height_m: float | None = None) -> Row:
    """Measure the full row of `measure.body_composition.measure_slice` for the slice in view.

    Raises
    ------
    InputError
        If the height cannot be used.
    """
    masks = {label: mask for label, mask in document.masks().items() if label in _MEASURABLE}
    ct_slice = document.slice
    return measure_slice(
        ct_slice.hu,
        masks,
        ct_slice.spacing_mm,
        height_m=height_m,
        slice_extent_mm=ct_slice.thickness_mm,
        middle_slice=ct_slice.index,
    )


def measure_ruler(document: Document, start: tuple[float, float], end: tuple[float, float]) -> RegionNumbers:
    """Length of a line, and HU of the pixels along it, sampled every half pixel."""
    length = _distance_mm(document, start, end)
    height, width = document.shape_hw
    # The part outside of the image shows no HU; points there are dropped, so the number may be bounded.
    steps = min(int(2 * math.hypot(end[0] - start[0], end[1] - start[1])) + 2, 4 * (height + width))
    samples = np.floor(np.linspace(start, end, steps) + 0.5).astype(int)
    samples = samples[((samples >= 0) & (samples < (width, height))).all(axis=1)]
    return _numbers(document.slice.hu[samples[:, 1], samples[:, 0]], length, 0.0)


def measure_roi(document: Document, start: tuple[float, float], end: tuple[float, float]) -> RegionNumbers:
    """HU in the ellipse inscribed in a box with these opposite corners."""
    (x0, y0), (x1, y1) = start, end
    rx, ry = abs(x1 - x0) / 2, abs(y1 - y0) / 2
    row_mm, column_mm = document.slice.spacing_mm
    columns = (np.arange(document.shape_hw[1]) - (x0 + x1) / 2) / max(rx, 1e-9)
    rows = (np.arange(document.shape_hw[0]) - (y0 + y1) / 2) / max(ry, 1e-9)
    with np.errstate(over="ignore"):
        inside = columns[None, :] ** 2 + rows[:, None] ** 2 <= 1.0
    area = int(np.count_nonzero(inside)) * document.slice.pixel_area_mm2
    return _numbers(document.slice.hu[inside], 2 * max(rx * column_mm, ry * row_mm), area)


def describe_measurement(
    document: Document, kind: str, points_xy: Sequence[tuple[float, float]]
) -> Message | None:
    """Put a ruler's (``ruler``) or a region's (``roi``) numbers into words; None for anything else drawn."""
    if kind not in ("ruler", "roi"):
        return None
    start, end = points_xy
    numbers = (measure_ruler if kind == "ruler" else measure_roi)(document, start, end)
    values = {
        "length": f"{numbers.length_mm:.1f}",
        "area": f"{numbers.area_mm2:.0f}",
        "mean": _rounded(numbers.mean_hu),
        "sd": _rounded(numbers.sd_hu),
        "low": _rounded(numbers.min_hu),
        "high": _rounded(numbers.max_hu),
    }
    return Message(f"status.{kind}", values)


def _rounded(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}"


def _number(value: float | int | str | None) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _distance_mm(document: Document, start: tuple[float, float], end: tuple[float, float]) -> float:
    row_mm, column_mm = document.slice.spacing_mm
    return math.hypot((end[0] - start[0]) * column_mm, (end[1] - start[1]) * row_mm)


def _numbers(values: np.ndarray, length_mm: float, area: float) -> RegionNumbers:
    hu = values.astype(np.float64)
    mean, sd, low, high = (
        (float(hu.mean()), float(hu.std()), float(hu.min()), float(hu.max())) if hu.size else (math.nan,) * 4
    )
    return RegionNumbers(length_mm=length_mm, area_mm2=area, mean_hu=mean, sd_hu=sd, min_hu=low, max_hu=high)
