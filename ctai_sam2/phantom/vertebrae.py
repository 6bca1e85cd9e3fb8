"""Vertebral bodies, discs, sacrum, canal, arches and processes."""

from __future__ import annotations

import math

import numpy as np

from ctai_sam2.phantom.frame import Bools, Floats, Frame, Spine, power
from ctai_sam2.phantom.labels import Label
from ctai_sam2.phantom.parameters import LEVEL_NAMES, PhantomParameters

_FRONT_EXPONENT = 2.3
_BACK_EXPONENT = 3.6
_L3 = LEVEL_NAMES.index("L3")
_SACRUM = LEVEL_NAMES.index("S1")
_FIRST_LUMBAR, _LAST_LUMBAR = LEVEL_NAMES.index("L1"), LEVEL_NAMES.index("L5")
_SWELLING = 1.6
"""Where bone that bridges two bodies ends, on the scale of their outline (1) to the power of its exponent."""


def paint_vertebrae(frame: Frame, parameters: PhantomParameters, spine: Spine) -> None:
    """Paint canal, bodies, discs and sacrum."""
    p = parameters
    half_width, half_depth = p.vertebra_half_width_mm * 1.12, p.vertebra_half_depth_mm * 1.12
    centre = p.vertebra_half_depth_mm + 9.0

    def canal(x: Floats, y: Floats, z: Floats) -> Bools:
        return power(x / 11.5, 2.4) + power((y - centre) / 8.5, 2.4) < 1

    def sac(x: Floats, y: Floats, z: Floats) -> Bools:
        return power(x / 8.5, 2.0) + power((y - centre + 0.8) / 6.5, 2.0) < 1

    low = -3.6 * (p.vertebra_height_mm + p.disc_height_mm)
    frame.paint((-12.0, 12.0, centre - 9, centre + 9, low, 1e6), canal, Label.EPIDURAL_FAT)
    frame.paint((-9.0, 9.0, centre - 9, centre + 9, low, 1e6), sac, Label.CANAL)

    for index in range(_SACRUM):
        middle, height = _middle_and_height_mm(p, index)
        reach = height / 2 + p.disc_height_mm + 14
        box = (-half_width, half_width, -half_depth, half_depth, middle - reach, middle + reach)
        block = frame.cut(box)
        if block is None:
            continue
        x, y, z = frame.points(block)
        a, b = _half_axes_mm(p, index, z - middle)
        along = _along_axis(p, spine, index, y, z)
        exponent = np.where(y < 0, np.float32(_FRONT_EXPONENT), np.float32(_BACK_EXPONENT))
        u, v = np.abs(x / a), np.abs(y / b)
        level = u**exponent + v**exponent
        end = height / 2 - _hollow_mm(p, index, y)
        from_end = end - np.abs(along)
        inside = (level <= 1) & (from_end >= 0)
        inner_a, inner_b = a - p.cortex_mm, b - p.cortex_mm
        core = np.abs(x / inner_a) ** exponent + np.abs(y / inner_b) ** exponent <= 1
        core = core & (from_end >= p.cortex_mm)
        view = frame.labels[block]
        next_middle, next_height = _middle_and_height_mm(p, index + 1)
        below = (along < -end) & (z > middle - height)
        if index + 1 < _SACRUM:
            next_end = next_height / 2 - _hollow_mm(p, index + 1, y)
            below &= _along_axis(p, spine, index + 1, y, z) > next_end
        else:
            below &= _sacral(p, spine, y, z)[1] > 0
        disc = (level <= 1.03) & below & (np.abs(z - (middle + next_middle) / 2) < p.disc_height_mm + 12)
        view[np.broadcast_to(disc, view.shape)] = Label.DISC + index
        if _LAST_LUMBAR - p.fused_discs <= index < _LAST_LUMBAR:
            # Bridged: the bodies keep their exact areas, and the muscles are painted over what swells out.
            bridge = disc | (
                (level <= _SWELLING) & below & (np.abs(z - (middle + next_middle) / 2) < height / 2)
            )
            view[np.broadcast_to(bridge, view.shape)] = Label.BONE
            view[np.broadcast_to(disc & (level <= 0.8), view.shape)] = Label.BONE_MARROW
        view[np.broadcast_to(inside, view.shape)] = Label.BODY_CORTEX + index
        view[np.broadcast_to(inside & core, view.shape)] = Label.BODY_TRABECULAR + index
    _paint_sacrum(frame, p, spine)


