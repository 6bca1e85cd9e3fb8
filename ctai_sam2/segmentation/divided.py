"""One click where the model divides the whole slice: masks from compartments, prompts as a second opinion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.body import body_of
from ctai_sam2.image.framing import Frame
from ctai_sam2.measure.definitions import TissueDefinitions
from ctai_sam2.segmentation.compartments import COMPARTMENT_NAMES, GROUPS, Compartments, divide_slice
from ctai_sam2.segmentation.postprocess import clean_mask, with_cortex
from ctai_sam2.segmentation.prediction import predict_on_slice, prefer_agreeing
from ctai_sam2.segmentation.prompts import make_mask_prompt
from ctai_sam2.segmentation.quality import Gate, confidence_of, find_gross_errors, warnings_of
from ctai_sam2.segmentation.results import PredictsMasks, StructureResult
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTSlice, Mask, Prediction, Prompt

_SIDES: tuple[Structure, ...] = ("psoas_left", "psoas_right")
_LEAST_SPINE_MM2 = 400.0
_LEAST_MUSCLE_MM2 = 2000.0
_LEAST_PSOAS_MM2 = 60.0
_LEAST_BODY_PART = 0.5
_DISC_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class NumberEvidence:
    """What speaks for a number.

    Parameters
    ----------
    expected_iou : float
        Of the dense head, 0 to 1.
    agreement : float or None
        Dice of its mask with the prompted decoder's; None where that was not asked.
    """

    expected_iou: float
    agreement: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class DividedSlice:
    """A slice divided by a model that knows compartments by name.

    Parameters
    ----------
    ct_slice : CTSlice
        The slice.
    frame : Frame
        What the model sees of it.
    segmenter : PredictsMasks
        The model.
    definitions : TissueDefinitions
        HU limits.
    compartments : Compartments
        The division.
    predictions : mapping of str to Prediction
        What the model said, by `COMPARTMENT_NAMES`, on the slice.
    """

    ct_slice: CTSlice
    frame: Frame
    segmenter: PredictsMasks
    definitions: TissueDefinitions
    compartments: Compartments
    predictions: Mapping[str, Prediction]

    @cached_property
    def gates(self) -> tuple[Gate, ...]:
        """The checks that the slice did not pass; asks the prompted decoder for its opinion."""
        return find_gross_errors(
            self.compartments,
            self.ct_slice.spacing_mm,
            agreements={
                name: _dice(self.compartments.masks[name], second[0])
                for name, second in self._second_opinions.items()
            },
        )

    @cached_property
    def _second_opinions(self) -> dict[Structure, tuple[Mask, Prediction, Prompt]]:
        """What the prompted decoder makes of psoas and muscle when shown where the dense head saw them."""
        found: dict[Structure, tuple[Mask, Prediction, Prompt]] = {}
        for name in (*_SIDES, "muscle"):
            region = self.compartments.masks[name]
            if not region.any():
                continue
            prompt = self._muscle_prompt() if name == "muscle" else self._region_prompt(name, region)
            prediction = prefer_agreeing(predict_on_slice(self.segmenter, self.frame, prompt), region)
            found[name] = (self._within_limits(prediction.mask), prediction, prompt)
        return found

    def evidence(self, structure: Structure) -> NumberEvidence:
        """Return what a structure's confidence is told from, besides the gates."""
        second = self._second_opinions.get(structure)
        mask = self.compartments.masks[structure]
        return NumberEvidence(
            expected_iou=float(self._named({"imat": "between"}.get(structure, structure)).scores[0]),
            agreement=None if second is None else _dice(mask, second[0]),
        )

    def segment(self, structure: Structure, threshold: float) -> StructureResult:
        """Return a structure other than ``psoas``, with confidence and warnings.

        Parameters
        ----------
        structure : str
            One of ``psoas_left``, ``psoas_right``, ``muscle``, ``vertebra``, ``sat``, ``vat``, ``imat``.
        threshold : float
            A confidence below it is warned of.

        Raises
        ------
        AnatomyNotFound
            If the structure is not on the slice.
        Unavailable
            If the segmenter cannot answer.
        """
        if structure == "vertebra":
            return self._vertebra(threshold)
        masks = self.compartments.masks
        if structure in _SIDES and masks[structure].sum() * self.ct_slice.pixel_area_mm2 < _LEAST_PSOAS_MM2:
            raise AnatomyNotFound(
                f"the {structure.removeprefix('psoas_')} psoas is not visible on the slice",
                hint="Choose a slice between L2 and L5, or place a point yourself.",
            )
        asked = {"imat": "between"}.get(structure, structure)
        prediction = self._named(asked)
        mask = masks[structure]
        evidence = self.evidence(structure)
        confidence = confidence_of(structure, evidence.expected_iou, evidence.agreement, self.gates)
        warnings = list(warnings_of(self.gates, structure))
        if not mask.any():
            warnings.append(f"{structure}: no such tissue was found")
        elif confidence < threshold and not warnings:
            warnings.append(f"{structure}: the model is not sure of its mask (confidence {confidence:.2f})")
        return StructureResult(
            structure=structure,
            mask=mask,
            prediction=prediction,
            prompts=(Prompt(structure=asked),),
            prompted_by="name",
            confidence=confidence,
            warnings=tuple(warnings),
        )

    def segment_prompted(self, structure: Structure, prompt: Prompt | None = None) -> StructureResult:
        """Return what the prompted decoder makes of psoas or muscle: the second opinion by itself.

        Parameters
        ----------
        structure : str
            ``psoas_left``, ``psoas_right`` or ``muscle``.
        prompt : Prompt, optional
            Instead of the one made from the compartments.

        Raises
        ------
        AnatomyNotFound
            If there is no prompt and the structure was not seen.
        Unavailable
            If the segmenter cannot answer.
        """
        if prompt is None:
            if structure not in self._second_opinions:
                raise AnatomyNotFound(
                    f"{structure} was not found on the slice", hint="Place a point yourself."
                )
            mask, prediction, prompt = self._second_opinions[structure]
        else:
            region = self.compartments.masks[structure]
            prediction = prefer_agreeing(predict_on_slice(self.segmenter, self.frame, prompt), region)
            mask = self._within_limits(prediction.mask)
        return StructureResult(
            structure=structure,
            mask=mask,
            prediction=prediction,
            prompts=(prompt,),
            prompted_by="anatomy",
            confidence=prediction.confidence_score,
        )

    def _named(self, name: str) -> Prediction:
        if name in self.predictions:
            return self.predictions[name]
        return predict_on_slice(self.segmenter, self.frame, Prompt(structure=name))

    def _vertebra(self, threshold: float) -> StructureResult:
        spine = self.compartments.masks["spine"]
        prompt = make_mask_prompt(
            spine, self.ct_slice.spacing_mm, positives=1, structure="vertebra", apart_mm=20.0
        )
        prediction = prefer_agreeing(predict_on_slice(self.segmenter, self.frame, prompt), spine)
        mask = clean_mask(
            with_cortex(prediction.mask, self.ct_slice.hu, self.ct_slice.spacing_mm),
            self.ct_slice.hu,
            pixel_area_mm2=self.ct_slice.pixel_area_mm2,
            near=spine,
            # A vertebra is one piece; veins and gaps in its marrow belong to it.
            largest_hole_mm2=400.0,
        )
        warnings = []
        disc = self._named("disc").mask & spine
        if disc.sum() > _DISC_SHARE * spine.sum():
            warnings.append("vertebra: the slice runs through a disc, not through a vertebral body")
        if prediction.confidence_score < threshold:
            warnings.append(
                f"vertebra: the model is not sure of its mask (confidence {prediction.confidence_score:.2f})"
            )
        return StructureResult(
            structure="vertebra",
            mask=mask,
            prediction=prediction,
            prompts=(prompt,),
            prompted_by="anatomy",
            confidence=prediction.confidence_score,
            warnings=tuple(warnings),
        )

    def _region_prompt(self, name: Structure, region: Mask) -> Prompt:
        return make_mask_prompt(
            region,
            self.ct_slice.spacing_mm,
            positives=2,
            apart_mm=10.0,
            structure=name,
            negatives=((self.compartments.masks["spine"], 1, 20.0),),
        )

    def _muscle_prompt(self) -> Prompt:
        """Point at every group on both sides; no mask is given, for that would be copied."""
        masks = self.compartments.masks
        halves = []
        columns = np.flatnonzero(masks["spine"].any(axis=0))
        middle = float(columns[0] + columns[-1]) / 2
        for side in (True, False):
            on_side = (np.arange(masks["spine"].shape[1])[None, :] > middle) == side
            halves += [
                (masks[f"psoas_{'left' if side else 'right'}"], 1, 40.0),
                (masks["paraspinal"] & on_side, 2, 40.0),
                (masks["wall"] & on_side, 3, 40.0),
            ]
        return make_mask_prompt(
            masks["muscle"],
            self.ct_slice.spacing_mm,
            structure="muscle",
            parts=halves,
            negatives=((masks["spine"], 1, 20.0), (self.compartments.places["vat"], 2, 60.0)),
        )

    def _within_limits(self, mask: Mask) -> Mask:
        return clean_mask(
            mask,
            self.ct_slice.hu,
            pixel_area_mm2=self.ct_slice.pixel_area_mm2,
            limits=self.definitions.muscle,
            forbidden=self.compartments.masks["spine"],
        )


