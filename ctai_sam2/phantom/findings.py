"""What only some patients have: ascites, hernia, stoma, metal, arms next to the trunk."""

from __future__ import annotations

import numpy as np

from ctai_sam2.phantom.frame import Bools, Floats, Frame
from ctai_sam2.phantom.labels import Label
from ctai_sam2.phantom.parameters import PhantomParameters

_WALL = (
    Label.RECTUS_LEFT,
    Label.RECTUS_RIGHT,
    Label.WALL_LEFT,
    Label.WALL_RIGHT,
    Label.INTERMUSCULAR_FAT,
    Label.FASCIA,
)


def paint_ascites(frame: Frame, parameters: PhantomParameters, room: Floats) -> None:
    """Paint free fluid into the fat along the inside of the wall, in front of the retroperitoneum.

    Parameters
    ----------
    frame : Frame
        With organs and bowel painted.
    parameters : PhantomParameters
        Gives the depth.
    room : numpy.ndarray
        Depth (mm) below the inner surface of the wall.
    """
    p = parameters
    if p.ascites_mm <= 0.0:
        return
    rng = np.random.default_rng([p.detail_seed, 7])
    phase = rng.uniform(0, 6, size=3)
    x, y, z = frame.coordinates
    down = 1.0 if p.position == "supine" else -1.0
    # Fluid sinks to the flanks of the lying patient.
    lower = np.clip(1.0 + down * (y + 45.0) / 90.0, 0.15, 1.8)
    wavy = 1 + 0.3 * np.sin(x / 17 + phase[0]) * np.sin(y / 19 + phase[1] + z / 40)
    back = -6.0 - 8.0 * np.cos(x / 40 + phase[2])
    where = (room > 0) & (room < np.float32(p.ascites_mm) * lower * wavy) & (y < back)
    _write(frame, where, Label.ASCITES, over=(Label.VAT, Label.VESSEL))
    # It also parts liver and spleen from the wall.
    rim = (room > 0) & (room < np.float32(0.35 * p.ascites_mm) * wavy) & (y < back)
    _write(frame, rim, Label.ASCITES, over=(Label.LIVER, Label.SPLEEN))


def paint_hernia(frame: Frame, parameters: PhantomParameters, wall: Floats, room: Floats) -> None:
    """Paint a sac of fat and bowel in front of a gap in the linea alba.

    Parameters
    ----------
    frame : Frame
        With trunk and organs painted.
    parameters : PhantomParameters
        Gives the sac's radius.
    wall, room : numpy.ndarray
        Depths (mm) below the outer and the inner surface of the wall.
    """
    p = parameters
    radius = p.hernia_mm
    if radius <= 0.0:
        return
    rng = np.random.default_rng([p.detail_seed, 8])
    x0, z0 = rng.uniform(-12, 12), rng.uniform(-20, 20)
    x, y, z = frame.coordinates
    across = ((x - x0) ** 2 + (z - z0) ** 2) / radius**2
    front = y < p.wall_centre_y_mm
    # No thicker than the fat it lies in.
    half = min(0.7 * radius, 0.42 * p.sat_front_mm)
    level = across + ((wall + half) / half) ** 2
    _write(frame, front & (across < 0.2) & (wall > -2) & (room < 2), Label.VAT, over=_WALL)
    _write(frame, front & (level < 1), Label.FASCIA, over=(Label.SAT, Label.FASCIA))
    inner = front & (level < 0.86) & (wall < 0)
    _write(frame, inner, Label.VAT, over=(Label.FASCIA,))
    if half > 5.0:
        loop = np.asarray((x - x0 - 0.25 * radius) ** 2 + (z - z0) ** 2) / (0.5 * radius) ** 2
        loop = loop + ((wall + half) / (0.62 * half)) ** 2
        _write(frame, inner & (loop < 1), Label.BOWEL_WALL, over=(Label.VAT,))
        _write(frame, inner & (loop < 0.6), Label.BOWEL_FLUID, over=(Label.BOWEL_WALL,))


