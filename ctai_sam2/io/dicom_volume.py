"""One DICOM series as a volume: decoded, sorted, stacked and described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import CtaiError, DicomError, GeometryError
from ctai_sam2.geometry import (
    TILT_DEGREES,
    affine_from_dicom,
    axis_correspondence,
    canonicalise,
    examine_stacking,
    plane_of,
    tilt_deg,
)
from ctai_sam2.image.plausibility import (
    LIMITS,
    implausible_values,
    require_memory,
    require_plausible_grid,
    require_plausible_spacing,
)
from ctai_sam2.io.dicom_groups import SAME_PLACE_MM, normal_of, projections
from ctai_sam2.io.dicom_headers import FileSource, FrameHeader
from ctai_sam2.io.dicom_pixels import read_hu_frames
from ctai_sam2.io.dicom_series import NAMES_SHOWN, Series, cause_of, skipped_warning
from ctai_sam2.types import CTVolume

_NEAR_SHARE = 0.25
"""Images nearer to each other than this share of the stack's step are no neighbours."""

_FEWEST_ALTERNATING = 5
_SAME_STEP = 0.05
_TOUCHING_SHARE = 0.9
"""Slices nearer to each other than this share of their thickness overlap."""


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
    require_memory(len(frames) * height * width)
    _require_plausible_pixels(frames[0])
    hu, decoded, found, failures = _decode_all(frames, (height, width))
    warnings = [*cautions, *skipped_warning(failures), *found]
    frames = [frame for frame, good in zip(frames, decoded, strict=True) if good]
    if not all(decoded):
        hu = hu[np.array(decoded)]
    hu, frames, repeated = _without_repeats(hu, frames)
    if repeated:
        noun = "image" if len(repeated) == 1 else "images"
        names = ", ".join(repeated[:NAMES_SHOWN]) + (" …" if len(repeated) > NAMES_SHOWN else "")
        warnings.append(f"{len(repeated)} repeated {noun} left out ({names})")
    _refuse_interleaved(frames)
    warnings += list(dict.fromkeys(text for frame in frames for text in frame.cautions))
    return _stack(hu, frames, warnings)


def _require_plausible_pixels(frame: FrameHeader) -> None:
    """Refuse pixels that no CT has before an image is decoded; what lacks them is refused later."""
    if frame.spacing_mm is not None and frame.orientation is not None:
        plane, _ = plane_of(affine_from_dicom(frame.orientation, (0.0, 0.0, 0.0), (1.0, 1.0)))
        require_plausible_spacing(frame.spacing_mm, frame.shape_hw, axial=plane == "axial")


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
    # In one thread: pydicom's parser and the decoders hold the interpreter, threads gain nothing.
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
            received=_by_cause(failures),
            hint="Export the series again.",
        ) from first_error
    total = len(by_path)
    found = [
        text if total == 1 or count == total else f"{text} ({count} of {total} files)"
        for text, count in counts.items()
    ]
    return hu, decoded, found, failures


def _by_cause(failures: Sequence[tuple[str, str]]) -> str:
    """Each cause once, with the first file that has it and how many more do."""
    names: dict[str, list[str]] = {}
    for name, cause in failures:
        names.setdefault(cause, []).append(name)
    return ", ".join(
        f"{of_cause[0]}{f' and {len(of_cause) - 1} more' if len(of_cause) > 1 else ''}: {cause}"
        for cause, of_cause in list(names.items())[:NAMES_SHOWN]
    )


def _without_repeats(
    hu: NDArray[np.int16], frames: list[FrameHeader]
) -> tuple[NDArray[np.int16], list[FrameHeader], list[str]]:
    """Leave out copies of an image at its place; name the files left out, refuse images that differ."""
    positions = projections(frames)
    keep = [0]
    for index in range(1, len(frames)):
        if positions[index] - positions[keep[-1]] > SAME_PLACE_MM:
            keep.append(index)
        elif not np.array_equal(hu[index], hu[keep[-1]]):
            first, second = frames[keep[-1]].path.name, frames[index].path.name
            raise GeometryError(
                "one slice is there twice: different images lie at the same place",
                received=f"{first} and {second}" if first != second else f"two frames of {first}",
                hint="The folder mixes phases, or a slice was taken again: keep one of them.",
            )
    kept = set(keep)
    repeated = [frame.path.name for index, frame in enumerate(frames) if index not in kept]
    return (hu[keep] if repeated else hu), [frames[i] for i in keep], repeated


