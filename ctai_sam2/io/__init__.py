"""Reading studies and slices; writing masks, tables, pictures and DICOM.

Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctai_sam2.io.atomic import atomic_write, write_bytes, write_json, write_table_csv, write_text
    from ctai_sam2.io.cases import ReferenceCase, read_case_npz
    from ctai_sam2.io.dicom_series import SeriesInfo
    from ctai_sam2.io.dicom_writing import ORIENTATIONS, write_dicom_series
    from ctai_sam2.io.masks import write_label_png, write_mask_png
    from ctai_sam2.io.nifti import read_mask_nifti, read_nifti, write_mask_nifti, write_volume_nifti
    from ctai_sam2.io.overlay import write_overlay_png
    from ctai_sam2.io.pictures import read_mask_png
    from ctai_sam2.io.study import list_series, read_slice, read_study
    from ctai_sam2.io.uploads import Upload, decode_upload

_HOMES = {
    "ORIENTATIONS": "dicom_writing",
    "ReferenceCase": "cases",
    "SeriesInfo": "dicom_series",
    "Upload": "uploads",
    "atomic_write": "atomic",
    "decode_upload": "uploads",
    "list_series": "study",
    "read_case_npz": "cases",
    "read_mask_nifti": "nifti",
    "read_mask_png": "pictures",
    "read_nifti": "nifti",
    "read_slice": "study",
    "read_study": "study",
    "write_bytes": "atomic",
    "write_dicom_series": "dicom_writing",
    "write_json": "atomic",
    "write_label_png": "masks",
    "write_mask_nifti": "nifti",
    "write_mask_png": "masks",
    "write_overlay_png": "overlay",
    "write_table_csv": "atomic",
    "write_text": "atomic",
    "write_volume_nifti": "nifti",
}

__all__ = [
    "ORIENTATIONS",
    "ReferenceCase",
    "SeriesInfo",
    "Upload",
    "atomic_write",
    "decode_upload",
    "list_series",
    "read_case_npz",
    "read_mask_nifti",
    "read_mask_png",
    "read_nifti",
    "read_slice",
    "read_study",
    "write_bytes",
    "write_dicom_series",
    "write_json",
    "write_label_png",
    "write_mask_nifti",
    "write_mask_png",
    "write_overlay_png",
    "write_table_csv",
    "write_text",
    "write_volume_nifti",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
