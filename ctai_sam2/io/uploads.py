"""Images that come as bytes from somewhere else: checked before memory is spent on them, never on a disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import CtaiError, DicomError, InputError
from ctai_sam2.image.windowing import SOFT_TISSUE, window_to_uint8
from ctai_sam2.io.codestream import read_codestream_header
from ctai_sam2.io.dicom_headers import FrameHeader, MemoryFile, looks_like_dicom, read_dataset, read_headers
from ctai_sam2.io.dicom_values import number_of, value_of
from ctai_sam2.io.library_messages import quiet
from ctai_sam2.io.pictures import read_grey_values
from ctai_sam2.io.study import slice_of_header
from ctai_sam2.types import Window

UploadKind: TypeAlias = Literal["png", "jpeg", "dicom"]

MAX_UPLOAD_PIXELS = 4096 * 4096
"""Pixels of the largest slice a segmenter takes."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_NAME = "the image"


@dataclass(frozen=True, kw_only=True, eq=False)
class Upload:
    """A decoded image.

    Parameters
    ----------
    kind : {"png", "jpeg", "dicom"}
        What it came as.
    pixels : ndarray of uint8 or int16, shape (H, W)
        Grey values of a picture; Hounsfield units of a DICOM image.
    """

    kind: UploadKind
    pixels: NDArray[Any]

    def to_grey(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Return the grey slice a segmenter takes.

        Parameters
        ----------
        window : Window, optional
            Applied to Hounsfield units, soft tissue when omitted; a picture has its window already.
        """
        if self.kind == "dicom":
            return window_to_uint8(self.pixels, window or SOFT_TISSUE)
        grey: NDArray[np.uint8] = self.pixels
        return grey


def decode_upload(data: bytes, *, max_pixels: int = MAX_UPLOAD_PIXELS) -> Upload:
    """Decode a PNG, JPEG or DICOM image of one slice.

    What a header declares is held against the limit before anything is decoded or allocated, for DICOM also
    what the compressed stream inside declares. Sixteen-bit pictures are scaled linearly to 8 bit.

    Parameters
    ----------
    data : bytes
        The file's content.
    max_pixels : int
        Pixels above which an image is refused.

    Returns
    -------
    Upload
        A DICOM image in display orientation, as `read_slice` gives it.

    Raises
    ------
    InputError
        If it is none of the three, is damaged, coloured or too large, or is a DICOM object that is not one
        CT image in HU. The message holds nothing of the content.
    """
    kind = tell_kind(data)
    file = MemoryFile(name=_NAME, data=data)
    if kind == "dicom":
        try:
            return Upload(kind=kind, pixels=_read_hu(file, max_pixels))
        except InputError:
            raise
        except CtaiError as error:
            raise InputError(error.problem, received=error.received, hint=error.hint) from error
    grey, largest = read_grey_values(file, max_pixels=max_pixels)
    if largest != 255:
        grey = ((grey.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8)
    return Upload(kind=kind, pixels=np.ascontiguousarray(grey))


def tell_kind(data: bytes) -> UploadKind:
    """Tell PNG, JPEG and DICOM apart by their first bytes.

    Raises
    ------
    InputError
        If it is none of them.

    Examples
    --------
    >>> tell_kind(bytes([0xFF, 0xD8, 0xFF, 0xE0]))
    'jpeg'
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if looks_like_dicom(MemoryFile(name=_NAME, data=data)):
        return "dicom"
    raise InputError(
        "the image is neither PNG, JPEG nor DICOM",
        received=f"{len(data)} bytes of other content" if data else "nothing",
        hint="Send a PNG or JPEG picture of a windowed slice, or a DICOM CT image.",
    )


def _read_hu(file: MemoryFile, max_pixels: int) -> NDArray[np.int16]:
    if _DEFLATED in file.data:
        # Its parser would inflate all of it at once, whatever that comes to.
        raise DicomError("deflated DICOM is not taken", hint="Send it uncompressed.")
    # Frames are counted before headers are made of them: a few bytes may declare any number.
    dataset = read_dataset(file, pixels=False)
    count = number_of(value_of(dataset, "NumberOfFrames")) or 1
    if count != 1:
        raise InputError("the DICOM object holds several images", received=f"{count:.0f} frames")
    header = read_headers(file)[0]
    _require_pixels(header.shape_hw, max_pixels)
    _require_same_size_inside(file, header, max_pixels)
    hu: NDArray[np.int16] = np.ascontiguousarray(slice_of_header(header, spacing_mm=(1.0, 1.0)).hu)
    return hu


def _require_pixels(shape_hw: tuple[int, int], max_pixels: int) -> None:
    if shape_hw[0] * shape_hw[1] > max_pixels:
        raise InputError(
            "the image is larger than a CT slice can be", received=f"{shape_hw[1]} x {shape_hw[0]} pixels"
        )


def _require_same_size_inside(file: MemoryFile, header: FrameHeader, max_pixels: int) -> None:
    if header.refusal is not None:
        return
    from pydicom.encaps import get_frame

    dataset = read_dataset(file, pixels=True)
    syntax = value_of(getattr(dataset, "file_meta", {}), "TransferSyntaxUID")
    if not _is_compressed(syntax) or "PixelData" not in dataset:
        return
    try:
        with quiet("pydicom"):
            stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except Exception as error:  # pydicom raises whatever its parser stumbles over
        raise DicomError("the image's compressed pixel data is damaged") from error
    inside = read_codestream_header(stream)
    if inside is not None and inside.shape_hw != header.shape_hw:
        _require_pixels(inside.shape_hw, max_pixels)
        raise DicomError(
            "the image's compressed stream has another size than its header",
            received=f"{inside.shape_hw} and {header.shape_hw}",
        )


def _is_compressed(syntax: Any) -> bool:
    try:
        return bool(syntax.is_compressed)
    except (AttributeError, ValueError):  # none is named, or none that exists: the reader will say so
        return False
