"""Two readers, or a reader and a model, compared: numbers, outlines and the choice of the slice."""

from __future__ import annotations

from ctai_sam2.agreement.comparison import (
    MEASURES,
    Division,
    MeasureAgreement,
    Overlap,
    ReaderComparison,
    SliceChoice,
    compare_readers,
    divide_difference,
)
from ctai_sam2.agreement.figure import draw_bland_altman
from ctai_sam2.agreement.files import AgreementFiles, describe_comparison, write_comparison
from ctai_sam2.agreement.readings import DrawnMask, Reading, read_readings

__all__ = [
    "MEASURES",
    "AgreementFiles",
    "Division",
    "DrawnMask",
    "MeasureAgreement",
    "Overlap",
    "ReaderComparison",
    "Reading",
    "SliceChoice",
    "compare_readers",
    "describe_comparison",
    "divide_difference",
    "draw_bland_altman",
    "read_readings",
    "write_comparison",
]
