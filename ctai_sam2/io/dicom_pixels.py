"""From a DICOM file's pixel data to Hounsfield units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import CtaiError, DicomError
from ctai_sam2.image.padding import AIR_HU, fill_with_air
from ctai_sam2.io.codestream import read_codestream_header
from ctai_sam2.io.dicom_headers import FileSource, damaged, is_malformed, read_dataset
from ctai_sam2.io.dicom_text import valid_uid
from ctai_sam2.io.dicom_values import functional_value, number_of, value_of
from ctai_sam2.io.library_messages import quiet

_BODY_HU = -500.0
"""Padding above this could be tissue of the same value, so only padding that touches the border counts."""

_BELOW_AIR_HU = -1500.0
"""Nothing absorbs less than a vacuum, -1000 HU: what is stored below this is padding."""

_OVERLAY_SHARE = 0.3
_FAT_HU = -50.0
_MAX_HU = 32767

_COARSE_HU = 1.5
"""Steps of stored values beyond this raise a warning."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedFile:
    """Frames of one file in HU.

    Parameters
    ----------
    frames : list of ndarray, int16, shape (H, W)
        In the order requested.
    cautions : tuple of str
        Irregularities that were put right or limit what can be measured.
    """

    frames: list[NDArray[np.int16]]
    cautions: tuple[str, ...]


def read_hu_frames(path: FileSource, frames: Sequence[int]) -> DecodedFile:
    """Decode frames of a DICOM file and convert them to HU.

    Rescale slope and intercept (or a modality LUT) are those of each frame.
    Padding and values below -1024 become -1024; other values are rounded to
    whole HU, which is exact for every scanner that stores whole HU.

    Parameters
    ----------
    path : Path or MemoryFile
        A file whose header was accepted.
    frames : sequence of int
        Indices of the frames wanted, from 0.

    Raises
    ------
    DicomError
        If the pixel data is damaged, shorter than declared, compressed in an unknown way or cannot be HU.
    InputError
        If the file cannot be opened.
    """
    dataset = read_dataset(path, pixels=True)
    if "PixelData" not in dataset:
        raise damaged(path, "it holds no pixel data")
    try:
        with quiet("pydicom") as caught:
            cautions = _mend_transfer_syntax(dataset)
            cautions += _check_length(path, dataset)
            cells = _pixel_cells(path, dataset, cautions)
            arrays = _decode(dataset, frames)
            if caught:
                cautions.append("irregular encoding was tolerated while decoding")
            converted = [
                _to_hu(path, dataset, frame, array, cells, cautions)
                for frame, array in zip(frames, arrays, strict=True)
            ]
    except CtaiError:
        raise
    except BaseException as error:  # decoders raise whatever their libraries do
        # One written in Rust panics outside the tree of ordinary exceptions.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise damaged(path, _cause(dataset, error)) from error
    cautions += _lossy_cautions(dataset)
    return DecodedFile(frames=converted, cautions=tuple(dict.fromkeys(cautions)))


def _mend_transfer_syntax(dataset: Any) -> list[str]:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if value_of(dataset.file_meta, "TransferSyntaxUID") is not None:
        return []
    implicit, little = dataset.original_encoding
    dataset.file_meta.TransferSyntaxUID = (
        ImplicitVRLittleEndian
        if implicit
        else (ExplicitVRLittleEndian if little is not False else ExplicitVRBigEndian)
    )
    return ["the file names no transfer syntax; it was taken as uncompressed"]


def _check_length(path: FileSource, dataset: Any) -> list[str]:
    """Refuse pixel data that are too short for their size, and say where they hold further rows."""
    # Before anything is allocated: a damaged header may declare gigabytes.
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        return []
    count = int(number_of(value_of(dataset, "NumberOfFrames")) or 1)
    expected = dataset.Rows * dataset.Columns * count * int(dataset.BitsAllocated) // 8
    if len(dataset.PixelData) < expected:
        raise damaged(path, f"truncated pixel data, {len(dataset.PixelData)} of {expected} bytes are there")
    rows = 8 * (len(dataset.PixelData) - expected) // (dataset.Columns * int(dataset.BitsAllocated))
    return [f"the file holds {rows} rows of pixels more than it states; they were left out"] if rows else []


