"""Label maps of whole spines in a near-sagittal plane, drawn from a few hundred random numbers.

A vertebra knows how far the plane passes from its middle: in scoliosis and off the midline the canal, then
the spinous process, then the body itself leave the plane, and pedicles, facets, ribs and psoas enter it.
"""

from __future__ import annotations

import enum
import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ctai_sam2.segmentation.levels.labels import LEVEL_CLASSES, S1

Floats = NDArray[np.float32]
PIXEL_MM = 1.0
"""Side of a pixel of a drawn map."""

NO_LEVEL = 255


class Tissue(enum.IntEnum):
    """What a pixel of a drawn map shows."""

    AIR = 0
    SKIN = 1
    SAT = 2
    BACK_MUSCLE = 3
    WALL_MUSCLE = 4
    VAT = 5
    LIVER = 6
    HEART = 7
    VESSEL = 8
    BOWEL_WALL = 9
    BOWEL_FLUID = 10
    GAS = 11
    BOWEL_CONTRAST = 12
    LUNG = 13
    CANAL = 14
    DISC = 15
    BODY = 16
    BODY_CORTEX = 17
    POSTERIOR = 18
    POSTERIOR_CORTEX = 19
    SACRUM = 20
    SACRUM_CORTEX = 21
    OTHER_BONE = 22
    OTHER_CORTEX = 23
    BLADDER = 24
    TABLE = 25
    CALCIFICATION = 26
    METAL = 27
    EPIDURAL_FAT = 28
    PSOAS = 29
    KIDNEY = 30
    SOFT = 31
    STOOL = 32
    LIGAMENT = 33


