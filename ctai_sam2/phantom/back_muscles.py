"""The muscles of the back: paraspinal compartments and quadratus lumborum."""

from __future__ import annotations

import math

import numpy as np

from ctai_sam2.phantom.frame import Bools, Floats, Frame, power
from ctai_sam2.phantom.labels import Label
from ctai_sam2.phantom.parameters import PhantomParameters

_FAR_MM = 1e6
_LOIN_MM = (-85.0, 110.0)
_LEVELS = (-3.5, -2.4, -1.2, 1.5, 5.0)
_THICKNESS = (0.4, 0.75, 1.0, 1.0, 0.7)


def paint_back_muscles(frame: Frame, parameters: PhantomParameters) -> None:
    """Paint both sides, each muscle in a thin coat of fat."""
    for side, erector, quadratus in (
        (1, Label.ERECTOR_LEFT, Label.QUADRATUS_LEFT),
        (-1, Label.ERECTOR_RIGHT, Label.QUADRATUS_RIGHT),
    ):
        _paint_quadratus(frame, parameters, side, quadratus)
        _paint_erector(frame, parameters, side, erector)


def _paint_erector(frame: Frame, p: PhantomParameters, side: int, label: int) -> None:
    gain = math.sqrt(1 + side * p.asymmetry)
    a, b = p.erector_half_width_mm * gain, p.erector_half_depth_mm * gain
    centre_x, centre_y = side * (a + 2.0), 24.0 + p.erector_half_depth_mm
    pitch = np.float32(p.vertebra_height_mm + p.disc_height_mm)

    def grown(grow: float, x: Floats, y: Floats, z: Floats) -> Bools:
        u = side * (x - np.float32(centre_x)) / np.float32(a + grow)
        # Thinner over the sacrum and the ribs; the front stays in place.
        thick = np.interp(z / pitch, _LEVELS, _THICKNESS).astype(np.float32)
        v = (y - np.float32(centre_y) + (1 - thick) * np.float32(b)) / (b * thick + np.float32(grow))
        # The lateral end stands further forward than the medial one.
        v = v + np.float32(0.28) * u * np.abs(u)
        return np.asarray(power(u, 2.6) + power(v, 2.3) < 1)

    box = (
        centre_x - a - 3,
        centre_x + a + 3,
        centre_y - 1.4 * b - 3,
        centre_y + 1.4 * b + 3,
        -_FAR_MM,
        _FAR_MM,
    )
    frame.paint(box, lambda x, y, z: grown(1.5, x, y, z), Label.INTERMUSCULAR_FAT)

    def columns(x: Floats, y: Floats, z: Floats) -> Bools:
        inside = grown(0.0, x, y, z)
        if p.erector_cleft_mm <= 0.0:
            return inside
        u = side * (x - np.float32(centre_x)) / np.float32(a)
        v = (y - np.float32(centre_y)) / np.float32(b)
        # Clefts open towards the back and close towards the spine, between multifidus, longissimus
        # and iliocostalis; they lean outward.
        opening = np.clip((v + 0.55) / 1.1, 0, 1) * np.float32(p.erector_cleft_mm / 2)
        bend = 0.22 * v + 0.06 * np.sin(4.0 * v)
        first = np.abs(u + np.float32(0.38) - bend) * np.float32(a) < opening
        second = np.abs(u - np.float32(0.36) - bend) * np.float32(a) < 0.7 * opening
        return np.asarray(inside & ~first & ~second)

    frame.paint(box, columns, label)


def _paint_quadratus(frame: Frame, p: PhantomParameters, side: int, label: int) -> None:
    gain = math.sqrt(1 + side * p.asymmetry)
    a, b = p.quadratus_half_width_mm * gain, p.quadratus_half_depth_mm * gain
    centre_x, centre_y = side * (44.0 + a), 19.0

    def grown(grow: float, x: Floats, y: Floats, z: Floats) -> Bools:
        u = side * (x - np.float32(centre_x)) / np.float32(a + grow)
        v = (y - np.float32(centre_y)) / np.float32(b + grow) - np.float32(0.35) * u
        return np.asarray((u * u + v * v < 1) & (z > _LOIN_MM[0]) & (z < _LOIN_MM[1]))

    box = (centre_x - a - 2, centre_x + a + 2, centre_y - 2 * b - 3, centre_y + 2 * b + 3, *_LOIN_MM)
    frame.paint(box, lambda x, y, z: grown(1.2, x, y, z), Label.INTERMUSCULAR_FAT)
    frame.paint(box, lambda x, y, z: grown(0.0, x, y, z), label)
