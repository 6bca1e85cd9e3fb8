"""The contrast phase as the image shows it, and what contrast does to muscle and fat.

Aorta and inferior vena cava lie in front of the vertebra. Their attenuation tells the phases apart: none,
artery alone, both. They are found by where they lie and how even they are, without a model; how often that is
right is measured in `docs/measurements.md`. A published shift stands next to a number, never in its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import scipy
from numpy.typing import NDArray

from ctai_sam2.image.masks import grow
from ctai_sam2.types import Acquisition, Mask

PHASES: Final = ("unenhanced", "arterial", "portal_venous", "equilibrium")
"""By name; `equilibrium` is known from the header only: the image shows it as portal venous."""


@dataclass(frozen=True, kw_only=True)
class VesselParameters:
    """Where vessels are looked for, and what makes a phase.

    Parameters
    ----------
    radius_mm : float
        Of the disc that has to fit into a vessel; an adult's aorta and cava are 14 to 25 mm wide.
    reach_mm : float
        Greatest distance of its centre in front of the vertebra.
    side_mm : float
        Greatest distance of its centre from the vertebra's middle.
    aorta_at_mm, cava_at_mm : (float, float)
        Where their centres are expected: down from the vertebra's front, and left of its middle.
    even_percentile, even_factor, even_hu : float
        A disc is even where HU in it spread no more than ``even_factor`` times this percentile of the discs
        around, and ``even_hu``.
    unenhanced_below_hu : float
        Blood without contrast is 30 to 60 HU.
    arterial_gap_hu : float
        Aorta above a cava without contrast by more than this is an arterial phase. Below the renal veins
        the cava enhances late: a difference alone does not tell.
    """

    radius_mm: float = 5.0
    reach_mm: float = 26.0
    side_mm: float = 36.0
    aorta_at_mm: tuple[float, float] = (-13.0, 8.0)
    cava_at_mm: tuple[float, float] = (-12.0, -16.0)
    even_percentile: float = 5.0
    even_factor: float = 1.5
    even_hu: float = 4.0
    unenhanced_below_hu: float = 85.0
    arterial_gap_hu: float = 80.0


@dataclass(frozen=True, kw_only=True)
class PhaseEstimate:
    """The phase as the image shows it.

    Parameters
    ----------
    phase : {"unenhanced", "arterial", "portal_venous"}
        ``portal_venous`` stands for every later phase as well.
    aorta_hu, cava_hu : float
        Mean in the disc that fits into each.
    """

    phase: str
    aorta_hu: float
    cava_hu: float


_BEHIND_FRONT_MM = 6.0


def estimate_phase(
    hu: NDArray[Any],
    vertebra: Mask,
    excluded: Mask,
    spacing_mm: Sequence[float],
) -> PhaseEstimate | None:
    """Estimate the contrast phase of an axial lumbar slice from aorta and vena cava.

    Parameters
    ----------
    hu : ndarray, shape (H, W)
        Anterior up, the patient's right on image left.
    vertebra : ndarray of bool, shape (H, W)
        The vertebral body.
    excluded : ndarray of bool, shape (H, W)
        What is no vessel: muscle and fat.
    spacing_mm : (float, float)
        (row, column).

    Returns
    -------
    PhaseEstimate or None
        None where no two vessels fit.
    """
    p = VesselParameters()
    row_mm, column_mm = float(spacing_mm[0]), float(spacing_mm[1])
    rows, columns = np.nonzero(vertebra)
    if not rows.size:
        return None
    front, middle = float(rows.min()), float(columns.min() + columns.max()) / 2
    # All that counts lies around the front of the vertebra: the rest of the slice is left out.
    margin_mm = 3 * p.radius_mm
    first_row = max(0, int(front - (p.reach_mm + margin_mm) / row_mm))
    first_column = max(0, int(middle - (p.side_mm + margin_mm) / column_mm))
    part = (
        slice(first_row, int(front + (_BEHIND_FRONT_MM + margin_mm) / row_mm) + 2),
        slice(first_column, int(middle + (p.side_mm + margin_mm) / column_mm) + 2),
    )
    hu, vertebra, excluded = hu[part], vertebra[part], excluded[part]
    front, middle = front - first_row, middle - first_column
    height, width = hu.shape
    down = (np.arange(height)[:, None] - front) * row_mm
    across = (np.arange(width)[None, :] - middle) * column_mm
    near = (down >= -p.reach_mm) & (down <= _BEHIND_FRONT_MM) & (np.abs(across) <= p.side_mm)
    mean, spread = _in_discs(hu, p.radius_mm, (row_mm, column_mm))
    blocked = grow(vertebra | excluded, p.radius_mm * 0.6, (row_mm, column_mm))
    fits = near & ~blocked & (mean > 15) & (mean < 700)
    if not fits.any():
        return None
    noise = float(np.percentile(spread[fits], p.even_percentile))
    even = fits & (spread <= p.even_factor * noise + p.even_hu)
    aorta = _nearest(down, across, even & (across >= -8.0), p.aorta_at_mm)
    if aorta is None:
        return None
    apart = np.hypot(
        (np.arange(height)[:, None] - aorta[0]) * row_mm, (np.arange(width)[None, :] - aorta[1]) * column_mm
    )
    is_right_of_it = across <= (aorta[1] - middle) * column_mm - 2 * p.radius_mm
    cava = _nearest(
        down, across, even & (across <= 6.0) & is_right_of_it & (apart >= 2.2 * p.radius_mm), p.cava_at_mm
    )
    if cava is None:
        return None
    aorta_hu, cava_hu = float(mean[aorta]), float(mean[cava])
    if max(aorta_hu, cava_hu) < p.unenhanced_below_hu:
        phase = "unenhanced"
    elif cava_hu < p.unenhanced_below_hu and aorta_hu - cava_hu > p.arterial_gap_hu:
        phase = "arterial"
    else:
        phase = "portal_venous"
    return PhaseEstimate(phase=phase, aorta_hu=aorta_hu, cava_hu=cava_hu)


def _in_discs(
    hu: NDArray[Any], radius_mm: float, spacing_mm: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of HU in a disc around every pixel."""
    values = np.clip(scipy.ndimage.median_filter(hu.astype(np.float64), size=3), -200, 800)
    half = [max(1, math.ceil(radius_mm / step)) for step in spacing_mm]
    down, across = np.mgrid[-half[0] : half[0] + 1, -half[1] : half[1] + 1]
    disc = (np.hypot(down * spacing_mm[0], across * spacing_mm[1]) <= radius_mm).astype(np.float64)
    disc /= disc.sum()
    mean, square = (scipy.ndimage.correlate(grid, disc, mode="constant") for grid in (values, values**2))
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def _nearest(
    down: NDArray[Any], across: NDArray[Any], place: Mask, at_mm: tuple[float, float]
) -> tuple[int, int] | None:
    """Return the pixel of a place that is nearest to where a vessel is expected; None where it is empty."""
    if not place.any():
        return None
    distance = np.where(place, np.hypot(down - at_mm[0], across - at_mm[1]), np.inf)
    row, column = np.unravel_index(int(np.argmin(distance)), distance.shape)
    return int(row), int(column)


