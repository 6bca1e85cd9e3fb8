"""Which images of a DICOM series make one stack, decided before anything is stacked.

A SeriesInstanceUID is no promise: exports put two patients, the native and the contrast phase or two kernels
under one. What never differs within a stack (patient, study, frame of reference, kernel, kV, grid) splits a
series wherever it differs. What may change along a stack (the number of an acquisition, the thickness, the
time) splits it only where the parts overlap in space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.io.dicom_headers import FrameHeader, GroupingKeys

SAME_PLACE_MM = 1e-4
"""Images nearer to each other than this lie at one place."""

_ORIENTATION_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-3
_EVEN_TOLERANCE = 0.05
"""Share of a step by which the steps of an even stack differ."""

_FEWEST_IN_RUN = 3

_MOST_PHASES = 8
"""More are turns of the tube: some scanners note a time for each, and they spread over one stack."""

_OTHER_THICKNESS_MM = 0.25
_OTHER_FIELD_MM = 5.0
"""Smallest distance of values of two stacks: less is rounding, or a gantry's tilt from slice to slice."""

_ALWAYS: tuple[tuple[str, Callable[[GroupingKeys], str]], ...] = (
    ("patient", lambda keys: keys.patient[0] if keys.patient else ""),
    ("patient", lambda keys: keys.patient[1] if keys.patient else ""),
    ("patient", lambda keys: keys.patient[2] if keys.patient else ""),
    ("patient", lambda keys: keys.patient[3] if keys.patient else ""),
    ("patient", lambda keys: keys.patient[4] if keys.patient else ""),
    ("study", lambda keys: keys.study_uid),
    ("frame of reference", lambda keys: keys.frame_of_reference_uid),
    ("kernel", lambda keys: keys.kernel),
    ("kV", lambda keys: keys.kvp),
    ("stack", lambda keys: keys.stack),
)
_WHERE_THEY_OVERLAP: tuple[tuple[str, Callable[[Sequence[FrameHeader]], list[str]]], ...] = (
    ("acquisition", lambda frames: [f.keys.acquisition for f in frames]),
    ("temporal position", lambda frames: [f.keys.temporal_position for f in frames]),
    ("contrast", lambda frames: [f.keys.contrast for f in frames]),
    ("image type", lambda frames: [f.keys.image_type for f in frames]),
    ("slice thickness", lambda frames: _thicknesses(frames)),
    ("field of view", lambda frames: _fields_of_view(frames)),
    ("description", lambda frames: [f.description or "" for f in frames]),
    ("time", lambda frames: [f.keys.time for f in frames]),
)


@dataclass(frozen=True, kw_only=True)
class ImageGroup:
    """Images that make one stack.

    Parameters
    ----------
    frames : tuple of FrameHeader
        In the order found.
    distinguished_by : tuple of str
        What distinguishes the group from others under its SeriesInstanceUID.
    """

    frames: tuple[FrameHeader, ...]
    distinguished_by: tuple[str, ...] = ()


def group_images(members: Sequence[FrameHeader]) -> list[ImageGroup]:
    """Split the images of one SeriesInstanceUID into stacks; usable ones first, larger before smaller."""
    groups = [ImageGroup(frames=tuple(part)) for part in _by_grid(members)]
    if len(groups) > 1:
        groups = [ImageGroup(frames=g.frames, distinguished_by=("grid",)) for g in groups]
    for name, value_of_keys in _ALWAYS:
        groups = [piece for group in groups for piece in _split_always(group, name, value_of_keys)]
    for name, values_of in _WHERE_THEY_OVERLAP:
        groups = [piece for group in groups for piece in _split_overlapping(group, name, values_of)]
    groups = [piece for group in groups for piece in _split_runs(group)]
    return sorted(groups, key=lambda g: (g.frames[0].refusal is not None, -len(g.frames)))


def normal_of(header: FrameHeader) -> NDArray[np.float64]:
    """Compute an image's unit normal in LPS, shape (3,): row direction times column direction."""
    directions = np.asarray(header.orientation, dtype=np.float64)
    normal = np.cross(directions[:3], directions[3:])
    length = float(np.linalg.norm(normal))
    unit: NDArray[np.float64] = normal / length if length else normal
    return unit


