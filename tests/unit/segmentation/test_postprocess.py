"""What clean-up leaves where a reader has clicked."""

from __future__ import annotations

import numpy as np
import pytest

from ctai_sam2.segmentation.postprocess import clean_mask
from ctai_sam2.types import Prompt


@pytest.mark.parametrize("at_xy", [(10.0, 7.0), (10.4, 7.6), (0.0, 0.0), (19.4, 14.4), (-0.5, 3.2)])
def test_the_disc_under_a_positive_click_stays(at_xy: tuple[float, float]) -> None:
    hu = np.full((15, 20), -100)
    prompt = Prompt(points_xy=np.array([at_xy, (4.0, 4.0)], np.float32), labels=np.array([1, 0], np.int32))
    kept = clean_mask(
        np.ones((15, 20), bool), hu, pixel_area_mm2=1.0, near=np.zeros((15, 20), bool), prompt=prompt
    )
    y, x = np.mgrid[:15, :20]
    np.testing.assert_array_equal(kept, np.hypot(x - np.float32(at_xy[0]), y - np.float32(at_xy[1])) <= 1.5)