def paint_posterior_elements(frame: Frame, parameters: PhantomParameters) -> None:
    """Paint pedicles, laminae, spinous and transverse processes of every vertebra."""
    p = parameters
    depth = p.vertebra_half_depth_mm
    pitch = p.vertebra_height_mm + p.disc_height_mm
    low, high = -2.75 * pitch, 6.45 * pitch
    block = frame.cut((-62.0, 62.0, depth - 6, depth + 62, low, high))
    if block is None:
        return
    rng = np.random.default_rng([p.detail_seed, 6])
    x, y, z = frame.points(block)
    turn = np.round(z / np.float32(pitch))
    rise = z - turn * np.float32(pitch)
    across = np.abs(x)
    back = y - np.float32(depth)
    pedicle = (across > 10.5) & (across < 18.5) & (back > -4) & (back < 13) & (np.abs(rise - 5) < 8)
    # Laminae: a roof behind the canal, sloping outward and forward.
    roof = 19.5 - 0.62 * across
    lamina = (np.abs(back - roof) < 3.6) & (across < 19) & (rise < 9) & (rise > -14)
    joint = (power((across - 18) / 7.5, 2.0) + power((back - 13) / 7.0, 2.0) < 1) & (np.abs(rise) < 17)
    tip = 50.0 - 10.0 * (np.abs(turn) > 1)
    spinous_half = 2.4 + 1.6 * np.clip((back - 32) / 12, 0, 1)
    spinous_rise = np.abs(rise + 5.5 + 0.17 * (back - 20))
    spinous = (across < spinous_half) & (back > 17) & (back < tip) & (spinous_rise < 8 + 0.12 * (back - 18))
    span = across - 14
    # Transverse processes sweep back, more in some patients than in others.
    droop = 5.0 + np.float32(rng.uniform(0.1, 0.4)) * span
    transverse_end = 33 - 6 * (turn > 1) - 4 * (turn < -1)
    transverse = (
        (span > 0) & (span < transverse_end) & (np.abs(back - droop - 1.5) < 3.2) & (np.abs(rise - 2) < 5.5)
    )
    bone = pedicle | lamina | joint | spinous | transverse
    marrow = (pedicle & (across > 12) & (across < 17) & (np.abs(rise - 5) < 6.5)) | (
        (np.abs(back - roof) < 1.8) & lamina
    )
    marrow |= spinous & (spinous_half - across > 1.3) & (back < tip - 2) & (spinous_rise < 6)
    marrow |= transverse & (np.abs(back - droop - 1.5) < 1.8) & (span < transverse_end - 2)
    marrow |= joint & (power((across - 18) / 5.5, 2.0) + power((back - 13) / 5.0, 2.0) < 1)
    view = frame.labels[block]
    ligament = (across < 2.6) & (back > 19) & (back < tip - 2)
    view[np.broadcast_to(ligament & (view != Label.SAT) & (view != Label.SKIN), view.shape)] = Label.FASCIA
    view[np.broadcast_to(bone, view.shape)] = Label.BONE
    view[np.broadcast_to(marrow & bone, view.shape)] = Label.BONE_MARROW


def _middle_and_height_mm(p: PhantomParameters, index: int) -> tuple[float, float]:
    pitch = p.vertebra_height_mm + p.disc_height_mm
    # Thoracic discs are thinner.
    extra = 0.3 * p.disc_height_mm if index < _FIRST_LUMBAR else 0.0
    return (_L3 - index) * pitch, p.vertebra_height_mm + extra


