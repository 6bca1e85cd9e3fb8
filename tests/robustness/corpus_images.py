"""Mutated images, each with an oracle: the right values, worked out without the product, or the error.

Every case writes its files into an empty folder and says how they are read. The right values come from the
array that was written, by numpy alone; the files are made with pydicom, nibabel and Pillow or byte by byte.
"""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

import bz2
import gzip
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from ctai_sam2.errors import CtaiError, DicomError, GeometryError, InputError
from ctai_sam2.io import decode_upload, list_series, read_slice, read_study
from ctai_sam2.types import CTSlice, CTVolume, Window

SIZE = 16
PIXEL_MM = (0.75, 0.8)
STEP_MM = 5.0
NAME = "Doe^Jane"
"""What no message may ever repeat."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCase:
    """One mutated input.

    Parameters
    ----------
    name : str
        Unique.
    write : callable
        Writes the files into a folder and returns what is read.
    read : callable
        The reader: returns HU, an error or, for a listing, something to compare.
    expected : ndarray, tuple or other, optional
        The right value; None where an error is demanded.
    error : type or tuple of types, optional
        Which error is demanded.
    words : str
        What its message, or one of the warnings of the image, has to say.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    expected: Any = None
    error: type[CtaiError] | tuple[type[CtaiError], ...] | None = None
    words: str = ""


def failure_of(case: ImageCase, folder: Path) -> str | None:
    """Read a case, and say what is wrong with what came of it; None where it is as it should be."""
    with warnings.catch_warnings():
        # pydicom remarks on what is written wrongly here on purpose.
        warnings.simplefilter("ignore")
        path = case.write(folder)
    try:
        read = case.read(path)
    except CtaiError as error:
        text = str(error)
        text.encode("utf-8")
        if NAME in text:
            return f"the message repeats content: {text}"
        if case.error is None:
            return f"refused: {type(error).__name__}: {text}"
        if not isinstance(error, case.error):
            return f"another error: {type(error).__name__}: {text}"
        return None if case.words in text else f"another message: {text}"
    except BaseException as error:
        return f"untyped: {type(error).__name__}: {error}"
    if case.error is not None:
        return f"taken in silence: {_summary(read)}"
    said = " ".join(getattr(read, "warnings", ()))
    if case.words and case.words not in said:
        return f"not said: {case.words!r} in {said!r}"
    return _difference(read, case.expected)


def _difference(read: Any, expected: Any) -> str | None:
    if isinstance(expected, CTVolume):
        if not np.array_equal(read.hu_zyx, expected.hu_zyx):
            return f"other values: {_summary(read)} for {_summary(expected)}"
        if not np.allclose(read.affine, expected.affine, atol=1e-3):
            return f"another place: {read.affine.tolist()} for {expected.affine.tolist()}"
        return None
    values = read.hu if isinstance(read, CTSlice) else read
    if isinstance(expected, np.ndarray):
        return None if np.array_equal(values, expected) else f"other values: {np.asarray(values).ravel()[:6]}"
    return None if values == expected else f"{values!r} for {expected!r}"


def _summary(read: Any) -> str:
    hu = getattr(read, "hu_zyx", getattr(read, "hu", None))
    return (
        str(read)[:80] if hu is None else f"{hu.shape} {hu.min()}..{hu.max()} {getattr(read, 'warnings', ())}"
    )


def body(index: int = 0, size: int = SIZE) -> np.ndarray[Any, Any]:
    """A slice that differs from its mirror images: air, fat, muscle, bone, and its number in one corner."""
    rng = np.random.default_rng(100 + index)
    hu = np.full((size, size), -1000, np.int16)
    hu[2:-2, 2:-2] = -100
    hu[4:-4, 3:-4] = 50 + rng.integers(-8, 9, (size - 8, size - 7))
    hu[9:12, 6:9] = 400
    hu[4, 4] = 10 + index
    return hu


def stack(count: int = 5, offset: int = 0) -> np.ndarray[Any, Any]:
    return np.stack([body(i + offset) for i in range(count)])


def volume(hu_zyx: np.ndarray[Any, Any], z0: float = 0.0, step: float = STEP_MM) -> CTVolume:
    """The right volume: the array with the affine that its files state."""
    affine = np.diag([PIXEL_MM[1], PIXEL_MM[0], step, 1.0])
    affine[:3, 3] = (-20.0, -30.0, z0)
    return CTVolume(hu_zyx=hu_zyx, affine=affine)


# DICOM


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


