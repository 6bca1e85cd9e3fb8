"""One abdomen as functions of patient coordinates: the same body in every plane."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ctai_sam2.core.phantom.bowel import paint_bowel
from ctai_sam2.core.phantom.frame import Bools, Floats, Frame, Spine, power
from ctai_sam2.core.phantom.labels import FAT_STREAK, Label
from ctai_sam2.core.phantom.organs import paint_organs
from ctai_sam2.core.phantom.parameters import PhantomParameters
from ctai_sam2.core.phantom.psoas import Psoas
from ctai_sam2.core.phantom.vertebrae import paint_posterior_elements, paint_vertebrae

_FAR = 1e6


class Body:
    """The abdomen described by a set of parameters.

    Parameters
    ----------
    parameters : PhantomParameters
        The patient.

    Examples
    --------
    >>> from ctai_sam2.core.phantom.parameters import reference_parameters
    >>> int(Body(reference_parameters()).label_at(0.0, 0.0, 0.0)) == Label.BODY_TRABECULAR + 4
    True
    """

    def __init__(self, parameters: PhantomParameters) -> None:
        self.parameters = parameters
        self.spine = Spine(parameters)
        self.psoas = {"left": Psoas(parameters, side=1), "right": Psoas(parameters, side=-1)}
        rng = np.random.default_rng([parameters.detail_seed, 1])
        self._wavelengths_mm = rng.uniform(70, 220, size=(2, 3))
        self._phases = rng.uniform(0, 2 * math.pi, size=(2, 3))
        self._drifts = rng.uniform(-0.015, 0.015, size=(2, 3))
        self._amplitudes_mm = parameters.warp_mm * rng.uniform(0.2, 1.0, size=(2, 3)) / 1.5
        self._streak_phases = rng.uniform(0, 2 * math.pi, size=12)

    def label_at(
        self, x_mm: npt.ArrayLike, y_mm: npt.ArrayLike, z_mm: npt.ArrayLike
    ) -> npt.NDArray[np.uint8]:
        """Return what lies at the given points.

        Parameters
        ----------
        x_mm, y_mm, z_mm : array_like
            DICOM LPS coordinates in mm, broadcastable, at most three dimensions. Open grids
            (``y[:, None]``, ``x[None, :]``) are much faster than full ones.

        Returns
        -------
        numpy.ndarray
            uint8, the broadcast shape; values of `Label`, muscle with `FAT_STREAK` where a
            fat streak runs.
        """
        x, y, z = (np.asarray(values, dtype=np.float32) for values in (x_mm, y_mm, z_mm))
        shape = np.broadcast_shapes(x.shape, y.shape, z.shape)
        x, y, z = (values.reshape((1,) * (3 - values.ndim) + values.shape) for values in (x, y, z))
        frame = self._straighten(x, y, z)
        outside = self._paint_trunk(frame)
        paint_organs(frame, self.parameters)
        paint_bowel(frame, self.parameters)
        self._paint_back_muscles(frame)
        paint_posterior_elements(frame, self.parameters)
        paint_vertebrae(frame, self.parameters, self.spine)
        for side, label in (("left", Label.PSOAS_LEFT), ("right", Label.PSOAS_RIGHT)):
            muscle = self.psoas[side]
            frame.paint(muscle.box_mm, muscle.contains, label)
        frame.labels[outside & (frame.labels != Label.AIR)] = Label.AIR
        self._paint_streaks(frame)
        self._paint_table(frame, x, y, z)
        return frame.labels.reshape(shape)

    def _straighten(self, x: Floats, y: Floats, z: Floats) -> Frame:
        """Map patient coordinates to those of a straight, unrotated, regular body.

        Every step keeps areas within a plane of constant z: a rotation, shears, a shift.
        """
        angle = math.radians(self.parameters.rotation_deg)
        if angle != 0.0:
            cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
            x, y = cosine * x + sine * y, cosine * y - sine * x
        if self.parameters.warp_mm > 0.0:
            x = x + self._wave(0, y, z)
            y = y + self._wave(1, x, z)
        return Frame(x - self.spine.x_at(z), y - self.spine.y_at(z), z)

    def _wave(self, axis: int, along: Floats, z: Floats) -> Floats:
        total = np.float32(0.0)
        for index in range(3):
            frequency = np.float32(2 * math.pi / self._wavelengths_mm[axis, index])
            phase = z * np.float32(self._drifts[axis, index]) + np.float32(self._phases[axis, index])
            total = total + np.float32(self._amplitudes_mm[axis, index]) * np.sin(frequency * along + phase)
        return np.asarray(total, dtype=np.float32)

    def _depth(self, frame: Frame, *, skin: bool) -> Floats:
        """Return the distance (mm) along the ray to the wall's centre inside a closed outline."""
        p = self.parameters
        x, y, z = frame.coordinates
        widening = 1 + np.float32(p.waist) * (np.clip(z, -200, 200) / 120) ** 2
        shift = self.spine.y_at(z)
        side, front, back = p.wall_half_width_mm, p.wall_front_mm, p.wall_back_mm
        # The front of the belly stays where it is while the spine bends away from it.
        front_mm = np.maximum(front + shift * 0.7, 30.0).astype(np.float32)
        y = y - np.float32(p.wall_centre_y_mm)
        if skin:
            side += p.sat_side_mm
            front_mm = front_mm + np.float32(p.sat_front_mm)
            back = 20.0 + 2 * p.erector_half_depth_mm + 8.0 + p.sat_back_mm - p.wall_centre_y_mm
            notch = np.float32(p.back_notch_mm) * np.exp(-((x / 16.0) ** 2))
            y = np.where(y > 0, y + notch, y)
        scale_y = np.where(y < 0, 1 / front_mm, np.float32(1 / back))
        u, v = x / (np.float32(side) * widening), y * scale_y
        n = p.outline_exponent
        level = (power(u, n) + power(v, n)) ** np.float32(1 / n)
        radius = np.hypot(x, y)
        return np.asarray(radius * (1 / np.maximum(level, 1e-3) - 1), dtype=np.float32)

    def _paint_trunk(self, frame: Frame) -> Bools:
        """Paint skin, subcutaneous fat, wall and cavity; return what is outside the skin."""
        p = self.parameters
        labels = frame.labels
        x, y, _ = frame.coordinates
        depth = self._depth(frame, skin=True)
        labels[depth > 0] = Label.SKIN
        labels[depth > p.skin_mm] = Label.SAT
        outside: Bools = depth <= 0

        wall = self._depth(frame, skin=False)
        labels[(wall > -1.0) & ~outside] = Label.FASCIA
        labels[(wall > 0) & ~outside] = Label.INTERMUSCULAR_FAT
        across = np.abs(x)
        front = y < p.wall_centre_y_mm
        rectus_end = p.linea_alba_mm / 2 + 2 * p.rectus_half_width_mm
        rectus_middle = p.linea_alba_mm / 2 + p.rectus_half_width_mm
        offset = (across - rectus_middle) / p.rectus_half_width_mm
        in_front = front & (wall < 40)
        # Left and right differ by the same share as the other muscles.
        gain = 1 + np.sign(x) * np.float32(p.asymmetry)
        rectus_mm = p.rectus_mm * gain * (1 - power(np.clip(offset, -1, 1), 4.0))
        lateral_start = rectus_end + 4.0
        behind = np.float32(62.0) + 0.12 * np.float32(p.erector_half_width_mm)
        taper_front = np.where(front, np.clip((across - lateral_start) / 22.0, 0, 1), 1)
        taper_back = np.where(y > 0, np.clip((across - behind) / 18.0, 0, 1), 1)
        wall_mm = p.wall_muscle_mm * gain * np.sqrt(taper_front * taper_back)
        rim = np.where(in_front & (across < lateral_start), np.maximum(rectus_mm, 2.0), wall_mm) + 1.0
        cavity = wall > rim
        labels[cavity & ~outside] = Label.VAT
        is_rectus = in_front & (np.abs(offset) < 1) & (wall > 0.3) & (wall < rectus_mm)
        share = wall / np.maximum(wall_mm, 0.1)
        line = np.minimum(np.abs(share - 0.36), np.abs(share - 0.72)) * p.wall_muscle_mm < 0.45
        is_wall = (wall > 0.3) & (share < 1) & (wall_mm > 1.5) & ~line
        left = x > 0
        for where, on_left, on_right in (
            (is_rectus & ~outside, Label.RECTUS_LEFT, Label.RECTUS_RIGHT),
            (is_wall & ~outside & ~is_rectus, Label.WALL_LEFT, Label.WALL_RIGHT),
        ):
            labels[where & left] = on_left
            labels[where & ~left] = on_right
        return outside

    def _paint_back_muscles(self, frame: Frame) -> None:
        p = self.parameters
        half_width, half_depth = p.erector_half_width_mm, p.erector_half_depth_mm
        centre_y = 24.0 + half_depth
        for side, erector, quadratus in (
            (1, Label.ERECTOR_LEFT, Label.QUADRATUS_LEFT),
            (-1, Label.ERECTOR_RIGHT, Label.QUADRATUS_RIGHT),
        ):
            gain = math.sqrt(1 + side * p.asymmetry)
            a, b = half_width * gain, half_depth * gain
            centre_x = side * (a + 2.0)

            def sheath(x: Floats, y: Floats, z: Floats, grow: float = 0.0) -> Bools:
                u = side * (x - centre_x) / (a + grow)  # noqa: B023
                v = (y - centre_y) / (b + grow)  # noqa: B023
                # The lateral end stands further forward than the medial one.
                v = v + np.float32(0.28) * u * np.abs(u)
                return power(u, 2.6) + power(v, 2.3) < 1

            box = (
                min(centre_x - a, centre_x + a) - 3,
                max(centre_x - a, centre_x + a) + 3,
                centre_y - 1.4 * b - 3,
                centre_y + 1.4 * b + 3,
                -_FAR,
                _FAR,
            )
            qa, qb = p.quadratus_half_width_mm * gain, p.quadratus_half_depth_mm * gain
            qx, qy = side * (44.0 + qa), 19.0

            def loin(x: Floats, y: Floats, z: Floats, grow: float = 0.0) -> Bools:
                u = side * (x - qx) / (qa + grow)  # noqa: B023
                v = (y - qy) / (qb + grow) - np.float32(0.35) * u  # noqa: B023
                return (power(u, 2.0) + power(v, 2.0) < 1) & (z > -85) & (z < 110)

            loin_box = (min(qx - qa, qx + qa) - 2, max(qx - qa, qx + qa) + 2, qy - 2 * qb - 3, qy + 2 * qb + 3)
            frame.paint(
                (*loin_box, -85.0, 110.0),
                lambda x, y, z, f=loin: f(x, y, z, 1.2),
                Label.INTERMUSCULAR_FAT,
            )
            frame.paint((*loin_box, -85.0, 110.0), loin, quadratus)
            frame.paint(box, lambda x, y, z, f=sheath: f(x, y, z, 1.5), Label.INTERMUSCULAR_FAT)
            frame.paint(box, sheath, erector)

    def _paint_streaks(self, frame: Frame) -> None:
        """Mark fat streaks in muscle: warped sheets, denser near the spine of the back muscles."""
        share = self.parameters.imat_share
        if share <= 0.0:
            return
        labels = frame.labels
        muscle = (labels >= Label.RECTUS_LEFT) & (labels <= Label.PSOAS_RIGHT)
        found = np.nonzero(muscle)
        if found[0].size == 0:
            return
        x, y, z = (np.broadcast_to(c, labels.shape)[found] for c in frame.coordinates)
        phase = self._streak_phases.astype(np.float32)
        bend = 1.6 * np.sin(0.11 * x + 0.05 * z + phase[0]) + 1.6 * np.sin(0.13 * y - 0.04 * z + phase[1])
        sheets = np.sin(0.42 * x * np.sign(x) - 0.18 * y + 0.05 * z + bend + phase[2])
        patches = np.sin(0.09 * x + 0.16 * y + phase[3] + 0.06 * z) + np.sin(
            0.21 * x - 0.07 * y + phase[4] - 0.05 * z
        )
        grain = np.sin(0.9 * x + 0.5 * y + phase[5]) * np.sin(0.8 * y - 0.4 * x + 0.3 * z + phase[6])
        score = 1 - np.abs(sheets) + 0.22 * patches + 0.18 * grain
        kind = labels[found]
        back = (kind >= Label.ERECTOR_LEFT) & (kind <= Label.QUADRATUS_RIGHT)
        score = score + np.where(back, 0.12, np.where(kind >= Label.PSOAS_LEFT, -0.12, -0.05))
        # The score's upper quantiles, measured once over many seeds, turn a share into a threshold.
        threshold = np.interp(share, (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5), (1.7, 1.2, 1.05, 0.9, 0.7, 0.55, 0.32))
        hit = score > threshold
        labels[tuple(index[hit] for index in found)] |= FAT_STREAK

    def _paint_table(self, frame: Frame, x: Floats, y: Floats, z: Floats) -> None:
        p = self.parameters
        if not p.table:
            return
        if p.position == "supine":
            surface = 20.0 + 2 * p.erector_half_depth_mm + 8.0 + p.sat_back_mm + 2.0
            surface += max(0.0, float(self.spine.y_at(np.float32(100.0))) * 0.5)
            below = y - np.float32(surface)
        else:
            surface = p.wall_centre_y_mm - p.wall_front_mm - p.sat_front_mm - 2.0
            below = np.float32(surface) - y
        below = below + (x * x) * np.float32(0.0011)
        empty = frame.labels == Label.AIR
        reach = np.abs(x) < 215
        shell = (np.abs(below) < 1.2) | (np.abs(below - 62) < 1.2)
        foam = (below > 0) & (below < 62)
        frame.labels[empty & reach & foam] = Label.TABLE_FOAM
        frame.labels[empty & reach & shell] = Label.TABLE_SHELL
