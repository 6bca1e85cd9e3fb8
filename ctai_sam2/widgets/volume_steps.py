"""Between an editor's volume and the engine for volumes: results in and out, propagation, numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from ctai_sam2 import segmentation
from ctai_sam2.editor import Controller, Document, Message
from ctai_sam2.editor.commands import Compound, SetMask, SetState
from ctai_sam2.editor.history import MODEL_EDIT
from ctai_sam2.editor.levels import LevelSpan
from ctai_sam2.editor.sheet import Author
from ctai_sam2.editor.slice_state import SliceState
from ctai_sam2.editor.strip import Direction, Step, stretch, strip_range
from ctai_sam2.errors import InputError
from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.models import Segmenter
from ctai_sam2.segmentation.volume.anchors import VolumeAnchor
from ctai_sam2.segmentation.volume.result import LevelRange, SliceMask, VolumeResult, crop_mask
from ctai_sam2.structures import AXIAL_STRUCTURES, LEVELS, MUSCLES, Structure
from ctai_sam2.types import CTVolume, Mask, Progress
from ctai_sam2.types.slice_follower import has_slice_memory

if TYPE_CHECKING:
    from ctai_sam2.segmentation.volume import FollowWith

_UNDECIDED = SliceMask(corner_yx=(0, 0), crop=np.zeros((0, 0), np.bool_), source="absent")
"""Stands in the engine for a slice that nothing was decided about."""


_slices: WeakKeyDictionary[Document, dict[tuple[str, int], tuple[int, SliceMask | None]]] = (
    WeakKeyDictionary()
)
"""Of each open document, the slices cut out already, with their revisions: an edit changes one of many."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What the engine made of a volume, and the revisions that it was made from.

    Parameters
    ----------
    slices : mapping of str to mapping of int to SliceMask
        By label, then by slice; only slices that it may change.
    revisions : mapping of (str, int) to int
        Of each label and slice when the work began.
    model : str
        Name of the model.
    levels : tuple of LevelSpan, optional
        Levels, where they were found too.
    span : (int, int), optional
        First and last slice, where they were found too.
    """

    slices: Mapping[Structure, Mapping[int, SliceMask]]
    revisions: Mapping[tuple[Structure, int], int]
    model: str
    levels: tuple[LevelSpan, ...] = ()
    span: tuple[int, int] | None = None


def to_result(document: Document) -> VolumeResult | None:
    """Return what is outlined on a volume as a `VolumeResult`; None where nothing is, or without a volume."""
    source, span = document.source, strip_range(document)
    if not isinstance(source, CTVolume):
        return None
    slices = {label: _slices_of(document, label, span) for label in _structures(document)}
    slices = {
        label: found for label, found in slices.items() if any(one.crop.any() for one in found.values())
    }
    if not slices:
        return None
    return VolumeResult(
        volume=source, indices=tuple(span), levels=_level_ranges(document), structure_slices=slices
    )


def load_result(controller: Controller, result: VolumeResult) -> Message:
    """Take over a `VolumeResult` of the same volume as one undoable step, with its levels and range.

    Raises
    ------
    InputError
        If it is of another volume, or this editor has no label for any of its structures.
    """
    with controller.lock:
        document = controller.document
        is_same = result.volume is document.source
        if not is_same and fingerprint(result.volume) != fingerprint(document.source):
            raise InputError("the result is of another volume", hint="Open the editor with result.volume.")
        labels = [name for name in result.structure_slices if name in document.labels]
        if not labels:
            raise InputError(
                "the editor has no label for these structures", received=", ".join(result.structure_slices)
            )
        found = Found(
            slices={label: result.structure_slices[label] for label in labels},
            revisions={},
            model="",
            levels=_level_spans(result.levels),
            span=(result.indices[0], result.indices[-1]),
        )
        return take(controller, found)


def open_result(
    controller: Controller,
    result: VolumeResult,
    shown_masks: Callable[[int], Mapping[str, Mask]],
    author: Author,
    *,
    more: Collection[int] = (),
) -> None:
    """Start a document from a `VolumeResult`, with its gates, levels and range; undo never goes below it.

    Parameters
    ----------
    controller : Controller
        Of an untouched document.
    result : VolumeResult
        What to start from.
    shown_masks : callable
        Masks of a slice by structure; those without a label are left out.
    author : {"reader", "model"}
        Of masks that no reader decided about.
    more : collection of int
        Further slices that have masks.
    """
    document = controller.document
    masks: dict[int, dict[str, Mask]] = {}
    states: dict[int, dict[str, SliceState]] = {}
    for index in sorted({*result.indices, *more}):
        masks[index] = {name: one for name, one in shown_masks(index).items() if name in document.labels}
        slices = {name: found[index] for name, found in result.structure_slices.items() if index in found}
        states[index] = {name: state_of(one) for name, one in slices.items() if name in document.labels}
    with controller.lock:
        controller.set_levels(_level_spans(result.levels), (result.indices[0], result.indices[-1]))
        controller.open_volume(masks, states, author)


def worst_slice(result: VolumeResult) -> tuple[Structure, int] | None:
    """Return the structure with the most red slices, a muscle first, and the lowest of these; or None."""
    red = {
        name: sorted(index for index, one in found.items() if one.gate == "red")
        for name, found in result.structure_slices.items()
    }
    worst = max(red, key=lambda name: (bool(red[name]) and name in MUSCLES, len(red[name])), default=None)
    return (worst, red[worst][0]) if worst is not None and red[worst] else None


def state_of(one: SliceMask, *, is_end: bool = False) -> SliceState:
    """Return the state of a slice in the strip."""
    return SliceState(
        source=one.source,
        gate=None if one.source in ("anchor", "absent") else one.gate,
        reasons=one.reasons,
        confidence=one.confidence,
        is_end=is_end,
    )


def propagation(
    controller: Controller, segmenter: Segmenter, directions: Sequence[Direction]
) -> Callable[[Progress], Found] | None:
    """Prepare propagation of the active label from the slice in view; None where there is nothing to do.

    A model with a trained memory follows with it, others with prompts. What it runs on is a snapshot taken
    now. It ends before a slice that a reader decided about, at one where it shall stop, and at the range's
    end.
    """
    document = controller.document
    label, here = _structure(document.view.active), document.index
    mask = document.mask(label)
    reached = {direction: stretch(document, label, direction) for direction in directions}
    source = document.source
    if not (isinstance(source, CTVolume) and mask.any() and any(reached.values())):
        return None
    parts = [_part(document, source, label, slices) for slices in reached.values() if slices]
    revisions = {
        (label, index): document.revision_of(label, index) for part in parts for index in part.indices
    }
    anchor = VolumeAnchor(structure=label, axial_index=here, mask=mask)

    def work(progress: Progress) -> Found:
        changed: dict[int, SliceMask] = {}
        follow: FollowWith = "memory" if has_slice_memory(segmenter) else "prompts"
        for number, part in enumerate(parts):
            progress(number, len(parts), "")
            corrected = segmentation.correct_volume(part, [anchor], segmenter, follow=follow)
            found = corrected.structure_slices[label]
            changed |= {index: one for index, one in found.items() if not _is_undecided(one)}
        reachable = {here, *(index for slices in reached.values() for index in slices)}
        kept = {index: one for index, one in changed.items() if index in reachable}
        return Found(slices={label: kept}, revisions=revisions, model=segmenter.identity.name)

    return work


def range_segmentation(controller: Controller, segmenter: Segmenter) -> Callable[[Progress], Found] | None:
    """Prepare the segmentation of the active label's group on the whole range; None for a single slice.

    Without a range it is found by levels, T12 to L5. What a reader decided about is kept and guides the rest.
    """
    document = controller.document
    source, active = document.source, document.view.active
    if not isinstance(source, CTVolume):
        return None
    groups = document.profile.groups.items()
    names = next((labels for _, labels in groups if active in labels), (active,))
    labels = [_structure(name) for name in names if not document.labels[name].locked]
    every = range(document.slice_count)
    anchors = [
        VolumeAnchor(structure=label, axial_index=index, mask=document.mask(label, index))
        for label in labels
        for index in every
        if document.state(label, index).is_fixed
    ]
    revisions = {(label, index): document.revision_of(label, index) for label in labels for index in every}
    span = document.span

    def work(progress: Progress) -> Found:
        is_drawn = {anchor.structure for anchor in anchors if anchor.mask.any()} == set(labels)
        result = segmentation.segment_volume(
            source,
            segmenter,
            structures=labels,
            levels=("T12", "L5"),
            indices=span,
            anchors=anchors,
            follow="memory" if is_drawn and has_slice_memory(segmenter) else "prompts",
            progress=progress,
        )
        return Found(
            slices=result.structure_slices,
            revisions=revisions,
            model=segmenter.identity.name,
            levels=_level_spans(result.levels),
            span=(result.indices[0], result.indices[-1]),
        )

    return work if labels else None


def take(controller: Controller, found: Found) -> Message:
    """Put what the engine found in place as one undoable step; slices edited meanwhile stay as they are."""
    document = controller.document
    shape_hw = document.shape_hw
    if found.span is not None:
        controller.set_levels(found.levels or document.levels, found.span)
    steps: dict[int, list[SetMask | SetState]] = {}
    stale: set[int] = set()
    red: set[int] = set()
    for label, slices in found.slices.items():
        for index, one in slices.items():
            if document.revision_of(label, index) != found.revisions.get(
                (label, index), document.revision_of(label, index)
            ):
                stale.add(index)
                continue
            state = state_of(one, is_end=document.state(label, index).is_end)
            if state.gate == "red":
                red.add(index)
            steps.setdefault(index, []).append(SetMask(label=label, mask=one.full(shape_hw), origin="ai"))
            steps[index].append(SetState(label=label, state=state))
    # From the slice in view outwards, so that undo comes back to it last.
    order = sorted(steps, key=lambda index: abs(index - document.index))
    compounds: list[Step] = [
        (index, Compound(commands=tuple(steps[index]), name=MODEL_EDIT)) for index in order
    ]
    count = controller.apply_all(compounds, made_by=found.model)
    values = {"count": count, "red": len(red), "stale": len(stale)}
    return Message("ai.propagated_stale" if stale else "ai.propagated", values)


def describe_volume(document: Document, label: str) -> list[Message]:
    """Lines with the volume of a label: whole range, and each level that is covered whole."""
    result = to_result(document)
    if result is None or label not in result.structure_slices:
        return []
    rows = result.summary
    rows = rows[rows["structure"] == label]
    lines = []
    for row in rows.to_dict("records"):
        if not np.isfinite(row["volume_cm3"]):
            continue
        values = {"label": Message(f"label.{label}"), "level": row["level"], "slices": row["slices"]}
        values |= {"volume": f"{row['volume_cm3']:.1f}"}
        values |= {"mean": f"{row['hu_mean']:.0f}" if np.isfinite(row["hu_mean"]) else "–"}
        lines.append(Message("view.volume" if row["level"] == "all" else "view.volume_level", values))
    return lines


def _part(document: Document, volume: CTVolume, label: Structure, slices: Sequence[int]) -> VolumeResult:
    """Return the stretch to propagate through, with the slice it starts from and the one it ends at."""
    here, within = document.index, strip_range(document)
    beyond = slices[-1] + (1 if slices[-1] > here else -1)
    indices = {here, *slices}
    # A decided slice beyond guides the blending, where the slices before it have masks to blend with.
    if beyond in within and document.state(label, beyond).is_fixed:
        indices |= {beyond} if all(document.mask(label, index).any() for index in slices) else set()
    found = {index: _UNDECIDED for index in sorted(indices)} | _slices_of(document, label, sorted(indices))
    return VolumeResult(
        volume=volume,
        indices=tuple(sorted(indices)),
        levels=_level_ranges(document),
        structure_slices={label: found},
    )


def _slices_of(document: Document, label: Structure, indices: Sequence[int]) -> dict[int, SliceMask]:
    known = _slices.setdefault(document, {})
    found = {}
    for index in sorted(document.touched.intersection(indices)):
        revision = document.revision_of(label, index)
        if known.get((label, index), (-1, None))[0] != revision:
            known[label, index] = (revision, _slice_of(document, label, index))
        one = known[label, index][1]
        if one is not None:
            found[index] = one
    return found


def _slice_of(document: Document, label: Structure, index: int) -> SliceMask | None:
    state, mask = document.state(label, index), document.mask(label, index)
    if state.source is None and not mask.any():
        return None
    corner, crop = crop_mask(mask)
    return SliceMask(
        corner_yx=corner,
        crop=crop,
        source=state.source or "automatic",
        gate=state.gate or "green",
        reasons=state.reasons,
        confidence=state.confidence,
    )


def _is_undecided(one: SliceMask) -> bool:
    return one.source == "absent" and not one.crop.size


def _structures(document: Document) -> list[Structure]:
    return [name for name in AXIAL_STRUCTURES if name in document.labels]


def _structure(label: str) -> Structure:
    return next(name for name in AXIAL_STRUCTURES if name == label)


def _level_ranges(document: Document) -> tuple[LevelRange, ...]:
    return tuple(
        LevelRange(name=one.name, lower_mm=one.lower_mm, upper_mm=one.upper_mm) for one in document.levels
    )


def _level_spans(levels: Sequence[LevelRange]) -> tuple[LevelSpan, ...]:
    return tuple(
        LevelSpan(name=one.name, lower_mm=one.lower_mm, upper_mm=one.upper_mm)
        for one in levels
        if one.name in LEVELS
    )
