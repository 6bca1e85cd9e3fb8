"""Results of a volume segmentation: masks on the volume's grid, a table of slices, volumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.image.masks import limit_to_hu
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTVolume, Mask, SliceGate, SliceSource

if TYPE_CHECKING:
    import pandas as pd


_WIDEST_GAP_MM = 15.0
"""Half the height of a vertebra: over less a muscle's area changes evenly enough to be interpolated."""


@dataclass(frozen=True, kw_only=True)
class LevelRange:
    """A vertebral level along the volume.

    Parameters
    ----------
    name : str
        ``T12`` to ``L5``.
    lower_mm, upper_mm : float
        Its end plates as slice positions, see `CTVolume.slice_positions_mm`.
    probability : float
        How likely the level has this name, 0 to 1; 1 where specified by the user.
    """

    name: str
    lower_mm: float
    upper_mm: float
    probability: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceMask:
    """One structure on one slice of the range, cropped to its box.

    Parameters
    ----------
    corner_yx : (int, int)
        Row and column of the crop's first pixel.
    crop : ndarray of bool
        The mask within its bounding box; empty where the structure is absent.
    source : {"anchor", "automatic", "propagated", "interpolated", "absent"}
        Where the mask comes from.
    gate : {"green", "amber", "red"}
        How plausible it is next to its neighbours.
    reasons : tuple of str
        Why it is not green.
    confidence : float or None
        Probability that the number of a slice segmented on its own can be used, as `segment_structure` states
        it; no gate looks at it.
    predicted_overlap : float or None
        What the model that drew the mask expects of it, 0 to 1 on that model's own scale; None where no model
        did. The gates compare it within the volume.
    spread_cm2 : float or None
        Difference of area between propagation from below and from above, where both were made.
    """

    corner_yx: tuple[int, int]
    crop: Mask
    source: SliceSource
    gate: SliceGate = "green"
    reasons: tuple[str, ...] = ()
    confidence: float | None = None
    predicted_overlap: float | None = None
    spread_cm2: float | None = None

    def full(self, shape_hw: tuple[int, int]) -> Mask:
        """Return the mask on the whole slice, shape (H, W)."""
        mask = np.zeros(shape_hw, np.bool_)
        y, x = self.corner_yx
        mask[y : y + self.crop.shape[0], x : x + self.crop.shape[1]] = self.crop
        return mask


