"""What classical methods make of the same click and the same box.

Settings were chosen once, on the slices this project was developed with, to do these methods
justice: a model compared with them is not flattered.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.errors import CtaiError, Unavailable
from ctai_sam2.evaluation.scores import Method, PromptName
from ctai_sam2.evaluation.sessions import PixelBox, PixelXY, PromptResult, box_around, first_click_xy
from ctai_sam2.image.body import body_mask
from ctai_sam2.image.masks import fill_holes, grow, keep_largest, limit_to_hu, remove_islands, shrink
from ctai_sam2.image.windowing import SOFT_TISSUE, window_to_uint8
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS
from ctai_sam2.types import CTSlice, Mask

_GROW_SMOOTHING_MM: Final = 0.8
_GROW_SOFT_HU: Final = 35.0
_GROW_BONE_HU: Final = 100.0
_GROW_OPENING_MM: Final = 2.0
_SEED_MM: Final = 5.0
_RING_MM: Final = 35.0
_WALK_BETA: Final = 1500.0
_WALK_SMOOTHING_MM: Final = 1.0
_WALK_TOLERANCE: Final = 1e-3
_CUT_MARGIN_MM: Final = 5.0
_CUT_SEED_MM: Final = 6.0
_CUT_ROUNDS: Final = 5
_SKIN_MM: Final = 4.0
_SMALLEST_MUSCLE_MM2: Final = 50.0

_Method = Callable[[], Mask]


def grabcut_is_available() -> bool:
    """Whether OpenCV, which GrabCut needs, is installed."""
    return importlib.util.find_spec("cv2") is not None


def run_baselines(ct: CTSlice, structure: str, reference: Mask) -> list[tuple[Method, PromptResult]]:
    """Run every classical method that makes sense for a structure on the first click and on the box.

    Parameters
    ----------
    ct : CTSlice
        The slice.
    structure : str
        Name of the reference.
    reference : ndarray of bool, shape (H, W)
        Gives click and box, nothing else.

    Returns
    -------
    list of (str, PromptResult)
        Method and result. GrabCut is left out where OpenCV is not installed.
    """
    xy, box = first_click_xy(reference), box_around(reference)
    is_muscle = structure == "muscle"
    runs: list[tuple[Method, PromptName, _Method]] = [
        ("region_growing", "click_1", lambda: grow_region(ct, xy, structure=structure)),
        ("region_growing", "box", lambda: grow_region(ct, xy, structure=structure, box_xyxy=box)),
        ("filled_box", "box", lambda: _fill_box(ct.shape_hw, box)),
    ]
    if not is_muscle:
        # A walk from one seed does not reach muscles that are apart.
        runs += [
            ("random_walker", "click_1", lambda: walk_randomly(ct, xy)),
            ("random_walker", "box", lambda: walk_randomly(ct, xy, box_xyxy=box)),
        ]
    if grabcut_is_available():
        runs.append(("grabcut", "box", lambda: cut_by_colour(ct, xy, box, one_piece=not is_muscle)))
    if is_muscle:
        runs.append(("hu_threshold", "button", lambda: threshold_muscle(ct)))
    return [(method, _run(ct, prompt, segment)) for method, prompt, segment in runs]


def grow_region(
    ct: CTSlice, click_xy: PixelXY, *, structure: str = "muscle", box_xyxy: PixelBox | None = None
) -> Mask:
    """Collect what is connected with a click and about as bright.

    The slice is smoothed a little (Gaussian, 0.8 mm). In soft tissue ± 35 HU count, in bone ± 100 HU.
    Bridges thinner than 4 mm are cut first, except for all muscle, whose walls are thin.

    Parameters
    ----------
    ct : CTSlice
        The slice.
    click_xy : (int, int)
        (column, row).
    structure : str
        Tells bone (``vertebra``, ``L1`` … ``L5``) from soft tissue.
    box_xyxy : tuple of float, optional
        Growth ends at its edges.
    """
    from skimage.segmentation import flood

    x, y = click_xy
    is_bone = structure == "vertebra" or (structure[:1] == "L" and structure[1:].isdigit())
    smooth = ndimage.gaussian_filter(
        ct.hu.astype(np.float32), [_GROW_SMOOTHING_MM / step for step in ct.spacing_mm]
    )
    near = np.abs(smooth - smooth[y, x]) <= (_GROW_BONE_HU if is_bone else _GROW_SOFT_HU)
    if box_xyxy is not None:
        near &= _fill_box(ct.shape_hw, box_xyxy)
    if structure != "muscle":
        core = shrink(near, _GROW_OPENING_MM, ct.spacing_mm)
        core[y, x] = True
        reached = _as_mask(flood(core.astype(np.uint8), (y, x), connectivity=1))  # type: ignore[no-untyped-call]
        near &= grow(reached, _GROW_OPENING_MM, ct.spacing_mm)
    near[y, x] = True
    grown = _as_mask(flood(near.astype(np.uint8), (y, x), connectivity=1))  # type: ignore[no-untyped-call]
    return fill_holes(grown)


def walk_randomly(ct: CTSlice, click_xy: PixelXY, *, box_xyxy: PixelBox | None = None) -> Mask:
    """Give each pixel to the click or to the outside, whichever a random walker reaches first.

    Seeds are a disc of 5 mm around the click, and everything outside the box; without a box,
    everything more than 35 mm away from the click.

    Notes
    -----
    Grady, IEEE Trans Pattern Anal Mach Intell 28 (2006) 1768-1783, as in scikit-image.
    """
    import warnings

    from skimage.segmentation import random_walker

    distance = _distance_mm(ct, click_xy)
    if box_xyxy is None:
        outside = distance > _RING_MM
        x, y = float(click_xy[0]), float(click_xy[1])
        part = _crop(ct, (x, y, x, y), _RING_MM + 4.0)
    else:
        outside = ~_fill_box(ct.shape_hw, box_xyxy)
        part = _crop(ct, box_xyxy, 4.0)
    seeds = np.zeros(ct.shape_hw, dtype=np.int32)
    seeds[outside] = 2
    seeds[(distance <= _SEED_MM) & ~outside] = 1
    seeds[click_xy[1], click_xy[0]] = 1
    grey = ndimage.gaussian_filter(
        np.clip(ct.hu.astype(np.float64), SOFT_TISSUE.low_hu, SOFT_TISSUE.high_hu),
        [_WALK_SMOOTHING_MM / step for step in ct.spacing_mm],
    )
    mask = np.zeros(ct.shape_hw, dtype=np.bool_)
    if not (seeds[part] == 2).any():
        mask[part] = True
        return mask
    with warnings.catch_warnings():
        # It advises packages that make it faster, and reports pixels that no seed reaches.
        warnings.simplefilter("ignore")
        mask[part] = (
            random_walker(
                grey[part],
                seeds[part],
                beta=_WALK_BETA,
                mode="cg_j",
                tol=_WALK_TOLERANCE,
                spacing=ct.spacing_mm,
            )
            == 1
        )
    return mask


def cut_by_colour(ct: CTSlice, click_xy: PixelXY, box_xyxy: PixelBox, *, one_piece: bool = True) -> Mask:
    """Separate the inside of a box from its surroundings with GrabCut.

    A disc of 6 mm around the click is certain; everything else in the box is at first taken for
    the structure, and a rim of 5 mm around the box for its surroundings.

    Raises
    ------
    Unavailable
        If OpenCV is not installed.

    Notes
    -----
    Rother, Kolmogorov and Blake, ACM Trans Graph 23 (2004) 309-314, as in OpenCV.
    """
    if not grabcut_is_available():
        raise Unavailable("OpenCV is not installed", hint="Install ctai-sam2[train].")
    import cv2

    part = _crop(ct, box_xyxy, _CUT_MARGIN_MM)
    labels = np.full(ct.shape_hw, cv2.GC_BGD, dtype=np.uint8)
    box = _fill_box(ct.shape_hw, box_xyxy)
    labels[box] = cv2.GC_PR_FGD
    labels[box & (_distance_mm(ct, click_xy) <= _CUT_SEED_MM)] = cv2.GC_FGD
    image = window_to_uint8(ct.hu[part])
    cut = np.ascontiguousarray(labels[part])
    mask = np.zeros(ct.shape_hw, dtype=np.bool_)
    if not (cut == cv2.GC_BGD).any():
        mask[part] = True
        return mask
    # Its colour models begin with random clusters; the rectangle is not read, the labels say it all.
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.repeat(image[..., None], 3, axis=2),
        cut,
        (0, 0, 1, 1),
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        _CUT_ROUNDS,
        cv2.GC_INIT_WITH_MASK,
    )
    mask[part] = np.isin(cut, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return keep_largest(fill_holes(mask)) if one_piece else mask


def threshold_muscle(ct: CTSlice) -> Mask:
    """Take everything of muscle's HU inside the skin for muscle.

    Raises
    ------
    AnatomyNotFound
        If no body is visible.
    """
    limits = DEFAULT_DEFINITIONS.muscle
    inside = shrink(body_mask(ct.hu, ct.spacing_mm), _SKIN_MM, ct.spacing_mm)
    found = limit_to_hu(inside, ct.hu, limits.low_hu, limits.high_hu)
    return remove_islands(found, max(1, round(_SMALLEST_MUSCLE_MM2 / ct.pixel_area_mm2)))


def _run(ct: CTSlice, prompt: PromptName, method: _Method) -> PromptResult:
    try:
        return PromptResult(prompt=prompt, mask=method())
    except CtaiError as error:
        empty = np.zeros(ct.shape_hw, dtype=np.bool_)
        return PromptResult(prompt=prompt, mask=empty, error=f"{type(error).__name__}: {error.problem}")


def _distance_mm(ct: CTSlice, xy: PixelXY) -> NDArray[np.float64]:
    rows, columns = np.ogrid[: ct.shape_hw[0], : ct.shape_hw[1]]
    return np.hypot((columns - xy[0]) * ct.spacing_mm[1], (rows - xy[1]) * ct.spacing_mm[0])


def _fill_box(shape_hw: tuple[int, int], box_xyxy: PixelBox) -> Mask:
    filled = np.zeros(shape_hw, dtype=np.bool_)
    x0, y0, x1, y1 = (max(round(value), 0) for value in box_xyxy)
    filled[y0 : y1 + 1, x0 : x1 + 1] = True
    return filled


def _crop(ct: CTSlice, box_xyxy: PixelBox, margin_mm: float) -> tuple[slice, slice]:
    """Rows and columns of a box and what lies around it."""
    height, width = ct.shape_hw
    down, across = (int(np.ceil(margin_mm / step)) for step in ct.spacing_mm)
    x0, y0, x1, y1 = (round(value) for value in box_xyxy)
    return (
        slice(max(y0 - down, 0), min(y1 + down + 1, height)),
        slice(max(x0 - across, 0), min(x1 + across + 1, width)),
    )


def _as_mask(value: Any) -> Mask:
    return np.asarray(value, dtype=np.bool_)
