"""Areas of a phantom's axial cross-sections that are known without counting the pixels of an image."""

from __future__ import annotations

import math

import numpy as np

from ctai_sam2.phantom import Body, PhantomParameters, masks_from_labels
from ctai_sam2.phantom import psoas as psoas_module
from ctai_sam2.phantom import vertebrae as bones
from ctai_sam2.phantom.frame import Spine
from ctai_sam2.phantom.psoas import Psoas

_COUNTED = ("muscle", "sat", "vat")
_REACH_MM = 360.0


def analytic_areas_mm2(
    parameters: PhantomParameters, z_mm: float, *, sampling_mm: float = 0.25
) -> dict[str, float]:
    """Return areas of the axial cross-section at a height, in mm².

    ``psoas_left`` and ``psoas_right`` are exact: they are moved, turned and sheared only in ways that keep
    area, and covered by nothing. ``vertebra`` (bodies above S1) is closed-form where the plane cuts no
    endplate, else a strip integral good to 0.1 %. ``muscle``, ``sat`` and ``vat`` are counted at
    ``sampling_mm``; at 0.25 mm muscle and SAT are good to 0.2 %. The field of view is ignored.
    """
    body = Body(parameters)
    areas = {f"psoas_{side}": psoas_area_mm2(muscle, z_mm) for side, muscle in body.psoas.items()}
    areas["vertebra"] = vertebra_area_mm2(parameters, body.spine, z_mm)
    axis = np.arange(-_REACH_MM, _REACH_MM, sampling_mm, dtype=np.float32) + np.float32(sampling_mm / 2)
    counts = dict.fromkeys(_COUNTED, 0)
    # In strips, so that a fine grid of the whole trunk does not fill the memory.
    for rows in np.array_split(axis, max(1, axis.size // 256)):
        masks = masks_from_labels(body.label_at(axis[None, :], rows[:, None], z_mm))
        for name in _COUNTED:
            if name in masks:
                counts[name] += int(np.count_nonzero(masks[name]))
    return areas | {name: count * sampling_mm**2 for name, count in counts.items()}


def psoas_area_mm2(muscle: Psoas, z_mm: float) -> float:
    """Return the exact area of a psoas at a height."""
    level = z_mm / muscle._pitch_mm
    if not psoas_module._LEVEL[0] <= level <= psoas_module._LEVEL[-1]:
        return 0.0
    a, b, _, _ = muscle._section(np.asarray(z_mm, dtype=np.float32))
    return float(a) * float(b) * superellipse_factor(muscle._exponent)


def vertebra_area_mm2(parameters: PhantomParameters, spine: Spine, z_mm: float) -> float:
    """Return the area of vertebral body at a height.

    Closed form where the plane cuts no endplate, else integrated over 4,001 strips of equal y
    (relative error below 0.1 %). Neighbouring bodies are taken not to touch; S1 is not counted.
    """
    total = 0.0
    for index in range(bones._SACRUM):
        middle, height = bones._middle_and_height_mm(parameters, index)
        half_width, half_depth = bones._half_axes_mm(parameters, index, np.asarray(z_mm - middle))
        slope = spine.slope_at(middle)
        y = np.linspace(-float(half_depth), float(half_depth), 4001)
        offset = bones._along_axis(parameters, spine, index, y, np.asarray(z_mm))
        end = height / 2 - bones._hollow_mm(parameters, index, y)
        if (np.abs(offset) <= end).all():
            factors = superellipse_factor(bones._FRONT_EXPONENT) + superellipse_factor(bones._BACK_EXPONENT)
            return float(half_width * half_depth) * factors / 2
        if abs(z_mm - middle) > height / 2 + abs(slope) * 40:
            continue
        exponent = np.where(y < 0, bones._FRONT_EXPONENT, bones._BACK_EXPONENT)
        width = 2 * half_width * (1 - np.abs(y / half_depth) ** exponent) ** (1 / exponent)
        total += float(np.sum(width[np.abs(offset) <= end]) * (y[1] - y[0]))
    return total


def superellipse_factor(exponent: float) -> float:
    """Return the area of ``|x|^n + |y|^n <= 1``: ``4 Γ(1 + 1/n)² / Γ(1 + 2/n)``."""
    return 4 * math.gamma(1 + 1 / exponent) ** 2 / math.gamma(1 + 2 / exponent)
