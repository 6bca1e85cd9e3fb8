"""One score: how a prediction compares with the reference mask of a structure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

from ctai_sam2.errors import InputError
from ctai_sam2.image.masks import area_mm2, mask_to_box_xyxy
from ctai_sam2.measure.body_composition import MASK_NAMES, measure_slice
from ctai_sam2.measure.overlap import dice, hausdorff_mm
from ctai_sam2.models.calibration import GOOD_DICE
from ctai_sam2.types import CTSlice, Mask

Group: TypeAlias = Literal["unseen", "seen", "phantom"]
Method: TypeAlias = Literal[
    "model",
    "untrained",
    "lite_medsam",
    "region_growing",
    "random_walker",
    "grabcut",
    "hu_threshold",
    "filled_box",
]
PromptName: TypeAlias = Literal["click_1", "click_3", "click_5", "box", "button"]
BrokenDownBy: TypeAlias = Literal["patient", "level", "phase", "slice thickness", "body size"]

GROUPS: Final[tuple[Group, ...]] = ("unseen", "seen", "phantom")
METHODS: Final[tuple[Method, ...]] = get_args(Method)
PROMPTS: Final[tuple[PromptName, ...]] = ("click_1", "click_3", "click_5", "box", "button")

AXIAL_SCORED: Final = ("psoas_left", "psoas_right", "muscle", "vertebra")
SAGITTAL_SCORED: Final = ("L1", "L2", "L3", "L4", "L5")

FAT_SCORED: Final = ("sat", "vat", "imat")
"""Found without points only: subcutaneous fat is too large to click."""

GOOD_AREA_PCT: Final = 10.0
"""An area further off than this is no good number, however well the masks overlap."""

FAILED_BELOW: Final = 0.5
"""A Dice below this is a failure: the prediction is something else than the structure."""

SLICE_MM: Final = (2.0, 4.0, "mm")
BODY_CM2: Final = (500.0, 750.0, "cm²")
"""Borders between thin, medium and thick slices, and between small, medium and large bodies."""

MAX_CLICKS: Final = 10
"""Simulated clicks end here; a number of clicks beyond it means that a Dice was not reached."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One prediction of one structure on one slice.

    Parameters
    ----------
    case : str
        The case file's name without its ending.
    group : {"unseen", "seen", "phantom"}
        Whether the model saw the patient in training.
    plane, structure : str
        As in the case.
    quality : str
        Of the reference, where it is stated: ``high``, ``medium`` or ``low``; else empty.
    method : str
        One of `METHODS`.
    prompt : str
        One of `PROMPTS`: after that many clicks, with a box and a click, or without points.
    model : str
        Which weights were used; empty for methods without any.
    dice : float
        0 to 1; 0 where there was no prediction.
    hd95_mm : float or None
        95th percentile of the distance between the outlines; None where the prediction is empty.
    area_error_pct : float
        Area of the prediction minus that of the reference, in per cent of the reference; of psoas and
        muscle within their HU range, as a study reports them.
    hu_error : float or None
        Mean HU of the prediction minus that of the reference, over the same pixels; None where the prediction
        is empty.
    reference_area_mm2 : float
        Area of the reference over the same pixels.
    confidence : float or None
        The model's confidence in its prediction, 0 to 1; of a button, before clean-up.
    noc_85, noc_90 : int or None
        Clicks needed to reach Dice 0.85 and 0.90 in the session of clicks that the prediction belongs to;
        `MAX_CLICKS` + 1 where they were not reached. None for other predictions.
    time_ms : float or None
        For the prediction, without embedding the slice; of a button with finding the anatomy and clean-up.
    embed_ms : float or None
        For embedding the slice, once for all its predictions; None where the segmenter does not report it.
    error : str or None
        Why there was no prediction.
    patient, level, phase : str
        As the case states them; empty where it does not.
    slice_mm : float or None
        Thickness of the slice, where the case states it.
    body_cm2 : float or None
        Cross-section of the body on an axial slice, where it is visible.

    Raises
    ------
    InputError
        If method or prompt are unknown or the Dice is not within 0 … 1.
    """

    case: str
    group: Group
    plane: str
    structure: str
    quality: str
    method: Method
    prompt: PromptName
    model: str
    dice: float
    hd95_mm: float | None
    area_error_pct: float
    hu_error: float | None
    reference_area_mm2: float
    confidence: float | None = None
    noc_85: int | None = None
    noc_90: int | None = None
    time_ms: float | None = None
    embed_ms: float | None = None
    error: str | None = None
    patient: str = ""
    level: str = ""
    phase: str = ""
    slice_mm: float | None = None
    body_cm2: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS or self.prompt not in PROMPTS or self.group not in GROUPS:
            raise InputError(
                "no such group, method or prompt of a score", received=(self.group, self.method, self.prompt)
            )
        if not 0 <= self.dice <= 1:
            raise InputError("a Dice lies within 0 … 1", received=self.dice)

    @property
    def failed(self) -> bool:
        """Whether there was no prediction, or one of something else."""
        return self.error is not None or self.dice < FAILED_BELOW

    @property
    def is_good_number(self) -> bool:
        """Whether a study could use it: Dice of `GOOD_DICE` and an area within `GOOD_AREA_PCT`."""
        return self.error is None and self.dice >= GOOD_DICE and abs(self.area_error_pct) <= GOOD_AREA_PCT

    @property
    def pool(self) -> str:
        """The structures it is summarised with; see `pool_of`."""
        return pool_of(self.structure, self.plane)

    def part(self, by: BrokenDownBy) -> str:
        """Name the part of the cases that it belongs to; empty where that is not known.

        Examples
        --------
        >>> _class_of(3.0, SLICE_MM), _class_of(5.0, SLICE_MM), _class_of(None, SLICE_MM)
        ('2 to 4 mm', 'over 4 mm', '')
        """
        if by == "slice thickness":
            return _class_of(self.slice_mm, SLICE_MM)
        if by == "body size":
            return _class_of(self.body_cm2, BODY_CM2)
        named = {"patient": self.patient, "level": self.level, "phase": self.phase}
        return named[by]

    def to_row(self) -> dict[str, Any]:
        """Return the score as one row of a table, by `SCORE_COLUMNS`."""
        return asdict(self)


SCORE_COLUMNS: Final = tuple(field.name for field in fields(Score))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A prediction compared with its reference; the fields are those of `Score`."""

    dice: float
    hd95_mm: float | None
    area_error_pct: float
    hu_error: float | None
    reference_area_mm2: float


