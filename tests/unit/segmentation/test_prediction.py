"""One plain call, and what results show of themselves."""

from __future__ import annotations

import numpy as np
import pytest

import ctai_sam2 as ct
from ctai_sam2.errors import InputError
from ctai_sam2.phantom import make_axial_slice, reference_parameters
from ctai_sam2.segmentation import segment_axial
from ctai_sam2.types import CTSlice, CTVolume, Prompt
from tests.fakes import FakeSegmenter


def phantom_slice() -> CTSlice:
    drawn = make_axial_slice(
        reference_parameters(), shape_hw=(192, 192), spacing_mm=(2.0, 2.0), rng=np.random.default_rng(0)
    )
    return CTSlice(hu=drawn.hu, spacing_mm=(2.0, 2.0))


def test_a_point_and_its_prompt_give_the_same_masks_on_the_slice() -> None:
    ct_slice = phantom_slice()
    by_pair = ct.segment(ct_slice, (96, 110), FakeSegmenter())
    by_prompt = ct.segment(ct_slice, Prompt.point(96, 110), FakeSegmenter())
    assert by_pair.mask.shape == ct_slice.shape_hw
    np.testing.assert_array_equal(by_pair.masks, by_prompt.masks)
    assert by_pair.mask[110, 96]


def test_an_array_is_shown_to_the_model_as_it_is() -> None:
    image = np.full((40, 50), 90, np.uint8)
    prediction = ct.segment(image, (20, 10), FakeSegmenter())
    np.testing.assert_array_equal(
        prediction.masks, FakeSegmenter().predict(image, Prompt.point(20, 10)).masks
    )


def test_a_point_outside_is_refused() -> None:
    with pytest.raises(InputError):
        ct.segment(np.zeros((40, 50), np.uint8), (60, 10), FakeSegmenter())


def test_values_show_themselves_in_one_line_and_results_with_a_picture() -> None:
    ct_slice = phantom_slice()
    volume = CTVolume(hu_zyx=np.zeros((3, 8, 9), np.int16), affine=np.diag([1.0, 2.0, 5.0, 1.0]))
    result = segment_axial(ct_slice, FakeSegmenter())
    prediction = ct.segment(ct_slice, (96, 110), FakeSegmenter())
    for value in (ct_slice, volume, result, prediction, *result.structures.values()):
        assert repr(value).startswith(type(value).__name__)
        assert len(repr(value)) < 200
        assert "\n" not in repr(value)
    assert repr(volume) == "CTVolume(3 x 8 x 9 voxels of 5 x 2 x 1 mm)"
    assert "data:image/jpeg;base64," in result._repr_html_()


def test_a_result_is_a_table() -> None:
    ct_slice = phantom_slice()
    result = segment_axial(ct_slice, FakeSegmenter())
    table = result.to_frame().set_index("structure")
    assert list(table.index) == list(result.structures)
    expected = result.masks["psoas_left"].sum() * 4.0 / 100
    assert table.loc["psoas_left", "outlined_cm2"] == pytest.approx(expected)
