"""A slice ready for prompts, from anatomy or by the user: masks from the model, limits from HU."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.distances import deeper_than
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.segmentation.anatomy.axial import AxialAnatomy, find_axial_anatomy
from ctai_sam2.segmentation.anatomy.fat import Fat, find_fat
from ctai_sam2.segmentation.divided import DividedSlice, JudgedSlice, divide_by_model, divides
from ctai_sam2.segmentation.framed_slice import FramedSlice
from ctai_sam2.segmentation.image_checks import doubt_by_image, find_image_faults
from ctai_sam2.segmentation.postprocess import clean_mask, with_cortex
from ctai_sam2.segmentation.prediction import (
    agreement,
    frame_for,
    join_sides,
    name_structure,
    prefer_agreeing,
    refine_on_slice,
)
from ctai_sam2.segmentation.prompted_side import keep_prompted_side
from ctai_sam2.segmentation.prompts import TAKES_PROMPT, make_axial_prompt
from ctai_sam2.segmentation.quality import Gate
from ctai_sam2.segmentation.results import AxialResult, PredictsMasks, StructureResult
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTSlice, Mask, Prediction, Prompt, Window

CONFIDENCE_THRESHOLD = 0.5
"""Below this confidence a mask gets a warning, unless specified otherwise."""

_DOUBTFUL_AGREEMENT = 0.6
_OUTLINE_ERROR_MM = 6.0
_SIDES: tuple[Structure, ...] = ("psoas_left", "psoas_right")
_PROMPTED: tuple[Structure, ...] = (*_SIDES, "muscle")
_FATS: tuple[Fat, ...] = ("sat", "vat", "imat")


@dataclass(frozen=True, kw_only=True, eq=False)
class AxialSession(FramedSlice):
    """A slice with its frame, ready for prompts; anatomy and division are found once, when needed.

    Parameters
    ----------
    ct_slice, frame, segmenter, definitions
        As in `FramedSlice`.
    confidence_threshold : float
        Masks with a lower confidence get a warning.
    """

    confidence_threshold: float = CONFIDENCE_THRESHOLD

    @classmethod
    def open(
        cls,
        ct_slice: CTSlice,
        segmenter: PredictsMasks,
        *,
        window: Window = SOFT_TISSUE,
        definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
        confidence_threshold: float = CONFIDENCE_THRESHOLD,
    ) -> AxialSession:
        """Frame a slice.

        Raises
        ------
        InputError
            If the threshold is not between 0 and 1.
        """
        if not 0 <= confidence_threshold <= 1:
            raise InputError(
                "a threshold of confidence is a number from 0 to 1",
                received=confidence_threshold,
                hint="Give 0.5 for 50 %.",
            )
        return cls(
            ct_slice=ct_slice,
            frame=frame_for(ct_slice, window),
            segmenter=segmenter,
            definitions=definitions,
            confidence_threshold=confidence_threshold,
        )

    @cached_property
    def anatomy(self) -> AxialAnatomy | AnatomyNotFound:
        """The slice's layers, or why they were not found: an error only once they are needed."""
        try:
            return find_axial_anatomy(self.ct_slice)
        except AnatomyNotFound as error:
            return error

    @cached_property
    def divided(self) -> DividedSlice | None:
        """The slice divided by a model that can do so; None where it cannot, or sees no abdomen."""
        return divide_by_model(self)

    def segment(self, structure: Structure, *, prompt: Prompt | None = None) -> StructureResult:
        """Segment one structure; see `segment_structure`.

        Raises
        ------
        AnatomyNotFound
            If there is no prompt and body, spine or muscle wall is not visible; or a psoas is not, and the
            model does not find it by name with confidence either.
        InputError
            If the prompt does not fit the slice.
        Unavailable
            If the segmenter is not available.
        """
        if prompt is not None:
            return self._segment_by_user(structure, prompt)
        if structure == "psoas":
            return join_sides(self.segment("psoas_left"), self.segment("psoas_right"))
        return self._with_image_faults(self._segment_without_prompt(structure))

    def _segment_without_prompt(self, structure: Structure) -> StructureResult:
        if self.judged is not None:
            return self._segment_judged(structure, self.judged)
        if structure in _SIDES:
            side = self._sides[structure]
            if isinstance(side, AnatomyNotFound):
                raise side
            return side
        if structure in _FATS:
            return self.find_fat_of(self.segment("muscle"))[structure]
        return self._segment_by_anatomy(structure, make_axial_prompt(self._require_anatomy(), structure))

    def segment_all(
        self,
        structures: Sequence[Structure],
        *,
        prompts: Mapping[str, Prompt] | None = None,
    ) -> AxialResult:
        """Segment several structures; see `segment_axial`."""
        found: dict[Structure, StructureResult] = {}
        missing: dict[str, str] = {}
        problem: AnatomyNotFound | None = None
        for structure in _segmented_for(structures):
            try:
                found[structure] = self.segment(structure, prompt=(prompts or {}).get(structure))
            except AnatomyNotFound as error:
                missing[structure], problem = str(error), error
        if not found and problem is not None:
            raise problem
        if "psoas" in structures and "psoas_left" in found and "psoas_right" in found:
            found["psoas"] = join_sides(found["psoas_left"], found["psoas_right"])
        if "muscle" in found and not set(_FATS).isdisjoint(structures):
            try:
                fat = self.find_fat_of(found["muscle"])
                found.update(
                    {name: self._with_image_faults(one) for name, one in fat.items() if name in structures}
                )
            except AnatomyNotFound as error:
                missing["fat"] = str(error)
        groups = self.groups_of(found["muscle"]) if "muscle" in found else {}
        doubts = [text for name, result in found.items() if name != "psoas" for text in result.warnings]
        return AxialResult(
            ct_slice=self.ct_slice,
            structures=found,
            warnings=tuple(dict.fromkeys([*missing.values(), *doubts])),
            missing=missing,
            muscle_groups=groups,
        )

    @cached_property
    def _image_faults(self) -> tuple[Gate, ...]:
        """What makes the slice's numbers doubtful, whatever the masks look like."""
        anatomy = self.anatomy if isinstance(self.anatomy, AxialAnatomy) else None
        return find_image_faults(
            self.ct_slice,
            vertebra_mm=None if anatomy is None else anatomy.trunk.vertebra.width_mm,
            is_recognised=self.divided is not None or not divides(self.segmenter),
        )

    def _with_image_faults(self, result: StructureResult) -> StructureResult:
        return doubt_by_image(result, self.ct_slice, self._image_faults)

    def groups_of(self, muscle: StructureResult) -> dict[str, Mask]:
        """Return the muscle groups of each side; none where the model does not divide the slice."""
        if muscle.prompted_by != "name" or self.judged is None:
            return {}
        return self.judged.groups_within(muscle.mask)

    @cached_property
    def judged(self) -> JudgedSlice | None:
        """The divided slice with the masks to use and how far each number can be trusted; None undivided."""
        if self.divided is None:
            return None
        return JudgedSlice(divided=self.divided, psoas=self._psoas_on(self.divided))

    def _segment_judged(self, structure: Structure, judged: JudgedSlice) -> StructureResult:
        """Segment with what measured best for each structure.

        Psoas and vertebra are prompted from anatomy, and from the division where that is not found; muscle
        and fat come from the division.
        """
        if structure == "vertebra":
            return self._vertebra_on(judged.divided)
        return judged.segment(structure, self.confidence_threshold)

    def _psoas_on(self, divided: DividedSlice) -> dict[Structure, StructureResult | AnatomyNotFound]:
        """Prompt each psoas from anatomy; where anatomy is not found, from where the division saw it."""
        found: dict[Structure, StructureResult | AnatomyNotFound] = {}
        for side in _SIDES:
            result = self._sides[side]
            if isinstance(result, AnatomyNotFound):
                with contextlib.suppress(AnatomyNotFound):
                    result = divided.segment_prompted(side)
            found[side] = result
        return found

    def _vertebra_on(self, divided: DividedSlice) -> StructureResult:
        if isinstance(self.anatomy, AnatomyNotFound):
            result = divided.segment_vertebra()
        else:
            result = self._segment_by_anatomy("vertebra", make_axial_prompt(self.anatomy, "vertebra"))
        if divided.is_disc:
            text = "vertebra: the slice runs through a disc, not through a vertebral body"
            result = replace(result, warnings=(*result.warnings, text))
        return result

    @cached_property
    def _sides(self) -> dict[Structure, StructureResult | AnatomyNotFound]:
        """The psoas of either side without a prompt, or why it was not found: total muscle needs both."""
        found: dict[Structure, StructureResult | AnatomyNotFound] = {}
        for side in _SIDES:
            try:
                found[side] = self._segment_side(side)
            except AnatomyNotFound as error:
                found[side] = error
        return found

    def _segment_side(self, side: Structure) -> StructureResult:
        anatomy = self._require_anatomy()
        try:
            prompt = make_axial_prompt(anatomy, side)
        except AnatomyNotFound as error:
            if self.divided is not None:
                raise
            return self._segment_by_name(side, error)
        return self._segment_by_anatomy(side, prompt)

    def segment_with_anatomy(self, structure: Structure, prompt: Prompt) -> StructureResult:
        """Segment from a prompt as if it had been made from anatomy, whose limits then apply.

        Raises
        ------
        AnatomyNotFound
            If the anatomy is not visible.
        InputError
            If the prompt does not fit the slice.
        Unavailable
            If the segmenter is not available.
        """
        prompt.require_within(self.ct_slice.shape_hw)
        if isinstance(self.anatomy, AnatomyNotFound) and self.divided is not None and structure in _PROMPTED:
            return self.divided.segment_prompted(structure, prompt)
        return self._segment_by_anatomy(structure, prompt)

    def _segment_by_anatomy(self, structure: Structure, prompt: Prompt) -> StructureResult:
        anatomy = self._require_anatomy()
        rough = anatomy.grid.mask_to_slice(self._rough(anatomy, structure))
        prediction = prefer_agreeing(self.predict(prompt), rough)
        mask = self._clean(structure, prediction.mask, near=rough)
        if structure == "muscle":
            # Total muscle holds the psoas by definition, even where the two predictions disagree.
            for side in self._sides.values():
                if isinstance(side, StructureResult):
                    mask |= side.mask
        return StructureResult(
            structure=structure,
            mask=mask,
            prediction=prediction,
            prompts=(prompt,),
            prompted_by="anatomy",
            confidence=prediction.confidence_score,
            warnings=self._doubts(structure, mask, prediction, agreement(mask, rough)),
        )

    def _segment_by_name(self, structure: Structure, missing: AnatomyNotFound) -> StructureResult:
        """Tell a model that knows names what to look for, and believe it only where it is confident."""
        if structure not in self.segmenter.identity.structures:
            raise missing
        prompt = Prompt(structure=structure)
        prediction = self.predict(prompt)
        mask = self._clean(structure, prediction.mask)
        if prediction.confidence_score < self.confidence_threshold or not mask.any():
            raise missing
        return StructureResult(
            structure=structure,
            mask=mask,
            prediction=prediction,
            prompts=(prompt,),
            prompted_by="name",
            confidence=prediction.confidence_score,
            warnings=(f"{structure}: found by the model alone, with no outline to check it by; look at it",),
        )

    def find_fat_of(self, muscle: StructureResult) -> dict[Structure, StructureResult]:
        """Find fat by rule around a muscle mask.

        Raises
        ------
        AnatomyNotFound
            If the layers of the trunk are not visible.
        """
        if self.judged is not None:
            return self.judged.fat_around(muscle.mask, self.confidence_threshold)
        found = find_fat(self.ct_slice, self._require_anatomy(), muscle.mask, self.definitions)
        return {
            name: StructureResult(
                structure=name,
                mask=mask,
                prediction=None,
                prompts=(),
                prompted_by="rule",
                confidence=None,
                warnings=() if mask.any() else (f"{name}: no such fat was found",),
            )
            for name, mask in found.items()
        }

    def _segment_by_user(self, structure: Structure, prompt: Prompt) -> StructureResult:
        prompt.require_within(self.ct_slice.shape_hw)
        prompt = name_structure(prompt, structure)
        prediction = refine_on_slice(
            self.segmenter,
            self.frame,
            prompt,
            lambda mask, so_far: self._clean(structure, mask, prompt=so_far),
        )
        mask = self._clean(structure, prediction.mask, prompt=prompt)
        doubts = self._doubts(structure, mask, prediction, None)
        if structure in _SIDES:
            mask, of_side = keep_prompted_side(self.ct_slice, structure, mask, prompt)
            doubts = (*doubts, *of_side)
        return StructureResult(
            structure=structure,
            mask=mask,
            prediction=prediction,
            prompts=(prompt,),
            prompted_by="user",
            confidence=prediction.confidence_score,
            warnings=doubts,
        )

    def _doubts(
        self, structure: Structure, mask: Mask, prediction: Prediction, agreeing: float | None
    ) -> tuple[str, ...]:
        doubts = []
        confidence = prediction.confidence_score
        if not mask.any():
            doubts.append(f"{structure}: nothing is left after the HU limits; place points or a box yourself")
        elif confidence < self.confidence_threshold:
            doubts.append(f"{structure}: the model is not sure of its mask (confidence {confidence:.2f})")
        if agreeing is not None and mask.any() and agreeing < _DOUBTFUL_AGREEMENT:
            doubts.append(f"{structure}: the mask lies elsewhere than anatomy suggests; look at it")
        return tuple(doubts)

    def _clean(
        self, structure: Structure, mask: Mask, *, near: Mask | None = None, prompt: Prompt | None = None
    ) -> Mask:
        if structure == "vertebra":
            mask = with_cortex(mask, self.ct_slice.hu, self.ct_slice.spacing_mm)
        limits = self.definitions.limits_of(structure)
        forbidden = None
        if prompt is None and isinstance(self.anatomy, AxialAnatomy) and structure != "vertebra":
            forbidden = self._forbidden(self.anatomy, structure)
        return clean_mask(
            mask,
            self.ct_slice.hu,
            pixel_area_mm2=self.ct_slice.pixel_area_mm2,
            limits=limits,
            forbidden=forbidden,
            near=near,
            smallest_island_mm2=20.0 if prompt is None else 3.0,
            # A vertebra is one piece; veins and gaps in its marrow belong to it.
            largest_hole_mm2=400.0 if structure == "vertebra" else 10.0,
            prompt=prompt,
        )

    def _forbidden(self, anatomy: AxialAnatomy, structure: Structure) -> Mask:
        """Where the structure cannot be whatever the model says: spine, other side, deep in the belly."""
        trunk = anatomy.trunk
        wrong = anatomy.spine.copy()
        if structure == "muscle":
            deep = deeper_than(trunk.cavity, _OUTLINE_ERROR_MM)
            for psoas in anatomy.psoas.values():
                deep &= ~psoas
            wrong |= deep | ~trunk.fascia
        else:
            columns = np.arange(wrong.shape[1])[None, :]
            middle = trunk.vertebra.centre_xy[0]
            wrong |= (columns < middle) if structure == "psoas_left" else (columns > middle)
        return anatomy.grid.mask_to_slice(wrong)

    def _rough(self, anatomy: AxialAnatomy, structure: Structure) -> Mask:
        if structure == "vertebra":
            return anatomy.trunk.vertebra.mask
        if structure == "muscle":
            return anatomy.muscle
        side: Literal["left", "right"] = "left" if structure == "psoas_left" else "right"
        if side not in anatomy.psoas:
            raise anatomy.missing[side]
        return anatomy.psoas[side]

    def _require_anatomy(self) -> AxialAnatomy:
        if isinstance(self.anatomy, AnatomyNotFound):
            raise self.anatomy
        return self.anatomy


def _segmented_for(wanted: Sequence[Structure]) -> list[Structure]:
    """List what is segmented by prompts for the wanted structures."""
    needs = set(wanted)
    if "psoas" in needs:
        needs |= set(_SIDES)
    if not needs.isdisjoint(_FATS):
        needs.add("muscle")
    return [name for name in TAKES_PROMPT if name in needs]
