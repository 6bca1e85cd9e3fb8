"""Mask, label and table files in many shapes, each with what it means: the right masks, or a refusal.

The right masks are written down by index arithmetic on small arrays; no reader of the package takes part.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.robustness.corpus_mask_images import nifti, nrrd
from tests.robustness.corpus_mask_pictures import pictures
from tests.robustness.corpus_mask_tables import coco, tables
from tests.robustness.mask_case import MaskCase


def cases() -> Iterator[MaskCase]:
    """All of them."""
    yield from nifti()
    yield from nrrd()
    yield from pictures()
    yield from tables()
    yield from coco()
