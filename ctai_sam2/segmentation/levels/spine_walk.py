"""Vertebral bodies of a sagittal slice, one after the other, as the model outlines them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.image.body import body_of
from ctai_sam2.image.framing import Frame, frame_sagittal
from ctai_sam2.image.masks import keep_largest, label_components
from ctai_sam2.segmentation.anatomy.isotropic_grid import Grid
from ctai_sam2.segmentation.results import PredictsMasks
from ctai_sam2.types import CTSlice, Mask, Prediction, Prompt, Window

NAMES = ("vertebra", "vertebrae", "sacrum")
"""What a model must know by name to be walked with."""

_LEAST_AREA_MM2, _GREATEST_AREA_MM2 = 200.0, 2600.0
_LEAST_HEIGHT_MM, _GREATEST_HEIGHT_MM = 9.0, 48.0
_USUAL_GAP_MM = 8.0
_GREATEST_GAP_MM = 19.0
_GREATEST_OVERLAP_MM = 7.0
_MOST_BODIES = 24
_ROUNDS = 3
_MISFIT_MM = 6.0
_DISC_HU = 60.0
_RIM_MM = 50.0
_TURNS_DEG = (0.0, 20.0, -14.0)
_LEAST_WORTH = 0.12
_GOOD_WORTH = 0.45
_SEEDS = 6
_SEED_RADIUS_MM = 7.0
_CLOSED_MM = 1.5


@dataclass(frozen=True, kw_only=True, eq=False)
class PieceAnswer:
    """What the model was asked about a piece of the spine, and what it said.

    Parameters
    ----------
    prompt : Prompt
        In pixels of the slice.
    prediction : Prediction
        In the frame.
    frame : Frame
        The square it saw.
    """

    prompt: Prompt
    prediction: Prediction
    frame: Frame


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenBody:
    """A piece of the spine as the model outlined it, in mm from the slice's first pixel edge.

    Parameters
    ----------
    centre_mm : ndarray, shape (2,)
        (x, y) of its middle.
    tilt_deg, top_tilt_deg, bottom_tilt_deg : float
        Way down at right angles to both end plates, the upper and the lower one; degrees from straight
        down, backwards positive.
    height_mm, depth_mm : float
        Extent along that way and across it.
    taper : float
        Depth near the lower end over depth near the upper end.
    area_mm2 : float
        Of the outline.
    worth : float
        How much it looks like a body, 0 to 1: the model's own score times how well it fits its neighbour.
    score : float
        The model's predicted IoU.
    sacral_area_mm2, sacral_score : float
        Area and predicted IoU of what the model outlines at the same place when asked for the sacrum.
    answer : PieceAnswer or None
        What was asked and answered; None where only the measures are kept.
    """

    centre_mm: NDArray[np.float64]
    tilt_deg: float
    top_tilt_deg: float
    bottom_tilt_deg: float
    height_mm: float
    depth_mm: float
    taper: float
    area_mm2: float
    worth: float
    score: float
    sacral_area_mm2: float = 0.0
    sacral_score: float = 0.0
    answer: PieceAnswer | None = None

    @property
    def ends_mm(self) -> NDArray[np.float64]:
        """Middle of the upper and of the lower end, shape (2, 2)."""
        down = _down(self.tilt_deg) * self.height_mm / 2
        return np.stack([self.centre_mm - down, self.centre_mm + down])


class SpineWalk:
    """Ask a model for one vertebral body after the other, up and down from one it is sure of.

    Parameters
    ----------
    ct_slice : CTSlice
        Sagittal, superior up, anterior on the left.
    segmenter : PredictsMasks
        One that knows `NAMES`.
    window : Window
        Window of the image.
    """

    def __init__(self, ct_slice: CTSlice, segmenter: PredictsMasks, window: Window) -> None:
        self.ct_slice = ct_slice
        self._segmenter = segmenter
        self._window = window
        self._spacing_xy = np.array(ct_slice.spacing_mm[::-1])
        self._extent_mm = np.array(ct_slice.shape_hw[::-1]) * self._spacing_xy
        self._body = body_of(ct_slice)
        rows = np.flatnonzero(self._body.any(axis=1))
        self._body_rows = (float(rows[0]), float(rows[-1]))
        self._hu = Grid.of(ct_slice).hu
        self._frames: list[Frame] = []
        self._seen: list[SeenBody] = []

    def bodies(self, starts_mm: Iterable[NDArray[np.float64]] = ()) -> tuple[SeenBody, ...]:
        """Pieces of the spine from the top down; empty if none is found.

        Below the last vertebra follow pieces of the sacrum, where it is seen; the last piece may be
        doubtful (low ``worth``).

        Parameters
        ----------
        starts_mm : iterable of ndarray, shape (2,)
            Where bodies are thought to be; looked at besides what the model finds by itself.
        """
        for at in starts_mm:
            self._look(at, 0.0)
        for at in self._seeds():
            if not self._is_covered(at):
                self._look(at, 0.0)
        if not any(body.worth >= _LEAST_WORTH for body in self._seen):
            return ()
        for _ in range(_ROUNDS):
            chain = self._chain()
            before = len(self._seen)
            self._extend(chain)
            if len(self._seen) == before:
                break
        chain = self._chain()
        stump = self._stump(chain[-1])
        return tuple(self._with_sacrum(chain if stump is None else [*chain, stump]))

    def _stump(self, last: SeenBody) -> SeenBody | None:
        """Find what looks most like bone below the last body, however little; None at the edge."""
        below = [
            body for body in self._seen if -2 * _GREATEST_OVERLAP_MM < _gap_mm(last, body) < _GREATEST_GAP_MM
        ]
        below = [body for body in below if body.centre_mm[1] > last.ends_mm[1][1]]
        return max(below, key=lambda body: (body.worth + 0.02) * _fit(last, body), default=None)

    def _extend(self, chain: list[SeenBody]) -> None:
        """Look below and above a chain of pieces, and into its gaps."""
        for a, b in pairwise(chain):
            if _gap_mm(a, b) > _GREATEST_GAP_MM:
                self._look((a.ends_mm[1] + b.ends_mm[0]) / 2, (a.tilt_deg + b.tilt_deg) / 2)
        for sign, body in ((1.0, chain[-1]), (-1.0, chain[0])):
            for _ in range(_MOST_BODIES):
                following = self._next(body, sign)
                if following is None or following.worth < _LEAST_WORTH:
                    break
                body = following

    def _next(self, body: SeenBody, sign: float) -> SeenBody | None:
        """Look for the neighbour below (sign 1) or above (-1); None beyond the edge of the slice."""
        tilt = body.bottom_tilt_deg if sign > 0 else body.top_tilt_deg
        end = body.ends_mm[1 if sign > 0 else 0]
        reach = _USUAL_GAP_MM + body.height_mm / 2
        best: tuple[float, SeenBody] | None = None
        for turn in _TURNS_DEG:
            at = end + sign * reach * _down(tilt + sign * turn)
            if self._is_covered(at):
                return None
            found = self._look(at, tilt)
            if found is None:
                continue
            fit = found.worth * _fit(*((body, found) if sign > 0 else (found, body)))
            if best is None or fit > best[0]:
                best = (fit, found)
            if fit > _GOOD_WORTH:
                break
        return None if best is None or best[0] < _LEAST_WORTH else best[1]

    def _look(self, at_mm: NDArray[np.float64], tilt_deg: float) -> SeenBody | None:
        if not self._is_inside(at_mm):
            return None
        seen = self._ask(at_mm, tilt_deg)
        if seen is None:
            return None
        if float(np.hypot(*(seen.centre_mm - at_mm))) > 6.0 and self._is_inside(seen.centre_mm):
            self._keep(seen)
            again = self._ask(seen.centre_mm, seen.tilt_deg)
            seen = seen if again is None else again
        return self._keep(seen)

    def _keep(self, seen: SeenBody) -> SeenBody:
        seen = replace(seen, worth=seen.score * _plausibility(seen) * self._boniness(seen))
        self._seen.append(seen)
        return seen

    def _is_covered(self, at_mm: NDArray[np.float64]) -> bool:
        return any(
            body.worth > _GOOD_WORTH and float(np.hypot(*(body.centre_mm - at_mm))) < 0.3 * body.height_mm
            for body in self._seen
        )

    def _boniness(self, body: SeenBody) -> float:
        """How much brighter a piece is than what lies above and below it, 0 to 1."""
        down, back = _down(body.tilt_deg), _back(body.tilt_deg)
        half = body.height_mm / 2
        across = np.linspace(-0.3, 0.3, 7) * body.depth_mm

        def at(along: NDArray[np.float64]) -> NDArray[np.float64]:
            points = body.centre_mm[:, None, None] + down[:, None, None] * along[:, None]
            points = points + back[:, None, None] * across
            seen = ndimage.map_coordinates(self._hu, points[::-1] - 0.5, order=1, mode="nearest")
            return np.asarray(np.clip(seen, -150, 400).mean(axis=1), dtype=np.float64)

        inside = at(np.linspace(-0.8, 0.8, 17) * half)
        level = float(np.median(inside))
        ends = [at(side * (half + np.arange(-2.0, 9.0))).min() for side in (-1, 1)]
        plates = (inside[:5].max(), inside[-5:].max())
        contrast = [float(np.clip((p - e) / _DISC_HU, 0, 1)) for p, e in zip(plates, ends, strict=True)]
        dip = float(np.clip((min(plates) - inside[5:-5].min()) / _DISC_HU - 0.8, 0, 1))
        bright = float(np.clip((level - 20.0) / 60.0, 0, 1))
        return bright * (0.4 + 0.3 * contrast[0] + 0.3 * contrast[1]) * (1 - 0.5 * dip)

    def _chain(self) -> list[SeenBody]:
        """Choose the pieces that explain most of a spine, from the top down."""
        seen = sorted((b for b in self._seen if b.worth > 0), key=lambda b: float(b.centre_mm[1]))
        best = np.array([b.height_mm * (b.worth - _LEAST_WORTH) for b in seen])
        own, came = best.copy(), np.full(len(seen), -1)
        for i, b in enumerate(seen):
            for j in range(i):
                fit = _fit(seen[j], b)
                if fit > 0:
                    total = best[j] + own[i] + _MISFIT_MM * np.log(fit)
                    if total > best[i]:
                        best[i], came[i] = total, j
        chain = [int(np.argmax(best))]
        while came[chain[-1]] >= 0:
            chain.append(int(came[chain[-1]]))
        return [seen[i] for i in reversed(chain)]

    def _ask(self, at_mm: NDArray[np.float64], tilt_deg: float) -> SeenBody | None:
        frame, prompt, prediction = self._predict(at_mm, "vertebra")
        mask = _piece_at(prediction.mask, frame, self._frame_px(frame, at_mm))
        if mask is None:
            return None
        return self._measure(mask, frame, tilt_deg, prompt, prediction)

    def _measure(
        self, mask: Mask, frame: Frame, tilt_deg: float, prompt: Prompt, prediction: Prediction
    ) -> SeenBody | None:
        rows, columns = np.nonzero(mask)
        area = len(rows) * frame.pixel_mm**2
        if area < _LEAST_AREA_MM2 / 2:
            return None
        points = frame.points_to_slice(np.column_stack([columns, rows])) + 0.5
        points = points * self._spacing_xy
        shape = _Shape.of(points, tilt_deg, frame.pixel_mm)
        shape = _Shape.of(
            points, float(np.clip(shape.tilt_deg, tilt_deg - 30, tilt_deg + 30)), frame.pixel_mm
        )
        return SeenBody(
            centre_mm=shape.centre_mm,
            tilt_deg=shape.tilt_deg,
            top_tilt_deg=shape.top_tilt_deg,
            bottom_tilt_deg=shape.bottom_tilt_deg,
            height_mm=shape.height_mm,
            depth_mm=shape.depth_mm,
            taper=shape.taper,
            area_mm2=area,
            worth=0.0,
            score=prediction.confidence_score,
            answer=PieceAnswer(prompt=prompt, prediction=prediction, frame=frame),
        )

    def _with_sacrum(self, bodies: list[SeenBody]) -> Iterable[SeenBody]:
        for body in bodies:
            frame, _, prediction = self._predict(body.centre_mm, "sacrum")
            mask = _piece_at(prediction.mask, frame, self._frame_px(frame, body.centre_mm))
            area = 0.0 if mask is None else float(mask.sum()) * frame.pixel_mm**2
            yield replace(body, sacral_area_mm2=area, sacral_score=prediction.confidence_score)

    def _predict(self, at_mm: NDArray[np.float64], structure: str) -> tuple[Frame, Prompt, Prediction]:
        at_xy = at_mm / self._spacing_xy - 0.5
        frame = self._frame_at(at_xy)
        prompt = Prompt.point(float(at_xy[0]), float(at_xy[1]), structure=structure)
        asked = frame.prompt_to_frame(prompt)
        return frame, prompt, self._segmenter.predict(frame.image, asked, window=frame.window)

    def _frame_at(self, at_xy: NDArray[np.float64]) -> Frame:
        """Return the square about a point: one asked about before, where the point lies well inside it."""
        inner = _RIM_MM / np.array(self._spacing_xy)
        for frame in self._frames:
            first, last = frame.points_to_slice([(-0.5, -0.5), (frame.side_px - 0.5,) * 2])
            body_rows = self._body_rows
            low = np.maximum(first[1] + inner[1], body_rows[0]) if first[1] > body_rows[0] else -np.inf
            high = last[1] - inner[1] if last[1] < body_rows[1] else np.inf
            if low <= at_xy[1] <= high and first[0] < at_xy[0] < last[0]:
                return frame
        self._frames.append(
            frame_sagittal(self.ct_slice, window=self._window, at_xy=(float(at_xy[0]), float(at_xy[1])))
        )
        return self._frames[-1]

    def _frame_px(self, frame: Frame, at_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(frame.points_to_frame(at_mm / self._spacing_xy - 0.5)[0])

    def _is_inside(self, at_mm: NDArray[np.float64]) -> bool:
        return bool((at_mm > 2.0).all() and (at_mm < self._extent_mm - 2.0).all())

    def _seeds(self) -> list[NDArray[np.float64]]:
        """Middles of the thick parts of what the model takes for vertebrae, thickest first."""
        rows = self._body_rows
        middle = float(np.flatnonzero(self._body.any(axis=0)).mean())
        # The lumbar spine lies in the lower part of a tall scan.
        frame = self._frame_at(np.array([middle, 0.35 * rows[0] + 0.65 * rows[1]]))
        prediction = self._segmenter.predict(frame.image, Prompt(structure="vertebrae"), window=frame.window)
        votes = prediction.masks.sum(axis=0) >= 1
        deep = ndimage.distance_transform_edt(np.pad(votes, 1))[1:-1, 1:-1] * frame.pixel_mm
        found: list[NDArray[np.float64]] = []
        y, x = np.mgrid[: deep.shape[0], : deep.shape[1]] * frame.pixel_mm
        while len(found) < _SEEDS:
            row, column = np.unravel_index(int(np.argmax(deep)), deep.shape)
            if deep[row, column] < _SEED_RADIUS_MM:
                break
            at = (frame.points_to_slice([(column, row)])[0] + 0.5) * self._spacing_xy
            if self._is_inside(at):
                found.append(at)
            deep[np.hypot(y - row * frame.pixel_mm, x - column * frame.pixel_mm) < 18.0] = 0.0
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shape:
    centre_mm: NDArray[np.float64]
    tilt_deg: float
    top_tilt_deg: float
    bottom_tilt_deg: float
    height_mm: float
    depth_mm: float
    taper: float

    @classmethod
    def of(cls, points_mm: NDArray[np.float64], tilt_deg: float, pixel_mm: float) -> _Shape:
        """Measure a piece whose way down is roughly known."""
        down, back = _down(tilt_deg), _back(tilt_deg)
        middle = points_mm.mean(axis=0)
        v, u = (points_mm - middle) @ down, (points_mm - middle) @ back
        front, rear = np.percentile(u, [2, 98])
        top, bottom = np.percentile(v, [2, 98])
        step = max(2.0, 1.5 * pixel_mm)
        bins = np.floor((u - front) / step).astype(int)
        count = int((rear - front) / step) + 1
        highest, lowest = np.full(count, np.inf), np.full(count, -np.inf)
        inside = (bins >= 0) & (bins < count)
        np.minimum.at(highest, bins[inside], v[inside])
        np.maximum.at(lowest, bins[inside], v[inside])
        at = front + (np.arange(count) + 0.5) * step
        # The rims are rounded; the plates are told by what lies between them.
        plate = (
            np.isfinite(highest) & (at > front + 0.15 * (rear - front)) & (at < rear - 0.15 * (rear - front))
        )
        slopes = [_slope(at[plate], ends[plate]) for ends in (highest, lowest)]
        top_tilt, bottom_tilt = (tilt_deg - float(np.degrees(np.arctan(slope))) for slope in slopes)
        third = (bottom - top) / 3
        upper, lower = u[v < top + third], u[v > bottom - third]
        taper = _extent(lower) / max(_extent(upper), 1.0)
        centre = middle + down * (top + bottom) / 2 + back * (front + rear) / 2
        return cls(
            centre_mm=centre,
            tilt_deg=(top_tilt + bottom_tilt) / 2,
            top_tilt_deg=top_tilt,
            bottom_tilt_deg=bottom_tilt,
            height_mm=float(bottom - top),
            depth_mm=float(rear - front),
            taper=float(taper),
        )


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if len(x) < 4:
        return 0.0
    return float(np.clip(np.polyfit(x, y, 1)[0], -1.0, 1.0))


def _extent(values: NDArray[np.float64]) -> float:
    return float(np.ptp(np.percentile(values, [2, 98]))) if len(values) else 0.0


def _down(tilt_deg: float) -> NDArray[np.float64]:
    return np.array([np.sin(np.radians(tilt_deg)), np.cos(np.radians(tilt_deg))])


def _back(tilt_deg: float) -> NDArray[np.float64]:
    return np.array([np.cos(np.radians(tilt_deg)), -np.sin(np.radians(tilt_deg))])


def _gap_mm(above: SeenBody, below: SeenBody) -> float:
    """From the end of one piece to the beginning of the next, along the way from middle to middle."""
    way = _down((above.tilt_deg + below.tilt_deg) / 2)
    return float((below.centre_mm - above.centre_mm) @ way) - (above.height_mm + below.height_mm) / 2


def _plausibility(body: SeenBody) -> float:
    """How well the size and the shape of a piece are those of a vertebral body, 0 to 1."""
    if not _LEAST_AREA_MM2 <= body.area_mm2 <= _GREATEST_AREA_MM2:
        return 0.0
    if not _LEAST_HEIGHT_MM <= body.height_mm <= _GREATEST_HEIGHT_MM:
        return 0.0
    full = min(body.area_mm2 / (body.height_mm * body.depth_mm * 0.85), 1.0)
    square = np.exp(-0.5 * (np.log(body.depth_mm / (1.2 * body.height_mm)) / 0.4) ** 2)
    return float(full * square)


def _fit(above: SeenBody, below: SeenBody) -> float:
    """How well two pieces go as neighbours, 0 to 1."""
    gap = _gap_mm(above, below)
    apart = below.centre_mm - above.centre_mm
    if not -_GREATEST_OVERLAP_MM < gap < 2.6 * _GREATEST_GAP_MM or apart[1] < 5:
        return 0.0
    tilt = (above.tilt_deg + below.tilt_deg) / 2
    way = float(np.degrees(np.arctan2(apart[0], apart[1])))
    misfit = (np.log(above.area_mm2 / below.area_mm2) / 0.45) ** 2
    misfit += ((above.tilt_deg - below.tilt_deg) / 30.0) ** 2 + ((way - tilt) / 18.0) ** 2
    misfit += (max(abs(gap - 5.0) - 5.0, 0.0) / 5.0) ** 2
    return float(np.exp(-0.5 * misfit))


def _piece_at(mask: Mask, frame: Frame, at_px: NDArray[np.float64]) -> Mask | None:
    """Return the part of a mask under a point of the frame, or else its largest part."""
    if not mask.any():
        return None
    reach = max(round(_CLOSED_MM / frame.pixel_mm), 1)
    opened = ndimage.binary_opening(mask, iterations=reach)
    labels, _ = label_components(opened)
    column, row = (int(np.clip(round(v), 0, frame.side_px - 1)) for v in at_px)
    if labels[row, column]:
        return np.asarray(labels == labels[row, column])
    return keep_largest(opened) if opened.any() else None
