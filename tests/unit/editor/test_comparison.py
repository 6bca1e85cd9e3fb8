"""Another reader's masks: stored, compared, shown, taken over, never edited."""

from __future__ import annotations

import numpy as np
import pytest

from ctai_sam2.editor import L3, MIDDLE, Document, apply, compare_labels, render_overlay, take_over
from ctai_sam2.editor import commands as do
from ctai_sam2.editor.picture import MINE_RGB, THEIRS_RGB
from ctai_sam2.types import CTVolume
from tests.unit.editor.making import SHAPE, make_document, make_volume


def block(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[rows, columns] = True
    return mask


def test_references_cannot_be_edited() -> None:
    document = make_document()
    document.set_references({"muscle": block(slice(2, 5), slice(2, 5))})
    with pytest.raises(ValueError, match="read-only"):
        document.references["muscle"][0, 0] = True
    with pytest.raises(TypeError):
        document.references["muscle"] = block(slice(0, 1), slice(0, 1))  # type: ignore[index]


def test_any_two_values_are_a_mask_and_labels_are_not() -> None:
    document = make_document()
    document.set_references({"muscle": block(slice(2, 5), slice(2, 5)) * 255.0})
    assert document.references["muscle"].sum() == 9
    with pytest.raises(ValueError, match="several labels"):
        document.set_references({"muscle": np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 3})


def test_a_stack_lies_on_sagittal_slices_as_the_volume_does() -> None:
    rng = np.random.default_rng(0)
    hu = rng.integers(0, 2, (4, 5, 6)).astype(np.int16)
    document = Document(CTVolume(hu_zyx=hu, affine=np.diag([1.0, 1.0, 2.0, 1.0])), L3)
    document.set_references({"l3": hu > 0})
    for index in range(document.slice_count):
        document.go_to(index)
        assert np.array_equal(document.references["l3"], document.slice.hu > 0)


def test_what_differs_is_filled_in_two_colours() -> None:
    document = make_document()
    apply(document, do.SetMask(label="muscle", mask=block(slice(2, 8), slice(2, 8))))
    document.set_references({"muscle": block(slice(2, 8), slice(4, 10))})
    document.adjust(differences=True)
    rgba = render_overlay(document, references=True)[0]
    assert tuple(rgba[4, 2, :3]) == MINE_RGB
    assert tuple(rgba[4, 8, :3]) == THEIRS_RGB
    assert rgba[4, 6, 3] == 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_groups_reference_goes_to_the_label_of_its_side(mirrored: bool) -> None:
    source = make_volume()
    if mirrored:
        source = CTVolume(hu_zyx=source.hu_zyx, affine=source.affine @ np.diag([-1.0, 1, 1, 1]))
    document = Document(source, MIDDLE)
    left_edge, right_edge = block(slice(5, 9), slice(3, 7)), block(slice(5, 9), slice(20, 24))
    # The image's left edge is the patient's right, unless the image is mirrored.
    on_left_edge, on_right_edge = ("psoas_right", "psoas_left")
    if document.edge_letters()[0] == "L":
        on_left_edge, on_right_edge = on_right_edge, on_left_edge
    apply(document, do.SetMask(label=on_left_edge, mask=left_edge))
    document.set_references({"psoas": left_edge | right_edge})
    document.adjust(active="psoas_left")
    command = take_over(document)
    assert command is not None
    apply(document, command)
    assert np.array_equal(document.mask(on_left_edge), left_edge)
    assert np.array_equal(document.mask(on_right_edge), right_edge)
    assert compare_labels(document) == {"psoas": 1.0}


def test_nothing_is_taken_over_from_another_label_or_into_a_locked_one() -> None:
    document = make_document()
    theirs = block(slice(2, 5), slice(2, 5))
    document.set_references({"muscle": theirs})
    document.adjust(active="psoas_left")
    assert take_over(document) is None
    assert take_over(document, (20.0, 15.0)) is None
    command = take_over(document, (3.0, 3.0))
    assert command is not None
    document.adjust_label("muscle", locked=True)
    assert apply(document, command)[0].refused == ("muscle",)
    assert not document.mask("muscle").any()
