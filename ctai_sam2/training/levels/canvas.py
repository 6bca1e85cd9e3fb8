"""The canvas of a drawn spine: its tissues, the course of its vertebrae, and the shapes painted on it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.segmentation.levels.labels import LEVEL_CLASSES

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
LEVELS_UP = (
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
SACRUM_DOWN = (
    (30.0, 33.0, 4.0),
    (25.0, 22.0, -5.0),
    (21.0, 16.0, -13.0),
    (18.0, 12.0, -16.0),
    (15.0, 10.0, -14.0),
)


@dataclass(kw_only=True)
class Vertebra:
    """Where a vertebra lies in the plane, in pixels, and its size in mm."""

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


class SpineCanvas:
    """The label map while it is painted, and the numbers of the patient."""

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
        vertebrae: list[Vertebra] = []
        fracture_rate = 0.12 * self.porous
        self.gaps: list[tuple[float, float, float, float]] = []
        scale_walk = 1.0
        for index, (name, height, depth, disc, wedge, disc_wedge) in enumerate(LEVELS_UP):
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
                Vertebra(
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

    def box(self, x: float, y: float, reach: float) -> tuple[slice, slice] | None:
        """Rows and columns within reach of a pixel, or None outside the map."""
        top, bottom = int(max(y - reach, 0)), int(min(y + reach + 1, self.height))
        left, right = int(max(x - reach, 0)), int(min(x + reach + 1, self.width))
        return None if top >= bottom or left >= right else (slice(top, bottom), slice(left, right))

    def local(self, v: Vertebra, reach: float) -> tuple[tuple[slice, slice], Floats, Floats] | None:
        """Millimetres behind and above the middle of a vertebra, in a box about it."""
        box = self.box(v.x, v.y, reach)
        if box is None:
            return None
        dx, dy = self.columns[box] - np.float32(v.x), self.rows[box] - np.float32(v.y)
        c, s = np.float32(math.cos(v.angle)), np.float32(math.sin(v.angle))
        return box, c * dx - s * dy, -(s * dx + c * dy)

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
        box = self.box(x, y, max(rx, ry) + 1)
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

    def wave(self, along: Floats, amplitude: float) -> Floats:
        """Gentle random undulation along a border, pixels."""
        rng = self.rng
        total = np.zeros_like(along)
        for length, share in ((70.0, 0.25), (130.0, 0.6), (260.0, 1.0)):
            total += np.float32(rng.normal(0, amplitude * share)) * np.sin(
                along / length * 6.28 + rng.uniform(0, 6.3)
            )
        return total.astype(np.float32)

    def width_factor(self, v: Vertebra) -> float:
        """How much of the body's depth the plane still meets."""
        half_width = 0.62 * v.depth + 2.0
        ratio = abs(v.offset) / half_width
        return 0.0 if ratio >= 1 else (1 - ratio**3.2) ** (1 / 2.6)


def class_of(name: str) -> int:
    """Index into `LEVEL_CLASSES`: 0 for T10 and above."""
    return LEVEL_CLASSES.index(name) if name in LEVEL_CLASSES else 0