def compare(ct: CTSlice, structure: str, reference: Mask, prediction: Mask) -> Comparison:
    """Compare a prediction with the reference mask of a structure.

    Parameters
    ----------
    ct : CTSlice
        The slice.
    structure : str
        Decides the HU range, where there is one.
    reference, prediction : ndarray of bool, shape (H, W)
        The reference must not be empty.

    Raises
    ------
    InputError
        If the shapes differ or the reference is empty.
    """
    if not reference.any():
        raise InputError("the reference of a structure is empty", received=structure)
    score = dice(reference, prediction)
    area, hu = _measure(ct, structure, reference)
    predicted_area, predicted_hu = _measure(ct, structure, prediction)
    return Comparison(
        dice=score,
        hd95_mm=_distance_mm(ct, reference, prediction),
        area_error_pct=100.0 * (predicted_area - area) / area if area else 0.0,
        hu_error=None if hu is None or predicted_hu is None else predicted_hu - hu,
        reference_area_mm2=area,
    )


def pool_of(structure: str, plane: str = "axial") -> str:
    """Name the structures that a structure is summarised with.

    Examples
    --------
    >>> pool_of("psoas_left"), pool_of("L4", "sagittal"), pool_of("liver")
    ('psoas', 'vertebral body (sagittal)', 'liver')
    """
    if structure in ("psoas_left", "psoas_right"):
        return "psoas"
    if plane == "sagittal" and structure in SAGITTAL_SCORED:
        return "vertebral body (sagittal)"
    return "vertebral body (axial)" if structure == "vertebra" else structure


def _measure(ct: CTSlice, structure: str, mask: Mask) -> tuple[float, float | None]:
    """Area in mm² and mean HU, as a study's table would hold them."""
    if structure in MASK_NAMES:
        row = measure_slice(ct.hu, {structure: mask}, ct.spacing_mm)
        # The table calls all skeletal muscle "combo".
        column = "combo" if structure == "muscle" else structure
        area, hu = _number(row[f"{column}_area_mm2"]), _number(row[f"{column}_hu_mean"])
    else:
        area = area_mm2(mask, ct.spacing_mm)
        hu = float(ct.hu[mask].mean(dtype=np.float64)) if mask.any() else np.nan
    return area, None if np.isnan(hu) else hu


def _class_of(value: float | None, borders: tuple[float, float, str]) -> str:
    """Name the class of a number: below, between or above two borders."""
    low, high, unit = borders
    if value is None:
        return ""
    if value < low:
        return f"under {low:g} {unit}"
    return f"over {high:g} {unit}" if value > high else f"{low:g} to {high:g} {unit}"


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _distance_mm(ct: CTSlice, reference: Mask, prediction: Mask) -> float | None:
    if not prediction.any():
        return None
    # Outlines lie within the box of both masks; the rest of the slice only costs time.
    box = mask_to_box_xyxy(reference | prediction)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    part = np.s_[y0 : y1 + 1, x0 : x1 + 1]
    return hausdorff_mm(reference[part], prediction[part], ct.spacing_mm)
