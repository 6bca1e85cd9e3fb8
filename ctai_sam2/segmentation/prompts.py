"""From rough anatomy to prompts: points, box and mask in pixels of the slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.distances import box_of, depth_of
from ctai_sam2.segmentation.anatomy.axial import AxialAnatomy
from ctai_sam2.segmentation.anatomy.isotropic_grid import Grid
from ctai_sam2.segmentation.anatomy.psoas import Side
from ctai_sam2.structures import Structure
from ctai_sam2.types import Mask, Prompt
from ctai_sam2.types.checks import require_type

TAKES_PROMPT: tuple[Structure, ...] = ("psoas_left", "psoas_right", "muscle", "vertebra")
"""Structures of an axial slice that are segmented from a prompt; the others follow from them."""

_BOX_SLACK_MM = 1.5
_WALL_POINTS = 3
_BACK_POINTS = 2


def require_prompts(prompts: Mapping[str, Prompt] | None) -> dict[str, Prompt]:
    """Check prompts by structure: one under a name that takes none would be passed over without a word.

    Raises
    ------
    InputError
        If a name takes no prompt here, or a value is no prompt.
    """
    if prompts is not None and not isinstance(prompts, Mapping):
        raise InputError(
            "prompts are given by structure",
            received=type(prompts).__name__,
            hint='For example prompts={"psoas_left": Prompt.point(x, y)}.',
        )
    for name, prompt in (prompts or {}).items():
        if name not in TAKES_PROMPT:
            raise InputError(
                "no prompt is taken for this structure",
                received=str(name)[:40],
                hint=f"Give one for {', '.join(TAKES_PROMPT)}; fat follows from the muscle.",
            )
        require_type(prompt, Prompt, f"the prompt for {name}")
    return dict(prompts or {})


def make_axial_prompt(anatomy: AxialAnatomy, structure: Structure) -> Prompt:
    """Point at a structure of an axial slice.

    Parameters
    ----------
    anatomy : AxialAnatomy
        From `find_axial_anatomy`.
    structure : {"psoas_left", "psoas_right", "muscle", "vertebra"}
        What to point at.

    Returns
    -------
    Prompt
        In pixels of the slice.

    Raises
    ------
    AnatomyNotFound
        If the structure is not visible.
    InputError
        If there is no prompt for such a structure.
    """
    if structure == "psoas_left":
        return _psoas_prompt(anatomy, "left")
    if structure == "psoas_right":
        return _psoas_prompt(anatomy, "right")
    if structure == "muscle":
        return _muscle_prompt(anatomy)
    if structure == "vertebra":
        vertebra = anatomy.trunk.vertebra
        return region_prompt(anatomy.grid, vertebra.mask, positives=[vertebra.centre_xy])
    raise InputError("no prompt is made for such a structure", received=structure)


def region_prompt(
    grid: Grid,
    region: Mask,
    *,
    positives: Sequence[tuple[float, float]] = (),
    negatives: Sequence[tuple[float, float]] = (),
    with_mask: bool = False,
) -> Prompt:
    """Make a prompt in pixels of the slice from a region and points on the grid.

    Parameters
    ----------
    grid : Grid
        The grid the region is drawn on.
    region : ndarray of bool, shape (h, w)
        Gives the box, with a little slack, and the mask.
    positives, negatives : sequence of (x, y)
        Points on the grid.
    with_mask : bool
        Whether the mask goes in too.
    """
    points = [*positives, *negatives]
    rows, columns = np.nonzero(region)
    corners = np.array([[columns.min() - 0.5, rows.min() - 0.5], [columns.max() + 0.5, rows.max() + 0.5]])
    corners += np.array([[-_BOX_SLACK_MM], [_BOX_SLACK_MM]])
    (x0, y0), (x1, y1) = grid.points_to_slice(corners)
    height, width = grid.slice_shape_hw
    box = (
        float(max(x0, -0.5)),
        float(max(y0, -0.5)),
        float(min(x1, width - 0.5)),
        float(min(y1, height - 0.5)),
    )
    return Prompt(
        points_xy=grid.points_to_slice(points).astype(np.float32),
        labels=np.array([1] * len(positives) + [0] * len(negatives), np.int32),
        box_xyxy=box,
        mask=grid.mask_to_slice(region) if with_mask else None,
    )


def make_mask_prompt(
    region: Mask,
    spacing_mm: tuple[float, float],
    *,
    structure: str,
    positives: int = 2,
    apart_mm: float = 10.0,
    parts: Sequence[tuple[Mask, int, float]] = (),
    negatives: Sequence[tuple[Mask, int, float]] = (),
) -> Prompt:
    """Make a prompt from a mask on the slice: its box with a little slack, and points deep inside.

    Parameters
    ----------
    region : ndarray of bool, shape (H, W)
        Not empty.
    spacing_mm : tuple of float
        (row, column) spacing.
    structure : str
        What is meant.
    positives : int
        How many points in the region, unless parts are given.
    apart_mm : float
        Least distance between them.
    parts, negatives : sequence of (mask, count, apart_mm)
        Regions that get points of their own: instead of the region as a whole, and to be left out.

    Returns
    -------
    Prompt
        In pixels of the slice.
    """
    inside = [
        xy
        for part, count, apart in (parts or ((region, positives, apart_mm),))
        for xy in deepest_points(part, count, apart_mm=apart, spacing_mm=spacing_mm)
    ]
    outside = [
        xy
        for part, count, apart in negatives
        for xy in deepest_points(part, count, apart_mm=apart, spacing_mm=spacing_mm)
    ]
    rows, columns = np.nonzero(region)
    slack_y, slack_x = (_BOX_SLACK_MM / spacing for spacing in spacing_mm)
    height, width = region.shape
    return Prompt(
        points_xy=np.array([*inside, *outside], np.float32).reshape(-1, 2),
        labels=np.array([1] * len(inside) + [0] * len(outside), np.int32),
        box_xyxy=(
            float(max(columns.min() - 0.5 - slack_x, -0.5)),
            float(max(rows.min() - 0.5 - slack_y, -0.5)),
            float(min(columns.max() + 0.5 + slack_x, width - 0.5)),
            float(min(rows.max() + 0.5 + slack_y, height - 0.5)),
        ),
        structure=structure,
    )


def deepest_points(
    region: Mask, count: int, *, apart_mm: float, spacing_mm: tuple[float, float] = (1.0, 1.0)
) -> list[tuple[float, float]]:
    """Up to ``count`` points far from a region's border and from each other, deepest first, as (x, y)."""
    box = box_of(region)
    if box is None:
        return []
    top, left = box[0].start, box[1].start
    depth = depth_of(region, spacing_mm)[box]
    y, x = np.ogrid[: depth.shape[0], : depth.shape[1]]
    points: list[tuple[float, float]] = []
    for _ in range(count):
        row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
        if depth[row, column] <= 0:
            break
        points.append((float(column + left), float(row + top)))
        near = np.hypot((x - column) * spacing_mm[1], (y - row) * spacing_mm[0]) < apart_mm
        depth = np.where(near, 0.0, depth)
    return points


def _psoas_prompt(anatomy: AxialAnatomy, side: Side) -> Prompt:
    if side not in anatomy.psoas:
        raise anatomy.missing[side]
    region = anatomy.psoas[side]
    return region_prompt(
        anatomy.grid,
        region,
        positives=deepest_points(region, 2, apart_mm=10.0),
        negatives=[anatomy.trunk.vertebra.centre_xy],
    )


def _muscle_prompt(anatomy: AxialAnatomy) -> Prompt:
    positives: list[tuple[float, float]] = []
    for name, part in anatomy.compartments().items():
        count = {"psoas": 1, "back": _BACK_POINTS, "wall": _WALL_POINTS}[name.split("_")[0]]
        positives += deepest_points(part, count, apart_mm=40.0)
    if not positives:
        raise AnatomyNotFound("no skeletal muscle is visible on the slice")
    inside = deepest_points(anatomy.trunk.cavity, 2, apart_mm=60.0)
    return region_prompt(
        anatomy.grid,
        anatomy.muscle,
        positives=positives,
        negatives=[anatomy.trunk.vertebra.centre_xy, *inside],
        with_mask=True,
    )
