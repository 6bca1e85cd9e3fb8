"""The psoas that division and prompted decoder agree on, within what anatomy and density allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.image.distances import box_of
from ctai_sam2.image.masks import grow, label_components, shrink
from ctai_sam2.measure.definitions import HuRange
from ctai_sam2.measure.overlap import dice
from ctai_sam2.segmentation.postprocess import clean_mask
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTSlice, Mask


@dataclass(frozen=True, kw_only=True)
class PsoasParameters:
    """Limits, chosen on twelve slices and a stack of five patients, each left out of the choice in turn.

    Parameters
    ----------
    behind_body_mm : float
        A psoas lies in front of the transverse processes: how far behind the vertebral body it may reach.
        What lies further back is quadratus lumborum, mostly. Tried: 2 to 12; readers' masks end 2.6 in front
        of the body's back to 8.9 behind it.
    slack_mm : float
        How far the division's mask may go beyond the decoder's, whose border is coarse. Tried: 1.0 to 2.2.
    disc_reach_mm : float
        What the division calls disc this near to its psoas, and the decoder psoas, is psoas: both are as
        dense. Tried: 0 to 8.
    brighter_hu : float
        What is so much brighter than the muscle, averaged over 3 x 3 pixels, is a kidney or vessel with
        contrast, or bone. Tried: 25 to 50.
    bright_mm2 : float
        Smaller bright places are noise.
    same : float
        Below this Dice the decoder was pointed at another muscle, and the division alone counts.
    uneven : float
        Where a side has less than this part of the other's area, each way of finding it has lost a part.
    """

    behind_body_mm: float = 6.0
    slack_mm: float = 1.6
    disc_reach_mm: float = 8.0
    brighter_hu: float = 40.0
    bright_mm2: float = 100.0
    same: float = 0.5
    uneven: float = 0.5


PARAMETERS: Final = PsoasParameters()

_MARGIN_MM = 15.0
_RIM_MM = (1.0, 3.0)
_STANDS_OUT_HU = 40.0
_CORE_MM = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class AgreedPsoas:
    """One psoas, and how far both ways of finding it agree.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        The mask to use.
    agreement : float
        Dice of division and decoder in front of the transverse processes, 0 to 1.
    bright : ndarray of bool, shape (H, W)
        What either took for psoas and is far brighter than muscle.
    """

    mask: Mask
    agreement: float
    bright: Mask


def agree_on_both(
    ct_slice: CTSlice,
    prompted: Mapping[Structure, Mask],
    divided: Mapping[str, Mask],
    *,
    disc: Mask,
    limits: HuRange,
    parameters: PsoasParameters = PARAMETERS,
) -> dict[Structure, AgreedPsoas]:
    """Agree on each side, and take what either way saw of a side that came out far smaller than the other.

    Parameters
    ----------
    ct_slice : CTSlice
        Axial, anterior up.
    prompted : mapping of str to ndarray of bool, shape (H, W)
        By side, as the decoder drew it, within HU limits; a side that it did not find is left out.
    divided : mapping of str to ndarray of bool, shape (H, W)
        Both sides and ``spine`` of the division.
    disc, limits, parameters
        As in `agree_on_psoas`.
    """

    def agree(side: Structure, *, either: bool = False) -> AgreedPsoas:
        return agree_on_psoas(
            ct_slice, prompted[side], divided[side], spine=divided["spine"], disc=disc, limits=limits,
            either=either, parameters=parameters,
        )  # fmt: skip

    agreed = {side: agree(side) for side in prompted}
    by_area = sorted(agreed, key=lambda side: int(agreed[side].mask.sum()))
    if len(by_area) == 2 and all(one.agreement >= parameters.same for one in agreed.values()):
        smaller, larger = by_area
        if agreed[smaller].mask.sum() < parameters.uneven * agreed[larger].mask.sum():
            agreed[smaller] = agree(smaller, either=True)
    return agreed


def agree_on_psoas(
    ct_slice: CTSlice,
    prompted: Mask,
    divided: Mask,
    *,
    spine: Mask,
    disc: Mask,
    limits: HuRange,
    either: bool = False,
    parameters: PsoasParameters = PARAMETERS,
) -> AgreedPsoas:
    """Take what division and prompted decoder both see, with some slack.

    The division errs towards quadratus lumborum, kidney and disc, the decoder towards fat and nerve root.

    Parameters
    ----------
    ct_slice : CTSlice
        Axial, anterior up.
    prompted, divided : ndarray of bool, shape (H, W)
        The psoas of one side as the decoder and as the division drew it, within HU limits.
    spine, disc : ndarray of bool, shape (H, W)
        Vertebral body and disc as the division drew them, and the disc alone.
    limits : HuRange
        Of muscle.
    either : bool
        Whether to take what either sees instead.
    parameters : PsoasParameters
        Limits of this function.
    """
    p, spacing_mm = parameters, ct_slice.spacing_mm
    in_front = _in_front_of_processes(spine, p.behind_body_mm, spacing_mm)
    prompted, divided = prompted & in_front, divided & in_front
    whole = np.zeros_like(prompted), np.zeros_like(prompted)
    box = box_of(prompted | divided, *(int(np.ceil(_MARGIN_MM / spacing)) for spacing in spacing_mm))
    if box is None:
        return AgreedPsoas(mask=whole[0], agreement=0.0, bright=whole[1])
    prompted, divided, disc, hu = prompted[box], divided[box], disc[box], ct_slice.hu[box]
    divided = divided | (prompted & disc & grow(divided, p.disc_reach_mm, spacing_mm))
    agreement = dice(prompted, divided)
    if not divided.any():
        mask = prompted
    elif either:
        mask = divided | prompted
    elif agreement < p.same:
        mask = divided
    else:
        mask = divided & grow(prompted, p.slack_mm, spacing_mm)
    bright = (prompted | divided) & _bright(hu, mask, spacing_mm, p)
    pixel_mm2 = ct_slice.pixel_area_mm2
    whole[0][box] = clean_mask(mask & ~bright, hu, pixel_area_mm2=pixel_mm2, limits=limits, forbidden=bright)
    whole[1][box] = bright
    return AgreedPsoas(mask=whole[0], agreement=agreement, bright=whole[1])


def outline_contrast(hu: NDArray[Any], mask: Mask, spacing_mm: tuple[float, float]) -> float:
    """Return the share of a muscle's surroundings that its density stands out from, 0 to 1.

    Where quadratus lumborum, kidney, bowel or disc lie against a psoas, nothing in the image says where it
    ends, and its area is anybody's guess.

    Parameters
    ----------
    hu : ndarray, shape (H, W)
        The slice.
    mask : ndarray of bool, shape (H, W)
        The muscle.
    spacing_mm : tuple of float
        (row, column) spacing.
    """
    box = box_of(mask, *(int(np.ceil(2 * _RIM_MM[1] / spacing)) for spacing in spacing_mm))
    if box is None:
        return 0.0
    near, far = (grow(mask[box], reach_mm, spacing_mm) for reach_mm in _RIM_MM)
    core = shrink(mask[box], _CORE_MM, spacing_mm)
    rim = hu[box][far & ~near].astype(np.float32)
    if not rim.size:
        return 0.0
    typical = np.median(hu[box][core if core.any() else mask[box]])
    return float((np.abs(rim - typical) > _STANDS_OUT_HU).mean())


def _in_front_of_processes(spine: Mask, behind_mm: float, spacing_mm: tuple[float, float]) -> Mask:
    """Return all rows down to some millimetres behind the body's back wall; everything without a spine."""
    rows, columns = np.nonzero(spine)
    reach = np.ones((spine.shape[0], 1), dtype=np.bool_)
    if rows.size:
        middle = (columns.min() + columns.max()) / 2
        # The body's sides bulge and its processes reach back; its middle half has the wall to the canal.
        inner = np.abs(columns - middle) < 0.25 * float(np.ptp(columns))
        if inner.any():
            back = float(np.percentile(rows[inner], 99))
            reach = np.arange(spine.shape[0])[:, None] <= back + behind_mm / spacing_mm[0]
    return np.asarray(np.broadcast_to(reach, spine.shape))


def _bright(hu: NDArray[Any], psoas: Mask, spacing_mm: tuple[float, float], p: PsoasParameters) -> Mask:
    """Return the large places at and around a psoas that are far brighter than it."""
    core = shrink(psoas, _CORE_MM, spacing_mm)
    typical = float(np.median(hu[core if core.any() else psoas]))
    labels, count = label_components(
        ndimage.uniform_filter(hu.astype(np.float32), 3) > typical + p.brighter_hu
    )
    areas_mm2 = np.bincount(labels.ravel(), minlength=count + 1) * (spacing_mm[0] * spacing_mm[1])
    large = areas_mm2 >= p.bright_mm2
    large[0] = False
    return np.asarray(large[labels], dtype=np.bool_)