def paint_stoma(frame: Frame, parameters: PhantomParameters, wall: Floats, room: Floats) -> None:
    """Paint a loop of bowel through one rectus and the fat in front of it to the outside.

    Parameters
    ----------
    frame : Frame
        With trunk and organs painted, and air outside.
    parameters : PhantomParameters
        Gives the loop's radius.
    wall, room : numpy.ndarray
        Depths (mm) below the outer and the inner surface of the wall.
    """
    p = parameters
    radius = p.stoma_mm
    if radius <= 0.0:
        return
    rng = np.random.default_rng([p.detail_seed, 9])
    side = float(rng.choice((-1, 1)))
    x0 = side * (p.linea_alba_mm / 2 + p.rectus_half_width_mm * rng.uniform(0.9, 1.3))
    z0 = rng.uniform(-15, 15)
    x, y, z = frame.coordinates
    # Over the skin it is a bud.
    beyond = np.maximum(-wall - p.sat_front_mm, 0.0) / 9.0
    across = ((x - x0) ** 2 + (z - z0) ** 2) / radius**2 + beyond**2
    tube = (y < p.wall_centre_y_mm) & (across < 1) & (room < 14)
    over = (*_WALL, Label.SAT, Label.SKIN, Label.VAT, Label.VESSEL, Label.AIR)
    _write(frame, tube, Label.BOWEL_WALL, over=over)
    _write(frame, tube & (across < 0.45), Label.BOWEL_STOOL, over=(Label.BOWEL_WALL,))


def paint_metal(frame: Frame, parameters: PhantomParameters) -> None:
    """Paint a rod on each side behind the joints and, at the pedicles, screws that lead to it.

    The screws end behind the vertebral bodies, so that these keep their exact area.
    """
    p = parameters
    radius = np.float32(p.metal_mm)
    if radius <= 0.0:
        return
    pitch = np.float32(p.vertebra_height_mm + p.disc_height_mm)
    depth = p.vertebra_half_depth_mm * 1.12
    x, y, z = frame.coordinates
    across, back = np.abs(x), y - np.float32(depth)
    operated = (z > -1.8 * pitch) & (z < 1.4 * pitch)
    rod = (across - 21.0) ** 2 + (back - 26.0) ** 2 < (radius * 1.1) ** 2
    turn = np.round(z / pitch)
    line = 14.5 + 0.25 * back
    screw = (across - line) ** 2 + (z - turn * pitch - 5.0) ** 2 < radius * radius
    screw = screw & (back > 1.0) & (back < 26.0)
    where = operated & (rod | screw)
    inside = ~np.isin(frame.labels, (Label.AIR, Label.SKIN, Label.SAT))
    frame.labels[np.broadcast_to(where, frame.labels.shape) & inside] = Label.METAL


def paint_arms(frame: Frame, parameters: PhantomParameters) -> None:
    """Paint a forearm on each side, next to the trunk."""
    p = parameters
    if not p.arms_down:
        return
    rng = np.random.default_rng([p.detail_seed, 10])
    trunk = (p.wall_half_width_mm + p.sat_side_mm) * (1 + max(p.waist, 0.0))
    fat = 3.0 + 0.25 * p.sat_side_mm
    for side in (1, -1):
        a, b = rng.uniform(26, 36) + 0.5 * fat, rng.uniform(22, 32) + 0.5 * fat
        x0, y0 = side * (trunk + a + rng.uniform(6, 22)), rng.uniform(-30, 30)
        turn = rng.uniform(0, np.pi)
        x, y, _ = frame.coordinates
        level = ((x - x0) / a) ** 2 + ((y - y0) / b) ** 2
        core = ((x - x0) / (a - fat)) ** 2 + ((y - y0) / (b - fat)) ** 2
        bone = np.zeros(level.shape, dtype=bool)
        for sign in (1, -1):
            off = sign * 0.4 * (b - fat)
            bone = bone | (np.hypot(x - x0 - off * np.cos(turn), y - y0 - off * np.sin(turn)) < 5.5)
        _write(frame, level < 1, Label.ARM_FAT, over=(Label.AIR,))
        _write(frame, core < 1, Label.ARM_MUSCLE, over=(Label.ARM_FAT,))
        _write(frame, bone, Label.ARM_BONE, over=(Label.ARM_MUSCLE,))


def _write(frame: Frame, where: Bools, label: int, *, over: tuple[int, ...]) -> None:
    allowed: Bools = np.isin(frame.labels, over)
    found = np.broadcast_to(where, frame.labels.shape) & allowed
    frame.labels[found] = label
