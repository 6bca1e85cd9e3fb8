"""What an axial slice shows, roughly: where prompts and limits come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.body import body_of
from ctai_sam2.image.masks import fill_holes, remove_islands
from ctai_sam2.segmentation.anatomy.isotropic_grid import Grid
from ctai_sam2.segmentation.anatomy.psoas import Side, find_psoas
from ctai_sam2.segmentation.anatomy.trunk import MUSCLE_HU, Trunk, find_trunk
from ctai_sam2.segmentation.anatomy.vertebra import disc_open, find_vertebral_body
from ctai_sam2.types import CTSlice, Mask

Compartment = Literal["psoas_left", "psoas_right", "back_left", "back_right", "wall_left", "wall_right"]

_ISLAND_MM2 = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class AxialAnatomy:
    """Rough outlines on the grid of one millimetre.

    Parameters
    ----------
    grid : Grid
        The slice at one millimetre a pixel.
    trunk : Trunk
        Body, fascia, cavity and vertebral body.
    psoas : mapping of {"left", "right"} to ndarray of bool
        The sides that were found.
    missing : mapping of str to AnatomyNotFound
        The sides that were not, and why.
    muscle : ndarray of bool, shape (h, w)
        Skeletal muscle between fascia and cavity.
    spine : ndarray of bool, shape (h, w)
        Bone of the slice, vertebral body and canal: no muscle.
    """

    grid: Grid
    trunk: Trunk
    psoas: Mapping[Side, Mask]
    missing: Mapping[Side, AnatomyNotFound]
    muscle: Mask
    spine: Mask

    def compartments(self) -> dict[Compartment, Mask]:
        """Divide the muscle into psoas, back and wall of either side."""
        x, y = self.trunk.vertebra.centre_xy
        radius = self.trunk.vertebra.radius_mm
        rows, columns = np.mgrid[: self.muscle.shape[0], : self.muscle.shape[1]]
        left = columns > x
        psoas = np.zeros_like(self.muscle)
        parts: dict[Compartment, Mask] = {}
        if "left" in self.psoas:
            parts["psoas_left"] = self.psoas["left"] & self.muscle
            psoas |= self.psoas["left"]
        if "right" in self.psoas:
            parts["psoas_right"] = self.psoas["right"] & self.muscle
            psoas |= self.psoas["right"]
        back = (rows > y + radius) & (np.abs(columns - x) < 5.5 * radius)
        rest = self.muscle & ~psoas
        parts["back_left"], parts["back_right"] = rest & back & left, rest & back & ~left
        parts["wall_left"], parts["wall_right"] = rest & ~back & left, rest & ~back & ~left
        return {name: part for name, part in parts.items() if part.any()}


def find_axial_anatomy(ct_slice: CTSlice) -> AxialAnatomy:
    """Find body, spine, fascia, cavity and muscles of an axial slice.

    Raises
    ------
    AnatomyNotFound
        If body, vertebral body or muscle wall is not visible; a missing psoas is reported in the result.
    """
    grid = Grid.of(ct_slice)
    body = grid.mask_to_grid(body_of(ct_slice))
    vertebra = find_vertebral_body(grid.hu, body)
    trunk = find_trunk(grid.hu, body, vertebra)
    psoas: dict[Side, Mask] = {}
    missing: dict[Side, AnatomyNotFound] = {}
    sides: tuple[Side, Side] = ("left", "right")
    for side in sides:
        try:
            psoas[side] = find_psoas(grid.hu, trunk, side)
        except AnatomyNotFound as error:
            missing[side] = error
    spine = vertebra.bone | vertebra.mask | _canal(trunk)
    in_range = (grid.hu >= MUSCLE_HU[0]) & (grid.hu <= MUSCLE_HU[1])
    between = trunk.fascia & ~trunk.cavity
    for outline in psoas.values():
        between |= outline
    muscle = disc_open(in_range & between & ~spine, 0.5)
    return AxialAnatomy(
        grid=grid,
        trunk=trunk,
        psoas=psoas,
        missing=missing,
        muscle=remove_islands(muscle, _ISLAND_MM2),
        spine=spine,
    )


def _canal(trunk: Trunk) -> Mask:
    """Draw the box behind the vertebral body that holds the spinal canal, less what is bone."""
    x, y = trunk.vertebra.centre_xy
    radius = trunk.vertebra.radius_mm
    rows, columns = np.mgrid[: trunk.body.shape[0], : trunk.body.shape[1]]
    behind = (rows > y) & (rows < y + 2.1 * radius) & (np.abs(columns - x) < 0.7 * radius)
    # Closing reaches the corners between canal and arch, where no muscle lies either.
    arch = fill_holes(trunk.vertebra.bone)
    canal: Mask = behind | (arch & ~trunk.vertebra.bone)
    return canal
