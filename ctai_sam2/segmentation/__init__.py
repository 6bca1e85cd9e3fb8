"""One click: prompts from anatomy, masks from the model, limits from HU."""

from ctai_sam2.segmentation.anatomy.axial import AxialAnatomy, find_axial_anatomy
from ctai_sam2.segmentation.axial import AxialSession, segment_axial
from ctai_sam2.segmentation.levels.sagittal import find_candidates, find_l3
from ctai_sam2.segmentation.levels.volume import VertebraLevel, find_levels
from ctai_sam2.segmentation.prediction import segment
from ctai_sam2.segmentation.prompts import make_axial_prompt
from ctai_sam2.segmentation.results import (
    AxialResult,
    L3Result,
    PredictsMasks,
    StructureResult,
    StudyResult,
    VertebraCandidate,
)
from ctai_sam2.segmentation.robustness import (
    Robustness,
    SliceSensitivityRow,
    robustness,
    slice_sensitivity,
)
from ctai_sam2.segmentation.study import (
    choose_sagittal_index,
    find_l3_in_volume,
    find_mid_l3,
    mid_l3_axial_index,
    segment_structure,
    segment_study,
)
from ctai_sam2.segmentation.volume import VolumeAnchor, VolumeResult, correct_volume, segment_volume
from ctai_sam2.structures import AXIAL_STRUCTURES, STRUCTURES, Structure

__all__ = [
    "AXIAL_STRUCTURES",
    "STRUCTURES",
    "AxialAnatomy",
    "AxialResult",
    "AxialSession",
    "L3Result",
    "PredictsMasks",
    "Robustness",
    "SliceSensitivityRow",
    "Structure",
    "StructureResult",
    "StudyResult",
    "VertebraCandidate",
    "VertebraLevel",
    "VolumeAnchor",
    "VolumeResult",
    "choose_sagittal_index",
    "correct_volume",
    "find_axial_anatomy",
    "find_candidates",
    "find_l3",
    "find_l3_in_volume",
    "find_levels",
    "find_mid_l3",
    "make_axial_prompt",
    "mid_l3_axial_index",
    "robustness",
    "segment",
    "segment_axial",
    "segment_structure",
    "segment_study",
    "segment_volume",
    "slice_sensitivity",
]
