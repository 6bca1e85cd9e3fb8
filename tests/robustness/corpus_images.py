"""Mutated images, each with an oracle: the right values, worked out without the product, or the error.

Every case writes its files into an empty folder and says how they are read. The right values come from the
array that was written, by numpy alone; the files are made with pydicom, nibabel and Pillow or byte by byte.
"""

from __future__ import annotations

from tests.robustness.corpus_dicom_pixels import dicom_compressed, dicom_pixels
from tests.robustness.corpus_dicom_series import dicom_series
from tests.robustness.corpus_nifti import nifti
from tests.robustness.corpus_nrrd import nrrd
from tests.robustness.corpus_pictures import pictures
from tests.robustness.image_case import ImageCase


def image_cases() -> list[ImageCase]:
    """All cases, in a fixed order."""
    return [*dicom_pixels(), *dicom_compressed(), *dicom_series(), *nifti(), *nrrd(), *pictures()]
