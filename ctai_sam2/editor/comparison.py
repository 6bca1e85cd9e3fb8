"""Another reader's masks next to those being edited: stored by slice, compared, taken over in parts.

References are read-only copies. Nothing edits them: taking over changes the reader's own masks, as one step
that can be undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import scipy
from numpy.typing import ArrayLike

from ctai_sam2.editor.commands import Compound, SetMask
from ctai_sam2.editor.labels import Profile
from ctai_sam2.editor.shapes import pixel_of
from ctai_sam2.errors import InputError
from ctai_sam2.image.label_values import as_single_mask
from ctai_sam2.image.masks import label_components, require_same_shape
from ctai_sam2.measure.overlap import dice
from ctai_sam2.types import Mask

if TYPE_CHECKING:
    from ctai_sam2.editor.document import Document

_NEAR_PX = 2.0
"""A part of a difference belongs to the label that it touches, within so many pixels."""


class References:
    """Another reader's masks of the slices of a document.

    Parameters
    ----------
    profile : Profile
        Names the labels and groups that can be compared.
    shape_hw : (int, int)
        Of every slice.
    slice_count : int
        How many slices a stack of masks must have.
    """

    def __init__(self, profile: Profile, shape_hw: tuple[int, int], slice_count: int) -> None:
        self._profile, self._shape_hw, self._count = profile, shape_hw, slice_count
        self._masks: dict[int, dict[str, Mask]] = {}
        self._empty = _frozen(np.zeros(shape_hw, np.bool_))

    def on(self, index: int) -> Mapping[str, Mask]:
        """Masks of a slice by label or group, each bool (H, W), read-only."""
        return MappingProxyType(self._masks.get(index, {}))

    @property
    def indices(self) -> tuple[int, ...]:
        """Slices that have something to compare with, in order."""
        return tuple(sorted(index for index, masks in self._masks.items() if masks))

    def unknown(self, masks: Mapping[str, object]) -> list[str]:
        """Names that this editor has no label or group for."""
        known = {label.name for label in self._profile.labels} | set(self._profile.groups)
        return [name for name in masks if name not in known]

    def put(self, masks: Mapping[str, ArrayLike | None], index: int) -> None:
        """Take masks of one slice (H, W), or of all of them (D, H, W); None takes one away.

        A group's mask, such as ``psoas``, is compared with its labels together, and left out where masks of
        those labels are given too, as are names that this editor has no label for.

        Raises
        ------
        InputError
            If there is no label or group for any of them, or a mask does not fit; nothing is changed then.
        """
        unknown = self.unknown(masks)
        if masks and len(unknown) == len(masks):
            names = [label.name for label in self._profile.labels]
            raise InputError(
                "no such label", received=", ".join(unknown)[:200], hint=f"Known: {', '.join(names)}."
            )
        found = {at: dict(here) for at, here in self._masks.items()}
        for name, mask in masks.items():
            if name in unknown:
                continue
            is_group = name not in {label.name for label in self._profile.labels}
            parts = self._profile.labels_of(name)
            if is_group and any(masks.get(part) is not None for part in parts):
                mask = None
            planes = {} if mask is None else self._planes(mask, index)
            for at in found if len(planes) != 1 else planes:
                found.get(at, {}).pop(name, None)
            for at, plane in planes.items():
                found.setdefault(at, {})[name] = plane
        self._masks = found

    def _planes(self, mask: ArrayLike, index: int) -> dict[int, Mask]:
        checked = as_single_mask(mask, what="the reference")
        if checked.ndim == 3 and self._count > 1:
            if self._profile.plane == "sagittal":
                # Rows of a sagittal slice run from the head to the feet, slices of a volume the other way.
                checked = np.moveaxis(checked, 2, 0)[:, ::-1]
            if checked.shape != (self._count, *self._shape_hw):
                raise InputError(
                    "the reference is of another volume",
                    received=str(np.shape(mask)),
                    hint="Compare masks of the same series; nothing is resampled.",
                )
            return {
                at: _frozen(plane.copy()) if plane.any() else self._empty for at, plane in enumerate(checked)
            }
        require_same_shape(checked, self._empty, "the reference and the slice")
        return {index: _frozen(np.array(checked))}


def compare_labels(document: Document) -> dict[str, float]:
    """Dice of every label that has a reference on the slice in view; 1 where both are empty."""
    return {name: dice(document.mask_of(name), reference) for name, reference in document.references.items()}


def compare_stacks(document: Document) -> dict[str, float]:
    """Dice over all slices with a reference, by label or group, where there is more than one such slice."""
    sums: dict[str, tuple[int, int]] = {}
    indices = document.reference_store.indices
    if len(indices) < 2:
        return {}
    for index in indices:
        for name, reference in document.reference_store.on(index).items():
            mask = document.mask_of(name, index)
            both, total = sums.get(name, (0, 0))
            sums[name] = (
                both + int(np.count_nonzero(mask & reference)),
                total + int(np.count_nonzero(mask)) + int(np.count_nonzero(reference)),
            )
    return {name: 2 * both / total if total else 1.0 for name, (both, total) in sums.items()}


def differences(document: Document) -> tuple[Mask, Mask]:
    """Return pixels that only the reader's masks have, and pixels that only the references have, (H, W)."""
    mine = np.zeros(document.shape_hw, np.bool_)
    theirs = mine.copy()
    for name, reference in document.references.items():
        mask = document.mask_of(name)
        mine |= mask & ~reference
        theirs |= reference & ~mask
    return mine, theirs


