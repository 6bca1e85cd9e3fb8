"""One DICOM series as a volume: decoded, sorted, stacked and described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import CtaiError, DicomError, GeometryError, InputError
from ctai_sam2.geometry import (
    TILT_DEGREES,
    affine_from_dicom,
    axis_correspondence,
    canonicalise,
    examine_stacking,
    plane_of,
    tilt_deg,
)
from ctai_sam2.io.dicom_headers import FileSource, FrameHeader
from ctai_sam2.io.dicom_pixels import implausible_values, read_hu_frames
from ctai_sam2.io.dicom_series import (
    NAMES_SHOWN,
    SAME_PLACE_MM,
    Series,
    cause_of,
    normal_of,
    projections,
    skipped_warning,
)
from ctai_sam2.types import CTVolume

MAX_VOXELS = 2**31
"""Larger volumes (4 GiB of int16) are refused before anything is allocated."""


def read_series(series: Series, *, cautions: Sequence[str] = ()) -> CTVolume:
    """Decode a series and stack it along its normal.

    Parameters
    ----------
    series : Series
        A usable one.
    cautions : sequence of str
        Put in front of the volume's warnings.

    Raises
    ------
    DicomError
        If the series is not usable or none of its files can be decoded.
    GeometryError
        If position, direction or spacing is missing, or different images lie at the same place.
    """
    info, frames = series.info, list(series.frames)
    if info.refusal is not None:
        where = frames[0].path.name if len({f.path for f in frames}) == 1 else "the series"
        raise DicomError(f"{where} cannot be used: {info.refusal}", hint="Give axial CT images in HU.")
    frames = _sorted_along_normal(frames)
    height, width = info.shape_hw
    if len(frames) * height * width > MAX_VOXELS:
        raise InputError(
            "the series is larger than this package reads",
            received=f"{len(frames)} images of {width} x {height}",
            hint="Give the part of the body that is needed.",
        )
    hu, decoded, found, failures = _decode_all(frames, (height, width))
    warnings = [*cautions, *skipped_warning(failures), *found]
    frames = [frame for frame, good in zip(frames, decoded, strict=True) if good]
    if not all(decoded):
        hu = hu[np.array(decoded)]
    hu, frames, repeats = _without_repeats(hu, frames)
    if repeats:
        warnings.append(f"{repeats} repeated image{'s' * (repeats > 1)} left out")
    warnings += list(dict.fromkeys(text for frame in frames for text in frame.cautions))
    return _stack(hu, frames, warnings)


def _sorted_along_normal(frames: list[FrameHeader]) -> list[FrameHeader]:
    order = np.argsort(projections(frames), kind="stable")
    return [frames[int(i)] for i in order]


def _decode_all(
    frames: Sequence[FrameHeader], shape_hw: tuple[int, int]
) -> tuple[NDArray[np.int16], list[bool], list[str], list[tuple[str, str]]]:
    by_path: dict[FileSource, list[int]] = {}
    for index, frame in enumerate(frames):
        by_path.setdefault(frame.path, []).append(index)
    hu = np.zeros((len(frames), *shape_hw), dtype=np.int16)
    decoded = [False] * len(frames)
    counts: dict[str, int] = {}
    failures: list[tuple[str, str]] = []
    first_error: CtaiError | None = None
    for path, indices in by_path.items():
        try:
            content = read_hu_frames(path, [frames[i].frame for i in indices])
        except CtaiError as error:
            first_error = first_error or error
            failures.append((path.name, cause_of(error, path)))
            continue
        for index, image in zip(indices, content.frames, strict=True):
            hu[index] = image
            decoded[index] = True
        for text in content.cautions:
            counts[text] = counts.get(text, 0) + 1
    if not any(decoded):
        if len(by_path) == 1 and first_error is not None:
            raise first_error
        raise DicomError(
            f"none of the {len(by_path)} files of the series can be read",
            received=", ".join(f"{name}: {cause}" for name, cause in failures[:NAMES_SHOWN]),
            hint="Export the series again.",
        ) from first_error
    total = len(by_path)
    found = [
        text if total == 1 or count == total else f"{text} ({count} of {total} files)"
        for text, count in counts.items()
    ]
    return hu, decoded, found, failures


def _without_repeats(
    hu: NDArray[np.int16], frames: list[FrameHeader]
) -> tuple[NDArray[np.int16], list[FrameHeader], int]:
    positions = projections(frames)
    keep = [0]
    for index in range(1, len(frames)):
        if positions[index] - positions[keep[-1]] > SAME_PLACE_MM:
            keep.append(index)
        elif not np.array_equal(hu[index], hu[keep[-1]]):
            raise GeometryError(
                "different images lie at the same place",
                received=f"{frames[keep[-1]].path.name} and {frames[index].path.name}",
                hint="The folder mixes phases or repeats of a scan: keep one of them.",
            )
    repeats = len(frames) - len(keep)
    return (hu[keep] if repeats else hu), [frames[i] for i in keep], repeats


@dataclass(frozen=True, kw_only=True, eq=False)
class StackPlace:
    """Where a stack of images lies, as stored and in canonical order.

    Parameters
    ----------
    stored : ndarray, shape (4, 4)
        Maps (x, y, z, 1) of the images as stored, in order along their normal, to LPS mm.
    canonical : ndarray, shape (4, 4)
        The same for the canonical volume.
    shape_zyx : tuple of int
        Of the canonical volume.
    slice_positions_mm : ndarray, shape (D,), optional
        Positions of the canonical volume's slices, where they are the stored images.
    """

    stored: NDArray[np.float64]
    canonical: NDArray[np.float64]
    shape_zyx: tuple[int, int, int]
    slice_positions_mm: NDArray[np.float64] | None


def place_stack(frames: Sequence[FrameHeader]) -> tuple[StackPlace, list[str]]:
    """Place images, sorted along their normal and without repeats, and say what to be careful about.

    Raises
    ------
    GeometryError
        If orientation, position or spacing is missing, or images other than axial ones are unevenly spaced.
    """
    first = frames[0]
    warnings: list[str] = []
    if first.orientation is None or first.position_mm is None or first.spacing_mm is None:
        raise GeometryError("the images lack orientation, position or spacing")
    origins = np.array([frame.position_mm for frame in frames], dtype=np.float64)
    positions = projections(frames)
    if len(frames) == 1:
        step = normal_of(first) * (first.acquisition.slice_thickness_mm or 1.0)
        if first.acquisition.slice_thickness_mm is None:
            warnings.append("no slice thickness is recorded; 1 mm was assumed")
    else:
        step = _median_step(origins, positions)
    affine = affine_from_dicom(first.orientation, first.position_mm, first.spacing_mm, step)
    slice_axis = axis_correspondence(affine)[0].index(2)
    warnings += _geometry_warnings(affine, origins, positions, slice_axis)
    view, canonical = canonicalise(np.broadcast_to(False, (len(frames), *first.shape_hw)), affine)
    slice_positions: NDArray[np.float64] | None = None
    if slice_axis == 2:
        slice_positions = positions
        if axis_correspondence(affine)[1][2] < 0:
            slice_positions = -positions[::-1]
            # The lowest slice is now the first, and gaps put it elsewhere than even steps would.
            canonical[:3, 3] += origins[-1] - (origins[0] + step * (len(frames) - 1))
    depth, height, width = view.shape
    place = StackPlace(
        stored=affine,
        canonical=canonical,
        shape_zyx=(depth, height, width),
        slice_positions_mm=slice_positions,
    )
    return place, warnings


def _stack(hu: NDArray[np.int16], frames: Sequence[FrameHeader], warnings: list[str]) -> CTVolume:
    place, found = place_stack(frames)
    warnings += [*found, *implausible_values(hu)]
    hu_zyx, _ = canonicalise(hu, place.stored)
    return CTVolume(
        hu_zyx=np.ascontiguousarray(hu_zyx),
        affine=place.canonical,
        slice_positions_mm=place.slice_positions_mm,
        acquisition=frames[0].acquisition,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _median_step(origins: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    step_mm = examine_stacking(positions).step_mm
    # The direction comes from the whole stack, the length from typical neighbours, so gaps do not stretch it.
    direction = (origins[-1] - origins[0]) / (positions[-1] - positions[0])
    return np.asarray(direction * step_mm, dtype=np.float64)


def _geometry_warnings(
    affine: NDArray[np.float64],
    origins: NDArray[np.float64],
    positions: NDArray[np.float64],
    slice_axis: int,
) -> list[str]:
    found: list[str] = []
    plane, angle = plane_of(affine)
    if plane == "oblique":
        found.append(f"the slices are oblique, {angle:.1f} degrees from the nearest anatomical plane")
    elif plane != "axial":
        found.append(f"the images are {plane}; axial slices are taken across them")
    if len(positions) == 1:
        return found
    tilt = tilt_deg(affine)
    if tilt > TILT_DEGREES:
        found.append(f"gantry tilt: slices lean {tilt:.1f} degrees against the stacking direction")
    along = (positions - positions[0]) / (positions[-1] - positions[0])
    expected = origins[0] + along[:, None] * (origins[-1] - origins[0])
    drift = float(np.linalg.norm(origins - expected, axis=1).max())
    if drift > min(np.linalg.norm(affine[:3, 0]), np.linalg.norm(affine[:3, 1])):
        found.append(f"slices are shifted sideways against each other by up to {drift:.1f} mm")
    stacking = examine_stacking(positions)
    if slice_axis != 2 and stacking.irregular:
        raise GeometryError(
            f"the {plane} images are not evenly spaced, so axial slices cannot be taken across them",
            received=f"steps of {np.diff(positions).min():.2f} to {np.diff(positions).max():.2f} mm",
            hint="Give the axial series.",
        )
    if stacking.gaps:
        widest = float(np.diff(positions).max())
        noun = "gap" if len(stacking.gaps) == 1 else "gaps"
        found.append(
            f"{len(stacking.gaps)} {noun} in the stack: up to {widest:.4g} mm between slices"
            f" instead of {stacking.step_mm:.4g} mm"
        )
    elif stacking.irregular:
        steps = np.diff(positions)
        found.append(f"slice distances vary from {steps.min():.4g} to {steps.max():.4g} mm")
    return found
