"""DICOM files of a small body, written element by element."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
)

from ctai_sam2.io import list_series
from tests.robustness.image_case import NAME, PIXEL_MM, STEP_MM, body


def dataset(hu: np.ndarray[Any, Any], z: float = 0.0, number: int = 1, **changes: Any) -> Dataset:
    """One axial image, stored as HU + 1024 in unsigned 16 bits; a change to None removes an element."""
    made = Dataset()
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID = f"2.25.7{number:04d}"
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = "2.25.1", "2.25.2", "2.25.3"
    made.Modality, made.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.PatientID, made.PatientName, made.PatientSex = "ID-1", NAME, "F"
    made.InstanceNumber = number
    made.Rows, made.Columns = hu.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 0
    made.RescaleSlope, made.RescaleIntercept = "1", "-1024"
    made.PixelSpacing, made.SliceThickness = [str(v) for v in PIXEL_MM], "5"
    made.ImageOrientationPatient, made.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-20, -30, z]
    made.PixelData = (hu.astype(np.int32) + 1024).astype(np.uint16).tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def save(made: Dataset, path: Path, syntax: Any = ExplicitVRLittleEndian) -> Path:
    if not hasattr(made, "file_meta"):
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    dcmwrite(buffer, made, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())
    return path


def one_file(made: Callable[[], Dataset], syntax: Any = ExplicitVRLittleEndian) -> Callable[[Path], Path]:
    return lambda folder: save(made(), folder / "a.dcm", syntax)


def compressed(made: Callable[[], Dataset], syntax: Any, **after: Any) -> Callable[[Path], Path]:
    """Compress first and change the header after, so that stream and header disagree."""

    def write(folder: Path) -> Path:
        image = made()
        save(image, folder / "a.dcm")
        image.compress(syntax, generate_instance_uid=False)
        for keyword, value in after.items():
            setattr(image, keyword, value)
        return save(image, folder / "a.dcm")

    return write


def series(
    count: int = 5, changes: Callable[[int], dict[str, Any]] = lambda _: {}, offset: int = 0
) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for i in range(count):
            made = dataset(body(i + offset), i * STEP_MM, i + 1, **changes(i))
            save(made, folder / f"{i:02d}.dcm")
        return folder

    return write


def two_stacks(
    changes: Callable[[int], dict[str, Any]], apart_mm: float = STEP_MM / 2, count: int = 5
) -> Callable[[Path], Path]:
    """Two phases under one SeriesInstanceUID, distinguished by ``changes(0)`` and ``changes(1)``."""

    def write(folder: Path) -> Path:
        for part in (0, 1):
            for i in range(count):
                number = part * count + i + 1
                values = {"InstanceNumber": None, **changes(part)}
                made = dataset(body(i) + 60 * part, i * STEP_MM + part * apart_mm, number, **values)
                save(made, folder / f"{part}{i}.dcm")
        return folder

    return write


def counts_of(path: Path) -> list[int]:
    return sorted(info.image_count for info in list_series(path) if info.usable)


def pack(values: np.ndarray[Any, Any], bits: int, shift: int = 0, extra: Any = 0) -> bytes:
    """Put values into cells of 16 bits as PS3.5 says, with other bits around them."""
    cells = (values.astype(np.int64) & ((1 << bits) - 1)) << shift
    return (cells | extra).astype(np.uint16).tobytes()