def dicom_pixels() -> Iterator[ImageCase]:
    hu = body()
    stored = hu.astype(np.int32) + 1024
    overlay = np.zeros((SIZE, SIZE), np.int64)
    overlay[3:6, 3:6] = 1

    def add(name: str, made: Callable[[], Dataset], expected: Any = hu, syntax: Any = ExplicitVRLittleEndian,
            **more: Any) -> ImageCase:  # fmt: skip
        return ImageCase(
            name=name,
            write=one_file(made, syntax),
            read=read_slice,
            expected=None if "error" in more else expected,
            **more,
        )

    yield add("plain", lambda: dataset(hu))
    yield add("implicit", lambda: dataset(hu), syntax=ImplicitVRLittleEndian)
    yield add(
        "big endian",
        lambda: dataset(hu, PixelData=stored.astype(">u2").tobytes()),
        syntax=ExplicitVRBigEndian,
    )
    for bits in (12, 13, 14, 15):
        for extra_bit in range(bits, 16):
            yield add(
                f"{bits} bits stored, overlay in bit {extra_bit}",
                lambda bits=bits, extra_bit=extra_bit: dataset(
                    hu,
                    BitsStored=bits,
                    HighBit=bits - 1,
                    PixelData=pack(stored, bits, 0, overlay << extra_bit),
                ),
                words="bits outside of the stored values",
            )
            yield add(
                f"{bits} bits stored, signed, overlay in bit {extra_bit}",
                lambda bits=bits, extra_bit=extra_bit: dataset(
                    hu, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=1, RescaleIntercept="0",
                    PixelData=pack(hu, bits, 0, overlay << extra_bit),
                ),
            )  # fmt: skip
    for bits in (12, 13, 14):
        shift = 16 - bits
        yield add(
            f"{bits} bits at the top of the cell",
            lambda bits=bits, shift=shift: dataset(
                hu, BitsStored=bits, HighBit=15, PixelData=pack(stored, bits, shift)
            ),
        )
        yield add(
            f"{bits} signed bits at the top of the cell",
            lambda bits=bits, shift=shift: dataset(
                hu, BitsStored=bits, HighBit=15, PixelRepresentation=1, RescaleIntercept="0",
                PixelData=pack(hu, bits, shift),
            ),
        )  # fmt: skip
        yield add(
            f"{bits} bits at the top, overlay below",
            lambda bits=bits, shift=shift: dataset(
                hu, BitsStored=bits, HighBit=15, PixelData=pack(stored, bits, shift, overlay)
            ),
            words="bits outside of the stored values",
        )
        yield add(
            f"high bit 15 over {bits} bits at the bottom",
            lambda bits=bits: dataset(hu, BitsStored=bits, HighBit=15, PixelData=pack(stored, bits)),
            error=DicomError,
            words="high bit",
        )
    for bits, high in ((16, 11), (17, 16), (0, 0), (12, 5)):
        yield (
            add(
                f"bits {bits} high bit {high}",
                lambda bits=bits, high=high: dataset(hu, BitsStored=bits, HighBit=high),
                error=DicomError,
            )
            if bits
            else add("bits 0", lambda: dataset(hu, BitsStored=0, HighBit=15), error=DicomError)
        )
    for name, slope in (("missing", None), ("empty", "")):
        yield add(
            f"slope {name}", lambda slope=slope: dataset(hu, RescaleSlope=slope), words="no rescale slope"
        )
        padded = hu.astype(np.int32) + 1024
        padded[0] = -2000
        right = hu.copy()
        right[0] = -1024
        yield add(
            f"slope {name}, padding below",
            lambda slope=slope, padded=padded: dataset(
                hu, RescaleSlope=slope, PixelRepresentation=1, PixelData=padded.astype(np.int16).tobytes()
            ),
            right,
        )
        yield add(
            f"slope and intercept {name}, padding below",
            lambda slope=slope, padded=padded: dataset(
                hu, RescaleSlope=slope, RescaleIntercept=slope, PixelRepresentation=1,
                PixelData=padded.astype(np.int16).tobytes(),
            ),
            error=DicomError, words="no rescale slope and intercept",
        )  # fmt: skip
        yield add(
            f"intercept {name}", lambda slope=slope: dataset(hu, RescaleIntercept=slope),
            error=DicomError, words="no rescale intercept",
        )  # fmt: skip
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        for bad in (b"1,0 ", b"1\\2 ", b"NaN ", b"inf ", NAME.encode()[:4]):
            yield ImageCase(
                name=f"{keyword} {bad!r}",
                write=lambda folder, keyword=keyword, bad=bad: _with_raw(folder, hu, keyword, bad),
                read=read_slice,
                error=DicomError,
                words="is no number",
            )
    for value, vr in ((0, "US"), (63536, "US"), (-2000, "SS")):
        padded = stored.copy()
        padded[:2] = value if vr == "SS" or value < 32768 else value - 65536
        right = hu.copy()
        right[:2] = -1024
        signed = value != 0
        yield ImageCase(
            name=f"padding {value}",
            write=lambda folder, value=value, vr=vr, padded=padded, signed=signed: _padded(
                folder, hu, value, vr, padded, signed
            ),
            read=read_slice,
            expected=right,
        )
    for slope in (0.5, 0.25, 2.0, -1.0):
        yield add(
            f"slope {slope}",
            lambda slope=slope: dataset(hu, RescaleSlope=str(slope)),
            np.clip(np.rint(stored * slope - 1024), -1024, 32767).astype(np.int16),
        )
    yield add("slope 0", lambda: dataset(hu, RescaleSlope="0"), error=DicomError, words="slope is 0")
    for modality, sop_class in (("MR", "1.2.840.10008.5.1.4.1.1.4"), ("PT", "1.2.840.10008.5.1.4.1.1.128"),
                                (NAME, CTImageStorage)):  # fmt: skip
        yield add(
            f"modality {modality}", lambda modality=modality, sop_class=sop_class: dataset(
                hu, Modality=modality, SOPClassUID=sop_class), error=DicomError, words="not CT",
        )  # fmt: skip
    yield ImageCase(
        name="enhanced, a rescale for each frame", write=_enhanced([(1, -1024), (2, -1000), (1, 0)]),
        read=read_study,
        expected=volume(_enhanced_values([(1, -1024), (2, -1000), (1, 0)])),
    )  # fmt: skip
    yield ImageCase(
        name="enhanced, one frame without its rescale", write=_enhanced([(1, -1024), None, (1, 0)]),
        read=read_study, error=(DicomError, GeometryError),
    )  # fmt: skip
    yield ImageCase(
        name="enhanced, two stacks", write=_enhanced([(1, -1024)] * 6, stacks=(1, 1, 1, 2, 2, 2)),
        read=counts_of, expected=[3, 3],
    )  # fmt: skip


def dicom_compressed() -> Iterator[ImageCase]:
    # Encoders of JPEG 2000 need more pixels.
    hu = body(size=64)
    stored = hu.astype(np.int32) + 1024
    overlay = np.zeros(hu.shape, np.int64)
    overlay[3:6, 3:6] = 1
    for syntax, name in ((JPEG2000Lossless, "JPEG 2000"), (JPEGLSLossless, "JPEG-LS"), (RLELossless, "RLE")):
        yield ImageCase(
            name=name, write=compressed(lambda: dataset(hu), syntax), read=read_slice, expected=hu
        )
        yield ImageCase(
            name=f"{name}, signed",
            write=compressed(
                lambda: dataset(hu, PixelRepresentation=1, RescaleIntercept="0", PixelData=hu.tobytes()),
                syntax,
            ),
            read=read_slice,
            expected=hu,
        )
        for bits in (12, 13):
            yield ImageCase(
                name=f"{name}, overlay beyond {bits} bits",
                write=compressed(
                    lambda bits=bits: dataset(hu, PixelData=pack(stored, bits, 0, overlay << 15)), syntax,
                    BitsStored=bits, HighBit=bits - 1,
                ),
                read=read_slice, expected=hu, words="bits outside of the stored values",
            )  # fmt: skip
            yield ImageCase(
                name=f"{name}, {bits} signed bits in an unsigned stream",
                write=compressed(
                    lambda bits=bits: dataset(hu, RescaleIntercept="0", PixelData=pack(hu, bits)), syntax,
                    BitsStored=bits, HighBit=bits - 1, PixelRepresentation=1,
                ),
                read=read_slice, expected=hu,
            )  # fmt: skip
        for keep in (0.55, 0.8):
            yield ImageCase(
                name=f"{name}, {keep} of the file",
                write=lambda folder, syntax=syntax, keep=keep: _cut(
                    compressed(lambda: dataset(hu), syntax)(folder), keep
                ),
                read=read_slice,
                error=DicomError,
            )


