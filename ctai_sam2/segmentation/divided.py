"""One click where the model divides the whole slice: masks from compartments, prompts as a second opinion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import ndimage

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.body import body_of
from ctai_sam2.image.distances import deeper_than
from ctai_sam2.image.masks import grow
from ctai_sam2.image.noise import measure_noise_hu
from ctai_sam2.measure.overlap import dice
from ctai_sam2.segmentation.compartments import (
    COMPARTMENT_NAMES,
    GROUPS,
    Compartments,
    divide_slice,
    fat_within,
    left_of,
)
from ctai_sam2.segmentation.framed_slice import FramedSlice
from ctai_sam2.segmentation.postprocess import clean_mask, with_cortex
from ctai_sam2.segmentation.prediction import prefer_agreeing
from ctai_sam2.segmentation.prompts import make_mask_prompt
from ctai_sam2.segmentation.psoas import AgreedPsoas, agree_on_both, outline_contrast
from ctai_sam2.segmentation.quality import (
    Gate,
    NumberEvidence,
    confidence_of,
    find_gross_errors,
    warnings_of,
)
from ctai_sam2.segmentation.results import PredictsMasks, StructureResult
from ctai_sam2.structures import Structure
from ctai_sam2.types import Mask, Prediction, Prompt

_SIDES: tuple[Structure, ...] = ("psoas_left", "psoas_right")
_LEAST_SPINE_MM2 = 400.0
_LEAST_MUSCLE_MM2 = 2000.0
_LEAST_BODY_PART = 0.5
_DISC_SHARE = 0.5
_CORTEX_REACH_MM = 3.0
_LOST_WALL_MM2 = 500.0
_LOST_WALL_DEPTH_MM = 10.0
_MUSCLE_SLACK_MM = 1.6
_MODEL_NAMES: dict[Structure, str] = {"imat": "between"}


@dataclass(frozen=True, kw_only=True, eq=False)
class DividedSlice(FramedSlice):
    """A slice divided by a model that knows compartments by name.

    Parameters
    ----------
    ct_slice, frame, segmenter, definitions
        As in `FramedSlice`.
    compartments : Compartments
        The division.
    predictions : mapping of str to Prediction
        What the model said, by `COMPARTMENT_NAMES`, on the slice.
    """

    compartments: Compartments
    predictions: Mapping[str, Prediction]

    @cached_property
    def second_opinion(self) -> StructureResult | None:
        """What the prompted decoder makes of all muscle; None where the division saw none."""
        return self.segment_prompted("muscle") if self.compartments.masks["muscle"].any() else None

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
            If the segmenter is not available.
        """
        region = self.compartments.masks[structure]
        if prompt is None:
            if not region.any():
                raise AnatomyNotFound(
                    f"{structure} was not found on the slice", hint="Place a point yourself."
                )
            prompt = (
                self._muscle_prompt() if structure == "muscle" else self._region_prompt(structure, region)
            )
        prediction = prefer_agreeing(self.predict(prompt), region)
        mask = self._within_limits(prediction.mask)
        return StructureResult(
            structure=structure,
            mask=mask,
            prediction=prediction,
            prompts=(prompt,),
            prompted_by="anatomy",
            confidence=prediction.confidence_score,
        )

    def named(self, name: str) -> Prediction:
        """Return what the model says of a name alone, on the slice."""
        if name in self.predictions:
            return self.predictions[name]
        return self.predict(Prompt(structure=name))

    @property
    def is_disc(self) -> bool:
        """Whether the slice runs through a disc rather than a vertebral body."""
        spine = self.compartments.masks["spine"]
        return bool((self.named("disc").mask & spine).sum() > _DISC_SHARE * spine.sum())

    def segment_vertebra(self) -> StructureResult:
        """Prompt the vertebral body from where the division saw it.

        Raises
        ------
        Unavailable
            If the segmenter is not available.
        """
        spine = self.compartments.masks["spine"]
        prompt = make_mask_prompt(
            spine, self.ct_slice.spacing_mm, positives=1, structure="vertebra", apart_mm=20.0
        )
        prediction = prefer_agreeing(self.predict(prompt), spine)
        near = grow(spine, _CORTEX_REACH_MM, self.ct_slice.spacing_mm)
        mask = clean_mask(
            with_cortex(prediction.mask & near, self.ct_slice.hu, self.ct_slice.spacing_mm),
            self.ct_slice.hu,
            pixel_area_mm2=self.ct_slice.pixel_area_mm2,
            near=spine,
            # A vertebra is one piece; veins and gaps in its marrow belong to it.
            largest_hole_mm2=400.0,
        )
        return StructureResult(
            structure="vertebra",
            mask=mask,
            prediction=prediction,
            prompts=(prompt,),
            prompted_by="anatomy",
            confidence=prediction.confidence_score,
            warnings=("vertebra: found by the division of the slice alone; look at it",),
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
        on_left = left_of(masks["spine"])
        for side in (True, False):
            on_side = on_left == side
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


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedSlice:
    """The masks to use on a divided slice, and how far each number can be trusted.

    Parameters
    ----------
    divided : DividedSlice
        The division.
    psoas : mapping of str to StructureResult or AnatomyNotFound
        Either side, prompted; or why it was not found.
    """

    divided: DividedSlice
    psoas: Mapping[Structure, StructureResult | AnatomyNotFound]

    @cached_property
    def muscle(self) -> Mask:
        """All skeletal muscle: what division and prompted decoder both see, and the psoas.

        The decoder's border is coarse; what lies further from its mask is taken out, but for large thin
        pieces of the wall, which it is known to lose.
        """
        divided = self.divided
        muscle = divided.compartments.masks["muscle"].copy()
        second = divided.second_opinion
        if second is not None:
            muscle &= ~_unconfirmed(
                muscle & ~grow(second.mask, _MUSCLE_SLACK_MM, divided.ct_slice.spacing_mm),
                divided.compartments.masks["wall"],
                divided.ct_slice.spacing_mm,
            )
        for psoas in self.agreed_psoas.values():
            muscle &= ~psoas.bright
        for psoas in self.agreed_psoas.values():
            muscle |= psoas.mask
        return muscle

    @cached_property
    def agreed_psoas(self) -> dict[Structure, AgreedPsoas]:
        """Each psoas that was found: what division and prompted decoder both see; see `agree_on_both`."""
        found = {side: one.mask for side, one in self.psoas.items() if isinstance(one, StructureResult)}
        if not found:
            return {}
        seen = self.divided.compartments.masks
        return agree_on_both(
            self.divided.ct_slice,
            found,
            seen,
            disc=self.divided.named("disc").mask & seen["spine"],
            limits=self.divided.definitions.muscle,
        )

    @cached_property
    def masks(self) -> dict[str, Mask]:
        """The masks to use: psoas, muscle, and fat outside of it."""
        empty = np.zeros_like(self.muscle)
        masks = dict(self.divided.compartments.masks)
        agreed = {side: one.mask for side, one in self.agreed_psoas.items()}
        # What the division called psoas and is none lies next to it: quadratus lumborum.
        lost = np.any([masks[side] & ~mask for side, mask in agreed.items()], axis=0) if agreed else empty
        masks["quadratus"] = masks["quadratus"] | (lost & self.muscle)
        masks |= {side: agreed.get(side, empty) for side in self.psoas}
        masks["muscle"] = self.muscle
        return masks | self._fat(self.muscle)

    @cached_property
    def gates(self) -> tuple[Gate, ...]:
        """The checks that the slice did not pass."""
        seen = [side for side in _SIDES if isinstance(self.psoas[side], StructureResult)]
        agreements = {name: self.evidence(name).agreement for name in (*seen, "muscle")}
        return find_gross_errors(
            replace(self.divided.compartments, masks=self.masks),
            self.divided.ct_slice.spacing_mm,
            agreements={
                name: one for name, one in agreements.items() if one is not None and self.masks[name].any()
            },
            noise_hu=self.noise_hu,
        )

    @cached_property
    def noise_hu(self) -> float | None:
        """How grainy subcutaneous fat is; None where there is too little."""
        ct_slice = self.divided.ct_slice
        return measure_noise_hu(ct_slice.hu, self.masks["sat"], ct_slice.spacing_mm)

    def evidence(self, structure: Structure) -> NumberEvidence:
        """Return what a structure's confidence is estimated from, in addition to the gates."""
        dense = self.divided.compartments.masks
        if structure in _SIDES:
            result = self.psoas[structure]
            if isinstance(result, AnatomyNotFound):
                raise result
            agreed, ct_slice = self.agreed_psoas[structure], self.divided.ct_slice
            return NumberEvidence(
                score=result.confidence or 0.0,
                agreement=agreed.agreement,
                contrast=outline_contrast(ct_slice.hu, agreed.mask, ct_slice.spacing_mm),
                noise_hu=self.noise_hu,
            )
        if structure == "imat":
            # It is as sure as the muscle that it lies in; there is no reference to fit its own to.
            return self.evidence("muscle")
        second = self.divided.second_opinion if structure == "muscle" else None
        return NumberEvidence(
            score=float(self.divided.named(structure).scores[0]),
            agreement=None if second is None else dice(dense[structure], second.mask),
            noise_hu=self.noise_hu,
        )

    def segment(self, structure: Structure, threshold: float) -> StructureResult:
        """Return psoas of a side, muscle or fat, with confidence and warnings.

        Parameters
        ----------
        structure : str
            One of ``psoas_left``, ``psoas_right``, ``muscle``, ``sat``, ``vat``, ``imat``.
        threshold : float
            Masks with a lower confidence get a warning.

        Raises
        ------
        AnatomyNotFound
            If the structure is not on the slice.
        Unavailable
            If the segmenter is not available.
        """
        if structure in _SIDES:
            found = self.psoas[structure]
            if isinstance(found, AnatomyNotFound):
                raise found
            result = replace(found, mask=self.agreed_psoas[structure].mask)
        else:
            known_as = _MODEL_NAMES.get(structure, structure)
            result = StructureResult(
                structure=structure,
                mask=self.masks[structure],
                prediction=self.divided.named(known_as),
                prompts=(Prompt(structure=known_as),),
                prompted_by="name",
                confidence=None,
            )
        return self._judge(result, threshold)

    def groups_within(self, muscle: Mask) -> dict[str, Mask]:
        """Return quadratus lumborum, paraspinal muscles and wall of each side, as the model names them.

        Parameters
        ----------
        muscle : ndarray of bool, shape (H, W)
            All skeletal muscle as it is to be used; a group is part of it, and the psoas is in none.
        """
        masks = self.masks
        on_left = left_of(masks["spine"])
        rest = muscle & ~masks["psoas_left"] & ~masks["psoas_right"]
        return {
            f"{group}_{side}": masks[group] & rest & (on_left == (side == "left"))
            for group in GROUPS
            if group != "psoas"
            for side in ("left", "right")
        }

    def fat_around(self, muscle: Mask, threshold: float) -> dict[Structure, StructureResult]:
        """Return the fat, less what a given muscle mask takes of it."""
        fat = self._fat(muscle)
        return {
            name: replace(self.segment(name, threshold), mask=fat[name]) for name in ("sat", "vat", "imat")
        }

    def _fat(self, muscle: Mask) -> dict[str, Mask]:
        ct_slice = self.divided.ct_slice
        places = dict(self.divided.compartments.places)
        places["imat"] = places["imat"] | muscle
        return fat_within(places, ct_slice.hu, muscle, ct_slice.spacing_mm, self.divided.definitions)

    def _judge(self, result: StructureResult, threshold: float) -> StructureResult:
        name = result.structure
        confidence = confidence_of(name, self.evidence(name), self.gates)
        # What the prompted decoder thought of its own mask is part of the evidence now.
        warnings = [text for text in result.warnings if "not sure of its mask" not in text]
        warnings += warnings_of(self.gates, name)
        if not result.mask.any():
            warnings.append(f"{name}: no such tissue was found")
        elif confidence < threshold:
            warnings.append(f"{name}: the model is not sure of its mask (confidence {confidence:.2f})")
        return replace(result, confidence=confidence, warnings=tuple(warnings))


def _unconfirmed(alone: Mask, wall: Mask, spacing_mm: tuple[float, float]) -> Mask:
    """Return those pieces that only the division saw and that are no large thin part of the wall."""
    labels, _ = ndimage.label(alone)
    deep = deeper_than(alone, _LOST_WALL_DEPTH_MM, spacing_mm)
    pixel_mm2 = spacing_mm[0] * spacing_mm[1]
    out = alone.copy()
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[box] == label
        is_large = part.sum() * pixel_mm2 >= _LOST_WALL_MM2
        is_thin = not deep[box][part].any()
        if is_large and is_thin and (part & wall[box]).sum() > 0.5 * part.sum():
            out[box] &= ~part
    return out


def divides(segmenter: PredictsMasks) -> bool:
    """Tell whether a model knows all compartments of a slice by name."""
    return set(COMPARTMENT_NAMES) <= set(segmenter.identity.structures)


def divide_by_model(framed: FramedSlice) -> DividedSlice | None:
    """Divide a slice, where the model can and the slice is plainly of an abdomen.

    Parameters
    ----------
    framed : FramedSlice
        The slice, and the model.

    Returns
    -------
    DividedSlice or None
        None where the model knows no compartments by name, or spine, muscle or most of the body are not
        among what it sees.

    Raises
    ------
    Unavailable
        If the segmenter is not available.
    """
    if not divides(framed.segmenter):
        return None
    try:
        body = body_of(framed.ct_slice)
    except AnatomyNotFound:
        return None
    predictions = {name: framed.predict(Prompt(structure=name)) for name in COMPARTMENT_NAMES}
    classes = {name: prediction.mask for name, prediction in predictions.items()}
    claimed = np.any(list(classes.values()), axis=0)
    pixel_mm2 = framed.ct_slice.pixel_area_mm2
    if (
        (claimed & body).sum() < _LEAST_BODY_PART * body.sum()
        or classes["spine"].sum() * pixel_mm2 < _LEAST_SPINE_MM2
        or sum(classes[name].sum() for name in GROUPS) * pixel_mm2 < _LEAST_MUSCLE_MM2
    ):
        return None
    ct_slice = framed.ct_slice
    return DividedSlice(
        ct_slice=ct_slice,
        frame=framed.frame,
        segmenter=framed.segmenter,
        definitions=framed.definitions,
        compartments=divide_slice(classes, ct_slice.hu, body, ct_slice.spacing_mm, framed.definitions),
        predictions=predictions,
    )