@dataclass(frozen=True, kw_only=True)
class ContrastShift:
    """How a phase differs from the unenhanced scan of the same patients at L3.

    Parameters
    ----------
    muscle_area, sat_area, vat_area : float
        Per cent of the unenhanced area.
    muscle_hu : float
        Hounsfield units.
    """

    muscle_area: float
    sat_area: float
    vat_area: float
    muscle_hu: float


CONTRAST_SOURCE: Final = "akamatsu-2026@1"
"""Akamatsu et al., Cureus 18 (2026), doi:10.7759/cureus.102643: 203 dynamic CTs at L3, checked against the
abstract. Their two arterial phases differ too much (SMD +2.1 and +5.8 HU) for one named arterial alone."""

CONTRAST_SHIFTS: Mapping[str, ContrastShift] = MappingProxyType(
    {
        "portal_venous": ContrastShift(muscle_area=2.8, sat_area=-2.9, vat_area=-20.0, muscle_hu=7.8),
        "equilibrium": ContrastShift(muscle_area=3.5, sat_area=-4.7, vat_area=-22.2, muscle_hu=9.6),
    }
)
"""By phase; see `CONTRAST_SOURCE`."""

_SHARP_KERNEL = re.compile(
    r"\b(?:bone|boneplus|bone\+|lung|edge|ultra|sharp|chst)\b|\b[bhu]r?[6-9]\d[a-z]?\b|\by[cde]\b",
    re.IGNORECASE,
)
_THICK_MM = 5.0
_LOW_KVP, _HIGH_KVP = 100.0, 140.0


