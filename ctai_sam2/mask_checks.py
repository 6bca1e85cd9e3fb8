"""What is odd about masks that came from a file: mirrored, inverted, with gaps, or cut to other HU before."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.body import body_mask
from ctai_sam2.measure.definitions import TissueDefinitions
from ctai_sam2.structures import MIRRORED, STRUCTURES
from ctai_sam2.types import CTSlice, CTVolume, Mask

_FEWEST_PIXELS = 30
"""A mask of fewer pixels says nothing of where it was cut: 30 mm² on a usual CT."""

_STEP_HU = 5.0
_FEWEST_IN_STEP = 5
_STEP_SHARE = 0.002
"""A mask was cut where at least this share of its pixels lies within so many HU of its end."""

_MIDLINE_MM = 5.0
"""How far beyond the body's middle a mask has to lie: scoliosis moves the spine by less than a psoas."""

_LEAST_SHARE = 0.4
"""A wasted psoas still is half muscle; one that is put onto bowel, fat or air is not."""

_CUT = re.compile(r"cut to (?P<low>-?[\d.]+?)\.\.(?P<high>-?[\d.]+) HU by (?P<by>\S+)")

_TISSUE_OF = {
    "psoas": "muscle",
    "psoas_left": "muscle",
    "psoas_right": "muscle",
    "muscle": "muscle",
    "sat": "sat",
    "vat": "vat",
    "imat": "imat",
}


def side_notes(masks: Mapping[str, Mask], of: CTSlice | CTVolume) -> list[str]:
    """Say which masks called left or right lie on the other side of the patient.

    Of two sides, each is compared with the other one; a side alone, with the middle of the body. Sides are
    those of the patient, by the image's coordinates; without these nothing is said.

    Parameters
    ----------
    masks : mapping of str to ndarray of bool, shape (H, W) or (D, H, W)
        By structure.
    of : CTSlice or CTVolume
        What they lie on.
    """
    if of.affine is None or (isinstance(of, CTSlice) and of.plane != "axial"):
        return []
    places = {name: _left_mm(masks[name], of) for name in MIRRORED if name in masks and masks[name].any()}
    if len(places) == 2:
        if places["psoas_left"] < places["psoas_right"]:
            return [
                "psoas_left lies to the right of psoas_right: are their names swapped, or is one mirrored?"
            ]
        return []
    notes = []
    for name, place in places.items():
        middle = _middle_mm(masks[name], of)
        sign = 1 if name.endswith("left") else -1
        if middle is not None and sign * (place - middle) < -_MIDLINE_MM:
            notes.append(f"{name} lies on the other side of the body: is it the other psoas, or mirrored?")
    return notes


def cut_notes(ct_slice: CTSlice, masks: Mapping[str, Mask], definitions: TissueDefinitions) -> list[str]:
    """Say which masks were cut to narrower HU limits than those they are measured with.

    A mask of a tissue has pixels throughout the tissue's range. One that has none in a part of the range,
    and stops exactly at the limit of other definitions, was cut there: measuring with wider limits cannot
    give back what is not in the mask.

    Parameters
    ----------
    ct_slice : CTSlice
        The slice.
    masks : mapping of str to ndarray of bool, shape (H, W)
        By structure.
    definitions : TissueDefinitions
        What they are measured with.
    """
    notes = []
    for name, mask in masks.items():
        tissue = _TISSUE_OF.get(name)
        if tissue is None or int(mask.sum()) < _FEWEST_PIXELS:
            continue
        wanted = getattr(definitions, tissue)
        inside = ct_slice.hu[mask]
        next_to_it = ct_slice.hu[_rim(mask)]
        low, high = float(inside.min()), float(inside.max())
        # Values that run out by themselves end in a thin tail; those that were cut end in a step.
        step = max(_FEWEST_IN_STEP, int(_STEP_SHARE * inside.size))
        missing_low = low > wanted.low_hu and bool(
            (inside <= low + _STEP_HU).sum() >= step
            and ((next_to_it >= wanted.low_hu) & (next_to_it < low)).sum() >= _FEWEST_IN_STEP
        )
        missing_high = high < wanted.high_hu and bool(
            (inside >= high - _STEP_HU).sum() >= step
            and ((next_to_it <= wanted.high_hu) & (next_to_it > high)).sum() >= _FEWEST_IN_STEP
        )
        if high - low <= 2 * _STEP_HU:
            continue
        if missing_low or missing_high:
            notes.append(
                f"{name} holds values of {low:g} to {high:g} HU only, and next to it lies tissue of"
                f" {wanted.low_hu:g} to {wanted.high_hu:g} HU: it was cut to other limits before, and"
                f" measuring with {definitions.identifier} does not widen it"
            )
    return notes


