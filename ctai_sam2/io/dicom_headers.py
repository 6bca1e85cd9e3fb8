"""What a DICOM file says about its images, read without their pixels.

Only the elements listed here are ever parsed. Those that name a patient are at once turned into digests that
tell one patient from another and nothing else. File names can carry a name too, so errors show the last part
of a path and nothing above it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from ctai_sam2.errors import DicomError
from ctai_sam2.files.folders import unreadable_file
from ctai_sam2.io.dicom_acquisition import kernel_of, read_acquisition
from ctai_sam2.io.dicom_refusals import CT_IMAGE as CT_IMAGE
from ctai_sam2.io.dicom_refusals import cautions_of_image, refusal_of_class, refusal_of_image
from ctai_sam2.io.dicom_text import digest_of, one_line, shown_code, valid_uid
from ctai_sam2.io.dicom_values import functional_value, number_of, tag_of, texts_of, value_of
from ctai_sam2.io.library_messages import quiet
from ctai_sam2.types import Acquisition

MAX_IMAGE_SIDE = 8192
"""Rows or columns beyond this are a damaged header, not a CT."""

_ENCODING_KEYWORDS = (
    "SOPClassUID",
    "SpecificCharacterSet",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "LossyImageCompression",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
"""What says how pixels are stored."""

HEADER_KEYWORDS = (
    *_ENCODING_KEYWORDS,
    "SOPInstanceUID",
    "ImageType",
    "Modality",
    "PatientSex",
    "PatientSize",
    "PatientWeight",
    "PatientAge",
    "StudyDate",
    "Manufacturer",
    "ManufacturerModelName",
    "ProtocolName",
    "AcquisitionProtocolDescription",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "SliceThickness",
    "KVP",
    "GantryDetectorTilt",
    "ConvolutionKernel",
    "ImagerPixelSpacing",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "SeriesDescription",
    "InstanceNumber",
    "AcquisitionNumber",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "TemporalPositionIdentifier",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "RescaleType",
)

PATIENT_KEYWORDS = ("PatientID", "PatientName", "PatientBirthDate")
"""What tells patients apart; read as bytes, stored as digests."""

PIXEL_KEYWORDS = (
    *_ENCODING_KEYWORDS,
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
)

_DICOM_SUFFIXES = {".dcm", ".dicom", ".ima", ".dc3", ".ct", ""}


@dataclass(frozen=True, kw_only=True)
class MemoryFile:
    """A file's content that never was on a disk, for readers that take a path.

    Parameters
    ----------
    name : str
        How messages call it.
    data : bytes
        Its content.
    """

    name: str
    data: bytes = field(repr=False)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open it for reading, as `Path.open` does."""
        return io.BytesIO(self.data)


FileSource: TypeAlias = Path | MemoryFile
"""Where a DICOM object is read from."""


