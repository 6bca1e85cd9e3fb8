"""The two requests: segment a range of slices, and segment again around corrected ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Literal, TypeAlias, get_args

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.segmentation.results import PredictsMasks, require_segmenter
from ctai_sam2.segmentation.volume.anchors import VolumeAnchor
from ctai_sam2.segmentation.volume.engine import Engine
from ctai_sam2.segmentation.volume.follower import EngineParameters
from ctai_sam2.segmentation.volume.kept import KeepsSlices, keep_anchors, key_of_run
from ctai_sam2.segmentation.volume.ranges import (
    expand_structures,
    find_level_ranges,
    finish_volume,
    range_of,
    spread_slices,
)
from ctai_sam2.segmentation.volume.result import SliceMask, VolumeResult, slice_mask_of
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTVolume, Progress, Window
from ctai_sam2.types.checks import require_type
from ctai_sam2.types.slice_follower import SliceFollower, open_slice_memory

FollowWith: TypeAlias = Literal["prompts", "memory"]
"""How a mask gets from one slice to the next."""

EVERY_MM: Final = 9.0
"""Distance between decoded slices. From two outlines 18 mm apart the psoas between them was found with a Dice
of 0.90 to 0.98, median 0.96; over half the distance interpolation costs less than a model's own error."""


def segment_volume(
    volume: CTVolume,
    segmenter: PredictsMasks,
    *,
    structures: Sequence[Structure] = ("psoas", "muscle"),
    levels: tuple[str, str] = ("T12", "L5"),
    indices: tuple[int, int] | None = None,
    anchors: Iterable[VolumeAnchor] = (),
    every_mm: float | None = EVERY_MM,
    follow: FollowWith = "prompts",
    kept: KeepsSlices | None = None,
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
        Decode a slice at most every so many mm and interpolate the shapes between them, where both ends are
        plausible; where they are not, slices between are looked at too. None decodes every slice.
    follow : {"prompts", "memory"}
        ``prompts`` segments decoded slices on their own, and follows those in doubt from their neighbours.
        ``memory`` follows each structure through the decoded slices with SAM2's own memory: from its anchors,
        and where it has none from the middle slice, segmented on its own. SAM 2.1 and MedSAM2 in this process
        have a memory that was trained, the embedded model has none.
    kept : KeepsSlices, optional
        Where finished slices and anchors are kept, such as `study.slice_folder.SliceFolder`: called
        again with it, an interrupted run continues where it stopped, also with another segmenter of the same
        weights.
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
        If a structure or level is unknown, the range is outside the volume, an anchor does not fit, or the
        segmenter has no memory to follow with.
    AnatomyNotFound
        If levels are wanted and no spine is visible, or the range is not in the volume; or a structure that a
        memory shall follow from the middle slice is not found there.
    SegmenterError
        If the segmenter fails; an outage is never an empty mask.

    Examples
    --------
    ::

        result = segment_volume(volume, segmenter, structures=("psoas",), levels=("L1", "L4"))
        result.summary[["structure", "level", "volume_cm3", "covered"]]
    """
    require_type(volume, CTVolume, "volume")
    require_segmenter(segmenter)
    wanted = expand_structures(structures)
    found = find_level_ranges(volume, levels, indices)
    span = range_of(volume, found, levels, indices)
    fixed = _anchors_by_structure(volume, wanted, span, anchors, kept)
    decoded = spread_slices(volume, span, every_mm, {i for one in fixed.values() for i in one})
    engine = Engine(
        volume=volume,
        segmenter=segmenter,
        window=window,
        definitions=definitions,
        parameters=EngineParameters() if parameters is None else parameters,
        kept=kept,
        run_key="" if kept is None else key_of_run(segmenter, wanted, window, definitions),
        memory=_memory_for(segmenter, follow),
    )
    looked, done, total = set[int](), 0, 0

    def report(_: int, index: int) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, f"slice {index}")

    automatic: dict[Structure, dict[int, SliceMask]] = {name: {} for name in wanted}
    doubtful: dict[Structure, set[int]] = {}
    ahead = sorted(decoded) if engine.memory is None else []
    if engine.memory is not None:
        automatic = _starts(engine, wanted, decoded, fixed)
    while ahead:
        total += len(ahead)
        for name, slices in engine.segment_automatically(wanted, ahead, fixed, report).items():
            automatic[name] |= slices
        looked |= set(ahead)
        ends = set()
        for name in wanted:
            of_name, doubtful[name] = engine.look_closer(name, sorted(looked), automatic[name])
            ends |= of_name
        ahead = sorted(ends)
    # Structures walk the same slices at about the same time, which are then embedded once for all.
    with ThreadPoolExecutor(len(wanted), thread_name_prefix="structures") as pool:
        completed = pool.map(
            lambda name: (
                engine.complete(name, span, looked | doubtful[name], automatic[name])
                if engine.memory is None
                else engine.follow(name, span, decoded, automatic[name])
            ),
            wanted,
        )
        masks = dict(zip(wanted, completed, strict=True))
    return finish_volume(volume, span, found, levels, indices, masks, definitions)


def correct_volume(
    result: VolumeResult,
    anchors: Iterable[VolumeAnchor],
    segmenter: PredictsMasks,
    *,
    follow: FollowWith = "prompts",
    kept: KeepsSlices | None = None,
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
    follow, kept, window, parameters
        As in `segment_volume`; anchors are kept before anything is segmented again.

    Raises
    ------
    InputError
        If an anchor is for a structure or slice outside the result, or the segmenter has no memory to follow
        with.
    SegmenterError
        If the segmenter fails; ``result`` is unchanged.
    """
    engine = Engine(
        volume=result.volume,
        segmenter=segmenter,
        window=window,
        definitions=result.definitions,
        parameters=EngineParameters() if parameters is None else parameters,
        memory=_memory_for(segmenter, follow),
    )
    anchors = list(anchors)
    masks = {name: dict(found) for name, found in result.structure_slices.items()}
    for anchor in anchors:
        anchor.require_within(result.volume)
        if anchor.structure not in masks or anchor.axial_index not in result.indices:
            raise InputError(
                "an anchor is outside what was segmented",
                received=f"{anchor.structure} on slice {anchor.axial_index}",
                hint=f"Segmented: {', '.join(masks)}; slices {result.indices[0]} to {result.indices[-1]}.",
            )
    if kept is not None:
        shape = result.volume.shape_zyx[1:]
        earlier = [
            VolumeAnchor(structure=name, axial_index=index, mask=one.full(shape))
            for name, found in masks.items()
            for index, one in found.items()
            if one.source == "anchor"
        ]
        keep_anchors(kept, result.volume, [*earlier, *anchors])
    for anchor in anchors:
        engine.correct(anchor.structure, result.indices, masks[anchor.structure], anchor)
    return replace(result, structure_slices=masks)


def _memory_for(segmenter: PredictsMasks, follow: FollowWith) -> SliceFollower | None:
    if follow not in get_args(FollowWith):
        raise InputError("no such way to follow masks", received=follow, hint="prompts or memory.")
    return open_slice_memory(segmenter) if follow == "memory" else None


def _starts(
    engine: Engine,
    wanted: Sequence[Structure],
    decoded: Sequence[int],
    fixed: Mapping[Structure, Mapping[int, VolumeAnchor]],
) -> dict[Structure, dict[int, SliceMask]]:
    """Where a memory begins: a structure's anchors, or the middle slice."""
    middle = decoded[len(decoded) // 2]
    undrawn = [name for name in wanted if not any(one.mask.any() for one in fixed[name].values())]
    found = engine.segment_automatically(wanted, [middle], fixed) if undrawn else {}
    for name in undrawn:
        if middle not in found[name]:
            raise AnatomyNotFound(
                f"{name} was not found on slice {middle}, from which it shall be followed",
                hint="Give an anchor: its mask on one slice.",
            )
    return {
        name: {index: slice_mask_of(one.mask, "anchor") for index, one in fixed[name].items()}
        | (found[name] if name in undrawn else {})
        for name in wanted
    }


def _anchors_by_structure(
    volume: CTVolume,
    wanted: Sequence[Structure],
    span: Sequence[int],
    anchors: Iterable[VolumeAnchor],
    kept: KeepsSlices | None,
) -> dict[Structure, dict[int, VolumeAnchor]]:
    """Check anchors and add those that were kept; a given one takes the place of a kept one."""
    fixed: dict[Structure, dict[int, VolumeAnchor]] = {name: {} for name in wanted}
    if kept is not None:
        for anchor in kept.read_anchors(fingerprint(volume)):
            if anchor.structure in fixed:
                fixed[anchor.structure][anchor.axial_index] = anchor
    given = list(anchors)
    for anchor in given:
        anchor.require_within(volume)
        if anchor.structure not in fixed or anchor.axial_index not in span:
            raise InputError(
                "an anchor is outside what is segmented",
                received=f"{anchor.structure} on slice {anchor.axial_index}",
                hint=f"Segmented: {', '.join(wanted)}; slices {span[0]} to {span[-1]}.",
            )
        fixed[anchor.structure][anchor.axial_index] = anchor
    if kept is not None and given:
        keep_anchors(kept, volume, given)
    return fixed