def tissue_notes(ct_slice: CTSlice, masks: Mapping[str, Mask], definitions: TissueDefinitions) -> list[str]:
    """Say which masks hold little of their tissue, as those of another slice or of a rotated image do.

    A PNG states no position, and prone or feet-first images are shown rotated. Outlines of visceral and
    intermuscular fat go around other tissue too: they are not checked.

    Parameters
    ----------
    ct_slice : CTSlice
        The slice.
    masks : mapping of str to ndarray of bool, shape (H, W)
        By structure.
    definitions : TissueDefinitions
        Hounsfield limits of the tissues.
    """
    notes = []
    for name, mask in masks.items():
        tissue = _TISSUE_OF.get(name)
        if tissue not in ("muscle", "sat") or int(mask.sum()) < _FEWEST_PIXELS:
            continue
        limits = getattr(definitions, tissue)
        inside = ct_slice.hu[mask]
        share = float(((inside >= limits.low_hu) & (inside <= limits.high_hu)).mean())
        if share < _LEAST_SHARE:
            notes.append(
                f"only {share:.0%} of {name} is within {limits.low_hu:g} to {limits.high_hu:g} HU: was it"
                " drawn on this slice, and on the image as it is shown here?"
            )
    return notes


def describe_cut(tissue: str, definitions: TissueDefinitions) -> str | None:
    """Write for a mask's header which HU limits it was cut to; None for tissues that are not cut.

    Muscles keep the fat within them: their limits count when they are measured.
    """
    if tissue not in ("sat", "vat", "imat"):
        return None
    limits = getattr(definitions, tissue)
    return f"cut to {limits.low_hu:g}..{limits.high_hu:g} HU by {definitions.identifier}"[:79]


def require_not_cut(name: str, description: str | None, definitions: TissueDefinitions) -> None:
    """Refuse to measure a mask with wider HU limits than those its header says it was cut to.

    Raises
    ------
    InputError
        If the limits requested are wider.
    """
    found = _CUT.match(description or "")
    tissue = _TISSUE_OF.get(name)
    if found is None or tissue is None:
        return
    wanted = getattr(definitions, tissue)
    if float(found["low"]) > wanted.low_hu or float(found["high"]) < wanted.high_hu:
        raise InputError(
            f"the mask {name} was cut to {found['low']} to {found['high']} HU when it was made,"
            f" and {definitions.identifier} counts {wanted.low_hu:g} to {wanted.high_hu:g} HU",
            received=f"made with {found['by']}",
            hint="Segment again with --definitions, or measure with the definitions it was made with.",
        )


def inverted_notes(masks: Mapping[str, Mask]) -> list[str]:
    """Say which masks hold all four corners of the image, as one with inside and outside swapped does."""
    return [
        f"{name} holds all four corners of the image: is it inverted?"
        for name, mask in masks.items()
        if mask.ndim == 2 and mask[0, 0] and mask[0, -1] and mask[-1, 0] and mask[-1, -1]
    ]


def gap_notes(masks: Mapping[str, Mask]) -> list[str]:
    """Say which masks of a volume have slices without a voxel between their first and their last.

    Readers outline every second or fifth slice, or on thicker slices; those between then count as
    empty. A structure of this package is one piece along the body; others may have gaps, unless no two
    neighbouring slices are drawn.

    Parameters
    ----------
    masks : mapping of str to ndarray of bool, shape (D, H, W)
        By structure; masks of a slice are left alone.

    Examples
    --------
    >>> mask = np.zeros((5, 2, 2), dtype=bool)
    >>> mask[::2] = True
    >>> gap_notes({"psoas_left": mask})
    ['psoas_left is empty on 2 of 5 slices between its first and its last: its volume is too small']
    """
    notes = []
    for name, mask in masks.items():
        if mask.ndim != 3:
            continue
        drawn = np.flatnonzero(mask.any(axis=(1, 2)))
        if drawn.size < 2:
            continue
        extent = int(drawn[-1] - drawn[0]) + 1
        is_sparse = drawn.size > 2 and int(np.diff(drawn).min()) > 1
        if drawn.size < extent and (name in STRUCTURES or is_sparse):
            notes.append(
                f"{name} is empty on {extent - drawn.size} of {extent} slices between its first and its last:"
                " its volume is too small"
            )
    return notes


def _left_mm(mask: Mask, of: CTSlice | CTVolume) -> float:
    """Mean place of a mask along the patient's right-left axis, in mm, left positive."""
    affine = np.asarray(of.affine)
    if mask.ndim == 2:
        y, x = np.nonzero(mask)
        return float(affine[0, 0] * x.mean() + affine[0, 1] * y.mean() + affine[0, 3])
    z, y, x = np.nonzero(mask)
    return float(affine[0] @ np.array([x.mean(), y.mean(), z.mean(), 1.0]))


def _middle_mm(mask: Mask, of: CTSlice | CTVolume) -> float | None:
    """Where the middle of the body lies along the same axis, on the mask's fullest slice."""
    affine = np.asarray(of.affine)
    if isinstance(of, CTSlice):
        ct_slice, z = of, 0
    else:
        z = int(mask.sum(axis=(1, 2)).argmax())
        ct_slice = of.axial(z)
    try:
        body = body_mask(ct_slice.hu, ct_slice.spacing_mm)
    except AnatomyNotFound:
        return None
    rows, columns = np.nonzero(body)
    middle = np.array([(columns.min() + columns.max()) / 2, rows.mean(), float(z), 1.0])
    return float(affine[0] @ middle)


def _rim(mask: Mask) -> Mask:
    """Pixels that touch a mask."""
    padded = np.pad(mask, 1)
    grown = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return np.asarray(grown & ~mask, dtype=np.bool_)
