"""One abdomen as functions of patient coordinates: the same body in every plane."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ctai_sam2.errors import InputError
from ctai_sam2.phantom.back_muscles import paint_back_muscles
from ctai_sam2.phantom.bowel import paint_bowel
from ctai_sam2.phantom.findings import paint_arms, paint_ascites, paint_hernia, paint_metal, paint_stoma
from ctai_sam2.phantom.frame import Bools, Floats, Frame, Spine, power
from ctai_sam2.phantom.labels import FAT_STREAK, Label
from ctai_sam2.phantom.organs import paint_organs
from ctai_sam2.phantom.parameters import PhantomParameters
from ctai_sam2.phantom.psoas import Psoas
from ctai_sam2.phantom.vertebrae import paint_posterior_elements, paint_vertebrae

_STREAK_SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_STREAK_SCORES = (1.2, 0.47, 0.25, 0.05, -0.2, -0.42, -0.8)


class Body:
    """The abdomen described by a set of parameters.

    Parameters
    ----------
    parameters : PhantomParameters
        The patient.

    Examples
    --------
    >>> from ctai_sam2.phantom.parameters import reference_parameters
    >>> from ctai_sam2.phantom.labels import masks_from_labels
    >>> sorted(masks_from_labels(Body(reference_parameters()).label_at(0.0, 0.0, 0.0)))
    ['L3', 'body', 'vertebra']
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
        self._table = (rng.uniform(0.0, 0.0016), rng.uniform(1.1, 2.2), rng.uniform(25, 75))
        self._belly_mm = rng.uniform(0.0, 12.0)
        self._layer_line_mm = rng.uniform(0.1, 0.55)
        # Streaks run mostly from front to back, bent and branching.
        self._streak_waves = rng.normal(0, 1, size=(6, 3)) * (0.32, 0.16, 0.05)
        self._patch_waves = rng.normal(0, 1, size=(4, 3)) * (0.09, 0.09, 0.05)
        self._streak_phases = rng.uniform(0, 2 * math.pi, size=10)

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

        Raises
        ------
        InputError
            Where coordinates are not finite, do not broadcast, or have over three dimensions.
        """
        x, y, z = (np.asarray(values, dtype=np.float32) for values in (x_mm, y_mm, z_mm))
        if max(x.ndim, y.ndim, z.ndim) > 3:
            raise InputError("coordinates have at most three dimensions", received=(x.ndim, y.ndim, z.ndim))
        if not all(np.isfinite(values).all() for values in (x, y, z)):
            raise InputError("coordinates must be finite")
        try:
            shape = np.broadcast_shapes(x.shape, y.shape, z.shape)
        except ValueError:
            raise InputError(
                "coordinates do not broadcast together", received=(x.shape, y.shape, z.shape)
            ) from None
        x, y, z = (values.reshape((1,) * (3 - values.ndim) + values.shape) for values in (x, y, z))
        frame = self._straighten(x, y, z)
        outside, wall, room = self._paint_trunk(frame)
        paint_organs(frame, self.parameters)
        paint_bowel(frame, self.parameters)
        paint_ascites(frame, self.parameters, room)
        paint_back_muscles(frame, self.parameters)
        paint_posterior_elements(frame, self.parameters)
        paint_vertebrae(frame, self.parameters, self.spine)
        for side, label in (("left", Label.PSOAS_LEFT), ("right", Label.PSOAS_RIGHT)):
            muscle = self.psoas[side]
            frame.paint(muscle.box_mm, muscle.contains, label)
        frame.labels[outside & (frame.labels != Label.AIR)] = Label.AIR
        paint_hernia(frame, self.parameters, wall, room)
        paint_stoma(frame, self.parameters, wall, room)
        paint_metal(frame, self.parameters)
        paint_arms(frame, self.parameters)
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
        total: Floats = np.zeros((1, 1, 1), dtype=np.float32)
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
        back_mm = np.full_like(shift, back)
        # The front of the belly stays where it is while the spine bends away from it.
        bulge = np.cos((z + 25) / np.float32(75)) - np.float32(math.cos(25 / 75))
        front_mm = np.maximum(front + shift * 0.7 + np.float32(self._belly_mm) * bulge, 30.0)
        y = y - np.float32(p.wall_centre_y_mm)
        if skin:
            side += p.sat_side_mm
            front_mm = front_mm + np.float32(p.sat_front_mm)
            # The back's skin bends less than the spine: fat fills the hollow of the loin.
            back_mm = back_depth_mm(p) - p.wall_centre_y_mm - np.float32(0.35) * shift
            notch = np.float32(p.back_notch_mm) * np.exp(-((x / 16.0) ** 2))
            y = np.where(y > 0, y + notch, y)
        scale_y = np.where(y < 0, 1 / front_mm, 1 / back_mm)
        u, v = x / (np.float32(side) * widening), y * scale_y
        n = p.outline_exponent
        level = (power(u, n) + power(v, n)) ** np.float32(1 / n)
        radius = np.hypot(x, y)
        return np.asarray(radius * (1 / np.maximum(level, 1e-3) - 1), dtype=np.float32)

    def _paint_trunk(self, frame: Frame) -> tuple[Bools, Floats, Floats]:
        """Paint skin, subcutaneous fat, wall and cavity.

        Returns what is outside the skin, and the depths (mm) below the wall's outer and inner surface.
        """
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
        line = np.minimum(np.abs(share - 0.36), np.abs(share - 0.72)) * p.wall_muscle_mm < self._layer_line_mm
        is_wall = (wall > 0.3) & (share < 1) & (wall_mm > 1.5) & ~line
        left = x > 0
        for where, on_left, on_right in (
            (is_rectus & ~outside, Label.RECTUS_LEFT, Label.RECTUS_RIGHT),
            (is_wall & ~outside & ~is_rectus, Label.WALL_LEFT, Label.WALL_RIGHT),
        ):
            labels[where & left] = on_left
            labels[where & ~left] = on_right
        if float(frame.coordinates[2].max()) > 0:
            self._paint_ribs(frame, wall)
        if float(frame.coordinates[2].min()) < -30:
            self._paint_iliac_wings(frame, wall)
        return outside, wall, wall - rim

    def _paint_ribs(self, frame: Frame, wall: Floats) -> None:
        """Paint the lowest ribs, which run forward and down within the wall."""
        p = self.parameters
        x, y, z = frame.coordinates
        pitch = p.vertebra_height_mm + p.disc_height_mm
        depth = wall - 0.55 * p.wall_muscle_mm
        bone = np.zeros(frame.labels.shape, dtype=bool)
        cartilage = np.zeros(frame.labels.shape, dtype=bool)
        z = z + np.float32(p.rib_drop_mm)
        for number, front_y in ((3.0, 8.0), (4.0, -35.0), (5.0, -75.0), (6.0, -110.0)):
            height = z - pitch * np.float32(number) - np.float32(1.15) * (y - 30)
            rib = (height / 8.5) ** 2 + (depth / 3.8) ** 2 < 1
            bone |= rib & (y > front_y)
            if p.rib_drop_mm > 0 and number > 4:
                cartilage |= rib & (y <= front_y)
        trunk = (np.abs(x) > 50) & (frame.labels != Label.AIR) & (frame.labels != Label.SKIN)
        bone &= trunk
        frame.labels[cartilage & trunk] = Label.CARTILAGE
        inner = bone & (np.abs(depth) < 2.0)
        frame.labels[bone] = Label.BONE
        frame.labels[inner] = Label.BONE_MARROW

    def _paint_iliac_wings(self, frame: Frame, wall: Floats) -> None:
        """Paint the iliac wings, thin plates within the wall from L4/5 down."""
        p = self.parameters
        x, y, z = frame.coordinates
        crest = -1.3 * (p.vertebra_height_mm + p.disc_height_mm) - 0.008 * (y - 5) ** 2
        below = crest - z
        half_thick = 2.5 + 2.5 * np.exp(-np.maximum(below, 0) / 15)
        depth = np.abs(wall - 0.8 * p.wall_muscle_mm)
        bone = (below > 0) & (depth < half_thick) & (np.abs(x) > 48) & (y < 60)
        bone &= (frame.labels != Label.AIR) & (frame.labels != Label.SKIN)
        inner = bone & (depth < half_thick - 1.5) & (below > 2)
        frame.labels[bone] = Label.BONE
        frame.labels[inner] = Label.BONE_MARROW

    def _paint_streaks(self, frame: Frame) -> None:
        """Mark fat streaks in muscle: the zero lines of a smooth field, more of them in the back."""
        share = self.parameters.imat_share
        if share <= 0.0:
            return
        labels = frame.labels
        muscle = (labels >= Label.RECTUS_LEFT) & (labels <= Label.PSOAS_RIGHT)
        found = np.nonzero(muscle)
        if found[0].size == 0:
            return
        x, y, z = (np.broadcast_to(c, labels.shape)[found] for c in frame.coordinates)
        kind = labels[found]
        back = (kind >= Label.ERECTOR_LEFT) & (kind <= Label.QUADRATUS_RIGHT)
        flat = (kind >= Label.RECTUS_LEFT) & (kind <= Label.WALL_RIGHT)
        streaks = _waves(self._streak_waves, self._streak_phases[:6], x, y, z)
        patches = _waves(self._patch_waves, self._streak_phases[6:], x, y, z)
        # The septum between multifidus and longissimus.
        septum = np.abs(x) - np.float32(0.8 * self.parameters.erector_half_width_mm) - 0.25 * (y - 45)
        score = 0.3 * patches - np.abs(streaks) + np.where(back, 0.25, 0.0) - np.where(flat, 0.35, 0.0)
        score = score + np.where(back, 0.9 * np.exp(-((septum / 1.4) ** 2)), 0.0)
        # The score's quantiles, measured over many seeds, turn a share into a threshold.
        hit = score > np.interp(share, _STREAK_SHARES, _STREAK_SCORES)
        labels[tuple(index[hit] for index in found)] |= FAT_STREAK

    def _paint_table(self, frame: Frame, x: Floats, y: Floats, z: Floats) -> None:
        p = self.parameters
        if not p.table:
            return
        if p.position == "supine":
            below = y - np.float32(back_depth_mm(p) + 3.0)
        else:
            surface = p.wall_centre_y_mm - p.wall_front_mm - p.sat_front_mm - 2.0
            below = np.float32(surface) - y
        below = below + (x * x) * np.float32(self._table[0])
        empty = frame.labels == Label.AIR
        reach = np.abs(x) < 215
        shell = (np.abs(below) < self._table[1]) | (np.abs(below - self._table[2]) < 1.0)
        foam = (below > 0) & (below < self._table[2])
        frame.labels[empty & reach & foam] = Label.TABLE_FOAM
        frame.labels[empty & reach & shell] = Label.TABLE_SHELL


def back_depth_mm(parameters: PhantomParameters) -> float:
    """Return the y of the skin of the back at L3, next to the furrow."""
    return 28.0 + 2 * parameters.erector_half_depth_mm + parameters.sat_back_mm


def _waves(
    waves: npt.NDArray[np.float64], phases: npt.NDArray[np.float64], x: Floats, y: Floats, z: Floats
) -> Floats:
    """Return a sum of plane waves, about of unit variance."""
    total = np.zeros_like(x)
    for (kx, ky, kz), phase in zip(waves.astype(np.float32), phases.astype(np.float32), strict=True):
        total += np.sin(kx * x + ky * y + kz * z + phase)
    return np.asarray(total * np.float32(math.sqrt(2 / len(waves))))
