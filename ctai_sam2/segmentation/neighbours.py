"""The slices above and below: they show when one slice's number is an error, and their median is steadier."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.segmentation.axial_session import AxialSession
from ctai_sam2.segmentation.results import MedianArea, PredictsMasks
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTVolume, Mask, Window

COMPARED: Final[tuple[Structure, ...]] = ("psoas_left", "psoas_right", "muscle", "sat", "vat")
"""What changes slowly enough from slice to slice to be compared."""

SLICE_COUNTS: Final = (1, 3, 5)
"""How many slices a median may be taken of."""

_STEP_MM = 4.0
_FARTHEST_MM = 12.0


@dataclass(frozen=True, kw_only=True)
class SliceAreas:
    """Areas on one slice.

    Parameters
    ----------
    axial_index : int
        0 is the most inferior slice.
    offset_mm : float
        Its position above the middle slice.
    areas_mm2 : mapping of str to float
        By structure; `COMPARED` and those that the caller requested.
    """

    axial_index: int
    offset_mm: float
    areas_mm2: Mapping[str, float]


def measure_neighbours(
    volume: CTVolume,
    axial_index: int,
    segmenter: PredictsMasks,
    *,
    structures: Sequence[Structure] = COMPARED,
    each_side: int = 1,
    window: Window = SOFT_TISSUE,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    prompted: bool = True,
) -> tuple[SliceAreas, ...]:
    """Measure the slices above and below, about 4 mm apart and never more than 12 mm away.

    Only a model that divides the whole slice is used, since others take seconds a slice.

    Parameters
    ----------
    volume : CTVolume
        The study.
    axial_index : int
        The middle slice, which is not measured here.
    segmenter : PredictsMasks
        The model.
    structures : sequence of str
        What to measure there, of `COMPARED` and IMAT.
    each_side : int
        Slices above, and as many below.
    window, definitions
        As in `segment_study`.
    prompted : bool
        Whether to measure the masks that a study reports; else those of the division alone, at a third of
        the cost, to be compared with nothing but the division of the middle slice.

    Returns
    -------
    tuple of SliceAreas
        From below up; slices that show no abdomen are left out.

    Raises
    ------
    InputError
        If the index lies outside the volume.
    Unavailable
        If the segmenter is not available.
    """
    positions = np.asarray(volume.slice_positions_mm, dtype=np.float64)
    if not 0 <= axial_index < len(positions):
        raise InputError("no such axial slice", received=axial_index)
    found = []
    for index in _choose(positions, axial_index, each_side):
        session = AxialSession.open(volume.axial(index), segmenter, window=window, definitions=definitions)
        if session.divided is None:
            continue
        wanted = [name for name in (*COMPARED, "imat") if name in structures]
        masks = {}
        for name in wanted:
            if not prompted:
                masks[name] = session.divided.compartments.masks[name]
                continue
            with contextlib.suppress(AnatomyNotFound):
                masks[name] = session.segment(name).mask
        found.append(
            SliceAreas(
                axial_index=index,
                offset_mm=float(positions[index] - positions[axial_index]),
                areas_mm2=areas_of(masks, session.ct_slice.pixel_area_mm2),
            )
        )
    return tuple(found)


def areas_of(masks: Mapping[Any, Mask], pixel_mm2: float) -> dict[str, float]:
    """Return the areas (mm²) of `COMPARED`, both psoas together and IMAT, as far as there are masks."""
    areas: dict[str, float] = {
        str(name): float(masks[name].sum()) * pixel_mm2 for name in (*COMPARED, "imat") if name in masks
    }
    if "psoas_left" in areas and "psoas_right" in areas:
        areas["psoas"] = areas["psoas_left"] + areas["psoas_right"]
    return areas


def take_medians(middle: Mapping[str, float], others: Sequence[SliceAreas]) -> tuple[MedianArea, ...]:
    """Return the median area of each structure over the middle slice and the others.

    Examples
    --------
    >>> other = SliceAreas(axial_index=1, offset_mm=5.0, areas_mm2={"muscle": 12000.0})
    >>> median = take_medians({"muscle": 10000.0}, [other])[0]
    >>> median.area_cm2, median.slices
    (110.0, 2)
    """
    medians = []
    for name, area in middle.items():
        values = [area, *(other.areas_mm2[name] for other in others if name in other.areas_mm2)]
        medians.append(
            MedianArea(
                structure=name,
                area_cm2=float(np.median(values)) / 100,
                low_cm2=min(values) / 100,
                high_cm2=max(values) / 100,
                slices=len(values),
            )
        )
    return tuple(medians)


def _choose(
    positions: np.ndarray[tuple[int, ...], np.dtype[np.float64]], index: int, each_side: int
) -> list[int]:
    """Return indices of the nearest slices to equal steps on either side, each once."""
    chosen = set()
    for direction in (-1, 1):
        for count in range(1, each_side + 1):
            wanted = positions[index] + direction * count * _STEP_MM
            beyond = (positions - positions[index]) * direction > 0
            if not beyond.any():
                continue
            at = int(np.argmin(np.where(beyond, np.abs(positions - wanted), np.inf)))
            if at in chosen:
                # Slices are thicker than the step: take the next one out.
                farther = beyond & (
                    np.abs(positions - positions[index]) > abs(positions[at] - positions[index])
                )
                if not farther.any():
                    continue
                at = int(np.argmin(np.where(farther, np.abs(positions - wanted), np.inf)))
            if abs(positions[at] - positions[index]) <= _FARTHEST_MM:
                chosen.add(at)
    return sorted(chosen)
