"""Kidneys, liver, spleen, great vessels and the small vessels of the mesentery."""

from __future__ import annotations

import math

import numpy as np

from ctai_sam2.phantom.frame import Bools, Box, Floats, Frame, power
from ctai_sam2.phantom.labels import Label
from ctai_sam2.phantom.parameters import PhantomParameters


def paint_organs(frame: Frame, parameters: PhantomParameters) -> None:
    """Paint the solid organs and vessels into the fat of the cavity."""
    p = parameters
    rng = np.random.default_rng([p.detail_seed, 2])
    _paint_small_vessels(frame, rng)
    _paint_liver_and_spleen(frame, p, rng)
    for side in (1, -1):
        _paint_kidney(frame, p, rng, side)
    _paint_great_vessels(frame, p, rng)
    _paint_psoas_neighbours(frame, p, rng)


def _paint_psoas_neighbours(frame: Frame, p: PhantomParameters, rng: np.random.Generator) -> None:
    """Paint what lies on the psoas and looks like it: crura, ureters, gonadal vessels."""
    pitch = p.vertebra_height_mm + p.disc_height_mm
    end = rng.uniform(-0.1, 0.9) * pitch
    for side in (1, -1):
        out, thick = side * rng.uniform(13, 20), rng.uniform(2.5, 5.0)
        middle = -p.vertebra_half_depth_mm - 7.0
        _paint_ellipsoid(frame, (out, middle, end + 120), (thick, 17.0, 120.0), Label.CRUS)
        for _ in range(2):
            x0 = side * (p.vertebra_half_width_mm + rng.uniform(6, 30))
            y0, radius = p.psoas_y_mm - p.psoas_half_depth_mm - rng.uniform(0, 6), rng.uniform(1.5, 3.0)
            _paint_ellipsoid(frame, (x0, y0, -60.0), (radius, radius, 170.0), Label.VESSEL)


def _paint_small_vessels(frame: Frame, rng: np.random.Generator) -> None:
    """Paint tubes where two smooth fields vanish together: dots and short branches in any plane."""
    waves = rng.normal(0.0, 0.1, size=(2, 4, 3)).astype(np.float32)
    phases = rng.uniform(0, 2 * math.pi, size=(2, 4)).astype(np.float32)

    def vessel(x: Floats, y: Floats, z: Floats) -> Bools:
        fields = [
            sum(
                np.sin(waves[f, k, 0] * x + waves[f, k, 1] * y + waves[f, k, 2] * z + phases[f, k])
                for k in range(4)
            )
            for f in range(2)
        ]
        return np.asarray(fields[0] ** 2 + fields[1] ** 2 < 0.1)

    frame.paint((-120.0, 120.0, -150.0, -12.0, -1e6, 1e6), vessel, Label.VESSEL, over=(Label.VAT,))


def _paint_liver_and_spleen(frame: Frame, p: PhantomParameters, rng: np.random.Generator) -> None:
    pitch = p.vertebra_height_mm + p.disc_height_mm
    inner = p.wall_half_width_mm - p.wall_muscle_mm
    tip = rng.uniform(-0.3, 2.0) * pitch
    _paint_ellipsoid(
        frame,
        (-0.6 * inner, -0.3 * p.wall_front_mm, tip + 140.0),
        (0.45 * inner, 0.75 * p.wall_front_mm, 140.0),
        Label.LIVER,
        exponent=2.2,
    )
    low = rng.uniform(1.6, 3.2) * pitch
    front = p.wall_centre_y_mm - p.wall_front_mm
    _paint_ellipsoid(
        frame, (0.0, front + 52.0, low + 55.0), (0.55 * inner, 42.0, 55.0), Label.LIVER, exponent=2.2
    )
    # The pancreas bends over the spine.
    height, middle = rng.uniform(0.9, 1.9) * pitch, -p.vertebra_half_depth_mm - rng.uniform(32, 42)
    _paint_ellipsoid(frame, (-18.0, middle, height - 8), (24.0, 13.0, 20.0), Label.PANCREAS)
    _paint_ellipsoid(frame, (28.0, middle + 4, height + 6), (46.0, 9.0, 14.0), Label.PANCREAS)
    tip = rng.uniform(0.7, 2.2) * pitch
    _paint_ellipsoid(frame, (0.74 * inner, 0.0, tip + 60.0), (0.24 * inner, 42.0, 60.0), Label.SPLEEN)


