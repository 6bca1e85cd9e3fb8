from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ctai_sam2.image.noise import measure_noise_hu

FAT = np.zeros((120, 120), bool)
FAT[10:110, 10:60] = True


def slice_with(noise_hu: float, *, pixel_mm: float = 1.0) -> np.ndarray:
    """Fat next to muscle, with noise of the same power in every square millimetre."""
    grain = np.random.default_rng(0).normal(0, noise_hu / pixel_mm, FAT.shape)
    return np.where(FAT, -100, 50) + grain


def test_more_noise_is_more() -> None:
    quiet, loud = (measure_noise_hu(slice_with(noise_hu), FAT, (1.0, 1.0)) for noise_hu in (10, 40))
    assert quiet is not None
    assert loud == pytest.approx(4 * quiet, rel=0.05)


def test_pixels_of_another_size_change_little() -> None:
    coarse = measure_noise_hu(slice_with(20, pixel_mm=1.0), FAT, (1.0, 1.0))
    fine = measure_noise_hu(slice_with(20, pixel_mm=0.6), FAT, (0.6, 0.6))
    assert fine == pytest.approx(coarse, rel=0.15)


def test_edges_vessels_and_slow_drift_do_not_count() -> None:
    even = ndimage.gaussian_filter(np.where(FAT, -100.0, 50.0), 1.0)
    even[30:34, 20:24] = 60
    even += np.linspace(0, 40, 120)[:, None]
    assert measure_noise_hu(even, FAT, (1.0, 1.0)) == pytest.approx(0, abs=1.0)


def test_without_enough_fat_nothing_is_said() -> None:
    thin = np.zeros_like(FAT)
    thin[10:110, 10:12] = True
    assert measure_noise_hu(slice_with(20), thin, (1.0, 1.0)) is None
