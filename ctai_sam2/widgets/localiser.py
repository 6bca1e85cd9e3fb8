"""Where an axial slice lies: a small sagittal picture with its line, and L3 where another editor knows it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ctai_sam2 import segmentation
from ctai_sam2.editor import L3, Document
from ctai_sam2.editor.localiser import row_of_axial
from ctai_sam2.editor.replay import restore
from ctai_sam2.errors import CtaiError
from ctai_sam2.image.windowing import PRESETS, window_to_uint8
from ctai_sam2.journal import AnnotationJournal
from ctai_sam2.types import CTVolume

_HEIGHT_PX = 150
_MAX_WIDTH_PX = 210
_kept: list[tuple[CTVolume, str, int]] = []


def draw_localiser(volume: CTVolume, axial_index: int) -> str:
    """HTML of the volume's middle sagittal slice with a line where the axial slice cuts it.

    The page side moves the line by a variable, so that the picture is sent once.
    """
    picture, width = _picture(volume)
    top = line_percent(volume, axial_index)
    return (
        f'<div style="position:relative;width:{width}px;height:{_HEIGHT_PX}px;margin:4px auto">'
        f'<img alt="" src="{picture}" style="width:{width}px;height:{_HEIGHT_PX}px">'
        '<div style="position:absolute;left:0;right:0;border-top:1px solid #F0E442;'
        f'top:var(--ctai-sam2-line, {top:.2f}%)"></div>'
        "</div>"
    )


def line_percent(volume: CTVolume, axial_index: int) -> float:
    """Where an axial slice cuts the localiser, in percent of its height from the top."""
    return round(100 * (row_of_axial(volume, axial_index) + 0.5) / volume.shape_zyx[0], 2)


def known_axial_index(
    volume: CTVolume, folder: Path | None, names: Sequence[str], cases: Mapping[str, object]
) -> int | None:
    """Axial slice through the middle of L3, where the L3 editor's journal of the same case knows it."""
    name = next((name for name in names if cases[name] is volume), None)
    path = None if folder is None or name is None else folder / f"{name}.{L3.name}.record.jsonl"
    if path is None or not path.exists():
        return None
    try:
        document = Document(volume, L3)
        restore(document, AnnotationJournal.peek(path, volume))
    except CtaiError:
        # Of another series, or damaged: the L3 editor says so when it is opened, here it is not needed.
        return None
    outlined = [index for index in document.indices if document.mask("l3", index).any()]
    if not outlined:
        return None
    newest = document.history.done[-1].index if document.history.done else outlined[-1]
    index = newest if newest in outlined else outlined[-1]
    return segmentation.mid_l3_axial_index(volume, document.mask("l3", index))


def _picture(volume: CTVolume) -> tuple[str, int]:
    """Return the picture as a data address and its width; made once for the volume shown last."""
    for known, picture, width in _kept:
        if known is volume:
            return picture, width
    ct_slice = volume.sagittal(volume.shape_zyx[2] // 2)
    grey = window_to_uint8(np.asarray(ct_slice.hu), PRESETS["bone"])
    rows_mm, columns_mm = (n * s for n, s in zip(ct_slice.shape_hw, ct_slice.spacing_mm, strict=True))
    width = min(max(round(_HEIGHT_PX * columns_mm / rows_mm), 20), _MAX_WIDTH_PX)
    file = io.BytesIO()
    Image.fromarray(grey).resize((width, _HEIGHT_PX)).save(file, "PNG")
    picture = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    _kept[:] = [(volume, picture, width)]
    return picture, width
