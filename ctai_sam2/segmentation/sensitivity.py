"""How much a result depends on where exactly was clicked, and on which slice was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.errors import InputError
from ctai_sam2.image.plausibility import require_measurable_slice, require_measurable_volume, require_region
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.body_composition import MASK_NAMES, measure_slice
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.measure.overlap import dice
from ctai_sam2.segmentation.axial import require_axial
from ctai_sam2.segmentation.axial_session import AxialSession
from ctai_sam2.segmentation.levels.sagittal import find_l3, segment_l3_by_user
from ctai_sam2.segmentation.results import PredictsMasks, StructureResult, require_segmenter
from ctai_sam2.structures import STRUCTURES, Structure, require_structures
from ctai_sam2.types import CTSlice, CTVolume, Mask, Prompt, Window
from ctai_sam2.types.checks import as_index, require_type

_MOST_TRIALS = 200
_PROMPTED: tuple[Structure, ...] = ("psoas_left", "psoas_right", "muscle")
_MOST_PAIRS = 300
_TRIES_PER_POINT = 20


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Robustness:
    """One structure segmented repeatedly, each time with a slightly different prompt.

    Parameters
    ----------
    structure : str
        The structure.
    central : StructureResult
        Result of the prompt without jitter.
    areas_mm2 : ndarray of float64, shape (N,)
        Area of each trial's mask; 0 where the model returned an empty one.
    agreement : ndarray of float64, shape (N,)
        Dice of each trial's mask with the central one.
    pairwise_agreement : float
        Mean Dice between trials.
    share_hw : ndarray of float32, shape (H, W)
        Share of the trials whose mask contains each pixel, 0 to 1.
    jitter_mm : float
        Standard deviation of the jitter.
    failed : int
        Trials whose mask is empty.
    """

    structure: Structure
    central: StructureResult
    areas_mm2: NDArray[np.float64]
    agreement: NDArray[np.float64]
    pairwise_agreement: float
    share_hw: NDArray[np.float32]
    jitter_mm: float
    failed: int

    def __repr__(self) -> str:
        return (
            f"Robustness({self.structure}, {len(self.areas_mm2)} trials, area {self.area_mean_mm2:.0f} "
            f"± {self.area_sd_mm2:.0f} mm², {self.failed} empty)"
        )

    @property
    def area_mean_mm2(self) -> float:
        """Mean area of the trials."""
        return float(self.areas_mm2.mean())

    @property
    def area_sd_mm2(self) -> float:
        """Standard deviation of the areas (N - 1)."""
        return float(self.areas_mm2.std(ddof=1))

    @property
    def area_cv(self) -> float:
        """Coefficient of variation of the area; NaN where every mask is empty."""
        return self.area_sd_mm2 / self.area_mean_mm2 if self.area_mean_mm2 else float("nan")


@dataclass(frozen=True, kw_only=True)
class SliceSensitivityRow:
    """One structure on one slice near mid-L3.

    Parameters
    ----------
    structure : str
        Name of the structure.
    axial_index : int
        0 is the most inferior slice.
    offset_mm : float
        Position above the middle slice.
    area_cm2, hu_mean : float or None
        Over the structure's HU range; None where the structure was not found.
    area_change_pct : float or None
        Area against that on the middle slice, in per cent.
    error : str or None
        Why the structure was not found.
    """

    structure: Structure
    axial_index: int
    offset_mm: float
    area_cm2: float | None = None
    hu_mean: float | None = None
    area_change_pct: float | None = None
    error: str | None = None


def robustness(
    ct_slice: CTSlice,
    prompt: Structure | Prompt,
    segmenter: PredictsMasks,
    *,
    n: int = 20,
    structure: Structure | None = None,
    jitter_mm: float = 2.0,
    seed: int = 0,
    window: Window = SOFT_TISSUE,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    any_region: bool = False,
) -> Robustness:
    """Segment a structure with jittered prompts and report how much area and mask change.

    The slice is embedded once; each trial costs one click. Points and the edges of a box move by a normal
    deviate each, a mask prompt is shifted as a whole. A positive point that would leave the central mask
    is drawn again, because a reader would not click outside the structure.

    Parameters
    ----------
    ct_slice : CTSlice
        Axial, or sagittal for ``l3``.
    prompt : str or Prompt
        A structure, whose prompt then comes from anatomy, or a user's prompt.
    segmenter : PredictsMasks
        Any segmenter.
    n : int
        Trials, 2 to 200.
    structure : str, optional
        What a user's prompt is about; required with one.
    jitter_mm : float
        Standard deviation of the jitter, more than 0.
    seed : int
        Decides the jitter.
    window, definitions
        As in `segment_structure`.
    any_region : bool
        Continue even if an axial slice shows something other than an abdomen.

    Raises
    ------
    AnatomyNotFound
        If there is no prompt and the anatomy to make one from is not visible, or the slice shows another
        part of the body.
    InputError
        If a number is out of range, or a structure is missing or has no model behind it.
    SegmenterError
        If the segmenter fails in any trial: an outage is never counted as an empty mask.

    Examples
    --------
    The psoas of a slice, and how sure its area is::

        result = robustness(ct_slice, "psoas_left", segmenter)
        print(f"{result.area_mean_mm2:.0f} ± {result.area_sd_mm2:.0f} mm²")
    """
    if not 2 <= n <= _MOST_TRIALS:
        raise InputError(f"between 2 and {_MOST_TRIALS} trials are needed", received=n)
    if not (np.isfinite(jitter_mm) and jitter_mm > 0):
        raise InputError("the jitter must be more than 0 mm", received=jitter_mm)
    require_type(ct_slice, CTSlice, "ct_slice")
    require_segmenter(segmenter)
    named = structure if isinstance(prompt, Prompt) else prompt
    if named is None:
        raise InputError("a prompt of your own needs a structure", hint='Give structure="psoas_left".')
    (wanted,) = require_structures((named,), STRUCTURES)
    if wanted != "l3":
        require_axial(ct_slice)
        require_measurable_slice(ct_slice)
        require_region(ct_slice, prompted=isinstance(prompt, Prompt), any_region=any_region)
    start, central, predict = _open(ct_slice, prompt, wanted, segmenter, window, definitions)
    rng = np.random.default_rng(seed)
    masks: list[Mask] = []
    failed = 0
    for _ in range(n):
        mask = predict(jitter_prompt(start, central.mask, ct_slice, jitter_mm, rng))
        failed += not mask.any()
        masks.append(mask)
    pairs = list(combinations(range(n), 2))
    if len(pairs) > _MOST_PAIRS:
        pairs = [pairs[i] for i in rng.choice(len(pairs), _MOST_PAIRS, replace=False)]
    return Robustness(
        structure=wanted,
        central=central,
        areas_mm2=np.array([mask.sum() * ct_slice.pixel_area_mm2 for mask in masks], dtype=np.float64),
        agreement=np.array([dice(mask, central.mask) for mask in masks], dtype=np.float64),
        pairwise_agreement=float(np.mean([dice(masks[a], masks[b]) for a, b in pairs])),
        share_hw=np.mean(masks, axis=0, dtype=np.float32),
        jitter_mm=float(jitter_mm),
        failed=failed,
    )


def slice_sensitivity(
    volume: CTVolume,
    axial_index: int,
    segmenter: PredictsMasks,
    *,
    k: int = 2,
    structures: Sequence[Structure] = ("psoas", "muscle"),
    window: Window = SOFT_TISSUE,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    any_region: bool = False,
) -> tuple[SliceSensitivityRow, ...]:
    """Segment the slices about mid-L3 and report how area and density change from one to the next.

    Parameters
    ----------
    volume : CTVolume
        The study.
    axial_index : int
        The middle slice (0 is the most inferior).
    segmenter : PredictsMasks
        Any segmenter.
    k : int
        Slices on each side, at least 1; those beyond the volume are left out.
    structures : sequence of str
        Of `ctai_sam2.measure.body_composition.MASK_NAMES`.
    window, definitions
        As in `segment_structure`.
    any_region : bool
        Continue even if the middle slice shows something other than an abdomen.

    Returns
    -------
    tuple of SliceSensitivityRow
        Structure by structure, from the lowest slice up. A slice on which a structure is not found is a
        row with the reason.

    Raises
    ------
    InputError
        If the index lies outside the volume, k is below 1 or a structure is not measured.
    SegmenterError
        If the segmenter fails; that says nothing about the slice.
    """
    require_type(volume, CTVolume, "volume")
    require_segmenter(segmenter)
    depth = volume.shape_zyx[0]
    axial_index = as_index(axial_index, depth, "axial slice")
    if k < 1:
        raise InputError("at least one slice on each side is needed", received=k)
    structures = require_structures(structures, MASK_NAMES)
    require_measurable_volume(volume)
    require_region(volume.axial(axial_index), any_region=any_region)
    indices = range(max(axial_index - k, 0), min(axial_index + k, depth - 1) + 1)
    found: dict[tuple[Structure, int], tuple[float, float | None] | str] = {}
    for index in indices:
        session = AxialSession.open(volume.axial(index), segmenter, window=window, definitions=definitions)
        for name in structures:
            try:
                found[name, index] = _measure(session.segment(name), session.ct_slice, definitions)
            except InputError as error:
                found[name, index] = str(error)
    positions = np.asarray(volume.slice_positions_mm)
    rows = []
    for name in structures:
        middle = found[name, axial_index]
        for index in indices:
            value = found[name, index]
            offset = float(positions[index] - positions[axial_index])
            if isinstance(value, str):
                rows.append(
                    SliceSensitivityRow(structure=name, axial_index=index, offset_mm=offset, error=value)
                )
                continue
            change = None
            if not isinstance(middle, str) and middle[0]:
                change = 100 * (value[0] / middle[0] - 1)
            rows.append(
                SliceSensitivityRow(
                    structure=name,
                    axial_index=index,
                    offset_mm=offset,
                    area_cm2=value[0],
                    hu_mean=value[1],
                    area_change_pct=change,
                )
            )
    return tuple(rows)


def jitter_prompt(
    prompt: Prompt, mask: Mask, ct_slice: CTSlice, jitter_mm: float, rng: np.random.Generator
) -> Prompt:
    """Move points, box edges and mask of a prompt by normal deviates; it stays within the slice.

    Parameters
    ----------
    prompt : Prompt
        In pixels of the slice.
    mask : ndarray of bool, shape (H, W)
        Where positive points should stay; an empty one binds nothing.
    ct_slice : CTSlice
        Gives spacing and extent.
    jitter_mm : float
        Standard deviation along each axis.
    rng : numpy.random.Generator
        Source of randomness.
    """
    sigma = jitter_mm / np.array(ct_slice.spacing_mm[::-1])
    last = np.array(ct_slice.shape_hw[::-1]) - 1.0
    points = prompt.points_xy.astype(np.float64)
    for number, label in enumerate(np.asarray(prompt.labels)):
        at = prompt.points_xy[number].astype(np.float64)
        for _ in range(_TRIES_PER_POINT):
            moved = np.clip(at + rng.normal(0, sigma), 0, last)
            column, row = np.rint(moved).astype(int)
            points[number] = moved
            if label != 1 or not mask.any() or mask[row, column]:
                break
        else:
            points[number] = at
    box = None
    if prompt.box_xyxy is not None:
        corners = np.array(prompt.box_xyxy).reshape(2, 2) + rng.normal(0, 1, (2, 2)) * sigma
        corners = np.clip(corners, -0.5, last + 0.5)
        box = prompt.box_xyxy if (corners[1] - corners[0] < 1).any() else tuple(map(float, corners.ravel()))
    shifted = None
    if prompt.mask is not None:
        steps = np.rint(rng.normal(0, sigma[::-1]))
        shifted = ndimage.shift(prompt.mask.astype(np.uint8), steps, order=0).astype(bool)
    return Prompt(
        points_xy=points.astype(np.float32),
        labels=prompt.labels,
        box_xyxy=box,  # type: ignore[arg-type]
        mask=shifted,
        structure=prompt.structure,
    )


def _open(
    ct_slice: CTSlice,
    prompt: Structure | Prompt,
    wanted: Structure,
    segmenter: PredictsMasks,
    window: Window,
    definitions: TissueDefinitions,
) -> tuple[Prompt, StructureResult, Callable[[Prompt], Mask]]:
    """Return the central prompt, its result, and a function from prompt to mask."""
    if wanted == "l3":
        if isinstance(prompt, Prompt):
            central = segment_l3_by_user(ct_slice, segmenter, prompt, window)
        else:
            found = find_l3(ct_slice, segmenter, window=window).l3
            if found is None:
                raise InputError("L3 was not found", hint="Give a prompt with a point in it.")
            central = found

        def predict(one: Prompt) -> Mask:
            return segment_l3_by_user(ct_slice, segmenter, one, window).mask

    else:
        session = AxialSession.open(ct_slice, segmenter, window=window, definitions=definitions)
        own = prompt if isinstance(prompt, Prompt) else None
        central = session.segment(wanted, prompt=own)
        if central.prompted_by == "name" and session.divided is not None and wanted in _PROMPTED:
            # A division has no prompt to move; what moves is the prompted second opinion.
            central = session.divided.segment_prompted(wanted)

        def predict(one: Prompt) -> Mask:
            if own is None:
                return session.segment_with_anatomy(wanted, one).mask
            return session.segment(wanted, prompt=one).mask

    if len(central.prompts) != 1:
        raise InputError(
            "robustness is measured for a single prompt",
            received=wanted,
            hint="Use psoas_left and psoas_right separately; fat is found by rule.",
        )
    if central.prompted_by == "name":
        raise InputError(
            "the structure was found by name, without a point or box to move",
            received=wanted,
            hint="Give a prompt with a point in the structure.",
        )
    return central.prompts[0], central, predict


def _measure(
    result: StructureResult, ct_slice: CTSlice, definitions: TissueDefinitions
) -> tuple[float, float | None]:
    """Area in cm² and mean HU as the table has them."""
    row = measure_slice(
        ct_slice.hu,
        {result.structure: result.mask},
        ct_slice.spacing_mm,
        definitions=definitions,
    )
    column = "combo" if result.structure == "muscle" else result.structure
    area, hu = row[f"{column}_area_mm2"], row[f"{column}_hu_mean"]
    return float(area or 0.0) / 100, None if hu is None or not np.isfinite(float(hu)) else float(hu)
