"""The psoas: a sheared superellipse at every z, so that its area is known in closed form."""

from __future__ import annotations

import math

import numpy as np

from ctai_sam2.phantom.frame import Bools, Box, Floats, power
from ctai_sam2.phantom.parameters import PhantomParameters

# Linear scale of the cross-section, and shifts (mm), along the level's number (T12 = 3 … S1 = -3).
_LEVEL = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 2.45)
_SCALE = (0.95, 1.0, 1.08, 1.10, 1.0, 0.74, 0.42, 0.25)
_LATERAL_MM = (30.0, 24.0, 14.0, 5.0, 0.0, -1.0, -1.0, -1.0)
_POSTERIOR_MM = (-34.0, -24.0, -12.0, -3.0, 0.0, 1.0, 2.0, 2.0)


class Psoas:
    """One psoas muscle in coordinates relative to the spine's centre line.

    Parameters
    ----------
    parameters : PhantomParameters
        The patient.
    side : {1, -1}
        1 is the patient's left.
    """

    def __init__(self, parameters: PhantomParameters, *, side: int) -> None:
        p = parameters
        self._side = side
        self._pitch_mm = p.vertebra_height_mm + p.disc_height_mm
        gain = math.sqrt(1 + side * p.asymmetry)
        self._half_width_mm = p.psoas_half_width_mm * gain
        self._half_depth_mm = p.psoas_half_depth_mm * gain
        self._exponent = p.psoas_exponent
        self._bend = p.psoas_bend
        self._tilt = p.psoas_tilt
        self._centre_y_mm = p.psoas_y_mm
        self._vertebra_mm = p.vertebra_half_width_mm
        self._waist = p.vertebra_waist
        self._height_mm = p.vertebra_height_mm
        self._gap_mm = p.psoas_gap_mm
        rng = np.random.default_rng([p.detail_seed, 5, 1 + side])
        self._ripple = rng.uniform(0.0, 0.14, size=2) * min(1.0, p.warp_mm / 1.5)
        self._ripple_phase = rng.uniform(0, 2 * math.pi, size=2)
        self._skew = float(rng.uniform(-0.2, 0.2)) * min(1.0, p.warp_mm / 1.5)
        self._reach = self._medial_reach()
        widest = self._half_width_mm * 1.10
        reach = self._vertebra_mm * 1.1 + self._gap_mm + 30 + widest * (self._reach + 2.6)
        deep = self._half_depth_mm * 1.10
        self.box_mm: Box = (
            0.0 if side > 0 else -reach,
            reach if side > 0 else 0.0,
            self._centre_y_mm - 34 - 1.25 * deep,
            self._centre_y_mm + 2 + 1.25 * deep,
            _LEVEL[0] * self._pitch_mm,
            _LEVEL[-1] * self._pitch_mm,
        )

    def _shear(self, t: Floats) -> Floats:
        # Lateral shift in half-widths along t (-1 front … 1 back): moves points of equal t
        # together, which keeps the area.
        t = np.clip(t, -1.3, 1.3)
        ripple = self._ripple[0] * np.sin(4.0 * t + self._ripple_phase[0])
        ripple = ripple + self._ripple[1] * np.sin(6.5 * t + self._ripple_phase[1])
        return np.asarray(self._bend * (1 - t * t) + self._tilt * t + ripple)

    def _medial_reach(self) -> float:
        """Return how far the outline reaches medially of its centre, in half-widths."""
        angle = np.linspace(0, 2 * math.pi, 721)
        n = self._exponent
        radius = (np.abs(np.cos(angle)) ** n + np.abs(np.sin(angle)) ** n) ** (-1 / n)
        u, t = radius * np.cos(angle), radius * np.sin(angle)
        t = t + self._skew * u
        return float(-(u + self._shear(t)).min())

    def contains(self, x_mm: Floats, y_mm: Floats, z_mm: Floats) -> Bools:
        """Return whether points (mm, relative to the spine) lie in the muscle."""
        a, b, centre_x, centre_y = self._section(z_mm)
        t = (y_mm - centre_y) / b
        u = (self._side * x_mm - centre_x) / a - self._shear(t)
        t = t - np.float32(self._skew) * u
        level = np.asarray(z_mm / self._pitch_mm)
        inside = power(u, self._exponent) + power(t, self._exponent) <= 1
        return np.asarray(inside & (level >= _LEVEL[0]) & (level <= _LEVEL[-1]))

    def _section(self, z_mm: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        level = z_mm / np.float32(self._pitch_mm)
        scale = np.interp(level, _LEVEL, _SCALE).astype(np.float32)
        a, b = self._half_width_mm * scale, self._half_depth_mm * scale
        # Vertebral bodies grow by 3 % a level towards the sacrum and are waisted; the margin
        # covers their growing in steps.
        within = (level - np.round(level)) * np.float32(2 * self._pitch_mm / self._height_mm)
        waist = 1 - self._waist * np.maximum(1 - within * within, 0)
        bone = self._vertebra_mm * (1 - 0.03 * level) * waist + 0.3
        centre_x = (
            bone + self._gap_mm + a * self._reach + np.interp(level, _LEVEL, _LATERAL_MM).astype(np.float32)
        )
        centre_y = self._centre_y_mm + np.interp(level, _LEVEL, _POSTERIOR_MM).astype(np.float32)
        return (np.asarray(a), np.asarray(b), np.asarray(centre_x), np.asarray(centre_y))
