"""Small CT volumes and DICOM files to read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from ctai_sam2.io import write_dicom_series
from ctai_sam2.types import Acquisition, CTVolume
from tests.dicom_series import write_series_as


def make_volume(
    shape_zyx: tuple[int, int, int] = (4, 6, 5),
    spacing_zyx_mm: tuple[float, float, float] = (2.5, 0.75, 0.8),
    *,
    origin_mm: tuple[float, float, float] = (-31.5, 12.25, -440.0),
    positions_mm: Any = None,
    acquisition: Acquisition | None = None,
) -> CTVolume:
    """A volume in which every voxel differs from its mirror images, so that no flip goes unseen."""
    rng = np.random.default_rng(7)
    sz, sy, sx = spacing_zyx_mm
    affine = np.diag([sx, sy, sz, 1.0])
    affine[:3, 3] = origin_mm
    return CTVolume(
        hu_zyx=rng.integers(-1024, 2000, shape_zyx).astype(np.int16),
        affine=affine,
        slice_positions_mm=positions_mm,
        acquisition=acquisition or Acquisition(slice_thickness_mm=sz),
    )


def write_series(folder: Path, volume: CTVolume | None = None, **options: Any) -> list[Path]:
    if options:
        return write_series_as(folder, volume or make_volume(), **options)
    return write_dicom_series(folder, volume or make_volume())


def ct_dataset(stored: np.ndarray[Any, Any] | None = None, **changes: Any) -> Dataset:
    """One axial CT image; a change to None removes the element."""
    if stored is None:
        stored = np.arange(24, dtype=np.int16).reshape(4, 6) * 40
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = "2.25.1"
    dataset.SeriesInstanceUID = "2.25.2"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * stored.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.RescaleSlope = "1"
    dataset.RescaleIntercept = "-1024"
    dataset.RescaleType = "HU"
    dataset.PixelSpacing = ["0.7", "0.8"]
    dataset.SliceThickness = "5"
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-10, -20, 30]
    dataset.PixelData = stored.tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def enhanced_dataset(
    stored: np.ndarray[Any, Any], z_mm: list[float], rescales: list[tuple[float, float]]
) -> Dataset:
    """An enhanced CT with its own rescale for each frame; spacing and direction are shared."""
    dataset = ct_dataset(
        stored,
        SOPClassUID=EnhancedCTImageStorage,
        NumberOfFrames=len(z_mm),
        RescaleSlope=None,
        RescaleIntercept=None,
        RescaleType=None,
        PixelSpacing=None,
        SliceThickness=None,
        ImageOrientationPatient=None,
        ImagePositionPatient=None,
    )
    shared = Dataset()
    shared.PixelMeasuresSequence = [_item(PixelSpacing=["0.7", "0.8"], SliceThickness="3")]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for z, (slope, intercept) in zip(z_mm, rescales, strict=True):
        frame = Dataset()
        frame.PlanePositionSequence = [_item(ImagePositionPatient=[-10, -20, z])]
        frame.PixelValueTransformationSequence = [
            _item(RescaleSlope=str(slope), RescaleIntercept=str(intercept), RescaleType="HU")
        ]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    return dataset


def save(dataset: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CTImageStorage)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "2.25.1")
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())
    return path


def edit(path: Path, **changes: Any) -> Path:
    """Change elements of a written file; None removes one."""
    dataset = dcmread(path)
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
