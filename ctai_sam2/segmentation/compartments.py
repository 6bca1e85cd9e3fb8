"""From classes to masks: compartments closed by the model, tissue within them by HU.

The dense head says for every pixel which compartment it belongs to. Two things it cannot say as
well as the image does: where exactly muscle ends towards fat, which HU limits decide, and whether fat lies
inside or outside of the muscle ring, which the closed ring decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.measure.definitions import HuRange, TissueDefinitions
from ctai_sam2.image.masks import grow, label_components, remove_islands, shrink
from ctai_sam2.segmentation.postprocess import clean_mask
from ctai_sam2.types import Mask

GROUPS: Final = ("psoas", "quadratus", "paraspinal", "wall")
"""Muscle groups that the dense head tells apart."""

COMPARTMENT_NAMES: Final = (*GROUPS, "between", "sat", "skin", "vat", "viscera", "spine", "bone")
"""What is asked of a model that knows compartments by name; the rest is outside of the patient."""

_FATS: Final = ("sat", "vat", "between")
_SKIN_MM = 1.5
_CLOSING_MM = 4.0
_BRIDGE_MM = 2.0
_SMALLEST_FAT_MM2 = 6.0
_LEAST_CAVITY_PART = 0.2
_FAT_HU = HuRange(low_hu=-190.0, high_hu=-30.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Compartments:
    """A slice divided completely, and what was odd about it.

    Parameters
    ----------
    masks : mapping of str to ndarray of bool, shape (H, W)
        ``psoas_left``, ``psoas_right``, ``muscle``, ``quadratus``, ``paraspinal``, ``wall``, ``sat``, ``vat``,
        ``imat`` within their HU limits; ``spine`` (vertebral body or disc), ``ring`` (muscle with what lies
        between) and ``cavity`` as the model closed them.
    is_closed : bool
        Whether the muscle ring goes all the way round.
    stray_mm2 : float
        Muscle that touches neither wall nor back; it was taken out.
    unassigned_mm2 : float
        Fat of the body in no class before it was assigned.
    """

    masks: Mapping[str, Mask] = field(repr=False)
    is_closed: bool
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

    solid = np.isin(index, [*groups, number["between"], number["spine"], number["bone"]])
    ring = _main_part(solid, index == number["spine"], spacing_mm)
    stray = np.isin(index, groups) & ~ring
    in_limits = _within(hu, definitions.muscle)
    stray_mm2 = float((stray & in_limits).sum()) * pixel_mm2
    index[stray] = number["viscera"]

    outer, cavity = _sides_of(ring, body, spacing_mm)
    is_closed = bool(cavity.sum() >= _LEAST_CAVITY_PART * body.sum())
    fat = _within(hu, _FAT_HU)
    if is_closed:
        index[outer & np.isin(index, [number["vat"], number["viscera"]]) & fat] = number["sat"]
        index[cavity & (index == number["sat"])] = number["vat"]
    inside = shrink(body, _SKIN_MM, spacing_mm)
    unclaimed = fat & inside & ((index == 0) | (index == number["skin"]))
    unassigned_mm2 = float((unclaimed & (index == 0)).sum()) * pixel_mm2
    index[unclaimed & ~cavity] = number["sat"]
    index[fat & (index == number["viscera"])] = number["vat"]
    index[unclaimed & cavity] = number["vat"]

    _settle_edges(index, in_limits, groups, [number[name] for name in _FATS])
    muscles = {name: index == number[name] for name in GROUPS}
    spine = index == number["spine"]
    left, right = _split(muscles["psoas"], spine, body)
    masks: dict[str, Mask] = {}
    for name, mask in (
        ("psoas_left", left),
        ("psoas_right", right),
        ("muscle", np.isin(index, groups)),
        *((name, muscles[name]) for name in GROUPS[1:]),
    ):
        masks[name] = clean_mask(
            mask, hu, pixel_area_mm2=pixel_mm2, limits=definitions.muscle, forbidden=spine | (index == number["bone"])
        )
    masks["muscle"] |= masks["psoas_left"] | masks["psoas_right"]
    places = {
        "sat": (index == number["sat"]) & inside,
        "vat": index == number["vat"],
        "imat": np.isin(index, [*groups, number["between"]]),
    }
    smallest_px = int(np.ceil(_SMALLEST_FAT_MM2 / pixel_mm2))
    for name, place in places.items():
        tissue = _within(hu, getattr(definitions, name)) & place & ~masks["muscle"]
        masks[name] = remove_islands(tissue, smallest_px)
    masks |= {"spine": spine, "ring": ring, "cavity": cavity if is_closed else index == number["vat"]}
    return Compartments(
        masks=masks, is_closed=is_closed, stray_mm2=stray_mm2, unassigned_mm2=unassigned_mm2
    )


def _as_index(classes: Mapping[str, Mask], body: Mask, spacing_mm: tuple[float, float]) -> NDArray[np.uint8]:
    """Number each pixel by its compartment; what none claims well inside the body goes to the nearest."""
    index = np.zeros(body.shape, dtype=np.uint8)
    for i, name in enumerate(COMPARTMENT_NAMES, start=1):
        if name in classes:
            index[classes[name]] = i
    index[~body] = 0
    unclaimed = (index == 0) & shrink(body, 2 * _SKIN_MM, spacing_mm)
    if unclaimed.any() and index.any():
        nearest = ndimage.distance_transform_edt(
            index == 0, sampling=spacing_mm, return_distances=False, return_indices=True
        )
        index[unclaimed] = index[tuple(nearest)][unclaimed]
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


def _filled(mask: Mask, spacing_mm: tuple[float, float]) -> Mask:
    closed = shrink(grow(mask, 2 * _CLOSING_MM, spacing_mm), 2 * _CLOSING_MM, spacing_mm)
    return np.asarray(ndimage.binary_fill_holes(closed | mask), dtype=bool)


def _sides_of(ring: Mask, body: Mask, spacing_mm: tuple[float, float]) -> tuple[Mask, Mask]:
    """Divide the body into what lies outside of the closed ring and the cavity inside of it."""
    closed = shrink(grow(ring, _CLOSING_MM, spacing_mm), _CLOSING_MM, spacing_mm) | ring
    free = body & ~closed
    rim = body & ~shrink(body, 1.01 * max(spacing_mm), spacing_mm)
    labels, count = label_components(free, diagonal=False)
    touching = np.zeros(count + 1, dtype=bool)
    touching[np.unique(labels[rim & free])] = True
    touching[0] = False
    outer = np.asarray(touching[labels], dtype=bool)
    return outer, free & ~outer


def _settle_edges(index: NDArray[np.uint8], in_limits: Mask, groups: list[int], fats: list[int]) -> None:
    """Let HU decide on the pixels where muscle and fat meet.

    A pixel shared by muscle (50 HU) and fat (-105 HU) is within the limits of muscle when more than half of
    it is muscle; a network's border there is no better than half a pixel.
    """
    open_ = np.isin(index, fats) & in_limits
    for group in groups:
        beside = ndimage.binary_dilation(index == group) & open_
        index[beside] = group
        open_ &= ~beside


def _split(psoas: Mask, spine: Mask, body: Mask) -> tuple[Mask, Mask]:
    """Return left and right psoas: parts by the side of the spine on which most of each lies."""
    columns = np.flatnonzero((spine if spine.any() else body).any(axis=0))
    middle = float(columns[0] + columns[-1]) / 2 if columns.size else psoas.shape[1] / 2
    on_left = np.arange(psoas.shape[1])[None, :] > middle
    return psoas & on_left, psoas & ~on_left


def _within(hu: NDArray[Any], limits: HuRange) -> Mask:
    return np.asarray((hu >= limits.low_hu) & (hu <= limits.high_hu), dtype=bool)
