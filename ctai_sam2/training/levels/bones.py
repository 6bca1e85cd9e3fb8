"""The bones of a drawn spine: vertebrae, discs, sacrum, and what age and surgery leave there."""

from __future__ import annotations

import math

import cv2
import numpy as np

from ctai_sam2.segmentation.levels.labels import S1
from ctai_sam2.training.levels.canvas import (
    NO_LEVEL,
    SACRUM_DOWN,
    SpineCanvas,
    Tissue,
    Vertebra,
    class_of,
)


def paint_posterior(canvas: SpineCanvas, v: Vertebra) -> None:
    """Paint what the plane meets behind the body: pedicle, facets, spinous process or rib."""
    local = canvas.local(v, 80.0)
    if local is None:
        return
    rng, size = canvas.rng, canvas.size
    box, back, up = local
    wall = v.depth / 2
    off = abs(v.offset)
    lumbar, cervical = v.name[0] == "L", v.name[0] == "C"
    bone = np.zeros(back.shape, bool)
    h = v.height
    rear = wall + 17.0 * size
    if off < 4.5 * size + rng.uniform(0, 2):
        length = (30 if lumbar else 26 if cervical else 40) * size * rng.uniform(0.8, 1.15)
        droop = math.radians((12 if lumbar else 15 if cervical else 48) + rng.normal(0, 7))
        tall = (10.0 if lumbar else 4.0) * size * rng.uniform(0.75, 1.15)
        along = (back - rear) * math.cos(droop) - (up + h * 0.18) * math.sin(droop)
        across = (up + h * 0.18) * math.cos(droop) + (back - rear) * math.sin(droop)
        bone |= (along > -1) & (along < length) & (np.abs(across) < tall * (0.75 + 0.25 * along / length))
    if off < 11 * size:
        bone |= ((back - rear + 0.6 * off) / (3.4 * size)) ** 2 + ((up + h * 0.15) / (0.42 * h)) ** 2 < 1
    if 9.5 * size < off < 21 * size:
        bone |= (back > wall - 2) & (back < wall + 10 * size) & (np.abs(up - 0.2 * h) < 0.26 * h)
        joint = wall + 12.0 * size
        bone |= ((back - joint) / (6.5 * size)) ** 2 + ((up + 0.05 * h) / (0.72 * h)) ** 2 < 1
    if off > 21 * size:
        if lumbar:
            bone |= ((back - wall - 5) / 4.0) ** 2 + ((up - 0.1 * h) / 6.0) ** 2 < 1
        elif not cervical:
            bone |= ((back - wall * 0.4) / 6.0) ** 2 + ((up - 0.4 * h) / 7.5) ** 2 < 1
    if not bone.any():
        return
    view = canvas.tissue[box]
    view[bone] = Tissue.POSTERIOR_CORTEX
    view[cv2.erode(bone.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0] = Tissue.POSTERIOR


def paint_body(canvas: SpineCanvas, v: Vertebra) -> None:
    """Paint a vertebral body with its cortex, as wide as the plane still meets it."""
    factor = canvas.width_factor(v)
    level = max(class_of(v.name), 0)
    if factor < 0.35:
        paint_psoas(canvas, v)
        return
    local = canvas.local(v, 44.0)
    if local is None:
        return
    rng = canvas.rng
    box, back, up = local
    half_depth = v.depth / 2 * factor
    mid = -(1 - factor) * v.depth * 0.1
    u = (back - mid) / np.float32(half_depth)
    slope = math.tan(v.wedge / 2)
    hollow = float(np.clip(rng.normal(0.06 + 0.16 * canvas.porous**2, 0.03), 0, 0.35))
    lip = rng.uniform(0, 0.12) * (rng.uniform() < 0.5)
    end = (v.height / 2 - slope * back) * (1 - hollow * np.clip(1 - u * u, 0, 1))
    s = up / np.maximum(end, 1)
    waist = rng.uniform(0.03, 0.14)
    side = 1 - waist * np.clip(1 - s * s, 0, 1) + lip * np.clip(np.abs(s) - 0.75, 0, 1) * 2
    inside = (np.abs(s) <= 1) & (np.abs(u) <= side)
    if not inside.any():
        return
    view, levels = canvas.tissue[box], canvas.level[box]
    cortex = rng.uniform(1.0, 1.8)
    core = (np.abs(up) < end - cortex) & (np.abs(u) < side - cortex / half_depth)
    view[inside] = Tissue.BODY_CORTEX
    view[inside & core] = Tissue.BODY
    levels[inside] = level
    canvas.centres.append((v.x + math.cos(v.angle) * mid, v.y - math.sin(v.angle) * mid, float(level)))


def paint_psoas(canvas: SpineCanvas, v: Vertebra) -> None:
    """Paint the psoas next to a lumbar body that the plane misses."""
    if v.name[0] == "L":
        canvas.ellipse(v.x, v.y, 17, 26, Tissue.PSOAS, over=(Tissue.VAT, Tissue.BACK_MUSCLE, Tissue.SOFT))


def paint_disc(
    canvas: SpineCanvas, gap: tuple[float, float, float, float], below: Vertebra | None, above: Vertebra
) -> None:
    """Paint a disc: bulging, fused, with gas or with osteophytes as chance has it."""
    factor = canvas.width_factor(above)
    if factor < 0.35:
        return
    rng = canvas.rng
    half = above.depth / 2 * factor
    lower_angle = canvas.sacrum_top[2] if below is None else below.angle - below.wedge / 2
    upper_angle = above.angle + above.wedge / 2
    x0, y0, x1, y1 = gap
    bulge = rng.uniform(0.92, 1.06)
    depth = 4.0
    corners = []
    for x, y, angle, extra, sign in ((x0, y0, lower_angle, depth, 1), (x1, y1, upper_angle, depth, -1)):
        cx, cy = x + sign * math.sin(angle) * extra, y + sign * math.cos(angle) * extra
        left = (cx - math.cos(angle) * half * bulge, cy + math.sin(angle) * half * bulge)
        right = (cx + math.cos(angle) * half * bulge, cy - math.sin(angle) * half * bulge)
        corners += [left, right] if sign == 1 else [right, left]
    shape = np.zeros_like(canvas.tissue)
    cv2.fillConvexPoly(shape, np.rint(corners).astype(np.int32), 1)
    where = shape > 0
    if below is None:
        where &= ~np.isin(canvas.tissue, (Tissue.SACRUM, Tissue.SACRUM_CORTEX))
    fused = rng.uniform() < 0.03
    canvas.tissue[where] = Tissue.BODY if fused else Tissue.DISC
    canvas.level[where] = max(class_of(above.name), 0)
    mx, my = (x0 + x1) / 2, (y0 + y1) / 2
    if not fused and rng.uniform() < 0.08:
        canvas.ellipse(mx, my, rng.uniform(5, 13), 1.5, Tissue.GAS, turn=-above.angle, over=(Tissue.DISC,))
    if rng.uniform() < 0.12 + 0.2 * canvas.porous:
        for side in (-1, 1) if rng.uniform() < 0.3 else (-1,):
            x = mx + side * math.cos(above.angle) * half * 1.05
            y = my - side * math.sin(above.angle) * half * 1.05
            canvas.ellipse(x, y, rng.uniform(2, 4), rng.uniform(4, 10), Tissue.BODY_CORTEX, turn=-above.angle)


def paint_sacrum(canvas: SpineCanvas) -> None:
    """Paint sacrum and coccyx."""
    rng, size = canvas.rng, canvas.size
    x, y, angle = canvas.sacrum_top
    # The sacrum's own axis leads further back than the normal of its plate.
    angle += math.radians(rng.normal(7, 6))
    off = abs(canvas.sacrum_offset)
    bend = rng.uniform(0.4, 1.5)
    gap_mm = rng.uniform(0.8, 3.0) if rng.uniform() < 0.85 else rng.uniform(3.0, 6.0)
    wall_half = 33.0 / 2 * size
    for number, (height, depth, turn) in enumerate(SACRUM_DOWN):
        next_depth = SACRUM_DOWN[number + 1][1] if number + 1 < len(SACRUM_DOWN) else 7.0
        height_mm, top, bottom = (
            height * size * rng.normal(1, 0.05),
            depth * size / 2,
            next_depth * size / 2,
        )
        front_shift = (top - bottom) * rng.uniform(0.2, 0.7)
        cx, cy = x + math.sin(angle) * height_mm / 2, y + math.cos(angle) * height_mm / 2
        reach = 34.0
        v = Vertebra(name="S", x=cx, y=cy, angle=angle, height=height_mm, depth=depth, wedge=0.0, offset=0.0)
        local = canvas.local(v, reach)
        if local is None:
            break
        box, back, up = local
        part = np.clip(0.5 - up / height_mm, 0, 1)
        half = top + (bottom - top) * part
        middle = front_shift * (part - 0.0) * 0.4
        gap = gap_mm if number else 0.0
        inside = (np.abs(up) < height_mm / 2 - gap / 2) & (np.abs(back - middle) < half)
        core = (np.abs(up) < height_mm / 2 - gap / 2 - 1.4) & (np.abs(back - middle) < half - 1.4)
        view, levels = canvas.tissue[box], canvas.level[box]
        if gap:
            scar = (np.abs(up - height_mm / 2) < gap) & (np.abs(back - middle) < half - 1)
            view[scar] = Tissue.LIGAMENT if gap_mm < 3 else Tissue.DISC
        view[inside] = Tissue.SACRUM_CORTEX
        view[inside & core] = Tissue.SACRUM
        levels[inside] = S1 if number == 0 else S1 + 1
        if number == 0:
            canvas.centres.append((cx, cy, float(S1)))
        if number < 4 and (off < 7 or off > 12):
            behind = wall_half * 0.8 + 16 * size
            crest = ((back - behind) / (4.5 if off < 7 else 7)) ** 2 + (up / (height_mm * 0.42)) ** 2 < 1
            crest &= ~inside
            view[crest] = Tissue.POSTERIOR
        x, y = x + math.sin(angle) * height_mm, y + math.cos(angle) * height_mm
        angle += math.radians(turn * bend + rng.normal(0, 2.5))
    for _ in range(int(rng.integers(2, 5))):
        angle -= math.radians(rng.uniform(2, 22))
        x, y = x + math.sin(angle) * 11, y + math.cos(angle) * 11
        canvas.ellipse(x, y, 4.0, 5.0, Tissue.SACRUM_CORTEX, turn=-angle)
        tip = canvas.box(x, y, 6)
        if tip is not None:
            near = canvas.tissue[tip] == Tissue.SACRUM_CORTEX
            canvas.level[tip][near & (canvas.level[tip] == NO_LEVEL)] = S1 + 1


def paint_findings(canvas: SpineCanvas) -> None:
    """Paint screws, and cement or another focus in a body, in a few patients."""
    rng = canvas.rng
    if rng.uniform() < 0.05:
        first, count = int(rng.integers(0, 6)), int(rng.integers(2, 5))
        for v in canvas.vertebrae[first : first + count]:
            x, y = v.x + math.cos(v.angle) * v.depth / 2, v.y - math.sin(v.angle) * v.depth / 2
            canvas.ellipse(
                x - rng.uniform(-8, 12), y - 4, rng.uniform(12, 28), 3.0, Tissue.METAL, turn=-v.angle
            )
    if rng.uniform() < 0.06:
        v = canvas.vertebrae[int(rng.integers(0, 9))]
        canvas.ellipse(
            v.x,
            v.y,
            rng.uniform(4, 11),
            rng.uniform(4, 9),
            int(rng.choice([Tissue.METAL, Tissue.CALCIFICATION, Tissue.SOFT])),
            over=(Tissue.BODY,),
        )
