from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.io import read_case_npz
from ctai_sam2.models import open_segmenter
from ctai_sam2.phantom import make_sagittal_slice, reference_parameters
from ctai_sam2.segmentation import L3Result, find_candidates, find_l3
from ctai_sam2.segmentation.levels.labels import L3
from ctai_sam2.segmentation.levels.sagittal import (
    COUNTED_FROM,
    LEVEL_THRESHOLD,
    choose_l3,
    read_slice_spine,
)
from ctai_sam2.structures import level_below_l3
from ctai_sam2.training.levels.contrast import paint, typical_hu
from ctai_sam2.training.levels.drawn import draw_spine
from ctai_sam2.types import CTSlice, Prediction
from tests.unit.segmentation.oracle import IDENTITY, dice


class Box:
    """Any segmenter: it knows nothing of vertebrae and returns the box."""

    identity = IDENTITY

    def __init__(self) -> None:
        self.asked: list = []

    def predict(self, image_hw, prompt, *, window=None) -> Prediction:
        self.asked.append(prompt)
        mask = np.zeros(image_hw.shape, bool)
        x0, y0, x1, y1 = (round(v) for v in prompt.box_xyxy)
        mask[max(y0, 0) : y1, max(x0, 0) : x1] = True
        return Prediction(masks=mask[None], scores=np.array([0.9]), identity=IDENTITY, processing_time_ms=1.0)


def drawn(seed: int, offset_mm: tuple[float, float] = (0.0, 6.0)) -> tuple[CTSlice, tuple[float, float]]:
    """Draw a spine that no training saw, cut so far from its middle, and where its L3 is."""
    number = seed
    while True:
        rng = np.random.default_rng([number, 4711])
        spine = draw_spine(rng)
        l3 = [(x, y) for x, y, level in spine.centres_xyl if level == L3]
        if l3 and offset_mm[0] <= abs(spine.l3_offset_mm) <= offset_mm[1]:
            break
        number += 1000
    hu = cv2.GaussianBlur(paint(spine.tissue, *typical_hu(rng), rng), (0, 0), 0.8)
    x, y = l3[0]
    top = max(int(y) - 220, 0)
    ct_slice = CTSlice(hu=hu[top : int(y) + 200], spacing_mm=(1.0, 1.0), plane="sagittal")
    return ct_slice, (float(x), float(y - top))


@pytest.fixture(scope="module")
def phantom() -> tuple[CTSlice, dict]:
    rng = np.random.default_rng(0)
    made = make_sagittal_slice(reference_parameters(), shape_hw=(300, 300), spacing_mm=(1.4, 1.4), rng=rng)
    return CTSlice(hu=made.hu, spacing_mm=made.spacing_mm, plane="sagittal"), dict(made.masks)


@pytest.fixture(scope="module")
def found(phantom) -> L3Result:
    with open_segmenter("local") as segmenter:
        return find_l3(phantom[0], segmenter)


def test_l3_is_found_outlined_and_its_probability_stated(phantom, found) -> None:
    assert found.chosen is not None
    assert dice(found.l3.mask, phantom[1]["L3"]) > 0.88
    assert found.probability == found.candidates[found.chosen].l3_probability > LEVEL_THRESHOLD
    assert [c.level for c in found.candidates][-3:] == ["L3", "L4", "L5"]
    assert all(a.centre_xy[1] < b.centre_xy[1] for a, b in pairwise(found.candidates))


def test_another_level_is_chosen_without_asking_the_segmenter(phantom, found) -> None:
    assert found.proposals[0] == found.chosen
    assert {found.chosen - 1, found.chosen + 1} <= set(found.proposals)
    above = found.choose(found.chosen - 1)
    assert above.candidates[above.chosen].level == "L3"
    assert dice(above.l3.mask, phantom[1]["L2"]) > 0.85
    back = above.choose(found.chosen)
    assert np.array_equal(back.l3.mask, found.l3.mask)
    with pytest.raises(InputError, match="no such candidate"):
        found.choose(99)
    blank = replace(found, candidates=tuple(replace(c, result=None) for c in found.candidates))
    with pytest.raises(InputError, match="not outlined"):
        blank.choose(0)


def test_any_segmenter_will_do_and_is_asked_little(phantom) -> None:
    segmenter = Box()
    result = find_l3(phantom[0], segmenter)
    x, y = result.candidates[result.chosen].centre_xy
    assert phantom[1]["L3"][round(y), round(x)]
    assert dice(result.l3.mask, phantom[1]["L3"]) > 0.65
    assert 1 <= len(segmenter.asked) <= 5
    assert all(prompt.box_xyxy is not None and len(prompt.points_xy) == 1 for prompt in segmenter.asked)


def test_below_the_threshold_nothing_is_chosen(phantom) -> None:
    spine = read_slice_spine(phantom[0])
    chances = np.full(len(spine.centres_xy), 0.02)
    chances[3], chances[4] = LEVEL_THRESHOLD - 0.01, 0.4
    refused = choose_l3(phantom[0], spine, Box(), chances=chances)
    assert refused.chosen is None
    assert refused.l3 is None
    assert refused.certainty == "unknown"
    assert f"{LEVEL_THRESHOLD - 0.01:.2f}" in refused.warnings[0]
    assert refused.proposals == (3, 4)
    assert all(candidate.level is None for candidate in refused.candidates)
    assert refused.choose(3).l3.mask.any()


