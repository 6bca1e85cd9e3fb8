"""Label maps of whole spines in a near-sagittal plane, drawn from a few hundred random numbers.

A vertebra knows how far the plane passes from its middle: in scoliosis and off the midline the canal, then
the spinous process, then the body itself leave the plane, and pedicles, facets, ribs and psoas enter it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.training.levels.bones import (
    paint_body,
    paint_disc,
    paint_findings,
    paint_posterior,
    paint_sacrum,
)
from ctai_sam2.training.levels.canvas import Floats, SpineCanvas
from ctai_sam2.training.levels.trunk import paint_canal, paint_organs, paint_trunk


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnSpine:
    """A label map and what is known of its vertebrae.

    Parameters
    ----------
    tissue : ndarray of uint8, shape (h, w)
        Values of `Tissue`; head up, anterior on the left, `PIXEL_MM` a pixel.
    level : ndarray of uint8, shape (h, w)
        Index into `LEVEL_CLASSES` on bodies, discs (that of the body above) and sacrum; else `NO_LEVEL`.
    centres_xyl : ndarray of float32, shape (n, 3)
        Middle of each body seen, and of S1: column, row, index into `LEVEL_CLASSES`.
    l3_offset_mm : float
        How far the plane passes from the middle of L3.
    """

    tissue: NDArray[np.uint8]
    level: NDArray[np.uint8]
    centres_xyl: Floats
    l3_offset_mm: float = 0.0


def draw_spine(rng: np.random.Generator) -> DrawnSpine:
    """Draw one patient cut in one near-sagittal plane, painted back to front."""
    canvas = SpineCanvas(rng)
    trunk = paint_trunk(canvas)
    paint_organs(canvas, trunk)
    paint_canal(canvas)
    for vertebra in reversed(canvas.vertebrae):
        paint_posterior(canvas, vertebra)
    paint_sacrum(canvas)
    for gap, below, above in zip(canvas.gaps, [None, *canvas.vertebrae], canvas.vertebrae, strict=False):
        paint_disc(canvas, gap, below, above)
    for vertebra in canvas.vertebrae:
        paint_body(canvas, vertebra)
    paint_findings(canvas)
    centres = np.array(canvas.centres, np.float32).reshape(-1, 3)
    l3 = next(v for v in canvas.vertebrae if v.name == "L3")
    return DrawnSpine(tissue=canvas.tissue, level=canvas.level, centres_xyl=centres, l3_offset_mm=l3.offset)
