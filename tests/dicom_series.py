"""A volume as a DICOM CT series in any orientation, sign and rescale that a scanner or an archive may use."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.io.dicom_writer import (
    EXPLICIT_LITTLE_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
    decimal,
    encode_dataset,
    image_dataset,
    write_folder,
)
from ctai_sam2.types import CTVolume

ORIENTATIONS = MappingProxyType(
    {
        "standard": (1, 0, 0, 0, 1, 0),
        "feet first": (1, 0, 0, 0, 1, 0),
        "negated rows": (-1, 0, 0, 0, 1, 0),
        "negated columns": (1, 0, 0, 0, -1, 0),
        "negated both": (-1, 0, 0, 0, -1, 0),
        "transposed": (0, 1, 0, 1, 0, 0),
        "sagittal": (0, 1, 0, 0, 0, -1),
        "coronal": (1, 0, 0, 0, 0, -1),
    }
)
"""Direction cosines along a row, then along a column, by name.

``feet first`` differs from ``standard`` in PatientPosition and in numbering from the head down.
"""

_DIRECTION_TOLERANCE_DEG = 10.0
_SYNTAXES = {"explicit": EXPLICIT_LITTLE_ENDIAN, "implicit": IMPLICIT_LITTLE_ENDIAN}


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How stored images follow from the canonical volume: which axes make rows, columns and the stack."""

    row_axis: int
    row_sign: int
    column_axis: int
    column_sign: int
    slice_axis: int


def write_series_as(
    folder: str | os.PathLike[str],
    volume: CTVolume,
    *,
    orientation: str | Sequence[float] = "standard",
    signed: bool = True,
    rescale_slope: float = 1.0,
    rescale_intercept: float = -1024.0,
    transfer_syntax: str = "explicit",
    shuffle_seed: int | None = None,
    patient_id: str = "PHANTOM",
    series_key: str = "series",
) -> list[Path]:
    """Write a volume as CT images as a scanner or an archive may; the files in order of position.

    ``orientation`` is a name from `ORIENTATIONS`, or direction cosines along a row and a column: the nearest
    axes of the volume are stored, and nothing is resampled. HU = slope * stored + intercept. ``shuffle_seed``
    shuffles the files' names against their positions; another ``series_key`` makes another series.
    """
    if transfer_syntax not in _SYNTAXES:
        raise InputError("no such transfer syntax", received=transfer_syntax, hint="explicit or implicit.")
    plan = _plan(volume, orientation)
    stored = _stored_values(volume, signed, rescale_slope, rescale_intercept)
    images, positions, directions, spacing = _oriented(volume, stored, plan)
    names = [f"IM{n + 1:05d}.dcm" for n in range(len(images))]
    if shuffle_seed is not None:
        names = [names[i] for i in np.random.default_rng(shuffle_seed).permutation(len(names))]
    identity = f"{patient_id}|{series_key}|{volume.shape_zyx}|{np.round(volume.affine, 6).tolist()}"
    from_head = orientation == "feet first"

    def files() -> Iterable[tuple[str, bytes]]:
        for index, image in enumerate(images):
            dataset = image_dataset(volume, image, identity, index)
            dataset.PatientID = dataset.PatientName = patient_id
            dataset.PatientPosition = "FFS" if from_head else "HFS"
            dataset.InstanceNumber = len(images) - index if from_head else index + 1
            dataset.ImagePositionPatient = [decimal(v) for v in positions[index]]
            dataset.ImageOrientationPatient = [decimal(v) for v in directions]
            dataset.PixelSpacing = [decimal(v) for v in spacing]
            dataset.RescaleSlope = decimal(rescale_slope)
            dataset.RescaleIntercept = decimal(rescale_intercept)
            yield names[index], encode_dataset(dataset, _SYNTAXES[transfer_syntax])

    return write_folder(folder, files())