def take_over(document: Document, at_xy: tuple[float, float] | None = None) -> Compound | None:
    """Make the command that takes over the active label's reference, or one region of the difference.

    Parameters
    ----------
    document : Document
        Its slice in view is meant.
    at_xy : (float, float), optional
        A point of the region, in image coordinates; the active label's difference first, then any other's.
        All of the active label's difference when omitted.

    Returns
    -------
    Compound or None
        None where there is nothing to take over.
    """
    active = document.view.active
    names = sorted(
        document.references,
        key=lambda name: (name != active, active not in document.profile.labels_of(name)),
    )
    for name in names:
        if at_xy is None and active not in document.profile.labels_of(name):
            return None
        region = document.mask_of(name) ^ document.references[name]
        if at_xy is not None:
            region = _region_at(region, at_xy)
        if region.any():
            return _taken(document, name, region)
    return None


def _region_at(difference: Mask, at_xy: tuple[float, float]) -> Mask:
    row, column = pixel_of(*at_xy)
    height, width = difference.shape
    if not (0 <= row < height and 0 <= column < width and difference[row, column]):
        return np.zeros_like(difference)
    parts, _ = label_components(difference)
    return np.asarray(parts == parts[row, column])


def _taken(document: Document, name: str, region: Mask) -> Compound:
    reference, labels = document.references[name], document.profile.labels_of(name)
    masks = {label: document.mask(label) & ~(region & ~reference) for label in labels}
    parts, count = label_components(region & reference & ~document.mask_of(name))
    for number in range(1, count + 1):
        part = np.asarray(parts == number)
        label = labels[0] if len(labels) == 1 else _owner(document, labels, part, reference)
        masks[label] = masks[label] | part
    return Compound(
        commands=tuple(
            SetMask(label=label, mask=mask, origin="reference")
            for label, mask in masks.items()
            if not np.array_equal(mask, document.mask(label))
        ),
        name="edit.set_mask_reference",
    )


def _owner(document: Document, labels: tuple[str, ...], part: Mask, reference: Mask) -> str:
    """Label of a group that a part belongs to: the one it touches, else the one of its side."""
    distances = {
        label: float(scipy.ndimage.distance_transform_edt(~mask)[part].min())
        for label in labels
        if (mask := document.mask(label)).any()
    }
    nearest = min(distances, key=lambda label: distances[label], default=None)
    if nearest is not None and distances[nearest] <= _NEAR_PX:
        return nearest
    sides = {
        label.rpartition("_")[2][0].upper(): label for label in labels if label.endswith(("left", "right"))
    }
    letters = document.edge_letters()[:2]
    if set(sides) == {"L", "R"} == set(letters):
        is_left_edge = np.nonzero(part)[1].mean() <= np.nonzero(reference)[1].mean()
        return sides[letters[0] if is_left_edge else letters[1]]
    active = document.view.active
    return active if active in labels else nearest or labels[0]


def _frozen(mask: Mask) -> Mask:
    mask.setflags(write=False)
    return mask