class VolumeMasks(Mapping[str, Mask]):
    """Masks by structure, each (Z, H, W); a stack is built when it is looked up, so memory stays small."""

    def __init__(
        self, shape_zyx: tuple[int, int, int], slices: Mapping[Structure, Mapping[int, SliceMask]]
    ) -> None:
        self._shape_zyx = shape_zyx
        self._slices = slices

    def __getitem__(self, name: str) -> Mask:
        if name == "psoas" and name not in self._slices and "psoas_left" in self._slices:
            return np.asarray(self["psoas_left"] | self["psoas_right"])
        stack = np.zeros(self._shape_zyx, np.bool_)
        for index, one in self._slices[name].items():  # type: ignore[index]
            stack[index] = one.full(self._shape_zyx[1:])
        return stack

    def __iter__(self) -> Iterator[str]:
        return iter(self._slices)

    def __len__(self) -> int:
        return len(self._slices)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class VolumeResult:
    """Structures over a range of levels.

    Parameters
    ----------
    volume : CTVolume
        What was segmented.
    indices : tuple of int
        Axial indices of the range, ascending.
    levels : tuple of LevelRange
        Levels that meet the range, from the lowest up.
    structure_slices : mapping of str to mapping of int to SliceMask
        By structure, then by axial index.
    definitions : TissueDefinitions
        Hounsfield limits of areas and volumes.
    warnings : tuple of str
        Levels that are cut or uncertain, red slices, gaps.
    """

    volume: CTVolume
    indices: tuple[int, ...]
    levels: tuple[LevelRange, ...]
    structure_slices: Mapping[Structure, Mapping[int, SliceMask]]
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS
    warnings: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        red = sum(one.gate == "red" for found in self.structure_slices.values() for one in found.values())
        names = ", ".join(self.structure_slices)
        return f"VolumeResult({names} on slices {self.indices[0]} to {self.indices[-1]}, {red} red)"

    @property
    def masks(self) -> VolumeMasks:
        """Mask by structure, each of shape (Z, H, W) on the volume's own grid."""
        return VolumeMasks(self.volume.shape_zyx, self.structure_slices)

    @property
    def slices(self) -> pd.DataFrame:
        """One row per slice and structure, from the lowest slice up.

        Columns: ``axial_index``, ``z_mm`` (slice position), ``level`` (empty between two levels),
        ``structure``, ``area_cm2`` and ``hu_mean`` within the structure's HU limits, ``confidence``,
        ``predicted_overlap`` and ``spread_cm2`` (see `SliceMask`), ``source``, ``gate``, ``reasons``.
        """
        import pandas as pd

        return pd.DataFrame(list(self._rows()))

    @property
    def summary(self) -> pd.DataFrame:
        """One row per structure for the whole range and for each level.

        Columns: ``structure``, ``level`` (``all`` for the range), ``volume_cm3`` (trapezoid over real slice
        positions between the end plates, NaN where less than a whole level is covered or only one slice
        was measured), ``covered`` (share of the level that was segmented, 0 to 1; without gaps
        between slices of more than 15 mm), ``area_mean_cm2``, ``hu_mean`` (weighted by area), ``spread_cm3``
        (disagreement of both directions of propagation), ``red_slices``, ``lower_mm`` and ``upper_mm`` (its
        ends as slice positions), ``probability`` (of the level's name).
        """
        import pandas as pd

        rows = []
        for structure in self.structure_slices:
            profile = self._profile(structure)
            rows.append(self._sum_up(structure, "all", profile, None))
            at = profile[:, 0]
            rows += [
                self._sum_up(structure, level.name, profile, level)
                for level in self.levels
                if level.lower_mm <= at[-1] and level.upper_mm >= at[0]
            ]
        return pd.DataFrame(rows)

    def _measure(self, structure: str, index: int, one: SliceMask) -> tuple[float, float]:
        """Area in cm² and mean HU of a slice within the structure's limits."""
        y, x = one.corner_yx
        hu = self.volume.hu_zyx[index, y : y + one.crop.shape[0], x : x + one.crop.shape[1]]
        limits = self.definitions.limits_of(structure)
        mask = (
            one.crop
            if limits is None or not one.crop.size
            else limit_to_hu(one.crop, hu, limits.low_hu, limits.high_hu)
        )
        _, row_mm, column_mm = self.volume.spacing_zyx_mm
        area = float(mask.sum()) * row_mm * column_mm / 100
        return area, float(hu[mask].mean()) if mask.any() else float("nan")

    def _level_of(self, position_mm: float) -> str:
        return next((one.name for one in self.levels if one.lower_mm <= position_mm <= one.upper_mm), "")

    def _rows(self) -> Iterator[dict[str, object]]:
        positions = np.asarray(self.volume.slice_positions_mm)
        for index in self.indices:
            for structure, found in self.structure_slices.items():
                one = found.get(index)
                if one is None:
                    continue
                area, hu = self._measure(structure, index, one)
                yield {
                    "axial_index": index,
                    "z_mm": float(positions[index]),
                    "level": self._level_of(float(positions[index])),
                    "structure": structure,
                    "area_cm2": area,
                    "hu_mean": hu,
                    "confidence": one.confidence,
                    "predicted_overlap": one.predicted_overlap,
                    "spread_cm2": one.spread_cm2,
                    "source": one.source,
                    "gate": one.gate,
                    "reasons": "; ".join(one.reasons),
                }

    def _profile(self, structure: Structure) -> NDArray[np.float64]:
        """Columns position, area, area x HU, spread and red, one row per slice of the range."""
        positions = np.asarray(self.volume.slice_positions_mm)
        rows = []
        for index in self.indices:
            one = self.structure_slices[structure].get(index)
            if one is None:
                continue
            area, hu = self._measure(structure, index, one)
            rows.append(
                (
                    positions[index],
                    area,
                    0.0 if np.isnan(hu) else area * hu,
                    one.spread_cm2 or 0.0,
                    float(one.gate == "red"),
                )
            )
        return np.array(rows, np.float64).reshape(-1, 5)

    def _sum_up(
        self, structure: Structure, name: str, profile: NDArray[np.float64], level: LevelRange | None
    ) -> dict[str, object]:
        at = profile[:, 0]
        low, high = (at[0], at[-1]) if level is None else (level.lower_mm, level.upper_mm)
        # A slice stands for half a step on each side, also at the ends of what was segmented.
        steps = np.diff(np.asarray(self.volume.slice_positions_mm))
        half = float(np.median(steps) if steps.size else self.volume.spacing_zyx_mm[0]) / 2
        covered = max(0.0, min(high, at[-1] + half) - max(low, at[0] - half)) / max(high - low, 1e-9)
        covered = min(covered, 1.0) if level is not None else 1.0
        for below, above in _wide_gaps(at, half):
            covered -= max(0.0, min(high, above) - max(low, below)) / max(high - low, 1e-9)
        inside = (at >= low) & (at <= high)
        # Across a gap the whole range is interpolated, with a warning; a level is given only if it was seen.
        whole = level is None or covered > 0.999
        return {
            "structure": structure,
            "level": name,
            "volume_cm3": _integrate(at, profile[:, 1], low, high) / 10
            if whole and inside.sum() > 1
            else float("nan"),
            "covered": covered,
            "slices": int(inside.sum()),
            "area_mean_cm2": float(profile[inside, 1].mean()) if inside.any() else float("nan"),
            "hu_mean": float(profile[inside, 2].sum() / profile[inside, 1].sum())
            if profile[inside, 1].sum() > 0
            else float("nan"),
            "spread_cm3": _integrate(at, profile[:, 3], low, high) / 10,
            "red_slices": int(profile[inside, 4].sum()),
            "lower_mm": float(low),
            "upper_mm": float(high),
            "probability": None if level is None else level.probability,
        }


