"""From a DICOM file's pixel data to Hounsfield units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import CtaiError, DicomError
from ctai_sam2.io.dicom_headers import (
    FileSource,
    damaged,
    functional_value,
    number_of,
    read_dataset,
    value_of,
)
from ctai_sam2.io.library_messages import quiet

AIR_HU = -1024
"""Padding and everything below become this: outside the scanned circle there is nothing to measure."""

_BODY_HU = -500.0
"""Padding above this could be tissue of the same value, so only padding that touches the border counts."""

_COARSE_HU = 1.5
"""Steps of stored values beyond this are worth a warning."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedFile:
    """Frames of one file in HU.

    Parameters
    ----------
    frames : list of ndarray, int16, shape (H, W)
        In the order asked for.
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
            _require_enough_bytes(path, dataset)
            if _codestream_is_signed(dataset) and value_of(dataset, "PixelRepresentation") == 0:
                # The numbers in the JPEG 2000 stream are negative whatever the header says; read as
                # unsigned they would come out near 65535.
                dataset.PixelRepresentation = 1
                cautions.append(
                    "the header and the JPEG 2000 stream disagree on signed values; the stream was taken"
                )
            arrays = _decode(dataset, frames)
            if caught:
                cautions.append("irregular encoding was tolerated while decoding")
            converted = [
                _to_hu(path, dataset, frame, array, cautions)
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


def implausible_values(hu: NDArray[Any]) -> list[str]:
    """Warn where no body could have these values: no fat below -50 HU, or nothing above 0 HU.

    Examples
    --------
    >>> implausible_values(np.array([0, 128, 255]))
    ['values from 0 to 255 do not look like Hounsfield units: HU limits will not fit']
    >>> implausible_values(np.array([-1024, 60]))
    []
    """
    low, high = int(hu.min()), int(hu.max())
    if low >= -50 or high <= 0:
        return [f"values from {low} to {high} do not look like Hounsfield units: HU limits will not fit"]
    return []


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


def _require_enough_bytes(path: FileSource, dataset: Any) -> None:
    # Before anything is allocated: a damaged header may declare gigabytes.
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        return
    count = int(number_of(value_of(dataset, "NumberOfFrames")) or 1)
    expected = dataset.Rows * dataset.Columns * count * int(dataset.BitsAllocated) // 8
    if len(dataset.PixelData) < expected:
        raise damaged(path, f"truncated pixel data, {len(dataset.PixelData)} of {expected} bytes are there")


def _codestream_is_signed(dataset: Any) -> bool:
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import get_j2k_parameters
    from pydicom.uid import JPEG2000TransferSyntaxes

    if dataset.file_meta.TransferSyntaxUID not in JPEG2000TransferSyntaxes:
        return False
    count = int(number_of(value_of(dataset, "NumberOfFrames")) or 1)
    stream = get_frame(dataset.PixelData, 0, number_of_frames=count)
    return bool(get_j2k_parameters(stream).get("is_signed", False))


def _decode(dataset: Any, frames: Sequence[int]) -> list[NDArray[Any]]:
    from pydicom.pixels.utils import iter_pixels

    shape = (int(dataset.Rows), int(dataset.Columns))
    arrays = [np.array(array) for array in iter_pixels(dataset, indices=list(frames))]
    if len(arrays) != len(frames) or any(array.shape != shape for array in arrays):
        raise ValueError("unexpected shape")
    return arrays


def _to_hu(
    path: FileSource, dataset: Any, frame: int, stored: NDArray[Any], cautions: list[str]
) -> NDArray[np.int16]:
    padding = _padding_mask(dataset, stored)
    hu = _rescale(path, dataset, frame, stored, cautions)
    if padding is not None and padding.any():
        if float(hu[padding].max()) > _BODY_HU:
            padding = _touching_border(padding)
        hu[padding] = AIR_HU
    np.clip(hu, AIR_HU, 32767, out=hu)
    return hu.astype(np.int16)


def _rescale(
    path: FileSource, dataset: Any, frame: int, stored: NDArray[Any], cautions: list[str]
) -> NDArray[Any]:
    if value_of(dataset, "ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        return np.rint(np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64))
    group = "PixelValueTransformationSequence"
    slope = number_of(functional_value(dataset, frame, group, "RescaleSlope"))
    intercept = number_of(functional_value(dataset, frame, group, "RescaleIntercept"))
    if slope is None or intercept is None:
        if int(stored.min()) >= 0:
            raise DicomError(
                f"{path.name} gives no rescale slope and intercept, so its values cannot be turned into HU",
                hint="Export the original images of the scanner.",
            )
        cautions.append("no rescale slope and intercept; stored values were taken as HU")
        slope, intercept = 1.0, 0.0
    if slope == 0:
        raise damaged(path, "its rescale slope is 0")
    if abs(slope) > _COARSE_HU:
        cautions.append(f"stored values are {abs(slope):.3g} HU apart")
    if slope.is_integer() and intercept.is_integer() and abs(slope) < 32768 and abs(intercept) < 2**30:
        return stored.astype(np.int32) * int(slope) + int(intercept)
    return np.rint(stored.astype(np.float64) * slope + intercept)


def _padding_mask(dataset: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    value = number_of(value_of(dataset, "PixelPaddingValue"))
    if value is None:
        return None
    limit = number_of(value_of(dataset, "PixelPaddingRangeLimit"))
    ends = sorted(_as_stored(v, stored) for v in (value, value if limit is None else limit))
    mask: NDArray[np.bool_] = (stored >= ends[0]) & (stored <= ends[1])
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
    name = getattr(syntax, "name", str(syntax))
    if isinstance(error, NotImplementedError) or not getattr(syntax, "is_transfer_syntax", True):
        return f"its transfer syntax is not supported ({name})"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, AttributeError):
        return "its header lacks what is needed to decode the pixels"
    if getattr(syntax, "is_compressed", False):
        return f"truncated or damaged pixel data, or another encoding than declared ({name})"
    return f"its pixel data cannot be decoded ({type(error).__name__})"
