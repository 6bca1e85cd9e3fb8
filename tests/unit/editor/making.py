"""Slices, documents and strategies for the editor's tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from ctai_sam2.editor import MIDDLE, Document, Profile
from ctai_sam2.editor import commands as do
from ctai_sam2.image.contours import Polygon
from ctai_sam2.measure.definitions import HuRange
from ctai_sam2.types import CTSlice, CTVolume

SHAPE = (20, 30)
LABELS = ("psoas_left", "psoas_right", "muscle")


def make_slice(
    shape_hw: tuple[int, int] = SHAPE, spacing_mm: tuple[float, float] = (1.0, 1.0), plane: str = "axial"
) -> CTSlice:
    rows, columns = np.indices(shape_hw)
    hu = ((rows * 37 + columns * 11) % 300 - 100).astype(np.int16)
    return CTSlice(hu=hu, spacing_mm=spacing_mm, plane=plane)  # type: ignore[arg-type]


def make_volume(depth: int = 4) -> CTVolume:
    hu = np.stack([make_slice().hu + z for z in range(depth)])
    return CTVolume(hu_zyx=hu, affine=np.diag([1.0, 1.0, 5.0, 1.0]))


def make_document(profile: Profile = MIDDLE, **options: Any) -> Document:
    source = options.pop("source", make_slice(plane=profile.plane))
    return Document(source, profile, **options)


def state_of(document: Document) -> tuple[Any, ...]:
    """Masks and prompts of every slice, comparable."""
    return tuple(
        (index, label, document.mask(label, index).tobytes(), document.marks(label, index))
        for index in range(document.slice_count)
        for label in document.labels
    )


labels = st.sampled_from(LABELS)
coordinates = st.floats(-40, 60, allow_nan=False)
points = st.tuples(coordinates, coordinates)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates)
ranges = st.tuples(st.integers(-120, 100), st.integers(1, 150)).map(
    lambda pair: HuRange(low_hu=pair[0], high_hu=pair[0] + pair[1])
)
polygons = st.lists(points, min_size=3, max_size=6).map(
    lambda ring: Polygon(exterior_xy=np.array([*ring, (100.0, 100.0)]))
)


def _with(kind: Any, **fields: Any) -> st.SearchStrategy[Any]:
    return st.builds(kind, label=labels, **fields)


masks = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random(SHAPE) < 0.3)
commands = st.one_of(
    _with(
        do.Paint,
        points_xy=st.lists(points, min_size=1, max_size=4).map(tuple),
        radius_mm=st.floats(0, 8),
        erase=st.booleans(),
    ),
    _with(do.FillPolygon, polygons=st.tuples(polygons), erase=st.booleans()),
    _with(do.FillRectangle, box_xyxy=boxes, erase=st.booleans()),
    _with(do.FloodFill, x=coordinates, y=coordinates, limits=ranges, erase=st.booleans()),
    _with(do.FillHoles),
    _with(do.KeepLargest),
    _with(do.RemoveIslands, min_area_mm2=st.floats(0, 30)),
    _with(do.Grow, distance_mm=st.floats(0, 3)),
    _with(do.Shrink, distance_mm=st.floats(0, 3)),
    _with(do.Smooth, sigma_mm=st.floats(0, 2)),
    _with(do.LimitToHu, limits=ranges),
    _with(do.SetMask, mask=masks),
    _with(do.Clear),
    _with(do.AddPoint, x=coordinates, y=coordinates, positive=st.booleans()),
    _with(do.AddBox, box_xyxy=boxes),
    _with(do.ClearPrompts),
)
compounds = st.lists(commands, max_size=3).map(lambda steps: do.Compound(commands=tuple(steps)))
edits = st.one_of(commands, compounds)
