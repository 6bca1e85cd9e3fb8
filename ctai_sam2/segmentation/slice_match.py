"""The slice of a second study that shows what a slice of the first shows: matched by the bones around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.types import CTSlice, CTVolume, Mask


@dataclass(frozen=True, kw_only=True)
class MatchParameters:
    """How slices are compared.

    Parameters
    ----------
    step_mm : float
        Pixels of the pictures compared.
    half_side_mm : float
        Half the side of the square around the vertebra that is compared.
    reach_mm : float
        How far from the starting slice a better one is looked for: less than one vertebra with its disc.
    shift_mm : float
        How far the vertebra may lie from where it is expected, in the plane.
    low_hu, high_hu : float
        Values beyond are clipped, so that contrast in vessels and dense bone does not decide.
    """

    step_mm: float = 2.0
    half_side_mm: float = 70.0
    reach_mm: float = 18.0
    shift_mm: float = 24.0
    low_hu: float = -200.0
    high_hu: float = 300.0


@dataclass(frozen=True, kw_only=True)
class SliceMatch:
    """The slice that fits best.

    Parameters
    ----------
    axial_index : int
        In the second volume.
    offset_mm : float
        From the slice that the search began at, along the volume's normal; positive towards the head.
    similarity : float
        Correlation of the pictures around the vertebra, -1 to 1.
    similarity_at_start : float
        The same of the slice that the search began at.
    """

    axial_index: int
    offset_mm: float
    similarity: float
    similarity_at_start: float


def match_slice(
    reference: CTSlice,
    vertebra: Mask,
    volume: CTVolume,
    start_index: int,
    start_vertebra: Mask,
) -> SliceMatch:
    """Find the slice of a volume that shows the same height of the same vertebra as a slice of another.

    Parameters
    ----------
    reference : CTSlice
        An axial slice of the first study.
    vertebra : ndarray of bool, shape (H, W)
        Its vertebral body.
    volume : CTVolume
        The second study.
    start_index : int
        Its slice at the same level, as far as is known.
    start_vertebra : ndarray of bool, shape (H, W)
        The vertebral body there.

    Raises
    ------
    AnatomyNotFound
        If a vertebral body is empty, or the picture around it is.
    """
    p = MatchParameters()
    template = _picture(reference, _centre_of(vertebra), p.half_side_mm, p)
    if float(template.std()) < 1.0:
        raise AnatomyNotFound("there is nothing around the vertebra to match a slice by")
    centre = _centre_of(start_vertebra)
    positions = np.asarray(volume.slice_positions_mm, dtype=np.float64)
    near = np.flatnonzero(np.abs(positions - positions[start_index]) <= p.reach_mm)
    wide_mm = p.half_side_mm + p.shift_mm
    scores = {
        int(index): _similarity(template, _picture(volume.axial(int(index)), centre, wide_mm, p))
        for index in near
    }
    best = max(scores, key=lambda index: (scores[index], -abs(index - start_index)))
    return SliceMatch(
        axial_index=best,
        offset_mm=float(positions[best] - positions[start_index]),
        similarity=scores[best],
        similarity_at_start=scores[start_index],
    )


def _centre_of(mask: Mask) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    if not rows.size:
        raise AnatomyNotFound("the vertebral body was not found on a slice", hint="Segment it with a point.")
    return float(rows.mean()), float(columns.mean())


def _picture(
    ct_slice: CTSlice, centre_rc: tuple[float, float], half_mm: float, p: MatchParameters
) -> NDArray[np.float64]:
    """Square of equal pixels around a point, clipped; where the slice ends it is air."""
    count = round(2 * half_mm / p.step_mm) + 1
    offsets = (np.arange(count) - (count - 1) / 2) * p.step_mm
    rows = centre_rc[0] + offsets[:, None] / ct_slice.spacing_mm[0]
    columns = centre_rc[1] + offsets[None, :] / ct_slice.spacing_mm[1]
    values = np.clip(ct_slice.hu.astype(np.float32), p.low_hu, p.high_hu)
    # Finer pixels are averaged first: noise is no feature.
    sigma = [max(0.0, p.step_mm / step / 2.5) for step in ct_slice.spacing_mm]
    smooth = ndimage.gaussian_filter(values, sigma)
    grid = np.broadcast_arrays(rows, columns)
    picture: NDArray[np.float64] = ndimage.map_coordinates(
        smooth, grid, order=1, mode="constant", cval=p.low_hu
    ).astype(np.float64)
    return picture


def _similarity(template: NDArray[np.float64], wide: NDArray[np.float64]) -> float:
    """Best correlation of a template with a wider picture, over all places in it."""
    from skimage.feature import match_template

    found = match_template(wide, template)  # type: ignore[no-untyped-call]
    return float(found.max())
