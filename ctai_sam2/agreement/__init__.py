"""Two readers, or a reader and a model, compared: numbers, outlines and the choice of the slice."""

from __future__ import annotations

from ctai_sam2.agreement.comparison import (
    MEASURES,
    MeasureAgreement,
    Overlap,
    ReaderComparison,
    SliceChoice,
    compare_readers,
)
from ctai_sam2.agreement.division import Division, divide_difference
from ctai_sam2.agreement.figure import draw_bland_altman
from ctai_sam2.agreement.files import AgreementFiles, describe_comparison, write_comparison
from ctai_sam2.agreement.readings import DrawnMask, Reading, read_readings
from ctai_sam2.agreement.volumes import DrawnVolume, VolumeOverlap

__all__ = [
    "MEASURES",
    "AgreementFiles",
    "Division",
    "DrawnMask",
    "DrawnVolume",
    "MeasureAgreement",
    "Overlap",
    "ReaderComparison",
    "Reading",
    "SliceChoice",
    "VolumeOverlap",
    "compare_readers",
    "describe_comparison",
    "divide_difference",
    "draw_bland_altman",
    "read_readings",
    "write_comparison",
]