def test_a_rival_is_named(phantom) -> None:
    spine = read_slice_spine(phantom[0])
    chances = np.zeros(len(spine.centres_xy))
    chances[2], chances[3] = 0.6, 0.35
    doubtful = choose_l3(phantom[0], spine, Box(), chances=chances)
    assert doubtful.certainty == "estimated"
    assert any("below could be L3 as well (probability 0.35)" in warning for warning in doubtful.warnings)


@pytest.mark.parametrize(("stretched", "is_odd"), [(0.6, True), (1.0, False), (1.4, True)])
def test_bodies_at_distances_of_no_adult_are_said(phantom, stretched: float, is_odd: bool) -> None:
    ct_slice, _ = phantom
    spine = read_slice_spine(ct_slice)
    stated = replace(ct_slice, spacing_mm=(1.4 * stretched, 1.4))
    warnings = choose_l3(stated, spine, Box()).warnings
    assert any("distance between slices may be wrong" in text for text in warnings) is is_odd


def test_a_body_that_was_missed_is_said(phantom) -> None:
    spine = read_slice_spine(phantom[0])
    best = int(np.argmax(spine.named.l3_probability))
    centres = spine.centres_xy.copy()
    centres[best + 1 :, 1] += 25
    found = choose_l3(phantom[0], replace(spine, centres_xy=centres), Box())
    assert any("a body was missed" in text for text in found.warnings)


def test_a_place_expected_from_elsewhere_counts(phantom) -> None:
    plain = find_l3(phantom[0], Box())
    _, y = plain.candidates[plain.chosen - 1].centre_xy
    weighed = find_l3(phantom[0], Box(), expected_row=y)
    assert weighed.candidates[plain.chosen].l3_probability < plain.probability


def test_stated_probabilities_hold_on_spines_not_trained_on() -> None:
    right, stated = [], []
    for seed in range(12):
        ct_slice, (x, y) = drawn(seed)
        spine = read_slice_spine(ct_slice)
        best = int(spine.named.l3_probability.argmax())
        right.append(np.hypot(*(spine.centres_xy[best] - (x, y))) < 12)
        stated.append(spine.named.l3_probability[best])
    assert sum(right) >= 11
    assert all(r for r, p in zip(right, stated, strict=True) if p >= COUNTED_FROM)
    assert np.mean(stated) > 0.7


def test_a_slice_next_to_the_middle_says_so() -> None:
    aside = [find_l3(drawn(seed, (11.0, 14.5))[0], Box()).warnings for seed in range(4)]
    assert sum(any("canal" in warning for warning in warnings) for warnings in aside) >= 3
    middle = [find_l3(drawn(seed, (0.0, 3.0))[0], Box()).warnings for seed in range(4)]
    assert sum(any("next to the middle" in warning for warning in warnings) for warnings in middle) <= 1


def test_without_sacrum_the_level_is_less_certain(phantom) -> None:
    ct_slice, masks = phantom
    last = int(np.nonzero(masks["L4"])[0].max())
    cut = CTSlice(hu=ct_slice.hu[:last], spacing_mm=ct_slice.spacing_mm, plane="sagittal")
    whole, part = find_l3(ct_slice, Box()), find_l3(cut, Box())
    assert part.probability < whole.probability


def test_no_spine_is_an_error() -> None:
    flat = CTSlice(hu=np.full((200, 200), 40), spacing_mm=(1.5, 1.5), plane="sagittal")
    with pytest.raises(AnatomyNotFound):
        find_candidates(flat)
    with pytest.raises(AnatomyNotFound):
        find_l3(CTSlice(hu=np.full((9, 9), -1000), spacing_mm=(1.0, 1.0), plane="sagittal"), Box())


def test_slices_beside_have_the_same_shape(phantom) -> None:
    other = CTSlice(hu=np.zeros((20, 20)), spacing_mm=(1.4, 1.4), plane="sagittal")
    with pytest.raises(InputError, match="one shape"):
        find_l3(phantom[0], Box(), parallel_slices=[other])


def test_levels_have_names_on_both_sides_of_l3() -> None:
    assert [level_below_l3(i) for i in (-6, -5, 0, 2, 3)] == [None, "T10", "L3", "L5", None]


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name",
    [
        "sbu_A058062_sag_19001231-073",
        "sbu_A058062_sag_19010108-077",
        "sbu_A062055_sag_19001127-064",
        "sbu_A062055_sag_19001228-075",
        "sbu_A027284_sag_19000925-083",
        "sbu_A027284_sag_19001231-081",
        "pcb001_sagittal",
        "ts_example_sagittal_mid",
    ],
)
def test_real_l3_is_found_where_the_sacrum_is_in_view(real_data: Path, name: str) -> None:
    case = read_case_npz(real_data / "dev" / "cases" / f"{name}.npz")
    result = find_l3(case.slice, Box())
    x, y = result.candidates[result.chosen].centre_xy
    assert case.masks["L3"][round(y), round(x)]
    assert result.probability >= COUNTED_FROM
    assert not any("next to the middle" in warning for warning in result.warnings)
