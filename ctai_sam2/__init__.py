"""One-click psoas, skeletal muscle and L3 segmentation on CT with SAM2.

The main job in five lines::

    import ctai_sam2 as ct
    volume = ct.read_study("path/to/dicom")
    with ct.open_segmenter() as segmenter:
        study = ct.segment_study(volume, segmenter)
    print(ct.measure_study(study))

Names are loaded when first used, so importing the package costs next to
nothing and needs neither torch nor widgets. Research use, not diagnosis.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ctai_sam2._version import __version__

if TYPE_CHECKING:
    from ctai_sam2.cohort import run_cohort
    from ctai_sam2.core.definitions import TissueDefinitions
    from ctai_sam2.core.metrics import measure_slice
    from ctai_sam2.errors import CtaiError
    from ctai_sam2.exchange import export_masks, import_masks
    from ctai_sam2.io import list_series, read_slice, read_study
    from ctai_sam2.oneclick import (
        find_l3,
        find_l3_in_volume,
        mid_l3_axial_index,
        robustness,
        segment_axial,
        segment_structure,
        segment_study,
        slice_sensitivity,
    )
    from ctai_sam2.outputs import measure_study, write_study
    from ctai_sam2.segmenters import open_segmenter
    from ctai_sam2.settings import Settings
    from ctai_sam2.types import CTSlice, CTVolume, Prediction, Prompt, Window
    from ctai_sam2.widgets import L3MaskEditor, MiddleMaskEditor, ReviewEditor

_HOME = {
    "CTSlice": "ctai_sam2.types",
    "CTVolume": "ctai_sam2.types",
    "CtaiError": "ctai_sam2.errors",
    "L3MaskEditor": "ctai_sam2.widgets",
    "MiddleMaskEditor": "ctai_sam2.widgets",
    "Prediction": "ctai_sam2.types",
    "Prompt": "ctai_sam2.types",
    "ReviewEditor": "ctai_sam2.widgets",
    "Settings": "ctai_sam2.settings",
    "TissueDefinitions": "ctai_sam2.core.definitions",
    "Window": "ctai_sam2.types",
    "export_masks": "ctai_sam2.exchange",
    "find_l3": "ctai_sam2.oneclick",
    "find_l3_in_volume": "ctai_sam2.oneclick",
    "import_masks": "ctai_sam2.exchange",
    "list_series": "ctai_sam2.io",
    "measure_slice": "ctai_sam2.core.metrics",
    "measure_study": "ctai_sam2.outputs",
    "mid_l3_axial_index": "ctai_sam2.oneclick",
    "open_segmenter": "ctai_sam2.segmenters",
    "read_slice": "ctai_sam2.io",
    "read_study": "ctai_sam2.io",
    "robustness": "ctai_sam2.oneclick",
    "run_cohort": "ctai_sam2.cohort",
    "segment_axial": "ctai_sam2.oneclick",
    "segment_structure": "ctai_sam2.oneclick",
    "segment_study": "ctai_sam2.oneclick",
    "slice_sensitivity": "ctai_sam2.oneclick",
    "write_study": "ctai_sam2.outputs",
}

__all__ = [
    "CTSlice",
    "CTVolume",
    "CtaiError",
    "L3MaskEditor",
    "MiddleMaskEditor",
    "Prediction",
    "Prompt",
    "ReviewEditor",
    "Settings",
    "TissueDefinitions",
    "Window",
    "__version__",
    "export_masks",
    "find_l3",
    "find_l3_in_volume",
    "import_masks",
    "list_series",
    "measure_slice",
    "measure_study",
    "mid_l3_axial_index",
    "open_segmenter",
    "read_slice",
    "read_study",
    "robustness",
    "run_cohort",
    "segment_axial",
    "segment_structure",
    "segment_study",
    "slice_sensitivity",
    "write_study",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
