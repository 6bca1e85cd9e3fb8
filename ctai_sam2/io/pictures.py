"""PNG and JPEG slices: grey values with a stated window and spacing."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.files.folders import require_file, unreadable_file
from ctai_sam2.image.padding import fill_with_air
from ctai_sam2.image.plausibility import LIMITS, require_plausible_spacing
from ctai_sam2.io.dicom_headers import MAX_IMAGE_SIDE, MemoryFile
from ctai_sam2.io.library_messages import quiet
from ctai_sam2.types import CTSlice, Plane, Window

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_picture(
    path: str | os.PathLike[str],
    *,
    window: Window | None,
    spacing_mm: Sequence[float] | None,
    plane: Plane = "axial",
) -> CTSlice:
    """Read a grey picture of a CT slice, in display orientation already.

    Parameters
    ----------
    path : path-like
        PNG or JPEG, 8 or 16 bit, grey; colour only if all channels are equal.
    window : Window
        What black and white stand for: 0 is ``low_hu``, the largest value (255 or 65535) ``high_hu``.
    spacing_mm : sequence of 2 floats
        (row spacing, column spacing).
    plane : {"axial", "sagittal", "coronal"}
        What the picture shows.

    Returns
    -------
    CTSlice
        float32 HU between the window's ends, with a warning that everything outside was cut off.

    Raises
    ------
    InputError
        If window or spacing is missing, or the picture is damaged, coloured or too large.
    GeometryError
        If no CT has this spacing.
    """
    path = Path(path)
    if window is None or spacing_mm is None:
        missing = " and ".join(
            name for name, value in (("window", window), ("spacing_mm", spacing_mm)) if value is None
        )
        raise InputError(
            f"not specified: {missing}. A picture says neither what its grey values mean in HU"
            " nor how large a pixel is",
            hint="For example window=Window(level=40, width=400), spacing_mm=(0.8, 0.8);"
            " better give the DICOM file.",
        )
    grey, largest = read_grey_values(path)
    require_plausible_spacing(spacing_mm, grey.shape, axial=plane == "axial")
    if plane == "axial" and max(spacing_mm) > LIMITS.axial_spacing_mm:
        raise GeometryError(
            f"pixels of an axial slice are too coarse to measure; {LIMITS.axial_spacing_mm:g} mm at most",
            received=f"{float(spacing_mm[0]):.4g} x {float(spacing_mm[1]):.4g} mm",
            hint="Check the unit of the spacing: it is in mm.",
        )
    hu = (window.low_hu + grey.astype(np.float64) * (window.width / largest)).astype(np.float32)
    # Black around the body would be tissue; that the window cut it off is said below.
    hu, _ = fill_with_air(hu)
    warnings = [f"HU outside {window.low_hu:g} to {window.high_hu:g} were cut off by the picture's window"]
    step = window.width / largest
    if step > 1:
        warnings.append(f"grey values are {step:.2g} HU apart")
    if path.suffix.lower() != ".png":
        warnings.append("the image was compressed with loss")
    return CTSlice(
        hu=hu,
        spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1])),
        plane=plane,
        warnings=tuple(warnings),
    )


def read_grey_values(
    path: Path | MemoryFile, *, max_pixels: int = MAX_IMAGE_SIDE * MAX_IMAGE_SIDE
) -> tuple[NDArray[Any], int]:
    """Read a grey picture as it is.

    Parameters
    ----------
    path : Path or MemoryFile
        PNG or JPEG; colour only if all channels are equal.
    max_pixels : int
        Pixels above which it is refused by its header, before anything is decoded.

    Returns
    -------
    grey : ndarray of uint8 or uint16, shape (H, W)
        The picture.
    largest : int
        The value of white, 255 or 65535.

    Raises
    ------
    InputError
        If the picture is missing, damaged, coloured or too large.
    """
    with open_picture(path, max_pixels=max_pixels) as image:
        array = _array_of(image)
    if array.ndim == 3:
        if array.shape[2] in (2, 4):  # an alpha channel says nothing of HU
            array = array[..., :-1]
        if not (array == array[..., :1]).all():
            raise InputError(
                f"{path.name} is coloured",
                hint="Grey values can be turned into HU, colours cannot: export without overlays.",
            )
        array = array[..., 0]
    largest = 65535 if array.dtype == np.uint16 else 255
    return array, largest


@contextmanager
def open_picture(
    path: Path | MemoryFile, *, max_pixels: int = MAX_IMAGE_SIDE * MAX_IMAGE_SIDE
) -> Iterator[Any]:
    """Open a PNG or JPEG picture of a size that a CT slice can have, and check it; yields the Pillow image.

    Parameters
    ----------
    path : Path or MemoryFile
        The picture.
    max_pixels : int
        Pixels above which it is refused by its header, before anything is decoded.

    Raises
    ------
    InputError
        If the picture is missing, damaged or too large, also where that shows while it is used.
    """
    from PIL import Image

    if isinstance(path, Path):
        require_file(path)
    try:
        with (
            quiet("PIL"),
            path.open("rb") as file,
            Image.open(file, formats=("PNG", "JPEG")) as image,
        ):
            if max(image.size) > MAX_IMAGE_SIDE or image.size[0] * image.size[1] > max_pixels:
                raise InputError(
                    f"{path.name} is larger than a CT slice can be",
                    received=f"{image.size[0]} x {image.size[1]} pixels",
                )
            if image.format == "PNG":
                place = file.tell()
                file.seek(0)
                _require_whole_png(path.name, file.read())
                file.seek(place)
            yield image
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{path.name} is larger than a CT slice can be") from error
    except PermissionError as error:
        raise unreadable_file(path.name, error) from error
    except Exception as error:  # Pillow's decoders raise many kinds
        raise InputError(
            f"{path.name} is not a readable PNG or JPEG picture ({type(error).__name__})",
            hint="It may be truncated, or something else under this name.",
        ) from error


def _require_whole_png(name: str, data: bytes) -> None:
    """Hold each chunk of a PNG file against its checksum; Pillow stops at the last row of pixels."""
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 8 + size
        if int.from_bytes(data[end : end + 4], "big") != zlib.crc32(data[at + 4 : end]):
            break
        if kind == b"IEND":
            return
        at = end + 4
    raise InputError(
        f"{name} is not a readable PNG or JPEG picture (damaged or cut off)",
        hint="Copy or export it again.",
    )


def _array_of(image: Any) -> NDArray[Any]:
    if image.mode == "P":
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    array = np.asarray(image)
    if array.dtype == np.uint8:
        return array
    # Pillow gives 16-bit PNG as 16- or, in older releases, as 32-bit integers.
    if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 65535:
        return array.astype(np.uint16)
    raise InputError("the picture holds neither 8- nor 16-bit grey values", received=str(image.mode))