def _wide_gaps(at_mm: NDArray[np.float64], half_mm: float) -> list[tuple[float, float]]:
    """Return the ends of gaps between slices that are too wide to be interpolated."""
    wide = np.flatnonzero((np.diff(at_mm) > _WIDEST_GAP_MM) & (np.diff(at_mm) > 3 * half_mm))
    return [(float(at_mm[i] + half_mm), float(at_mm[i + 1] - half_mm)) for i in wide]


def _integrate(at_mm: NDArray[np.float64], values: NDArray[np.float64], low: float, high: float) -> float:
    """Trapezoid rule over real positions between two of them."""
    if at_mm.size < 2:
        return 0.0
    inner = at_mm[(at_mm > low) & (at_mm < high)]
    knots = np.concatenate([[low], inner, [high]])
    return float(np.trapezoid(np.interp(knots, at_mm, values), knots))


def crop_mask(mask: Mask) -> tuple[tuple[int, int], Mask]:
    """Return the corner (row, column) and the content of a mask's bounding box.

    Raises
    ------
    InputError
        If the mask is not boolean.
    """
    if mask.dtype != np.bool_:
        raise InputError("a mask must be boolean", received=str(mask.dtype))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return (0, 0), np.zeros((0, 0), np.bool_)
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return (int(rows[0]), int(columns[0])), np.array(mask[box])


def slice_mask_of(
    mask: Mask, source: SliceSource, *, predicted: float | None = None, spread_cm2: float | None = None
) -> SliceMask:
    """Crop a mask to its box."""
    corner, crop = crop_mask(mask)
    return SliceMask(
        corner_yx=corner,
        crop=crop,
        source=source,
        predicted_overlap=predicted,
        spread_cm2=spread_cm2,
    )
