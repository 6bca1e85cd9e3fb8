"""Write a volume as a DICOM CT series of axial images."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import GeometryError, InputError, StorageError
from ctai_sam2.files.atomic import write_bytes
from ctai_sam2.files.folders import reason_of
from ctai_sam2.io.dicom_headers import CT_IMAGE
from ctai_sam2.types import CTVolume

_SOURCE = "ctai-sam2 synthetic"
_PSEUDONYM = "PHANTOM"
_INTERCEPT_HU = -1024
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"


def write_dicom_series(folder: str | os.PathLike[str], volume: CTVolume) -> list[Path]:
    """Write a volume as axial CT images; reading them back gives the same voxels at the same places.

    The files name no person: they are marked as de-identified and synthetic.
    Either all files are written or none. Equal volumes give equal files.

    Parameters
    ----------
    folder : path-like
        New or empty.
    volume : CTVolume
        Whole HU. Slices may have gaps; the stack may lean.

    Returns
    -------
    list of Path
        The files, in order of position along the stack.

    Raises
    ------
    InputError
        If the volume does not hold whole HU, or 16 bits do not hold them.
    GeometryError
        If rows and columns are not perpendicular.
    StorageError
        If the folder holds files already or cannot be written.
    """
    if not np.issubdtype(volume.hu_zyx.dtype, np.integer):
        raise InputError("only whole HU can be written without loss", received=str(volume.hu_zyx.dtype))
    lowest, highest = (int(value) - _INTERCEPT_HU for value in (volume.hu_zyx.min(), volume.hu_zyx.max()))
    info = np.iinfo(np.int16)
    if lowest < info.min or highest > info.max:
        raise InputError(
            "stored values would leave their range", received=f"{lowest} to {highest} in {info.dtype}"
        )
    steps = np.linalg.norm(volume.affine[:3, :3], axis=0)
    along_row, along_column = (volume.affine[:3, axis] / steps[axis] for axis in (0, 1))
    if abs(float(along_row @ along_column)) > 1e-4:
        raise GeometryError("the rows and columns of the volume are not perpendicular")
    identity = f"{_PSEUDONYM}|series|{volume.shape_zyx}|{np.round(volume.affine, 6).tolist()}"

    def files() -> Iterable[tuple[str, bytes]]:
        for index, offset in enumerate(_slice_offsets(volume)):
            image = (volume.hu_zyx[index].astype(np.int32) - _INTERCEPT_HU).astype(np.int16)
            dataset = image_dataset(volume, image, identity, index)
            dataset.PatientID = dataset.PatientName = _PSEUDONYM
            dataset.PatientPosition = "HFS"
            dataset.InstanceNumber = index + 1
            position = volume.affine[:3, 3] + volume.affine[:3, :3] @ (0, 0, offset)
            dataset.ImagePositionPatient = [decimal(v) for v in position]
            dataset.ImageOrientationPatient = [decimal(v) for v in (*along_row, *along_column)]
            dataset.PixelSpacing = [decimal(steps[1]), decimal(steps[0])]
            dataset.RescaleSlope, dataset.RescaleIntercept = "1", decimal(_INTERCEPT_HU)
            yield f"IM{index + 1:05d}.dcm", encode_dataset(dataset, EXPLICIT_LITTLE_ENDIAN)

    return write_folder(folder, files())


def write_folder(folder: str | os.PathLike[str], files: Iterable[tuple[str, bytes]]) -> list[Path]:
    """Write files, given by name and content, into a new or empty folder: all of them or none.

    Raises
    ------
    StorageError
        If the folder holds files already or cannot be written.
    """
    folder = Path(folder)
    staging = _staging_folder(folder)
    try:
        names = [write_bytes(staging / name, content).name for name, content in files]
        _put_in_place(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [folder / name for name in names]


def _slice_offsets(volume: CTVolume) -> NDArray[np.float64]:
    """Places of the slices in units of the median step, which the affine holds: gaps stay gaps."""
    positions = np.asarray(volume.slice_positions_mm, dtype=np.float64)
    regular = np.arange(len(positions), dtype=np.float64)
    if len(positions) < 2:
        return regular
    relative = (positions - positions[0]) / float(np.median(np.diff(positions)))
    return regular if np.allclose(relative, regular, atol=1e-3) else relative


def image_dataset(volume: CTVolume, image: NDArray[Any], identity: str, index: int) -> Any:
    """Describe one stored image of a volume, all but its place, its rescale and its patient."""
    from pydicom.dataset import Dataset

    facts = volume.acquisition
    dataset = Dataset()
    dataset.SOPClassUID = CT_IMAGE
    dataset.SOPInstanceUID = _uid(f"{identity}|{index}")
    dataset.StudyInstanceUID = _uid(identity.split("|")[0])
    dataset.SeriesInstanceUID = _uid(identity)
    dataset.FrameOfReferenceUID = _uid(identity.split("|")[0] + "|frame of reference")
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Manufacturer = _SOURCE
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = _SOURCE
    for empty in ("PatientBirthDate", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"):
        setattr(dataset, empty, "")
    dataset.StudyID = dataset.PositionReferenceIndicator = ""
    dataset.SeriesNumber = 1
    dataset.AcquisitionNumber = 1
    dataset.PatientSex = facts.patient_sex or ""
    if facts.patient_height_m is not None:
        dataset.PatientSize = decimal(facts.patient_height_m)
    if facts.patient_weight_kg is not None:
        dataset.PatientWeight = decimal(facts.patient_weight_kg)
    if facts.patient_age_years is not None and facts.patient_age_years >= 1:
        dataset.PatientAge = f"{int(facts.patient_age_years):03d}Y"
    dataset.KVP = None if facts.kvp is None else decimal(facts.kvp)
    if facts.gantry_tilt_deg is not None:
        dataset.GantryDetectorTilt = decimal(facts.gantry_tilt_deg)
    if facts.kernel is not None:
        dataset.ConvolutionKernel = facts.kernel
    if facts.contrast is not None:
        dataset.ContrastBolusAgent = "CONTRAST" if facts.contrast else "NONE"
    dataset.SliceThickness = decimal(facts.slice_thickness_mm or volume.spacing_zyx_mm[0])
    dataset.Rows, dataset.Columns = image.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(image.dtype.kind == "i")
    dataset.RescaleType = "HU"
    dataset.PixelData = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<")).tobytes()
    return dataset


def encode_dataset(dataset: Any, syntax: str) -> bytes:
    """Encode a data set as a DICOM file in a transfer syntax that is not compressed."""
    from pydicom import dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _uid(text: str) -> str:
    # A UID made from a UUID (PS3.5 B.2); equal inputs give equal files.
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}"


def decimal(value: float) -> str:
    """Return a DICOM decimal string, which holds 16 characters (PS3.5 6.2); as many digits as fit."""
    for digits in range(15, 0, -1):
        text = f"{float(value):.{digits}g}"
        if len(text) <= 16:
            return text
    raise InputError("a number does not fit a DICOM decimal string", received=value)


def _staging_folder(folder: Path) -> Path:
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StorageError(f"{folder.name} is not an empty folder", hint="Give a new one.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    except StorageError:
        raise
    except OSError as error:
        raise _storage_error(folder, error) from error


def _put_in_place(staging: Path, folder: Path) -> None:
    try:
        with suppress(FileNotFoundError):
            folder.rmdir()
        staging.chmod(0o755)
        staging.replace(folder)
    except OSError as error:
        raise _storage_error(folder, error) from error


def _storage_error(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"the folder {folder.name} could not be written: {reason_of(error)}",
        hint="Check its permissions and free space.",
    )
