"""Masks from pictures: PNG and JPEG with palette, transparency or orientation, as a viewer shows them.

A picture holds a mask in one of a few ways: white on black, labels as grey values, labels as a palette's
indices, or a layer that is transparent outside. What could be two masks is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.image.label_values import as_labels, soft_edge_problem
from ctai_sam2.io.pictures import open_picture
from ctai_sam2.types import Mask

MASK_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
_BITS_AT, _COLOR_TYPE_AT = 24, 25  # of a PNG's first chunk (ISO/IEC 15948, 11.2.2)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelPicture:
    """Labels of a picture.

    Parameters
    ----------
    labels : ndarray of uint16, shape (H, W)
        0 is background; a black-and-white picture holds 0 and 1.
    notes : tuple of str
        How the picture was understood, where there was more than one way.
    description : str, optional
        What the header says of how the mask was made.
    """

    labels: NDArray[np.uint16]
    notes: tuple[str, ...] = ()
    description: str | None = None


def read_mask_png(path: str | os.PathLike[str]) -> Mask:
    """Read a picture of one mask.

    Parameters
    ----------
    path : path-like
        PNG, or a JPEG without shades: black and one other value, or transparent outside.

    Returns
    -------
    ndarray of bool, shape (H, W)
        As the picture is shown.

    Raises
    ------
    InputError
        If the picture is damaged, has soft edges, several labels or colors, or could mean two masks.
    """
    picture = read_label_picture(path)
    present = np.unique(picture.labels[picture.labels > 0])
    if present.size > 1:
        raise InputError(
            f"{Path(path).name} holds several labels, not one mask",
            received=", ".join(str(int(label)) for label in present[:8]),
            hint="Import it, which gives a mask for each label.",
        )
    return np.asarray(picture.labels > 0)


def read_label_picture(path: str | os.PathLike[str], *, has_names: bool = False) -> LabelPicture:
    """Read a picture as labels.

    Parameters
    ----------
    path : path-like
        PNG or JPEG.
    has_names : bool
        Whether a table says what the values mean; then any values are labels.

    Raises
    ------
    InputError
        If the picture is missing, damaged or too large, has soft edges or several colors, or could mean
        two masks.
    """
    path = Path(path)
    values, white, notes, description = _shown_values(path)
    labels = as_labels(values, what=path.name)
    present = np.unique(labels)
    if has_names and path.suffix.lower() == ".png":
        return LabelPicture(labels=labels, notes=notes, description=description)
    if present.size == 2 and present[0] == 0 and present[1] == white:
        return LabelPicture(labels=(labels > 0).astype(np.uint16), notes=notes, description=description)
    if path.suffix.lower() != ".png" and present.size > 2:
        raise InputError(
            f"{path.name} was compressed with loss, which blurs a mask's edge",
            received=f"{present.size} grey values",
            hint="Save the mask as PNG.",
        )
    problem = soft_edge_problem(labels, white=white)
    if problem is not None:
        raise InputError(f"{path.name}: {problem.problem}", received=problem.received, hint=problem.hint)
    return LabelPicture(labels=labels, notes=notes, description=description)


def _shown_values(path: Path) -> tuple[NDArray[Any], int, tuple[str, ...], str | None]:
    """Values of the pixels as shown, the value of white, notes, and the header's description."""
    from PIL import ImageOps

    with open_picture(path) as image:
        with path.open("rb") as file:
            head = file.read(_COLOR_TYPE_AT + 1)
        if getattr(image, "n_frames", 1) > 1:
            raise InputError(f"{path.name} holds several pictures", hint="Save the mask as one plain PNG.")
        image.load()
        turned = image.getexif().get(0x0112, 1) not in (0, 1)
        shown = ImageOps.exif_transpose(image) if turned else image
        values, white, notes = _values_of(path, shown, head)
        stated = image.info.get("Description")
        description = stated if isinstance(stated, str) else None
    if turned:
        notes = (*notes, f"{path.name} was turned as its orientation tag says")
    return values, white, notes, description


