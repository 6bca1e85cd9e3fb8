"""Axial and sagittal slices and volumes of a phantom."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from ctai_sam2.errors import InputError
from ctai_sam2.phantom.body import Body, back_depth_mm
from ctai_sam2.phantom.labels import Label, masks_from_labels
from ctai_sam2.phantom.parameters import PhantomParameters
from ctai_sam2.phantom.texture import render_hu

_SMALLEST_PX: Final = 8
_LARGEST_PX: Final = 4096
# Pixels larger than this average over tissue borders; smaller ones leave that to the blur.
_COARSE_MM: Final = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhantomSlice:
    """One slice of a phantom with its exact masks.

    Attributes
    ----------
    hu : numpy.ndarray
        int16 (H, W). Axial: anterior up, patient left on the image's right. Sagittal:
        head up, anterior on the left. At least -1024, but for padding beyond the field of view.
    masks : mapping of str to numpy.ndarray
        bool (H, W) each, decided at the pixel centres; see `masks_from_labels`.
    spacing_mm : tuple of float
        Distance between rows, distance between columns.
    plane : {"axial", "sagittal"}
        Orientation.
    position_mm : float
        z of an axial, x of a sagittal slice.
    origin_mm : tuple of float
        LPS (x, y, z) of the centre of pixel (0, 0).
    """

    hu: npt.NDArray[np.int16]
    masks: Mapping[str, npt.NDArray[np.bool_]]
    spacing_mm: tuple[float, float]
    plane: Literal["axial", "sagittal"]
    position_mm: float
    origin_mm: tuple[float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhantomVolume:
    """A phantom as a canonical volume.

    Attributes
    ----------
    hu_zyx : numpy.ndarray
        int16 (D, H, W); z grows towards the head, y backward, x to the patient's left.
    labels_zyx : numpy.ndarray
        uint8 (D, H, W), values of `Label`; `masks_from_labels` reads masks from it.
    affine : numpy.ndarray
        float64 (4, 4), voxel index (column, row, slice) to LPS mm.
    spacing_zyx_mm : tuple of float
        Distances between slices, rows and columns.
    levels_mm : mapping of str to float
        z of the middle of each vertebral body.
    """

    hu_zyx: npt.NDArray[np.int16]
    labels_zyx: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    spacing_zyx_mm: tuple[float, float, float]
    levels_mm: Mapping[str, float]


def make_axial_slice(
    parameters: PhantomParameters,
    *,
    z_mm: float | None = None,
    level: str = "L3",
    shape_hw: tuple[int, int] = (512, 512),
    spacing_mm: tuple[float, float] = (0.8, 0.8),
    rng: np.random.Generator,
) -> PhantomSlice:
    """Make an axial slice, centred on the trunk.

    Parameters
    ----------
    parameters : PhantomParameters
        The patient.
    z_mm : float, optional
        Height; by default the middle of the vertebral body of `level`.
    level : str, default "L3"
        "T11" … "S1"; not read if `z_mm` is given.
    shape_hw : tuple of int
        Rows and columns, 8 to 4096.
    spacing_mm : tuple of float
        Distance between rows, between columns.
    rng : numpy.random.Generator
        Source of texture and noise; the anatomy depends on the parameters only.

    Returns
    -------
    PhantomSlice
        Image and masks.

    Raises
    ------
    InputError
        Where level, shape or spacing cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from ctai_sam2.phantom.parameters import reference_parameters
    >>> image = make_axial_slice(reference_parameters(), shape_hw=(96, 96), spacing_mm=(4, 4),
    ...                          rng=np.random.default_rng(0))
    >>> image.hu.shape, "psoas_left" in image.masks
    ((96, 96), True)
    """
    _check_grid(shape_hw, spacing_mm)
    if z_mm is None:
        z_mm = level_z_mm(parameters, level)
    x, y = _axial_axes(parameters, shape_hw, spacing_mm)
    body = Body(parameters)
    (fine_y, by_rows), (fine_x, by_columns) = _refine(y, spacing_mm[0]), _refine(x, spacing_mm[1])
    fine = body.label_at(fine_x[None, :], fine_y[:, None], z_mm)
    labels = _centres(fine, by_rows, by_columns)
    hu = render_hu(fine, parameters, spacing_mm=spacing_mm, rng=rng, oversampling=(by_rows, by_columns))
    _cut_field(hu, labels, parameters, x, y)
    return PhantomSlice(
        hu=hu,
        masks=masks_from_labels(labels),
        spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1])),
        plane="axial",
        position_mm=float(z_mm),
        origin_mm=(float(x[0]), float(y[0]), float(z_mm)),
    )


def make_sagittal_slice(
    parameters: PhantomParameters,
    *,
    x_mm: float = 0.0,
    shape_hw: tuple[int, int] = (512, 512),
    spacing_mm: tuple[float, float] = (0.8, 0.8),
    rng: np.random.Generator,
) -> PhantomSlice:
    """Make a sagittal slice, centred on L3 in height and on the trunk in depth.

    Parameters
    ----------
    parameters : PhantomParameters
        The patient.
    x_mm : float, default 0
        Distance from the midline, positive to the patient's left.
    shape_hw, spacing_mm, rng
        As for `make_axial_slice`.

    Returns
    -------
    PhantomSlice
        Image and masks, with ``L1`` … ``L5``.

    Raises
    ------
    InputError
        Where shape or spacing cannot be used.
    """
    _check_grid(shape_hw, spacing_mm)
    z = (-(np.arange(shape_hw[0]) - (shape_hw[0] - 1) / 2) * spacing_mm[0]).astype(np.float32)
    _, y = _axial_axes(parameters, (shape_hw[1], 8), (spacing_mm[1], 1.0))
    body = Body(parameters)
    (fine_z, by_rows), (fine_y, by_columns) = _refine(z, spacing_mm[0]), _refine(y, spacing_mm[1])
    fine = body.label_at(x_mm, fine_y[None, :], fine_z[:, None])
    labels = _centres(fine, by_rows, by_columns)
    hu = render_hu(fine, parameters, spacing_mm=spacing_mm, rng=rng, oversampling=(by_rows, by_columns))
    _cut_field(hu, labels, parameters, np.asarray([x_mm], dtype=np.float32), y)
    return PhantomSlice(
        hu=hu,
        masks=masks_from_labels(labels),
        spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1])),
        plane="sagittal",
        position_mm=float(x_mm),
        origin_mm=(float(x_mm), float(y[0]), float(z[0])),
    )


def make_volume(
    parameters: PhantomParameters,
    *,
    shape_zyx: tuple[int, int, int] = (60, 256, 256),
    spacing_zyx_mm: tuple[float, float, float] = (5.0, 1.6, 1.6),
    rng: np.random.Generator,
) -> PhantomVolume:
    """Make a volume centred on L3 in height and on the trunk in the plane.

    Parameters
    ----------
    parameters : PhantomParameters
        The patient.
    shape_zyx : tuple of int
        Slices, rows, columns.
    spacing_zyx_mm : tuple of float
        Distances between slices, rows and columns. L1 to S1 span about 260 mm.
    rng : numpy.random.Generator
        Source of texture and noise.

    Returns
    -------
    PhantomVolume
        Image, labels and geometry; slice k's labels equal those of `make_axial_slice` at its z.

    Raises
    ------
    InputError
        Where shape or spacing cannot be used.
    """
    if len(shape_zyx) != 3 or len(spacing_zyx_mm) != 3:
        raise InputError(
            "a volume needs three sizes and three spacings", received=(shape_zyx, spacing_zyx_mm)
        )
    depth, height, width = shape_zyx
    _check_grid((height, width), spacing_zyx_mm[1:])
    if not (1 <= depth <= _LARGEST_PX and 0.05 <= spacing_zyx_mm[0] <= 50):
        raise InputError("the slices of a volume are out of range", received=(depth, spacing_zyx_mm[0]))
    step_mm = float(spacing_zyx_mm[0])
    z = (np.arange(depth) - (depth - 1) / 2) * step_mm
    in_plane = (float(spacing_zyx_mm[1]), float(spacing_zyx_mm[2]))
    x, y = _axial_axes(parameters, (height, width), in_plane)
    body = Body(parameters)
    hu = np.empty(shape_zyx, dtype=np.int16)
    labels = np.empty(shape_zyx, dtype=np.uint8)
    (fine_y, by_rows), (fine_x, by_columns) = _refine(y, in_plane[0]), _refine(x, in_plane[1])
    for index in range(depth):
        fine = body.label_at(fine_x[None, :], fine_y[:, None], float(z[index]))
        labels[index] = _centres(fine, by_rows, by_columns)
        hu[index] = render_hu(
            fine, parameters, spacing_mm=in_plane, rng=rng, oversampling=(by_rows, by_columns)
        )
        _cut_field(hu[index], labels[index], parameters, x, y)
    affine = np.diag([in_plane[1], in_plane[0], step_mm, 1.0])
    affine[:3, 3] = x[0], y[0], z[0]
    return PhantomVolume(
        hu_zyx=hu,
        labels_zyx=labels,
        affine=affine,
        spacing_zyx_mm=(step_mm, *in_plane),
        levels_mm=parameters.levels_mm,
    )


def level_z_mm(parameters: PhantomParameters, level: str) -> float:
    """Return the z (mm) of the middle of a vertebral body by its name.

    Raises
    ------
    InputError
        Where the phantom has no such level.

    Examples
    --------
    >>> from ctai_sam2.phantom.parameters import reference_parameters
    >>> level_z_mm(reference_parameters(), "L4")
    -37.0
    """
    levels = parameters.levels_mm
    if level not in levels:
        raise InputError(
            "the phantom has no such level", received=level, hint=f"Use one of {', '.join(levels)}."
        )
    return levels[level]


def _axial_axes(
    p: PhantomParameters, shape_hw: tuple[int, int], spacing_mm: tuple[float, float]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    front = p.wall_front_mm + p.sat_front_mm - p.wall_centre_y_mm
    back = back_depth_mm(p)
    # A scanner is centred on the patient, give or take the table below.
    centre_y = (back - front) / 2 + (8.0 if p.position == "supine" else -8.0)
    rows, columns = shape_hw
    x = (np.arange(columns) - (columns - 1) / 2) * spacing_mm[1]
    y = (np.arange(rows) - (rows - 1) / 2) * spacing_mm[0] + centre_y
    return x.astype(np.float32), y.astype(np.float32)


def _refine(axis_mm: npt.NDArray[np.float32], spacing_mm: float) -> tuple[npt.NDArray[np.float32], int]:
    """Return three samples for every coarse one, the middle one unmoved, and their number."""
    if spacing_mm <= _COARSE_MM:
        return axis_mm, 1
    offsets = np.asarray([-spacing_mm / 3, 0.0, spacing_mm / 3], dtype=np.float32)
    return (axis_mm[:, None] + offsets).ravel(), 3


def _centres(fine: npt.NDArray[np.uint8], by_rows: int, by_columns: int) -> npt.NDArray[np.uint8]:
    """Return the labels at the pixel centres."""
    return fine[by_rows // 2 :: by_rows, by_columns // 2 :: by_columns].copy()


def _cut_field(
    hu: npt.NDArray[np.int16],
    labels: npt.NDArray[np.uint8],
    p: PhantomParameters,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
) -> None:
    """Blank what lies outside the reconstructed circle, in the image and in the labels."""
    middle = float(y[0] + y[-1]) / 2
    if x.size > 1:
        beyond = (x[None, :] ** 2 + (y[:, None] - middle) ** 2) > (p.field_of_view_mm / 2) ** 2
    else:
        beyond = np.broadcast_to(x * x + (y[None, :] - middle) ** 2 > (p.field_of_view_mm / 2) ** 2, hu.shape)
    hu[beyond] = round(p.padding_hu)
    labels[beyond] = Label.AIR


def _check_grid(shape_hw: tuple[int, ...], spacing_mm: tuple[float, ...]) -> None:
    if len(shape_hw) != 2 or not all(_SMALLEST_PX <= size <= _LARGEST_PX for size in shape_hw):
        raise InputError(
            "the shape of a slice is out of range",
            received=shape_hw,
            hint=f"Use rows and columns from {_SMALLEST_PX} to {_LARGEST_PX}.",
        )
    if len(spacing_mm) != 2 or not all(0.05 <= spacing <= 50 for spacing in spacing_mm):
        raise InputError(
            "the spacing of a slice is out of range", received=spacing_mm, hint="Use 0.05 to 50 mm."
        )