def _half_axes_mm(p: PhantomParameters, index: int, from_middle_mm: Floats) -> tuple[Floats, Floats]:
    growth = 1 + 0.03 * (index - _L3)
    relative = np.clip(from_middle_mm / np.float32(p.vertebra_height_mm / 2), -1.2, 1.2)
    waist = 1 - np.float32(p.vertebra_waist) * (1 - relative * relative)
    # Narrower than the endplates in the middle, never wider than they are.
    waist = np.minimum(waist, 1.0)
    return p.vertebra_half_width_mm * growth * waist, p.vertebra_half_depth_mm * growth * waist


def _hollow_mm(p: PhantomParameters, index: int, y: Floats) -> Floats:
    """Return how deep (mm) the endplates sink below their rim."""
    half_depth = p.vertebra_half_depth_mm * (1 + 0.03 * (index - _L3))
    return np.asarray(np.float32(p.endplate_hollow_mm) * np.maximum(1 - (y / np.float32(half_depth)) ** 2, 0))


def _along_axis(p: PhantomParameters, spine: Spine, index: int, y: Floats, z: Floats) -> Floats:
    """Return the distance (mm) above a body's mid-plane, which stands across the spine."""
    middle, _ = _middle_and_height_mm(p, index)
    return np.asarray((z - middle) + np.float32(spine.slope_at(middle)) * y)


def _sacral(p: PhantomParameters, spine: Spine, y: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Return coordinates of the sacrum: across its axis (backward), and above its upper endplate."""
    pitch = p.vertebra_height_mm + p.disc_height_mm
    top = -2.5 * pitch - p.disc_height_mm * 0.1
    angle = math.radians(p.sacral_tilt_deg)
    # The frame's y is relative to the spine's line; undo that to have a straight bone.
    y = y + spine.y_at(z) - spine.y_at(np.asarray(top, dtype=np.float32))
    z = z - np.float32(top)
    return (
        np.asarray(y * np.float32(math.cos(angle)) + z * np.float32(math.sin(angle))),
        np.asarray(z * np.float32(math.cos(angle)) - y * np.float32(math.sin(angle))),
    )


def _paint_sacrum(frame: Frame, p: PhantomParameters, spine: Spine) -> None:
    depth = p.vertebra_half_depth_mm
    pitch = p.vertebra_height_mm + p.disc_height_mm
    block = frame.cut((-58.0, 58.0, -60.0, 90.0, -2.5 * pitch - 125, -2.5 * pitch + 30))
    if block is None:
        return
    x, y, z = frame.points(block)
    across, above = _sacral(p, spine, y, z)
    down = -above
    # Bending backward and tapering downward, as five fused segments.
    bend = 0.0022 * down * down
    front = -depth + 0.08 * down + bend * 0.6
    back = front + 2 * depth * np.exp(-np.maximum(down, 0) / 62.0)
    width = 52.0 - 0.32 * down
    length = 100.0
    inside = (down >= 0) & (down < length) & (across > front) & (across < back) & (np.abs(x) < width)
    margin = np.minimum(
        np.minimum(across - front, back - across),
        np.minimum(np.minimum(down, length - down), width - np.abs(x)),
    )
    segment = down / 26.0
    scar = (np.abs(segment - np.round(segment)) * 26.0 < 1.2) & (segment > 0.5)
    view = frame.labels[block]
    first = inside & (down < 26.0) & (np.abs(x) < p.vertebra_half_width_mm * 1.1)
    core = margin >= p.cortex_mm
    for where, label in (
        (inside, Label.SACRUM_CORTEX),
        (inside & core & ~scar, Label.SACRUM),
        (first, Label.BODY_CORTEX + _SACRUM),
        (first & core & ~scar, Label.BODY_TRABECULAR + _SACRUM),
    ):
        view[np.broadcast_to(where, view.shape)] = label
