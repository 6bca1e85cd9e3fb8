"""A click on the other side's psoas is said, and only the side that was clicked comes back."""

from __future__ import annotations

import numpy as np
import pytest

from ctai_sam2.segmentation.prompted_side import keep_prompted_side
from ctai_sam2.types import CTSlice, Prompt


@pytest.fixture
def ct() -> CTSlice:
    hu = np.full((100, 120), -1000, np.int16)
    hu[15:85, 10:110] = 40
    return CTSlice(hu=hu, spacing_mm=(3.0, 3.0))


def both_sides() -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    mask = np.zeros((100, 120), bool)
    mask[45:60, 40:50] = mask[45:60, 70:80] = True
    return mask


@pytest.mark.parametrize(
    ("structure", "x", "said"),
    [("psoas_left", 75, False), ("psoas_left", 45, True), ("psoas_right", 75, True)],
)
def test_one_side_comes_back_and_the_wrong_one_is_said(
    ct: CTSlice, structure: str, x: int, said: bool
) -> None:
    prompt = Prompt(points_xy=[[x, 50]], labels=[1], structure=structure)
    mask, notes = keep_prompted_side(ct, structure, both_sides(), prompt)
    columns = np.flatnonzero(mask.any(axis=0))
    assert (columns.min() > 60) == (x > 60)
    assert int(mask.sum()) == 150
    assert any("is meant?" in note or "meant?" in note for note in notes) == said


def test_points_on_both_sides_keep_both(ct: CTSlice) -> None:
    prompt = Prompt(points_xy=[[45, 50], [75, 50]], labels=[1, 1])
    mask, notes = keep_prompted_side(ct, "psoas_left", both_sides(), prompt)
    assert int(mask.sum()) == 300
    assert notes == ()


def test_a_box_counts_by_its_middle(ct: CTSlice) -> None:
    prompt = Prompt(box_xyxy=(68, 40, 82, 62))
    mask, notes = keep_prompted_side(ct, "psoas_left", both_sides(), prompt)
    assert int(mask.sum()) == 150
    assert len(notes) == 1
