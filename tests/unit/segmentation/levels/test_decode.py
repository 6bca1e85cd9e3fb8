from __future__ import annotations

import numpy as np
import pytest

from ctai_sam2.segmentation.levels.decode import (
    DecodeParameters,
    LevelEvidence,
    SeenVertebra,
    body_box,
    body_extent,
    find_chain,
    name_chain,
)
from ctai_sam2.segmentation.levels.image import PIXEL_MM
from ctai_sam2.segmentation.levels.labels import L3, LEVEL_CLASSES, S1, TISSUE_CLASSES

BODY, DISC, CANAL = (TISSUE_CLASSES.index(name) for name in ("body", "disc", "canal"))
PITCH_PX, HEIGHT_PX, HALF_PX = 16, 12, 8


def evidence(levels: list[int], x: int = 60, missing: tuple[int, ...] = ()) -> LevelEvidence:
    """Boxes one above the other, as a network that is sure shows them."""
    shape = (len(levels) * PITCH_PX + 40, 128)
    tissue = np.zeros((len(TISSUE_CLASSES), *shape), np.float32)
    centre, level = np.zeros(shape, np.float32), np.full((len(LEVEL_CLASSES), *shape), 0.1, np.float32)
    for number, name in enumerate(levels):
        top = 20 + number * PITCH_PX
        rows, columns = slice(top, top + HEIGHT_PX), slice(x - HALF_PX, x + HALF_PX)
        tissue[BODY, rows, columns] = 1.0
        tissue[DISC, top + HEIGHT_PX : top + PITCH_PX, columns] = 1.0
        tissue[CANAL, top : top + PITCH_PX, x + HALF_PX + 1 : x + HALF_PX + 7] = 1.0
        level[:, rows, columns] = 0.02
        level[name, rows, columns] = 0.82
        if number not in missing:
            y, z = np.mgrid[: shape[0], : shape[1]]
            bump = np.exp(-0.5 * (((y - top - 5.5) ** 2 + (z - x) ** 2) / 4.0))
            centre = np.maximum(centre, bump.astype(np.float32))
    tissue[0] = 1.0 - tissue.sum(axis=0)
    return LevelEvidence(tissue=tissue, centre=centre, level=level)


def seen(levels: list[int], sure: float = 0.8) -> tuple[SeenVertebra, ...]:
    bodies = []
    for number, name in enumerate(levels):
        chances = np.full(len(LEVEL_CLASSES), (1 - sure) / (len(LEVEL_CLASSES) - 1))
        chances[name] = sure
        bodies.append(
            SeenVertebra(centre_xy=(60.0, 26.0 + 16 * number), strength=0.9, levels=chances, canal=1.0)
        )
    return tuple(bodies)


def test_a_clear_spine_is_followed_and_named() -> None:
    levels = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    chain = find_chain(evidence(levels), DecodeParameters())
    assert len(chain) == len(levels)
    rows = [body.centre_xy[1] for body in chain]
    assert np.allclose(np.diff(rows), PITCH_PX, atol=0.5)
    named = name_chain(chain, DecodeParameters())
    assert int(named.l3_probability.argmax()) == levels.index(L3)
    assert named.l3_probability.max() > 0.95
    assert np.allclose(named.probability.sum(axis=1), 1.0)
    assert min(body.canal for body in chain) > 0.9


def test_a_body_without_a_peak_is_put_into_the_gap() -> None:
    chain = find_chain(evidence([0, 1, 2, 3, 4, 5, 6, 7, 8], missing=(4,)), DecodeParameters())
    assert len(chain) == 9
    assert chain[4].strength == 0.0
    assert int(name_chain(chain, DecodeParameters()).l3_probability.argmax()) == 5


def test_a_peak_away_from_the_spine_is_no_vertebra() -> None:
    maps = evidence([1, 2, 3, 4, 5, 6, 7, 8])
    maps.centre[100, 110] = 0.9
    chain = find_chain(maps, DecodeParameters())
    assert len(chain) == 8
    assert all(abs(body.centre_xy[0] - 60) < 3 for body in chain)


def test_nothing_seen_is_an_empty_chain() -> None:
    maps = evidence([3, 4, 5])
    blank = LevelEvidence(tissue=maps.tissue, centre=np.zeros_like(maps.centre), level=maps.level)
    assert find_chain(blank, DecodeParameters()) == ()
    assert name_chain((), DecodeParameters()).probability.shape == (0, len(LEVEL_CLASSES))


def test_one_body_that_errs_is_outvoted_by_its_neighbors() -> None:
    levels = [2, 3, 4, 5, 6, 7, 8]
    wrong = [2, 3, 4, 6, 6, 7, 8]
    assert int(name_chain(seen(wrong), DecodeParameters()).l3_probability.argmax()) == levels.index(L3)


def test_less_evidence_is_less_certain() -> None:
    whole = name_chain(seen([1, 2, 3, 4, 5, 6, 7, 8]), DecodeParameters()).l3_probability.max()
    part = name_chain(seen([4, 5, 6]), DecodeParameters()).l3_probability.max()
    vague = name_chain(seen([1, 2, 3, 4, 5, 6, 7, 8], sure=0.2), DecodeParameters()).l3_probability.max()
    assert whole > part
    assert whole > vague


def test_a_spine_that_ends_in_the_chest_has_no_l3() -> None:
    assert name_chain(seen([0, 0, 0, 0, 0, 1]), DecodeParameters()).l3_probability.max() < 0.05


@pytest.mark.parametrize("index", [0, 3, 5])
def test_extent_and_box_are_those_of_the_body(index: int) -> None:
    maps = evidence([2, 3, 4, 5, 6, 7])
    line = [body.centre_xy for body in find_chain(maps, DecodeParameters())]
    top = 20 + index * PITCH_PX
    upper, lower = body_extent(maps, line, index)
    assert abs(upper - (top - 0.5)) < 1.5
    assert abs(lower - (top + HEIGHT_PX - 0.5)) < 1.5
    assert body_box(maps, line, index) == (
        60 - HALF_PX - 0.5,
        top - 0.5,
        60 + HALF_PX - 0.5,
        top + HEIGHT_PX - 0.5,
    )


def test_a_body_hardly_seen_gets_a_box_of_usual_size() -> None:
    maps = evidence([2, 3, 4, 5, 6, 7])
    line = [body.centre_xy for body in find_chain(maps, DecodeParameters())]
    maps.tissue[BODY, 60:90] = 0.0
    x0, y0, x1, y1 = body_box(maps, line, 3)
    assert 20 <= (x1 - x0) * PIXEL_MM <= 40
    assert 10 <= (y1 - y0) * PIXEL_MM <= 40


def test_s1_is_the_level_after_l5() -> None:
    assert LEVEL_CLASSES[S1 - 1] == "L5"
    assert LEVEL_CLASSES[L3] == "L3"
