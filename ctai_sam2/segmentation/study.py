"""One click on a study: the sagittal slice, L3, the slice through its middle, the structures there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.masks import as_mask
from ctai_sam2.image.plausibility import (
    require_measurable_slice,
    require_measurable_volume,
    require_region,
)
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.segmentation.axial import require_axial
from ctai_sam2.segmentation.axial_session import CONFIDENCE_THRESHOLD, AxialSession
from ctai_sam2.segmentation.levels.sagittal import (
    choose_l3,
    find_l3,
    require_sagittal,
    segment_l3_by_user,
    spine_on_slice,
)
from ctai_sam2.segmentation.levels.volume import VolumeParameters, follow_spine, read_spine
from ctai_sam2.segmentation.neighbours import (
    COMPARED,
    SLICE_COUNTS,
    SliceAreas,
    areas_of,
    measure_neighbours,
    take_medians,
)
from ctai_sam2.segmentation.prompts import require_prompts
from ctai_sam2.segmentation.quality import cap_confidence, find_jumps, warnings_of
from ctai_sam2.segmentation.results import (
    AxialResult,
    L3Result,
    MedianArea,
    PredictsMasks,
    StructureResult,
    StudyResult,
    require_segmenter,
)
from ctai_sam2.structures import AXIAL_STRUCTURES, STRUCTURES, Structure, require_structures
from ctai_sam2.types import CTSlice, CTVolume, Mask, Prompt, Window
from ctai_sam2.types.checks import as_index, require_type

_LEAST_COUNTABLE_MM = 60.0


def segment_structure(
    ct_slice: CTSlice,
    structure: Structure,
    segmenter: PredictsMasks,
    *,
    prompt: Prompt | None = None,
    window: Window = SOFT_TISSUE,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    confidence_threshold: float = CONFIDENCE_THRESHOLD,
    any_region: bool = False,
) -> StructureResult:
    """Segment one structure of a slice, with a prompt made from anatomy or the user's own.

    Parameters
    ----------
    ct_slice : CTSlice
        Sagittal for ``l3``, axial for all others.
    structure : str
        One of `STRUCTURES`; ``sat``, ``vat`` and ``imat`` are found by rule around the model's muscle
        unless a prompt is given.
    segmenter : PredictsMasks
        Any segmenter.
    prompt : Prompt, optional
        The user's points, box or mask in pixels of the slice. Clean-up is then gentler, and nothing the
        user clicked is removed.
    window : Window
        Window of the image the model sees.
    definitions : TissueDefinitions
        HU limits.
    confidence_threshold : float
        Masks with a lower confidence, 0 to 1, get a warning.
    any_region : bool
        Continue even if an axial slice shows something other than an abdomen.

    Returns
    -------
    StructureResult
        Mask on the slice, with the prediction and prompts it came from.

    Raises
    ------
    AnatomyNotFound
        If there is no prompt and the anatomy to make one from is not visible.
    OtherRegion
        If the slice shows something other than an abdomen.
    InputError
        If the structure is unknown, the plane does not fit, or the prompt leaves the slice.
    Unavailable
        If the segmenter is not available.
    """
    require_type(ct_slice, CTSlice, "ct_slice")
    require_segmenter(segmenter)
    (structure,) = require_structures((structure,), STRUCTURES)
    if prompt is not None:
        require_type(prompt, Prompt, "prompt")
    require_type(window, Window, "window")
    require_type(definitions, TissueDefinitions, "definitions")
    if structure == "l3":
        require_sagittal(ct_slice)
        if prompt is not None:
            return segment_l3_by_user(ct_slice, segmenter, prompt, window)
        found = find_l3(ct_slice, segmenter, window=window)
        if found.l3 is None:
            raise AnatomyNotFound("; ".join(found.warnings), hint="Place a point in L3.")
        return replace(found.l3, warnings=found.warnings)
    require_axial(ct_slice)
    require_measurable_slice(ct_slice)
    notes = require_region(ct_slice, prompted=prompt is not None, any_region=any_region)
    session = AxialSession.open(
        ct_slice,
        segmenter,
        window=window,
        definitions=definitions,
        confidence_threshold=confidence_threshold,
    )
    result = session.segment(structure, prompt=prompt)
    return replace(result, warnings=(*result.warnings, *notes)) if notes else result


def segment_study(
    volume: CTVolume,
    segmenter: PredictsMasks,
    *,
    axial_index: int | None = None,
    l3_xy: Sequence[float] | None = None,
    sagittal_index: int | None = None,
    structures: Sequence[Structure] = AXIAL_STRUCTURES,
    prompts: Mapping[str, Prompt] | None = None,
    window: Window = SOFT_TISSUE,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    confidence_threshold: float = CONFIDENCE_THRESHOLD,
    slices: int = 1,
    any_region: bool = False,
) -> StudyResult:
    """Find L3 on the sagittal view, go to its middle, and segment everything on that axial slice.

    Parameters
    ----------
    volume : CTVolume
        The study.
    segmenter : PredictsMasks
        Any segmenter.
    axial_index : int, optional
        The mid-L3 slice (0 is the most inferior), where the user knows it. L3 is then looked for only to
        compare: where muscle and vertebra are wanted and the volume is tall enough to count vertebrae. A
        volume of one slice needs no index.
    l3_xy : sequence of 2 floats, optional
        A click in L3 on the sagittal slice, (column, row).
    sagittal_index : int, optional
        Column of the sagittal slice; through the middle of the spine when omitted.
    structures : sequence of str
        What to segment on the axial slice, of `ctai_sam2.structures.AXIAL_STRUCTURES`; all of it by default.
    prompts : mapping of str to Prompt, optional
        The user's prompts on the axial slice by structure (``psoas_left``, ``psoas_right``, ``muscle``,
        ``vertebra``), instead of those made from anatomy.
    window : Window
        Window of the images the model sees.
    definitions : TissueDefinitions
        HU limits.
    confidence_threshold : float
        Masks with a lower confidence, 0 to 1, get a warning.
    slices : {1, 3, 5}
        Number of slices around the middle one over which medians of the areas are taken. Where the model
        divides whole slices, those above and below are compared in any case, to warn of a jump.
    any_region : bool
        Continue even if the axial slice shows something other than an abdomen.

    Returns
    -------
    StudyResult
        ``masks`` by structure, ``axial_index``, ``axial`` and ``sagittal`` results, ``warnings``;
        `measure_study` makes its table row, `write_study` its files.

    Raises
    ------
    AnatomyNotFound
        If L3 is neither given nor found, or the axial slice shows none of the structures.
    OtherRegion
        If the axial slice shows something other than an abdomen.
    InputError
        If an index or the click lies outside the volume, or a structure is not known.
    Unavailable
        If the segmenter is not available.

    Examples
    --------
    ::

        with open_segmenter() as segmenter:
            study = segment_study(volume, segmenter)
        study.masks["muscle"].sum(), study.warnings
    """
    if slices not in SLICE_COUNTS:
        raise InputError("a median is taken of 1, 3 or 5 slices", received=repr(slices))
    require_type(volume, CTVolume, "volume")
    require_segmenter(segmenter)
    structures = require_structures(structures)
    require_measurable_volume(volume)
    depth = volume.shape_zyx[0]
    if axial_index is not None:
        axial_index = as_index(axial_index, depth, "axial slice")
    sagittal: L3Result | None = None
    warnings = list(volume.warnings)
    if depth == 1 and axial_index is None and l3_xy is None:
        # Nothing lies above or below it to find a level on: the slice is the one that the user chose.
        axial_index = 0
        warnings.append("a single axial slice: it was taken for L3 as given, and its level was not checked")
    by_user = axial_index is not None or l3_xy is not None
    if axial_index is None or _can_compare_level(volume, structures):
        try:
            sagittal = find_l3_in_volume(
                volume, segmenter, l3_xy=l3_xy, sagittal_index=sagittal_index, window=window
            )
            warnings += sagittal.warnings if axial_index is None else ()
        except AnatomyNotFound as error:
            if axial_index is None:
                raise
            warnings.append(str(error))
    found_index: int | None = None
    if sagittal is not None and sagittal.l3 is not None and sagittal.l3.mask.any():
        found_index = mid_l3_axial_index(volume, sagittal.l3.mask)
    if axial_index is None:
        axial_index = mid_l3_axial_index(volume, _require_l3(volume, sagittal).mask)
    ct_slice = volume.axial(axial_index)
    require_measurable_slice(ct_slice)
    warnings += require_region(ct_slice, prompted=bool(prompts), any_region=any_region)
    prompts = require_prompts(prompts)
    session = AxialSession.open(
        ct_slice,
        segmenter,
        window=window,
        definitions=definitions,
        confidence_threshold=confidence_threshold,
    )
    measure = partial(
        measure_neighbours, volume, axial_index, segmenter, window=window, definitions=definitions
    )
    others: Sequence[SliceAreas] = ()
    if slices > 1:
        axial = session.segment_all(structures, prompts=prompts)
        others = measure(structures=tuple(axial.structures), each_side=slices // 2)
    elif {"psoas", *COMPARED}.isdisjoint(set(structures) - set(prompts or ())) or session.divided is None:
        axial = session.segment_all(structures, prompts=prompts)
    else:
        # Most of what is left to do on this slice takes one processor: the others are divided next to it.
        with ThreadPoolExecutor(1, thread_name_prefix="neighbours") as background:
            measuring = background.submit(measure, prompted=False)
            axial = session.segment_all(structures, prompts=prompts)
            others = measuring.result()
    axial, medians = _compare_with_neighbours(axial, others, session, slices=slices)
    gap_mm: float | None = None
    if found_index is not None:
        positions = np.asarray(volume.slice_positions_mm)
        gap_mm = float(abs(positions[axial_index] - positions[found_index]))
    return StudyResult(
        volume=volume,
        axial_index=axial_index,
        axial=axial,
        sagittal=sagittal,
        medians=medians,
        warnings=tuple(dict.fromkeys([*warnings, *axial.warnings])),
        level_chosen_by="user" if by_user else "software",
        l3_gap_mm=gap_mm,
    )


def _compare_with_neighbours(
    axial: AxialResult, others: Sequence[SliceAreas], session: AxialSession, *, slices: int
) -> tuple[AxialResult, tuple[MedianArea, ...]]:
    """Warn of areas that jump against the slices above and below; take medians over the wanted slices."""
    compared = [
        name for name in COMPARED if name in axial.structures and axial.structures[name].prompted_by != "user"
    ]
    if slices == 1 and (session.divided is None or not compared):
        return axial, ()
    areas = areas_of(axial.masks, axial.ct_slice.pixel_area_mm2)
    by_distance = sorted(others, key=lambda other: abs(other.offset_mm))
    nearest = [
        min(side, key=lambda other: abs(other.offset_mm)).areas_mm2
        for side in (
            [other for other in others if other.offset_mm < 0],
            [other for other in others if other.offset_mm > 0],
        )
        if side
    ]
    gates = find_jumps({name: areas[name] for name in compared}, nearest)
    if slices == 1 and session.divided is not None:
        # The slices next to it were divided and not prompted: what differs by that alone is no jump.
        divided = areas_of(session.divided.compartments.masks, axial.ct_slice.pixel_area_mm2)
        alike = {gate.structures for gate in find_jumps({n: divided[n] for n in compared}, nearest)}
        gates = tuple(gate for gate in gates if gate.structures in alike)
    structures = {
        name: replace(
            result,
            confidence=None if result.confidence is None else cap_confidence(result.confidence, gates, name),
            warnings=(*result.warnings, *warnings_of(gates, name)),
        )
        for name, result in axial.structures.items()
    }
    gate_warnings = [text for gate in gates for name in gate.structures for text in warnings_of([gate], name)]
    axial = replace(axial, structures=structures, warnings=(*axial.warnings, *gate_warnings))
    return axial, take_medians(areas, by_distance[: slices - 1]) if slices > 1 else ()


def _can_compare_level(volume: CTVolume, structures: Sequence[Structure]) -> bool:
    """Tell whether to look for L3 although the slice is given: a thin slab shows no row of vertebrae."""
    positions = np.asarray(volume.slice_positions_mm)
    height_mm = float(abs(positions[-1] - positions[0])) + volume.spacing_zyx_mm[0]
    return {"muscle", "vertebra"} <= set(structures) and height_mm >= _LEAST_COUNTABLE_MM


def find_mid_l3(volume: CTVolume, segmenter: PredictsMasks, *, window: Window = SOFT_TISSUE) -> int:
    """Axial index of mid-L3, found on the sagittal view.

    Parameters
    ----------
    volume : CTVolume
        The study.
    segmenter : PredictsMasks
        Any segmenter.
    window : Window
        Window of the image.

    Raises
    ------
    AnatomyNotFound
        If L3 is not found.
    Unavailable
        If the segmenter is not available.
    """
    sagittal = find_l3_in_volume(volume, segmenter, window=window)
    return mid_l3_axial_index(volume, _require_l3(volume, sagittal).mask)


def find_l3_in_volume(
    volume: CTVolume,
    segmenter: PredictsMasks,
    *,
    l3_xy: Sequence[float] | None = None,
    sagittal_index: int | None = None,
    window: Window = SOFT_TISSUE,
) -> L3Result:
    """Find L3 in a volume, and segment it on the sagittal slice through its middle.

    The level comes from planes that follow the spine's own curve, all of them together; see `find_levels`.

    Parameters
    ----------
    volume : CTVolume
        The study.
    segmenter : PredictsMasks
        Any segmenter.
    l3_xy, sagittal_index, window
        As in `segment_study`.

    Raises
    ------
    AnatomyNotFound
        If no spine is visible.
    InputError
        If an index or the click lies outside the volume.
    Unavailable
        If the segmenter is not available.
    """
    require_type(volume, CTVolume, "volume")
    require_segmenter(segmenter)
    if l3_xy is not None:
        column = choose_sagittal_index(volume) if sagittal_index is None else sagittal_index
        return find_l3(volume.sagittal(column), segmenter, l3_xy=l3_xy, window=window)
    spine = read_spine(volume)
    likeliest = int(np.argmax(spine.named.l3_probability))
    column = round(float(spine.centres_zyx[likeliest, 2])) if sagittal_index is None else sagittal_index
    return choose_l3(volume.sagittal(column), spine_on_slice(spine, volume), segmenter, window=window)


def _require_l3(volume: CTVolume, sagittal: L3Result | None) -> StructureResult:
    if sagittal is not None and sagittal.l3 is not None and sagittal.l3.mask.any():
        return sagittal.l3
    proposals = "" if sagittal is None else _describe_proposals(volume, sagittal)
    raise AnatomyNotFound(
        "L3 was not found on the sagittal view" + proposals,
        hint="Click on L3 (l3_xy) or give the mid-L3 slice (axial_index, --axial-index).",
    )


def _describe_proposals(volume: CTVolume, sagittal: L3Result) -> str:
    """Say where L3 may be, as axial slices a user can give."""
    places = []
    for index in sagittal.proposals:
        candidate = sagittal.candidates[index]
        if candidate.result is not None and candidate.result.mask.any():
            slice_index = mid_l3_axial_index(volume, candidate.result.mask)
            places.append(f"{slice_index} ({candidate.l3_probability or 0.0:.2f})")
    return f"; likeliest mid-L3 slices, with probabilities: {', '.join(places)}" if places else ""


def mid_l3_axial_index(volume: CTVolume, l3_mask: Mask) -> int:
    """Axial index half-way between the upper and lower end of an L3 mask on a sagittal slice.

    Real slice positions count, so gaps and uneven steps do not shift the middle.

    Parameters
    ----------
    volume : CTVolume
        The volume the sagittal slice was taken from.
    l3_mask : ndarray of bool, shape (D, H)
        On the sagittal slice, superior up.

    Raises
    ------
    InputError
        If the mask is empty or does not fit the volume.
    """
    require_type(volume, CTVolume, "volume")
    l3_mask = as_mask(l3_mask)
    depth, height, _ = volume.shape_zyx
    if l3_mask.shape != (depth, height):
        raise InputError(
            "a mask of L3 on a sagittal slice of this volume is needed",
            received=f"shape {l3_mask.shape}",
            hint=f"Such a slice has the shape {(depth, height)}.",
        )
    if not l3_mask.any():
        raise InputError("the mask of L3 is empty")
    rows = np.flatnonzero(l3_mask.any(axis=1))
    indices = [volume.axial_index_of_row(int(row)) for row in rows]
    positions = np.asarray(volume.slice_positions_mm)
    # The middle of the body, not of its pixels: a concave plate must not pull it.
    middle = (positions[min(indices)] + positions[max(indices)]) / 2
    return int(np.argmin(np.abs(positions - middle)))


def choose_sagittal_index(volume: CTVolume) -> int:
    """Column through the middle of the spine: the median of its course over the axial slices.

    Raises
    ------
    AnatomyNotFound
        If the volume shows no spine.
    """
    return round(float(np.median(follow_spine(volume, VolumeParameters()))))
