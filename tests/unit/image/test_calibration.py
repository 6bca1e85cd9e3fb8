from __future__ import annotations

import numpy as np
import pytest

from ctai_sam2.image.calibration import Calibration, measure_calibration

Y, X = np.mgrid[:200, :200] - 99.5
BODY = np.hypot(X / 1.3, Y) < 60
SPACING = (1.8, 1.8)


def scan(offset_hu: float = 0.0) -> np.ndarray:
    """A patient under a blanket, on a table, in air with noise, and padding beyond the circle."""
    rng = np.random.default_rng(0)
    hu = rng.normal(-1000, 8, BODY.shape)
    hu[np.hypot(X / 1.3, Y) < 70] = rng.normal(-940, 25, BODY.shape)[np.hypot(X / 1.3, Y) < 70]
    hu[BODY] = rng.normal(-105, 12, BODY.shape)[BODY]
    hu[np.hypot(X / 1.3, Y) < 48] = 50
    hu = np.maximum(np.rint(hu + offset_hu), -1024)
    hu[np.hypot(X, Y) > 100] = -1024
    return hu


def measured(hu: np.ndarray) -> Calibration:
    return measure_calibration(hu, BODY, SPACING)


@pytest.mark.parametrize("offset_hu", [-15, -9, 0, 9, 15, 30])
def test_an_offset_is_read_in_air_and_fat(offset_hu: int) -> None:
    found = measured(scan(offset_hu))
    assert found.air_hu == pytest.approx(-1000 + offset_hu, abs=3)
    assert found.fat_hu == pytest.approx(-105 + offset_hu, abs=3)


def test_an_offset_that_puts_air_below_the_lowest_value_is_read_in_fat() -> None:
    found = measured(np.where(BODY, scan(-45), -1024))
    assert found.air_hu is None
    assert found.fat_hu == pytest.approx(-150, abs=3)


@pytest.mark.parametrize("value", [-1024, -1000, 0])
def test_masked_air_says_nothing(value: int) -> None:
    assert measured(np.where(BODY, scan(), value)).air_hu is None


def test_blankets_are_no_air() -> None:
    hu = scan()
    hu[~BODY & (hu < -970)] = -1024
    assert measured(hu).air_hu is None


def test_a_body_without_fat_says_nothing_of_it() -> None:
    assert measured(np.where(BODY, 40, scan())).fat_hu is None