def projections(members: Sequence[FrameHeader]) -> NDArray[np.float64]:
    """Compute positions in mm along the first image's normal, shape (N,)."""
    return np.array([m.position_mm for m in members], dtype=np.float64) @ normal_of(members[0])


def _by_grid(members: Sequence[FrameHeader]) -> list[list[FrameHeader]]:
    parts: list[list[FrameHeader]] = []
    for header in members:
        for part in parts:
            if _same_grid(part[0], header):
                part.append(header)
                break
        else:
            parts.append([header])
    return parts


def _same_grid(a: FrameHeader, b: FrameHeader) -> bool:
    return (
        a.refusal == b.refusal
        and a.shape_hw == b.shape_hw
        and _close(a.orientation, b.orientation, _ORIENTATION_TOLERANCE)
        and _close(a.spacing_mm, b.spacing_mm, _SPACING_TOLERANCE)
    )


def _close(a: tuple[float, ...] | None, b: tuple[float, ...] | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return max(abs(u - v) for u, v in zip(a, b, strict=True)) <= tolerance


def _split_always(
    group: ImageGroup, name: str, value_of_keys: Callable[[GroupingKeys], str]
) -> list[ImageGroup]:
    if group.frames[0].refusal is not None:
        return [group]
    parts = _parts_by(group.frames, [value_of_keys(frame.keys) for frame in group.frames])
    # A missing value next to a single value is an omission; next to two it belongs to neither.
    if len([value for value in parts if value]) < 2:
        return [group]
    return _named(group, parts, name)


def _split_overlapping(
    group: ImageGroup, name: str, values_of: Callable[[Sequence[FrameHeader]], list[str]]
) -> list[ImageGroup]:
    if not _is_placed(group.frames):
        return [group]
    parts = _parts_by(group.frames, values_of(group.frames))
    stacks = [part for part in parts.values() if len(part) > 1]
    if name == "time" and not _are_phases(group.frames, list(parts.values())):
        return [group]
    if len(parts) > 1 and (_overlap(group.frames, stacks) or _has_strays(group.frames, parts, stacks)):
        return _named(group, parts, name)
    return [group]


def _are_phases(frames: Sequence[FrameHeader], parts: Sequence[list[FrameHeader]]) -> bool:
    """Tell whether times are those of phases, few and each an even stack, and not of turns of the tube."""
    if _collide(frames):
        return True
    if len(parts) > _MOST_PHASES or min(len(part) for part in parts) < _FEWEST_IN_RUN:
        return False
    steps = [np.diff(np.sort(projections(part))) for part in parts]
    return all(bool(np.ptp(step) <= _EVEN_TOLERANCE * step.mean()) for step in steps)


def _overlap(frames: Sequence[FrameHeader], stacks: Sequence[list[FrameHeader]]) -> bool:
    """Tell whether two of the stacks cover the same part of the patient."""
    if len(stacks) > _MOST_PHASES and not _collide(frames):
        return False
    positions = dict(zip(map(id, frames), projections(frames).tolist(), strict=True))
    spans = sorted(_span(np.array([positions[id(f)] for f in stack])) for stack in stacks)
    for (low_before, high_before), (low, high) in pairwise(spans):
        if low < high_before - SAME_PLACE_MM:
            return True
        # Two acquisitions that share the image at their border are two stacks, a time series is none.
        if (
            low <= high_before + SAME_PLACE_MM
            and low_before < high_before
            and low < high
            and _collide(frames)
        ):
            return True
    return False


def _has_strays(
    frames: Sequence[FrameHeader], parts: dict[str, list[FrameHeader]], stacks: Sequence[list[FrameHeader]]
) -> bool:
    """Tell whether single images that differ from a stack lie where it has an image already."""
    if not stacks or len(stacks) == len(parts):
        return False
    return _collide(frames) and not any(_collide(part) for part in parts.values())


def _split_runs(group: ImageGroup) -> list[ImageGroup]:
    """Split stacks that nothing but the numbers of the images tells apart.

    Sorted by number, each of them runs evenly from one end to the other, and their spans overlap.
    """
    frames = group.frames
    numbers = [frame.instance_number for frame in frames]
    if not _is_placed(frames) or len(set(numbers)) < len(numbers) or None in numbers:
        return [group]
    order = sorted(range(len(frames)), key=lambda i: frames[i].instance_number or 0)
    positions = projections(frames)[order]
    steps = np.diff(positions)
    if steps.size < 2 * _FEWEST_IN_RUN - 1:
        return [group]
    step = float(np.median(steps))
    if abs(step) <= SAME_PLACE_MM:
        return [group]
    breaks = np.flatnonzero(np.abs(steps - step) > _EVEN_TOLERANCE * abs(step)) + 1
    runs = np.split(np.arange(len(frames)), breaks)
    if not _are_runs([len(run) for run in runs]):
        return [group]
    spans = sorted(_span(positions[run]) for run in runs)
    if not all(low < high - SAME_PLACE_MM for (_, high), (low, _) in pairwise(spans)):
        return [group]
    return [
        ImageGroup(
            frames=tuple(frames[order[i]] for i in run),
            distinguished_by=(*group.distinguished_by, "order of the images"),
        )
        for run in runs
    ]


def _are_runs(lengths: Sequence[int]) -> bool:
    """Tell whether runs are long, or many and alike, enough to be no chance."""
    if len(lengths) < 2:
        return False
    return min(lengths) >= _FEWEST_IN_RUN or (min(lengths) == max(lengths) == 2 and len(lengths) >= 3)


def _parts_by(frames: Sequence[FrameHeader], values: Sequence[str]) -> dict[str, list[FrameHeader]]:
    parts: dict[str, list[FrameHeader]] = {}
    for frame, value in zip(frames, values, strict=True):
        parts.setdefault(value, []).append(frame)
    return parts


def _thicknesses(frames: Sequence[FrameHeader]) -> list[str]:
    stated = [frame.acquisition.slice_thickness_mm for frame in frames]
    # Where one image states none, nothing is compared.
    known = [mm for mm in stated if mm is not None]
    return _apart(known, _OTHER_THICKNESS_MM) if len(known) == len(stated) else [""] * len(stated)


def _fields_of_view(frames: Sequence[FrameHeader]) -> list[str]:
    """Tell by their first pixels which images were reconstructed about one middle."""
    directions = np.asarray(frames[0].orientation, dtype=np.float64).reshape(2, 3)
    across, down = directions @ np.array([f.position_mm for f in frames], dtype=np.float64).T
    fields = zip(_apart(across, _OTHER_FIELD_MM), _apart(down, _OTHER_FIELD_MM), strict=True)
    return [f"{x} {y}" for x, y in fields]


def _apart(values: Sequence[float] | NDArray[np.float64], least: float) -> list[str]:
    """Return each value's cluster, as a number; clusters are farther apart than ``least``."""
    numbers = np.asarray(values, dtype=np.float64)
    order = np.argsort(numbers, kind="stable")
    clusters = np.zeros(numbers.size, dtype=np.intp)
    clusters[order[1:]] = np.cumsum(np.diff(numbers[order]) > least)
    return [str(cluster) for cluster in clusters]


def _named(group: ImageGroup, parts: dict[str, list[FrameHeader]], name: str) -> list[ImageGroup]:
    names = tuple(dict.fromkeys([*group.distinguished_by, name]))
    return [ImageGroup(frames=tuple(part), distinguished_by=names) for part in parts.values()]


def _is_placed(frames: Sequence[FrameHeader]) -> bool:
    return frames[0].refusal is None and all(f.orientation and f.position_mm for f in frames)


def _span(positions: NDArray[np.float64]) -> tuple[float, float]:
    return float(positions.min()), float(positions.max())


def _collide(frames: Sequence[FrameHeader]) -> bool:
    """Tell whether different images lie at one place; copies of one image do not count."""
    distinct = {(f.instance_uid or id(f), f.frame): f for f in frames}
    places = [tuple(round(v, 3) for v in f.position_mm or ()) for f in distinct.values()]
    return len(set(places)) < len(places)
