from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.models.sam2_network import structure_names
from ctai_sam2.phantom import Label, masks_from_labels
from ctai_sam2.training.bank import LabelledImage
from ctai_sam2.training.prompts import (
    BOX_FIRST,
    NEGATIVE,
    PAD,
    POSITIVE,
    draw_box,
)
from ctai_sam2.training.samples import StepDataset
from ctai_sam2.training.schedule import NANO, SMOKE
from ctai_sam2.training.tissue_classes import CLASS_NAMES, class_table


def prompted(bank: list[LabelledImage], seed: int = 0, objects: int = 24) -> StepDataset:
    phase = dataclasses.replace(SMOKE.phases[1], image_size=128, objects=objects, steps=40)
    return StepDataset(dataclasses.replace(SMOKE, phases=(phase,)), bank, [], seed=seed)


def test_names_fit_their_targets_even_in_mirrored_images(bank: list[LabelledImage]) -> None:
    names = structure_names(SMOKE.model)
    data = prompted(bank[:1])
    alone = placed = mirrored = 0
    for step in range(25):
        batch = data[step]
        left_of = {}
        for target, name, labels, rough in zip(
            batch.targets[0], batch.structures[0], batch.labels[0], batch.has_mask[0], strict=True
        ):
            if name < 0:
                assert (labels != PAD).any() or rough
                continue
            alone += int((labels == PAD).all() and not rough)
            placed += int((labels != PAD).any())
            left_of.setdefault(names[name], []).append(float(np.nonzero(target)[1].mean()))
        # The patient's left is on the right of the image, whatever the picture showed before.
        if {"psoas_left", "psoas_right"} <= set(left_of):
            assert min(left_of["psoas_left"]) > max(left_of["psoas_right"])
            mirrored += 1
    assert min(alone, placed, mirrored) > 3


def test_a_structure_is_named_on_the_plane_it_is_whole_on(bank: list[LabelledImage]) -> None:
    names = structure_names(SMOKE.model)
    for image, allowed in (
        (bank[0], {"psoas_left", "psoas_right", "psoas", "muscle", "vertebra"}),
        (bank[1], {"vertebra", "vertebrae", "sacrum"}),
    ):
        data = prompted([image])
        seen = {names[i] for step in range(12) for i in data[step].structures[0] if i >= 0}
        assert seen
        assert seen <= allowed


def test_points_lie_on_their_side_of_the_outline(bank: list[LabelledImage]) -> None:
    data = prompted(bank)
    inside = outside = boxes = 0
    for step in range(12):
        batch = data[step]
        for target, points, labels in zip(batch.targets[0], batch.points_xy[0], batch.labels[0], strict=True):
            for (x, y), label in zip(points, labels, strict=True):
                column, row = round(float(x)), round(float(y))
                if label == POSITIVE:
                    inside += 1
                    assert target[row, column]
                elif label == NEGATIVE:
                    outside += 1
                    assert not target[row, column]
                boxes += int(label == BOX_FIRST)
    assert min(inside, outside, boxes) > 20


def test_ambiguous_means_one_lonely_click(bank: list[LabelledImage]) -> None:
    data = prompted(bank)
    seen = set()
    for step in range(12):
        batch = data[step]
        alone = ((batch.labels != PAD).sum(axis=2) == 1) & (batch.labels == POSITIVE).any(axis=2)
        np.testing.assert_array_equal(batch.ambiguous, alone & ~batch.has_mask & (batch.structures < 0))
        seen |= set(batch.ambiguous.ravel().tolist())
    assert seen == {True, False}


def test_a_step_is_decided_by_seed_and_number(bank: list[LabelledImage]) -> None:
    once, again, other = prompted(bank)[5], prompted(bank)[5], prompted(bank, seed=1)[5]
    for field in dataclasses.fields(once):
        np.testing.assert_array_equal(getattr(once, field.name), getattr(again, field.name))
    assert not np.array_equal(once.images, other.images)


def test_classes_name_the_phantoms_tissues() -> None:
    classes, masks = class_table(), masks_from_labels(np.arange(256, dtype=np.uint8))
    for name in ("sat", "aorta", "psoas"):
        found = classes == CLASS_NAMES.index(name)
        sides = [mask for region, mask in masks.items() if region in (name, f"{name}_left", f"{name}_right")]
        np.testing.assert_array_equal(found, np.any(sides, axis=0))
        assert found.any()
    assert classes[int(Label.AIR)] == CLASS_NAMES.index("background")


def test_boxes_hold_most_of_the_target() -> None:
    target = np.zeros((64, 64), bool)
    target[20:40, 10:30] = True
    rng = np.random.default_rng(0)
    for _ in range(50):
        (x0, y0), (x1, y1) = draw_box(target, rng=rng)
        assert x0 < 16
        assert y0 < 26
        assert x1 > 24
        assert y1 > 34


def test_a_schedule_ends_with_its_last_phase_and_refuses_nonsense() -> None:
    assert NANO.locate(NANO.total_steps - 1) == (len(NANO.phases) - 1, NANO.phases[-1].steps - 1)
    with pytest.raises(InputError):
        NANO.locate(NANO.total_steps)
    with pytest.raises(InputError, match="32"):
        dataclasses.replace(NANO.phases[0], image_size=100)
