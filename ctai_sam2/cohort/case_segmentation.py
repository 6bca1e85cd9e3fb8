"""From a case's image to its structures: the same questions in every run, live or from what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctai_sam2.cohort.manifest import Case
from ctai_sam2.cohort.plan import Plan
from ctai_sam2.errors import AnatomyNotFound, CtaiError, InputError
from ctai_sam2.io import read_case_npz, read_study
from ctai_sam2.segmentation import (
    AxialSession,
    L3Result,
    PredictsMasks,
    StructureResult,
    find_l3_in_volume,
    mid_l3_axial_index,
    robustness,
)
from ctai_sam2.segmentation.axial import join_sides
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTSlice, CTVolume, Prompt

_FEWEST_SLICES_MM = 60.0
"""A volume that covers less than this shows no row of vertebrae to count."""

_SINGLES: tuple[Structure, ...] = ("psoas_left", "psoas_right", "muscle", "vertebra")
_FATS = ("sat", "vat", "imat")
_JITTERED: tuple[Structure, ...] = ("psoas_left", "psoas_right", "muscle")


@dataclass(frozen=True, kw_only=True, eq=False)
class Level:
    """The slice to measure and how it was found.

    Parameters
    ----------
    ct_slice : CTSlice
        The mid-L3 slice.
    axial_index : int or None
        Its index in the volume.
    sagittal : L3Result or None
        Where L3 was looked for.
    l3_index : int or None
        Axial index through the middle of the L3 that was found.
    warnings : tuple of str
        Why the level may be wrong.
    """

    ct_slice: CTSlice
    axial_index: int | None
    sagittal: L3Result | None = None
    l3_index: int | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmented:
    """The structures of a slice.

    Parameters
    ----------
    structures : mapping of str to StructureResult
        Those that were found.
    missing : mapping of str to str
        Those that were wanted and not found, and why.
    area_cv : mapping of str to float
        Coefficient of variation of the area under jittered prompts, where asked for.
    """

    structures: Mapping[str, StructureResult]
    missing: Mapping[str, str]
    area_cv: Mapping[str, float]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was not found, then every structure's warnings."""
        told = [t for name, one in self.structures.items() if name != "psoas" for t in one.warnings]
        return tuple(dict.fromkeys([*self.missing.values(), *told]))


def read_image(case: Case) -> CTVolume | CTSlice:
    """Read a case's study, or its single slice.

    Raises
    ------
    InputError, DicomError, GeometryError
        If it cannot be used; see `read_study`.
    """
    path = Path(case.path)
    if path.suffix.lower() == ".npz":
        return read_case_npz(path).slice
    return read_study(path, series_uid=case.series_uid)


def find_level(image: CTVolume | CTSlice, case: Case, plan: Plan, segmenter: PredictsMasks) -> Level:
    """Go to the slice to measure: the one that was given, or the middle of the L3 found or clicked.

    Where a slice is given L3 is looked for nevertheless, to compare; not finding it is then no error.

    Raises
    ------
    AnatomyNotFound
        If L3 is neither given nor found.
    InputError
        If an index or the click lies outside the volume.
    Unavailable
        If the segmenter cannot answer.
    """
    if isinstance(image, CTSlice):
        if case.mid_l3_index not in (None, 0):
            raise InputError(
                "the case is a single slice", received=case.mid_l3_index, hint="Leave the index."
            )
        return Level(ct_slice=image, axial_index=None)
    depth = image.shape_zyx[0]
    given = case.mid_l3_index
    if depth == 1 and given is None:
        given = 0
    if given is not None and not 0 <= given < depth:
        raise InputError("no such axial slice", received=given, hint=f"The volume has 0 to {depth - 1}.")
    sagittal, l3_index = None, None
    warnings: list[str] = []
    # With structures chosen by name only the slice counts, and a thin slab shows no spine.
    looks = given is None or (depth * image.spacing_zyx_mm[0] >= _FEWEST_SLICES_MM and _is_whole(plan))
    if looks:
        try:
            sagittal = find_l3_in_volume(
                image,
                segmenter,
                l3_xy=case.l3_xy,
                sagittal_index=case.sagittal_index,
                window=plan.window,
            )
            warnings += sagittal.warnings
            if sagittal.l3 is not None and sagittal.l3.mask.any():
                l3_index = mid_l3_axial_index(image, sagittal.l3.mask)
        except AnatomyNotFound as error:
            if given is None:
                raise
            warnings.append(str(error))
    index = l3_index if given is None else given
    if index is None:
        raise AnatomyNotFound(
            "L3 was not found on the sagittal view",
            hint="Give mid_l3_index, or a click in L3 (l3_x, l3_y), in the manifest.",
        )
    return Level(
        ct_slice=image.axial(index),
        axial_index=index,
        sagittal=sagittal,
        l3_index=l3_index,
        warnings=tuple(warnings),
    )