@dataclass(frozen=True, kw_only=True)
class _PixelCells:
    """Where a stored value lies in its cell of bits, PS3.5 section 8.1.1."""

    bits: int
    shift: int
    signed: bool

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest stored value."""
        if self.signed:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    def values_of(self, decoded: NDArray[Any]) -> tuple[NDArray[Any], bool]:
        """Take the value out of each cell, and tell whether anything else was in a cell.

        Bits outside of the value may hold an overlay, or anything.
        """
        wide: Any = np.int64 if decoded.dtype.itemsize > 2 else np.int32
        values: NDArray[Any] = decoded.astype(wide)
        if self.shift:
            values >>= self.shift
        low, high = self.range
        crowded = bool(self.shift and (decoded & ((1 << self.shift) - 1)).any())
        if int(values.min()) < low or int(values.max()) > high:
            beyond = values >> self.bits
            values &= (1 << self.bits) - 1
            if self.signed:
                values = (values ^ (1 << (self.bits - 1))) - (1 << (self.bits - 1))
            # A negative number may go on in the bits before it.
            crowded |= bool(((beyond != 0) & ((beyond != -1) | (values >= 0))).any())
        return values, crowded

    def contradicts(self, decoded: NDArray[Any]) -> bool:
        """Tell whether the values end where, by their high bit, they should begin."""
        if not self.shift:
            return False
        below = decoded & ((1 << self.shift) - 1)
        # An overlay is there or not, on a part of the pixels; the last bits of values take all patterns.
        is_overlay = len(np.unique(below)) <= 2 and np.count_nonzero(below) <= _OVERLAY_SHARE * below.size
        fits = int(decoded.max()) < 1 << self.bits and int(decoded.min()) >= -(1 << (self.bits - 1))
        return fits and not is_overlay


def _pixel_cells(path: FileSource, dataset: Any, cautions: list[str]) -> _PixelCells:
    allocated = int(dataset.BitsAllocated)
    bits = int(number_of(value_of(dataset, "BitsStored")) or allocated)
    high_bit = number_of(value_of(dataset, "HighBit"))
    signed = int(number_of(value_of(dataset, "PixelRepresentation")) or 0) == 1
    shift = 0 if high_bit is None else int(high_bit) + 1 - bits
    if not (1 <= bits <= allocated <= 32) or shift < 0 or shift + bits > allocated:
        raise damaged(path, f"its bits contradict each other ({allocated} allocated, {bits} stored, high bit"
                      f" {'missing' if high_bit is None else int(high_bit)})")  # fmt: skip
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        # The stream says itself how many bits a value has; only what it holds beyond them is shifted.
        stream = _codestream(dataset)
        header = read_codestream_header(stream)
        precision = None if header is None else header.precision
        if _is_signed_jpeg_2000(dataset, stream) and not signed:
            # The numbers in the JPEG 2000 stream are negative whatever the header says; read as
            # unsigned they would come out near 65535.
            dataset.PixelRepresentation = 1
            cautions.append(
                "the header and the JPEG 2000 stream disagree on signed values; the stream was taken"
            )
            return _PixelCells(bits=max(bits, precision or bits), shift=0, signed=True)
        if precision is not None and precision <= bits:
            shift = 0
    return _PixelCells(bits=bits, shift=shift, signed=signed)


def _codestream(dataset: Any) -> bytes:
    from pydicom.encaps import get_frame

    count = int(number_of(value_of(dataset, "NumberOfFrames")) or 1)
    return bytes(get_frame(dataset.PixelData, 0, number_of_frames=count))


def _is_signed_jpeg_2000(dataset: Any, stream: bytes) -> bool:
    from pydicom.pixels.utils import get_j2k_parameters
    from pydicom.uid import JPEG2000TransferSyntaxes

    if dataset.file_meta.TransferSyntaxUID not in JPEG2000TransferSyntaxes:
        return False
    return bool(get_j2k_parameters(stream).get("is_signed", False))


def _decode(dataset: Any, frames: Sequence[int]) -> list[NDArray[Any]]:
    from pydicom.pixels.utils import iter_pixels

    from ctai_sam2.io import jpeg_decoder

    jpeg_decoder.register()
    shape = (int(dataset.Rows), int(dataset.Columns))
    # Bits beyond the stored ones are looked at here, where the high bit is known.
    options: dict[str, Any] = {"correct_unused_bits": False}
    arrays = list(iter_pixels(dataset, indices=list(frames), raw=True, **options))
    if len(arrays) != len(frames) or any(array.shape != shape for array in arrays):
        raise ValueError("unexpected shape")
    return arrays


def _to_hu(
    path: FileSource,
    dataset: Any,
    frame: int,
    decoded: NDArray[Any],
    cells: _PixelCells,
    cautions: list[str],
) -> NDArray[np.int16]:
    if cells.contradicts(decoded):
        raise damaged(
            path, f"its values do not reach the high bit that it states ({cells.shift + cells.bits - 1})"
        )
    stored, crowded = cells.values_of(decoded)
    padding = _padding_mask(dataset, decoded, stored, cells)
    if crowded and not (padding is not None and not cells.values_of(decoded[~padding])[1]):
        cautions.append("bits outside of the stored values, an overlay or others, were left out")
    hu = _rescale(path, dataset, frame, stored, padding, cautions)
    if padding is not None and padding.any():
        if float(hu[padding].max()) > _BODY_HU:
            padding = _touching_border(padding)
        hu[padding] = AIR_HU
    if float(hu.max()) > _MAX_HU:
        cautions.append(f"values above {_MAX_HU} HU were cut off")
    np.clip(hu, AIR_HU, _MAX_HU, out=hu)
    filled, caution = fill_with_air(hu.astype(np.int16))
    if caution is not None:
        cautions.append(caution)
    return filled


def _rescale(
    path: FileSource,
    dataset: Any,
    frame: int,
    stored: NDArray[Any],
    padding: NDArray[np.bool_] | None,
    cautions: list[str],
) -> NDArray[Any]:
    if value_of(dataset, "ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        return np.rint(np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64))
    slope = _rescale_number(path, dataset, frame, "RescaleSlope")
    intercept = _rescale_number(path, dataset, frame, "RescaleIntercept")
    if slope is None and intercept is not None:
        cautions.append("no rescale slope; 1 was taken, and the intercept as it stands")
        slope = 1.0
    if slope is None or intercept is None:
        if not _are_hu_as_stored(stored * (slope or 1.0), padding):
            missing = "intercept" if slope is not None else "slope and intercept"
            raise DicomError(
                f"{path.name} gives no rescale {missing}, so its values cannot be turned into HU",
                hint="Export the original images of the scanner.",
            )
        cautions.append(
            "no rescale intercept; values were taken as HU from 0"
            if slope is not None
            else "no rescale slope and intercept; stored values were taken as HU"
        )
        slope, intercept = slope or 1.0, 0.0
    if slope == 0:
        raise damaged(path, "its rescale slope is 0")
    if abs(slope) > _COARSE_HU:
        cautions.append(f"stored values are {abs(slope):.3g} HU apart")
    if slope.is_integer() and intercept.is_integer() and abs(slope) < 1024 and abs(intercept) < 2**30:
        return (stored if slope == 1 else stored * int(slope)) + int(intercept)
    return np.rint(stored.astype(np.float64) * slope + intercept)


def _rescale_number(path: FileSource, dataset: Any, frame: int, keyword: str) -> float | None:
    """Read a rescale number; None where it is missing or empty, an error where it is none."""
    group = "PixelValueTransformationSequence"
    number = number_of(functional_value(dataset, frame, group, keyword))
    if number is None and is_malformed(dataset, frame, group, keyword):
        tag, vr = ("(0028,1053)", "DS") if keyword == "RescaleSlope" else ("(0028,1052)", "DS")
        raise damaged(path, f"{keyword} {tag}, {vr}, is no number")
    return number


def _are_hu_as_stored(values: NDArray[Any], padding: NDArray[np.bool_] | None) -> bool:
    """Tell whether values are HU already: air around the body lies near -1000, and only padding below."""
    inside = values if padding is None else values[~padding]
    inside = inside[inside > _BELOW_AIR_HU]
    # The lowest value alone may be padding too.
    inside = inside[inside > inside.min()] if inside.size else inside
    return bool(inside.size) and float(inside.min()) < _FAT_HU


def _padding_mask(
    dataset: Any, decoded: NDArray[Any], stored: NDArray[Any], cells: _PixelCells
) -> NDArray[np.bool_] | None:
    value = number_of(value_of(dataset, "PixelPaddingValue"))
    if value is None:
        return None
    limit = number_of(value_of(dataset, "PixelPaddingRangeLimit"))
    mask: NDArray[np.bool_] = np.zeros(stored.shape, dtype=np.bool_)
    # Padding is a stored value, but some writers leave it in the whole cell, beyond the stored bits.
    for array in (stored.astype(decoded.dtype), *((decoded,) if cells.shift == 0 else ())):
        ends = sorted(_as_stored(v, array) for v in (value, value if limit is None else limit))
        mask |= (array >= ends[0]) & (array <= ends[1])
    return mask


def _as_stored(value: float, stored: NDArray[Any]) -> int:
    # Whether padding was written as signed or unsigned depends on the writer; only its bits count.
    info = np.iinfo(stored.dtype)
    number = int(value)
    if info.min <= number <= info.max:
        return number
    span = 1 << info.bits
    return (number - int(info.min)) % span + int(info.min)


def _touching_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    touching: NDArray[np.bool_] = mask & np.isin(labels, np.unique(edges[edges > 0]))
    return touching


def _lossy_cautions(dataset: Any) -> list[str]:
    from pydicom.uid import JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

    lossy_syntaxes = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless}
    flagged = str(value_of(dataset, "LossyImageCompression") or "") == "01"
    # Plain JPEG 2000 may be reversible; only the flag tells.
    if flagged or dataset.file_meta.TransferSyntaxUID in lossy_syntaxes:
        return ["the image was compressed with loss"]
    return (
        ["the image may have been compressed with loss"]
        if (dataset.file_meta.TransferSyntaxUID == JPEG2000)
        else []
    )


def _cause(dataset: Any, error: BaseException) -> str:
    syntax = value_of(getattr(dataset, "file_meta", {}), "TransferSyntaxUID")
    name = syntax.name if valid_uid(syntax) else "unknown"
    if isinstance(error, NotImplementedError) or not getattr(syntax, "is_transfer_syntax", True):
        return f"its transfer syntax is not supported ({name})"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, AttributeError):
        return "its header lacks what is needed to decode the pixels"
    if getattr(syntax, "is_compressed", False):
        return f"truncated or damaged pixel data, or another encoding than declared ({name})"
    return f"its pixel data cannot be decoded ({type(error).__name__})"
