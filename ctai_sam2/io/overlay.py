"""Pictures of a slice with its masks, for people to check."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.files.atomic import write_bytes
from ctai_sam2.geometry import slice_letters
from ctai_sam2.image.windowing import SOFT_TISSUE, window_to_uint8
from ctai_sam2.structures import COLORS, PALETTE
from ctai_sam2.types import CTSlice, Window

_BAR_LENGTHS_MM = (100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0)
_FILL = 0.28
_DPI = 120
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
    # Figures are made without pyplot, which keeps state for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    height_mm = slice.shape_hw[0] * slice.spacing_mm[0]
    width_mm = slice.shape_hw[1] * slice.spacing_mm[1]
    width_inch = 7.0
    image_height = min(max(width_inch * height_mm / width_mm, 2.0), 12.0)
    columns = 3
    legend_rows = -(-len(masks) // columns)
    below = 0.15 + 0.3 * legend_rows
    above = 0.4 if title else 0.1
    total = image_height + below + above
    figure = Figure(figsize=(width_inch, total), dpi=_DPI, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, below / total, 1.0, image_height / total))
    axes.set_axis_off()
    # Axes in mm, so that unequal spacing shows true proportions.
    extent = (0.0, width_mm, height_mm, 0.0)
    # One picture of all: matplotlib would resample each layer by itself, at the size of the paper.
    axes.imshow(_filled(window_to_uint8(slice.hu, window), masks, colours), extent=extent)
    for name, mask in masks.items():
        if mask.any():
            _draw_outline(axes, mask, colours[name], slice.spacing_mm)
    axes.set_xlim(0.0, width_mm)
    axes.set_ylim(height_mm, 0.0)
    axes.set_aspect("equal")
    _draw_scale_bar(axes, width_mm, height_mm)
    _draw_letters(axes, slice)
    if title:
        figure.text(0.5, 1 - 0.2 / total, title, color="white", ha="center", va="center", fontsize=11)
    if masks:
        handles = [
            Patch(
                facecolor=(*_rgb(colours[name]), _FILL),
                edgecolor=colours[name],
                label=texts[name] if mask.any() else f"{texts[name]} (empty)",
            )
            for name, mask in masks.items()
        ]
        figure.legend(
            handles=handles,
            loc="lower center",
            ncols=min(columns, len(handles)),
            frameon=False,
            labelcolor="white",
            fontsize=10,
        )
    buffer = io.BytesIO()
    options = {"compress_level": _PNG_LEVEL}
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="black", pil_kwargs=options)
    return buffer.getvalue()


def _filled(
    grey: NDArray[np.uint8], masks: Mapping[str, NDArray[np.bool_]], colours: Mapping[str, str]
) -> NDArray[np.uint8]:
    """Color the masks (H, W) of a slice, later ones over earlier ones; returns (H, W, 3)."""
    picture = np.repeat(grey[:, :, None], 3, axis=2).astype(np.float32)
    for name, mask in masks.items():
        picture[mask] += _FILL * (np.float32(255) * np.array(_rgb(colours[name]), np.float32) - picture[mask])
    return np.rint(picture).astype(np.uint8)


def _draw_outline(axes: Any, mask: NDArray[np.bool_], colour: str, spacing_mm: tuple[float, float]) -> None:
    from contourpy import contour_generator
    from matplotlib.collections import LineCollection

    # A border of background closes outlines that reach the edge of the picture.
    padded = np.pad(mask.astype(np.float32), 1)
    rows = (np.arange(padded.shape[0]) - 0.5) * spacing_mm[0]
    columns = (np.arange(padded.shape[1]) - 0.5) * spacing_mm[1]
    # What axes.contour does, without its color bars and norms: half of the time of a picture.
    lines: Any = contour_generator(columns, rows, padded).lines(0.5)
    axes.add_collection(LineCollection(lines, colors=[colour], linewidths=1.3), autolim=False)


def _draw_scale_bar(axes: Any, width_mm: float, height_mm: float) -> None:
    length = next((mm for mm in _BAR_LENGTHS_MM if mm <= width_mm / 4), _BAR_LENGTHS_MM[-1])
    left, y = 0.03 * width_mm, height_mm - 0.04 * max(height_mm, 0.5 * width_mm)
    axes.plot([left, left + length], [y, y], color="white", linewidth=2.5, solid_capstyle="butt")
    axes.text(
        left,
        y - 0.012 * width_mm,
        f"{length / 10:g} cm",
        color="white",
        fontsize=9,
        ha="left",
        va="bottom",
        path_effects=_halo(),
    )


def _draw_letters(axes: Any, slice: CTSlice) -> None:
    places = (
        (0.015, 0.5, "left", "center"),
        (0.985, 0.5, "right", "center"),
        (0.5, 0.985, "center", "top"),
        (0.5, 0.015, "center", "bottom"),
    )
    for letter, (x, y, horizontal, vertical) in zip(slice_letters(slice), places, strict=True):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            color="white",
            fontsize=12,
            fontweight="bold",
            ha=horizontal,
            va=vertical,
            path_effects=_halo(),
        )


def _halo() -> list[Any]:
    # White text stays legible over bone and contrast agent.
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="black")]


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    try:
        return to_rgb(colour)
    except ValueError as error:
        raise InputError("not a colour", received=colour, hint="Give #RRGGBB.") from error
