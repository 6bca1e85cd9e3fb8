"""Which slices a range of levels has, which of them are decoded, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest

import numpy as np

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.measure.definitions import TissueDefinitions
from ctai_sam2.segmentation.levels.volume import find_levels
from ctai_sam2.segmentation.volume.result import LevelRange, SliceMask, VolumeResult
from ctai_sam2.structures import LEVELS, Structure, require_structures
from ctai_sam2.types import CTVolume

_LOW_PROBABILITY = 0.7


def expand_structures(structures: Sequence[Structure]) -> tuple[Structure, ...]:
    """List the structures to segment; ``psoas`` stands for both sides."""
    wanted: list[Structure] = []
    for name in require_structures(structures):
        wanted += ("psoas_left", "psoas_right") if name == "psoas" else (name,)
    return tuple(dict.fromkeys(wanted))


def find_level_ranges(
    volume: CTVolume, levels: tuple[str, str], indices: tuple[int, int] | None
) -> tuple[LevelRange, ...]:
    """Find all levels of a volume, from the lowest up; none where slices are given and no spine is seen."""
    unknown = [name for name in levels if name not in LEVELS]
    if unknown or len(levels) != 2:
        raise InputError(
            "a range is two vertebral levels", received=levels, hint=f"Known: {', '.join(LEVELS)}."
        )
    try:
        found = find_levels(volume)
    except AnatomyNotFound:
        if indices is None:
            raise
        return ()
    positions = np.asarray(volume.slice_positions_mm)
    places = np.arange(positions.size)
    ranges = [
        LevelRange(
            name=one.name,
            lower_mm=float(np.interp(one.lower_index, places, positions)),
            upper_mm=float(np.interp(one.upper_index, places, positions)),
            probability=one.probability,
        )
        for one in found
        if one.name in LEVELS
    ]
    return tuple(sorted(ranges, key=lambda one: one.lower_mm))


def range_of(
    volume: CTVolume,
    found: Sequence[LevelRange],
    levels: tuple[str, str],
    indices: tuple[int, int] | None,
) -> list[int]:
    """Return the slices of a range of levels, or between two indices, ascending."""
    depth = volume.shape_zyx[0]
    if indices is not None:
        if len(indices) != 2 or not all(isinstance(index, int | np.integer) for index in indices):
            raise InputError(
                "a range is a first and a last slice", received=indices, hint="Give indices=(20, 64)."
            )
        first, last = sorted(int(index) for index in indices)
        if first < 0 or last >= depth:
            raise InputError(
                "the range is outside the volume", received=indices, hint=f"Slices are 0 to {depth - 1}."
            )
        return list(range(first, last + 1))
    ends = sorted(LEVELS.index(name) for name in levels)
    within = [one for one in found if ends[0] <= LEVELS.index(one.name) <= ends[1]]
    if not within:
        raise AnatomyNotFound(
            f"none of the levels {LEVELS[ends[0]]} to {LEVELS[ends[1]]} was found in the volume",
            hint="Give indices=(first, last) to choose the slices yourself.",
        )
    low, high = min(one.lower_mm for one in within), max(one.upper_mm for one in within)
    positions = np.asarray(volume.slice_positions_mm)
    # A slice stands for half a step on each side: those that reach into the range cover its ends.
    half = np.asarray(volume.slice_extents_mm) / 2
    return [int(i) for i in np.flatnonzero((positions + half >= low) & (positions - half <= high))]


def spread_slices(
    volume: CTVolume, span: Sequence[int], every_mm: float | None, kept: Collection[int]
) -> list[int]:
    """Slices to decode: all, or the first, the last, anchors, and one at most every so many mm."""
    if every_mm is None:
        return list(span)
    if not (np.isfinite(every_mm) and every_mm > 0):
        raise InputError("the distance between decoded slices must be more than 0 mm", received=every_mm)
    positions = np.asarray(volume.slice_positions_mm)
    chosen = [span[0]]
    for index, following in zip_longest(span[1:], span[2:]):
        if (
            following is None
            or index in kept
            or positions[following] - positions[chosen[-1]] > every_mm + 1e-6
        ):
            chosen.append(index)
    return chosen


def runs_of(indices: Sequence[int]) -> list[tuple[int, ...]]:
    """Split ascending indices where they are not consecutive."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return [tuple(run) for run in runs]


