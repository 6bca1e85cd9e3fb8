"""Real slices and phantoms side by side, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from ctai_sam2.core.phantom import make_axial_slice, random_parameters
from ctai_sam2.core.realism import MEASURES, measure_appearance
from ctai_sam2.errors import InputError
from ctai_sam2.io import read_case_npz

_LEVELS: Final = ("L3", "L2", "L3", "L4")
_SHAPE_HW: Final = (448, 448)
_SPACING_MM: Final = (0.9, 0.9)
_QUANTILES: Final = (0.05, 0.5, 0.95)


def compare_phantoms(cases: Path, *, phantoms: int, seed: int = 0) -> dict[str, Any]:
    """Measure the axial slices of a folder and as many phantoms as asked for.

    Parameters
    ----------
    cases : pathlib.Path
        Folder of ``*.npz`` slices with reference masks.
    phantoms : int
        How many, at least 1.
    seed : int
        Decides them.

    Returns
    -------
    dict
        ``real`` and ``phantom``: how many slices, and for each measure of `MEASURES` the 5 %, 50 % and
        95 % quantile (of few real slices these are nearly the least and the greatest).

    Raises
    ------
    InputError
        If there is no axial slice in the folder, or no phantom is asked for.
    """
    if phantoms < 1:
        raise InputError("at least one phantom is needed", received=phantoms)
    read = [read_case_npz(path) for path in sorted(cases.glob("*.npz"))]
    real = [case for case in read if case.slice.plane == "axial"]
    if not real:
        raise InputError("the folder holds no axial slice", received=cases.name)
    return {
        "real": _quantiles(measure_appearance(c.slice.hu, c.masks, c.slice.spacing_mm) for c in real),
        "phantom": _quantiles(measure_phantoms(phantoms, seed=seed)),
    }


def measure_phantoms(count: int, *, seed: int = 0) -> list[dict[str, float]]:
    """Draw random phantoms from L2 to L4 and measure each; see `measure_appearance`."""
    found = []
    for number in range(count):
        parameters = random_parameters(np.random.default_rng((seed, number)))
        phantom = make_axial_slice(
            parameters,
            level=_LEVELS[number % len(_LEVELS)],
            shape_hw=_SHAPE_HW,
            spacing_mm=_SPACING_MM,
            rng=np.random.default_rng((seed, number, 1)),
        )
        found.append(measure_appearance(phantom.hu, phantom.masks, phantom.spacing_mm))
    return found


def _quantiles(measured: Iterable[Mapping[str, float]]) -> dict[str, Any]:
    rows = list(measured)
    table = {}
    for name in MEASURES:
        values = [row[name] for row in rows if name in row]
        if values:
            table[name] = [round(float(value), 2) for value in np.quantile(values, _QUANTILES)]
    return {"slices": len(rows), "quantiles": table}