# From L5 up: height, depth, disc below it (mm), lordotic wedge of the body and of that disc (degrees).
# Typical adult values as anatomy textbooks and morphometric studies agree on, rounded.
_LEVELS_UP = (
    ("L5", 27.0, 35.0, 10.0, 8.0, 13.0),
    ("L4", 27.5, 35.0, 11.5, 2.5, 10.0),
    ("L3", 28.0, 34.0, 10.5, 0.0, 8.0),
    ("L2", 28.0, 33.0, 9.5, -2.0, 6.0),
    ("L1", 27.0, 31.5, 8.0, -3.5, 4.0),
    ("T12", 25.5, 30.0, 6.5, -3.5, 2.0),
    ("T11", 23.5, 29.0, 5.5, -3.5, 1.0),
    ("T10", 22.5, 29.0, 4.8, -3.0, 0.0),
    ("T9", 22.0, 28.0, 4.4, -3.5, 0.0),
    ("T8", 21.0, 28.0, 4.2, -4.0, 0.0),
    ("T7", 20.5, 27.0, 4.0, -4.5, 0.0),
    ("T6", 19.8, 26.0, 3.8, -4.5, 0.0),
    ("T5", 19.0, 24.5, 3.6, -4.0, 0.0),
    ("T4", 18.5, 22.5, 3.5, -3.0, 0.0),
    ("T3", 18.0, 20.0, 3.5, -2.0, 0.0),
    ("T2", 17.5, 18.0, 3.6, -1.0, 1.0),
    ("T1", 16.5, 17.0, 4.0, 0.0, 2.0),
    ("C7", 14.5, 16.5, 4.5, 1.0, 3.0),
    ("C6", 13.5, 16.0, 4.5, 1.0, 3.0),
)
# From S1 down: height, depth at the top, turn to the next (negative: forward again).
_SACRUM_DOWN = (
    (30.0, 33.0, 4.0),
    (25.0, 22.0, -5.0),
    (21.0, 16.0, -13.0),
    (18.0, 12.0, -16.0),
    (15.0, 10.0, -14.0),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnSpine:
    """A label map and what is known of its vertebrae.

    Parameters
    ----------
    tissue : ndarray of uint8, shape (h, w)
        Values of `Tissue`; head up, anterior on the left, `PIXEL_MM` a pixel.
    level : ndarray of uint8, shape (h, w)
        Index into `LEVEL_CLASSES` on bodies, discs (that of the body above) and sacrum; else `NO_LEVEL`.
    centres_xyl : ndarray of float32, shape (n, 3)
        Middle of each body seen, and of S1: column, row, index into `LEVEL_CLASSES`.
    l3_offset_mm : float
        How far the plane passes from the middle of L3.
    """

    tissue: NDArray[np.uint8]
    level: NDArray[np.uint8]
    centres_xyl: Floats
    l3_offset_mm: float = 0.0


@dataclass(kw_only=True)
class _Vertebra:
    name: str
    x: float
    y: float
    angle: float
    """Way down leads so many radians backwards from straight down."""
    height: float
    depth: float
    wedge: float
    offset: float
    """How far the plane passes from the middle, mm."""


def draw_spine(rng: np.random.Generator) -> DrawnSpine:
    """Draw one patient cut in one near-sagittal plane."""
    return _Drawing(rng).finish()


class _Drawing:
    """The canvas while it is painted, and the numbers of the patient."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.height, self.width = 660, 460
        self.tissue = np.zeros((self.height, self.width), np.uint8)
        self.level = np.full((self.height, self.width), NO_LEVEL, np.uint8)
        self.centres: list[tuple[float, float, float]] = []
        self.rows, self.columns = np.mgrid[: self.height, : self.width].astype(np.float32)
        self.size = float(np.clip(rng.normal(1.0, 0.09), 0.78, 1.22))
        self.porous = float(rng.beta(1.2, 2.5))
        self.thin = float(rng.uniform())
        self._lay_spine()

    # --- geometry -------------------------------------------------------------------------------

    def _lay_spine(self) -> None:
        rng, size = self.rng, self.size
        lordosis = float(np.clip(rng.normal(1.12, 0.35), 0.1, 2.0))
        kyphosis = float(np.clip(rng.normal(1.0, 0.4), 0.1, 2.4))
        slope = math.radians(float(np.clip(rng.normal(37, 10), 8, 65)))
        bow = self._lateral_course()
        x, y = 270.0 + rng.normal(0, 8), 505.0 + rng.normal(0, 12)
        # The sacral plate's normal leans forward by the slope; the way up starts along it.
        angle = slope
        self.sacrum_top = (x, y, slope)
        worn = float(rng.beta(1.1, 2.2))
        vertebrae: list[_Vertebra] = []
        fracture_rate = 0.12 * self.porous
        self.gaps: list[tuple[float, float, float, float]] = []
        scale_walk = 1.0
        for index, (name, height, depth, disc, wedge, disc_wedge) in enumerate(_LEVELS_UP):
            bend = lordosis if wedge + disc_wedge > 0 else kyphosis
            disc_turn = math.radians(disc_wedge * lordosis + rng.normal(0, 2.0))
            turn = math.radians(wedge * bend + rng.normal(0, 1.8))
            scale_walk = float(np.clip(scale_walk * rng.normal(1, 0.025), 0.88, 1.14))
            wear = 1.0 - worn * float(rng.beta(1.0, 1.6)) * (1.25 if index < 3 else 0.9)
            disc_mm = max(disc * size * wear * float(rng.normal(1.05, 0.1)), 1.0)
            height_mm = height * size * scale_walk * float(rng.normal(1, 0.03))
            depth_mm = depth * size * scale_walk * float(rng.normal(1, 0.03))
            if rng.uniform() < fracture_rate:
                crush = float(rng.uniform(0.45, 0.9))
                turn -= math.radians(rng.uniform(2, 14))
                height_mm *= crush
            angle -= disc_turn / 2
            x0, y0 = x, y
            x, y = x - math.sin(angle) * disc_mm, y - math.cos(angle) * disc_mm
            self.gaps.append((x0, y0, x, y))
            angle -= disc_turn / 2 + turn / 2
            cx, cy = x - math.sin(angle) * height_mm / 2, y - math.cos(angle) * height_mm / 2
            offset = float(np.interp(505.0 - cy, self._bow_at, bow))
            vertebrae.append(
                _Vertebra(
                    name=name,
                    x=cx,
                    y=cy,
                    angle=angle,
                    height=height_mm,
                    depth=depth_mm,
                    wedge=turn,
                    offset=offset,
                )
            )
            x, y = x - math.sin(angle) * height_mm, y - math.cos(angle) * height_mm
            angle -= turn / 2
        self.vertebrae = vertebrae
        self._stand_upright()
        self.sacrum_offset = float(np.interp(-20.0, self._bow_at, bow))
        ys = np.array([v.y for v in vertebrae] + [505.0, 640.0])
        xs = np.array([v.x for v in vertebrae] + [self.sacrum_top[0], self.sacrum_top[0] + 70])
        order = np.argsort(ys)
        self._spine_y, self._spine_x = ys[order], xs[order]

    def _stand_upright(self) -> None:
        """Turn the whole spine about the sacrum so that it leans little."""
        x0, y0, slope = self.sacrum_top
        top = self.vertebrae[int(self.rng.integers(9, 15))]
        lean = math.atan2(top.x - x0, y0 - top.y)
        turn = self.rng.normal(0.03, 0.06) - lean
        c, s = math.cos(turn), math.sin(turn)

        def moved(x: float, y: float) -> tuple[float, float]:
            dx, dy = x - x0, y - y0
            return x0 + c * dx - s * dy, y0 + s * dx + c * dy

        for v in self.vertebrae:
            v.x, v.y = moved(v.x, v.y)
            v.angle -= turn
        self.gaps = [(*moved(a, b), *moved(c2, d)) for a, b, c2, d in self.gaps]
        self.sacrum_top = (x0, y0, slope - turn)

    def _lateral_course(self) -> NDArray[np.float64]:
        """Distance of the plane from the spine's middle, over the height above the sacrum."""
        rng = self.rng
        self._bow_at = np.linspace(-120.0, 560.0, 40)
        kind = rng.uniform()
        spread = 2.5 if kind < 0.45 else 7.0 if kind < 0.8 else 14.0
        course = np.full(40, rng.normal(0, spread))
        course += self._bow_at / 100.0 * rng.normal(0, 1.2 if kind < 0.6 else 2.5)
        if kind > 0.55:
            amplitude = rng.normal(0, 5 + 12 * (kind > 0.85))
            course += amplitude * np.sin(self._bow_at / rng.uniform(45, 90) + rng.uniform(0, 6.3))
        return np.asarray(course)

    def spine_x(self, y: Floats) -> Floats:
        """Column of the spine at a row, past the ends as at them."""
        return np.asarray(np.interp(y, self._spine_y, self._spine_x), dtype=np.float32)

    # --- painting -------------------------------------------------------------------------------

    def _box(self, x: float, y: float, reach: float) -> tuple[slice, slice] | None:
        top, bottom = int(max(y - reach, 0)), int(min(y + reach + 1, self.height))
        left, right = int(max(x - reach, 0)), int(min(x + reach + 1, self.width))
        return None if top >= bottom or left >= right else (slice(top, bottom), slice(left, right))

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        tissue: int,
        *,
        turn: float = 0.0,
        over: tuple[int, ...] | None = None,
    ) -> None:
        """Paint a filled ellipse, optionally only over some tissues."""
        box = self._box(x, y, max(rx, ry) + 1)
        if box is None:
            return
        dx, dy = self.columns[box] - x, self.rows[box] - y
        if turn:
            c, s = math.cos(turn), math.sin(turn)
            dx, dy = c * dx + s * dy, c * dy - s * dx
        inside = (dx / rx) ** 2 + (dy / ry) ** 2 < 1
        view = self.tissue[box]
        if over is not None:
            inside &= np.isin(view, over)
        view[inside] = tissue

    def finish(self) -> DrawnSpine:
        """Paint everything, back to front."""
        self._paint_trunk()
        self._paint_organs()
        self._paint_canal()
        for vertebra in reversed(self.vertebrae):
            self._paint_posterior(vertebra)
        self._paint_sacrum()
        for gap, below, above in zip(self.gaps, [None, *self.vertebrae], self.vertebrae, strict=False):
            self._paint_disc(gap, below, above)
        for vertebra in self.vertebrae:
            self._paint_body(vertebra)
        self._paint_findings()
        centres = np.array(self.centres, np.float32).reshape(-1, 3)
        l3 = next(v for v in self.vertebrae if v.name == "L3")
        return DrawnSpine(tissue=self.tissue, level=self.level, centres_xyl=centres, l3_offset_mm=l3.offset)

    def _wave(self, along: Floats, amplitude: float) -> Floats:
        rng = self.rng
        total = np.zeros_like(along)
        for length, share in ((70.0, 0.25), (130.0, 0.6), (260.0, 1.0)):
            total += np.float32(rng.normal(0, amplitude * share)) * np.sin(
                along / length * 6.28 + rng.uniform(0, 6.3)
            )
        return total.astype(np.float32)

    def _paint_trunk(self) -> None:
        rng = self.rng
        y = np.arange(self.height, dtype=np.float32)
        spine = self.spine_x(y)
        spine = np.convolve(np.pad(spine, 30, mode="edge"), np.ones(61) / 61, mode="valid").astype(np.float32)
        fat_back = 4 + 45 * self.thin**2 * rng.uniform(0.3, 1)
        fat_front = 3 + 55 * self.thin**1.5 * rng.uniform(0.3, 1)
        muscle = rng.uniform(18, 42) * np.clip(1 - np.abs(y - 420) / 500, 0.3, 1)
        # Behind the body: canal and arches reach some 45 mm; muscle fills up to the tips and beyond.
        deep = spine + 62 * self.size + 0.4 * muscle
        back = deep + fat_back + self._wave(y, 2.0)
        self.back_at = deep
        depth_front = rng.uniform(75, 190) * (0.7 + 0.5 * self.thin)
        wall = spine - depth_front * (0.75 + 0.25 * np.clip((y - 40) / 260, 0, 1)) + self._wave(y, 4.0)
        wall = np.minimum(wall, spine - 60)
        front = wall - fat_front * (0.5 + 0.5 * np.clip((y - 150) / 150, 0, 1))
        self.wall_at, self.front_at = wall, front
        c = self.columns
        inside = (c > front[:, None]) & (c < back[:, None])
        self.tissue[inside] = Tissue.SAT
        self.tissue[inside & ((c < front[:, None] + 2.2) | (c > back[:, None] - 2.2))] = Tissue.SKIN
        deep_in = (c > wall[:, None]) & (c < deep[:, None])
        self.tissue[deep_in] = Tissue.VAT
        thick = rng.uniform(3, 12)
        self.tissue[deep_in & (c < wall[:, None] + thick)] = Tissue.WALL_MUSCLE
        self.tissue[deep_in & (c > spine[:, None] + 10)] = Tissue.BACK_MUSCLE
        self.diaphragm = 300.0 + rng.normal(0, 30)
        if rng.uniform() < 0.75:
            gap = back.max() + rng.uniform(1, 12)
            shell = rng.uniform(1, 3)
            bed = (np.abs(c - gap) < shell) | (np.abs(c - gap - rng.uniform(20, 60)) < 1.2)
            self.tissue[bed & (self.tissue == 0)] = Tissue.TABLE

    def _paint_organs(self) -> None:
        rng = self.rng
        c, r = self.columns, self.rows
        spine_front = self.spine_x(self.rows[:, 0])[:, None] - 20 * self.size
        dome = self.diaphragm + 26 * np.cos((c - rng.uniform(120, 220)) / rng.uniform(35, 70))
        chest = (self.tissue == Tissue.VAT) & (r < dome) & (c < spine_front + 6)
        lung_share = rng.uniform()
        self.tissue[chest] = Tissue.LUNG if lung_share < 0.5 else Tissue.SOFT
        if lung_share > 0.5 and rng.uniform() < 0.5:
            self.tissue[chest & (c > spine_front - rng.uniform(8, 40))] = Tissue.LUNG
        room = (Tissue.LUNG, Tissue.SOFT, Tissue.VAT)
        sx = float(self.spine_x(np.array([self.diaphragm]))[0])
        if rng.uniform() < 0.8:
            self.ellipse(
                sx - rng.uniform(65, 100),
                self.diaphragm - rng.uniform(30, 70),
                rng.uniform(30, 50),
                rng.uniform(35, 60),
                Tissue.HEART,
                turn=rng.uniform(-0.5, 0.5),
                over=room,
            )
            for _ in range(3):
                self.ellipse(
                    sx - rng.uniform(40, 100),
                    self.diaphragm - rng.uniform(60, 160),
                    rng.uniform(8, 22),
                    rng.uniform(8, 25),
                    Tissue.VESSEL,
                    over=(*room, Tissue.HEART),
                )
        if rng.uniform() < 0.8:
            self.ellipse(
                sx - rng.uniform(60, 110),
                self.diaphragm + rng.uniform(20, 60),
                rng.uniform(25, 70),
                rng.uniform(30, 75),
                Tissue.LIVER,
                turn=rng.uniform(-0.6, 0.6),
                over=room,
            )
        if rng.uniform() < 0.35:
            self.ellipse(
                sx - rng.uniform(10, 45),
                self.diaphragm + rng.uniform(60, 120),
                rng.uniform(16, 26),
                rng.uniform(40, 58),
                Tissue.KIDNEY,
                turn=rng.uniform(-0.3, 0.3),
                over=room,
            )
        self._paint_vessels()
        fill = rng.uniform(0.1, 1.0)
        for _ in range(int(45 * fill)):
            y = rng.uniform(self.diaphragm + 20, 600)
            low, high = (
                self.wall_at[int(min(y, self.height - 1))] + 8,
                float(self.spine_x(np.array([y]))[0]) - 20,
            )
            if high <= low:
                continue
            x, a, b = rng.uniform(low, high), rng.uniform(6, 24), rng.uniform(6, 20)
            turn = rng.uniform(0, 3.1)
            self.ellipse(x, y, a, b, Tissue.BOWEL_WALL, turn=turn, over=(Tissue.VAT,))
            kinds = (Tissue.GAS, Tissue.BOWEL_FLUID, Tissue.BOWEL_CONTRAST, Tissue.STOOL, Tissue.SOFT)
            kind = int(rng.choice(np.array(kinds), p=(0.25, 0.3, 0.12, 0.15, 0.18)))
            self.ellipse(x, y, max(a - 2, 2), max(b - 2, 2), kind, turn=turn, over=(Tissue.BOWEL_WALL,))
        base = self.sacrum_top
        pelvic = (Tissue.VAT, Tissue.BOWEL_WALL, Tissue.BOWEL_FLUID, Tissue.SOFT, Tissue.STOOL, Tissue.GAS)
        if rng.uniform() < 0.8:
            self.ellipse(
                base[0] - rng.uniform(40, 100),
                base[1] + rng.uniform(60, 110),
                rng.uniform(20, 52),
                rng.uniform(15, 48),
                Tissue.BLADDER,
                turn=rng.uniform(-0.6, 0.6),
                over=pelvic,
            )
        if rng.uniform() < 0.6:
            self.ellipse(
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
            self.ellipse(x, y, 20, 9, Tissue.OTHER_CORTEX, turn=turn)
            self.ellipse(x, y, 17, 6.5, Tissue.OTHER_BONE, turn=turn)
        if rng.uniform() < 0.75:
            for y in np.arange(60, self.diaphragm - 30, 34.0):
                x = self.wall_at[int(y)] + 5
                self.ellipse(x, y, 6, 16, Tissue.OTHER_CORTEX)
                self.ellipse(x, y, 4, 14, Tissue.OTHER_BONE)

    def _paint_vessels(self) -> None:
        rng = self.rng
        if rng.uniform() < 0.3:
            return
        c, r = self.columns, self.rows
        half = rng.uniform(7, 16) * self.size
        middle = self.spine_x(self.rows[:, 0]) - 21 * self.size - half - rng.uniform(0, 9)
        middle = middle + self._wave(self.rows[:, 0], 2.5)
        low = self.vertebrae[int(rng.choice([0, 1, 1, 1]))].y + rng.uniform(-15, 25)
        high = rng.uniform(60, 240)
        off = np.abs(c - middle[:, None])
        wall_dots = rng.beta(0.6, 1.6)
        inside = (off < half) & (r < low) & (r > high)
        self.tissue[inside] = Tissue.VESSEL
        if wall_dots > 0.15:
            for _ in range(int(60 * wall_dots)):
                y = rng.uniform(high, low)
                x = middle[int(min(y, self.height - 1))] + rng.choice([-1, 1]) * half
                self.ellipse(x, y, rng.uniform(0.8, 2.5), rng.uniform(1.2, 6), Tissue.CALCIFICATION)

    def _paint_canal(self) -> None:
        """Paint the canal as a band of quadrilaterals behind bodies and discs where the plane meets it."""
        half = 8.2 * self.size
        points = []
        for v in reversed(self.vertebrae):
            behind = v.depth / 2 + half + 0.6
            points.append(
                (v.x + math.cos(v.angle) * behind, v.y - math.sin(v.angle) * behind, v.angle, v.offset)
            )
        x, y, slope = self.sacrum_top
        for down in (6.0, 30.0, 55.0):
            turn = slope + math.radians(0.2 * down)
            behind = (33.0 / 2 - 0.16 * down) * self.size + half * 0.9
            points.append(
                (
                    x + math.sin(turn) * down + math.cos(turn) * behind,
                    y + math.cos(turn) * down - math.sin(turn) * behind,
                    turn,
                    self.sacrum_offset,
                )
            )
        for (x0, y0, a0, o0), (x1, y1, a1, o1) in itertools.pairwise(points):
            for share, tissue in ((1.0, Tissue.EPIDURAL_FAT), (0.82, Tissue.CANAL)):
                w0, w1 = (
                    half * share * math.sqrt(max(1 - (o / (11.0 * self.size * share)) ** 2, 0.0))
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
                cv2.fillConvexPoly(self.tissue, np.rint(corners).astype(np.int32), int(tissue))

    def _local(self, v: _Vertebra, reach: float) -> tuple[tuple[slice, slice], Floats, Floats] | None:
        """Millimetres behind and above the middle of a vertebra, in a box about it."""
        box = self._box(v.x, v.y, reach)
        if box is None:
            return None
        dx, dy = self.columns[box] - np.float32(v.x), self.rows[box] - np.float32(v.y)
        c, s = np.float32(math.cos(v.angle)), np.float32(math.sin(v.angle))
        return box, c * dx - s * dy, -(s * dx + c * dy)

    def _paint_posterior(self, v: _Vertebra) -> None:
        local = self._local(v, 80.0)
        if local is None:
            return
        rng, size = self.rng, self.size
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
        view = self.tissue[box]
        view[bone] = Tissue.POSTERIOR_CORTEX
        view[cv2.erode(bone.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0] = Tissue.POSTERIOR

    def _width_factor(self, v: _Vertebra) -> float:
        """How much of the body's depth the plane still meets."""
        half_width = 0.62 * v.depth + 2.0
        ratio = abs(v.offset) / half_width
        return 0.0 if ratio >= 1 else (1 - ratio**3.2) ** (1 / 2.6)

    def _paint_body(self, v: _Vertebra) -> None:
        factor = self._width_factor(v)
        level = max(_class_of(v.name), 0)
        if factor < 0.35:
            self._paint_psoas(v)
            return
        local = self._local(v, 44.0)
        if local is None:
            return
        rng = self.rng
        box, back, up = local
        half_depth = v.depth / 2 * factor
        mid = -(1 - factor) * v.depth * 0.1
        u = (back - mid) / np.float32(half_depth)
        slope = math.tan(v.wedge / 2)
        hollow = float(np.clip(rng.normal(0.06 + 0.16 * self.porous**2, 0.03), 0, 0.35))
        lip = rng.uniform(0, 0.12) * (rng.uniform() < 0.5)
        end = (v.height / 2 - slope * back) * (1 - hollow * np.clip(1 - u * u, 0, 1))
        s = up / np.maximum(end, 1)
        waist = rng.uniform(0.03, 0.14)
        side = 1 - waist * np.clip(1 - s * s, 0, 1) + lip * np.clip(np.abs(s) - 0.75, 0, 1) * 2
        inside = (np.abs(s) <= 1) & (np.abs(u) <= side)
        if not inside.any():
            return
        view, levels = self.tissue[box], self.level[box]
        cortex = rng.uniform(1.0, 1.8)
        core = (np.abs(up) < end - cortex) & (np.abs(u) < side - cortex / half_depth)
        view[inside] = Tissue.BODY_CORTEX
        view[inside & core] = Tissue.BODY
        levels[inside] = level
        self.centres.append((v.x + math.cos(v.angle) * mid, v.y - math.sin(v.angle) * mid, float(level)))

    def _paint_psoas(self, v: _Vertebra) -> None:
        if v.name[0] == "L":
            self.ellipse(v.x, v.y, 17, 26, Tissue.PSOAS, over=(Tissue.VAT, Tissue.BACK_MUSCLE, Tissue.SOFT))

    def _paint_disc(
        self, gap: tuple[float, float, float, float], below: _Vertebra | None, above: _Vertebra
    ) -> None:
        factor = self._width_factor(above)
        if factor < 0.35:
            return
        rng = self.rng
        half = above.depth / 2 * factor
        lower_angle = self.sacrum_top[2] if below is None else below.angle - below.wedge / 2
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
        shape = np.zeros_like(self.tissue)
        cv2.fillConvexPoly(shape, np.rint(corners).astype(np.int32), 1)
        where = shape > 0
        if below is None:
            where &= ~np.isin(self.tissue, (Tissue.SACRUM, Tissue.SACRUM_CORTEX))
        fused = rng.uniform() < 0.03
        self.tissue[where] = Tissue.BODY if fused else Tissue.DISC
        self.level[where] = max(_class_of(above.name), 0)
        mx, my = (x0 + x1) / 2, (y0 + y1) / 2
        if not fused and rng.uniform() < 0.08:
            self.ellipse(mx, my, rng.uniform(5, 13), 1.5, Tissue.GAS, turn=-above.angle, over=(Tissue.DISC,))
        if rng.uniform() < 0.12 + 0.2 * self.porous:
            for side in (-1, 1) if rng.uniform() < 0.3 else (-1,):
                x = mx + side * math.cos(above.angle) * half * 1.05
                y = my - side * math.sin(above.angle) * half * 1.05
                self.ellipse(
                    x, y, rng.uniform(2, 4), rng.uniform(4, 10), Tissue.BODY_CORTEX, turn=-above.angle
                )

    def _paint_sacrum(self) -> None:
        rng, size = self.rng, self.size
        x, y, angle = self.sacrum_top
        # The sacrum's own axis leads further back than the normal of its plate.
        angle += math.radians(rng.normal(7, 6))
        off = abs(self.sacrum_offset)
        bend = rng.uniform(0.4, 1.5)
        gap_mm = rng.uniform(0.8, 3.0) if rng.uniform() < 0.85 else rng.uniform(3.0, 6.0)
        wall_half = 33.0 / 2 * size
        for number, (height, depth, turn) in enumerate(_SACRUM_DOWN):
            next_depth = _SACRUM_DOWN[number + 1][1] if number + 1 < len(_SACRUM_DOWN) else 7.0
            height_mm, top, bottom = (
                height * size * rng.normal(1, 0.05),
                depth * size / 2,
                next_depth * size / 2,
            )
            front_shift = (top - bottom) * rng.uniform(0.2, 0.7)
            cx, cy = x + math.sin(angle) * height_mm / 2, y + math.cos(angle) * height_mm / 2
            reach = 34.0
            v = _Vertebra(
                name="S", x=cx, y=cy, angle=angle, height=height_mm, depth=depth, wedge=0.0, offset=0.0
            )
            local = self._local(v, reach)
            if local is None:
                break
            box, back, up = local
            part = np.clip(0.5 - up / height_mm, 0, 1)
            half = top + (bottom - top) * part
            middle = front_shift * (part - 0.0) * 0.4
            gap = gap_mm if number else 0.0
            inside = (np.abs(up) < height_mm / 2 - gap / 2) & (np.abs(back - middle) < half)
            core = (np.abs(up) < height_mm / 2 - gap / 2 - 1.4) & (np.abs(back - middle) < half - 1.4)
            view, levels = self.tissue[box], self.level[box]
            if gap:
                scar = (np.abs(up - height_mm / 2) < gap) & (np.abs(back - middle) < half - 1)
                view[scar] = Tissue.LIGAMENT if gap_mm < 3 else Tissue.DISC
            view[inside] = Tissue.SACRUM_CORTEX
            view[inside & core] = Tissue.SACRUM
            levels[inside] = S1 if number == 0 else S1 + 1
            if number == 0:
                self.centres.append((cx, cy, float(S1)))
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
            self.ellipse(x, y, 4.0, 5.0, Tissue.SACRUM_CORTEX, turn=-angle)
            tip = self._box(x, y, 6)
            if tip is not None:
                near = self.tissue[tip] == Tissue.SACRUM_CORTEX
                self.level[tip][near & (self.level[tip] == NO_LEVEL)] = S1 + 1

    def _paint_findings(self) -> None:
        rng = self.rng
        if rng.uniform() < 0.05:
            first, count = int(rng.integers(0, 6)), int(rng.integers(2, 5))
            for v in self.vertebrae[first : first + count]:
                x, y = v.x + math.cos(v.angle) * v.depth / 2, v.y - math.sin(v.angle) * v.depth / 2
                self.ellipse(
                    x - rng.uniform(-8, 12), y - 4, rng.uniform(12, 28), 3.0, Tissue.METAL, turn=-v.angle
                )
        if rng.uniform() < 0.06:
            v = self.vertebrae[int(rng.integers(0, 9))]
            self.ellipse(
                v.x,
                v.y,
                rng.uniform(4, 11),
                rng.uniform(4, 9),
                int(rng.choice([Tissue.METAL, Tissue.CALCIFICATION, Tissue.SOFT])),
                over=(Tissue.BODY,),
            )


def _class_of(name: str) -> int:
    """Index into `LEVEL_CLASSES`: 0 for T10 and above."""
    return LEVEL_CLASSES.index(name) if name in LEVEL_CLASSES else 0