def runs_within(order: Sequence[int], chosen: Collection[int]) -> list[tuple[int, ...]]:
    """Split the chosen of some ascending indices where others of them lie between.

    Examples
    --------
    >>> runs_within([2, 5, 8, 11, 14], {2, 8, 11})
    [(2,), (8, 11)]
    """
    runs: list[list[int]] = [[]]
    for index in order:
        if index in chosen:
            runs[-1].append(index)
        elif runs[-1]:
            runs.append([])
    return [tuple(run) for run in runs if run]


def finish_volume(
    volume: CTVolume,
    span: Sequence[int],
    found: tuple[LevelRange, ...],
    levels: tuple[str, str],
    indices: tuple[int, int] | None,
    masks: Mapping[Structure, Mapping[int, SliceMask]],
    definitions: TissueDefinitions,
) -> VolumeResult:
    """Make the result of what was segmented on a range, with what is to be said of it."""
    return VolumeResult(
        volume=volume,
        indices=tuple(span),
        levels=found,
        structure_slices=masks,
        definitions=definitions,
        warnings=(*volume.warnings, *warnings_of_volume(volume, found, levels, indices, masks)),
    )


def warnings_of_volume(
    volume: CTVolume,
    found: Sequence[LevelRange],
    levels: tuple[str, str],
    indices: tuple[int, int] | None,
    masks: Mapping[Structure, Mapping[int, SliceMask]],
) -> tuple[str, ...]:
    """Say what is missing, uncertain or implausible about a segmented range."""
    said = []
    ends = sorted(LEVELS.index(name) for name in levels)
    names = {one.name for one in found}
    if indices is None:
        missing = [name for name in LEVELS[ends[0] : ends[1] + 1] if name not in names]
        if missing:
            said.append(f"{', '.join(missing)}: not found in the volume; volumes leave them out")
        unsure = [one.name for one in found if one.name in LEVELS[ends[0] : ends[1] + 1]]
        unsure = [one.name for one in found if one.name in unsure and one.probability < _LOW_PROBABILITY]
        if unsure:
            said.append(f"{', '.join(unsure)}: the level's name is uncertain; check it on the sagittal view")
    said += _uneven_steps(volume, sorted({i for slices in masks.values() for i in slices}))
    return (*said, *warnings_of_gates(masks))


def warnings_of_gates(masks: Mapping[Structure, Mapping[int, SliceMask]]) -> tuple[str, ...]:
    """Name the slices that are implausible, one sentence for each structure that has some."""
    said = []
    for structure, slices in masks.items():
        red = sorted(i for i, one in slices.items() if one.gate == "red")
        if red:
            said.append(f"{structure}: implausible on {len(red)} slices ({_listed(red)}); look at them")
    return tuple(said)


def _uneven_steps(volume: CTVolume, indices: Sequence[int]) -> list[str]:
    """Name gaps in the range: what lies in them is interpolated between the slices next to them."""
    if len(indices) < 2:
        return ["a single slice: no volume can be measured"]
    steps = np.diff(np.asarray(volume.slice_positions_mm)[list(indices)])
    usual = float(np.median(steps))
    wide = [float(step) for step in steps if step > 1.5 * usual]
    if not wide:
        return []
    return [f"{len(wide)} gaps between slices, up to {max(wide):.0f} mm: volumes are interpolated there"]


def _listed(indices: Sequence[int]) -> str:
    runs = runs_of(indices)
    parts = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:6]]
    return ", ".join(parts) + (" …" if len(runs) > 6 else "")
