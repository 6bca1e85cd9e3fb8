"""Masks on the wrong side, inverted, or cut to other limits before are said."""

from __future__ import annotations

import numpy as np
import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.mask_checks import (
    cut_notes,
    describe_cut,
    gap_notes,
    inverted_notes,
    require_not_cut,
    side_notes,
    tissue_notes,
)
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TISSUE_DEFINITIONS
from ctai_sam2.types import CTSlice


def body() -> CTSlice:
    """An ellipse of fat around muscle, with noise, in the middle of the patient."""
    y, x = np.mgrid[:100, :120]
    radius = ((x - 60) / 50) ** 2 + ((y - 50) / 40) ** 2
    hu = np.full((100, 120), -1000.0)
    rng = np.random.default_rng(3)
    hu[radius < 1] = rng.normal(-100, 30, int((radius < 1).sum()))
    hu[radius < 0.5] = rng.normal(50, 30, int((radius < 0.5).sum()))
    affine = np.diag([3.0, 3.0, 5.0, 1.0])
    return CTSlice(hu=hu.astype(np.int16), spacing_mm=(3.0, 3.0), affine=affine)


def box(x0: int, x1: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    mask = np.zeros((100, 120), bool)
    mask[40:60, x0:x1] = True
    return mask


def test_sides_are_those_of_the_patient() -> None:
    # In display orientation the patient's right is on the image's left: small columns are right.
    right, left, ct = box(40, 50), box(70, 80), body()
    assert side_notes({"psoas_left": left, "psoas_right": right}, ct) == []
    [note] = side_notes({"psoas_left": right, "psoas_right": left}, ct)
    assert "swapped" in note
    assert side_notes({"psoas_left": left}, ct) == side_notes({"psoas_right": right}, ct) == []
    assert "other side" in side_notes({"psoas_left": right}, ct)[0]
    assert "other side" in side_notes({"psoas_right": left}, ct)[0]
    assert side_notes({"psoas_left": box(58, 62)}, ct) == []


def test_a_mask_cut_to_narrower_limits_is_said() -> None:
    ct, wide = body(), TISSUE_DEFINITIONS["one-fat-range"]
    y, x = np.mgrid[:100, :120]
    outside = ((x - 60) / 50) ** 2 + ((y - 50) / 40) ** 2
    place = (outside < 1) & (outside > 0.5)
    cut = place & (ct.hu >= -150) & (ct.hu <= -50)
    assert cut_notes(ct, {"vat": cut}, DEFAULT_DEFINITIONS) == []
    [note] = cut_notes(ct, {"vat": cut}, wide)
    assert "-150 to -50 HU only" in note
    assert cut_notes(ct, {"vat": place}, wide) == []


def test_what_the_header_says_is_held_against_the_definitions() -> None:
    text = describe_cut("vat", DEFAULT_DEFINITIONS)
    assert describe_cut("muscle", DEFAULT_DEFINITIONS) is None
    require_not_cut("vat", text, DEFAULT_DEFINITIONS)
    require_not_cut("vat", "made by hand", TISSUE_DEFINITIONS["one-fat-range"])
    with pytest.raises(InputError, match="was cut to -150 to -50 HU"):
        require_not_cut("vat", text, TISSUE_DEFINITIONS["one-fat-range"])


def test_an_inverted_mask_is_said() -> None:
    assert inverted_notes({"a": box(40, 50)}) == []
    assert "inverted" in inverted_notes({"a": ~box(40, 50)})[0]


def on_slices(*drawn: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    mask = np.zeros((12, 3, 3), bool)
    mask[list(drawn), 1, 1] = True
    return mask


def test_slices_left_out_between_outlines_are_said() -> None:
    assert gap_notes({"psoas_left": on_slices(3, 4, 5), "muscle": on_slices(7), "sat": on_slices()}) == []
    [note] = gap_notes({"psoas_left": on_slices(2, 3, 4, 6, 7)})
    assert note.startswith("psoas_left is empty on 1 of 6 slices")
    # Of unknown structures two pieces are as likely as a forgotten slice; every third slice is not.
    assert gap_notes({"tumours": on_slices(2, 3, 7, 8)}) == []
    assert "6 of 10 slices" in gap_notes({"tumours": on_slices(1, 4, 7, 10)})[0]
    assert gap_notes({"psoas_left": np.eye(3, dtype=bool)}) == []


def test_a_mask_on_other_tissue_is_said() -> None:
    """A picture drawn on the image as stored, when a prone patient's is shown turned."""
    ct = body()
    hu = ct.hu.copy()
    hu[:, :60] = np.minimum(hu[:, :60], -60)  # fat only on one side: turned by half, the mask lies there
    ct = CTSlice(hu=hu, spacing_mm=ct.spacing_mm, affine=ct.affine)
    psoas = box(70, 80)
    assert tissue_notes(ct, {"psoas_left": psoas, "vat": psoas, "imat": psoas}, DEFAULT_DEFINITIONS) == []
    turned = psoas[::-1, ::-1]
    [note] = tissue_notes(ct, {"psoas_left": turned, "vat": turned}, DEFAULT_DEFINITIONS)
    assert note.startswith("only 0% of psoas_left is within -29 to 150 HU")
    assert "0% of sat" in tissue_notes(ct, {"sat": psoas}, DEFAULT_DEFINITIONS)[0]
