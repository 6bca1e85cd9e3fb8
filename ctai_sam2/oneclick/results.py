"""What one click hands back: masks with the prompts and predictions they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.types import CTSlice, CTVolume, Mask, ModelIdentity, Prediction, Prompt, Window

Structure: TypeAlias = Literal[
    "l3", "psoas_left", "psoas_right", "psoas", "muscle", "vertebra", "sat", "vat", "imat"
]
AXIAL_STRUCTURES: tuple[Structure, ...] = (
    "psoas_left",
    "psoas_right",
    "psoas",
    "muscle",
    "vertebra",
    "sat",
    "vat",
    "imat",
)
STRUCTURES: tuple[Structure, ...] = ("l3", *AXIAL_STRUCTURES)


class PredictsMasks(Protocol):
    """What this room asks of a segmenter."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model it is, and which structures it knows by name."""
        ...

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Answer a prompt on a windowed image (H, W) with candidate masks of its shape."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class StructureResult:
    """One structure on one slice.

    Parameters
    ----------
    structure : str
        One of `STRUCTURES`.
    mask : ndarray of bool, shape (H, W)
        After clean-up, on the slice.
    prediction : Prediction or None
        What the model said, its candidates moved to the slice, before clean-up; None for tissue found by
        rule (``sat``, ``vat``, ``imat``).
    prompts : tuple of Prompt
        What the model was asked, in pixels of the slice.
    prompted_by : {"anatomy", "name", "user", "rule"}
        Who pointed; ``name`` where nobody did and the model was only told what to look for, ``rule`` where
        no model was asked.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class AxialResult:
    """All structures of an axial slice.

    Parameters
    ----------
    slice_ : CTSlice
        The slice.
    structures : mapping of str to StructureResult
        Those that were found.
    warnings : tuple of str
        What was not found and why, then every structure's warnings.
    """

    slice_: CTSlice
    structures: Mapping[Structure, StructureResult]
    warnings: tuple[str, ...] = ()

    @property
    def masks(self) -> dict[str, Mask]:
        """Mask by structure, each of shape (H, W)."""
        return {name: result.mask for name, result in self.structures.items()}


@dataclass(frozen=True, kw_only=True)
class VertebraCandidate:
    """A vertebral body seen on a sagittal slice.

    Parameters
    ----------
    centre_xy : tuple of float
        (column, row) in pixels of the slice.
    box_xyxy : tuple of float
        Its bounds in pixels of the slice.
    level : str or None
        ``"L5"``, ``"L4"`` … upwards from the sacrum; None where the sacrum was not seen.
    """

    centre_xy: tuple[float, float]
    box_xyxy: tuple[float, float, float, float]
    level: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class L3Result:
    """L3 on a sagittal slice, and the neighbours it was counted among.

    Parameters
    ----------
    slice_ : CTSlice
        The sagittal slice.
    candidates : tuple of VertebraCandidate
        Vertebral bodies from the most superior down.
    chosen : int or None
        Which of them is taken for L3; None where that cannot be said.
    certainty : {"counted", "told", "estimated", "unknown"}
        ``counted`` up from the sacrum; ``told`` by the user; ``estimated`` from the iliac crests;
        ``unknown``.
    l3 : StructureResult or None
        The segmented body, where one was chosen.
    warnings : tuple of str
        Why the level may be wrong.
    """

    slice_: CTSlice
    candidates: tuple[VertebraCandidate, ...]
    chosen: int | None
    certainty: Literal["counted", "told", "estimated", "unknown"]
    l3: StructureResult | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
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
        Where L3 was found; None if the axial index was given and no spine was seen.
    warnings : tuple of str
        Of the volume, the level and the slice.
    """

    volume: CTVolume
    axial_index: int
    axial: AxialResult
    sagittal: L3Result | None = None
    warnings: tuple[str, ...] = field(default=())

    @property
    def masks(self) -> dict[str, Mask]:
        """Mask by structure on the axial slice, each of shape (H, W)."""
        return self.axial.masks
