"""Readers that share no code with the package: they follow the standards' text, slowly and plainly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread

Points = np.ndarray[Any, np.dtype[np.float64]]


def volume_points_mm(mask_zyx: Any, affine: Any, z_offsets: Any = None) -> Points:
    """LPS positions of a mask's voxels, sorted, shape (N, 3)."""
    z, y, x = np.nonzero(mask_zyx)
    z = z.astype(float) if z_offsets is None else np.asarray(z_offsets)[z]
    points = np.column_stack([x, y, z, np.ones(len(x))]) @ np.asarray(affine).T
    return sorted_points(points[:, :3])


def sorted_points(points: Any) -> Points:
    points = np.round(np.asarray(points, dtype=float), 3) + 0.0
    return points[np.lexsort(points.T)]


def seg_points_mm(path: Path) -> dict[str, Points]:
    """LPS positions of the voxels of each segment of a binary SEG, by PS3.3 C.7.6.2.1.1 and PS3.5 8.1.1."""
    dataset = dcmread(path)
    rows, columns = dataset.Rows, dataset.Columns
    bits = [byte >> bit & 1 for byte in dataset.PixelData for bit in range(8)]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    points: dict[str, list[Any]] = {item.SegmentLabel: [] for item in dataset.SegmentSequence}
    labels = {item.SegmentNumber: item.SegmentLabel for item in dataset.SegmentSequence}
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):

        def functional_group(name: str, frame: Any = frame) -> Any:
            return next(group[name][0] for group in (frame, shared) if name in group)

        orientation = functional_group("PlaneOrientationSequence").ImageOrientationPatient
        spacing = functional_group("PixelMeasuresSequence").PixelSpacing
        position = np.array(functional_group("PlanePositionSequence").ImagePositionPatient, dtype=float)
        along_row, along_column = np.array(orientation[:3], float), np.array(orientation[3:], float)
        label = labels[functional_group("SegmentIdentificationSequence").ReferencedSegmentNumber]
        for row in range(rows):
            for column in range(columns):
                if bits[(number * rows + row) * columns + column]:
                    points[label].append(
                        position
                        + along_row * float(spacing[1]) * column
                        + along_column * float(spacing[0]) * row
                    )
    return {label: sorted_points(np.reshape(found, (-1, 3))) for label, found in points.items()}


def signed_area(ring_xy: Any) -> float:
    """Area of a ring by the shoelace formula; its sign says which way round it runs."""
    x, y = np.asarray(ring_xy).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def polygon_area_px(polygon: Any) -> float:
    """Area of a polygon less its holes, in pixels."""
    return abs(signed_area(polygon.exterior_xy)) - sum(abs(signed_area(ring)) for ring in polygon.holes_xy)
