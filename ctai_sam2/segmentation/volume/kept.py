"""Finished slices, stored so that an interrupted run continues where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.measure.definitions import TissueDefinitions
from ctai_sam2.segmentation.results import PredictsMasks
from ctai_sam2.segmentation.volume.anchors import VolumeAnchor
from ctai_sam2.segmentation.volume.result import SliceMask
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTSlice, CTVolume, Window


class KeepsSlices(Protocol):
    """Where finished slices and anchors go; `study.slice_folder.SliceFolder` keeps them on disk."""

    def read(self, axial_index: int, key: str) -> dict[Structure, SliceMask] | None:
        """Return what was kept of a slice under this key; None where nothing was, or it cannot be read."""
        ...

    def write(self, axial_index: int, key: str, found: Mapping[Structure, SliceMask]) -> None:
        """Keep a slice; what a structure is not on has no entry."""
        ...

    def read_anchors(self, volume_key: str) -> list[VolumeAnchor]:
        """Return the anchors kept for a volume."""
        ...

    def write_anchors(self, volume_key: str, anchors: Sequence[VolumeAnchor]) -> None:
        """Keep the anchors of a volume, in place of those kept before."""
        ...


def keep_anchors(kept: KeepsSlices, volume: CTVolume, anchors: Iterable[VolumeAnchor]) -> None:
    """Add anchors to those kept for a volume; one takes the place of an earlier one of its slice.

    Raises
    ------
    InputError
        If those kept before are damaged.
    StorageError
        If they cannot be written.
    """
    key = fingerprint(volume)
    by_place = {(one.structure, one.axial_index): one for one in (*kept.read_anchors(key), *anchors)}
    kept.write_anchors(key, list(by_place.values()))


def key_of_run(
    segmenter: PredictsMasks, structures: Sequence[Structure], window: Window, definitions: TissueDefinitions
) -> str:
    """Digest all but the slice that decides its masks.

    Raises
    ------
    Unavailable
        If the segmenter cannot say which model it is.
    """
    identity = segmenter.identity
    parts = [identity.weights_sha256, identity.image_size, identity.dtype, identity.code_version]
    parts += [window.level, window.width, definitions.identifier, *structures]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def key_of_slice(run_key: str, ct_slice: CTSlice) -> str:
    """Digest a slice's pixels and spacing, and all else that decides its masks."""
    return hashlib.sha256(f"{run_key} {fingerprint(ct_slice)}".encode()).hexdigest()
