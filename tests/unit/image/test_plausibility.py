from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ctai_sam2.errors import AnatomyNotFound, GeometryError, InputError, OtherRegion
from ctai_sam2.image import plausibility
from ctai_sam2.image.plausibility import (
    require_abdomen,
    require_measurable_slice,
    require_measurable_volume,
    require_memory,
    require_plausible_grid,
    require_plausible_spacing,
    require_region,
    unlike_hounsfield,
)
from ctai_sam2.phantom import make_axial_slice, random_parameters
from ctai_sam2.types import CTSlice, CTVolume


def disc(size: int, radius: float, inside: int = 50) -> np.ndarray[Any, Any]:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    hu = np.full((size, size), -1000, np.int16)
    hu[np.hypot(x, y) < radius] = -100
    hu[np.hypot(x, y) < 0.9 * radius] = inside
    return hu


@pytest.mark.parametrize(
    ("spacing", "axial"), [((0.1, 0.8), True), ((0.8, 11), True), ((12, 0.8), False), ((2.1, 2.1), True)]
)
def test_pixels_of_no_ct(spacing: tuple[float, float], axial: bool) -> None:
    with pytest.raises(GeometryError, match="no CT has this"):
        require_plausible_spacing(spacing, (512, 512), axial=axial)


@pytest.mark.parametrize("spacing", [(0.2, 0.2), (0.98, 0.98), (1.6, 1.6)])
def test_pixels_of_scanners(spacing: tuple[float, float]) -> None:
    require_plausible_spacing(spacing, (512, 512), axial=True)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((50, 512, 512), (5, 0.8, 0.8)),
        ((700, 512, 512), (1, 0.8, 0.8)),
        ((3, 512, 512), (25, 0.8, 0.8)),
        ((512, 512, 30), (0.8, 0.8, 10.5)),
    ],
)
def test_grids_of_scanners(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    require_plausible_grid(shape, spacing)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((50, 64, 64), (5000, 3000, 3000)),
        ((50, 512, 512), (5, 8, 8)),
        ((50, 512, 512), (0.5, 0.08, 0.08)),
        ((4000, 512, 512), (1, 0.8, 0.8)),
        ((50, 512, 512), (40, 0.8, 0.8)),
    ],
)
def test_grids_of_no_ct(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match="no CT has"):
        require_plausible_grid(shape, spacing)


def test_gaps_count_for_the_length() -> None:
    with pytest.raises(GeometryError, match="field of view"):
        require_plausible_grid((10, 512, 512), (5, 0.8, 0.8), length_mm=9000)


def test_memory_is_asked_for_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    require_memory(512 * 512 * 100)
    with pytest.raises(InputError, match="larger than this package reads"):
        require_memory(2**31 + 1)

    class Memory:
        available = 2**30

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    with pytest.raises(InputError, match=r"more memory than is free \(received 2\.3 GiB for 1\.0 GiB\)"):
        require_memory(500_000_000)


@pytest.mark.parametrize(
    "values",
    [[0, 128, 255], [-1, 0, 1], [7, 7, 7], [-1000, -900, -1], [-1024, 24, 1074], [-2000, 0, 4095]],
)
def test_values_that_are_no_hu(values: list[int]) -> None:
    assert unlike_hounsfield(np.array(values)) is not None
    ct_slice = CTSlice(hu=np.array([values], np.int16), spacing_mm=(1, 1))
    with pytest.raises(InputError, match="nothing is computed from this image"):
        require_measurable_slice(ct_slice)


@pytest.mark.parametrize("values", [[-1000, 40], [-1024, -100, 50], [-160, 240], [-100, 50]])
def test_values_that_may_be_hu(values: list[int]) -> None:
    assert unlike_hounsfield(np.array(values)) is None