def segment_slice(
    ct_slice: CTSlice, prompts: Mapping[str, Prompt], plan: Plan, segmenter: PredictsMasks
) -> Segmented:
    """Segment the wanted structures of a slice: by a user's prompt where there is one, else one click.

    Raises
    ------
    AnatomyNotFound
        If none of the wanted structures is found.
    InputError
        If a prompt does not fit the slice.
    Unavailable
        If the segmenter cannot answer.
    """
    session = AxialSession.open(
        ct_slice,
        segmenter,
        window=plan.window,
        definitions=plan.definitions,
        confidence_threshold=plan.confidence_threshold,
    )
    found: dict[str, StructureResult] = {}
    missing: dict[str, str] = {}
    problem: AnatomyNotFound | None = None
    for name in _needed(plan.structures):
        try:
            found[name] = session.segment(name, prompt=prompts.get(name))
        except AnatomyNotFound as error:
            missing[name], problem = str(error), error
    if not found and problem is not None:
        raise problem
    if "psoas" in plan.structures and "psoas_left" in found and "psoas_right" in found:
        found["psoas"] = join_sides(found["psoas_left"], found["psoas_right"])
    if "muscle" in found and any(name in plan.structures for name in _FATS):
        try:
            fat = session.find_fat_of(found["muscle"])
            found.update({name: one for name, one in fat.items() if name in plan.structures})
        except AnatomyNotFound as error:
            missing["fat"] = str(error)
    return Segmented(
        structures=found, missing=missing, area_cv=_jitter(ct_slice, found, prompts, plan, segmenter)
    )


def _needed(wanted: Sequence[Structure]) -> list[Structure]:
    needs = set(wanted)
    if "psoas" in needs:
        needs |= {"psoas_left", "psoas_right"}
    if needs & set(_FATS):
        needs.add("muscle")
    return [name for name in _SINGLES if name in needs]


def _is_whole(plan: Plan) -> bool:
    return "muscle" in plan.structures and "vertebra" in plan.structures


def _jitter(
    ct_slice: CTSlice,
    found: Mapping[str, StructureResult],
    prompts: Mapping[str, Prompt],
    plan: Plan,
    segmenter: PredictsMasks,
) -> dict[str, float]:
    variation: dict[str, float] = {}
    if not plan.robustness_trials:
        return variation
    for name in _JITTERED:
        if name not in found or found[name].prompted_by == "name":
            continue
        try:
            result = robustness(
                ct_slice,
                prompts.get(name, name),
                segmenter,
                structure=name,
                n=plan.robustness_trials,
                window=plan.window,
                definitions=plan.definitions,
            )
        except InputError:
            continue
        if np.isfinite(result.area_cv):
            variation[name] = result.area_cv
    return variation


def sentence_of(error: BaseException, case: Case) -> tuple[str, str]:
    """Type and sentence of an error, without the names of the case's files, which may name a patient.

    Of an unforeseen error only its type and where in this package it came up are told.
    """
    if isinstance(error, CtaiError):
        return type(error).__name__, without_names(str(error), case)
    if isinstance(error, MemoryError):
        return "MemoryError", "there was not enough memory for this case."
    place = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if str(name).startswith("ctai_sam2"):
            place = f" in {name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__, f"unforeseen{place}; please report it."


def without_names(text: str, case: Case) -> str:
    """Replace the case's file and folder names in a text."""
    path = Path(case.path)
    names = {path.name, path.name.split(".")[0]}
    for name in sorted((n for n in names if len(n) > 2), key=len, reverse=True):
        text = text.replace(name, "…")
    return text
