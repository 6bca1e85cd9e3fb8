"""Which parts of two masks of a psoas are kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from ctai_sam2 import CTSlice
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS
from ctai_sam2.segmentation.psoas import (
    PARAMETERS,
    AgreedPsoas,
    agree_on_both,
    agree_on_psoas,
    outline_contrast,
)

SHAPE = (120, 120)
MUSCLE_HU, FAT_HU = 50, -100
y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
SPINE = np.hypot(x - 40, y - 60) < 20
PSOAS = (np.abs(x - 72) < 9) & (np.abs(y - 62) < 16)


def agree(prompted: Any = PSOAS, divided: Any = PSOAS, *, hu: Any = None, **others: Any) -> AgreedPsoas:
    image = np.where(PSOAS | prompted | divided, MUSCLE_HU, FAT_HU) if hu is None else hu
    where = {"spine": SPINE, "disc": np.zeros(SHAPE, bool)} | others
    return agree_on_psoas(
        CTSlice(hu=image.astype(np.int16), spacing_mm=(1.0, 1.0), plane="axial"),
        prompted,
        divided,
        limits=DEFAULT_DEFINITIONS.muscle,
        **where,
    )


def test_what_both_see_stays_as_it_is() -> None:
    found = agree()
    assert found.mask.sum() == PSOAS.sum()
    assert found.agreement == 1.0
    assert not found.bright.any()


def test_muscle_behind_the_transverse_processes_is_another() -> None:
    deep = (np.abs(x - 72) < 9) & (y > 46) & (y < 105)
    found = agree(deep, deep)
    lowest = np.nonzero(found.mask)[0].max()
    # The body's back wall is at row 79; readers' masks end up to 9 mm behind it.
    assert 82 <= lowest <= 87
    # What lies further back says nothing about how far the two agree on the psoas.
    assert agree(PSOAS, deep).agreement > 0.85


def test_without_a_spine_nothing_is_cut() -> None:
    deep = (np.abs(x - 72) < 9) & (y > 46) & (y < 105)
    assert agree(deep, deep, spine=np.zeros(SHAPE, bool)).mask.sum() == deep.sum()


@pytest.mark.parametrize("is_disc", [True, False])
def test_a_piece_called_disc_is_psoas_where_the_decoder_says_so(is_disc: bool) -> None:
    medial = PSOAS & (x < 70)
    found = agree(PSOAS, PSOAS & ~medial, disc=medial if is_disc else np.zeros(SHAPE, bool))
    assert (found.mask & medial).sum() == (medial.sum() if is_disc else 0)


def test_a_kidney_with_contrast_is_not_psoas_even_if_both_say_so() -> None:
    kidney = (np.hypot(x - 84, y - 62) < 10) & ~PSOAS
    hu = np.where(PSOAS, MUSCLE_HU, FAT_HU)
    hu[kidney] = 130
    both = PSOAS | kidney
    found = agree(both, both, hu=hu)
    assert (found.mask & kidney).sum() < 0.3 * kidney.sum()
    assert (found.mask & PSOAS).sum() > 0.9 * PSOAS.sum()
    assert (found.bright & kidney).sum() > 0.7 * kidney.sum()


def test_bright_noise_makes_no_holes() -> None:
    hu = np.where(PSOAS, MUSCLE_HU, FAT_HU)
    hu[60:63, 70:73] = 140
    assert agree(hu=hu).mask.sum() == PSOAS.sum()


def test_the_division_goes_a_little_beyond_the_decoder_and_no_further() -> None:
    narrow, wide = (np.abs(x - 72) < 7) & (np.abs(y - 62) < 16), (np.abs(x - 72) < 12) & (np.abs(y - 62) < 16)
    found = agree(narrow, wide)
    assert narrow.sum() < found.mask.sum() < wide.sum()


def test_where_the_decoder_points_at_another_muscle_the_division_counts() -> None:
    elsewhere = (np.abs(x - 100) < 9) & (np.abs(y - 62) < 16)
    found = agree(elsewhere, PSOAS)
    assert found.mask.sum() == (found.mask & PSOAS).sum() > 0.95 * PSOAS.sum()
    assert found.agreement < 0.5


@pytest.mark.parametrize(("prompted", "divided", "size"), [(True, False, 1.0), (False, False, 0.0)])
def test_one_of_them_alone_or_none(prompted: bool, divided: bool, size: float) -> None:
    found = agree(PSOAS & prompted, PSOAS & divided, hu=np.where(PSOAS, MUSCLE_HU, FAT_HU))
    assert found.mask.sum() == size * PSOAS.sum()
    assert 0 <= found.agreement <= 1


@pytest.mark.parametrize(("lost_by_each", "kept"), [(0.0, 1.0), (0.2, 0.6), (0.3, 1.0)])
def test_a_side_far_smaller_than_the_other_takes_what_either_saw(lost_by_each: float, kept: float) -> None:
    other = PSOAS[:, ::-1]
    rows = np.flatnonzero(PSOAS.any(axis=1))
    lost = round(lost_by_each * rows.size)
    top, bottom = PSOAS & (y < rows[-1] + 1 - lost), PSOAS & (y >= rows[0] + lost)
    found = agree_on_both(
        CTSlice(
            hu=np.where(PSOAS | other, MUSCLE_HU, FAT_HU).astype(np.int16),
            spacing_mm=(1.0, 1.0),
            plane="axial",
        ),
        {"psoas_left": top, "psoas_right": other},
        {"psoas_left": bottom, "psoas_right": other, "spine": np.zeros(SHAPE, bool)},
        disc=np.zeros(SHAPE, bool),
        limits=DEFAULT_DEFINITIONS.muscle,
        parameters=dataclasses.replace(PARAMETERS, slack_mm=0.0, same=0.2),
    )
    assert found["psoas_left"].mask.sum() / PSOAS.sum() == pytest.approx(kept, abs=0.1)
    assert found["psoas_right"].mask.sum() == other.sum()


def test_a_muscle_stands_out_from_fat_and_not_from_another_muscle() -> None:
    psoas = np.zeros((60, 60), bool)
    psoas[20:40, 20:40] = True
    in_fat = np.where(psoas, 50, -100)
    assert outline_contrast(in_fat, psoas, (1.0, 1.0)) == 1.0
    half = in_fat.copy()
    half[:, 30:] = 50
    assert outline_contrast(half, psoas, (1.0, 1.0)) == pytest.approx(0.5, abs=0.03)
    assert outline_contrast(np.full((60, 60), 50), psoas, (1.0, 1.0)) == 0.0
    assert outline_contrast(in_fat, np.zeros_like(psoas), (1.0, 1.0)) == 0.0
