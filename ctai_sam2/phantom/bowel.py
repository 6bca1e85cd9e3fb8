"""Loops of bowel: bent tubes with a wall and fluid, stool, contrast medium or gas."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ctai_sam2.phantom.frame import Bools, Frame
from ctai_sam2.phantom.labels import Label
from ctai_sam2.phantom.parameters import PhantomParameters

# A cavity without any fat takes about so many loops between T10 and the pelvis.
_FULL = 420


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Loop:
    """An ellipsoid turned in the axial plane, with wavy sides."""

    centre_mm: tuple[float, float, float]
    half_axes_mm: tuple[float, float, float]
    angle: float
    waves: tuple[float, float, float]
    wall_mm: float
    content: int
    gas_level: float | None


def paint_bowel(frame: Frame, parameters: PhantomParameters) -> None:
    """Paint ascending and descending colon and loops of small bowel into free fat."""
    p = parameters
    rng = np.random.default_rng([p.detail_seed, 3])
    inner = p.wall_half_width_mm - p.wall_muscle_mm
    depth = p.wall_front_mm - p.wall_centre_y_mm
    up = 1.0 if p.position == "supine" else -1.0
    for side in (1, -1):
        radius = rng.uniform(14, 25)
        out = side * (inner - radius - rng.uniform(2, 8))
        loop = _Loop(
            centre_mm=(out, rng.uniform(-0.45, -0.1) * depth, 0.0),
            half_axes_mm=(radius, radius * rng.uniform(0.8, 1.1), 400.0),
            angle=0.0,
            waves=tuple(rng.uniform(0, 2 * math.pi, size=3)),
            wall_mm=1.8,
            content=Label.BOWEL_STOOL,
            gas_level=rng.uniform(-0.7, 0.4) if rng.uniform() < 0.7 * p.bowel_gas_share + 0.25 else None,
        )
        _paint_loop(frame, loop, up)
    count = round(_FULL * (1 - 0.85 * p.visceral_share) * (inner / 125) * (depth / 110))
    turn = rng.uniform(0, 2 * math.pi, size=count)
    spread = np.sqrt(rng.uniform(size=count))
    radii = rng.uniform(7, 15, size=count)
    centre = np.stack(
        (
            0.87 * inner * spread * np.cos(turn),
            -0.56 * depth + 0.5 * depth * spread * np.sin(turn),
            rng.uniform(-190, 190, size=count),
        ),
        axis=1,
    )
    half_axes = radii[:, None] * rng.uniform((1.0, 0.8, 1.0), (2.6, 1.3, 2.6), size=(count, 3))
    angle = rng.uniform(-1.0, 1.0, size=count)
    waves = rng.uniform(0, 2 * math.pi, size=(count, 3))
    # Part of the small bowel is collapsed: wall all through.
    wall = np.where(rng.uniform(size=count) < 0.35, 0.6 * radii, rng.uniform(1.5, 3.0, size=count))
    # Contrast medium and gas fill stretches of bowel, not loops at random.
    filled = 0.5 + 0.35 * np.sin(centre[:, 0] / 45 + waves[0, 0]) + rng.uniform(-0.25, 0.25, size=count)
    gas = rng.uniform(size=count) < p.bowel_gas_share * 0.6
    level = rng.uniform(-0.7, 0.5, size=count)
    reach = 1.35 * half_axes[:, :2].max(axis=1)
    for index in frame.near(centre, np.stack((reach, reach, half_axes[:, 2]), axis=1)):
        loop = _Loop(
            centre_mm=tuple(centre[index]),
            half_axes_mm=tuple(half_axes[index]),
            angle=float(angle[index]),
            waves=tuple(waves[index]),
            wall_mm=float(wall[index]),
            content=Label.BOWEL_CONTRAST if filled[index] < p.bowel_contrast_share else Label.BOWEL_FLUID,
            gas_level=float(level[index]) if gas[index] else None,
        )
        _paint_loop(frame, loop, up)


def _paint_loop(frame: Frame, loop: _Loop, up: float) -> None:
    (cx, cy, cz), (a, b, c) = loop.centre_mm, loop.half_axes_mm
    reach = 1.35 * max(a, b)
    block = frame.cut((cx - reach, cx + reach, cy - reach, cy + reach, cz - c, cz + c))
    if block is None:
        return
    view = frame.labels[block]
    free: Bools = (view == Label.VAT) | (view == Label.VESSEL)
    if not free.any():
        return
    x, y, z = frame.points(block)
    wave = np.asarray(loop.waves, dtype=np.float32)
    cosine, sine = np.float32(math.cos(loop.angle)), np.float32(math.sin(loop.angle))
    dx, dy, dz = x - np.float32(cx), y - np.float32(cy), (z - np.float32(cz)) / np.float32(c)
    dx = dx + np.float32(0.2 * a) * np.sin(0.13 * dy + 0.07 * z + wave[0])
    dy = dy + np.float32(0.3 * b) * np.sin(0.11 * dx + 0.06 * z + wave[1])
    u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
    fold = 1 + np.float32(0.06) * np.sin(0.45 * u + 0.4 * z + wave[2])
    room = np.sqrt(np.maximum(1 - dz * dz, 0))
    outer = ((u / a) ** 2 + (v / (b * fold)) ** 2 < room * room) & free
    thin = min(loop.wall_mm, 0.75 * min(a, b))
    core = np.maximum(room - thin / b, 0)
    lumen = (u / (a - thin)) ** 2 + (v / (b * fold - thin)) ** 2 < core * core
    lumen = lumen & outer
    view[outer] = Label.BOWEL_WALL
    view[lumen] = loop.content
    if loop.content == Label.BOWEL_STOOL:
        mix = np.sin(0.9 * x + 0.35 * y + wave[0] + 1.3 * np.sin(0.31 * y + wave[2]))
        mix = mix * np.sin(0.95 * y - 0.4 * x + wave[1] + 1.3 * np.sin(0.37 * x + wave[0]) + 0.5 * z)
        speck = mix + 0.35 * np.sin(0.23 * x + 0.19 * y + wave[2]) > 0.85
        view[lumen & speck] = Label.BOWEL_GAS
    if loop.gas_level is not None:
        # The level is horizontal for the lying patient: gas rises away from the table.
        bubble = (y - np.float32(cy)) * np.float32(up) < np.float32(loop.gas_level * b)
        view[lumen & bubble] = Label.BOWEL_GAS
