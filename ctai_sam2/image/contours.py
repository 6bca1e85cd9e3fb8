"""Masks to polygons and back, without losing a pixel.

A mask's outline is taken along the edges *between* pixels, not through pixel
centres: integer coordinates are pixel centres, so the outline of pixel (0, 0)
runs through (-0.5, -0.5) and (0.5, 0.5). Thereby a polygon's area is exactly
its number of pixels, single pixels and one-pixel bridges have an outline like
anything else, and filling the polygon gives the mask back.

Pixels that only touch at a corner belong to different polygons. An island in a
hole is a polygon of its own. Rings do not repeat their first point; exteriors
run clockwise as seen on screen (y down), holes counter-clockwise. Rings do not
cross themselves, but may touch themselves at a corner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.image.masks import as_mask
from ctai_sam2.types import Mask

# Directions a pixel's edges run in, clockwise on screen: east, south, west, north.
_STEPS_XY = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])

_SAME_LINE_PX = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Polygon:
    """One closed outline and the holes in it.

    Parameters
    ----------
    exterior_xy : array_like, shape (N, 2)
        Corners (x = column, y = row) in pixels, integer = pixel centre; N at least 3,
        the first not repeated at the end (a repeated one is dropped).
    holes_xy : sequence of array_like, shape (M, 2)
        Rings to cut out.

    Raises
    ------
    InputError
        If a ring has fewer than three corners or one that is not finite.

    Examples
    --------
    >>> Polygon(exterior_xy=[[0, 0], [4, 0], [4, 3], [0, 0]]).exterior_xy.shape
    (3, 2)
    """

    exterior_xy: NDArray[np.float64]
    holes_xy: tuple[NDArray[np.float64], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "exterior_xy", _checked_ring(self.exterior_xy))
        object.__setattr__(self, "holes_xy", tuple(_checked_ring(ring) for ring in self.holes_xy))


def mask_to_polygons(mask_hw: Any, *, tolerance_px: float = 0.0) -> list[Polygon]:
    """Outline a mask.

    Parameters
    ----------
    mask_hw : array_like, shape (H, W)
        bool, or integers that are exactly {0, 1} or {0, 255}.
    tolerance_px : float
        With 0 (default) `polygons_to_mask` gives the mask back exactly and areas are
        equal. Above 0 each ring is thinned by Douglas and Peucker's method: the corners
        kept are corners of the exact outline, no point of the exact outline is farther
        than ``tolerance_px`` from the thinned one, and only pixels whose centre lies
        within ``tolerance_px`` of the exact outline may change. 0.71 (half a pixel's
        diagonal) turns diagonal staircases into lines. A ring that would collapse stays exact.

    Returns
    -------
    list of Polygon
        In reading order of their first pixel; empty for an empty mask.

    Raises
    ------
    InputError
        If the mask is none, or the tolerance is negative or not finite.

    Notes
    -----
    Douglas and Peucker, Cartographica 10 (1973) 112-122.

    Examples
    --------
    >>> [polygon] = mask_to_polygons(np.array([[0, 0, 0], [0, 1, 1]]))
    >>> polygon.exterior_xy.tolist()
    [[0.5, 0.5], [2.5, 0.5], [2.5, 1.5], [0.5, 1.5]]
    """
    inside = as_mask(mask_hw)
    if not (np.isfinite(tolerance_px) and tolerance_px >= 0):
        raise InputError("a tolerance must be finite and not negative", received=tolerance_px)
    # Outlines never join pixels over a corner, hence parts are labelled without diagonals.
    labels, count = scipy.ndimage.label(inside)
    exteriors: list[NDArray[np.float64] | None] = [None] * count
    holes: list[list[NDArray[np.float64]]] = [[] for _ in range(count)]
    for ring_xy, (row, column) in _trace_rings(inside):
        part = int(labels[row, column]) - 1
        ring = _thin(ring_xy, tolerance_px) if tolerance_px > 0 else ring_xy
        if _signed_area(ring_xy) > 0:
            exteriors[part] = ring
        else:
            holes[part].append(ring)
    return [
        Polygon(exterior_xy=exterior, holes_xy=tuple(cut))
        for exterior, cut in zip(exteriors, holes, strict=True)
        if exterior is not None
    ]


def polygons_to_mask(polygons: Iterable[Polygon], shape_hw: tuple[int, int]) -> Mask:
    """Fill polygons: the pixels whose centre lies in one of them and in none of its holes.

    Overlapping polygons are united; a ring that crosses itself is filled by the
    even-odd rule. A centre exactly on an edge belongs to the polygon on its right or
    below, so neighbours that share an edge never both own a pixel. What lies outside
    of the image is cut off.

    Parameters
    ----------
    polygons : iterable of Polygon
    shape_hw : (int, int)
        Rows and columns of the mask.

    Returns
    -------
    ndarray of bool, shape (H, W)

    Raises
    ------
    InputError
        If the shape is not two positive whole numbers.

    Examples
    --------
    >>> square = Polygon(exterior_xy=[[0.5, -0.5], [2.5, -0.5], [2.5, 0.5], [0.5, 0.5]])
    >>> polygons_to_mask([square], (2, 3)).astype(int)
    array([[0, 1, 1],
           [0, 0, 0]])
    """
    if len(shape_hw) != 2 or any(int(side) != side or side < 1 for side in shape_hw):
        raise InputError("a shape must be two positive whole numbers (rows, columns)", received=shape_hw)
    filled = np.zeros((int(shape_hw[0]), int(shape_hw[1])), dtype=np.bool_)
    for polygon in polygons:
        part, y0 = _fill_ring(polygon.exterior_xy, filled.shape)
        for ring_xy in polygon.holes_xy:
            hole, hole_y0 = _fill_ring(ring_xy, filled.shape)
            # A hand-drawn hole may stick out of its exterior: only rows they share count.
            top, bottom = max(y0, hole_y0), min(y0 + part.shape[0], hole_y0 + hole.shape[0])
            if top < bottom:
                part[top - y0 : bottom - y0] &= ~hole[top - hole_y0 : bottom - hole_y0]
        filled[y0 : y0 + part.shape[0]] |= part
    return filled


def combine_outlines(
    rings_xy: Sequence[NDArray[np.float64]], shape_hw: tuple[int, int]
) -> tuple[Mask, CombinedOutlines]:
    """Fill outlines of one structure on one image, drawn by any program: holes, doubles and overlaps.

    An outline within another is a hole, one within the hole an island and so on. An outline that follows
    another one within half a pixel is the same one drawn twice and counts once; outlines that cross are
    united.

    Parameters
    ----------
    rings_xy : sequence of ndarray, shape (N, 2)
        Corners (x = column, y = row) in pixels; at least 3 each.
    shape_hw : (int, int)
        Rows and columns of the mask.

    Returns
    -------
    mask : ndarray of bool, shape (H, W)
        Pixels whose centre lies inside.
    found : CombinedOutlines
        How many outlines were doubles, and how many crossed others.

    Raises
    ------
    InputError
        If a ring has fewer than three corners or one that is not finite.

    Examples
    --------
    >>> square = np.array([[-0.5, -0.5], [1.5, -0.5], [1.5, 1.5], [-0.5, 1.5]])
    >>> mask, found = combine_outlines([square, square], (3, 3))
    >>> int(mask.sum()), found.doubles
    (4, 1)
    """
    polygons = [Polygon(exterior_xy=ring) for ring in rings_xy]
    filled = [polygons_to_mask([polygon], shape_hw) for polygon in polygons]
    order = sorted(range(len(polygons)), key=lambda i: -abs(_signed_area(polygons[i].exterior_xy)))
    kept: list[int] = []
    doubles = crossings = 0
    result = np.zeros(shape_hw, dtype=np.bool_)
    for i in order:
        if any(
            (np.array_equal(filled[i], filled[k]) and filled[i].any())
            or _follow(polygons[i].exterior_xy, polygons[k].exterior_xy)
            for k in kept
        ):
            doubles += 1
            continue
        around = [k for k in kept if (filled[i] & filled[k]).any()]
        within = [k for k in around if not (filled[i] & ~filled[k]).any()]
        kept.append(i)
        if len(within) < len(around):
            crossings += 1
            result |= filled[i]
        elif len(within) % 2:
            result &= ~filled[i]
        else:
            result |= filled[i]
    return result, CombinedOutlines(doubles=doubles, crossings=crossings)


@dataclass(frozen=True, kw_only=True)
class CombinedOutlines:
    """What was found when outlines were combined.

    Parameters
    ----------
    doubles : int
        Outlines left out since they follow another one.
    crossings : int
        Outlines that cross another one, with which they were united.
    """

    doubles: int
    crossings: int


def polygon_to_keyhole(polygon: Polygon) -> NDArray[np.float64]:
    """Join a polygon's holes to its outline by bridges of no width: one ring, shape (N, 2).

    What `polygons_to_mask` fills of it is what it fills of the polygon; so do other
    programs that know outlines only (DICOM PS3.3 C.8.8.6.3 calls it the keyhole
    technique). Each hole is joined from its topmost corner to the nearest corner of the
    outline or of a hole that begins above it.

    Examples
    --------
    >>> square, hole = [[0, 0], [9, 0], [9, 9], [0, 9]], [[1, 1], [1, 2], [2, 2], [2, 1]]
    >>> len(polygon_to_keyhole(Polygon(exterior_xy=square, holes_xy=(hole,))))
    10
    """
    holes = sorted(polygon.holes_xy, key=lambda ring: float(ring[:, 1].min()))
    rings = [polygon.exterior_xy, *(np.roll(ring, -int(ring[:, 1].argmin()), axis=0) for ring in holes)]
    corners = np.concatenate(rings)
    starts = np.cumsum([0, *(len(ring) for ring in rings)])
    joined_at: dict[int, list[int]] = {}
    for number in range(1, len(rings)):
        start = starts[number]
        distances = ((corners[:start] - corners[start]) ** 2).sum(axis=1)
        joined_at.setdefault(int(distances.argmin()), []).append(number)
    # A hole is joined to rings before it, so going backwards its own holes are in place already.
    walks: list[list[int]] = [[] for _ in rings]
    for number in range(len(rings) - 1, -1, -1):
        for corner in range(starts[number], starts[number + 1]):
            walks[number].append(corner)
            for hole in joined_at.get(corner, ()):
                walks[number] += [*walks[hole], int(starts[hole]), corner]
    return np.asarray(corners[walks[0]], dtype=np.float64)


def _trace_rings(inside: Mask) -> list[tuple[NDArray[np.float64], tuple[int, int]]]:
    """Rings of corners along pixel edges, each with (row, column) of a pixel on its inner side.

    Every edge between a pixel inside and one outside is directed so that the inside
    lies on its right; then each edge has one successor and the edges fall into rings.
    """
    height, width = inside.shape
    padded = np.pad(inside, 1)
    neighbour_on = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    # Where the edge on a pixel's top, right, bottom, left side starts, relative to (column, row) as a corner.
    starts_xy = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    pixels, corners, directions = [], [], []
    for side in range(4):
        rows, columns = np.nonzero(inside & ~neighbour_on[side])
        pixels.append(np.column_stack([rows, columns]))
        corners.append(np.column_stack([columns, rows]) + starts_xy[side])
        directions.append(np.full(rows.size, side))
    pixel_rc, start_xy, direction = (
        np.concatenate(pixels),
        np.concatenate(corners),
        np.concatenate(directions),
    )
    count = direction.size

    edge_at = np.full((4, height + 1, width + 1), -1, dtype=np.int64)
    edge_at[direction, start_xy[:, 1], start_xy[:, 0]] = np.arange(count)
    end_xy = start_xy + _STEPS_XY[direction]
    successor = np.full(count, -1, dtype=np.int64)
    # Where two pixels touch at a corner two edges leave it; turning right stays with the same pixel.
    for turn in (1, 0, 3):
        candidate = edge_at[(direction + turn) % 4, end_xy[:, 1], end_xy[:, 0]]
        successor = np.where(successor < 0, candidate, successor)

    # Only corners count: an edge starts one if its predecessor runs in another direction.
    bends = np.empty(count, dtype=np.bool_)
    bends[successor] = direction[successor] != direction
    following, is_corner = successor.tolist(), bends.tolist()
    seen = [False] * count
    rings = []
    for first in range(count):
        if seen[first]:
            continue
        edge, ring = first, []
        while not seen[edge]:
            seen[edge] = True
            if is_corner[edge]:
                ring.append(edge)
            edge = following[edge]
        rings.append((start_xy[ring] - 0.5, (int(pixel_rc[first, 0]), int(pixel_rc[first, 1]))))
    return rings


def _thin(ring_xy: NDArray[np.float64], tolerance_px: float) -> NDArray[np.float64]:
    from skimage.measure import approximate_polygon  # brings scipy.signal and scipy.stats

    closed = np.concatenate([ring_xy, ring_xy[:1]])
    thinned: NDArray[np.float64] = approximate_polygon(closed, tolerance_px)[:-1]  # type: ignore[no-untyped-call]
    collapsed = len(thinned) < 3 or _signed_area(thinned) * _signed_area(ring_xy) <= 0
    return ring_xy if collapsed else thinned


def _fill_ring(ring_xy: NDArray[np.float64], shape_hw: tuple[int, ...]) -> tuple[Mask, int]:
    """Fill a ring by scan lines; return the rows it touches, at full width, and the first one's index.

    skimage.draw asks of every pixel in the box whether it is inside, which takes time
    by pixels times corners; marking crossings and summing along rows takes time by corners.
    """
    height, width = shape_hw
    top = int(np.clip(np.ceil(ring_xy[:, 1].min()), 0, height))
    bottom = int(np.clip(np.ceil(ring_xy[:, 1].max()), top, height))
    start, end = ring_xy, np.roll(ring_xy, -1, axis=0)
    upper = np.where((start[:, 1] <= end[:, 1])[:, None], start, end)
    lower = np.where((start[:, 1] <= end[:, 1])[:, None], end, start)
    # Each edge crosses the rows in [upper y, lower y): half open, so a corner on a row counts once.
    first_row = np.clip(np.ceil(upper[:, 1]), top, bottom).astype(np.int64)
    last_row = np.clip(np.ceil(lower[:, 1]), top, bottom).astype(np.int64)
    lengths = last_row - first_row
    edge = np.repeat(np.arange(lengths.size), lengths)
    row = first_row[edge] + np.arange(edge.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    (x0, y0), (x1, y1) = upper[edge].T, lower[edge].T
    with np.errstate(over="ignore", invalid="ignore"):
        x = x0 + (x1 - x0) / (y1 - y0) * (row - y0)
        # Of an edge that rises by next to nothing, or runs very far, the slope is beyond all numbers.
        share = (row - y0) / (y1 - y0)
        x = np.where(np.isfinite(x), x, (1 - share) * x0 + share * x1)
    column = np.clip(np.ceil(x), 0, width).astype(np.int64)
    crossings = np.bincount((row - top) * (width + 1) + column, minlength=(bottom - top) * (width + 1))
    parity = np.cumsum(crossings.reshape(bottom - top, width + 1), axis=1) % 2
    return np.asarray(parity[:, :width] == 1, dtype=np.bool_), top


def _follow(one_xy: NDArray[np.float64], other_xy: NDArray[np.float64]) -> bool:
    """Tell whether two closed lines are nowhere half a pixel apart."""
    if np.abs(one_xy.min(axis=0) - other_xy.min(axis=0)).max() > _SAME_LINE_PX:
        return False
    if np.abs(one_xy.max(axis=0) - other_xy.max(axis=0)).max() > _SAME_LINE_PX:
        return False
    return all(
        _distances_to_line(points, line).max() <= _SAME_LINE_PX
        for points, line in ((one_xy, other_xy), (other_xy, one_xy))
    )


def _distances_to_line(points_xy: NDArray[np.float64], ring_xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each point to a closed line."""
    start, along = ring_xy, np.roll(ring_xy, -1, axis=0) - ring_xy
    lengths = np.maximum((along**2).sum(axis=1), 1e-18)
    nearest = np.empty(len(points_xy))
    for begin in range(0, len(points_xy), 256):
        part = points_xy[begin : begin + 256]
        offset = part[:, None, :] - start[None]
        share = np.clip((offset * along).sum(axis=2) / lengths, 0.0, 1.0)
        gap = offset - share[..., None] * along
        nearest[begin : begin + 256] = np.sqrt((gap**2).sum(axis=2).min(axis=1))
    return nearest


def _signed_area(ring_xy: NDArray[np.float64]) -> float:
    """Shoelace area, positive for a ring that runs clockwise on screen."""
    x, y = ring_xy[:, 0], ring_xy[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2


def _checked_ring(ring_xy: Any) -> NDArray[np.float64]:
    try:
        ring = np.array(ring_xy, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("a ring must be numbers of shape (N, 2)") from error
    if ring.ndim == 2 and len(ring) > 1 and np.array_equal(ring[0], ring[-1]):
        ring = ring[:-1]
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3 or not np.isfinite(ring).all():
        raise InputError(
            "a ring must be at least three finite corners (x, y)", received=f"shape {ring.shape}"
        )
    ring.setflags(write=False)
    return ring
