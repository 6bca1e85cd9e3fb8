"""The phantom study that the demonstration runs on: real DICOM files, then read back like anyone's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctai_sam2.io import write_dicom_series
from ctai_sam2.phantom import make_volume, reference_parameters
from ctai_sam2.types import CTVolume

SHAPE_ZYX = (96, 512, 512)
SPACING_ZYX_MM = (3.0, 0.8, 0.8)
SEED = 20


def make_demo_study(folder: Path) -> Path:
    """Write the phantom as an axial DICOM series from T12 to the sacrum, unless an earlier run did.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    phantom = make_volume(
        reference_parameters(),
        shape_zyx=SHAPE_ZYX,
        spacing_zyx_mm=SPACING_ZYX_MM,
        rng=np.random.default_rng(SEED),
    )
    write_dicom_series(folder, CTVolume(hu_zyx=phantom.hu_zyx, affine=phantom.affine))
    return folder
