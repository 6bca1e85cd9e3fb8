"""Where pixels lie in the patient: affines, planes, left and right, gaps.

Patient coordinates are DICOM LPS in mm (+x patient left, +y posterior,
+z head). Affines map voxel indices in the order (x = column, y = row,
z = slice). Conversion between (x, y) points and [row, column] indices
happens here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import GeometryError
from ctai_sam2.types import CTSlice, Plane

OBLIQUE_DEGREES = 5.0
"""Planes further than this from an anatomical one are called oblique."""

TILT_DEGREES = 0.5
"""Angles between slice normal and stacking direction beyond this count as gantry tilt."""

_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))
_USUAL_LETTERS = {
    "axial": ("R", "L", "A", "P"),
    "sagittal": ("A", "P", "S", "I"),
    "coronal": ("R", "L", "S", "I"),
}


def xy_to_rc(points_xy: ArrayLike) -> NDArray[np.float64]:
    """Points (x, y) to (row, column), shape (N, 2) both.

    Examples
    --------
    >>> xy_to_rc([[3, 7]]).tolist()
    [[7.0, 3.0]]
    """
    return np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)[:, ::-1].copy()


def pixel_to_patient(affine: NDArray[np.float64], points_xy: ArrayLike) -> NDArray[np.float64]:
    """Pixel centres (x, y) of a slice to LPS mm, shape (N, 3).

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        A slice's affine, mapping (x, y, 0, 1).
    points_xy : array_like, shape (N, 2)
        Columns and rows.
    """
    points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
    return points @ affine[:3, :2].T + affine[:3, 3]


def affine_from_dicom(
    orientation: Sequence[float],
    position_mm: Sequence[float],
    spacing_mm: Sequence[float],
    step_mm: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Affine of a DICOM image or stack, voxel indices (x, y, z) to LPS mm.

    Parameters
    ----------
    orientation : sequence of 6 floats
        ImageOrientationPatient: direction along a row, then along a column.
    position_mm : sequence of 3 floats
        ImagePositionPatient: centre of the first pixel.
    spacing_mm : sequence of 2 floats
        PixelSpacing: distance between rows, then between columns.
    step_mm : array_like of 3 floats, optional
        Vector from one slice to the next; the unit normal when omitted.

    Raises
    ------
    GeometryError
        If the directions are not unit length and perpendicular, or a number is not finite.

    Notes
    -----
    DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.

    Examples
    --------
    >>> affine_from_dicom([1, 0, 0, 0, 1, 0], [-10, -20, 5], [0.5, 0.8])[:3].tolist()
    [[0.8, 0.0, 0.0, -10.0], [0.0, 0.5, 0.0, -20.0], [0.0, 0.0, 1.0, 5.0]]
    """
    directions = np.asarray(orientation, dtype=np.float64)
    origin = np.asarray(position_mm, dtype=np.float64)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if directions.shape != (6,) or origin.shape != (3,) or spacing.shape != (2,):
        raise GeometryError("orientation needs 6 numbers, position 3 and spacing 2")
    if not (np.isfinite(directions).all() and np.isfinite(origin).all() and np.isfinite(spacing).all()):
        raise GeometryError("orientation, position and spacing must be finite")
    if (spacing <= 0).any():
        raise GeometryError("pixel spacing must be positive", received=spacing.tolist())
    along_row, along_column = directions[:3], directions[3:]
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if min(lengths) < 1e-6 or any(abs(length - 1) > 0.01 for length in lengths):
        raise GeometryError(
            "direction cosines must have length 1", received=[round(float(v), 4) for v in lengths]
        )
    along_row, along_column = along_row / lengths[0], along_column / lengths[1]
    if abs(float(along_row @ along_column)) > 0.01:
        raise GeometryError(
            "row and column directions must be perpendicular",
            received=f"cosine {float(along_row @ along_column):.3f}",
        )
    affine = np.eye(4)
    affine[:3, 0] = along_row * spacing[1]
    affine[:3, 1] = along_column * spacing[0]
    affine[:3, 2] = np.cross(along_row, along_column) if step_mm is None else np.asarray(step_mm, np.float64)
    affine[:3, 3] = origin
    return affine


def plane_of(affine: NDArray[np.float64]) -> tuple[Plane, float]:
    """Anatomical plane of a slice and its angle to it in degrees.

    Returns
    -------
    plane : {"axial", "sagittal", "coronal", "oblique"}
        ``oblique`` beyond `OBLIQUE_DEGREES`.
    angle_deg : float
        Angle between the slice normal and the nearest anatomical axis.
    """
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal = np.abs(normal / np.linalg.norm(normal))
    nearest = int(np.argmax(normal))
    angle = float(np.degrees(np.arccos(np.clip(normal[nearest], -1.0, 1.0))))
    planes: tuple[Plane, Plane, Plane] = ("sagittal", "coronal", "axial")
    return ("oblique" if angle > OBLIQUE_DEGREES else planes[nearest]), angle


