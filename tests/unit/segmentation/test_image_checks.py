from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ctai_sam2.image.body import body_of
from ctai_sam2.image.padding import fill_with_air
from ctai_sam2.phantom import make_axial_slice, random_parameters
from ctai_sam2.segmentation import segment_axial
from ctai_sam2.segmentation.axial_session import AxialSession
from ctai_sam2.segmentation.image_checks import find_cut, find_image_faults
from ctai_sam2.types import CTSlice
from tests.unit.segmentation.test_compartments import draw
from tests.unit.segmentation.test_divided import Divider, slice_of

RNG = np.random.default_rng(901)
DRAWN = make_axial_slice(random_parameters(RNG), rng=RNG)
PLAIN = CTSlice(hu=DRAWN.hu, spacing_mm=DRAWN.spacing_mm)
BODY = body_of(PLAIN)


def names(ct_slice: CTSlice, vertebra_mm: float | None = 42.0, is_recognised: bool = True) -> list[str]:
    found = find_image_faults(ct_slice, vertebra_mm=vertebra_mm, is_recognised=is_recognised)
    return [gate.name for gate in found]


def test_a_drawn_patient_is_without_fault() -> None:
    assert names(PLAIN) == []
    assert find_cut(PLAIN, "sat", BODY) is None


@pytest.mark.parametrize("offset_hu", [-24, -15, 15, 24, 40])
def test_a_calibration_that_is_off_is_seen(offset_hu: int) -> None:
    moved = np.maximum(PLAIN.hu.astype(np.int16) + np.int16(offset_hu), np.int16(-1024))
    assert names(replace(PLAIN, hu=moved)) == ["calibration"]


def test_gas_that_was_cut_off_is_seen() -> None:
    hu, _ = fill_with_air(np.clip(PLAIN.hu, -125, 240))
    assert names(replace(PLAIN, hu=hu)) == ["cut_values"]


def test_metal_is_seen() -> None:
    hu = PLAIN.hu.copy()
    rows, columns = np.nonzero(BODY)
    hu[int(rows.mean()) :][:8, int(columns.mean()) :][:, :8] = 3071
    assert names(replace(PLAIN, hu=hu)) == ["metal"]


@pytest.mark.parametrize(("width_mm", "is_odd"), [(24, True), (35, False), (50, False), (63, True)])
def test_a_vertebra_of_no_adult_is_seen(width_mm: float, is_odd: bool) -> None:
    assert names(PLAIN, width_mm) == ["pixel_size"] * is_odd


def test_a_slice_that_the_model_does_not_recognise_is_said() -> None:
    assert names(PLAIN, None, is_recognised=False) == ["unrecognised"]


def crop(left: int, right: int) -> Callable[[np.ndarray], np.ndarray]:
    columns = np.flatnonzero(BODY.any(axis=0))
    return lambda array: array[:, columns.min() + left : columns.max() + 1 - right]


def test_a_flank_that_is_cut_off_is_seen_in_what_it_cuts() -> None:
    cut = crop(-8, 45)
    ct_slice = replace(PLAIN, hu=cut(PLAIN.hu))
    gate = find_cut(ct_slice, "sat", cut(BODY))
    assert gate is not None
    assert "cuts the body off over" in gate.message
    middle = np.zeros(ct_slice.shape_hw, bool)
    middle[100:140, 60:90] = True
    assert find_cut(ct_slice, "psoas_left", middle) is None


def test_an_image_cropped_to_the_patient_cuts_nothing_off() -> None:
    cut = crop(0, 0)
    assert find_cut(replace(PLAIN, hu=cut(PLAIN.hu)), "sat", cut(BODY)) is None


@pytest.mark.parametrize("padding", [-1024, -1000])
def test_a_circle_smaller_than_the_patient_is_seen(padding: int) -> None:
    rows, columns = np.nonzero(BODY)
    middle_y, middle_x = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    half = int(0.42 * np.ptp(columns))
    part = np.s_[max(middle_y - half, 0) : middle_y + half + 1, middle_x - half : middle_x + half + 1]
    hu = PLAIN.hu[part].copy()
    side = min(hu.shape)
    hu = hu[:side, :side]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    hu[np.hypot(x, y) > side / 2] = padding
    gate = find_cut(replace(PLAIN, hu=hu), "sat", hu > -300)
    assert gate is not None


def test_a_fault_of_the_image_is_said_once_and_lowers_every_confidence() -> None:
    classes, hu, _ = draw()
    noise = np.random.default_rng(0).normal(0, 5, hu.shape)
    moved = np.where(hu == -1000, np.rint(-980 + noise), hu + 20)
    found = segment_axial(slice_of(classes, moved), Divider(classes))
    said = [text for text in found.warnings if "[calibration]" in text]
    assert said == [
        "air reads -980 HU instead of -1000: other values may be off as much; look at it [calibration]"
    ]
    for name in ("psoas_left", "psoas_right", "muscle", "sat", "vat", "imat"):
        confidence = found.structures[name].confidence
        assert confidence is not None
        assert confidence <= 0.6


def test_fat_by_rule_is_doubted_where_the_model_sees_no_abdomen() -> None:
    classes, hu, _ = draw()
    divider = Divider(classes)
    seen = np.flatnonzero(classes["spine"])
    divider.classes["spine"] = np.zeros_like(classes["spine"])
    divider.classes["spine"].flat[seen[: seen.size // 5]] = True
    session = AxialSession.open(slice_of(classes, hu), divider)
    assert session.divided is None
    assert any("[unrecognised]" in text for text in session.segment("sat").warnings)
