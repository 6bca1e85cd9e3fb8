"""Training batches: which image, which targets, which prompts. All decided by (seed, step)."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from ctai_sam2.models.sam2_network import structure_names
from ctai_sam2.structures import MIRRORED
from ctai_sam2.training.augmentation import frame_at_random, normalise, vary_appearance, vary_tissues
from ctai_sam2.training.bank import LabelledImage, Plane
from ctai_sam2.training.prompts import (
    BOX_FIRST,
    BOX_SECOND,
    NEGATIVE,
    PAD,
    POSITIVE,
    draw_box,
    draw_points_around,
    draw_points_inside,
    draw_rough_mask,
)
from ctai_sam2.training.schedule import Phase, TrainingConfig
from ctai_sam2.training.tissue_classes import CLASS_NAMES, class_table

# How often a target is requested, relative to 1.
_WEIGHTS: Final = {
    "psoas_left": 3.5, "psoas_right": 3.5, "psoas_both": 2.0, "muscle": 5.0, "vertebra": 2.5, "region": 1.0,
    "L1": 2.5, "L2": 2.5, "L3": 3.0, "L4": 2.5, "L5": 2.5, "T12": 1.0, "T11": 0.7, "S1": 0.7,
    "iliopsoas_left": 2.0, "iliopsoas_right": 2.0, "skin": 0.1, "sat": 0.4, "vat": 0.4, "body": 0.3,
    "disc": 0.4, "sacrum": 0.5, "bowel": 0.3, "organ": 0.8, "erector_both": 0.6,
}  # fmt: skip
_ELSE: Final = 0.6
# Targets that one click cannot name: they always get several points, a box or a rough mask.
_UNIONS: Final = frozenset(
    {"muscle", "psoas_both", "erector_both", "sat", "vat", "disc", "bowel", "body", "skin"}
)  # fmt: skip
# Targets that a prompt may name, by plane; the second group needs a place in addition to its name.
_NAMED: Final = {
    "axial": {
        "psoas_left": "psoas_left", "psoas_right": "psoas_right", "psoas_both": "psoas",
        "muscle": "muscle", "vertebra": "vertebra",
    },
    "sagittal": {"vertebra": "vertebrae", "sacrum": "sacrum"},
}  # fmt: skip
_NAMED_AT_A_PLACE: Final = {
    "axial": {}, "sagittal": dict.fromkeys(("T11", "T12", "L1", "L2", "L3", "L4", "L5"), "vertebra")
}  # fmt: skip
_NAME_SHARE: Final = 0.5
_NAME_ALONE_SHARE: Final = 0.35
_SMALLEST_TARGET: Final = 0.0004
_MOST_TOKENS: Final = {"click": 1, "few": 4, "many": 18}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PromptBatch:
    """Images and prompted targets of one step, as arrays.

    Attributes
    ----------
    images : numpy.ndarray
        float32 (B, 3, N, N).
    targets : numpy.ndarray
        bool (B, K, N, N).
    points_xy : numpy.ndarray
        float32 (B, K, P, 2), (x, y) in network pixels.
    labels : numpy.ndarray
        int64 (B, K, P): 1, 0, 2 and 3 for box corners, -1 for padding.
    mask_logits : numpy.ndarray
        float32 (B, K, 1, N // 4, N // 4).
    has_mask : numpy.ndarray
        bool (B, K): whether the mask prompt counts.
    ambiguous : numpy.ndarray
        bool (B, K): one single click, and no name.
    structures : numpy.ndarray
        int64 (B, K): index of the structure that is named, -1 for none.
    classes : numpy.ndarray
        int64 (B, N // 4, N // 4); index in `CLASS_NAMES`, -1 where not known.
    """

    images: npt.NDArray[np.float32]
    targets: npt.NDArray[np.bool_]
    points_xy: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    mask_logits: npt.NDArray[np.float32]
    has_mask: npt.NDArray[np.bool_]
    ambiguous: npt.NDArray[np.bool_]
    structures: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DenseBatch:
    """Images and per-pixel classes of one step.

    Attributes
    ----------
    images : numpy.ndarray
        float32 (B, 3, N, N).
    classes : numpy.ndarray
        int64 (B, N // 4, N // 4); -1 where not known.
    """

    images: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]


class StepDataset(Dataset[Any]):
    """Step number to batch; the same for the same seed, in whatever process and order.

    Parameters
    ----------
    config : TrainingConfig
        The schedule.
    phantoms : list of LabelledImage
        The phantom bank.
    real : list of LabelledImage
        Real images; may be empty.
    seed : int
        With the step number it decides the batch.
    """

    def __init__(
        self, config: TrainingConfig, phantoms: list[LabelledImage], real: list[LabelledImage], *, seed: int
    ) -> None:
        self._config = config
        self._phantoms = phantoms
        self._real = {source: [image for image in real if image.source == source] for source in _REAL_SOURCES}
        self._seed = seed
        self._structures = structure_names(config.model)

    def __len__(self) -> int:
        return self._config.total_steps

    def __getitem__(self, step: int) -> PromptBatch | DenseBatch:
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self._seed, 77, step))
        index, _ = self._config.locate(step)
        phase = self._config.phases[index]
        if phase.kind == "dense":
            pairs = [self._dense_pair(phase, rng) for _ in range(phase.images)]
            return DenseBatch(
                images=np.stack([image for image, _ in pairs]),
                classes=np.stack([known for _, known in pairs]),
            )
        style = str(rng.choice(("click", "few", "many"), p=(0.25, 0.35, 0.4)))
        rows = [
            draw_prompted(
                self._draw_image(phase.real_share, rng),
                size_px=phase.image_size,
                objects=phase.objects,
                style=style,
                structures=self._structures,
                tissue_share=phase.tissue_share,
                rng=rng,
            )
            for _ in range(phase.images)
        ]
        return PromptBatch(
            **{
                field.name: np.stack([getattr(row, field.name) for row in rows])
                for field in dataclasses.fields(PromptBatch)
            }
        )

    def _draw_image(self, real_share: float, rng: np.random.Generator) -> LabelledImage:
        sources = [source for source in _REAL_SOURCES if self._real[source]]
        if sources and rng.uniform() < real_share:
            shares = np.array([_REAL_SOURCES[source] for source in sources])
            pool = self._real[sources[int(rng.choice(len(sources), p=shares / shares.sum()))]]
            plane = "axial" if rng.uniform() < _AXIAL_SHARE else "sagittal"
            pool = [image for image in pool if image.plane == plane] or pool
        else:
            pool = self._phantoms
        return pool[int(rng.integers(len(pool)))]

    def _dense_pair(
        self, phase: Phase, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        real = self._real["case"]
        if real and rng.uniform() < phase.real_share:
            image = real[int(rng.integers(len(real)))]
        else:
            image = self._phantoms[int(rng.integers(len(self._phantoms)))]
        hu, codes, _ = frame_at_random(image, size_px=phase.image_size, rng=rng)
        grey = _vary(image, hu, codes, phase.tissue_share, rng)
        return normalise(grey), _classes_of(image)[codes[2::4, 2::4]]


def draw_prompted(
    image: LabelledImage,
    *,
    size_px: int,
    objects: int,
    style: str,
    structures: tuple[str, ...],
    tissue_share: float = 0.0,
    rng: np.random.Generator,
) -> PromptBatch:
    """Draw one augmented image with its prompted targets; the batch axis is left out."""
    hu, codes, mirrored = frame_at_random(image, size_px=size_px, rng=rng)
    grey = _vary(image, hu, codes, tissue_share, rng)
    areas = np.bincount(codes.ravel(), minlength=image.members.shape[1])[: image.members.shape[1]]
    target_areas = image.members @ areas
    usable = np.flatnonzero(target_areas >= _SMALLEST_TARGET * codes.size)
    if style == "click":
        alone = np.array([image.names[index] not in _UNIONS for index in usable], dtype=bool)
        usable = usable[alone] if alone.any() else usable
    tokens = _MOST_TOKENS[style]
    low = size_px // 4
    targets = np.zeros((objects, size_px, size_px), dtype=bool)
    points_xy = np.zeros((objects, tokens, 2), dtype=np.float32)
    labels = np.full((objects, tokens), PAD, dtype=np.int64)
    mask_logits = np.zeros((objects, 1, low, low), dtype=np.float32)
    has_mask = np.zeros(objects, dtype=bool)
    structure = np.full(objects, -1, dtype=np.int64)
    if usable.size == 0:
        # Only a body-less crop: ask for what is brighter than air, so that the step can proceed.
        usable_masks = [grey > 0 if (grey > 0).any() else np.ones_like(grey, dtype=bool)]
        chosen = np.zeros(objects, dtype=int)
        names = ["body"]
    else:
        weights = np.array([_target_weight(image, int(index)) for index in usable])
        chosen = rng.choice(usable.size, objects, p=weights / weights.sum())
        usable_masks, names = [], [image.names[index] for index in usable]
        made: dict[int, int] = {}
        for position, pick in enumerate(chosen):
            if int(pick) not in made:
                made[int(pick)] = len(usable_masks)
                usable_masks.append(image.members[usable[pick]][codes])
            chosen[position] = made[int(pick)]
        names = [names[pick] for pick in made]
    for position, pick in enumerate(chosen):
        target = usable_masks[pick]
        targets[position] = target
        union = names[pick] in _UNIONS or (image.plane == "sagittal" and names[pick] == "vertebra")
        name, name_only = _draw_name(image.plane, names[pick], structures, mirrored=mirrored, rng=rng)
        if name is not None:
            structure[position] = structures.index(name)
        if name_only:
            continue
        xy, kinds, rough = _draw_prompt(target, grey, style=style, union=union, rng=rng)
        points_xy[position, : len(kinds)] = xy
        labels[position, : len(kinds)] = kinds
        if rough is not None:
            mask_logits[position, 0] = rough
            has_mask[position] = True
    return PromptBatch(
        images=normalise(grey),
        targets=targets,
        points_xy=points_xy,
        labels=labels,
        mask_logits=mask_logits,
        has_mask=has_mask,
        classes=_classes_of(image)[codes[2::4, 2::4]],
        structures=structure,
        ambiguous=((labels == POSITIVE).sum(axis=1) == 1)
        & ((labels != PAD).sum(axis=1) == 1)
        & ~has_mask
        & (structure < 0),
    )


_REAL_SOURCES: Final = {"case": 0.6, "series": 0.25, "volume": 0.15}
# Sagittal cases come in several fields of view each; axial ones carry the structures that are measured.
_AXIAL_SHARE: Final = 0.65


def _target_weight(image: LabelledImage, index: int) -> float:
    name = image.names[index]
    weight = _WEIGHTS.get(name, _ELSE)
    if image.plane == "sagittal" and name in ("vertebra", "muscle", "sacrum"):
        return {"vertebra": 1.5, "muscle": 0.3, "sacrum": 1.5}[name]
    return weight


def _vary(
    image: LabelledImage,
    hu: npt.NDArray[np.float32],
    codes: npt.NDArray[Any],
    tissue_share: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:
    if image.source == "phantom" and tissue_share and rng.uniform() < tissue_share:
        hu = vary_tissues(hu, class_table()[codes], rng=rng)
    return vary_appearance(hu, plane=image.plane, rng=rng)


def _classes_of(image: LabelledImage) -> npt.NDArray[np.int64]:
    return class_table() if image.source == "phantom" else _case_classes(image)


def _case_classes(image: LabelledImage) -> npt.NDArray[np.int64]:
    """Return code to class for a real case, -1 where its masks do not tell."""
    table = np.full(image.members.shape[1], -1, dtype=np.int64)
    if image.source != "case":
        return table
    even = {"L1": 0, "L2": 1, "L3": 0, "L4": 1, "L5": 0} if image.plane == "sagittal" else {}
    for row, name in zip(image.members, image.names, strict=True):
        if name in ("psoas_left", "psoas_right"):
            table[row] = CLASS_NAMES.index("psoas")
        elif name in ("sat", "vat"):
            table[row] = CLASS_NAMES.index(name)
        elif name == "vertebra":
            table[row] = CLASS_NAMES.index("vertebra_even")
        elif name in even:
            table[row] = CLASS_NAMES.index("vertebra_odd" if even[name] else "vertebra_even")
    return table


def _draw_name(
    plane: Plane, target: str, structures: tuple[str, ...], *, mirrored: bool, rng: np.random.Generator
) -> tuple[str | None, bool]:
    """Return what a prompt names, and whether it says nothing else."""
    target = MIRRORED.get(target, target) if mirrored and plane == "axial" else target
    name = _NAMED[plane].get(target)
    unique = name is not None
    name = name or _NAMED_AT_A_PLACE[plane].get(target)
    if name not in structures or rng.uniform() >= _NAME_SHARE:
        return None, False
    return name, unique and rng.uniform() < _NAME_ALONE_SHARE


def _draw_prompt(
    target: npt.NDArray[np.bool_],
    grey: npt.NDArray[np.float32],
    *,
    style: str,
    union: bool,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float32] | None]:
    rough = None
    if rng.uniform() < (0.5 if union and style != "many" else 0.2):
        rough = draw_rough_mask(target, grey, rng=rng)
    if style == "click":
        inside = draw_points_inside(target, 1, rng=rng)
        return inside, np.array([POSITIVE]), rough
    parts: list[npt.NDArray[np.float32]] = []
    kinds: list[int] = []
    box_share = 0.75 if style == "few" else 0.35
    with_box = rng.uniform() < box_share or (union and style == "few" and rough is None)
    if with_box:
        parts.append(draw_box(target, rng=rng))
        kinds += [BOX_FIRST, BOX_SECOND]
    if style == "few":
        positives = int(rng.integers(0, 3)) if with_box else int(rng.integers(1, 4))
        negatives = int(rng.integers(0, 2)) if len(kinds) + positives < _MOST_TOKENS["few"] else 0
    else:
        positives = int(rng.integers(5, 14)) if union else int(rng.integers(1, 7))
        negatives = int(rng.integers(0, 5)) if rng.uniform() < 0.7 else 0
        negatives = min(negatives, _MOST_TOKENS["many"] - len(kinds) - positives)
    if rough is not None and style == "few" and rng.uniform() < 0.25:
        positives = negatives = 0
    if positives:
        parts.append(draw_points_inside(target, positives, rng=rng))
        kinds += [POSITIVE] * positives
    if negatives > 0 and not target.all():
        parts.append(draw_points_around(target, negatives, rng=rng))
        kinds += [NEGATIVE] * negatives
    xy = np.concatenate(parts) if parts else np.zeros((0, 2), dtype=np.float32)
    return xy, np.array(kinds, dtype=np.int64), rough
