"""Outlines of an RT Structure Set: taken from its header, placed on a grid and filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import CtaiError, DicomError, GeometryError
from ctai_sam2.image.contours import Polygon, combine_outlines, polygons_to_mask
from ctai_sam2.io.dicom_values import value_of
from ctai_sam2.io.grids import TOLERANCE_VOXELS, Grid
from ctai_sam2.types import Mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """A closed line in mm, or what is wrong with it."""

    ring_mm: NDArray[np.float64] | None
    is_xor: bool = False


def outlines_by_number(
    dataset: Any, names: Mapping[int, str], notes: list[str]
) -> tuple[dict[int, list[Outline]], set[int]]:
    """Return the closed outlines by structure, and the structures with points and open lines only."""
    outlines: dict[int, list[Outline]] = {}
    undeclared = 0
    open_lines: dict[int, int] = {}
    for item in value_of(dataset, "ROIContourSequence") or []:
        number = int(item.ReferencedROINumber)
        contours = value_of(item, "ContourSequence") or []
        if number not in names:
            undeclared += len(contours)
            continue
        for contour in contours:
            kind = str(value_of(contour, "ContourGeometricType") or "")
            # Points and open lines mark places; they enclose nothing.
            if kind and not kind.startswith("CLOSED"):
                open_lines[number] = open_lines.get(number, 0) + 1
                continue
            outlines.setdefault(number, []).append(
                Outline(ring_mm=_ring_of(contour), is_xor=kind.endswith("XOR"))
            )
    if undeclared:
        notes.append(f"{_count(undeclared, 'outline')} of undeclared structures left out")
    for number, count in open_lines.items():
        notes.append(
            f"{names[number]}: {_count(count, 'point or open line', 'points or open lines')} left out"
        )
    return outlines, set(open_lines) - set(outlines)


def _ring_of(contour: Any) -> NDArray[np.float64] | None:
    try:
        values = np.asarray(contour.ContourData, dtype=np.float64)
        points = values.reshape(-1, 3)
    except (AttributeError, TypeError, ValueError):
        return None
    return points if len(points) >= 3 and np.isfinite(points).all() else None


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


class StructureOutlines:
    """Collects one structure's outlines by plane, fills them, and counts what was left out."""

    def __init__(self, name: str, target: Grid, file_name: str) -> None:
        self.name = name
        self.touched = False
        self.problems: list[CtaiError] = []
        self.fill_notes: list[str] = []
        self._target = target
        self._file_name = file_name
        self._rings: dict[tuple[int, int], list[tuple[NDArray[np.float64], bool]]] = {}

    @property
    def notes(self) -> list[str]:
        """What was left out, in sentences."""
        notes = []
        for text in dict.fromkeys(error.problem for error in self.problems):
            number = sum(error.problem == text for error in self.problems)
            notes.append(f"{self.name}: {_count(number, 'outline')} left out, since {text}")
        return notes

    def add(self, outline: Outline) -> None:
        """Take an outline, or count it as damaged, off the grid or next to the slice."""
        if outline.ring_mm is None:
            self.problems.append(
                DicomError(f"an outline of {self._file_name} has no three points", hint="Export it again.")
            )
            return
        try:
            placed = _place(self._target, outline.ring_mm, self._file_name)
        except GeometryError as error:
            self.problems.append(error)
            return
        if placed is not None:
            plane, ring = placed
            self._rings.setdefault(plane, []).append((ring, outline.is_xor))
            self.touched = True

    def fill(self) -> Mask:
        """Fill all planes; says in ``fill_notes`` which outlines were doubles or crossed."""
        canonical = np.zeros(self._target.shape_zyx, dtype=np.bool_)
        doubles = crossings = 0
        for (axis, index), rings in self._rings.items():
            shape = tuple(size for a, size in enumerate(self._target.shape_zyx) if a != 2 - axis)
            shape_hw = (shape[0], shape[1])
            filled, found = combine_outlines([ring for ring, is_xor in rings if not is_xor], shape_hw)
            for ring, is_xor in rings:
                if is_xor:
                    filled ^= polygons_to_mask([Polygon(exterior_xy=ring)], shape_hw)
            doubles += found.doubles
            crossings += found.crossings
            chosen: list[Any] = [slice(None)] * 3
            chosen[2 - axis] = index
            canonical[tuple(chosen)] |= filled
        if doubles:
            self.fill_notes.append(f"{self.name}: {_count(doubles, 'outline')} drawn twice, counted once")
        if crossings:
            self.fill_notes.append(
                f"{self.name}: {_count(crossings, 'outline')} crossing another one, united with it"
            )
        return canonical


def _place(
    target: Grid, ring_mm: NDArray[np.float64], name: str
) -> tuple[tuple[int, int], NDArray[np.float64]] | None:
    """Find the plane (axis, index) of an outline and its corners there; None if it lies next to the slice."""
    indices = np.linalg.solve(target.affine, np.column_stack([ring_mm, np.ones(len(ring_mm))]).T)[:3].T
    spread = np.ptp(indices, axis=0)
    axis = int(spread.argmin())
    place = float(indices[:, axis].mean())
    if spread[axis] > 2 * TOLERANCE_VOXELS:
        raise GeometryError(
            f"an outline of {name} is not parallel to the image's slices",
            hint="Nothing is resampled: choose the series it was drawn on.",
        )
    steps = target.z_offsets if axis == 2 else np.arange(target.shape_zyx[2 - axis])
    nearest = int(np.abs(steps - place).argmin())
    if abs(steps[nearest] - place) > TOLERANCE_VOXELS:
        if len(steps) == 1:
            return None
        raise GeometryError(
            f"an outline of {name} lies between or beyond the slices of the image",
            hint="It belongs to another series, or slices are missing: choose the series it was drawn on.",
        )
    # The plane's rows and columns, in canonical order of axes z, y, x.
    column_axis, row_axis = [a for a in range(3) if a != axis]
    ring = np.column_stack([indices[:, column_axis], indices[:, row_axis]])
    if row_axis == 2:
        ring[:, 1] = _row_of_slice(ring[:, 1], target.z_offsets)
    shape = (target.shape_zyx[2 - row_axis], target.shape_zyx[2 - column_axis])
    _require_within(ring, shape, name)
    return (axis, nearest), ring


def _row_of_slice(z: NDArray[np.float64], z_offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn places along z to indices of slices, between and beyond them too."""
    count = len(z_offsets)
    inner = np.interp(z, z_offsets, np.arange(count, dtype=np.float64))
    return np.where(z < 0, z, np.where(z > z_offsets[-1], z - z_offsets[-1] + count - 1, inner))


def _require_within(ring_xy: NDArray[np.float64], shape_hw: Sequence[int], name: str) -> None:
    for values, size in ((ring_xy[:, 0], shape_hw[1]), (ring_xy[:, 1], shape_hw[0])):
        if size > 1 and (values.min() < -1.5 or values.max() > size + 0.5):
            raise GeometryError(
                f"an outline of {name} lies outside of the image",
                hint="It belongs to another part or series: choose the one it was drawn on.",
            )
