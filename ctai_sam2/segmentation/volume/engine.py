"""Segment a range of slices: automatic masks where they are plausible, propagation between them where not.

Each slice is embedded once. Structures are segmented automatically, slice by slice; gates compare neighbours.
Runs of slices that are not green are segmented again from the nearest plausible or confirmed slices on both
sides, and the better mask of each slice is kept. Nothing is propagated past a slice that stays red.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.interpolation import interpolate_masks
from ctai_sam2.image.masks import grow
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.measure.overlap import dice
from ctai_sam2.segmentation.axial import AxialSession
from ctai_sam2.segmentation.levels.volume import VertebraLevel, find_levels
from ctai_sam2.segmentation.results import PredictsMasks
from ctai_sam2.segmentation.volume.anchors import VolumeAnchor
from ctai_sam2.segmentation.volume.gates import judge_slice
from ctai_sam2.segmentation.volume.result import LevelRange, SliceMask, VolumeResult, crop_mask
from ctai_sam2.segmentation.volume.shapes import prompt_from_neighbour
from ctai_sam2.structures import AXIAL_STRUCTURES, LEVELS, Structure
from ctai_sam2.types import CTVolume, Mask, Progress, Window

FindsLevels: TypeAlias = Callable[[CTVolume], Sequence[VertebraLevel]]

_LOW_PROBABILITY = 0.7


@dataclass(frozen=True, kw_only=True)
class EngineParameters:
    """Constants of propagation.

    Attributes
    ----------
    margin_mm, margin_share : float
        The box of the next slice is larger than the mask by ``margin_mm + margin_share x step``. A margin of
        4 mm a step let the psoas flow into the quadratus lumborum (Dice 0.62 to 0.75 above L3, one stack).
    reach_mm, reach_share : float
        A propagated mask ends this far outside its neighbour: ``reach_mm + reach_share x step``.
    longest_run_mm : float
        No mask is propagated further than this from a plausible slice.
    """

    margin_mm: float = 1.0
    margin_share: float = 0.4
    reach_mm: float = 1.5
    reach_share: float = 0.8
    longest_run_mm: float = 60.0


def segment_volume(
    volume: CTVolume,
    segmenter: PredictsMasks,
    *,
    structures: Sequence[Structure] = ("psoas", "muscle"),
    levels: tuple[str, str] = ("T12", "L5"),
    indices: tuple[int, int] | None = None,
    anchors: Iterable[VolumeAnchor] = (),
    every_mm: float | None = None,
    window: Window = SOFT_TISSUE,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    parameters: EngineParameters | None = None,
    progress: Progress | None = None,
) -> VolumeResult:
    """Segment structures on every slice from one vertebral level to another.

    Parameters
    ----------
    volume : CTVolume
        The study.
    segmenter : PredictsMasks
        Any segmenter: local, service, cached or fallback.
    structures : sequence of str
        Of `ctai_sam2.structures.AXIAL_STRUCTURES`; ``psoas`` stands for both sides.
    levels : (str, str)
        Names of two vertebrae, in either order; both are included whole.
    indices : (int, int), optional
        First and last axial index instead of levels found in the volume.
    anchors : iterable of VolumeAnchor
        Masks drawn or confirmed by a reader: kept as they are, and guiding their neighbours.
    every_mm : float, optional
        Decode a slice at most every so many mm and interpolate the shapes between them.
    window, definitions
        As in `segment_axial`.
    parameters : EngineParameters, optional
        Other constants of propagation.
    progress : callable, optional
        Called with slices done, slices in all and the step's name.

    Returns
    -------
    VolumeResult
        Masks, table of slices, summary and warnings.

    Raises
    ------
    InputError
        If a structure or level is unknown, the range is outside the volume, or an anchor does not fit.
    AnatomyNotFound
        If levels are wanted and no spine is visible, or the range is not in the volume.
    SegmenterError
        If the segmenter fails; an outage is never an empty mask.

    Examples
    --------
    ::

        result = segment_volume(volume, segmenter, structures=("psoas",), levels=("L1", "L4"))
        result.summary[["structure", "level", "volume_cm3", "covered"]]
    """
    wanted = _expand(structures)
    found = _level_ranges(volume, levels, indices)
    span = _range_of(volume, found, levels, indices)
    fixed: dict[Structure, dict[int, VolumeAnchor]] = {name: {} for name in wanted}
    for anchor in anchors:
        anchor.require_within(volume)
        if anchor.structure not in fixed:
            raise InputError(
                "an anchor is for a structure that is not segmented",
                received=anchor.structure,
                hint=f"Segmented are {', '.join(wanted)}.",
            )
        fixed[anchor.structure][anchor.axial_index] = anchor
    engine = _Engine(
        volume=volume,
        segmenter=segmenter,
        window=window,
        definitions=definitions,
        parameters=EngineParameters() if parameters is None else parameters,
    )
    decoded = _every(volume, span, every_mm, {i for one in fixed.values() for i in one})
    automatic = engine.segment_automatically(wanted, decoded, fixed, progress)
    masks = {name: engine.complete(name, span, automatic[name], fixed[name]) for name in wanted}
    return VolumeResult(
        volume=volume,
        indices=tuple(span),
        levels=found,
        structure_slices=masks,
        definitions=definitions,
        warnings=(*volume.warnings, *_warnings(volume, found, levels, indices, masks)),
    )


def correct_volume(
    result: VolumeResult,
    anchors: Iterable[VolumeAnchor],
    segmenter: PredictsMasks,
    *,
    window: Window = SOFT_TISSUE,
    parameters: EngineParameters | None = None,
) -> VolumeResult:
    """Put corrected slices into a result and segment again up to the neighbouring anchors, both ways.

    Parameters
    ----------
    result : VolumeResult
        The result to correct; it is not changed.
    anchors : iterable of VolumeAnchor
        Corrected masks; earlier anchors stay.
    segmenter : PredictsMasks
        Any segmenter.
    window, parameters
        As in `segment_volume`.

    Raises
    ------
    InputError
        If an anchor is for a structure or slice outside the result.
    SegmenterError
        If the segmenter fails; ``result`` is unchanged.
    """
    engine = _Engine(
        volume=result.volume,
        segmenter=segmenter,
        window=window,
        definitions=result.definitions,
        parameters=EngineParameters() if parameters is None else parameters,
    )
    masks = {name: dict(found) for name, found in result.structure_slices.items()}
    for anchor in anchors:
        anchor.require_within(result.volume)
        if anchor.structure not in masks or anchor.axial_index not in result.indices:
            raise InputError(
                "an anchor is outside what was segmented",
                received=f"{anchor.structure} on slice {anchor.axial_index}",
                hint=f"Segmented: {', '.join(masks)}; slices {result.indices[0]} to {result.indices[-1]}.",
            )
        engine.correct(anchor.structure, result.indices, masks[anchor.structure], anchor)
    return replace(result, structure_slices=masks)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Engine:
    volume: CTVolume
    segmenter: PredictsMasks
    window: Window
    definitions: TissueDefinitions
    parameters: EngineParameters

    def segment_automatically(
        self,
        structures: Sequence[Structure],
        indices: Sequence[int],
        fixed: Mapping[Structure, Mapping[int, VolumeAnchor]],
        progress: Progress | None,
    ) -> dict[Structure, dict[int, SliceMask]]:
        """Segment each slice on its own; a slice on which a structure is not found has no entry."""
        found: dict[Structure, dict[int, SliceMask]] = {name: {} for name in structures}
        for done, index in enumerate(indices):
            if progress is not None:
                progress(done, len(indices), f"slice {index}")
            session = self._session(index)
            for name in structures:
                anchor = fixed[name].get(index)
                if anchor is not None:
                    found[name][index] = _slice_mask(anchor.mask, "anchor")
                    continue
                try:
                    result = session.segment(name)
                except AnatomyNotFound:
                    continue
                found[name][index] = _slice_mask(result.mask, "automatic", confidence=result.confidence)
        if progress is not None:
            progress(len(indices), len(indices), "")
        return found

    def complete(
        self,
        structure: Structure,
        span: Sequence[int],
        automatic: dict[int, SliceMask],
        fixed: Mapping[int, VolumeAnchor],
    ) -> dict[int, SliceMask]:
        """Judge slices, replace runs that are not green by propagation, fill what is left."""
        found = self._judged(structure, dict(automatic))
        plausible = [i for i in sorted(found) if found[i].gate == "green" or i in fixed]
        for run in _runs([i for i in automatic_span(span, automatic) if i not in set(plausible)]):
            self._propagate_into(structure, run, found, plausible)
        self._fill(span, found)
        return self._judged(structure, found)

    def correct(
        self, structure: Structure, span: Sequence[int], found: dict[int, SliceMask], anchor: VolumeAnchor
    ) -> None:
        """Lock a corrected slice and segment its surroundings again, up to the next anchors or agreement."""
        at = list(span).index(anchor.axial_index)
        found[anchor.axial_index] = _slice_mask(anchor.mask, "anchor")
        for direction in (1, -1):
            previous = anchor.mask
            for place in range(at + direction, len(span) if direction == 1 else -1, direction):
                index = span[place]
                if found[index].source == "anchor" or not previous.any():
                    break
                mask, confidence = self._from_neighbour(structure, previous, span[place - direction], index)
                before = found[index].full(mask.shape)
                if dice(mask, before) >= _SAME_DICE or self._distance(anchor.axial_index, index) > (
                    self.parameters.longest_run_mm
                ):
                    break
                other_anchor = _next_anchor(span, place, direction, found)
                if other_anchor is not None:
                    share = self._share(anchor.axial_index, index, other_anchor)
                    mask = interpolate_masks(mask, before, share**2, self._spacing)
                found[index] = _slice_mask(mask, "propagated", confidence=confidence)
                previous = mask
        found.update(self._judged(structure, found))

    @property
    def _spacing(self) -> tuple[float, float]:
        _, row_mm, column_mm = self.volume.spacing_zyx_mm
        return row_mm, column_mm

    def _session(self, index: int) -> AxialSession:
        return AxialSession.open(
            self.volume.axial(index), self.segmenter, window=self.window, definitions=self.definitions
        )

    def _distance(self, first: int, second: int) -> float:
        positions = np.asarray(self.volume.slice_positions_mm)
        return abs(float(positions[first] - positions[second]))

    def _share(self, start: int, at: int, end: int) -> float:
        return self._distance(start, at) / max(self._distance(start, end), 1e-9)

    def _judged(self, structure: Structure, found: dict[int, SliceMask]) -> dict[int, SliceMask]:
        shape = self.volume.shape_zyx[1:]
        order = sorted(found)
        judged: dict[int, SliceMask] = {}
        for place, index in enumerate(order):
            one = found[index]
            neighbours = {
                self._distance(index, other): found[other].full(shape)
                for other in order[max(place - 1, 0) : place + 2]
                if other != index
            }
            verdict = judge_slice(structure, one.full(shape), neighbours, one.confidence)
            if one.source in ("anchor", "absent"):
                judged[index] = replace(one, gate="green", reasons=())
            else:
                judged[index] = replace(one, gate=verdict.gate, reasons=verdict.reasons)
        return judged

    def _propagate_into(
        self,
        structure: Structure,
        run: Sequence[int],
        found: dict[int, SliceMask],
        plausible: Sequence[int],
    ) -> None:
        """Segment a run of slices from both ends and keep the better of automatic and propagated masks."""
        below = max((i for i in plausible if i < run[0]), default=None)
        above = min((i for i in plausible if i > run[-1]), default=None)
        upwards = {} if below is None else self._walk(structure, below, run, found)
        downwards = {} if above is None else self._walk(structure, above, tuple(reversed(run)), found)
        settled = set(plausible)
        ends = [i for i in (below, above) if i is not None]
        # From the plausible ends inwards, so that each slice is judged by neighbours that are settled.
        for index in sorted(run, key=lambda i: min((self._distance(i, end) for end in ends), default=0.0)):
            candidates = [ways[index] for ways in (upwards, downwards) if index in ways]
            if not candidates:
                continue
            mask, confidence = candidates[0]
            spread = None
            if len(candidates) == 2 and below is not None and above is not None:
                share = self._share(below, index, above)
                mask = interpolate_masks(candidates[0][0], candidates[1][0], share, self._spacing)
                confidence = min(candidates[0][1], candidates[1][1])
                spread = abs(int(candidates[0][0].sum()) - int(candidates[1][0].sum())) * (
                    self._spacing[0] * self._spacing[1] / 100
                )
            propagated = _slice_mask(mask, "propagated", confidence=confidence, spread_cm2=spread)
            found[index] = self._better(structure, index, found.get(index), propagated, found, settled)
            settled.add(index)

    def _better(
        self,
        structure: Structure,
        index: int,
        automatic: SliceMask | None,
        propagated: SliceMask,
        found: Mapping[int, SliceMask],
        settled: set[int],
    ) -> SliceMask:
        if automatic is None:
            return propagated
        shape = self.volume.shape_zyx[1:]
        order = sorted(i for i in settled if i != index and i in found)
        near = [
            max((i for i in order if i < index), default=None),
            min((i for i in order if i > index), default=None),
        ]
        neighbours = {self._distance(index, i): found[i].full(shape) for i in near if i is not None}
        scores = [
            judge_slice(structure, one.full(shape), neighbours, one.confidence).score
            for one in (automatic, propagated)
        ]
        return automatic if scores[0] >= scores[1] else propagated

    def _walk(
        self, structure: Structure, start: int, run: Sequence[int], found: Mapping[int, SliceMask]
    ) -> dict[int, tuple[Mask, float]]:
        """Propagate from a plausible slice through a run; stops where nothing is left or it gets too far."""
        masks: dict[int, tuple[Mask, float]] = {}
        previous, at = found[start].full(self.volume.shape_zyx[1:]), start
        for index in run:
            if not previous.any() or self._distance(start, index) > self.parameters.longest_run_mm:
                break
            mask, confidence = self._from_neighbour(structure, previous, at, index)
            masks[index] = (mask, confidence)
            previous, at = mask, index
        return masks

    def _from_neighbour(
        self, structure: Structure, mask: Mask, neighbour: int, index: int
    ) -> tuple[Mask, float]:
        step = self._distance(neighbour, index)
        p = self.parameters
        prompt = prompt_from_neighbour(
            mask, structure, self._spacing, margin_mm=p.margin_mm + p.margin_share * step
        )
        result = self._session(index).segment(structure, prompt=prompt)
        reach = grow(mask, p.reach_mm + p.reach_share * step, self._spacing)
        return np.asarray(result.mask & reach), float(result.confidence or 0.0)

    def _fill(self, span: Sequence[int], found: dict[int, SliceMask]) -> None:
        """Interpolate slices between two that have a mask; beyond the ends the structure is absent."""
        known = sorted(found)
        shape = self.volume.shape_zyx[1:]
        for index in span:
            if index in found:
                continue
            below = max((i for i in known if i < index), default=None)
            above = min((i for i in known if i > index), default=None)
            if below is None or above is None:
                found[index] = _slice_mask(np.zeros(shape, np.bool_), "absent")
                continue
            share = self._share(below, index, above)
            mask = interpolate_masks(found[below].full(shape), found[above].full(shape), share, self._spacing)
            found[index] = _slice_mask(mask, "interpolated")


_SAME_DICE = 0.97
"""A correction has no effect any more where propagated and present mask agree so well."""


def automatic_span(span: Sequence[int], automatic: Mapping[int, SliceMask]) -> list[int]:
    """Slices of the range that lie between the first and last automatic mask."""
    if not automatic:
        return []
    return [i for i in span if min(automatic) <= i <= max(automatic)]


def _next_anchor(
    span: Sequence[int], place: int, direction: int, found: Mapping[int, SliceMask]
) -> int | None:
    ahead = span[place:] if direction == 1 else tuple(reversed(span[: place + 1]))
    return next((i for i in ahead if found[i].source == "anchor"), None)


def _slice_mask(
    mask: Mask, source: str, *, confidence: float | None = None, spread_cm2: float | None = None
) -> SliceMask:
    corner, crop = crop_mask(mask)
    return SliceMask(
        corner_yx=corner,
        crop=crop,
        source=source,  # type: ignore[arg-type]
        confidence=confidence,
        spread_cm2=spread_cm2,
    )


def _expand(structures: Sequence[Structure]) -> tuple[Structure, ...]:
    unknown = [name for name in structures if name not in AXIAL_STRUCTURES]
    if unknown or not structures:
        raise InputError(
            "no such structure on axial slices",
            received=unknown or "none",
            hint=f"One of {', '.join(AXIAL_STRUCTURES)}.",
        )
    wanted: list[Structure] = []
    for name in structures:
        wanted += ["psoas_left", "psoas_right"] if name == "psoas" else [name]
    return tuple(dict.fromkeys(wanted))


def _level_ranges(
    volume: CTVolume, levels: tuple[str, str], indices: tuple[int, int] | None
) -> tuple[LevelRange, ...]:
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


def _range_of(
    volume: CTVolume,
    found: Sequence[LevelRange],
    levels: tuple[str, str],
    indices: tuple[int, int] | None,
) -> list[int]:
    depth = volume.shape_zyx[0]
    if indices is not None:
        first, last = sorted(indices)
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


def _every(volume: CTVolume, span: Sequence[int], every_mm: float | None, kept: set[int]) -> list[int]:
    """Slices to decode: all, or the first, the last, anchors, and one at most every so many mm."""
    if every_mm is None:
        return list(span)
    if not (np.isfinite(every_mm) and every_mm > 0):
        raise InputError("the distance between decoded slices must be more than 0 mm", received=every_mm)
    positions = np.asarray(volume.slice_positions_mm)
    chosen = [span[0]]
    for index, following in zip(span[1:], [*span[2:], None], strict=True):
        if (
            following is None
            or index in kept
            or positions[following] - positions[chosen[-1]] > every_mm + 1e-6
        ):
            chosen.append(index)
    return chosen


def _runs(indices: Sequence[int]) -> list[tuple[int, ...]]:
    """Split ascending indices where they are not consecutive."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return [tuple(run) for run in runs]


def _warnings(
    volume: CTVolume,
    found: Sequence[LevelRange],
    levels: tuple[str, str],
    indices: tuple[int, int] | None,
    masks: Mapping[Structure, Mapping[int, SliceMask]],
) -> tuple[str, ...]:
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
    for structure, slices in masks.items():
        red = sorted(i for i, one in slices.items() if one.gate == "red")
        if red:
            said.append(f"{structure}: implausible on {len(red)} slices ({_listed(red)}); look at them")
    return tuple(said)


def _listed(indices: Sequence[int]) -> str:
    runs = _runs(indices)
    parts = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:6]]
    return ", ".join(parts) + (" …" if len(runs) > 6 else "")
