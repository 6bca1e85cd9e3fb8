from __future__ import annotations

import numpy as np
import pytest

from ctai_sam2.image.windowing import PRESETS, window_to_uint8
from ctai_sam2.types import Window


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_ends_of_the_window_are_black_and_white(name: str) -> None:
    window = PRESETS[name]
    hu = np.array([-32768, window.low_hu, window.high_hu, 32767])
    assert window_to_uint8(hu, window).tolist() == [0, 0, 255, 255]


def test_grey_rises_with_hu_and_uses_every_value() -> None:
    grey = window_to_uint8(np.arange(-200, 300), Window(level=40, width=400))
    assert (np.diff(grey.astype(int)) >= 0).all()
    assert len(np.unique(grey)) == 256


def test_int16_does_not_overflow() -> None:
    assert window_to_uint8(np.array([32767, -32768], np.int16)).tolist() == [255, 0]
