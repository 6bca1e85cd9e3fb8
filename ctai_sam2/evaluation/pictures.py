"""Parts of slices with reference and prediction, for the gallery of the worst."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.evaluation.scores import Score
from ctai_sam2.image.masks import mask_to_box_xyxy
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.types import CTSlice, Mask

_EXAMPLE_MARGIN_MM: Final = 15.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A part of a slice with reference and prediction, to look at.

    Parameters
    ----------
    score : Score
        Of the prediction.
    grey_hw : ndarray of uint8, shape (H, W)
        The part, in the soft-tissue window.
    reference_hw, prediction_hw : ndarray of bool, shape (H, W)
        The masks there.
    spacing_mm : (float, float)
        (row, column).
    """

    score: Score
    grey_hw: NDArray[np.uint8]
    reference_hw: Mask
    prediction_hw: Mask
    spacing_mm: tuple[float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """The model's predictions from one click, a box and the button on one structure.

    Parameters
    ----------
    case, structure : str
        Names of the case and of the structure.
    pictures : tuple of Picture
        One for each of these predictions that exists.
    """

    case: str
    structure: str
    pictures: tuple[Picture, ...]

    @property
    def badness(self) -> float:
        """One minus the median Dice of the predictions."""
        return 1.0 - float(np.median([picture.score.dice for picture in self.pictures]))


def cut_picture(ct: CTSlice, reference: Mask, prediction: Mask, score: Score) -> Picture:
    """Cut out the surroundings of a reference, with both masks."""
    # Far-off parts of a wrong prediction are cut, else the structure would be too small to see.
    box = mask_to_box_xyxy(reference) or (0, 0, ct.shape_hw[1] - 1, ct.shape_hw[0] - 1)
    down, across = (int(np.ceil(_EXAMPLE_MARGIN_MM / step)) for step in ct.spacing_mm)
    part = (
        slice(max(box[1] - down, 0), box[3] + down + 1),
        slice(max(box[0] - across, 0), box[2] + across + 1),
    )
    return Picture(
        score=score,
        grey_hw=window_to_uint8(ct.hu[part]),
        reference_hw=reference[part].copy(),
        prediction_hw=prediction[part].copy(),
        spacing_mm=ct.spacing_mm,
    )
