"""One click on an axial slice: all structures that are asked for, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ctai_sam2.errors import InputError
from ctai_sam2.image.plausibility import require_measurable_slice, require_region
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.segmentation.axial_session import CONFIDENCE_THRESHOLD, AxialSession
from ctai_sam2.segmentation.prompts import require_prompts
from ctai_sam2.segmentation.results import AxialResult, PredictsMasks, require_segmenter
from ctai_sam2.structures import AXIAL_STRUCTURES, Structure, require_structures
from ctai_sam2.types import CTSlice, Prompt, Window
from ctai_sam2.types.checks import require_type


def segment_axial(
    ct_slice: CTSlice,
    segmenter: PredictsMasks,
    *,
    structures: Sequence[Structure] = AXIAL_STRUCTURES,
    prompts: Mapping[str, Prompt] | None = None,
    window: Window = SOFT_TISSUE,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    confidence_threshold: float = CONFIDENCE_THRESHOLD,
    any_region: bool = False,
) -> AxialResult:
    """Segment psoas, muscle and vertebra with the model and fat by rule, all on one framed image.

    Parameters
    ----------
    ct_slice : CTSlice
        An axial slice.
    segmenter : PredictsMasks
        Any segmenter; it sees the same image each time, so its embedding is made once.
    structures : sequence of str
        What to segment, of `ctai_sam2.structures.AXIAL_STRUCTURES`; what it is made from comes with it.
    prompts : mapping of str to Prompt, optional
        The user's prompts by structure (of `TAKES_PROMPT`), instead of those made from anatomy.
    window : Window
        Window of the image.
    definitions : TissueDefinitions
        HU limits.
    confidence_threshold : float
        Masks with a lower confidence, 0 to 1, get a warning.
    any_region : bool
        Continue even if the slice shows something other than an abdomen.

    Returns
    -------
    AxialResult
        ``structures`` and ``masks`` by name, what is ``missing``, ``warnings``.

    Raises
    ------
    AnatomyNotFound
        If none of the structures is found. One that is missing among others is a warning.
    OtherRegion
        If the slice shows something other than an abdomen.
    InputError
        If a prompt does not fit the slice, or a structure is not known or takes no prompt.
    Unavailable
        If the segmenter is not available.
    """
    require_type(ct_slice, CTSlice, "ct_slice")
    require_segmenter(segmenter)
    structures, prompts = require_structures(structures), require_prompts(prompts)
    require_type(window, Window, "window")
    require_type(definitions, TissueDefinitions, "definitions")
    require_axial(ct_slice)
    require_measurable_slice(ct_slice)
    notes = require_region(ct_slice, prompted=bool(prompts), any_region=any_region)
    session = AxialSession.open(
        ct_slice,
        segmenter,
        window=window,
        definitions=definitions,
        confidence_threshold=confidence_threshold,
    )
    result = session.segment_all(structures, prompts=prompts)
    return replace(result, warnings=(*notes, *result.warnings)) if notes else result


def require_axial(ct_slice: CTSlice) -> None:
    """Check that a slice can be axial.

    Raises
    ------
    InputError
        If it is known to be of another plane.
    """
    if ct_slice.plane in ("sagittal", "coronal"):
        raise InputError(
            "psoas, muscle and fat are segmented on an axial slice",
            received=ct_slice.plane,
            hint="Give an axial slice, or request l3 on a sagittal one.",
        )