def describe_as_unenhanced(row: Mapping[str, Any], phase: str | None) -> dict[str, float | str | None]:
    """Return what areas and density would be without contrast, by published shifts; the row stays as it is.

    Parameters
    ----------
    row : mapping
        With ``sma_cm2``, ``smd_hu``, ``sat_area_mm2`` and ``vat_area_mm2``.
    phase : str or None
        Of `PHASES`.

    Returns
    -------
    dict
        ``sma_as_unenhanced_cm2``, ``smd_as_unenhanced_hu``, ``sat_…``, ``vat_…`` and ``contrast_source``; all
        None where there is no published shift for the phase.

    Examples
    --------
    >>> described = describe_as_unenhanced({"sma_cm2": 102.8, "smd_hu": 47.8}, "portal_venous")
    >>> described["sma_as_unenhanced_cm2"], described["smd_as_unenhanced_hu"]
    (100.0, 40.0)
    """
    shift = CONTRAST_SHIFTS.get(phase or "")
    names = (
        "sma_as_unenhanced_cm2",
        "smd_as_unenhanced_hu",
        "sat_as_unenhanced_cm2",
        "vat_as_unenhanced_cm2",
    )
    found: dict[str, float | str | None] = dict.fromkeys((*names, "contrast_source"))
    if shift is None:
        return found

    def number(column: str) -> float | None:
        value = row.get(column)
        return float(value) if isinstance(value, int | float) else None

    muscle, density = number("sma_cm2"), number("smd_hu")
    found["sma_as_unenhanced_cm2"] = None if muscle is None else muscle / (1 + shift.muscle_area / 100)
    found["smd_as_unenhanced_hu"] = None if density is None else density - shift.muscle_hu
    for name, change in (("sat", shift.sat_area), ("vat", shift.vat_area)):
        area = number(f"{name}_area_mm2")
        found[f"{name}_as_unenhanced_cm2"] = None if area is None else area / 100 / (1 + change / 100)
    found["contrast_source"] = CONTRAST_SOURCE
    return found


def acquisition_cautions(acquisition: Acquisition, estimate: PhaseEstimate | None) -> tuple[str, ...]:
    """Reasons for caution in how the CT was made: phase, voltage, thickness and kernel.

    Parameters
    ----------
    acquisition : Acquisition
        What the header says.
    estimate : PhaseEstimate or None
        What the image shows.
    """
    cautions = []
    disagreement = _phase_disagreement(acquisition, estimate)
    if disagreement:
        cautions.append(disagreement)
    kvp, thickness = acquisition.kvp, acquisition.slice_thickness_mm
    if kvp is not None and not _LOW_KVP <= kvp < _HIGH_KVP:
        cautions.append(f"{kvp:g} kV: muscle and fat differ by several HU from those at 120 kV")
    if thickness is not None and thickness > _THICK_MM:
        cautions.append(f"slices of {thickness:g} mm: borders are mixed, attenuation is smoothed")
    if acquisition.kernel and _SHARP_KERNEL.search(acquisition.kernel):
        cautions.append("a sharp kernel: noise widens the range of HU in muscle and fat")
    return tuple(cautions)


def _phase_disagreement(acquisition: Acquisition, estimate: PhaseEstimate | None) -> str | None:
    if estimate is None:
        return None
    seen = f"aorta {estimate.aorta_hu:.0f}, cava {estimate.cava_hu:.0f} HU"
    said = acquisition.phase
    shown = {"equilibrium": "portal_venous"}.get(said or "", said)
    if said is not None and shown != estimate.phase:
        return f"the header says {said}, the image looks {estimate.phase} ({seen})"
    if said is None and acquisition.contrast is True and estimate.phase == "unenhanced":
        return f"the header records a contrast agent, the image looks unenhanced ({seen})"
    if said is None and acquisition.contrast is False and estimate.phase != "unenhanced":
        return f"the header records no contrast agent, the image looks {estimate.phase} ({seen})"
    return None
