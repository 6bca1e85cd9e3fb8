"""What one click hands back: masks with the prompts and predictions they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.image.preview import preview_html
from ctai_sam2.structures import Structure, level_below_l3
from ctai_sam2.types import CTSlice, CTVolume, Mask, ModelIdentity, Prediction, Prompt, Window

if TYPE_CHECKING:
    import pandas as pd

_WORTH_PROPOSING = 0.05


def _count_warnings(warnings: Sequence[str]) -> str:
    """Say how many warnings there are, at the end of a short description."""
    return "" if not warnings else f", {len(warnings)} warning{'' if len(warnings) == 1 else 's'}"


class PredictsMasks(Protocol):
    """The part of a segmenter that segmentation needs."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model it is, and which structures it knows by name."""
        ...

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Predict candidate masks for a prompt on a windowed image (H, W), of the image's shape."""
        ...


def require_segmenter(segmenter: object) -> None:
    """Check that an argument can segment, before it fails somewhere deep inside.

    Raises
    ------
    InputError
        If it cannot.
    """
    if not callable(getattr(segmenter, "predict", None)):
        raise InputError(
            "segmenter must be a segmenter",
            received=type(segmenter).__name__,
            hint="Open one: with open_segmenter() as segmenter.",
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StructureResult:
    """One structure on one slice.

    Parameters
    ----------
    structure : str
        One of `STRUCTURES`.
    mask : ndarray of bool, shape (H, W)
        After clean-up, on the slice.
    prediction : Prediction or None
        The model's candidates, mapped to the slice, before clean-up; None for tissue found by
        rule (``sat``, ``vat``, ``imat``).
    prompts : tuple of Prompt
        Prompts passed to the model, in pixels of the slice.
    prompted_by : {"anatomy", "name", "user", "rule"}
        Where the prompt came from; ``name`` where the model received only the structure's name, ``rule``
        where no model was used.
    confidence : float or None
        How likely the mask is good, 0 to 1, as `Prediction.scores` has it; None without a model.
    warnings : tuple of str
        Reasons to look before trusting it.
    """

    structure: Structure
    mask: Mask
    prediction: Prediction | None
    prompts: tuple[Prompt, ...]
    prompted_by: Literal["anatomy", "name", "user", "rule"]
    confidence: float | None
    warnings: tuple[str, ...] = ()

    @property
    def predicted(self) -> float | None:
        """What the model that drew the mask expects of it, 0 to 1 on its own scale; None without a model."""
        return None if self.prediction is None else self.prediction.confidence_score

    def __repr__(self) -> str:
        sure = "" if self.confidence is None else f", confidence {self.confidence:.2f}"
        noted = _count_warnings(self.warnings)
        return f"StructureResult({self.structure}, {int(self.mask.sum())} pixels{sure}{noted})"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AxialResult:
    """All structures of an axial slice.

    Parameters
    ----------
    ct_slice : CTSlice
        The slice.
    structures : mapping of str to StructureResult
        Those that were found.
    warnings : tuple of str
        What was not found and why, then every structure's warnings.
    missing : mapping of str to str
        Structures that were wanted and not found (``fat`` for all fat), and why.
    muscle_groups : mapping of str to ndarray of bool, shape (H, W)
        ``quadratus_left`` … ``wall_right``: parts of the muscle, where the model divides the slice.
    """

    ct_slice: CTSlice
    structures: Mapping[Structure, StructureResult]
    warnings: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    muscle_groups: Mapping[str, Mask] = field(default_factory=dict)

    def __repr__(self) -> str:
        noted = _count_warnings(self.warnings)
        return f"AxialResult({', '.join(self.structures)}{noted})"

    def _repr_html_(self) -> str:
        return preview_html(
            self.ct_slice, self.masks, "; ".join((", ".join(self.structures), *self.warnings))
        )

    @property
    def masks(self) -> dict[str, Mask]:
        """Mask by structure, each of shape (H, W)."""
        return {name: result.mask for name, result in self.structures.items()}

    def to_frame(self) -> pd.DataFrame:
        """One row per structure: pixels, outlined area in cm², confidence, source of the prompt, warnings."""
        import pandas as pd

        return pd.DataFrame(
            {
                "structure": name,
                "pixels": int(result.mask.sum()),
                "outlined_cm2": int(result.mask.sum()) * self.ct_slice.pixel_area_mm2 / 100,
                "confidence": result.confidence,
                "prompted_by": result.prompted_by,
                "warnings": "; ".join(result.warnings),
            }
            for name, result in self.structures.items()
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class VertebraCandidate:
    """A vertebral body seen on a sagittal slice.

    Parameters
    ----------
    centre_xy : tuple of float
        (column, row) in pixels of the slice.
    box_xyxy : tuple of float
        Its bounds in pixels of the slice.
    level : str or None
        ``"L5"``, ``"L4"`` … upwards from the sacrum; None where that cannot be said.
    l3_probability : float or None
        How likely this is L3, 0 to 1; None where the bodies were found without the model.
    result : StructureResult or None
        Its mask, where the model has outlined it.
    """

    centre_xy: tuple[float, float]
    box_xyxy: tuple[float, float, float, float]
    level: str | None = None
    l3_probability: float | None = None
    result: StructureResult | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class L3Result:
    """L3 on a sagittal slice, and the neighbours it was counted among.

    Parameters
    ----------
    ct_slice : CTSlice
        The sagittal slice.
    candidates : tuple of VertebraCandidate
        Vertebral bodies from the most superior down.
    chosen : int or None
        Which of them is taken for L3; None where that cannot be said.
    certainty : {"counted", "user", "estimated", "unknown"}
        ``counted`` up from a sacrum clearly seen; ``user`` where the user specified it;
        ``estimated`` where that is less sure, or from posture or the iliac crests; ``unknown``.
    probability : float or None
        How likely the chosen body, or else the likeliest, is L3; None where nothing tells, or the user did.
    l3 : StructureResult or None
        The segmented body, where one was chosen.
    warnings : tuple of str
        Why the level may be wrong.
    """

    ct_slice: CTSlice
    candidates: tuple[VertebraCandidate, ...]
    chosen: int | None
    certainty: Literal["counted", "user", "estimated", "unknown"]
    probability: float | None = None
    l3: StructureResult | None = None
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        sure = "" if self.probability is None else f", probability {self.probability:.2f}"
        return f"L3Result({self.certainty}{sure}, {len(self.candidates)} vertebral bodies)"

    def _repr_html_(self) -> str:
        masks = {} if self.l3 is None else {"l3": self.l3.mask}
        return preview_html(self.ct_slice, masks, "; ".join((f"L3 {self.certainty}", *self.warnings)))

    @property
    def proposals(self) -> tuple[int, ...]:
        """Candidates that may be L3, the likeliest first: the chosen one and its neighbours at least."""
        chances = [candidate.l3_probability or 0.0 for candidate in self.candidates]
        near = set() if self.chosen is None else {self.chosen - 1, self.chosen, self.chosen + 1}
        may_be = [i for i, chance in enumerate(chances) if chance >= _WORTH_PROPOSING or i in near]
        return tuple(sorted(may_be, key=lambda i: (i != self.chosen, -chances[i])))

    def choose(self, index: int) -> L3Result:
        """Take another candidate for L3; its mask is known already, so the model is not called again.

        Parameters
        ----------
        index : int
            Into ``candidates``.

        Raises
        ------
        InputError
            If there is no such candidate, or the model has not outlined it.
        """
        if not 0 <= index < len(self.candidates):
            raise InputError(
                "no such candidate", received=index, hint=f"There are {len(self.candidates)}, from 0 on."
            )
        result = self.candidates[index].result
        if result is None:
            raise InputError(
                "the model has not outlined this vertebral body", hint="Click into it instead (l3_xy)."
            )
        return replace(
            self,
            candidates=tuple(
                replace(candidate, level=level_below_l3(i - index))
                for i, candidate in enumerate(self.candidates)
            ),
            chosen=index,
            certainty="user",
            probability=None,
            l3=result,
            warnings=result.warnings,
        )


@dataclass(frozen=True, kw_only=True)
class MedianArea:
    """An area as the median of several slices.

    Parameters
    ----------
    structure : str
        Whose.
    area_cm2, low_cm2, high_cm2 : float
        Median, smallest and largest.
    slices : int
        Of how many slices.
    """

    structure: str
    area_cm2: float
    low_cm2: float
    high_cm2: float
    slices: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StudyResult:
    """One click on a whole study.

    Parameters
    ----------
    volume : CTVolume
        What was segmented.
    axial_index : int
        The mid-L3 slice (0 is the most inferior).
    axial : AxialResult
        Its structures.
    sagittal : L3Result or None
        Where L3 was found; None if the axial index was given and L3 was not looked for, or no spine seen.
    medians : tuple of MedianArea
        Areas over several slices, where they were requested.
    warnings : tuple of str
        Of the volume, the level and the slice.
    level_chosen_by : {"user", "software"}
        Who chose the slice or the vertebra: the user by an index or a click, or the software.
    l3_gap_mm : float or None
        Distance along the slices' normal between the slice measured and the middle of the L3 found, from
        slice positions; None where none was found.
    """

    volume: CTVolume
    axial_index: int
    axial: AxialResult
    sagittal: L3Result | None = None
    medians: tuple[MedianArea, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    level_chosen_by: Literal["user", "software"] = "software"
    l3_gap_mm: float | None = None

    @property
    def level_certainty(self) -> str:
        """How the level is known: ``user``, ``counted``, ``estimated`` or ``unknown``."""
        if self.level_chosen_by == "user":
            return "user"
        return "unknown" if self.sagittal is None else self.sagittal.certainty

    @property
    def masks(self) -> dict[str, Mask]:
        """Mask by structure on the axial slice, each of shape (H, W)."""
        return self.axial.masks

    def __repr__(self) -> str:
        noted = _count_warnings(self.warnings)
        return f"StudyResult(mid-L3 at axial index {self.axial_index}: {', '.join(self.masks)}{noted})"

    def _repr_html_(self) -> str:
        sagittal = "" if self.sagittal is None else self.sagittal._repr_html_()
        return f"<div style='display:flex;gap:12px'>{self.axial._repr_html_()}{sagittal}</div>"

    def to_frame(self) -> pd.DataFrame:
        """One row per structure of the mid-L3 slice; see `AxialResult.to_frame`."""
        return self.axial.to_frame()
