"""Outlines of whole volumes: read one at a time, for a stack is large, and compared by Dice and volume."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctai_sam2.image.label_values import as_single_mask
from ctai_sam2.io.grids import Grid, same_places
from ctai_sam2.io.label_volumes import read_label_block
from ctai_sam2.measure.overlap import dice

LEVELS_TABLE = "levels.csv"
"""Name of the table of volumes that ``ctai-sam2 segment --levels`` writes."""

VOLUME_SUFFIX = "_volume_cm3"
_MEASURED = ("volume_cm3", "hu_mean")


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnVolume:
    """A structure's mask over many slices, in a file.

    Parameters
    ----------
    path : Path
        A label image with more than one slice.
    grid : Grid
        Where it lies in the patient.
    """

    path: Path
    grid: Grid

    def lies_with(self, other: DrawnVolume) -> bool:
        """Tell whether both have the same voxels at the same places."""
        mine, theirs = self.grid, other.grid
        return mine.shape_zyx == theirs.shape_zyx and same_places(mine.affine, theirs.affine, mine.shape_zyx)


@dataclass(frozen=True, kw_only=True)
class VolumeOverlap:
    """Agreement of two outlines of one structure over a whole volume.

    Parameters
    ----------
    case, structure : str
        Names of the case and of the structure.
    dice : float
        Of all voxels together, 0 to 1.
    first_cm3, second_cm3 : float
        Volume within each outline, whatever its HU.
    difference_percent : float
        First minus second, in per cent of their mean; 0 where both are empty.
    """

    case: str
    structure: str
    dice: float
    first_cm3: float
    second_cm3: float
    difference_percent: float


def compare_volumes(
    cases: Mapping[str, tuple[Mapping[str, DrawnVolume], Mapping[str, DrawnVolume]]],
) -> tuple[tuple[VolumeOverlap, ...], list[str]]:
    """Compare what both outlined over whole volumes.

    Parameters
    ----------
    cases : mapping of str to (mapping of str to DrawnVolume, the same)
        By case, either reader's by structure.

    Returns
    -------
    tuple of (overlaps, names of those on different grids)

    Raises
    ------
    InputError
        If a file is gone or damaged meanwhile, or holds more than one structure.
    """
    overlaps, apart = [], []
    for case, (firsts, seconds) in cases.items():
        for structure, first in firsts.items():
            second = seconds.get(structure)
            if second is None:
                continue
            if first.lies_with(second):
                overlaps.append(_overlap_of(case, structure, first, second))
            else:
                apart.append(f"{structure} of {case[:40]}")
    return tuple(overlaps), apart


def values_of_levels(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Flatten a table of levels to one row: ``muscle_volume_cm3`` of all, ``muscle_L3_volume_cm3`` of L3.

    Examples
    --------
    >>> values_of_levels([{"structure": "muscle", "level": "L3", "volume_cm3": "310.5", "hu_mean": ""}])
    {'muscle_L3_volume_cm3': '310.5', 'muscle_L3_hu_mean': ''}
    """
    return {
        f"{row['structure']}{'' if row['level'] == 'all' else '_' + str(row['level'])}_{name}": row[name]
        for row in rows
        for name in _MEASURED
        if name in row
    }


def _overlap_of(case: str, structure: str, first: DrawnVolume, second: DrawnVolume) -> VolumeOverlap:
    masks = [as_single_mask(read_label_block(one.path)[0], what=one.path.name) for one in (first, second)]
    voxel_cm3 = abs(float(np.linalg.det(first.grid.affine[:3, :3]))) / 1000
    one, other = (float(mask.sum()) * voxel_cm3 for mask in masks)
    mean = (one + other) / 2
    rows = [mask.reshape(len(mask), -1) for mask in masks]
    return VolumeOverlap(
        case=case,
        structure=structure,
        dice=dice(rows[0], rows[1]),
        first_cm3=one,
        second_cm3=other,
        difference_percent=100 * (one - other) / mean if mean else 0.0,
    )