def divide_by_model(
    ct_slice: CTSlice, frame: Frame, segmenter: PredictsMasks, definitions: TissueDefinitions
) -> DividedSlice | None:
    """Divide a slice, where the model can and the slice is plainly of an abdomen.

    Parameters
    ----------
    ct_slice, frame, segmenter, definitions
        As in `DividedSlice`.

    Returns
    -------
    DividedSlice or None
        None where the model knows no compartments by name, or spine, muscle or most of the body are not
        among what it sees.

    Raises
    ------
    Unavailable
        If the segmenter cannot answer.
    """
    if not set(COMPARTMENT_NAMES) <= set(segmenter.identity.structures):
        return None
    try:
        body = body_of(ct_slice)
    except AnatomyNotFound:
        return None
    predictions = {
        name: predict_on_slice(segmenter, frame, Prompt(structure=name)) for name in COMPARTMENT_NAMES
    }
    classes = {name: prediction.mask for name, prediction in predictions.items()}
    claimed = np.any(list(classes.values()), axis=0)
    pixel_mm2 = ct_slice.pixel_area_mm2
    if (
        (claimed & body).sum() < _LEAST_BODY_PART * body.sum()
        or classes["spine"].sum() * pixel_mm2 < _LEAST_SPINE_MM2
        or sum(classes[name].sum() for name in GROUPS) * pixel_mm2 < _LEAST_MUSCLE_MM2
    ):
        return None
    compartments = divide_slice(classes, ct_slice.hu, body, ct_slice.spacing_mm, definitions)
    return DividedSlice(
        ct_slice=ct_slice,
        frame=frame,
        segmenter=segmenter,
        definitions=definitions,
        compartments=compartments,
        predictions=predictions,
    )


def _dice(a: Mask, b: Mask) -> float:
    return float(2 * (a & b).sum()) / max(float(a.sum() + b.sum()), 1.0)
