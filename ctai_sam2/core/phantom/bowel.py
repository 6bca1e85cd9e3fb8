"""Loops of bowel: bent tubes with a wall and fluid, stool, contrast medium or gas."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ctai_sam2.core.phantom.frame import Bools, Box, Floats, Frame
from ctai_sam2.core.phantom.labels import Label
from ctai_sam2.core.phantom.parameters import PhantomParameters

_FREE: Final = (Label.VAT, Label.VESSEL)


def paint_bowel(frame: Frame, parameters: PhantomParameters) -> None:
    """Paint ascending and descending colon and loops of small bowel into free fat."""
    p = parameters
    rng = np.random.default_rng([p.detail_seed, 3])
    inner = p.wall_half_width_mm - p.wall_muscle_mm
    depth = p.wall_front_mm - p.wall_centre_y_mm
    up = 1.0 if p.position == "supine" else -1.0
    for side in (1, -1):
        radius = rng.uniform(14, 25)
        _paint_tube(
            frame,
            rng,
            (side * (inner - radius - rng.uniform(2, 8)), rng.uniform(-0.45, -0.1) * depth, 0.0),
            (radius, radius * rng.uniform(0.8, 1.1), 400.0),
            wall_mm=1.8,
            content=Label.BOWEL_STOOL,
            gas=rng.uniform() < 0.7 * p.bowel_gas_share + 0.25,
            up=up,
        )
    # The loops fill what the visceral fat leaves; a full cavity takes about 110 of them.
    count = round(110 * (1 - 0.85 * p.visceral_share) * (inner / 125) * (depth / 110))
    for _ in range(count):
        angle = rng.uniform(0, 2 * math.pi)
        spread = math.sqrt(rng.uniform())
        centre = (
            0.85 * inner * spread * math.cos(angle),
            -0.55 * depth + 0.48 * depth * spread * math.sin(angle),
            rng.uniform(-170, 130),
        )
        radius = rng.uniform(8, 15)
        half_axes = (radius * rng.uniform(0.9, 2.4), radius * rng.uniform(0.8, 1.3), radius * rng.uniform(1.2, 2.6))
        drawn = rng.uniform()
        content = Label.BOWEL_CONTRAST if drawn < p.bowel_contrast_share else Label.BOWEL_FLUID
        _paint_tube(
            frame,
            rng,
            centre,
            half_axes,
            wall_mm=rng.uniform(1.5, 3.0),
            content=content,
            gas=rng.uniform() < p.bowel_gas_share,
            up=up,
        )


def _paint_tube(
    frame: Frame,
    rng: np.random.Generator,
    centre_mm: tuple[float, float, float],
    half_axes_mm: tuple[float, float, float],
    *,
    wall_mm: float,
    content: int,
    gas: bool,
    up: float,
) -> None:
    """Paint one loop: an ellipsoid turned in the axial plane, with wavy sides."""
    (cx, cy, cz), (a, b, c) = centre_mm, half_axes_mm
    angle = rng.uniform(-0.9, 0.9) if c < 300 else 0.0
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    wave = rng.uniform(0, 2 * math.pi, size=3).astype(np.float32)
    level_mm = rng.uniform(-0.4, 0.6) * b
    reach = 1.35 * max(a, b)
    block_box: Box = (cx - reach, cx + reach, cy - reach, cy + reach, cz - c, cz + c)
    block = frame.cut(block_box)
    if block is None:
        return
    x, y, z = frame.points(block)
    dx, dy, dz = x - np.float32(cx), y - np.float32(cy), (z - np.float32(cz)) / np.float32(c)
    dx = dx + np.float32(0.18 * a) * np.sin(0.13 * dy + 0.07 * z + wave[0])
    dy = dy + np.float32(0.22 * b) * np.sin(0.11 * dx + 0.06 * z + wave[1])
    u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
    fold = 1 + np.float32(0.06) * np.sin(0.45 * u + 0.4 * z + wave[2])
    room = np.sqrt(np.maximum(1 - dz * dz, 0))
    outer: Bools = np.asarray((u / a) ** 2 + (v / (b * fold)) ** 2 < room * room)
    view = frame.labels[block]
    free = (view == _FREE[0]) | (view == _FREE[1])
    outer = outer & free
    lumen = (u / (a - wall_mm)) ** 2 + (v / (b * fold - wall_mm)) ** 2 < np.maximum(room - wall_mm / b, 0) ** 2
    view[outer] = Label.BOWEL_WALL
    view[outer & lumen] = content
    if gas:
        bubble: Floats = np.asarray(dy * np.float32(up) < level_mm)
        view[outer & lumen & bubble] = Label.BOWEL_GAS
    elif content == Label.BOWEL_STOOL:
        speck = np.sin(0.75 * x + wave[0]) * np.sin(0.8 * y + wave[1]) * np.cos(0.5 * z + wave[2]) > 0.72
        view[outer & lumen & speck] = Label.BOWEL_GAS
