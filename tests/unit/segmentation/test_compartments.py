"""Compartments and gates on a drawn slice whose every compartment is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ctai_sam2.image.body import body_mask
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS
from ctai_sam2.models.dense_head import DENSE_CLASSES, DENSE_STRUCTURES
from ctai_sam2.phantom import Body, reference_parameters, render_hu
from ctai_sam2.segmentation.compartments import (
    COMPARTMENT_NAMES,
    GROUPS,
    Compartments,
    divide_slice,
    fat_within,
)
from ctai_sam2.segmentation.quality import (
    GATED_CONFIDENCE,
    PARAMETERS,
    NumberEvidence,
    cap_confidence,
    confidence_of,
    find_gross_errors,
    find_jumps,
    warnings_of,
)
from ctai_sam2.training.dense_classes import label_table

SPACING = (1.5, 1.5)
HU = {"sat": -105, "skin": 10, "vat": -98, "viscera": 60, "spine": 250, "bone": 300, "between": -90}
Classes = dict[str, np.ndarray]


def draw() -> tuple[Classes, np.ndarray, np.ndarray]:
    """Draw an ellipse of a trunk: skin, fat, a ring of muscle, cavity with a kidney, spine, psoas, back."""
    y, x = np.mgrid[:220, :260]
    radius = np.hypot((x - 130) / 115.0, (y - 110) / 85.0)
    classes: Classes = {
        "skin": (radius <= 1) & (radius > 0.98),
        "sat": (radius <= 0.98) & (radius > 0.8),
        "wall": (radius <= 0.8) & (radius > 0.7),
        "vat": radius <= 0.7,
    }

    def put(name: str, where: np.ndarray) -> None:
        for other in classes.values():
            other &= ~where
        classes[name] = classes.get(name, np.zeros_like(where)) | where

    put("viscera", np.hypot(x - 90, y - 100) < 14)
    put("paraspinal", (np.abs(y - 158) < 14) & (np.abs(x - 130) < 40) & (np.abs(x - 130) > 8))
    put("bone", (np.abs(y - 158) < 14) & (np.abs(x - 130) <= 8))
    put("spine", np.hypot(x - 130, y - 128) < 16)
    put("psoas", (np.abs(y - 132) < 12) & (np.abs(np.abs(x - 130) - 26) < 9))
    put("quadratus", (np.abs(y - 142) < 6) & (np.abs(np.abs(x - 130) - 50) < 12))
    hu = np.full(radius.shape, -1000)
    for name, mask in classes.items():
        hu[mask] = HU.get(name, 50)
    return classes, hu, radius <= 1


def divide(classes: Classes, hu: np.ndarray, body: np.ndarray) -> Compartments:
    return divide_slice(classes, hu, body, SPACING, DEFAULT_DEFINITIONS)


def failed(compartments: Compartments, **agreements: float) -> set[str]:
    return {gate.name for gate in find_gross_errors(compartments, SPACING, agreements=agreements)}


def test_a_plain_slice_is_divided_as_drawn_and_fails_no_gate() -> None:
    classes, hu, body = draw()
    found = divide(classes, hu, body)
    drawn = np.any([classes[name] for name in ("psoas", "quadratus", "paraspinal", "wall")], axis=0)
    assert np.array_equal(found.masks["muscle"], drawn)
    assert np.array_equal(found.masks["psoas_left"] | found.masks["psoas_right"], classes["psoas"])
    assert found.masks["psoas_left"][:, 131:].sum() == found.masks["psoas_left"].sum() > 0
    assert np.array_equal(found.masks["sat"], classes["sat"])
    assert np.array_equal(found.masks["vat"], classes["vat"])
    assert failed(found, psoas_left=0.95, muscle=0.95) == set()


def test_no_two_tissues_overlap() -> None:
    classes, hu, body = draw()
    rng = np.random.default_rng(0)
    noisy = hu + rng.normal(0, 25, hu.shape)
    found = divide(classes, noisy, body)
    assert np.sum([found.masks[name] for name in ("muscle", "sat", "vat", "imat")], axis=0).max() == 1


@pytest.mark.parametrize("shift", [-1, 1])
def test_hu_decides_where_muscle_ends_towards_fat(shift: int) -> None:
    classes, hu, body = draw()
    drawn = classes["wall"].copy()
    # A border drawn one pixel too far in or out on the outer side of the wall.
    y, x = np.mgrid[:220, :260]
    moved = np.hypot((x - 130) / (115.0 + 1.25 * shift), (y - 110) / (85.0 + 1.25 * shift)) <= 0.8
    if shift < 0:
        lost = drawn & ~moved
        classes["wall"], classes["sat"] = drawn & ~lost, classes["sat"] | lost
    else:
        won = moved & classes["sat"]
        classes["wall"], classes["sat"] = drawn | won, classes["sat"] & ~won
    found = divide(classes, hu, body)
    off = abs(int(classes["wall"].sum()) / int(drawn.sum()) - 1)
    assert off > 0.08
    assert abs(int(found.masks["wall"].sum()) / int(drawn.sum()) - 1) < off / 4


@pytest.mark.parametrize(("spacing_mm", "muscle_hu"), [(0.8, 65.0), (1.6, 65.0), (1.6, 30.0)])
def test_exact_compartments_give_the_exact_area_whatever_pixel_and_contrast(
    spacing_mm: float, muscle_hu: float
) -> None:
    """Thin layers between muscles, partial volume and blur must not make muscle larger."""
    parameters = dataclasses.replace(
        reference_parameters(), muscle_hu=muscle_hu, imat_share=0.05, noise_hu=8.0, blur_mm=0.6
    )
    size = int(380 / spacing_mm)
    x = ((np.arange(2 * size) + 0.5) / 2 - size / 2).astype(np.float32) * np.float32(spacing_mm)
    fine = Body(parameters).label_at(x[None, :], x[:, None], 0.0)
    spacing = (spacing_mm, spacing_mm)
    rng = np.random.default_rng(0)
    hu = render_hu(fine, parameters, spacing_mm=spacing, rng=rng, oversampling=(2, 2))
    exact = label_table()[fine[1::2, 1::2]]
    classes: Classes = {
        name: np.isin(exact, [DENSE_CLASSES.index(part) for part in DENSE_STRUCTURES[name]])
        for name in COMPARTMENT_NAMES
    }
    found = divide_slice(classes, hu, body_mask(hu, spacing), spacing, DEFAULT_DEFINITIONS)
    muscle = np.any([classes[name] for name in GROUPS], axis=0)
    assert found.masks["muscle"].sum() / muscle.sum() == pytest.approx(1.0, abs=0.02)


def test_fat_that_no_compartment_claims_is_assigned_and_told_of() -> None:
    classes, hu, body = draw()
    hole = np.zeros_like(body)
    hole[180:188, 100:160] = True
    hole &= classes["sat"]
    wanted = classes["sat"].copy()
    classes["sat"] &= ~hole
    found = divide(classes, hu, body)
    assert np.array_equal(found.masks["sat"], wanted)
    assert "unassigned_fat" in failed(found)


def test_fat_called_subcutaneous_inside_the_cavity_is_visceral() -> None:
    classes, hu, body = draw()
    island = classes["vat"] & (np.abs(np.mgrid[:220, :260][1] - 150) < 10)
    island[110:] = False
    island[:90] = False
    wanted = classes["vat"].copy()
    classes["vat"], classes["sat"] = classes["vat"] & ~island, classes["sat"] | island
    found = divide(classes, hu, body)
    assert np.array_equal(found.masks["vat"], wanted)


def test_a_missing_wall_opens_the_ring_and_leaves_the_sides_uneven() -> None:
    classes, hu, body = draw()
    side = classes["wall"] & (np.mgrid[:220, :260][1] < 90)
    classes["wall"], classes["vat"] = classes["wall"] & ~side, classes["vat"] | side
    found = divide(classes, hu, body)
    gates = find_gross_errors(found, SPACING)
    assert {"open_ring", "uneven_wall"} <= {gate.name for gate in gates}
    assert cap_confidence(0.99, gates, "muscle") == GATED_CONFIDENCE
    assert any("[open_ring]" in text for text in warnings_of(gates, "vat"))


def evidence(score: float = 0.95, agreement: float = 0.97, contrast: float = 0.8) -> NumberEvidence:
    return NumberEvidence(score=score, agreement=agreement, contrast=contrast)


def test_noise_makes_psoas_and_fat_between_organs_and_muscles_doubtful() -> None:
    divided = divide(*draw())
    loud = find_gross_errors(divided, SPACING, noise_hu=PARAMETERS.noise_hu + 1)
    doubtful = {name for gate in loud if gate.name == "noise" for name in gate.structures}
    assert doubtful == {"psoas_left", "psoas_right", "vat", "imat"}
    assert cap_confidence(0.99, loud, "vat") == GATED_CONFIDENCE < cap_confidence(0.99, loud, "sat")
    for noise_hu in (None, PARAMETERS.noise_hu - 1):
        assert "noise" not in {gate.name for gate in find_gross_errors(divided, SPACING, noise_hu=noise_hu)}


def test_a_kidney_called_muscle_is_taken_out_and_told_of() -> None:
    classes, hu, body = draw()
    kidney = classes.pop("viscera")
    classes["wall"] = classes["wall"] | kidney
    found = divide(classes, hu, body)
    assert not (found.masks["muscle"] & kidney).any()
    assert "stray_muscle" in failed(found)


def test_parts_of_organs_called_psoas_are_taken_out_though_a_kidney_is_called_spine() -> None:
    classes, hu, body = draw()
    y, x = np.mgrid[: hu.shape[0], : hu.shape[1]]
    kidney, pelvis = np.hypot(x - 190, y - 110) < 14, np.hypot(x - 190, y - 110) < 6
    for mask in classes.values():
        mask &= ~kidney
    classes["spine"] |= kidney & ~pelvis
    classes["psoas"] |= pelvis
    # Without the front of the wall nothing says what is inside the ring.
    classes["wall"] &= y > 60
    found = divide(classes, np.where(kidney, 40, hu), body)
    assert not (found.masks["muscle"] & pelvis).any()
    assert found.stray_mm2 == pytest.approx(pelvis.sum() * SPACING[0] * SPACING[1], rel=0.05)


def test_a_psoas_in_fat_all_around_stays() -> None:
    classes, hu, body = draw()
    shifted = {name: mask.copy() for name, mask in classes.items()}
    psoas = np.roll(classes["psoas"] & (np.arange(hu.shape[1]) > 130), (-24, 5), axis=(0, 1))
    shifted["psoas"] = classes["psoas"] & (np.arange(hu.shape[1]) < 130) | psoas
    shifted["vat"] = classes["vat"] & ~psoas | (classes["psoas"] & ~shifted["psoas"])
    found = divide(shifted, np.where(psoas, 50, np.where(shifted["vat"], -98, hu)), body)
    assert found.masks["psoas_left"].sum() == pytest.approx(psoas.sum(), rel=0.05)


def test_an_organ_grown_into_the_wall_is_seen() -> None:
    classes, hu, body = draw()
    y, x = np.mgrid[:220, :260]
    liver = (np.hypot(x - 68, y - 100) < 16) & classes["vat"]
    classes["vat"], classes["wall"] = classes["vat"] & ~liver, classes["wall"] | liver
    hu[liver] = 55
    assert "thick_wall" in failed(divide(classes, hu, body))


def test_quadratus_called_psoas_makes_the_sides_uneven() -> None:
    classes, hu, body = draw()
    right = classes["quadratus"] & (np.mgrid[:220, :260][1] < 130)
    classes["quadratus"], classes["psoas"] = classes["quadratus"] & ~right, classes["psoas"] | right
    assert "uneven_psoas" in failed(divide(classes, hu, body))


def test_two_opinions_that_differ_make_a_number_doubtful() -> None:
    classes, hu, body = draw()
    found = divide(classes, hu, body)
    gates = find_gross_errors(found, SPACING, agreements={"psoas_left": 0.5, "psoas_right": 0.97})
    assert [(gate.name, gate.structures) for gate in gates] == [("second_opinion", ("psoas_left",))]
    assert confidence_of("psoas_left", evidence(agreement=0.5), gates) <= GATED_CONFIDENCE
    sure = confidence_of("psoas_left", evidence(), ())
    assert sure > confidence_of("psoas_left", evidence(agreement=0.7), ())
    assert sure > confidence_of("psoas_left", evidence(contrast=0.3), ())
    assert confidence_of("muscle", evidence(), ()) > confidence_of("muscle", evidence(score=0.7), ())


def test_a_jump_against_both_neighbours_is_seen_and_a_trend_is_not() -> None:
    assert find_jumps({"psoas_left": 1380.0}, [{"psoas_left": 690.0}, {"psoas_left": 700.0}])
    assert not find_jumps({"psoas_left": 1000.0}, [{"psoas_left": 700.0}, {"psoas_left": 1400.0}])
    assert not find_jumps({"psoas_left": 1000.0}, [])


def test_fat_gives_way_to_muscle_that_a_reader_has_drawn() -> None:
    classes, hu, body = draw()
    found = divide(classes, hu, body)
    drawn = found.masks["sat"] & (np.mgrid[:220, :260][0] < 40)
    fat = fat_within(found.places, hu, found.masks["muscle"] | drawn, SPACING, DEFAULT_DEFINITIONS)
    assert drawn.any()
    assert not (fat["sat"] & drawn).any()


def test_coarse_pixels_keep_the_fat_beneath_the_skin() -> None:
    classes, hu, body = draw()
    found = divide_slice(classes, hu, body, (3.1, 3.1), DEFAULT_DEFINITIONS)
    assert found.masks["sat"].sum() > 0.9 * classes["sat"].sum()


def test_fat_is_doubted_where_two_ways_of_finding_muscle_have_nothing_in_common() -> None:
    found = divide(*draw())
    gates = {g.name: g for g in find_gross_errors(found, SPACING, agreements={"muscle": 0.5})}
    assert gates["lost_muscle"].structures == ("sat", "vat")
    assert "lost_muscle" not in failed(found, muscle=0.8)
