"""CT slices and volumes in Hounsfield units, with their place in the patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.types.checks import as_array, as_float, as_index, as_texts, frozen, set_field

Plane: TypeAlias = Literal["axial", "sagittal", "coronal", "oblique", "unknown"]
PLANES: tuple[Plane, ...] = ("axial", "sagittal", "coronal", "oblique", "unknown")


@dataclass(frozen=True, kw_only=True)
class Window:
    """A linear grey window: ``level`` is its centre and ``width`` its span, both in HU.

    Raises
    ------
    InputError
        If a value is not finite or the width is not positive.

    Examples
    --------
    >>> Window(level=40, width=400).low_hu, Window(level=40, width=400).high_hu
    (-160.0, 240.0)
    """

    level: float = 40.0
    width: float = 400.0

    def __post_init__(self) -> None:
        values = as_float((self.level, self.width), "level and width of a window")
        if not (np.isfinite(values).all() and values[1] > 0):
            raise InputError(
                "a window needs a finite level and a positive width in HU",
                received=(self.level, self.width),
                hint="The soft-tissue window is level 40, width 400.",
            )

    @property
    def low_hu(self) -> float:
        """HU shown black."""
        return float(self.level - self.width / 2)

    @property
    def high_hu(self) -> float:
        """HU shown white."""
        return float(self.level + self.width / 2)


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """What the header says of how a CT was made; nothing that names a patient.

    Every field is None where the header is silent.

    Parameters
    ----------
    kvp : float, optional
        Peak tube voltage in kV.
    contrast : bool, optional
        True where a contrast agent is recorded.
    slice_thickness_mm : float, optional
        Nominal thickness; volumes are computed from it only for a single slice without neighbours.
    kernel : str, optional
        Reconstruction kernel.
    gantry_tilt_deg : float, optional
        Gantry tilt in degrees.
    patient_sex : {"M", "F"}, optional
        As recorded.
    patient_height_m, patient_weight_kg : float, optional
        As recorded, where plausible.
    patient_age_years : float, optional
        At the scan, as recorded, where plausible.
    phase : {"unenhanced", "arterial", "portal_venous", "equilibrium"}, optional
        Contrast phase, where the header's words leave no doubt.
    scanner : str, optional
        Maker and model.
    """

    kvp: float | None = None
    contrast: bool | None = None
    slice_thickness_mm: float | None = None
    kernel: str | None = None
    gantry_tilt_deg: float | None = None
    patient_sex: str | None = None
    patient_height_m: float | None = None
    patient_weight_kg: float | None = None
    patient_age_years: float | None = None
    phase: str | None = None
    scanner: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CTSlice:
    """One CT slice in Hounsfield units, in display orientation.

    Axial slices have anterior up and the patient's right on image left;
    sagittal slices have superior up and anterior on image left.

    Parameters
    ----------
    hu : array_like, shape (H, W)
        int16 or float; must be finite. Stored int16 where it came as integers, else float32.
    spacing_mm : tuple of float
        (row spacing, column spacing): distance between rows, then between columns.
    plane : {"axial", "sagittal", "coronal", "oblique", "unknown"}
        Anatomical plane.
    affine : array_like, shape (4, 4), optional
        Maps (x, y, 0, 1) in pixels to LPS mm; None where position is unknown.
    thickness_mm : float, optional
        The extent the slice stands for along its normal.
    index : int, optional
        Its index in the volume it was taken from.
    row_offsets : array_like, shape (H,), optional
        Only for a sagittal or coronal slice through a stack with gaps: where each row really lies along
        the columns, in steps of the affine, increasing from 0. Rows lie at 0, 1, 2 … when None.
    acquisition : Acquisition
        Facts from the header.
    warnings : tuple of str
        What a reader should know before trusting measurements.

    Raises
    ------
    InputError
        If the array is not two-dimensional, is empty or is not finite, or the plane is unknown.
    GeometryError
        If the spacing is not positive, or row offsets are not one increasing number per row from 0.
    """

    hu: NDArray[Any]
    spacing_mm: tuple[float, float]
    plane: Plane = "axial"
    affine: NDArray[np.float64] | None = None
    thickness_mm: float | None = None
    index: int | None = None
    row_offsets: NDArray[np.float64] | None = None
    acquisition: Acquisition = field(default_factory=Acquisition)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        set_field(self, "hu", _checked_hu(self.hu, ndim=2))
        if self.row_offsets is not None:
            offsets = np.array(self.row_offsets, dtype=np.float64)
            if offsets.shape != self.hu.shape[:1] or offsets[0] != 0 or not (np.diff(offsets) > 0).all():
                raise GeometryError(
                    "row offsets must be one increasing number per row, from 0",
                    received=f"shape {offsets.shape} for {self.hu.shape[0]} rows",
                )
            set_field(self, "row_offsets", frozen(offsets))
        set_field(self, "spacing_mm", _checked_spacing(self.spacing_mm, 2))
        if self.plane not in PLANES:
            raise InputError("no such plane", received=self.plane, hint=f"One of {', '.join(PLANES)}.")
        if self.affine is not None:
            set_field(self, "affine", _checked_affine(self.affine))
        set_field(self, "warnings", as_texts(self.warnings))

    def __repr__(self) -> str:
        rows, columns = self.shape_hw
        row_mm, column_mm = self.spacing_mm
        return f"CTSlice({self.plane}, {rows} x {columns} pixels of {row_mm:g} x {column_mm:g} mm)"

    @property
    def shape_hw(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.hu.shape[0]), int(self.hu.shape[1])

    @property
    def pixel_area_mm2(self) -> float:
        """Row spacing times column spacing."""
        return self.spacing_mm[0] * self.spacing_mm[1]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CTVolume:
    """A CT volume in canonical orientation.

    ``hu_zyx[z, y, x]``: z grows towards the head, y to posterior, x to the
    patient's left, along the nearest axes of the acquired grid; nothing is resampled.

    Parameters
    ----------
    hu_zyx : array_like, shape (D, H, W)
        Hounsfield units.
    affine : array_like, shape (4, 4)
        Maps (x, y, z, 1) in voxel indices to LPS mm, with the median slice step.
    slice_positions_mm : array_like, shape (D,), optional
        Real positions of the slices along their normal, increasing; shows gaps.
        Made from the affine when omitted.
    acquisition : Acquisition
        Facts from the header.
    warnings : tuple of str
        Gaps, tilt, obliquity and other reasons for caution.
    instance_numbers : tuple of int or None
        Number that each slice's file has in its series, from the lowest slice up; empty where there are none.

    Raises
    ------
    InputError
        If the array is not three-dimensional, is empty or is not finite.
    GeometryError
        If the affine is singular or positions do not increase.
    """

    hu_zyx: NDArray[Any]
    affine: NDArray[np.float64]
    slice_positions_mm: NDArray[np.float64] | None = None
    acquisition: Acquisition = field(default_factory=Acquisition)
    warnings: tuple[str, ...] = ()
    instance_numbers: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        set_field(self, "hu_zyx", _checked_hu(self.hu_zyx, ndim=3))
        set_field(self, "affine", _checked_affine(self.affine))
        depth = self.hu_zyx.shape[0]
        if self.slice_positions_mm is None:
            positions = np.arange(depth, dtype=np.float64) * self._step_mm
        else:
            positions = np.array(self.slice_positions_mm, dtype=np.float64)
        if positions.shape != (depth,) or not np.isfinite(positions).all() or (np.diff(positions) <= 0).any():
            raise GeometryError(
                "slice positions must be one increasing number per slice",
                received=f"{positions.shape[0] if positions.ndim else 0} positions for {depth} slices",
                hint="Sort the slices along their normal and drop duplicates first.",
            )
        positions.setflags(write=False)
        set_field(self, "slice_positions_mm", positions)
        if len(self.instance_numbers) not in (0, depth):
            raise GeometryError(
                "there is one instance number per slice, or none",
                received=f"{len(self.instance_numbers)} numbers for {depth} slices",
            )
        set_field(self, "warnings", as_texts(self.warnings))

    def __repr__(self) -> str:
        depth, rows, columns = self.shape_zyx
        z_mm, row_mm, column_mm = self.spacing_zyx_mm
        return f"CTVolume({depth} x {rows} x {columns} voxels of {z_mm:g} x {row_mm:g} x {column_mm:g} mm)"

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        d, h, w = self.hu_zyx.shape
        return int(d), int(h), int(w)

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Distance between neighbours along z, y and x."""
        steps = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(steps[2]), float(steps[1]), float(steps[0])

    @property
    def _step_mm(self) -> float:
        """Distance between planes of neighbouring slices: less than that of voxels in a tilted stack."""
        normal = np.cross(self.affine[:3, 0], self.affine[:3, 1])
        along = abs(float(normal @ self.affine[:3, 2])) / float(np.linalg.norm(normal))
        step = self.spacing_zyx_mm[0]
        return step if math.isclose(along, step, rel_tol=1e-6) else along

    @property
    def slice_extents_mm(self) -> NDArray[np.float64]:
        """Extent each slice stands for, shape (D,): half-way to its neighbours, half a step outward."""
        positions = np.asarray(self.slice_positions_mm, dtype=np.float64)
        if positions.size == 1:
            return np.array([self._step_mm])
        gaps = np.diff(positions)
        outward = np.minimum(gaps[[0, -1]], np.median(gaps))
        padded = np.concatenate([outward[:1], gaps, outward[1:]])
        extents: NDArray[np.float64] = (padded[:-1] + padded[1:]) / 2
        return extents

    @property
    def slice_offsets(self) -> NDArray[np.float64]:
        """Where each slice lies along the affine's z axis, shape (D,): 0, 1, 2 … where there are no gaps."""
        positions = np.asarray(self.slice_positions_mm, dtype=np.float64)
        if positions.size == 1:
            return np.zeros(1)
        offsets = (positions - positions[0]) / np.median(np.diff(positions))
        even = np.arange(positions.size, dtype=np.float64)
        # Rounding in headers is no gap.
        return even if np.allclose(offsets, even, rtol=0, atol=1e-4) else offsets

    def axial(self, z: int) -> CTSlice:
        """Axial slice ``z`` (0 is the most inferior), anterior up, patient's right on image left."""
        z = self._checked_index(z, 0, "axial")
        columns = np.column_stack([self.affine[:, 0], self.affine[:, 1], self.affine[:, 2]])
        origin = self.affine @ np.array([0.0, 0.0, self.slice_offsets[z], 1.0])
        _, sy, sx = self.spacing_zyx_mm
        return self._slice(
            self.hu_zyx[z], "axial", (sy, sx), columns, origin, float(self.slice_extents_mm[z]), z
        )

    def sagittal(self, x: int) -> CTSlice:
        """Sagittal slice at column ``x``, superior up, anterior on image left."""
        x = self._checked_index(x, 2, "sagittal")
        columns = np.column_stack([self.affine[:, 1], -self.affine[:, 2], self.affine[:, 0]])
        origin = self.affine @ np.array([x, 0.0, self.slice_offsets[-1], 1.0])
        sz, sy, sx = self.spacing_zyx_mm
        return self._slice(self.hu_zyx[::-1, :, x], "sagittal", (sz, sy), columns, origin, sx, x)

    def coronal(self, y: int) -> CTSlice:
        """Coronal slice at row ``y``, superior up, patient's right on image left."""
        y = self._checked_index(y, 1, "coronal")
        columns = np.column_stack([self.affine[:, 0], -self.affine[:, 2], self.affine[:, 1]])
        origin = self.affine @ np.array([0.0, y, self.slice_offsets[-1], 1.0])
        sz, sy, sx = self.spacing_zyx_mm
        return self._slice(self.hu_zyx[::-1, y, :], "coronal", (sz, sx), columns, origin, sy, y)

    def axial_index_of_row(self, row: int) -> int:
        """Axial index shown by a row of a sagittal or coronal slice (row 0 is the most superior)."""
        return self._checked_index(self.shape_zyx[0] - 1 - int(row), 0, "axial")

    def _checked_index(self, index: int, axis: int, plane: str) -> int:
        return as_index(index, self.hu_zyx.shape[axis], f"{plane} slice")

    def _slice(
        self,
        hu: NDArray[Any],
        plane: Plane,
        spacing_mm: tuple[float, float],
        columns: NDArray[np.float64],
        origin: NDArray[np.float64],
        thickness_mm: float,
        index: int,
    ) -> CTSlice:
        return CTSlice(
            hu=hu,
            spacing_mm=spacing_mm,
            plane=plane,
            affine=np.column_stack([columns, origin]),
            thickness_mm=thickness_mm,
            index=index,
            row_offsets=None if plane == "axial" else self._row_offsets(),
            acquisition=self.acquisition,
            warnings=self.warnings,
        )

    def _row_offsets(self) -> NDArray[np.float64] | None:
        offsets = self.slice_offsets
        even = np.array_equal(offsets, np.arange(offsets.size))
        return None if even else offsets[-1] - offsets[::-1]