def tilt_deg(affine: NDArray[np.float64]) -> float:
    """Angle in degrees between a stack's slice normal and its stacking direction (gantry tilt)."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    step = affine[:3, 2]
    cosine = abs(float(normal @ step)) / float(np.linalg.norm(normal) * np.linalg.norm(step))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def edge_letters(affine: NDArray[np.float64]) -> tuple[str, str, str, str]:
    """Letters for the left, right, top and bottom edge of a displayed slice.

    Examples
    --------
    >>> edge_letters(np.eye(4))
    ('R', 'L', 'A', 'P')
    """
    letters = []
    for direction in (affine[:3, 0], affine[:3, 1]):
        axis = int(np.argmax(np.abs(direction)))
        pair = _LETTERS[axis]
        letters += list(pair if direction[axis] > 0 else pair[::-1])
    return letters[0], letters[1], letters[2], letters[3]


def slice_letters(ct_slice: CTSlice) -> tuple[str, str, str, str]:
    """Letters for the edges of a slice, see `edge_letters`; empty where its orientation is not known."""
    if ct_slice.affine is not None:
        return edge_letters(np.asarray(ct_slice.affine))
    return _USUAL_LETTERS.get(ct_slice.plane, ("", "", "", ""))


@dataclass(frozen=True, kw_only=True)
class Stacking:
    """How slices follow each other along their normal.

    Parameters
    ----------
    step_mm : float
        Median distance between neighbours.
    gaps : tuple of int
        Indices ``i`` where the distance from slice i to i + 1 exceeds 1.5 steps.
    duplicates : tuple of int
        Indices ``i`` where slices i and i + 1 lie at the same place.
    irregular : bool
        True where any distance differs from the step by more than 1 %, and at least 0.01 mm.
    """

    step_mm: float
    gaps: tuple[int, ...]
    duplicates: tuple[int, ...]
    irregular: bool


def examine_stacking(positions_mm: ArrayLike) -> Stacking:
    """Find gaps, duplicates and irregular steps among sorted slice positions.

    Parameters
    ----------
    positions_mm : array_like, shape (D,)
        Positions along the normal, not decreasing.

    Raises
    ------
    GeometryError
        If positions decrease or fewer than two differ.

    Examples
    --------
    >>> examine_stacking([0, 5, 10, 20, 25]).gaps
    (2,)
    """
    positions = np.asarray(positions_mm, dtype=np.float64)
    steps = np.diff(positions)
    if (steps < 0).any():
        raise GeometryError("slice positions must be sorted")
    real = steps[steps > 1e-4]
    if real.size == 0:
        raise GeometryError(
            "all slices lie at the same place",
            received=f"{positions.size} slices",
            hint="They are repeats or a time series, not a stack; choose one.",
        )
    step = float(np.median(real))
    deviating = np.abs(steps - step) > max(0.01, 0.01 * step)
    return Stacking(
        step_mm=step,
        gaps=tuple(int(i) for i in np.flatnonzero(steps > 1.5 * step)),
        duplicates=tuple(int(i) for i in np.flatnonzero(steps <= 1e-4)),
        irregular=bool(deviating.any()),
    )


def canonicalise(
    array_zyx: NDArray[Any], affine: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Permute and flip a volume so that x runs to patient left, y to posterior, z to the head.

    Nothing is resampled: each axis goes to the nearest patient axis.

    Parameters
    ----------
    array_zyx : ndarray, shape (slices, rows, columns)
        Values in any acquired order.
    affine : ndarray, shape (4, 4)
        Maps its (x, y, z, 1) indices to LPS mm.

    Returns
    -------
    array_zyx : ndarray
        A view in canonical order.
    affine : ndarray, shape (4, 4)
        Of the reordered volume; every voxel keeps its place in the patient.

    Raises
    ------
    GeometryError
        If two axes point the same way.
    """
    permutation, signs = axis_correspondence(affine)
    # Patient axis a (0 = x, 1 = y, 2 = z) is served by voxel axis permutation[a].
    array_xyz = np.transpose(array_zyx, (2, 1, 0)).transpose(permutation)
    matrix = affine[:3, :3][:, permutation].copy()
    origin = affine[:3, 3].copy()
    for axis in range(3):
        if signs[axis] < 0:
            array_xyz = np.flip(array_xyz, axis)
            origin += matrix[:, axis] * (array_xyz.shape[axis] - 1)
            matrix[:, axis] *= -1
    result = np.eye(4)
    result[:3, :3] = matrix
    result[:3, 3] = origin
    return array_xyz.transpose(2, 1, 0), result


def axis_correspondence(
    affine: NDArray[np.float64],
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Which voxel axis serves each patient axis, and whether it runs along (+1) or against (-1) it.

    Raises
    ------
    GeometryError
        If two voxel axes are nearest to the same patient axis.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    remaining_voxel, remaining_patient = [0, 1, 2], [0, 1, 2]
    permutation, signs = [0, 0, 0], [1, 1, 1]
    while remaining_voxel:
        scores = np.abs(directions[np.ix_(remaining_patient, remaining_voxel)])
        p, v = np.unravel_index(int(np.argmax(scores)), scores.shape)
        if scores[p, v] < 0.5:
            raise GeometryError("the axes do not span the patient's three directions")
        patient, voxel = remaining_patient.pop(int(p)), remaining_voxel.pop(int(v))
        permutation[patient] = voxel
        signs[patient] = 1 if directions[patient, voxel] > 0 else -1
    return (permutation[0], permutation[1], permutation[2]), (signs[0], signs[1], signs[2])
