"""A case's image: read, and known by its content."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from ctai_sam2.cohort.case import Case
from ctai_sam2.cohort.store import key_of
from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.io import read_case_npz, read_study
from ctai_sam2.types import CTSlice, CTVolume

_ADDED_FACTS = frozenset({"patient_age_years", "phase", "scanner"})
"""Facts that earlier versions did not read: where they are absent, the digest is that of those versions."""


def read_image(case: Case) -> CTVolume | CTSlice:
    """Read a case's study, or its single slice.

    Raises
    ------
    InputError, DicomError, GeometryError
        If it cannot be used; see `read_study`.
    """
    path = Path(case.path)
    if path.suffix.lower() == ".npz":
        return read_case_npz(path).slice
    return read_study(path, series_uid=case.series_uid)


def content_of(image: CTVolume | CTSlice) -> str:
    """Digest of all that an image brings into a row: pixels, geometry, acquisition and warnings."""
    affine = None if image.affine is None else np.asarray(image.affine).round(6).tolist()
    positions = None
    if isinstance(image, CTVolume):
        positions = np.asarray(image.slice_positions_mm).round(6).tolist()
    facts = {
        name: value
        for name, value in asdict(image.acquisition).items()
        if value is not None or name not in _ADDED_FACTS
    }
    return key_of([fingerprint(image), affine, positions, facts, list(image.warnings)])