@dataclass(frozen=True, kw_only=True)
class GroupingKeys:
    """What tells apart images that share a SeriesInstanceUID; empty where the header is silent.

    Parameters
    ----------
    study_uid, frame_of_reference_uid : str
        As recorded.
    patient : tuple of str
        Digests of PatientID, PatientName and birth date, then sex and height.
    kernel, kvp : str
        Reconstruction kernel and tube voltage.
    acquisition, temporal_position, stack : str
        Numbers of the acquisition, of the phase in a time series and of the stack in a multi-frame object.
    image_type : str
        ImageType behind its first value, which changes with every lossy copy.
    contrast : str
        Whether a contrast agent is recorded.
    time : str
        When the acquisition began.
    study_date : str
        As recorded; to be compared, never to be shown.
    """

    study_uid: str = ""
    frame_of_reference_uid: str = ""
    patient: tuple[str, ...] = ()
    kernel: str = ""
    kvp: str = ""
    acquisition: str = ""
    temporal_position: str = ""
    stack: str = ""
    image_type: str = ""
    contrast: str = ""
    time: str = ""
    study_date: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class FrameHeader:
    """One image of one DICOM file: where it lies and whether it can be used.

    Parameters
    ----------
    path : Path or MemoryFile
        The file.
    frame : int
        Index of the frame in the file, from 0.
    series_uid, instance_uid, modality : str
        As recorded; empty where missing.
    shape_hw : tuple of int
        (rows, columns).
    orientation : tuple of 6 floats, optional
        Direction cosines along a row, then along a column.
    position_mm : tuple of 3 floats, optional
        LPS position of the first pixel's centre.
    spacing_mm : tuple of 2 floats, optional
        Distance between rows, then between columns.
    instance_number : int, optional
        As recorded.
    keys : GroupingKeys
        What tells images of several patients, acquisitions or phases apart.
    description : str, optional
        Description of the series, as one line.
    refusal : str, optional
        Why it cannot be used; None for a CT image in HU.
    acquisition : Acquisition
        Facts for the reader's record.
    cautions : tuple of str
        What a reader should know before measuring.
    """

    path: FileSource
    frame: int = 0
    series_uid: str = ""
    instance_uid: str = ""
    modality: str = ""
    shape_hw: tuple[int, int] = (0, 0)
    orientation: tuple[float, ...] | None = None
    position_mm: tuple[float, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    instance_number: int | None = None
    keys: GroupingKeys = field(default_factory=GroupingKeys)
    description: str | None = None
    refusal: str | None = None
    acquisition: Acquisition = field(default_factory=Acquisition)
    cautions: tuple[str, ...] = ()


def looks_like_dicom(path: FileSource) -> bool:
    """Tell whether the first bytes are those of a DICOM file, with or without its preamble.

    Raises
    ------
    InputError
        If the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise unreadable_file(path.name, error) from error
    if start[128:132] == b"DICM":
        return True
    # Old files begin with the data set itself: group 0002 or 0008, little endian, and a low element.
    return len(start) >= 8 and start[0:2] in (b"\x02\x00", b"\x08\x00") and start[3] == 0 and start[2] < 0x20


def is_dicom_named(path: Path) -> bool:
    """Tell whether the file's name lets one expect DICOM."""
    suffix = path.suffix.lower()
    # UIDs as names end in digits after a dot.
    return suffix in _DICOM_SUFFIXES or suffix[1:].isdigit()


def read_dataset(path: FileSource, *, pixels: bool) -> Any:
    """Parse the elements this package knows; nothing else is looked at.

    Parameters
    ----------
    path : Path or MemoryFile
        A DICOM file.
    pixels : bool
        Whether to read the pixel data too.

    Returns
    -------
    pydicom.FileDataset

    Raises
    ------
    DicomError
        If the file is not DICOM or is damaged.
    InputError
        If the file cannot be opened.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    if not looks_like_dicom(path):
        raise DicomError(
            f"{path.name} is not a DICOM file",
            received="an empty file" if _size(path) == 0 else "other content",
            hint="Give CT images as exported by the scanner or PACS.",
        )
    try:
        with quiet("pydicom"), path.open("rb") as file:
            return dcmread(
                file,
                stop_before_pixels=not pixels,
                force=True,
                specific_tags=[
                    tag_of(keyword)
                    for keyword in (PIXEL_KEYWORDS if pixels else (*HEADER_KEYWORDS, *PATIENT_KEYWORDS))
                ],
            )
    except OSError as error:
        if isinstance(error, EOFError) or error.errno is None:
            raise damaged(path, "the file ends too early") from error
        raise unreadable_file(path.name, error) from error
    except (InvalidDicomError, EOFError) as error:
        raise damaged(path, "the file ends too early") from error
    except Exception as error:  # pydicom raises whatever its parser stumbles over
        raise damaged(path, f"its header cannot be parsed ({type(error).__name__})") from error


def read_headers(path: FileSource) -> list[FrameHeader]:
    """Headers of all images in a DICOM file, one per frame.

    Raises
    ------
    DicomError
        If the file is not DICOM, is damaged or declares an impossible size.
    InputError
        If the file cannot be opened.
    """
    dataset = read_dataset(path, pixels=False)
    try:
        with quiet("pydicom"):
            return _headers_of(path, dataset)
    except DicomError:
        raise
    except Exception as error:  # malformed sequences surface only when they are looked at
        raise damaged(path, f"its header cannot be parsed ({type(error).__name__})") from error


def is_malformed(dataset: Any, frame: int, sequence: str, keyword: str) -> bool:
    """Tell whether an element that `functional_value` finds no value in is there and is not empty."""
    places = [dataset]
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = value_of(dataset, groups)
        if items and index < len(items):
            places += value_of(items[index], sequence) or []
    return any((_raw_bytes(place, keyword) or b"").strip(b" \0") for place in places)


def damaged(path: FileSource, cause: str) -> DicomError:
    """Make the error for a file whose content cannot be used."""
    return DicomError(f"{path.name} cannot be read: {cause}", hint="Export the file again.")


def _headers_of(path: FileSource, dataset: Any) -> list[FrameHeader]:
    modality = str(value_of(dataset, "Modality") or "")
    sop_class = str(value_of(dataset, "SOPClassUID") or "")
    if not sop_class:
        sop_class = str(value_of(getattr(dataset, "file_meta", {}), "MediaStorageSOPClassUID") or "")
    common: dict[str, Any] = {
        "path": path,
        "series_uid": valid_uid(value_of(dataset, "SeriesInstanceUID")),
        "instance_uid": valid_uid(value_of(dataset, "SOPInstanceUID")),
        "modality": shown_code(modality) if modality else "",
        "instance_number": _whole(value_of(dataset, "InstanceNumber")),
        "description": one_line(value_of(dataset, "SeriesDescription")),
    }
    refusal = refusal_of_class(sop_class, modality)
    if refusal:
        return [FrameHeader(**common, refusal=refusal)]
    # Where a length is damaged, an element may hold what follows it: many values, or a text.
    rows, columns = _whole(value_of(dataset, "Rows")) or 0, _whole(value_of(dataset, "Columns")) or 0
    if rows < 1 or columns < 1:
        raise damaged(path, f"it declares an image of {columns} x {rows} pixels")
    if rows > MAX_IMAGE_SIDE or columns > MAX_IMAGE_SIDE:
        raise damaged(path, f"it declares an impossible image of {columns} x {rows} pixels")
    frame_count = int(number_of(value_of(dataset, "NumberOfFrames")) or 1)
    if not 1 <= frame_count <= 65536:
        raise damaged(path, f"it declares {frame_count} frames")
    return [
        _frame_header(dataset, frame, common, (rows, columns), frame_count) for frame in range(frame_count)
    ]


def _frame_header(
    dataset: Any, frame: int, common: dict[str, Any], shape_hw: tuple[int, int], frame_count: int
) -> FrameHeader:
    spacing = _numbers(functional_value(dataset, frame, "PixelMeasuresSequence", "PixelSpacing"), 2)
    orientation = _numbers(
        functional_value(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6
    )
    position = _numbers(functional_value(dataset, frame, "PlanePositionSequence", "ImagePositionPatient"), 3)
    image_type = texts_of(functional_value(dataset, frame, "CTImageFrameTypeSequence", "FrameType"))
    image_type += texts_of(value_of(dataset, "ImageType"))
    rescale_type = str(
        functional_value(dataset, frame, "PixelValueTransformationSequence", "RescaleType") or ""
    )
    refusal = refusal_of_image(
        image_type,
        rescale_type,
        int(number_of(value_of(dataset, "SamplesPerPixel")) or 1),
        str(value_of(dataset, "PhotometricInterpretation") or "MONOCHROME2"),
    )
    if refusal is None and frame_count > 1 and position is None and orientation is None:
        refusal = "a multi-frame image without positions"
    cautions = cautions_of_image(image_type, common["description"])
    if rescale_type.strip().upper() in {"US", "HU_MOD"}:
        cautions.append(f"the rescale type is {rescale_type.strip().upper()}, taken for Hounsfield units")
    acquisition = read_acquisition(dataset, frame)
    if acquisition.patient_height_m is None and number_of(value_of(dataset, "PatientSize")):
        # The number itself is the patient's.
        cautions.append("the height in the header is none in metres and was left out")
    return FrameHeader(
        **common,
        frame=frame,
        shape_hw=shape_hw,
        orientation=orientation,
        position_mm=position,
        spacing_mm=spacing if spacing is not None and min(spacing) > 0 else None,
        keys=_grouping_keys(dataset, frame, image_type, acquisition),
        refusal=refusal,
        acquisition=acquisition,
        cautions=tuple(cautions),
    )


def _grouping_keys(dataset: Any, frame: int, image_type: list[str], acquisition: Acquisition) -> GroupingKeys:
    content = "FrameContentSequence"
    return GroupingKeys(
        study_uid=valid_uid(value_of(dataset, "StudyInstanceUID")),
        frame_of_reference_uid=valid_uid(value_of(dataset, "FrameOfReferenceUID")),
        patient=(
            *(digest_of(_raw_bytes(dataset, keyword)) for keyword in PATIENT_KEYWORDS),
            acquisition.patient_sex or "",
            _text_of(acquisition.patient_height_m),
        ),
        # Of a text that is no kernel's name only a digest is kept, to tell whether two are the same.
        kernel=acquisition.kernel or digest_of(kernel_of(dataset, frame)),
        kvp=_text_of(acquisition.kvp),
        acquisition=_text_of(
            functional_value(dataset, frame, content, "FrameAcquisitionNumber")
            or value_of(dataset, "AcquisitionNumber")
        ),
        temporal_position=_text_of(
            functional_value(dataset, frame, content, "TemporalPositionIndex")
            or value_of(dataset, "TemporalPositionIdentifier")
        ),
        stack=_text_of(functional_value(dataset, frame, content, "StackID")),
        image_type="/".join(word for word in image_type if word not in ("ORIGINAL", "DERIVED")),
        contrast=_text_of(acquisition.contrast),
        time=_text_of(
            functional_value(dataset, frame, content, "FrameAcquisitionDateTime")
            or value_of(dataset, "AcquisitionTime")
            or value_of(dataset, "AcquisitionDateTime")
        ),
        study_date=_text_of(value_of(dataset, "StudyDate")),
    )


def _raw_bytes(dataset: Any, keyword: str) -> bytes | None:
    """Bytes of an element as they stand in the file, in whatever character set."""
    tag = tag_of(keyword)
    if tag not in dataset:
        return None
    value = dataset.get_item(tag).value
    if value is None:
        return None
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")


def _text_of(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _whole(value: Any) -> int | None:
    number = number_of(value)
    return int(number) if number is not None and number.is_integer() else None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if isinstance(value, str | bytes):  # else each character would be read as a number
        return None
    try:
        numbers = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(np.isfinite(numbers)) else None


def _size(path: FileSource) -> int:
    if isinstance(path, MemoryFile):
        return len(path.data)
    try:
        return path.stat().st_size
    except OSError:
        return -1