def _with_raw(folder: Path, hu: np.ndarray[Any, Any], keyword: str, raw: bytes) -> Path:
    """Write bytes into a DS element that pydicom would not write."""
    path = save(dataset(hu, **{keyword: "98765432"}), folder / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"98765432", raw.ljust(8)))
    return path


def _padded(folder: Path, hu: Any, value: int, vr: str, padded: Any, signed: bool) -> Path:
    made = dataset(
        hu,
        PixelRepresentation=int(signed),
        PixelData=padded.astype(np.int16 if signed else np.uint16).tobytes(),
    )
    made.add_new("PixelPaddingValue", vr, value)
    return save(made, folder / "a.dcm")


def _cut(path: Path, keep: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _enhanced_stored(count: int) -> np.ndarray[Any, Any]:
    return np.stack([body(i).astype(np.int32) + 1024 for i in range(count)])


def _enhanced_values(rescales: list[tuple[float, float]]) -> np.ndarray[Any, Any]:
    stored = _enhanced_stored(len(rescales))
    values = [image * slope + intercept for image, (slope, intercept) in zip(stored, rescales, strict=True)]
    return np.maximum(np.array(values), -1024).astype(np.int16)


def _enhanced(
    rescales: list[tuple[float, float] | None] | Any, stacks: tuple[int, ...] = ()
) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        made = dataset(body(), SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=len(rescales),
                       RescaleSlope=None, RescaleIntercept=None, PixelSpacing=None, SliceThickness=None,
                       ImageOrientationPatient=None, ImagePositionPatient=None)  # fmt: skip
        made.PixelData = _enhanced_stored(len(rescales)).astype(np.uint16).tobytes()
        shared = Dataset()
        shared.PixelMeasuresSequence = [_item(PixelSpacing=[str(v) for v in PIXEL_MM], SliceThickness="5")]
        shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
        made.SharedFunctionalGroupsSequence = [shared]
        frames = []
        for i, rescale in enumerate(rescales):
            frame = Dataset()
            frame.PlanePositionSequence = [_item(ImagePositionPatient=[-20, -30, i * STEP_MM])]
            if rescale is not None:
                frame.PixelValueTransformationSequence = [
                    _item(RescaleSlope=str(rescale[0]), RescaleIntercept=str(rescale[1]), RescaleType="HU")
                ]
            if stacks:
                frame.FrameContentSequence = [_item(StackID=str(stacks[i]))]
            frames.append(frame)
        made.PerFrameFunctionalGroupsSequence = frames
        return save(made, folder / "a.dcm")

    return write


def dicom_series() -> Iterator[ImageCase]:
    whole = volume(stack())
    ways: dict[str, Callable[[int], dict[str, Any]]] = {
        "acquisition": lambda part: {"AcquisitionNumber": part + 1},
        "kernel": lambda part: {"ConvolutionKernel": ("B30f", "B70f")[part]},
        "kV": lambda part: {"KVP": ("120", "80")[part]},
        "patient ID": lambda part: {"PatientID": f"ID-{part}"},
        "patient name": lambda part: {"PatientName": (NAME, "Roe^Ann")[part]},
        "birth date": lambda part: {"PatientBirthDate": ("19500101", "19610202")[part]},
        "sex": lambda part: {"PatientSex": "FM"[part]},
        "height": lambda part: {"PatientSize": ("1.6", "1.9")[part]},
        "study": lambda part: {"StudyInstanceUID": f"2.25.1{part}"},
        "frame of reference": lambda part: {"FrameOfReferenceUID": f"2.25.3{part}"},
        "temporal position": lambda part: {"TemporalPositionIdentifier": part + 1},
        "contrast agent": lambda part: {"ContrastBolusAgent": "IOMERON"} if part else {},
        "image type": lambda part: {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", f"E{part}"]},
        "acquisition time": lambda part: {"AcquisitionTime": ("101500", "101625")[part]},
        "number of the image": lambda part: {},
    }
    for name, changes in ways.items():
        for apart in (0.0, 0.01, 0.5, 2.5):
            write = two_stacks(changes, apart)
            if name == "number of the image":
                write = _numbered(apart)
            yield ImageCase(
                name=f"two stacks {apart} mm apart, by {name}", write=write, read=counts_of, expected=[5, 5]
            )
        yield ImageCase(
            name=f"two stacks by {name}, read", write=_numbered(2.5) if name.startswith("number") else
            two_stacks(changes), read=read_study, error=InputError, words="distinguished by",
        )  # fmt: skip
    for apart in (0.01, 0.5, 1.0):
        yield ImageCase(
            name=f"two stacks {apart} mm apart, by nothing", write=two_stacks(lambda _: {}, apart),
            read=read_study, error=GeometryError, words="stacks lie within each other",
        )  # fmt: skip
    yield ImageCase(
        name="two stacks at one place, by nothing", write=two_stacks(lambda _: {}, 0.0), read=read_study,
        error=GeometryError, words="one slice is there twice",
    )  # fmt: skip
    along = {
        "an acquisition for each slice": lambda i: {"AcquisitionNumber": i + 1},
        "two acquisitions after each other": lambda i: {"AcquisitionNumber": 1 + (i > 2)},
        "a time for each slice": lambda i: {"AcquisitionTime": f"1015{10 + i}"},
        "a lossy copy of one slice": lambda i: {"ImageType": [("ORIGINAL", "DERIVED")[i == 2], "PRIMARY", "AXIAL"]},
        "one slice without a kernel": lambda i: {"ConvolutionKernel": "" if i == 2 else "B30f"},
        "one slice without a birth date": lambda i: {"PatientBirthDate": "" if i == 2 else "19500101"},
        "names in small and large letters": lambda i: {"PatientName": (NAME, NAME.upper())[i % 2]},
    }  # fmt: skip
    for name, change in along.items():
        yield ImageCase(name=name, write=series(changes=change), read=read_study, expected=whole)
    for name, change in {
        "copied": {},
        "copied under another UID": {"SOPInstanceUID": "2.25.99"},
        "copied with another acquisition": {"SOPInstanceUID": "2.25.99", "AcquisitionNumber": 9},
    }.items():
        yield ImageCase(
            name=f"one slice {name}", write=lambda folder, change=change: _repeated(folder, 0, change),
            read=read_study, expected=whole,
            words="" if "AcquisitionNumber" in change else "1 repeated image left out (copy.dcm)",
        )  # fmt: skip
    yield ImageCase(
        name="one slice taken again", read=read_study,
        write=lambda folder: _repeated(folder, 60, {"SOPInstanceUID": "2.25.99"}),
        error=GeometryError, words="02.dcm and copy.dcm",
    )  # fmt: skip
    yield ImageCase(
        name="one slice taken again, an acquisition for each slice", read=read_study,
        write=lambda folder: _repeated(folder, 60, {"SOPInstanceUID": "2.25.99", "AcquisitionNumber": 9}, each=True),
        error=GeometryError, words="02.dcm and copy.dcm",
    )  # fmt: skip
    for factor, name in (
        (10, "ten times too large"),
        (0.1, "in cm"),
        (0.001, "in metres"),
        (1000, "in micrometres"),
    ):
        yield ImageCase(
            name=f"pixel spacing {name}", read=read_study,
            write=series(changes=lambda _, factor=factor: {
                "PixelSpacing": [f"{v * factor:.6g}" for v in PIXEL_MM]}),
            error=GeometryError if factor != 10 else None,
            expected=CTVolume(hu_zyx=stack(), affine=_scaled(factor)) if factor == 10 else None,
        )  # fmt: skip
    charsets = {
        "ISO 2022 IR 87": b"\x1b$B;3ED\x1b(B",
        "ISO 2022 IR 149": b"\x1b$)C\xb1\xe8\xc8\xf1\xc1\xdf",
        "ISO 2022 IR 58": b"\x1b$)A\xcd\xf5",
        "GB18030": "腹部".encode("gb18030"),
        "ISO_IR 192": "腹部 größe".encode(),
        "ISO_IR 100": b"gr\xf6\xdfe",
        "ISO_IR 999": b"gr\xf6\xdfe",
        "ISO 2022 IR 87, damaged": b"\x1b$B;3E",
        "ISO_IR 192, damaged": "腹部".encode()[:-1],
    }
    for charset, raw in charsets.items():
        code = charset.split(",")[0]
        states = code if code.startswith(("GB", "ISO_")) else f"\\{code}"
        yield ImageCase(
            name=f"characters of {charset}", read=read_study, expected=whole,
            write=lambda folder, states=states, raw=raw: _charset(folder, states, raw),
        )  # fmt: skip
    yield ImageCase(name="file names that are not UTF-8", write=_odd_names, read=read_study, expected=whole)
    yield ImageCase(
        name="a damaged file under a name that is not UTF-8", read=read_study, write=_odd_damaged_name,
        error=DicomError, words="\\udcff",
    )  # fmt: skip
    for keyword in ("SliceThickness", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
        for wrong in (60000, 120):
            yield ImageCase(
                name=f"{keyword} with a length of {wrong}", read=read_study,
                write=lambda folder, keyword=keyword, wrong=wrong: _wrong_length(folder, keyword, wrong),
                error=(DicomError, GeometryError, InputError),
            )  # fmt: skip
    yield ImageCase(name="a link to nothing", write=_dangling, read=read_study, expected=whole,
                    words="gone.dcm (a link to nothing)")  # fmt: skip
    yield ImageCase(name="a linked folder", write=_linked_folder, read=read_study, expected=whole)


def _scaled(factor: float) -> np.ndarray[Any, Any]:
    affine = np.diag([PIXEL_MM[1] * factor, PIXEL_MM[0] * factor, STEP_MM, 1.0])
    affine[:3, 3] = (-20, -30, 0)
    return affine


def _numbered(apart_mm: float) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for part in (0, 1):
            for i in range(5):
                number = part * 5 + i + 1
                made = dataset(body(i) + 60 * part, i * STEP_MM + part * apart_mm, number)
                save(made, folder / f"{part}{i}.dcm")
        return folder

    return write


def _repeated(folder: Path, added: int, change: dict[str, Any], each: bool = False) -> Path:
    series(changes=lambda i: {"AcquisitionNumber": i + 1 if each else 1})(folder)
    save(dataset(body(2) + np.int16(added), 2 * STEP_MM, 3, **{"AcquisitionNumber": 3 if each else 1, **change}),
         folder / "copy.dcm")  # fmt: skip
    return folder


def _charset(folder: Path, states: str, raw: bytes) -> Path:
    for i in range(5):
        made = dataset(body(i), i * STEP_MM, i + 1, SeriesDescription="98765432", PatientName="98765432")
        made.SpecificCharacterSet = ["", states[1:]] if states.startswith("\\") else states
        path = save(made, folder / f"{i}.dcm")
        padded = raw.ljust(len(raw) + len(raw) % 2)
        content = path.read_bytes()
        for vr in (b"LO", b"PN"):
            content = content.replace(vr + b"\x08\x0098765432", vr + struct.pack("<H", len(padded)) + padded)
        path.write_bytes(content)
    return folder


def _odd_names(folder: Path) -> Path:
    series()(folder)
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"bild\udcff{i}.dcm")
    return folder


def _odd_damaged_name(folder: Path) -> Path:
    path = folder / "bild\udcff.dcm"
    path.write_bytes(b"no image")
    return path


def _wrong_length(folder: Path, keyword: str, length: int) -> Path:
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    assert tag is not None
    made = dataset(body())
    made.PatientName = NAME
    path = save(made, folder / "a.dcm")
    content = bytearray(path.read_bytes())
    at = bytes(content).index(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"DS") + 6
    content[at : at + 2] = struct.pack("<H", length)
    # The patient's name stands behind the damaged length, where it becomes part of the value.
    content[at + 12 : at + 12 + len(NAME)] = NAME.encode()
    path.write_bytes(bytes(content))
    return path


def _dangling(folder: Path) -> Path:
    series()(folder)
    (folder / "gone.dcm").symlink_to(folder / "nowhere.dcm")
    return folder


def _linked_folder(folder: Path) -> Path:
    (folder / "kept").mkdir()
    series()(folder / "kept")
    (folder / "study").mkdir()
    (folder / "study" / "link").symlink_to(folder / "kept", target_is_directory=True)
    (folder / "study" / "up").symlink_to(folder, target_is_directory=True)
    return folder / "study"


# NIfTI


def nifti_bytes(
    hu_zyx: np.ndarray[Any, Any], *, order: str = "<", dtype: Any = np.int16, **fields: Any
) -> bytes:
    """A NIfTI-1 file made field by field: in LPS order of the array, so that x and y run against RAS."""
    affine = np.diag([-PIXEL_MM[1], -PIXEL_MM[0], STEP_MM])
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    header.set_data_shape(hu_zyx.shape[::-1])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = affine, (20, 30, 0)
    header.set_sform(matrix, 1)
    header.set_qform(matrix, 1)
    header.set_xyzt_units("mm")
    raw = header.structarr.copy()
    raw["vox_offset"], raw["magic"] = 352, b"n+1"
    raw["scl_slope"], raw["scl_inter"] = 1, 0
    for name, value in fields.items():
        raw[name] = value
    data = hu_zyx.astype(np.dtype(dtype).newbyteorder(order)).tobytes()
    return raw.tobytes() + bytes(4) + data


def nifti() -> Iterator[ImageCase]:
    hu = stack()
    right = volume(hu)
    plain = nifti_bytes(hu)

    def add(name: str, content: bytes, expected: Any = right, file: str = "a.nii", **more: Any) -> ImageCase:
        return ImageCase(
            name=f"NIfTI, {name}",
            write=lambda folder: _put(folder / file, content),
            read=read_study,
            expected=None if "error" in more else expected,
            **more,
        )

    yield add("plain", plain)
    yield add("gzip", gzip.compress(plain), file="a.nii.gz")
    yield add("big endian", nifti_bytes(hu, order=">"))
    for dtype in (np.float32, np.float64, np.int32):
        yield add(f"as {np.dtype(dtype).name}", nifti_bytes(hu, dtype=dtype))
    yield add("voxels from byte 0", nifti_bytes(hu, vox_offset=0), words="voxels begin at byte 0")
    yield add("voxels from byte 100", nifti_bytes(hu, vox_offset=100), error=InputError)
    yield add("voxels from nowhere", nifti_bytes(hu, vox_offset=np.nan), error=InputError)
    yield add(
        "voxels from behind the end", nifti_bytes(hu, vox_offset=1e6), error=InputError, words="truncated"
    )
    shifted = nifti_bytes(hu, vox_offset=368)
    yield add("voxels from byte 368", shifted[:352] + bytes(16) + shifted[352:])
    extended = nifti_bytes(hu, vox_offset=368)
    extension = struct.pack("<ii", 16, 6) + b"note\0\0\0\0"
    yield add("with an extension", extended[:348] + b"\1\0\0\0" + extension + extended[352:])
    yield add("an extension within the voxels", plain[:348] + b"\1\0\0\0" + extension + plain[352:],
              error=InputError, words="extended")  # fmt: skip
    for scale, offset in ((0.5, -1000.0), (2.0, 10.0)):
        yield add(
            f"slope {scale}", nifti_bytes(hu, scl_slope=scale, scl_inter=offset),
            volume(np.maximum(np.rint(hu * scale + offset), -1024).astype(np.int16)),
        )  # fmt: skip
    yield add("slope NaN", nifti_bytes(hu, scl_slope=np.nan, scl_inter=np.nan))
    yield add("slope 0", nifti_bytes(hu, scl_slope=0, scl_inter=5))
    yield add("slope infinite", nifti_bytes(hu, scl_slope=np.inf), error=InputError)
    yield add("intercept NaN", nifti_bytes(hu, scl_inter=np.nan), error=InputError)
    yield add("in metres that are mm", nifti_bytes(hu, xyzt_units=1), error=GeometryError, words="xyzt_units")
    yield add(
        "in micrometres that are mm", nifti_bytes(hu, xyzt_units=3), error=GeometryError, words="xyzt_units"
    )
    for unit, factor in ((1, 0.001), (3, 1000.0)):
        yield add(f"in unit {unit}", _rescaled_nifti(hu, factor, unit), words="lengths are stated in")
    yield add("in no unit", nifti_bytes(hu, xyzt_units=0))
    mirrored = np.diag([PIXEL_MM[1], -PIXEL_MM[0], STEP_MM, 1.0])
    mirrored[:3, 3] = (20, 30, 0)
    for code in (1, 2):
        yield add(f"sform {code} mirrored against qform", _with_sform(plain, mirrored, code),
                  error=GeometryError, words="contradict")  # fmt: skip
    atlas = np.diag([-1.5, -1.5, 4.0, 1.0])
    yield add("sform in an atlas", _with_sform(plain, atlas, 4), words="atlas")
    coarse = np.diag([-1.6, -1.5, 5.0, 1.0])
    yield add("sform of another size", _with_sform(plain, coarse, 1), error=GeometryError, words="contradict")
    yield add("sform alone, of another size than pixdim", _with_sform(plain, coarse, 1, qform=0),
              error=GeometryError, words="two voxel sizes")  # fmt: skip
    yield add("sform singular", _with_sform(plain, np.zeros((4, 4)), 1, qform=0), error=GeometryError)
    yield add("sform NaN", _with_sform(plain, np.full((4, 4), np.nan), 1, qform=0), error=GeometryError)
    for name, dims in {
        "four phases": (4, SIZE, SIZE, 5, 4, 1, 1, 1), "no size": (3, SIZE, 0, 5, 1, 1, 1, 1),
        "a negative size": (3, SIZE, -4, 5, 1, 1, 1, 1), "30000 slices": (3, SIZE, SIZE, 30000, 1, 1, 1, 1),
        "32767 voxels a side": (3, 32767, 32767, 32767, 1, 1, 1, 1), "9 dimensions": (9, 1, 1, 1, 1, 1, 1, 1),
    }.items():  # fmt: skip
        yield add(name, nifti_bytes(hu, dim=dims), error=InputError)
    for code, name in ((128, "colours"), (32, "complex numbers"), (9999, "no type")):
        yield add(name, nifti_bytes(hu, datatype=code, bitpix=64), error=InputError)
    floats = hu.astype(np.float32)
    floats[2, 3, 3] = np.nan
    yield add(
        "a value that is no number",
        nifti_bytes(floats, dtype=np.float32),
        error=InputError,
        words="not finite",
    )
    huge = hu.astype(np.float32)
    huge[2, 3, 3] = 1e6
    yield add(
        "a value beyond HU", nifti_bytes(huge, dtype=np.float32), error=InputError, words="beyond the range"
    )
    yield add("bytes after the last voxel", plain + b"x" * 40, words="40 bytes after the last voxel")
    packed = gzip.compress(plain, mtime=0)
    yield add("bytes after the stream", packed + b"x" * 40, file="a.nii.gz", words="40 bytes after the end")
    yield add("two members", gzip.compress(plain[:900]) + gzip.compress(plain[900:]), file="a.nii.gz")
    yield add("gzip under .nii", packed, file="a.nii")
    yield add("plain under .nii.gz", plain, file="a.nii.gz")
    rng = np.random.default_rng(3)
    for number in range(24):
        at = int(rng.integers(12, len(packed) - 8))
        flipped = bytearray(packed)
        flipped[at] ^= 1 << int(rng.integers(8))
        yield add(f"bit {number} flipped", bytes(flipped), file="a.nii.gz", error=InputError)
    for keep in (0, 1, 10, 200, len(packed) // 2, len(packed) - 8, len(packed) - 1):
        yield add(f"{keep} bytes of the stream", packed[:keep], file="a.nii.gz", error=InputError)
    for keep in (0, 4, 300, 352, 1000, len(plain) - 1):
        yield add(f"{keep} bytes", plain[:keep], error=InputError)
    bomb = gzip.compress(plain + bytes(1 << 22))
    yield add("a bomb", bomb, file="a.nii.gz", error=InputError, words="more than its header declares")
    for ends in ((".hdr", ".img"), (".hdr.gz", ".img.gz"), (".hdr", ".img.gz")):
        for given in ends:
            yield ImageCase(
                name=f"pair {ends}, given {given}", read=read_study, expected=right,
                write=lambda folder, ends=ends, given=given: _pair(folder, plain, ends, given),
            )  # fmt: skip
    yield ImageCase(
        name="half a pair", write=lambda folder: _put(folder / "a.hdr", plain[:348]), read=read_study,
        error=InputError, words="half of a pair",
    )  # fmt: skip
    yield ImageCase(
        name="one slice", write=lambda folder: _put(folder / "a.nii", nifti_bytes(hu[:1])), read=read_slice,
        expected=hu[0],
    )  # fmt: skip
    yield ImageCase(
        name="several slices for one", write=lambda folder: _put(folder / "a.nii", plain), read=read_slice,
        error=InputError, words="is a volume",
    )  # fmt: skip
    yield add("0 to 255", nifti_bytes(np.clip((hu + 160) * 255 // 400, 0, 255)),
              volume(np.clip((hu + 160) * 255 // 400, 0, 255).astype(np.int16)), words="do not look like")  # fmt: skip
    offset = (hu + 1024).astype(np.int16)
    offset[:, 0] = -2000
    yield add(
        "from 0, padded", nifti_bytes(offset), volume(np.maximum(offset, -1024)), words="but for padding"
    )
    yield add("all one value", nifti_bytes(np.full_like(hu, 7)), volume(np.full_like(hu, 7)), words="empty")


def _put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _pair(folder: Path, plain: bytes, ends: tuple[str, str], given: str) -> Path:
    header = bytearray(plain[:348])
    header[344:348] = b"ni1\0"
    header[108:112] = struct.pack("<f", 0)
    for end, content in zip(ends, (bytes(header), plain[352:]), strict=True):
        (folder / f"a{end}").write_bytes(gzip.compress(content) if end.endswith("gz") else content)
    return folder / f"a{given}"


def _rescaled_nifti(hu: np.ndarray[Any, Any], factor: float, unit: int) -> bytes:
    matrix = np.diag([-PIXEL_MM[1] * factor, -PIXEL_MM[0] * factor, STEP_MM * factor, 1.0])
    matrix[:3, 3] = np.array([20, 30, 0]) * factor
    header = nibabel.Nifti1Header()
    header.set_data_shape(hu.shape[::-1])
    header.set_data_dtype(np.int16)
    header.set_sform(matrix, 1)
    header.set_qform(matrix, 1)
    raw = header.structarr.copy()
    raw["xyzt_units"], raw["vox_offset"], raw["magic"], raw["scl_slope"] = unit, 352, b"n+1", 0
    return bytes(raw.tobytes() + bytes(4) + hu.tobytes())


def _with_sform(plain: bytes, matrix: np.ndarray[Any, Any], code: int, qform: int = 1) -> bytes:
    content = bytearray(plain)
    content[252:256] = struct.pack("<hh", qform, code)
    content[280:328] = np.asarray(matrix[:3], "<f4").tobytes()
    return bytes(content)


# NRRD


def nrrd_bytes(hu_zyx: np.ndarray[Any, Any], data: bytes | None = None, **fields: str | None) -> bytes:
    """A NRRD file, its header line by line; a field set to None is left out."""
    values = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(str(n) for n in hu_zyx.shape[::-1]),
        "space directions": f"({PIXEL_MM[1]},0,0) (0,{PIXEL_MM[0]},0) (0,0,{STEP_MM})",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(-20,-30,0)",
    }
    values.update({key.replace("_", " "): value for key, value in fields.items()})  # type: ignore[misc]
    lines = [f"{key}: {value}" for key, value in values.items() if value is not None]
    head = "\n".join(["NRRD0004", "# made by hand", *lines]) + "\n\n"
    return head.encode() + (hu_zyx.astype("<i2").tobytes() if data is None else data)


def nrrd() -> Iterator[ImageCase]:
    hu = stack()
    right = volume(hu)
    raw = hu.astype("<i2").tobytes()

    def add(name: str, content: bytes, expected: Any = right, file: str = "a.nrrd", **more: Any) -> ImageCase:
        return ImageCase(
            name=f"NRRD, {name}",
            write=lambda folder: _put(folder / file, content),
            read=read_study,
            expected=None if "error" in more else expected,
            **more,
        )

    yield add("raw", nrrd_bytes(hu))
    yield add("gzip", nrrd_bytes(hu, gzip.compress(raw), encoding="gzip"))
    yield add("bzip2", nrrd_bytes(hu, bz2.compress(raw), encoding="bzip2"))
    yield add("text", nrrd_bytes(hu, " ".join(map(str, hu.ravel())).encode(), encoding="ascii", endian=None))
    yield add("big endian", nrrd_bytes(hu, hu.astype(">i2").tobytes(), endian="big"))
    for word, dtype in {
        "float": "<f4",
        "double": "<f8",
        "int": "<i4",
        "int64": "<i8",
        "signed short": "<i2",
    }.items():
        yield add(f"as {word}", nrrd_bytes(hu, hu.astype(dtype).tobytes(), type=word))
    ras = f"(-{PIXEL_MM[1]},0,0) (0,-{PIXEL_MM[0]},0) (0,0,{STEP_MM})"
    yield add("RAS", nrrd_bytes(hu, space="RAS", space_directions=ras, space_origin="(20,30,0)"))
    yield add("LAS", nrrd_bytes(
        hu, space="left-anterior-superior", space_origin="(-20,30,0)",
        space_directions=f"({PIXEL_MM[1]},0,0) (0,-{PIXEL_MM[0]},0) (0,0,{STEP_MM})"))  # fmt: skip
    flipped = nrrd_bytes(
        hu[::-1], space_origin=f"(-20,-30,{4 * STEP_MM})",
        space_directions=f"({PIXEL_MM[1]},0,0) (0,{PIXEL_MM[0]},0) (0,0,-{STEP_MM})",
    )  # fmt: skip
    yield add("from head to foot", flipped)
    turned = np.ascontiguousarray(hu.transpose(1, 2, 0))
    yield add("slices along the first axis", nrrd_bytes(
        turned, space_directions=f"(0,0,{STEP_MM}) ({PIXEL_MM[1]},0,0) (0,{PIXEL_MM[0]},0)"))  # fmt: skip
    listed = f"none {nrrd_directions()}"
    yield add("with a list of one", nrrd_bytes(
        hu, dimension="4", sizes=f"1 {SIZE} {SIZE} 5", space_directions=listed, kinds="list domain domain domain"))  # fmt: skip
    two = np.stack([hu, hu], axis=-1).astype("<i2").tobytes()
    yield add("with a list of two", nrrd_bytes(
        hu, two, dimension="4", sizes=f"2 {SIZE} {SIZE} 5", space_directions=listed, kinds=None),
        error=InputError, words="three-dimensional")  # fmt: skip
    yield add("in metres", nrrd_bytes(
        hu, space_units='"m" "m" "m"', space_origin="(-0.02,-0.03,0)",
        space_directions="(0.0008,0,0) (0,0.00075,0) (0,0,0.005)"))  # fmt: skip
    yield add("in metres that are mm", nrrd_bytes(hu, space_units='"m" "m" "m"'), error=GeometryError)
    yield add("in miles", nrrd_bytes(hu, space_units='"mi" "mi" "mi"'), error=GeometryError)
    yield add(
        "without a space", nrrd_bytes(hu, space=None, space_dimension="3"), words="left and right are assumed"
    )
    yield add("with spacings alone", nrrd_bytes(
        hu, space=None, space_directions=None, space_origin=None, spacings=f"{PIXEL_MM[1]} {PIXEL_MM[0]} {STEP_MM}"),
        CTVolume(hu_zyx=hu, affine=np.diag([PIXEL_MM[1], PIXEL_MM[0], STEP_MM, 1])), words="are assumed")  # fmt: skip
    yield add("without any spacing", nrrd_bytes(hu, space=None, space_directions=None, space_origin=None),
              error=GeometryError, words="no spacing")  # fmt: skip
    bad: dict[str, dict[str, Any]] = {
        "two directions": {"space_directions": "(1,0,0) (0,1,0)"},
        "a direction of two numbers": {"space_directions": "(1,0) (0,1,0) (0,0,1)"},
        "a direction that is no number": {"space_directions": "(x,0,0) (0,1,0) (0,0,1)"},
        "a direction that is nan": {"space_directions": "(nan,0,0) (0,1,0) (0,0,1)"},
        "directions in one plane": {"space_directions": "(1,0,0) (0,1,0) (1,1,0)"},
        "sizes that are none": {"sizes": "16 x 5"},
        "a size of 0": {"sizes": "16 0 5"},
        "two sizes": {"sizes": "16 16"},
        "too large a size": {"sizes": "99999 99999 99999"},
        "no type": {"type": None},
        "blocks": {"type": "block"},
        "no endian": {"endian": None},
        "no encoding": {"encoding": None},
        "an unknown encoding": {"encoding": "zstd"},
        "a file elsewhere": {"data_file": "../secret.raw"},
        "an absolute file": {"data_file": "/etc/passwd"},
        "a file that is not there": {"data_file": "gone.raw"},
        "a list of files": {"data_file": "LIST"},
        "a bad skip": {"byte_skip": "x"},
        "a negative skip": {"line_skip": "-3"},
    }
    for name, fields in bad.items():
        yield add(name, nrrd_bytes(hu, **fields), error=(InputError, GeometryError))
    yield add("skipped bytes", nrrd_bytes(hu, b"12345" + raw, byte_skip="5"))
    yield add("skipped lines", nrrd_bytes(hu, b"one\ntwo\n" + raw, line_skip="2"))
    yield add("at the end", nrrd_bytes(hu, b"12345" + raw, byte_skip="-1"))
    yield add("bytes after the last voxel", nrrd_bytes(hu) + b"x" * 7, words="7 bytes after the last voxel")
    packed = gzip.compress(raw, mtime=0)
    for keep in (0, 20, len(packed) // 2, len(packed) - 8, len(packed) - 1):
        yield add(
            f"{keep} bytes of the stream", nrrd_bytes(hu, packed[:keep], encoding="gzip"), error=InputError
        )
    rng = np.random.default_rng(4)
    for number in range(12):
        broken = bytearray(packed)
        broken[int(rng.integers(12, len(packed) - 8))] ^= 1 << int(rng.integers(8))
        yield add(f"bit {number} flipped", nrrd_bytes(hu, bytes(broken), encoding="gz"), error=InputError)
    squeezed = bz2.compress(raw)
    yield add("bzip2 cut", nrrd_bytes(hu, squeezed[:-20], encoding="bz2"), error=InputError)
    yield add("bytes cut", nrrd_bytes(hu)[:-1], error=InputError, words="truncated")
    yield add("no header", b"NRRD0004", error=InputError)
    yield add("another version", b"NRRD0009" + nrrd_bytes(hu)[8:], error=InputError)
    yield add("a line that is no field", nrrd_bytes(hu).replace(b"# made", b"made"), error=InputError)
    for encoding, content in (("raw", raw), ("gzip", packed)):
        yield ImageCase(
            name=f"NRRD, detached {encoding}", read=read_study, expected=right,
            write=lambda folder, encoding=encoding, content=content: _detached(folder, hu, encoding, content),
        )  # fmt: skip


def nrrd_directions() -> str:
    return f"({PIXEL_MM[1]},0,0) (0,{PIXEL_MM[0]},0) (0,0,{STEP_MM})"


def _detached(folder: Path, hu: np.ndarray[Any, Any], encoding: str, content: bytes) -> Path:
    (folder / "a.raw").write_bytes(content)
    head = nrrd_bytes(hu, b"", encoding=encoding, data_file="a.raw")
    return _put(folder / "a.nhdr", head)


# Pictures and uploads


def _png(array: np.ndarray[Any, Any], mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def pictures() -> Iterator[ImageCase]:
    grey = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
    window = Window(level=40, width=400)
    right = (window.low_hu + grey.astype(np.float64) * (400 / 255)).astype(np.float32)
    png = _png(grey)

    def read_with(spacing: Any, **options: Any) -> Callable[[Path], Any]:
        return lambda path: read_slice(path, **{"window": window, "spacing_mm": spacing, **options})

    def add(
        name: str, content: bytes, read: Callable[[Path], Any], expected: Any = None, **more: Any
    ) -> ImageCase:
        return ImageCase(
            name=f"picture, {name}",
            write=lambda folder: _put(folder / "a.png", content),
            read=read,
            expected=expected,
            **more,
        )

    yield add("plain", png, read_with((0.8, 0.8)), right)
    wide = grey.astype(np.uint16) * 257
    yield add("of 16 bits", _png(wide), read_with((0.8, 0.8)), right)
    for spacing in ((8, 8), (80, 80), (0.08, 0.08), (0, 1), (-1, 1), (float("nan"), 1), (1, float("inf"))):
        yield add(f"spacing {spacing}", png, read_with(spacing), error=(GeometryError, InputError))
    yield add("no spacing", png, read_with(None), error=InputError, words="not specified: spacing_mm")
    yield add(
        "no window", png, read_with((1, 1), window=None), error=InputError, words="not specified: window"
    )
    colour = np.stack([grey, grey, 255 - grey], axis=-1)
    yield add("in colour", _png(colour), read_with((1, 1)), error=InputError, words="coloured")
    for keep in (0, 10, 40, len(png) // 2, len(png) - 20):
        yield add(f"{keep} bytes", png[:keep], read_with((1, 1)), error=InputError)
    for number in range(8):
        broken = bytearray(png)
        broken[50 + 12 * number] ^= 0x10
        yield add(f"byte {number} broken", bytes(broken), read_with((1, 1)), error=InputError)
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    bomb = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    yield add(
        "60000 pixels a side", bomb, read_with((1, 1)), error=InputError, words="larger than a CT slice"
    )

    def upload(name: str, content: bytes, expected: Any = None, **more: Any) -> ImageCase:
        return ImageCase(
            name=f"upload, {name}",
            write=lambda folder: _put(folder / "a", content),
            read=lambda path: decode_upload(path.read_bytes()).pixels,
            expected=expected,
            **more,
        )

    yield upload("PNG", png, grey)
    yield upload("in colour", _png(colour), error=InputError)
    yield upload("nothing", b"", error=InputError)
    yield upload("text", b"hello" * 40, error=InputError)
    yield upload("large", bomb, error=InputError)
    yield upload("half", png[: len(png) // 2], error=InputError)
    hu = body()
    top = pack(hu.astype(np.int32) + 1024, 12, 4)
    for name, changes, expected in (
        ("DICOM", {}, hu),
        ("DICOM of 12 bits at the top", {"BitsStored": 12, "HighBit": 15, "PixelData": top}, hu),
        ("DICOM without a slope", {"RescaleSlope": None}, hu),
        ("DICOM without an intercept", {"RescaleIntercept": None}, None),
        ("DICOM of another kind", {"Modality": NAME}, None),
        ("DICOM of several frames", {"NumberOfFrames": 3}, None),
        ("DICOM larger than it is", {"Rows": 4000, "Columns": 3500}, None),
        ("DICOM without pixels", {"Rows": 0}, None),
    ):
        yield ImageCase(
            name=f"upload, {name}",
            write=lambda folder, changes=changes: save(dataset(hu, **changes), folder / "a"),
            read=lambda path: decode_upload(path.read_bytes()).pixels,
            expected=expected,
            error=InputError if expected is None else None,
        )


def image_cases() -> list[ImageCase]:
    """All cases, in a fixed order."""
    return [*dicom_pixels(), *dicom_compressed(), *dicom_series(), *nifti(), *nrrd(), *pictures()]