def test_too_coarse_for_an_outline() -> None:
    hu = disc(64, 25)
    require_measurable_slice(CTSlice(hu=hu, spacing_mm=(5, 5)))
    with pytest.raises(GeometryError, match="too coarse to measure"):
        require_measurable_slice(CTSlice(hu=hu, spacing_mm=(8, 8)))
    # The rows of a sagittal slice are slices.
    require_measurable_slice(CTSlice(hu=hu, spacing_mm=(8, 1), plane="sagittal"))
    with pytest.raises(GeometryError, match="no CT has voxels of this size"):
        require_measurable_volume(CTVolume(hu_zyx=hu[None], affine=np.diag([20.0, 20.0, 5.0, 1.0])))


@pytest.mark.parametrize("seed", range(4))
def test_an_abdomen_is_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = make_axial_slice(random_parameters(rng), shape_hw=(256, 256), spacing_mm=(1.6, 1.6), rng=rng)
    ct_slice = CTSlice(hu=made.hu, spacing_mm=made.spacing_mm)
    require_measurable_slice(ct_slice)
    require_abdomen(ct_slice)


def test_a_chest_a_head_and_sizes_of_nobody() -> None:
    chest = disc(400, 150)
    chest[130:270, 85:190] = chest[130:270, 210:315] = -850
    with pytest.raises(AnatomyNotFound, match="shows a chest"):
        require_abdomen(CTSlice(hu=chest, spacing_mm=(1, 1)))
    head = disc(300, 90)
    y, x = np.mgrid[:300, :300] - 149.5
    head[(np.hypot(x, y) < 84) & (np.hypot(x, y) > 76)] = 900
    with pytest.raises(AnatomyNotFound, match="head or a limb"):
        require_abdomen(CTSlice(hu=head, spacing_mm=(1, 1)))
    with pytest.raises(AnatomyNotFound, match="size of no trunk"):
        require_abdomen(CTSlice(hu=disc(400, 190), spacing_mm=(2, 2)))
    with pytest.raises(AnatomyNotFound):
        require_abdomen(CTSlice(hu=disc(100, 40), spacing_mm=(1, 1)))


def water_phantom() -> np.ndarray[Any, Any]:
    """A bowl of water with a wall of plastic, its edge blurred."""
    y, x = np.mgrid[:300, :300] - 149.5
    r = np.hypot(x, y)
    hu = np.clip((121 - r) * 500, -1000, 0)
    hu[(r < 118) & (r > 112)] = 120
    return hu.astype(np.int16)


def test_legs_and_a_water_phantom_are_no_abdomen() -> None:
    y, x = np.mgrid[:300, :400].astype(float)
    legs = np.full((300, 400), -1000, np.int16)
    for centre in (110, 290):
        r = np.hypot(x - centre, y - 150)
        legs[r < 80], legs[r < 70], legs[r < 14] = -100, 50, 700
    with pytest.raises(OtherRegion, match="two legs") as refused:
        require_abdomen(CTSlice(hu=legs, spacing_mm=(1, 1)))
    assert "--any-region" in str(refused.value)
    arm = legs.copy()
    arm[(x > 200) & (np.hypot(x - 290, y - 150) > 30)] = -1000
    require_abdomen(CTSlice(hu=arm, spacing_mm=(1, 1)))
    with pytest.raises(OtherRegion, match="a body without fat"):
        require_abdomen(CTSlice(hu=water_phantom(), spacing_mm=(1, 1)))


def test_a_cropped_slice_is_not_judged_and_says_so() -> None:
    cropped = CTSlice(hu=disc(100, 40), spacing_mm=(1, 1))
    assert "100 x 100 mm" in require_region(cropped, prompted=True)[0]
    assert "as requested" in require_region(cropped, any_region=True)[0]
    with pytest.raises(OtherRegion, match="size of no trunk"):
        require_region(cropped)
    with pytest.raises(OtherRegion, match="without fat"):
        require_region(CTSlice(hu=water_phantom(), spacing_mm=(1, 1)), prompted=True)


def test_limits_are_in_one_place() -> None:
    assert plausibility.LIMITS.spacing_mm == (0.2, 10.0)
