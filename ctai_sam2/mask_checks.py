"""What is odd about masks that came from a file: on the wrong side, inverted, or cut to other HU before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.body import body_mask
from ctai_sam2.measure.definitions import TissueDefinitions
from ctai_sam2.structures import MIRRORED
from ctai_sam2.types import CTSlice, CTVolume, Mask

_FEWEST_PIXELS = 30
"""A mask of fewer pixels says nothing of where it was cut: 30 mm² on a usual CT."""

_MIDLINE_MM = 5.0
"""How far beyond the body's middle a mask has to lie: scoliosis moves the spine by less than a psoas."""

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
    places = {
        name: _left_mm(masks[name], of) for name in MIRRORED if name in masks and masks[name].any()
    }
    if len(places) == 2:
        if places["psoas_left"] < places["psoas_right"]:
            return ["psoas_left lies to the right of psoas_right: are their names swapped, or is one mirrored?"]
        return []
    notes = []
    for name, place in places.items():
        middle = _middle_mm(masks[name], of)
        sign = 1 if name.endswith("left") else -1
        if middle is not None and sign * (place - middle) < -_MIDLINE_MM:
            notes.append(f"{name} lies on the other side of the body: is it the other psoas, or mirrored?")
    return notes


def cut_notes(
    ct_slice: CTSlice, masks: Mapping[str, Mask], definitions: TissueDefinitions
) -> list[str]:
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
        low, high = float(inside.min()), float(inside.max())
        around = _rim(mask)
        next_to_it = ct_slice.hu[around]
        missing_low = low > wanted.low_hu and bool(
            ((next_to_it >= wanted.low_hu) & (next_to_it < low)).sum() >= _FEWEST_PIXELS
        )
        missing_high = high < wanted.high_hu and bool(
            ((next_to_it <= wanted.high_hu) & (next_to_it > high)).sum() >= _FEWEST_PIXELS
        )
        if missing_low or missing_high:
            notes.append(
                f"{name} holds values of {low:g} to {high:g} HU only, and next to it lies tissue of"
                f" {wanted.low_hu:g} to {wanted.high_hu:g} HU: it was cut to other limits before, and"
                f" measuring with {definitions.identifier} does not widen it"
            )
    return notes


def inverted_notes(masks: Mapping[str, Mask]) -> list[str]:
    """Say which masks hold all four corners of the image, as one does whose inside and outside are swapped."""
    return [
        f"{name} holds all four corners of the image: is it inverted?"
        for name, mask in masks.items()
        if mask.ndim == 2 and mask[0, 0] and mask[0, -1] and mask[-1, 0] and mask[-1, -1]
    ]


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
