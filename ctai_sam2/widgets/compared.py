"""Masks to compare with: arrays as they are, files through the one reader of masks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeAlias

from numpy.typing import ArrayLike

from ctai_sam2.editor import Document

ComparedMask: TypeAlias = ArrayLike | str | os.PathLike[str] | None
ComparedMasks: TypeAlias = str | os.PathLike[str] | Mapping[str, ComparedMask]


def read_compared(masks: ComparedMasks, document: Document) -> dict[str, ArrayLike | None]:
    """Read the files among masks to compare with; a single file gives all masks in it.

    Raises
    ------
    InputError, GeometryError, DicomError
        If a file cannot be read or lies on another grid.
    """
    if isinstance(masks, str | os.PathLike):
        from ctai_sam2.exchange import import_masks  # brings every reader of masks

        return dict(import_masks(masks, document.source))
    return {name: _read(name, mask, document) for name, mask in masks.items()}


def _read(name: str, mask: ComparedMask, document: Document) -> ArrayLike | None:
    if not isinstance(mask, str | os.PathLike):
        return mask
    from ctai_sam2.exchange import read_structure_mask, split_label

    path, label = split_label(mask)
    return read_structure_mask(path, document.source, name, label=label)[name]
