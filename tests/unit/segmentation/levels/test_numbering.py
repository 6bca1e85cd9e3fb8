from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.models import open_segmenter
from ctai_sam2.phantom import make_sagittal_slice, reference_parameters
from ctai_sam2.segmentation import L3Result
from ctai_sam2.segmentation.levels.numbering import (
    BEYOND,
    FEATURES,
    describe_places,
    l3_probabilities,
    load_numbering,
)
from ctai_sam2.segmentation.levels.sagittal import (
    COUNTED_FROM,
    LEVEL_THRESHOLD,
    find_l3,
    number_bodies,
    walk_spine,
)
from ctai_sam2.segmentation.levels.spine_walk import SeenBody
from ctai_sam2.structures import level_below_l3
from ctai_sam2.training.levels import make_cut_spine, sacrum_place
from ctai_sam2.types import CTSlice
from tests.unit.segmentation.oracle import dice

LUMBAR_TILTS_DEG = (-10.0, -9.0, -6.0, 0.0, 6.0, 11.0)
"""T12 to L5."""


def spine(tilts_deg=LUMBAR_TILTS_DEG, sacrum: bool = True) -> list[SeenBody]:
    """Bodies as large as usual, under them the first piece of a sacrum as the model usually sees it."""
    bodies, at = [], np.array([100.0, 40.0])
    for tilt in tilts_deg:
        bodies.append(piece(at, tilt, tilt, tilt))
        at = at + 31.0 * np.array([np.sin(np.radians(tilt)), np.cos(np.radians(tilt))])
    if sacrum:
        at = at + np.array([4.0, 0.0])
        s1 = piece(at, 14.0, 29.0, -1.0)
        bodies.append(replace(s1, height_mm=30.0, worth=0.35, score=0.56, sacral_area_mm2=1110.0))
    return bodies


def piece(at, tilt: float, top_tilt: float, bottom_tilt: float) -> SeenBody:
    return SeenBody(
        centre_mm=at,
        tilt_deg=tilt,
        top_tilt_deg=top_tilt,
        bottom_tilt_deg=bottom_tilt,
        height_mm=24.6,
        depth_mm=29.0,
        taper=1.0,
        area_mm2=760.0,
        worth=0.82,
        score=0.9,
        sacral_area_mm2=750.0,
        sacral_score=0.85,
    )


def test_a_clear_sacrum_tells_the_level() -> None:
    chances = l3_probabilities(spine(), 400.0)
    assert int(np.argmax(chances)) == 3
    assert chances[3] > COUNTED_FROM
    assert chances.sum() <= 1.0 + 1e-9


def test_without_its_sacrum_a_spine_is_told_with_less_certainty() -> None:
    whole = l3_probabilities(spine(), 400.0)
    cut = l3_probabilities(spine()[:4], 165.0)
    assert cut.max() < whole.max()


def test_probabilities_add_up_with_what_is_not_seen() -> None:
    numbering = load_numbering()
    places = describe_places(spine(), 400.0, numbering)
    assert places.shape == (len(spine()) + BEYOND, len(FEATURES))
    assert np.isfinite(places).all()
    # A spine that ends above L3 leaves next to nothing for its bodies.
    thoracic = spine((4.0, 0.0, -6.0, -10.0), sacrum=False)
    assert 0.0 <= l3_probabilities(thoracic, 200.0).sum() <= 1.0


def test_levels_have_names_on_both_sides_of_l3() -> None:
    assert [level_below_l3(i) for i in (-6, -5, 0, 2, 3)] == [None, "T10", "L3", "L5", None]


@pytest.fixture(scope="module")
def found() -> tuple[L3Result, dict, tuple[SeenBody, ...]]:
    rng = np.random.default_rng(0)
    phantom = make_sagittal_slice(reference_parameters(), shape_hw=(300, 300), spacing_mm=(1.4, 1.4), rng=rng)
    ct_slice = CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm, plane="sagittal")
    with open_segmenter("local") as segmenter:
        bodies = walk_spine(ct_slice, segmenter)
        result = find_l3(ct_slice, segmenter)
    return result, dict(phantom.masks), bodies