def _plan(volume: CTVolume, orientation: str | Sequence[float]) -> _Plan:
    if isinstance(orientation, str):
        if orientation not in ORIENTATIONS:
            raise InputError(
                "no such orientation", received=orientation, hint=f"One of {', '.join(ORIENTATIONS)}."
            )
        cosines = np.asarray(ORIENTATIONS[orientation], dtype=np.float64)
        # A named orientation means the volume's own axes, however they lie in the patient.
        axes = np.eye(3)
        tolerance = 0.0
    else:
        cosines = np.asarray(orientation, dtype=np.float64)
        axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
        tolerance = _DIRECTION_TOLERANCE_DEG
    if cosines.shape != (6,) or not np.isfinite(cosines).all():
        raise GeometryError("an orientation is 6 finite numbers", received=f"shape {cosines.shape}")
    chosen = []
    for direction in (cosines[:3], cosines[3:]):
        along = axes.T @ direction
        axis = int(np.argmax(np.abs(along)))
        angle = float(np.degrees(np.arccos(np.clip(abs(along[axis]), 0.0, 1.0))))
        if angle > tolerance + 1e-6:
            raise GeometryError(
                "the orientation does not follow the volume's axes, and nothing is resampled",
                received=f"{angle:.1f} degrees off",
            )
        chosen.append((axis, 1 if along[axis] > 0 else -1))
    (row_axis, row_sign), (column_axis, column_sign) = chosen
    if row_axis == column_axis:
        raise GeometryError("rows and columns follow the same axis of the volume")
    return _Plan(
        row_axis=row_axis,
        row_sign=row_sign,
        column_axis=column_axis,
        column_sign=column_sign,
        slice_axis=3 - row_axis - column_axis,
    )


def _stored_values(volume: CTVolume, signed: bool, slope: float, intercept: float) -> NDArray[Any]:
    hu = volume.hu_zyx
    if not np.issubdtype(hu.dtype, np.integer):
        raise InputError("only whole HU can be written without loss", received=str(hu.dtype))
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise InputError("a rescale needs a finite slope that is not 0", received=(slope, intercept))
    lowest = int(hu.min())
    # Few values occur, many times each: they are converted once.
    steps = np.subtract(hu, lowest, dtype=np.int32)
    occurring = np.flatnonzero(np.bincount(steps.ravel()))
    values = occurring + lowest
    stored = np.rint((values - intercept) / slope)
    info = np.iinfo(np.int16 if signed else np.uint16)
    if (np.rint(stored * slope + intercept) != values).any():
        raise InputError(
            "these HU cannot be stored exactly", received=f"slope {slope:g}, intercept {intercept:g}"
        )
    if stored.min() < info.min or stored.max() > info.max:
        raise InputError(
            "stored values would leave their range",
            received=f"{stored.min():.0f} to {stored.max():.0f} in {info.dtype}",
            hint="Choose another slope, intercept or sign.",
        )
    by_step = np.zeros(int(occurring[-1]) + 1, info.dtype)
    by_step[occurring] = stored
    converted: NDArray[Any] = by_step[steps]
    return converted


def _oriented(
    volume: CTVolume, stored: NDArray[Any], plan: _Plan
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64], tuple[float, float]]:
    """Images (N, rows, columns), positions of their first pixels, six cosines, and (row, column) spacing."""
    array_xyz = stored.transpose(2, 1, 0)
    start = np.zeros(3)
    for axis, sign in ((plan.row_axis, plan.row_sign), (plan.column_axis, plan.column_sign)):
        if sign < 0:
            array_xyz = np.flip(array_xyz, axis)
            start[axis] = array_xyz.shape[axis] - 1
    # A row runs along the row direction, so its axis is the last: columns change fastest.
    images = array_xyz.transpose(plan.slice_axis, plan.column_axis, plan.row_axis)
    steps = np.linalg.norm(volume.affine[:3, :3], axis=0)
    units = volume.affine[:3, :3] / steps
    along_row = units[:, plan.row_axis] * plan.row_sign
    along_column = units[:, plan.column_axis] * plan.column_sign
    if abs(float(along_row @ along_column)) > 1e-4:
        raise GeometryError(
            "the stack leans, so its rows and columns are not perpendicular in this plane",
            hint="Write it as axial images.",
        )
    positions = np.array(
        [
            volume.affine[:3, 3] + volume.affine[:3, :3] @ (start + offset)
            for offset in _slice_offsets(volume, plan.slice_axis, len(images))
        ]
    )
    return (
        images,
        positions,
        np.concatenate([along_row, along_column]),
        (float(steps[plan.column_axis]), float(steps[plan.row_axis])),
    )


def _slice_offsets(volume: CTVolume, slice_axis: int, count: int) -> NDArray[np.float64]:
    offsets = np.zeros((count, 3))
    offsets[:, slice_axis] = np.arange(count)
    uneven = np.asarray(volume.slice_positions_mm, dtype=np.float64)
    if len(uneven) > 1:
        # In units of the median step, which the affine holds: gaps stay gaps.
        relative = (uneven - uneven[0]) / float(np.median(np.diff(uneven)))
        regular = np.allclose(relative, np.arange(len(uneven)), atol=1e-3)
        if slice_axis == 2 and not regular:
            offsets[:, 2] = relative
        elif slice_axis != 2 and not regular:
            raise GeometryError(
                "slices with gaps can be written as axial images only", hint="Choose an axial orientation."
            )
    return offsets