def _refuse_interleaved(frames: Sequence[FrameHeader]) -> None:
    """Refuse stacks pushed into each other, which nothing in their headers tells apart.

    Raises
    ------
    GeometryError
        If images lie much nearer to each other than the rest, two distances alternate, or they lie in like
        clusters.
    """
    if len(frames) < 3:
        return
    steps = np.diff(projections(frames))
    # A distance that no protocol has is a gap, and says nothing of how the images follow each other.
    usual = steps[steps <= LIMITS.step_mm[1]]
    if usual.size < 2:
        return
    is_near = steps < _NEAR_SHARE * np.percentile(usual, 75)
    thickness_mm = frames[0].acquisition.slice_thickness_mm
    if thickness_mm is not None:
        # Slices that touch are neighbours in one stack, however far the next of them is.
        is_near &= steps < _TOUCHING_SHARE * thickness_mm
    near = np.flatnonzero(is_near & ~_is_even_but_for_a_gap(steps, is_near, thickness_mm))
    if near.size == 0 and steps.size >= _FEWEST_ALTERNATING:
        even, odd = steps[::2], steps[1::2]
        if all(np.ptp(part) <= _SAME_STEP * part.mean() for part in (even, odd)) and abs(
            even.mean() - odd.mean()
        ) > 2 * _SAME_STEP * max(even.mean(), odd.mean()):
            near = np.flatnonzero(steps == steps.min())
    if near.size == 0 and _lies_in_clusters(steps, thickness_mm):
        near = np.flatnonzero(steps == steps.min())
    if near.size:
        first, second = (frames[int(near[0]) + k].path.name for k in (0, 1))
        raise GeometryError(
            "stacks lie within each other: some of the images are far nearer than the others",
            received=f"steps of {steps.min():.3g} to {steps.max():.3g} mm, {first} and {second}",
            hint="The folder mixes phases or reconstructions: keep one of them.",
        )


def _lies_in_clusters(steps: NDArray[np.float64], thickness_mm: float | None) -> bool:
    """Tell whether the images lie in like clusters, as those of many phases of few slices.

    Images missing from one stack leave clusters too: a whole number of steps apart, and within a cluster the
    slices then touch or overlap by half at most.
    """
    is_far = steps > steps.min() / _NEAR_SHARE
    clusters = np.split(steps, np.flatnonzero(is_far))
    within = [clusters[0], *(cluster[1:] for cluster in clusters[1:])]
    if len(within) < 2 or steps[is_far].max() > LIMITS.step_mm[1] or not within[0].size:
        return False
    if any(one.shape != within[0].shape for one in within):
        return False
    if any(np.abs(one - within[0]).max() > _SAME_STEP * steps.min() for one in within):
        return False
    near_mm = float(np.mean(within))
    if thickness_mm is not None:
        return near_mm < _NEAR_SHARE * thickness_mm
    ratio = float(steps[is_far].min()) / near_mm
    return abs(ratio - round(ratio)) > _SAME_STEP * ratio


def _is_even_but_for_a_gap(
    steps: NDArray[np.float64], is_near: NDArray[np.bool_], thickness_mm: float | None
) -> bool:
    """Tell whether images follow each other evenly, three at least, and only one distance is larger."""
    near = steps[is_near]
    if near.size < 2 or np.count_nonzero(~is_near) != 1 or np.ptp(near) > _SAME_STEP * near.mean():
        return False
    in_a_row = bool((is_near[1:] & is_near[:-1]).any())
    return in_a_row and (thickness_mm is None or bool(near.mean() >= _NEAR_SHARE * thickness_mm))


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
    positions = projections(frames)
    spacing_xyz = np.linalg.norm(place.canonical[:3, :3], axis=0)
    require_plausible_grid(
        place.shape_zyx, spacing_xyz[::-1].tolist(), length_mm=float(positions[-1] - positions[0])
    )
    warnings += [*found, *implausible_values(hu)]
    hu_zyx, _ = canonicalise(hu, place.stored)
    return CTVolume(
        hu_zyx=np.ascontiguousarray(hu_zyx),
        affine=place.canonical,
        slice_positions_mm=place.slice_positions_mm,
        acquisition=frames[0].acquisition,
        warnings=tuple(dict.fromkeys(warnings)),
        instance_numbers=_numbers_from_below(frames, place.stored),
    )


def _numbers_from_below(frames: Sequence[FrameHeader], affine: NDArray[np.float64]) -> tuple[int | None, ...]:
    """Return the instance numbers of axial images from the lowest slice up; empty for other planes."""
    axes, signs = axis_correspondence(affine)
    if axes.index(2) != 2 or all(frame.instance_number is None for frame in frames):
        return ()
    numbers = [frame.instance_number for frame in frames]
    return tuple(numbers if signs[2] > 0 else reversed(numbers))


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