_OTHER_DIMENSIONS = {
    (2, 3): "A stack of slices is a CTVolume; of a picture with color channels take one channel.",
    (3, 2): "A single slice is a CTSlice.",
}
"""What to do about an array with another number of axes than wanted."""


def _checked_hu(hu: ArrayLike, *, ndim: int) -> NDArray[Any]:
    array = as_array(hu, "Hounsfield units")
    if array.ndim != ndim or array.size == 0:
        raise InputError(
            f"Hounsfield units must be a non-empty {ndim}-dimensional array",
            received=f"shape {array.shape}" if array.ndim else type(hu).__name__,
            hint=_OTHER_DIMENSIONS.get((ndim, array.ndim)),
        )
    if array.dtype == np.bool_ or not (
        np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)
    ):
        raise InputError("Hounsfield units must be real numbers", received=str(array.dtype))
    if np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # infinite then, and refused as such
            array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            raise InputError(
                "the image holds values that are not finite",
                received=f"{bad} of {array.size} pixels are NaN or infinite",
                hint="Replace them by air (-1024 HU) if they are padding.",
            )
    elif array.dtype != np.int16:
        low, high = int(array.min()), int(array.max())
        if low < -32768 or high > 32767:
            raise InputError("values outside the range of Hounsfield units", received=(low, high))
        array = array.astype(np.int16)
    return frozen(array.view())


def _checked_spacing(spacing_mm: Sequence[float], count: int) -> tuple[float, ...]:
    values = as_float(spacing_mm, "spacing").astype(np.float64)
    if values.shape != (count,) or not np.isfinite(values).all() or (values <= 0).any():
        raise GeometryError(
            f"spacing must be {count} positive numbers in mm",
            received=str(spacing_mm),
            hint="Give (row spacing, column spacing).",
        )
    return tuple(float(v) for v in spacing_mm)


def _checked_affine(affine: ArrayLike) -> NDArray[np.float64]:
    try:
        matrix = np.array(affine, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GeometryError(
            "the affine must be a finite, invertible 4 x 4 matrix", received=type(affine).__name__
        ) from error
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise GeometryError(
            "the affine must be a finite, invertible 4 x 4 matrix", received=f"shape {matrix.shape}"
        )
    matrix.setflags(write=False)
    return matrix
