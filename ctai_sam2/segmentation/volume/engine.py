"""Segment slices of a range: automatic masks where they are plausible, propagation between them where not.

Each slice is framed and embedded once. Structures are segmented automatically, slice by slice; gates compare
neighbours. Runs of slices that are not green are segmented again from the nearest plausible or confirmed
slices on both sides, and the better mask of each slice is kept. Nothing is propagated past a slice that stays
red.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.interpolation import blend_masks, interpolate_masks
from ctai_sam2.image.masks import grow
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.measure.overlap import dice
from ctai_sam2.segmentation.axial_session import AxialSession
from ctai_sam2.segmentation.results import PredictsMasks
from ctai_sam2.segmentation.volume.anchors import VolumeAnchor
from ctai_sam2.segmentation.volume.follower import EngineParameters, Follower
from ctai_sam2.segmentation.volume.gates import (
    GATES,
    judge_slice,
    judge_slices,
    limits_of,
    place_of_end,
    typical_overlap,
)
from ctai_sam2.segmentation.volume.kept import KeepsSlices, key_of_slice
from ctai_sam2.segmentation.volume.ranges import runs_of, runs_within, spread_slices
from ctai_sam2.segmentation.volume.result import SliceMask, crop_mask, slice_mask_of
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTVolume, Mask, Window
from ctai_sam2.types.slice_follower import SliceFollower

_PASSES = 2
"""A run longer than a mask may be propagated is gone on with from what came out plausible, once."""
_MOST_AT_ONCE = 4
"""Slices worked on at the same time: memory grows with each."""
_SAME_DICE = 0.97
"""A correction has no effect any more where propagated and present mask agree so well."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Engine:
    """Segments the slices of a volume and settles them with their neighbours.

    Parameters
    ----------
    volume, segmenter, window, definitions, parameters
        As in `segment_volume`.
    kept : KeepsSlices, optional
        Where finished slices go and come from.
    run_key : str
        From `key_of_run`, with ``kept``.
    memory : SliceFollower, optional
        Follows masks from slice to slice, instead of prompts made from them.
    """

    volume: CTVolume
    segmenter: PredictsMasks
    window: Window = SOFT_TISSUE
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS
    parameters: EngineParameters = field(default_factory=EngineParameters)
    kept: KeepsSlices | None = None
    run_key: str = ""
    memory: SliceFollower | None = None

    @cached_property
    def _follower(self) -> Follower:
        return Follower(
            volume=self.volume,
            segmenter=self.segmenter,
            window=self.window,
            definitions=self.definitions,
            parameters=self.parameters,
            memory=self.memory,
        )

    def segment_automatically(
        self,
        structures: Sequence[Structure],
        indices: Sequence[int],
        fixed: Mapping[Structure, Mapping[int, VolumeAnchor]],
        report: Callable[[int, int], None] = lambda done, index: None,
    ) -> dict[Structure, dict[int, SliceMask]]:
        """Segment each slice on its own; a slice on which a structure is not found has no entry.

        Some slices are worked on at the same time, and only their masks stay in memory. ``report`` is called
        with slices done and the index of the last.
        """
        found: dict[Structure, dict[int, SliceMask]] = {name: {} for name in structures}
        pool = ThreadPoolExecutor(min(len(indices), _processors()) or 1, thread_name_prefix="slices")
        try:
            results = pool.map(lambda index: self._segment_slice(structures, index), indices)
            for done, (index, masks) in enumerate(zip(indices, results, strict=True), start=1):
                for name, one in masks.items():
                    found[name][index] = one
                report(done, index)
        finally:
            # An outage or an interruption must not wait for the slices in line.
            pool.shutdown(cancel_futures=True)
        for name in structures:
            for index in set(indices) & set(fixed[name]):
                found[name][index] = slice_mask_of(fixed[name][index].mask, "anchor")
        return found

    def _segment_slice(self, structures: Sequence[Structure], index: int) -> dict[Structure, SliceMask]:
        ct_slice = self.volume.axial(index)
        key = "" if self.kept is None else key_of_slice(self.run_key, ct_slice)
        known = None if self.kept is None else self.kept.read(index, key)
        if known is not None:
            return known
        session = AxialSession.open(
            ct_slice, self.segmenter, window=self.window, definitions=self.definitions
        )
        masks: dict[Structure, SliceMask] = {}
        for name in structures:
            with contextlib.suppress(AnatomyNotFound):
                result = session.segment(name)
                masks[name] = replace(
                    slice_mask_of(result.mask, "automatic", predicted=result.predicted),
                    confidence=result.confidence,
                )
        if self.kept is not None:
            self.kept.write(index, key, masks)
        return masks

    def look_closer(
        self, structure: Structure, looked: Sequence[int], found: Mapping[int, SliceMask]
    ) -> tuple[set[int], set[int]]:
        """Return slices to look at between those looked at, which cannot be interpolated.

        Parameters
        ----------
        structure : str
            Name of the structure.
        looked : sequence of int
            Slices looked at, ascending.
        found : mapping of int to SliceMask
            Those on which it was found.

        Returns
        -------
        tuple of (halfway to where the structure ends, within stretches in doubt)
        """
        judged = self._judged(structure, found)
        ends, doubtful = set(), set()
        for low, high in pairwise(looked):
            pair = [judged.get(low), judged.get(high)]
            if high - low < 2 or pair == [None, None]:
                continue
            if None in pair:
                ends.add((low + high) // 2)
            elif any(one is not None and one.gate != "green" for one in pair):
                between = range(low, high + 1)
                doubtful |= set(spread_slices(self.volume, between, self.parameters.doubtful_step_mm, ()))
        return ends, doubtful - set(looked)

    def complete(
        self,
        structure: Structure,
        span: Sequence[int],
        looked: Collection[int],
        automatic: Mapping[int, SliceMask],
    ) -> dict[int, SliceMask]:
        """Judge slices, replace runs that are not green by propagation, fill what is left."""
        found = self._judged(structure, automatic)
        self._hold_to_neighbours(structure, found)
        within = sorted(set(automatic_span(span, automatic)) & set(looked))
        for _ in range(_PASSES):
            plausible = [i for i in sorted(found) if found[i].gate == "green"]
            unsettled = set(within) - set(plausible)
            if not unsettled or not plausible:
                break
            for run in runs_within(within, unsettled):
                self._propagate_into(structure, run, found, plausible)
            found = self._judged(structure, found)
        self._leave_out_beyond_end(structure, found)
        self._fill(structure, span, found)
        return self._judged(structure, found)

    def follow(
        self,
        structure: Structure,
        span: Sequence[int],
        looked: Collection[int],
        starts: Mapping[int, SliceMask],
    ) -> dict[int, SliceMask]:
        """Follow a structure from some slices to all others looked at, fill what is left, and judge."""
        found = dict(starts)
        for run in runs_within(sorted(looked), set(looked) - set(starts)):
            self._propagate_into(structure, run, found, sorted(starts))
        found = self._judged(structure, found)
        self._leave_out_beyond_end(structure, found)
        self._fill(structure, span, found)
        return self._judged(structure, found)

    def _hold_to_neighbours(self, structure: Structure, found: dict[int, SliceMask]) -> None:
        """Take from each automatic mask what neither plausible neighbour has, and add what both have.

        A model that takes another muscle for the psoas does so on some slices and not on those next to them.
        """
        share = limits_of(structure).slack_share
        shape = self.volume.shape_zyx[1:]
        order = [index for index in sorted(found) if found[index].gate == "green"]
        if share is None:
            return
        held = {}
        for below, index, above in zip(order, order[1:], order[2:], strict=False):
            distances = self._distance(below, index), self._distance(index, above)
            if found[index].source != "automatic" or max(distances) > self.parameters.longest_gap_mm:
                continue
            lower, mask, upper = (found[i].full(shape) for i in (below, index, above))
            slack_mm = share * max(distances)
            missed = lower & upper & ~grow(mask, slack_mm, self._spacing)
            mask &= grow(lower | upper, slack_mm, self._spacing)
            corner, crop = crop_mask(mask | self._follower.within_limits(structure, index, missed))
            held[index] = replace(found[index], corner_yx=corner, crop=crop)
        found.update(held)

    def _leave_out_beyond_end(self, structure: Structure, found: dict[int, SliceMask]) -> None:
        """Drop masks above where a muscle that tapers off is over, up to the uppermost slice of a reader."""
        end_cm2 = limits_of(structure).end_cm2
        if end_cm2 is None or not found:
            return
        areas = {index: int(one.crop.sum()) for index, one in found.items()}
        drawn = [i for i, one in found.items() if one.source == "anchor" and one.crop.any()]
        plausible = [i for i, one in found.items() if one.gate == "green"] or list(found)
        start = max([max(plausible, key=lambda index: areas[index]), *drawn])
        upwards = [i for i in sorted(found) if i >= start]
        end = place_of_end(
            [areas[i] for i in upwards],
            [found[i].gate for i in upwards],
            smallest=end_cm2 * 100 / (self._spacing[0] * self._spacing[1]),
        )
        for index in upwards[max(end, 1) :]:
            # An empty slice of a reader stays: it says that the structure is absent.
            if found[index].source != "anchor":
                del found[index]

    def correct(
        self, structure: Structure, span: Sequence[int], found: dict[int, SliceMask], anchor: VolumeAnchor
    ) -> None:
        """Lock a corrected slice and segment its surroundings again, up to the next anchors or agreement."""
        at = list(span).index(anchor.axial_index)
        found[anchor.axial_index] = slice_mask_of(anchor.mask, "anchor")
        is_whole = self.memory is None and limits_of(structure).slack_share is None
        farthest = self.parameters.longest_whole_run_mm if is_whole else self.parameters.longest_run_mm
        for direction in (1, -1):
            last, previous = at, anchor.mask
            stops = self._stops(span, at, direction, found)
            step = self._follower.start(
                structure, anchor.axial_index, [span[place] for place in stops], found
            )
            for place in stops:
                if not previous.any():
                    break
                index = span[place]
                mask = before = found[index].full(anchor.mask.shape)
                is_end = found[index].source == "anchor"
                if not is_end:
                    if self._distance(anchor.axial_index, index) > farthest:
                        break
                    mask, predicted = step(previous, span[last], index)
                    is_end = dice(mask, before) >= _SAME_DICE
                    mask = before if is_end else mask
                if not is_end:
                    other_anchor = _next_anchor(span, place, direction, found)
                    if other_anchor is not None or is_whole:
                        ends = [farthest] if is_whole else []
                        if other_anchor is not None:
                            ends.append(self._distance(anchor.axial_index, other_anchor))
                        share = self._distance(anchor.axial_index, index) / min(ends)
                        mask = interpolate_masks(mask, before, share**2, self._spacing, drifts=False)
                    found[index] = slice_mask_of(mask, "propagated", predicted=predicted)
                between = [span[step] for step in range(last + direction, place, direction)]
                self._interpolate(structure, between, (span[last], previous), (index, mask), found)
                if is_end:
                    break
                last, previous = place, mask
        found.update(self._judged(structure, found))

    def _stops(
        self, span: Sequence[int], place: int, direction: int, found: Mapping[int, SliceMask]
    ) -> list[int]:
        """Return where to look from a slice on, up to the next anchor."""
        stops: list[int] = []
        while (stop := self._next_stop(span, place, direction, found)) is not None:
            stops.append(stop)
            place = stop
            if found[span[stop]].source == "anchor":
                break
        return stops

    def _next_stop(
        self, span: Sequence[int], place: int, direction: int, found: Mapping[int, SliceMask]
    ) -> int | None:
        """Return where to look next: as far as a step may be, and not past an anchor."""
        stop = None
        for step in range(place + direction, len(span) if direction == 1 else -1, direction):
            if (
                stop is not None
                and self._distance(span[place], span[step]) > self.parameters.correction_step_mm
            ):
                break
            stop = step
            if found[span[step]].source == "anchor":
                break
        return stop

    @property
    def _spacing(self) -> tuple[float, float]:
        _, row_mm, column_mm = self.volume.spacing_zyx_mm
        return row_mm, column_mm

    def _distance(self, first: int, second: int) -> float:
        positions = np.asarray(self.volume.slice_positions_mm)
        return abs(float(positions[first] - positions[second]))

    def _share(self, start: int, at: int, end: int) -> float:
        return self._distance(start, at) / max(self._distance(start, end), 1e-9)

    def _judged(self, structure: Structure, found: Mapping[int, SliceMask]) -> dict[int, SliceMask]:
        return judge_slices(self.volume, structure, found)

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
            mask, predicted = candidates[0]
            spread = None
            if len(candidates) == 2 and below is not None and above is not None:
                share = self._share(below, index, above)
                mask = interpolate_masks(
                    candidates[0][0], candidates[1][0], share, self._spacing, drifts=False
                )
                stated = [one for _, one in candidates if one is not None]
                predicted = min(stated, default=None)
                spread = abs(int(candidates[0][0].sum()) - int(candidates[1][0].sum())) * (
                    self._spacing[0] * self._spacing[1] / 100
                )
            propagated = slice_mask_of(mask, "propagated", predicted=predicted, spread_cm2=spread)
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
        typical = typical_overlap(found.values())
        verdicts = [
            judge_slice(structure, one.full(shape), neighbours, one.predicted_overlap, typical=limit)
            for one, limit in ((automatic, typical), (propagated, None))
        ]
        ranks = [(GATES.index(verdict.gate), -verdict.score) for verdict in verdicts]
        return automatic if ranks[0] <= ranks[1] else propagated

    def _walk(
        self, structure: Structure, start: int, run: Sequence[int], found: Mapping[int, SliceMask]
    ) -> dict[int, tuple[Mask, float | None]]:
        """Propagate from a plausible slice through a run; stops where nothing is left or it gets too far."""
        masks: dict[int, tuple[Mask, float | None]] = {}
        previous, at = found[start].full(self.volume.shape_zyx[1:]), start
        step = self._follower.start(structure, start, run, found)
        for index in run:
            is_far = self.memory is None and self._distance(start, index) > self.parameters.longest_run_mm
            if not previous.any() or is_far:
                break
            masks[index] = step(previous, at, index)
            previous, at = masks[index][0], index
        return masks

    def _fill(self, structure: Structure, span: Sequence[int], found: dict[int, SliceMask]) -> None:
        """Interpolate slices between two that have a mask; beyond the ends the structure is absent."""
        known = sorted(found)
        shape = self.volume.shape_zyx[1:]
        for run in runs_of([i for i in span if i not in found]):
            below = max((i for i in known if i < run[0]), default=None)
            above = min((i for i in known if i > run[-1]), default=None)
            if below is None or above is None:
                for index in run:
                    found[index] = slice_mask_of(np.zeros(shape, np.bool_), "absent")
                continue
            ends = [(index, found[index].full(shape)) for index in (below, above)]
            self._interpolate(structure, run, ends[0], ends[1], found)

    def _interpolate(
        self,
        structure: Structure,
        between: Sequence[int],
        first: tuple[int, Mask],
        last: tuple[int, Mask],
        found: dict[int, SliceMask],
    ) -> None:
        """Fill slices with the shapes between two others, within the limits of the tissue."""
        shares = [self._share(first[0], index, last[0]) for index in between]
        everywhere = np.ones(first[1].shape, np.bool_)
        within = [self._follower.within_limits(structure, index, everywhere) for index in between]
        # A decoded mask may hold fat that its area does not count: between two of them as little counts.
        lower, upper = (int(self._follower.within_limits(structure, *end).sum()) for end in (first, last))
        blended = blend_masks(first[1], last[1], shares, self._spacing, within=within, sizes=(lower, upper))
        for index, mask in zip(between, blended, strict=True):
            found[index] = slice_mask_of(mask, "interpolated")


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


def _processors() -> int:
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(here, _MOST_AT_ONCE)
