"""What is drawn and measured follows masks, window and labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from ctai_sam2.editor import (
    L3,
    MIDDLE,
    Document,
    apply,
    compare_labels,
    measure_document,
    measure_labels,
    render_grey,
    render_overlay,
)
from ctai_sam2.editor import commands as do
from ctai_sam2.editor.measurements import measure_roi, measure_ruler, read_out
from ctai_sam2.errors import InputError
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.measure.columns import SIDED_GROUPS
from ctai_sam2.structures import COLORS, STRUCTURES
from ctai_sam2.types import CTSlice, Window
from tests.unit.editor.making import make_document, make_slice


def with_block(label: str = "muscle", spacing_mm: tuple[float, float] = (1.0, 1.0)) -> Document:
    document = make_document(source=make_slice(spacing_mm=spacing_mm))
    apply(document, do.FillRectangle(label=label, box_xyxy=(5, 4, 9, 8)))
    return document


def test_labels_are_structures_in_the_colours_of_every_picture() -> None:
    for profile in (L3, MIDDLE):
        for label in profile.labels:
            assert label.name in (*STRUCTURES, *SIDED_GROUPS)
            assert label.colour == COLORS[label.name]


def test_measurements_agree_with_the_row_of_the_project() -> None:
    document = with_block(spacing_mm=(2.0, 0.5))
    [numbers] = measure_labels(document)
    row = measure_document(document, height_m=1.7)
    assert (numbers.label, numbers.area_cm2) == ("muscle", 0.25)
    assert numbers.mean_hu == pytest.approx(row["smd_roi_hu"])
    assert row["sma_cm2"] <= numbers.area_cm2  # type: ignore[operator]
    assert row["smi_cm2_m2"] == pytest.approx(row["sma_cm2"] / 1.7**2)  # type: ignore[operator]
    assert measure_labels(make_document()) == []


def test_l3_has_numbers_but_no_row_of_muscle() -> None:
    document = make_document(L3)
    apply(document, do.FillRectangle(label="l3", box_xyxy=(5, 4, 9, 8)))
    assert measure_labels(document)[0].area_cm2 == 0.25
    assert measure_document(document)["sma_cm2"] is None


def test_outside_of_the_image_there_is_nothing_to_measure() -> None:
    document = with_block()
    assert read_out(document, 30, 3) is None
    assert read_out(document, 29.4, 3) is not None
    assert math.isnan(measure_ruler(document, (-9, -9), (-3, -3)).mean_hu)
    assert measure_roi(document, (50, 50), (60, 60)).area_mm2 == 0


def test_overlay_shows_masks_visible_labels_and_outlines_only() -> None:
    document = with_block()
    rgba, x0, y0 = render_overlay(document)
    assert (rgba.shape, x0, y0) == ((20, 30, 4), 0, 0)
    assert np.array_equal(rgba[..., 3] > 0, document.mask("muscle"))
    assert tuple(rgba[6, 7, :3]) == document.labels["muscle"].rgb
    document.adjust(outline_only=True)
    outline = render_overlay(document)[0][..., 3] > 0
    assert outline.sum() == 16
    assert not outline[6, 7]
    document.adjust_label("muscle", visible=False)
    assert not render_overlay(document)[0].any()


@pytest.mark.parametrize("adjacent", [(4, 4, 4, 8), (10, 4, 10, 8), (5, 3, 9, 3), (5, 9, 9, 9)])
def test_a_dirty_box_repaints_the_outline_of_its_neighbours(adjacent: tuple[int, int, int, int]) -> None:
    document = with_block()
    document.adjust(outline_only=True)
    canvas = render_overlay(document)[0]
    change = apply(document, do.FillRectangle(label="muscle", box_xyxy=adjacent))[0]
    assert change.dirty_box == adjacent
    rgba, x0, y0 = render_overlay(document, change.dirty_box)
    canvas[y0 : y0 + rgba.shape[0], x0 : x0 + rgba.shape[1]] = rgba
    assert np.array_equal(canvas, render_overlay(document)[0])


def test_psoas_lies_over_muscle() -> None:
    document = with_block()
    apply(document, do.SetMask(label="psoas_left", mask=document.mask("muscle")))
    assert tuple(render_overlay(document)[0][6, 7, :3]) == document.labels["psoas_left"].rgb


def test_grey_is_the_window() -> None:
    document = make_document()
    document.adjust(window=Window(level=10, width=90))
    assert np.array_equal(
        render_grey(document), window_to_uint8(document.slice.hu, Window(level=10, width=90))
    )


def test_another_readers_mask_is_shown_and_compared_and_never_edited() -> None:
    document = with_block()
    other = np.roll(document.mask("muscle"), 1, axis=1)
    document.set_references({"muscle": other})
    assert compare_labels(document) == {"muscle": pytest.approx(0.8)}
    drawn = render_overlay(document, references=True)[0]
    outline = other & ~ndimage.binary_erosion(other)
    assert np.array_equal(drawn[..., 3] > 0, outline)
    assert (drawn[outline][:, :3] == 255).all()
    with pytest.raises(InputError, match="differ in shape"):
        document.set_references({"muscle": np.ones((2, 2), bool)})
    document.set_references({"muscle": None})
    assert compare_labels(document) == {}


def test_edge_letters_come_from_geometry_where_there_is_one() -> None:
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    hu = np.zeros((4, 4), np.int16)
    assert Document(CTSlice(hu=hu, spacing_mm=(1, 1), affine=flipped), MIDDLE).edge_letters()[:2] == (
        "L",
        "R",
    )
    assert Document(CTSlice(hu=hu, spacing_mm=(1, 1)), MIDDLE).edge_letters() == ("R", "L", "A", "P")
    assert Document(CTSlice(hu=hu, spacing_mm=(1, 1), plane="unknown"), MIDDLE).edge_letters() == ("",) * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"opacity": 1.5},
        {"brush_radius_mm": 0.0},
        {"language": "fr"},
        {"tool": "chainsaw"},
        {"active": "liver"},
        {"nothing": 1},
        {"flood_tolerance_hu": -1},
    ],
)
def test_nonsense_settings_are_refused_and_change_nothing(changes: dict[str, object]) -> None:
    document = make_document()
    before = document.view
    with pytest.raises(InputError):
        document.adjust(**changes)
    assert document.view == before
