"""From classes to masks: compartments closed by the model, tissue within them by HU.

The dense head says for every pixel which compartment it belongs to. Two things it cannot say as
well as the image does: where exactly muscle ends towards fat, which HU limits decide, and whether fat lies
inside or outside of the muscle ring, which the closed ring decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.image.distances import box_of, within_distance
from ctai_sam2.image.masks import fill_holes, grow, keep_largest, label_components, remove_islands, shrink
from ctai_sam2.measure.definitions import HuRange, TissueDefinitions
from ctai_sam2.segmentation.postprocess import clean_mask
from ctai_sam2.types import Mask

_Name = TypeVar("_Name", bound=str)

GROUPS: Final = ("psoas", "quadratus", "paraspinal", "wall")
"""Muscle groups that the dense head distinguishes."""

COMPARTMENT_NAMES: Final = (*GROUPS, "between", "sat", "skin", "vat", "viscera", "spine", "bone")
"""What is requested of a model that knows compartments by name; the rest is outside of the patient."""

_FATS_AROUND: Final = ("sat", "vat")
_SKIN_MM = 1.5
_HULL_MM = 8.0
_BRIDGE_MM = 2.0
_SMALLEST_FAT_MM2 = 6.0
_POCKET_MM2 = 150.0
_PSOAS_APART_MM = 8.0
_SMALLEST_PSOAS_MM2 = 50.0
_ORGAN_RIM = 0.2
_FAT_HU = HuRange(low_hu=-190.0, high_hu=-30.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Compartments:
    """A slice divided completely, and what was odd about it.

    Parameters
    ----------
    masks : mapping of str to ndarray of bool, shape (H, W)
        ``psoas_left``, ``psoas_right``, ``muscle``, ``quadratus``, ``paraspinal``, ``wall``, ``sat``,
        ``vat``, ``imat`` within their HU limits; ``spine`` (vertebral body or disc) and ``ring`` (muscle with
        what lies between, and bone) as the model drew them.
    places : mapping of str to ndarray of bool, shape (H, W)
        Where ``sat``, ``vat`` and ``imat`` are looked for.
    contact_mm : float
        Over what length subcutaneous fat and cavity touch with no muscle ring between them; the linea alba
        is so thin that some centimetres are usual.
    stray_mm2 : float
        Muscle that touches neither wall nor back; it was taken out.
    unassigned_mm2 : float
        Fat of the body in no class before it was assigned.
    """

    masks: Mapping[str, Mask] = field(repr=False)
    places: Mapping[str, Mask] = field(repr=False)
    contact_mm: float
    stray_mm2: float
    unassigned_mm2: float


def divide_slice(
    classes: Mapping[str, Mask],
    hu: NDArray[Any],
    body: Mask,
    spacing_mm: tuple[float, float],
    definitions: TissueDefinitions,
) -> Compartments:
    """Make masks that can be measured of the compartments that a model has drawn.

    Parameters
    ----------
    classes : mapping of str to ndarray of bool, shape (H, W)
        By `COMPARTMENT_NAMES`; hardly overlapping.
    hu : ndarray, shape (H, W)
        The slice.
    body : ndarray of bool, shape (H, W)
        The patient.
    spacing_mm : tuple of float
        (row, column) spacing.
    definitions : TissueDefinitions
        HU ranges.

    Returns
    -------
    Compartments
        Muscle, SAT, VAT and IMAT do not overlap.
    """
    pixel_mm2 = spacing_mm[0] * spacing_mm[1]
    index = _as_index(classes, body, spacing_mm)
    number = {name: i for i, name in enumerate(COMPARTMENT_NAMES, start=1)}
    groups = [number[name] for name in GROUPS]

    spine = index == number["spine"]
    near_spine, organ = _sort_psoas(index, number, spacing_mm)
    solid = np.isin(index, [*groups, number["between"], number["spine"], number["bone"]])
    ring = _main_part(solid & ~organ, spine, spacing_mm)
    # A psoas may lie in fat all around.
    stray = np.isin(index, groups) & ~ring & ~near_spine
    in_limits = definitions.muscle.where(hu)
    stray_mm2 = float((stray & in_limits).sum()) * pixel_mm2
    index[stray] = number["viscera"]

    fat = _FAT_HU.where(hu)
    _rejoin(index, number, body, spacing_mm)
    contact_mm = _contact_mm(index, number, spacing_mm)
    inside = shrink(body, _SKIN_MM, spacing_mm)
    unclaimed = fat & inside & ((index == 0) | (index == number["skin"]))
    claimed = np.any([classes[name] for name in COMPARTMENT_NAMES if name in classes], axis=0)
    unassigned_mm2 = float((fat & inside & ~claimed).sum()) * pixel_mm2
    index[unclaimed] = number["sat"]
    index[fat & (index == number["viscera"])] = number["vat"]

    _settle_edges(index, in_limits, groups, [number[name] for name in _FATS_AROUND])
    muscles = {name: index == number[name] for name in GROUPS}
    left, right = _split(muscles["psoas"], keep_largest(spine), body)
    masks: dict[str, Mask] = {}
    for name, mask in (
        ("psoas_left", left),
        ("psoas_right", right),
        ("muscle", np.isin(index, groups)),
        *((name, muscles[name]) for name in GROUPS[1:]),
    ):
        masks[name] = clean_mask(
            mask,
            hu,
            pixel_area_mm2=pixel_mm2,
            limits=definitions.muscle,
            forbidden=spine | (index == number["bone"]),
        )
    masks["muscle"] |= masks["psoas_left"] | masks["psoas_right"]
    places = {
        "sat": (index == number["sat"]) & inside,
        "vat": index == number["vat"],
        "imat": np.isin(index, [*groups, number["between"]]),
    }
    masks |= fat_within(places, hu, masks["muscle"], spacing_mm, definitions)
    masks |= {"spine": spine, "ring": ring}
    return Compartments(
        masks=masks, places=places, contact_mm=contact_mm, stray_mm2=stray_mm2, unassigned_mm2=unassigned_mm2
    )


def fat_within(
    places: Mapping[_Name, Mask],
    hu: NDArray[Any],
    muscle: Mask,
    spacing_mm: tuple[float, float],
    definitions: TissueDefinitions,
) -> dict[_Name, Mask]:
    """Find ``sat``, ``vat`` and ``imat`` by HU in the places where they can be, outside of a muscle mask.

    Parameters
    ----------
    places : mapping of str to ndarray of bool, shape (H, W)
        See `Compartments`.
    hu : ndarray, shape (H, W)
        The slice.
    muscle : ndarray of bool, shape (H, W)
        Skeletal muscle, such as a reader has corrected it.
    spacing_mm, definitions
        As in `divide_slice`.
    """
    smallest_px = int(np.ceil(_SMALLEST_FAT_MM2 / (spacing_mm[0] * spacing_mm[1])))
    found = {}
    for name, place in places.items():
        tissue = getattr(definitions, name).where(hu) & place & ~muscle
        found[name] = remove_islands(tissue, smallest_px)
    return found


def _as_index(classes: Mapping[str, Mask], body: Mask, spacing_mm: tuple[float, float]) -> NDArray[np.uint8]:
    """Index each pixel by its compartment; what none claims well inside the body goes to the nearest."""
    index = np.zeros(body.shape, dtype=np.uint8)
    for i, name in enumerate(COMPARTMENT_NAMES, start=1):
        if name in classes:
            index[classes[name]] = i
    index[~body] = 0
    unclaimed = (index == 0) & shrink(body, 2 * _SKIN_MM, spacing_mm)
    box = box_of((index > 0) | unclaimed)
    if box is not None and unclaimed.any() and index.any():
        within = index[box]
        nearest = ndimage.distance_transform_edt(
            within == 0, sampling=spacing_mm, return_distances=False, return_indices=True
        )
        within[unclaimed[box]] = within[tuple(nearest)][unclaimed[box]]
    return index


def _main_part(solid: Mask, spine: Mask, spacing_mm: tuple[float, float]) -> Mask:
    """Return the ring: what hangs together with the spine, or the largest part where there is none."""
    joined = grow(solid, _BRIDGE_MM, spacing_mm)
    labels, count = label_components(joined)
    if count == 0:
        return solid
    sizes = np.bincount(labels.ravel(), minlength=count + 1).astype(float)
    sizes[0] = 0
    main = int(np.argmax(sizes))
    kept = labels == main
    if spine.any():
        votes = np.bincount(labels[spine], minlength=count + 1)
        votes[0] = 0
        kept |= labels == int(np.argmax(votes))
    # A rectus that stands apart is part of the wall: large, and not far from the outline of the rest.
    hull = _filled(kept, spacing_mm)
    for other in np.flatnonzero(sizes > 0):
        part = labels == other
        if not (part & kept).any() and (part & ~hull).sum() > 0.5 * part.sum():
            kept |= part
    result: Mask = kept & solid
    return result


def _sort_psoas(
    index: NDArray[np.uint8], number: Mapping[str, int], spacing_mm: tuple[float, float]
) -> tuple[Mask, Mask]:
    """Return the pieces of psoas nearest to the spine, and those of kidney, spleen or bowel called psoas.

    The latter lie well to the side of another and border on organs; quadratus lumborum does not.
    """
    psoas, spine = index == number["psoas"], index == number["spine"]
    near_spine, organ = np.zeros_like(psoas), np.zeros_like(psoas)
    # What else is called spine is a kidney with contrast, mostly.
    body = keep_largest(spine)
    box = box_of(psoas | body, 1, 1)
    if box is None or not body.any():
        return near_spine, organ
    is_organ = (index[box] == number["viscera"]) | (spine & ~body)[box]
    gap_mm = ndimage.distance_transform_edt(~body[box], sampling=spacing_mm)
    for side in _split(psoas[box], body[box], body[box]):
        labels, count = label_components(side, diagonal=False)
        pieces = np.arange(1, count + 1)
        gaps_mm = np.asarray(ndimage.minimum(gap_mm, labels, pieces))
        areas_mm2 = np.bincount(labels.ravel(), minlength=count + 1)[1:] * (spacing_mm[0] * spacing_mm[1])
        large = gaps_mm[areas_mm2 >= _SMALLEST_PSOAS_MM2]
        if not large.size:
            continue
        is_near = gaps_mm <= large.min() + _PSOAS_APART_MM
        near_spine[box] |= np.isin(labels, pieces[is_near])
        for label in pieces[~is_near]:
            piece = labels == label
            rim = ndimage.binary_dilation(piece) & ~piece
            if is_organ[rim].mean() >= _ORGAN_RIM:
                organ[box] |= piece
    return near_spine, organ


def _filled(mask: Mask, spacing_mm: tuple[float, float]) -> Mask:
    closed = shrink(grow(mask, _HULL_MM, spacing_mm), _HULL_MM, spacing_mm)
    return fill_holes(closed | mask)


def _rejoin(
    index: NDArray[np.uint8], number: Mapping[str, int], body: Mask, spacing_mm: tuple[float, float]
) -> None:
    """Give islands of fat to the compartment they lie in: the skin's, the cavity's, or between muscles.

    Subcutaneous fat reaches the skin, and the cavity is one: what hangs together with neither is misnamed.
    """
    # Of coarse pixels one layer at least; where the field of view cuts the skin off, the image's edge.
    rim = body & ~shrink(body, max(2 * _SKIN_MM, *spacing_mm), spacing_mm)
    for edge in ((0, slice(None)), (-1, slice(None)), (slice(None), 0), (slice(None), -1)):
        rim[edge] = body[edge]
    largest_pocket_px = _POCKET_MM2 / (spacing_mm[0] * spacing_mm[1])
    cavity = (number["vat"], number["viscera"])
    for own in ((number["sat"], number["skin"]), cavity):
        labels, count = label_components(np.isin(index, own), diagonal=False)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        sizes[0] = 0
        main = np.zeros(count + 1, dtype=bool)
        if own == cavity:
            main[np.argmax(sizes)] = True
        else:
            main[np.unique(labels[rim])] = True
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            if main[label] or box is None:
                continue
            wide = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
            part = labels[wide] == label
            around = index[wide][ndimage.binary_dilation(part) & ~part]
            votes = {
                "sat": np.isin(around, [number["sat"], number["skin"]]).sum(),
                "vat": np.isin(around, cavity).sum(),
                "between": (around > 0).sum(),
            }
            votes["between"] -= votes["sat"] + votes["vat"]
            winner = max(votes, key=lambda name: votes[name])
            if own == cavity and winner == "between" and sizes[label] > largest_pocket_px:
                # Between back, quadratus and wall lies fat of the retroperitoneum as well.
                continue
            view = index[wide]
            # An organ is no fat: it stays, and only its name's side is settled by what is fat around it.
            view[part & (view != number["viscera"])] = number[winner]


def _contact_mm(
    index: NDArray[np.uint8], number: Mapping[str, int], spacing_mm: tuple[float, float]
) -> float:
    """Return the length of the border between subcutaneous fat and cavity."""
    sat = index == number["sat"]
    cavity = np.isin(index, [number["vat"], number["viscera"]])
    touching = within_distance(within_distance(sat, 1.0), 1.0) & within_distance(cavity, 1.0)
    touching &= sat
    return float(touching.sum()) / 2 * float(np.mean(spacing_mm))


def _settle_edges(index: NDArray[np.uint8], in_limits: Mask, groups: list[int], fats: list[int]) -> None:
    """Let HU decide on the pixels where muscle and fat meet.

    A pixel shared by muscle (50 HU) and fat (-105 HU) is within the limits of muscle when more than half of
    it is muscle; a network's border there is no better than half a pixel. That does not hold for the thin
    layers between muscles: their pixels hold fascia, and muscle of both sides.
    """
    open_ = np.isin(index, fats) & in_limits
    for group in groups:
        adjacent = within_distance(index == group, 1.0) & open_
        index[adjacent] = group
        open_ &= ~adjacent


def _split(psoas: Mask, spine: Mask, body: Mask) -> tuple[Mask, Mask]:
    """Return left and right psoas: parts by the side of the spine on which most of each lies."""
    on_left = left_of(spine if spine.any() else body)
    return psoas & on_left, psoas & ~on_left


def left_of(spine: Mask) -> Mask:
    """Tell which columns are on the patient's left of a mask's middle, or of the picture's; shape (1, W)."""
    columns, width = np.flatnonzero(spine.any(axis=0)), spine.shape[1]
    middle = float(columns[0] + columns[-1]) / 2 if columns.size else width / 2
    return np.asarray(np.arange(width)[None, :] > middle, dtype=np.bool_)