def test_the_model_finds_l3_and_says_how_sure_it_is(found) -> None:
    result, masks, _ = found
    assert result.chosen is not None
    assert dice(result.l3.mask, masks["L3"]) > 0.88
    assert result.probability == result.candidates[result.chosen].l3_probability > LEVEL_THRESHOLD
    assert [c.level for c in result.candidates][-3:] == ["L3", "L4", "L5"]
    assert all(a.centre_xy[1] < b.centre_xy[1] for a, b in pairwise(result.candidates))


def test_another_level_is_chosen_without_asking_the_model(found) -> None:
    result, masks, _ = found
    assert result.proposals[0] == result.chosen
    assert {result.chosen - 1, result.chosen + 1} <= set(result.proposals)
    above = result.choose(result.chosen - 1)
    assert above.certainty == "told"
    assert above.candidates[above.chosen].level == "L3"
    assert dice(above.l3.mask, masks["L2"]) > 0.85
    back = above.choose(result.chosen)
    assert np.array_equal(back.l3.mask, result.l3.mask)
    with pytest.raises(InputError, match="no such candidate"):
        result.choose(99)
    blank = replace(result, candidates=tuple(replace(c, result=None) for c in result.candidates))
    with pytest.raises(InputError, match="not outlined"):
        blank.choose(0)


def test_below_the_threshold_nothing_is_chosen(found) -> None:
    result, _, bodies = found
    chances = np.full(len(bodies), 0.2)
    chances[2] = LEVEL_THRESHOLD - 0.01
    refused = number_bodies(result.ct_slice, bodies, chances)
    assert refused.chosen is None
    assert refused.l3 is None
    assert refused.certainty == "unknown"
    assert f"{LEVEL_THRESHOLD - 0.01:.2f}" in refused.warnings[0]
    assert refused.proposals[0] == 2
    assert all(candidate.level is None for candidate in refused.candidates)
    assert refused.choose(2).l3.mask.any()


def test_a_rival_is_named(found) -> None:
    result, _, bodies = found
    chances = np.zeros(len(bodies))
    chances[2], chances[3] = 0.6, 0.35
    doubtful = number_bodies(result.ct_slice, bodies, chances)
    assert doubtful.certainty == "estimated"
    assert any("below could be L3 as well (probability 0.35)" in warning for warning in doubtful.warnings)


def test_stated_probabilities_hold_on_new_phantoms() -> None:
    """Of answers given with 0.5 or more, most are right; of bold ones, nearly all."""
    told: list[tuple[float, bool]] = []
    with open_segmenter("local") as segmenter:
        for seed in range(5000, 5012):
            ct_slice, masks = make_cut_spine(seed)
            result = find_l3(ct_slice, segmenter)
            if result.chosen is not None:
                x, y = result.candidates[result.chosen].centre_xy
                told.append((result.probability, bool(masks["L3"][round(y), round(x)])))
    assert len(told) >= 6
    assert sum(right for _, right in told) >= sum(chance for chance, _ in told) - 2.5


def test_the_sacrum_is_placed_by_what_the_bodies_lie_in() -> None:
    bodies = spine()
    ct_slice = CTSlice(hu=np.zeros((400, 300), np.int16), spacing_mm=(1.0, 1.0), plane="sagittal")
    masks = {"L5": np.zeros((400, 300), bool), "sacrum": np.zeros((400, 300), bool)}
    x, y = np.rint(bodies[5].centre_mm - 0.5).astype(int)
    masks["L5"][y, x] = True
    assert sacrum_place(bodies, ct_slice, masks) == 6
    x, y = np.rint(bodies[6].centre_mm - 0.5).astype(int)
    assert sacrum_place(bodies, ct_slice, {"sacrum": masks["sacrum"]}) is None
    masks["sacrum"][y, x] = True
    assert sacrum_place(bodies, ct_slice, {"sacrum": masks["sacrum"]}) == 6
