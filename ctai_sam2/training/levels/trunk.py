"""What lies around a drawn spine: trunk, organs, vessels and the spinal canal."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ctai_sam2.training.levels.canvas import SpineCanvas, Tissue


@dataclass(frozen=True, eq=False)
class Trunk:
    """Where the painted trunk has its front wall (column of each row) and its diaphragm (row)."""

    wall_at: NDArray[np.floating]
    diaphragm: float


def paint_trunk(canvas: SpineCanvas) -> Trunk:
    """Paint skin, fat, wall and back muscles, and mostly a table."""
    rng = canvas.rng
    y = np.arange(canvas.height, dtype=np.float32)
    spine = canvas.spine_x(y)
    spine = np.convolve(np.pad(spine, 30, mode="edge"), np.ones(61) / 61, mode="valid").astype(np.float32)
    fat_back = 4 + 45 * canvas.thin**2 * rng.uniform(0.3, 1)
    fat_front = 3 + 55 * canvas.thin**1.5 * rng.uniform(0.3, 1)
    muscle = rng.uniform(18, 42) * np.clip(1 - np.abs(y - 420) / 500, 0.3, 1)
    # Behind the body: canal and arches reach some 45 mm; muscle fills up to the tips and beyond.
    deep = spine + 62 * canvas.size + 0.4 * muscle
    back = deep + fat_back + canvas.wave(y, 2.0)
    depth_front = rng.uniform(75, 190) * (0.7 + 0.5 * canvas.thin)
    wall = spine - depth_front * (0.75 + 0.25 * np.clip((y - 40) / 260, 0, 1)) + canvas.wave(y, 4.0)
    wall = np.minimum(wall, spine - 60)
    front = wall - fat_front * (0.5 + 0.5 * np.clip((y - 150) / 150, 0, 1))
    c = canvas.columns
    inside = (c > front[:, None]) & (c < back[:, None])
    canvas.tissue[inside] = Tissue.SAT
    canvas.tissue[inside & ((c < front[:, None] + 2.2) | (c > back[:, None] - 2.2))] = Tissue.SKIN
    deep_in = (c > wall[:, None]) & (c < deep[:, None])
    canvas.tissue[deep_in] = Tissue.VAT
    thick = rng.uniform(3, 12)
    canvas.tissue[deep_in & (c < wall[:, None] + thick)] = Tissue.WALL_MUSCLE
    canvas.tissue[deep_in & (c > spine[:, None] + 10)] = Tissue.BACK_MUSCLE
    diaphragm = 300.0 + rng.normal(0, 30)
    if rng.uniform() < 0.75:
        gap = back.max() + rng.uniform(1, 12)
        shell = rng.uniform(1, 3)
        bed = (np.abs(c - gap) < shell) | (np.abs(c - gap - rng.uniform(20, 60)) < 1.2)
        canvas.tissue[bed & (canvas.tissue == 0)] = Tissue.TABLE
    return Trunk(wall, diaphragm)


def paint_organs(canvas: SpineCanvas, trunk: Trunk) -> None:
    """Paint chest, liver, kidneys, bowel and what else fills the trunk, with the vessels among them."""
    rng = canvas.rng
    c, r = canvas.columns, canvas.rows
    spine_front = canvas.spine_x(canvas.rows[:, 0])[:, None] - 20 * canvas.size
    dome = trunk.diaphragm + 26 * np.cos((c - rng.uniform(120, 220)) / rng.uniform(35, 70))
    chest = (canvas.tissue == Tissue.VAT) & (r < dome) & (c < spine_front + 6)
    lung_share = rng.uniform()
    canvas.tissue[chest] = Tissue.LUNG if lung_share < 0.5 else Tissue.SOFT
    if lung_share > 0.5 and rng.uniform() < 0.5:
        canvas.tissue[chest & (c > spine_front - rng.uniform(8, 40))] = Tissue.LUNG
    room = (Tissue.LUNG, Tissue.SOFT, Tissue.VAT)
    sx = float(canvas.spine_x(np.array([trunk.diaphragm]))[0])
    if rng.uniform() < 0.8:
        canvas.ellipse(
            sx - rng.uniform(65, 100),
            trunk.diaphragm - rng.uniform(30, 70),
            rng.uniform(30, 50),
            rng.uniform(35, 60),
            Tissue.HEART,
            turn=rng.uniform(-0.5, 0.5),
            over=room,
        )
        for _ in range(3):
            canvas.ellipse(
                sx - rng.uniform(40, 100),
                trunk.diaphragm - rng.uniform(60, 160),
                rng.uniform(8, 22),
                rng.uniform(8, 25),
                Tissue.VESSEL,
                over=(*room, Tissue.HEART),
            )
    if rng.uniform() < 0.8:
        canvas.ellipse(
            sx - rng.uniform(60, 110),
            trunk.diaphragm + rng.uniform(20, 60),
            rng.uniform(25, 70),
            rng.uniform(30, 75),
            Tissue.LIVER,
            turn=rng.uniform(-0.6, 0.6),
            over=room,
        )
    if rng.uniform() < 0.35:
        canvas.ellipse(
            sx - rng.uniform(10, 45),
            trunk.diaphragm + rng.uniform(60, 120),
            rng.uniform(16, 26),
            rng.uniform(40, 58),
            Tissue.KIDNEY,
            turn=rng.uniform(-0.3, 0.3),
            over=room,
        )
    paint_vessels(canvas)
    fill = rng.uniform(0.1, 1.0)
    for _ in range(int(45 * fill)):
        y = rng.uniform(trunk.diaphragm + 20, 600)
        low, high = (
            trunk.wall_at[int(min(y, canvas.height - 1))] + 8,
            float(canvas.spine_x(np.array([y]))[0]) - 20,
        )
        if high <= low:
            continue
        x, a, b = rng.uniform(low, high), rng.uniform(6, 24), rng.uniform(6, 20)
        turn = rng.uniform(0, 3.1)
        canvas.ellipse(x, y, a, b, Tissue.BOWEL_WALL, turn=turn, over=(Tissue.VAT,))
        kinds = (Tissue.GAS, Tissue.BOWEL_FLUID, Tissue.BOWEL_CONTRAST, Tissue.STOOL, Tissue.SOFT)
        kind = int(rng.choice(np.array(kinds), p=(0.25, 0.3, 0.12, 0.15, 0.18)))
        canvas.ellipse(x, y, max(a - 2, 2), max(b - 2, 2), kind, turn=turn, over=(Tissue.BOWEL_WALL,))
    base = canvas.sacrum_top
    pelvic = (Tissue.VAT, Tissue.BOWEL_WALL, Tissue.BOWEL_FLUID, Tissue.SOFT, Tissue.STOOL, Tissue.GAS)
    if rng.uniform() < 0.8:
        canvas.ellipse(
            base[0] - rng.uniform(40, 100),
            base[1] + rng.uniform(60, 110),
            rng.uniform(20, 52),
            rng.uniform(15, 48),
            Tissue.BLADDER,
            turn=rng.uniform(-0.6, 0.6),
            over=pelvic,
        )
    if rng.uniform() < 0.6:
        canvas.ellipse(
            base[0] - rng.uniform(5, 50),
            base[1] + rng.uniform(50, 90),
            rng.uniform(12, 36),
            rng.uniform(12, 40),
            Tissue.SOFT,
            turn=rng.uniform(0, 3),
            over=pelvic,
        )
    if rng.uniform() < 0.75:
        x, y, turn = base[0] - rng.uniform(75, 130), base[1] + rng.uniform(95, 150), rng.uniform(0.3, 1.1)
        canvas.ellipse(x, y, 20, 9, Tissue.OTHER_CORTEX, turn=turn)
        canvas.ellipse(x, y, 17, 6.5, Tissue.OTHER_BONE, turn=turn)
    if rng.uniform() < 0.75:
        for y in np.arange(60, trunk.diaphragm - 30, 34.0):
            x = trunk.wall_at[int(y)] + 5
            canvas.ellipse(x, y, 6, 16, Tissue.OTHER_CORTEX)
            canvas.ellipse(x, y, 4, 14, Tissue.OTHER_BONE)


def paint_vessels(canvas: SpineCanvas) -> None:
    """Paint the vessel in front of the spine, with or without calcified walls, or none."""
    rng = canvas.rng
    if rng.uniform() < 0.3:
        return
    c, r = canvas.columns, canvas.rows
    half = rng.uniform(7, 16) * canvas.size
    middle = canvas.spine_x(canvas.rows[:, 0]) - 21 * canvas.size - half - rng.uniform(0, 9)
    middle = middle + canvas.wave(canvas.rows[:, 0], 2.5)
    low = canvas.vertebrae[int(rng.choice([0, 1, 1, 1]))].y + rng.uniform(-15, 25)
    high = rng.uniform(60, 240)
    off = np.abs(c - middle[:, None])
    wall_dots = rng.beta(0.6, 1.6)
    inside = (off < half) & (r < low) & (r > high)
    canvas.tissue[inside] = Tissue.VESSEL
    if wall_dots > 0.15:
        for _ in range(int(60 * wall_dots)):
            y = rng.uniform(high, low)
            x = middle[int(min(y, canvas.height - 1))] + rng.choice([-1, 1]) * half
            canvas.ellipse(x, y, rng.uniform(0.8, 2.5), rng.uniform(1.2, 6), Tissue.CALCIFICATION)


def paint_canal(canvas: SpineCanvas) -> None:
    """Paint the canal as a band of quadrilaterals behind bodies and discs where the plane meets it."""
    half = 8.2 * canvas.size
    points = []
    for v in reversed(canvas.vertebrae):
        behind = v.depth / 2 + half + 0.6
        points.append((v.x + math.cos(v.angle) * behind, v.y - math.sin(v.angle) * behind, v.angle, v.offset))
    x, y, slope = canvas.sacrum_top
    for down in (6.0, 30.0, 55.0):
        turn = slope + math.radians(0.2 * down)
        behind = (33.0 / 2 - 0.16 * down) * canvas.size + half * 0.9
        points.append(
            (
                x + math.sin(turn) * down + math.cos(turn) * behind,
                y + math.cos(turn) * down - math.sin(turn) * behind,
                turn,
                canvas.sacrum_offset,
            )
        )
    for (x0, y0, a0, o0), (x1, y1, a1, o1) in itertools.pairwise(points):
        for share, tissue in ((1.0, Tissue.EPIDURAL_FAT), (0.82, Tissue.CANAL)):
            w0, w1 = (
                half * share * math.sqrt(max(1 - (o / (11.0 * canvas.size * share)) ** 2, 0.0))
                for o in (o0, o1)
            )
            if w0 + w1 < 3:
                continue
            corners = [
                (x0 - math.cos(a0) * w0, y0 + math.sin(a0) * w0),
                (x0 + math.cos(a0) * w0, y0 - math.sin(a0) * w0),
                (x1 + math.cos(a1) * w1, y1 - math.sin(a1) * w1),
                (x1 - math.cos(a1) * w1, y1 + math.sin(a1) * w1),
            ]
            cv2.fillConvexPoly(canvas.tissue, np.rint(corners).astype(np.int32), int(tissue))
