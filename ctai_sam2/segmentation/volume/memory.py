"""The second engine: a network with a memory of its own follows drawn slices through a range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.image.interpolation import interpolate_masks
from ctai_sam2.image.masks import limit_to_hu
from ctai_sam2.image.windowing import SOFT_TISSUE, window_to_uint8
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.segmentation.volume.anchors import VolumeAnchor
from ctai_sam2.segmentation.volume.engine import slice_mask_of
from ctai_sam2.segmentation.volume.gates import judge_slices
from ctai_sam2.segmentation.volume.ranges import find_level_ranges, finish_volume, range_of
from ctai_sam2.segmentation.volume.result import SliceMask, VolumeResult
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTVolume, Mask, Window


class FollowsSlices(Protocol):
    """A network with memory, such as `ctai_sam2.models.slice_memory.SliceMemory`."""

    def follow(
        self, slice_at: Callable[[int], NDArray[np.uint8]], count: int, anchors: Mapping[int, Mask]
    ) -> Iterator[tuple[int, Mask]]:
        """Yield masks from the anchors to both ends; a slice between two anchors comes twice."""
        ...


def follow_volume(
    volume: CTVolume,
    memory: FollowsSlices,
    anchors: Iterable[VolumeAnchor],
    *,
    levels: tuple[str, str] = ("T12", "L5"),
    indices: tuple[int, int] | None = None,
    window: Window = SOFT_TISSUE,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
) -> VolumeResult:
    """Follow drawn slices through a range of levels with SAM2's own memory.

    Nothing is segmented automatically: each structure needs a slice on which it is drawn. Slices between two
    drawn ones are followed from both and blended by their distance.

    Parameters
    ----------
    volume : CTVolume
        The study; its slices are shown whole, in one window.
    memory : FollowsSlices
        The network.
    anchors : iterable of VolumeAnchor
        At least one, inside the range.
    levels, indices, window, definitions
        As in `segment_volume`.

    Raises
    ------
    InputError
        If there is no anchor, or one is outside the range or does not fit.
    AnatomyNotFound
        If levels are wanted and not found.
    """
    found = find_level_ranges(volume, levels, indices)
    span = range_of(volume, found, levels, indices)
    drawn: dict[Structure, dict[int, Mask]] = {}
    for anchor in anchors:
        anchor.require_within(volume)
        if anchor.axial_index not in span:
            raise InputError(
                "an anchor is outside the range",
                received=anchor.axial_index,
                hint=f"The range is {span[0]} to {span[-1]}.",
            )
        drawn.setdefault(anchor.structure, {})[anchor.axial_index - span[0]] = anchor.mask
    if not drawn:
        raise InputError("at least one slice must be drawn for the memory to follow")

    def slice_at(place: int) -> NDArray[np.uint8]:
        return window_to_uint8(volume.hu_zyx[span[place]], window)

    masks = {}
    for structure, fixed in drawn.items():
        followed: dict[int, list[Mask]] = {}
        for place, mask in memory.follow(slice_at, len(span), fixed):
            followed.setdefault(place, []).append(mask)
        slices = {
            span[place]: slice_mask_of(fixed[place], "anchor")
            if place in fixed
            else _settled(volume, structure, span, place, ways, fixed, definitions)
            for place, ways in followed.items()
        }
        masks[structure] = judge_slices(volume, structure, slices)
    return finish_volume(volume, span, found, levels, indices, masks, definitions)


def _settled(
    volume: CTVolume,
    structure: Structure,
    span: list[int],
    place: int,
    ways: list[Mask],
    fixed: Mapping[int, Mask],
    definitions: TissueDefinitions,
) -> SliceMask:
    """Cut to the limits of the tissue; of two ways blend by distance, and state how far they differ."""
    limits = definitions.limits_of(structure)
    if limits is not None:
        hu = volume.hu_zyx[span[place]]
        ways = [limit_to_hu(mask, hu, limits.low_hu, limits.high_hu) for mask in ways]
    if len(ways) == 1:
        return slice_mask_of(ways[0], "propagated")
    positions = np.asarray(volume.slice_positions_mm)[span]
    below, above = max(i for i in fixed if i < place), min(i for i in fixed if i > place)
    share = float((positions[place] - positions[below]) / (positions[above] - positions[below]))
    _, row_mm, column_mm = volume.spacing_zyx_mm
    spread = abs(int(ways[0].sum()) - int(ways[1].sum())) * row_mm * column_mm / 100
    blended = interpolate_masks(ways[0], ways[1], share, (row_mm, column_mm), drifts=False)
    return slice_mask_of(blended, "propagated", spread_cm2=spread)