def _paint_kidney(frame: Frame, p: PhantomParameters, rng: np.random.Generator, side: int) -> None:
    pitch = p.vertebra_height_mm + p.disc_height_mm
    half_length = rng.uniform(48, 60)
    lower_pole = rng.uniform(-0.75, 0.45) * pitch - (6 if side < 0 else 0)
    middle = lower_pole + half_length
    a, b = rng.uniform(27, 34), rng.uniform(20, 26)
    out = p.vertebra_half_width_mm + 2.1 * p.psoas_half_width_mm * 0.8 + a + rng.uniform(0, 8)
    back = rng.uniform(-14, -2)
    angle = rng.uniform(0.3, 0.9)
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    lobes = rng.uniform(0, 6, size=2)

    def local(x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats, Floats]:
        rise = (z - np.float32(middle)) / np.float32(half_length)
        # Lower poles stand further lateral and further forward.
        dx = side * x - np.float32(out) + 9 * rise
        dy = y - np.float32(back) - 5 * rise
        return cosine * dx + sine * dy, cosine * dy - sine * dx, rise

    def kidney(x: Floats, y: Floats, z: Floats) -> Bools:
        u, v, w = local(x, y, z)
        return np.asarray((u / a) ** 2 + (v / b) ** 2 + w * w < 1)

    def medulla(x: Floats, y: Floats, z: Floats) -> Bools:
        u, v, w = local(x, y, z)
        level = (u / a) ** 2 + (v / b) ** 2 + w * w
        turn = np.arctan2(v, u) * 5 + w * 9 + np.sin(0.3 * u + lobes[1])
        return np.asarray((level < 0.6) & (level > 0.2) & (np.sin(turn + lobes[0]) > 0.1))

    def sinus(x: Floats, y: Floats, z: Floats) -> Bools:
        u, v, w = local(x, y, z)
        wavy = 1 + 0.3 * np.sin(0.55 * v + 7 * w + lobes[1]) * np.cos(0.4 * u + lobes[0])
        return np.asarray(
            ((u + 0.5 * a) / (0.6 * a * wavy)) ** 2 + (v / (0.34 * b * wavy)) ** 2 + (w / 0.52) ** 2 < 1
        )

    reach = max(a, b) + 6
    box: Box = (
        side * out - reach - 10,
        side * out + reach + 10,
        back - reach - 5,
        back + reach + 5,
        middle - half_length,
        middle + half_length,
    )
    cortex = Label.KIDNEY_LEFT if side > 0 else Label.KIDNEY_RIGHT
    inner = Label.KIDNEY_MEDULLA_LEFT if side > 0 else Label.KIDNEY_MEDULLA_RIGHT

    def capsule(x: Floats, y: Floats, z: Floats) -> Bools:
        u, v, w = local(x, y, z)
        return np.asarray((u / (a + 4)) ** 2 + (v / (b + 4)) ** 2 + w * w < 1.1)

    frame.paint(box, capsule, Label.VAT, over=(Label.VESSEL, Label.LIVER, Label.SPLEEN))
    frame.paint(box, kidney, cortex, over=(Label.VAT,))
    frame.paint(box, medulla, inner, over=(cortex,))
    frame.paint(box, sinus, Label.KIDNEY_SINUS, over=(cortex, inner))

    def hilum(x: Floats, y: Floats, z: Floats) -> Bools:
        u, v, w = local(x, y, z)
        bent = v + 3 * np.sin(0.15 * u + lobes[0])
        return np.asarray((bent / 3.5) ** 2 + ((w - 0.1) / 0.09) ** 2 < 1) & (u < 0) & (u > -a - 14)

    frame.paint(box, hilum, Label.VESSEL, over=(Label.KIDNEY_SINUS, Label.VAT))


def _paint_great_vessels(frame: Frame, p: PhantomParameters, rng: np.random.Generator) -> None:
    pitch = p.vertebra_height_mm + p.disc_height_mm
    fork = rng.uniform(-1.3, -0.8) * pitch
    aorta = rng.uniform(7.5, 11.0)
    cava_a, cava_b = rng.uniform(10.0, 14.0), rng.uniform(6.0, 11.0)
    front = -p.vertebra_half_depth_mm - 2.0

    def place(frame_label: int, x0: float, y0: float, a: float, b: float, split: float) -> None:
        def trunk(x: Floats, y: Floats, z: Floats) -> Bools:
            below = np.maximum(np.float32(split) - z, 0.0)
            narrow = np.where(below > 0, np.float32(0.68), np.float32(1.0))
            spread = np.minimum(below * 0.45, 60.0)
            off = np.where(below > 0, np.abs(x - x0) - spread, x - x0)
            return np.asarray((off / (a * narrow)) ** 2 + ((y - y0 + 0.05 * below) / (b * narrow)) ** 2 < 1)

        frame.paint(
            (x0 - a - 60, x0 + a + 60, y0 - b - 8, y0 + b + 1, -1e6, 1e6),
            trunk,
            frame_label,
            over=(Label.VAT, Label.VESSEL, Label.KIDNEY_SINUS, Label.LIVER),
        )

    place(Label.CAVA, -14.0 - rng.uniform(0, 5), front - cava_b, cava_a, cava_b, fork - 12)
    place(Label.AORTA, 6.0 + rng.uniform(0, 6), front - aorta, aorta, aorta, fork)


def _paint_ellipsoid(
    frame: Frame,
    centre_mm: tuple[float, float, float],
    half_axes_mm: tuple[float, float, float],
    label: int,
    *,
    exponent: float = 2.0,
) -> None:
    (cx, cy, cz), (a, b, c) = centre_mm, half_axes_mm

    def inside(x: Floats, y: Floats, z: Floats) -> Bools:
        return np.asarray(
            power((x - cx) / a, exponent) + power((y - cy) / b, exponent) + power((z - cz) / c, exponent) < 1
        )

    frame.paint(
        (cx - a, cx + a, cy - b, cy + b, cz - c, cz + c), inside, label, over=(Label.VAT, Label.VESSEL)
    )
