"""What surrounds a scan and is no air, though nothing declares it: the corners of an image say it."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.image.body import TISSUE_HU
from ctai_sam2.image.plausibility import unlike_hounsfield

AIR_HU: Final = -1024
"""What padding becomes: outside the scanned circle there is nothing to measure."""

_LEAST_SHARE: Final = 0.02
_MOST_SHARE: Final = 0.98

_Values = TypeVar("_Values", bound=np.generic)


def fill_with_air(hu: NDArray[_Values]) -> tuple[NDArray[_Values], str | None]:
    """Set one value that fills all four corners of an image and looks like tissue to air.

    Exports leave 0 around the reconstructed circle or around a body that was cut out, and an image whose
    values were cut off at a window's lower end has no air at all. Either would be taken for the body.

    Parameters
    ----------
    hu : ndarray, shape (H, W)
        Hounsfield units; never changed in place.

    Returns
    -------
    hu : ndarray, shape (H, W)
        The same array where nothing was to be done.
    caution : str or None
        What was done, as a sentence's words.

    Examples
    --------
    >>> hu = np.zeros((8, 8))
    >>> hu[2:6, 2:6] = np.linspace(-100, 50, 16).reshape(4, 4)
    >>> filled, caution = fill_with_air(hu)
    >>> float(filled[0, 0]), float(filled[2, 2]), caution
    (-1024.0, -100.0, 'the scan is surrounded by 0 HU, which was taken for air around the body')
    """
    corners = hu[[0, 0, -1, -1], [0, -1, 0, -1]]
    value: Any = corners[0]
    if value <= TISSUE_HU or (corners != value).any():
        return hu, None
    labels, _ = ndimage.label(hu == value)
    around = np.isin(labels, np.unique(labels[[0, 0, -1, -1], [0, -1, 0, -1]]))
    share = float(around.mean())
    # What holds no Hounsfield units at all is left for the check that refuses it.
    if not _LEAST_SHARE <= share <= _MOST_SHARE or unlike_hounsfield(hu) is not None:
        return hu, None
    filled = hu.copy()
    filled[around] = AIR_HU
    said = "all values below {} HU were cut off" if value == hu.min() else "the scan is surrounded by {} HU"
    return filled, f"{said.format(f'{float(value):g}')}, which was taken for air around the body"


def fill_slices_with_air(hu_zyx: NDArray[np.int16]) -> tuple[NDArray[np.int16], list[str]]:
    """Do the same for each axial slice of a volume (D, H, W); the volume is copied only where needed."""
    counts: dict[str, int] = {}
    filled = hu_zyx
    for index, plane in enumerate(hu_zyx):
        changed, caution = fill_with_air(plane)
        if caution is not None:
            if filled is hu_zyx:
                filled = hu_zyx.copy()
            filled[index] = changed
            counts[caution] = counts.get(caution, 0) + 1
    total = len(hu_zyx)
    return filled, [
        text if count == total else f"{text} ({count} of {total} slices)" for text, count in counts.items()
    ]
