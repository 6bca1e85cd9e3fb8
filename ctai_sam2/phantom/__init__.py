"""A parametric abdomen in HU with exact masks: for tests, demonstration and training."""

from ctai_sam2.phantom.body import Body
from ctai_sam2.phantom.labels import FAT_STREAK, Label, masks_from_labels
from ctai_sam2.phantom.parameters import (
    LEVEL_NAMES,
    STRESSORS,
    PhantomParameters,
    random_parameters,
    reference_parameters,
)
from ctai_sam2.phantom.slices import (
    PhantomSlice,
    PhantomVolume,
    level_z_mm,
    make_axial_slice,
    make_sagittal_slice,
    make_volume,
)
from ctai_sam2.phantom.texture import render_hu

__all__ = [
    "FAT_STREAK",
    "LEVEL_NAMES",
    "STRESSORS",
    "Body",
    "Label",
    "PhantomParameters",
    "PhantomSlice",
    "PhantomVolume",
    "level_z_mm",
    "make_axial_slice",
    "make_sagittal_slice",
    "make_volume",
    "masks_from_labels",
    "random_parameters",
    "reference_parameters",
    "render_hu",
]
