"""Pictures of a slice with its masks, for people to check."""

from __future__ import annotations

import functools
import importlib.util
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from ctai_sam2.errors import InputError
from ctai_sam2.files.atomic import write_bytes
from ctai_sam2.geometry import slice_letters
from ctai_sam2.image.distances import box_of
from ctai_sam2.image.windowing import SOFT_TISSUE, window_to_uint8
from ctai_sam2.structures import COLORS, PALETTE, rgb_of
from ctai_sam2.types import CTSlice, Window

_BAR_LENGTHS_MM = (100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0)
_WIDTH_PX = 840
_HEIGHTS_PX = (240, 1440)
_TITLE_PX, _EDGE_PX = 48, 12
_LEGEND_COLUMNS = 3
_LEGEND_ROW_PX = 36
_FILL = 0.28
_OUTLINE_PX = 2.2
_FINER = 2
"""Outlines are drawn so many times larger and averaged, which smooths their steps."""
_PNG_LEVEL = 2
"""Of 9: a fifth larger than the usual 6, in a fifth of the time."""


def write_overlay_png(
    path: str | os.PathLike[str],
    slice: CTSlice,
    masks: Mapping[str, ArrayLike],
    *,
    window: Window = SOFT_TISSUE,
    title: str | None = None,
    labels: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Path:
    """Write the slice in grey with outlined, lightly filled masks; returns the path.

    The picture has true proportions in mm, a legend, a scale bar and the
    letters of the patient's directions.

    Parameters
    ----------
    path : path-like
        Ending in ``.png``.
    slice : CTSlice
        What to show.
    masks : mapping of str to array_like of bool, shape (H, W)
        By structure; later ones are drawn over earlier ones. An empty mask is named in the legend only.
    window : Window
        Grey window.
    title : str, optional
        Drawn above; never pass anything that names a patient.
    labels : mapping of str to str, optional
        Legend text by structure, for example with its area.
    colours : mapping of str to str, optional
        ``#RRGGBB`` by structure; else `COLORS`, else the next free of `PALETTE`.

    Raises
    ------
    InputError
        If a mask has another shape than the slice, or the name has another ending.
    StorageError
        If it cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise InputError("an overlay's name ends in .png", received=Path(path).suffix or "no ending")
    checked = {name: _checked_mask(name, mask, slice) for name, mask in masks.items()}
    chosen = choose_colours(list(checked), colours)
    texts = {name: (labels or {}).get(name, name.replace("_", " ")) for name in checked}
    return write_bytes(path, _render(slice, checked, chosen, texts, window, title))


def choose_colours(names: list[str], wanted: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give every structure a colour of its own, as far as there are enough.

    Examples
    --------
    >>> choose_colours(["muscle", "other"])
    {'muscle': '#E69F00', 'other': '#56B4E9'}
    """
    fixed = {**COLORS, **(wanted or {})}
    result = {name: fixed.get(name, fixed.get(name.lower(), "")) for name in names}
    free = [colour for colour in PALETTE if colour not in result.values()]
    for count, name in enumerate(name for name in names if not result[name]):
        result[name] = (free or list(PALETTE))[count % len(free or PALETTE)]
    return result


def _checked_mask(name: str, mask: ArrayLike, slice: CTSlice) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.shape != slice.shape_hw:
        raise InputError(
            f"the mask {name} must be a boolean array of the slice's shape",
            received=f"{array.dtype} of shape {array.shape} for {slice.shape_hw}",
        )
    return array


def _render(
    slice: CTSlice,
    masks: Mapping[str, NDArray[np.bool_]],
    colours: Mapping[str, str],
    texts: Mapping[str, str],
    window: Window,
    title: str | None,
) -> bytes:
    rgb = {name: _rgb(colours[name]) for name in masks}
    picture = _draw_slice(slice, masks, rgb, window)
    high = min(max(picture.height, _HEIGHTS_PX[0]), _HEIGHTS_PX[1])
    above = _TITLE_PX if title else _EDGE_PX
    below = _LEGEND_ROW_PX // 2 + _LEGEND_ROW_PX * -(-len(masks) // _LEGEND_COLUMNS)
    sheet = Image.new("RGB", (_WIDTH_PX, above + high + below))
    sheet.paste(picture, ((_WIDTH_PX - picture.width) // 2, above + (high - picture.height) // 2))
    if title:
        pen = ImageDraw.Draw(sheet)
        pen.text((_WIDTH_PX / 2, above / 2), title, "white", _font(18), anchor="mm")
    entries = [
        (texts[name] if mask.any() else f"{texts[name]} (empty)", rgb[name]) for name, mask in masks.items()
    ]
    _draw_legend(sheet, entries, above + high + _LEGEND_ROW_PX / 4)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def _draw_slice(
    slice: CTSlice,
    masks: Mapping[str, NDArray[np.bool_]],
    rgb: Mapping[str, tuple[int, int, int]],
    window: Window,
) -> Image.Image:
    """Draw the slice in true proportions with masks, scale bar and directions."""
    height_mm, width_mm = (n * mm for n, mm in zip(slice.shape_hw, slice.spacing_mm, strict=True))
    per_mm = min(_WIDTH_PX / width_mm, _HEIGHTS_PX[1] / height_mm)
    size = max(round(width_mm * per_mm), 1), max(round(height_mm * per_mm), 1)
    filled = Image.fromarray(_filled(window_to_uint8(slice.hu, window), masks, rgb))
    picture = filled.resize(size, Image.Resampling.BILINEAR)
    for name, mask in masks.items():
        _draw_outline(picture, mask, rgb[name])
    _draw_scale_bar(picture, width_mm, per_mm)
    _draw_letters(picture, slice)
    return picture


def _filled(
    grey: NDArray[np.uint8],
    masks: Mapping[str, NDArray[np.bool_]],
    rgb: Mapping[str, tuple[int, int, int]],
) -> NDArray[np.uint8]:
    """Color the masks (H, W) of a slice, later ones over earlier ones; returns (H, W, 3)."""
    picture = np.repeat(grey[:, :, None], 3, axis=2).astype(np.float32)
    for name, mask in masks.items():
        below = picture[mask]
        picture[mask] = below + _FILL * (np.array(rgb[name], np.float32) - below)
    return np.rint(picture).astype(np.uint8)


def _draw_outline(picture: Image.Image, mask: NDArray[np.bool_], rgb: tuple[int, int, int]) -> None:
    from contourpy import contour_generator

    box = box_of(mask)
    if box is None:
        return
    # A border of background closes outlines that reach the edge of the picture.
    padded = np.pad(mask[box], 1).astype(np.float32)
    corner, ends, places = [], [], []
    for part, count, pixels in zip(box, mask.shape, (picture.height, picture.width), strict=True):
        each = pixels / count
        corner.append(int(part.start * each - _OUTLINE_PX))
        ends.append(int(part.stop * each + _OUTLINE_PX) + 1)
        places.append((np.arange(part.start - 0.5, part.stop + 1.0) * each - corner[-1]) * _FINER)
    (top, left), (bottom, right) = corner, ends
    stencil = Image.new("L", (_FINER * (right - left), _FINER * (bottom - top)))
    pen = ImageDraw.Draw(stencil)
    lines: Any = contour_generator(places[1], places[0], padded).lines(0.5)
    for line in lines:
        pen.line(line.ravel().tolist(), fill=255, width=round(_FINER * _OUTLINE_PX))
    picture.paste(rgb, (left, top, right, bottom), stencil.reduce(_FINER))


def _draw_scale_bar(picture: Image.Image, width_mm: float, per_mm: float) -> None:
    length = next((mm for mm in _BAR_LENGTHS_MM if mm <= width_mm / 4), _BAR_LENGTHS_MM[-1])
    wide, high = picture.size
    left, y = 0.03 * wide, high - 0.04 * max(high, 0.5 * wide)
    pen = ImageDraw.Draw(picture)
    pen.line([left, y, left + length * per_mm, y], fill="white", width=4)
    _write(pen, (left, y - 0.012 * wide), f"{length / 10:g} cm", _font(15), "ld")


def _draw_letters(picture: Image.Image, slice: CTSlice) -> None:
    pen = ImageDraw.Draw(picture)
    places = ((0.015, 0.5, "lm"), (0.985, 0.5, "rm"), (0.5, 0.015, "ma"), (0.5, 0.985, "md"))
    for letter, (x, y, anchor) in zip(slice_letters(slice), places, strict=True):
        _write(pen, (x * picture.width, y * picture.height), letter, _font(20, bold=True), anchor)


def _write(pen: Any, at_xy: tuple[float, float], text: str, font: Any, anchor: str) -> None:
    # White text stays legible over bone and contrast agent.
    pen.text(at_xy, text, "white", font, anchor=anchor, stroke_width=2, stroke_fill="black")


def _draw_legend(sheet: Image.Image, entries: list[tuple[str, tuple[int, int, int]]], top: float) -> None:
    """Write colored boxes with their texts in columns of one width, centered."""
    if not entries:
        return
    pen, font = ImageDraw.Draw(sheet), _font(17)
    columns = min(_LEGEND_COLUMNS, len(entries))
    wide = min(_WIDTH_PX / columns, max(font.getlength(text) for text, _ in entries) + 80)
    for place, (text, rgb) in enumerate(entries):
        row, column = divmod(place, columns)
        x = _WIDTH_PX / 2 + (column - columns / 2) * wide
        y = top + (row + 0.5) * _LEGEND_ROW_PX
        fill = tuple(round(_FILL * part) for part in rgb)
        pen.rectangle([x + 12, y - 6, x + 45, y + 6], fill=fill, outline=rgb)
        pen.text((x + 57, y), text, "white", font, anchor="lm")


@functools.cache
def _font(size_px: int, *, bold: bool = False) -> Any:
    """Return matplotlib's own typeface, without an import of matplotlib; Pillow's has no ²."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        with suppress(OSError):  # a system's own matplotlib has its fonts elsewhere
            fonts = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf"
            return ImageFont.truetype(str(fonts / name), size_px)
    return ImageFont.load_default(size_px)


def _rgb(colour: str) -> tuple[int, int, int]:
    try:
        return rgb_of(colour)
    except ValueError as error:
        raise InputError("not a colour", received=colour, hint="Give #RRGGBB.") from error