def _values_of(path: Path, image: Any, head: bytes) -> tuple[NDArray[Any], int, tuple[str, ...]]:
    is_png = head.startswith(_PNG_SIGNATURE)
    bits = head[_BITS_AT] if is_png and len(head) > _BITS_AT else 8
    is_grey = is_png and head[_COLOR_TYPE_AT] == 0
    if bits == 16 and not is_grey:
        # Pillow would drop the lower eight bits of every value.
        raise InputError(
            f"{path.name} holds 16 bits per color or transparency, which would be cut to 8",
            hint="Save the mask as a grey PNG, or with 8 bits.",
        )
    if image.mode == "CMYK":
        raise InputError(f"{path.name} is in printing colors (CMYK)", hint="Save the mask as a grey PNG.")
    if image.mode in ("I", "I;16", "I;16B", "I;16L") and "transparency" not in image.info:
        return np.asarray(image), 65535, ()
    if image.mode == "P":
        indices, palette = np.asarray(image), _palette_of(image)
        colors = palette[np.unique(indices)]
        opaque = colors[:, 3] == 255
        grey = bool((colors[:, 0] == colors[:, 1]).all() and (colors[:, 1] == colors[:, 2]).all())
        if opaque.all() and not grey:
            return _indices_as_labels(path, indices, palette), 255, ()
        return _grey_of(path, palette[indices])
    if image.mode in ("1", "L") and "transparency" not in image.info:
        values = np.asarray(image.convert("L"))
        if is_grey and bits in (2, 4):
            # Pillow spreads them over 0 to 255; the file's own values are the labels.
            values = values // (255 // (2**bits - 1))
            return values, 2**bits - 1, ()
        return values, 255, ()
    return _grey_of(path, np.asarray(image.convert("RGBA")))


def _palette_of(image: Any) -> NDArray[np.uint8]:
    """Color of each index, (256, 4)."""
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 3] = 255
    colors = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    palette[: len(colors), :3] = colors
    stated = image.info.get("transparency")
    if isinstance(stated, bytes):
        palette[: len(stated), 3] = np.frombuffer(stated[:256], np.uint8)
    elif isinstance(stated, int) and 0 <= stated < 256:
        palette[stated, 3] = 0
    return palette


def _indices_as_labels(path: Path, indices: NDArray[Any], palette: NDArray[np.uint8]) -> NDArray[Any]:
    """Return a colored palette's indices, which are labels where index 0 is black."""
    if palette[0, :3].any():
        raise InputError(
            f"{path.name} is colored, and which color is the background is not clear",
            hint="Export labels as grey values, or with a palette whose first color is black.",
        )
    return indices


def _grey_of(path: Path, rgba: NDArray[np.uint8]) -> tuple[NDArray[Any], int, tuple[str, ...]]:
    """Values of a picture with three color channels and transparency."""
    alpha = rgba[..., 3]
    steps = np.unique(alpha)
    if not set(steps.tolist()) <= {0, 255}:
        raise InputError(
            f"{path.name} is half transparent in places, so where the mask ends is not clear",
            received=f"{steps.size} steps of transparency",
            hint="Export the mask without soft edges.",
        )
    visible = alpha == 255
    colors = np.unique(rgba[visible][:, :3], axis=0)
    if not visible.all() and len(colors) <= 1:
        # One color and transparency: only the transparency can be the mask.
        return (
            np.where(visible, np.uint8(255), np.uint8(0)),
            255,
            (f"{path.name}: what is not transparent was taken as the mask",),
        )
    colored = colors[colors.any(axis=1)]
    if len(colored) == 1 and len(colors) <= 2:
        shown = visible & rgba[..., :3].any(axis=2)
        grey_value = colored[0]
        if grey_value[0] == grey_value[1] == grey_value[2]:
            return np.where(shown, grey_value[0], np.uint8(0)), 255, ()
        if len(colors) == 1:
            raise InputError(f"{path.name} is one color all over, so it shows no mask")
        return (
            np.where(shown, np.uint8(255), np.uint8(0)),
            255,
            (f"{path.name}: what is not black was taken as the mask",),
        )
    _require_grey(path, colors)
    return np.where(visible, rgba[..., 0], np.uint8(0)), 255, ()


def _require_grey(path: Path, colors: NDArray[np.uint8]) -> None:
    if not (colors == colors[:, :1]).all():
        raise InputError(
            f"{path.name} is colored, and what its colors stand for is not said",
            received=f"{len(colors)} colors",
            hint="Export labels as grey values: 1 for the first structure, 2 for the second.",
        )
