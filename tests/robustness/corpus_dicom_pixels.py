"""DICOM images whose pixels are stored in unusual or damaged ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
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

from ctai_sam2.errors import DicomError, GeometryError
from ctai_sam2.io import read_slice, read_study
from tests.robustness.dicom_making import compressed, counts_of, dataset, one_file, pack, save
from tests.robustness.image_case import NAME, PIXEL_MM, SIZE, STEP_MM, ImageCase, body, volume


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
