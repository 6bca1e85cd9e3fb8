"""Areas that go through DICOM files equal those the phantom was drawn with."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.io import read_study
from ctai_sam2.phantom import (
    PhantomVolume,
    make_volume,
    masks_from_labels,
    reference_parameters,
)
from ctai_sam2.types import CTVolume
from tests.dicom_series import ORIENTATIONS, write_series_as
from tests.phantom_truth import analytic_areas_mm2


@functools.cache
def drawn(shape_zyx: tuple[int, int, int], spacing_zyx_mm: tuple[float, float, float]) -> PhantomVolume:
    return make_volume(
        reference_parameters(),
        shape_zyx=shape_zyx,
        spacing_zyx_mm=spacing_zyx_mm,
        rng=np.random.default_rng(0),
    )


@functools.cache
def exact_areas_mm2(z_mm: float) -> Mapping[str, float]:
    return analytic_areas_mm2(reference_parameters(), z_mm, sampling_mm=0.5)


@pytest.mark.parametrize("orientation", [*ORIENTATIONS])
@pytest.mark.parametrize(
    ("shape_zyx", "spacing_zyx_mm"),
    [((6, 256, 256), (5.0, 1.5, 1.5)), ((5, 220, 240), (3.0, 1.7, 1.6))],
    ids=["square", "oblong"],
)
def test_areas_survive_dicom(
    tmp_path: Path,
    orientation: str,
    shape_zyx: tuple[int, int, int],
    spacing_zyx_mm: tuple[float, float, float],
) -> None:
    phantom = drawn(shape_zyx, spacing_zyx_mm)
    # The labels travel as HU, so that the masks take the same way as the picture.
    labels = CTVolume(hu_zyx=phantom.labels_zyx.astype(np.int16), affine=phantom.affine)
    write_series_as(tmp_path / "s", labels, orientation=orientation, signed=False, shuffle_seed=1)
    read = read_study(tmp_path / "s")
    pixel_mm = max(spacing_zyx_mm[1:])
    for index in range(shape_zyx[0]):
        ct_slice = read.axial(index)
        z_mm = float((read.affine @ (0, 0, index, 1))[2])
        truth = exact_areas_mm2(round(z_mm, 6))
        masks = masks_from_labels(ct_slice.hu.astype(np.uint8))
        for name in ("psoas_left", "psoas_right", "vertebra"):
            if not truth[name]:
                continue
            area = masks[name].sum() * ct_slice.pixel_area_mm2
            # A quarter of the pixels that a circle of this area touches with its outline.
            quantisation = 0.25 * 2 * np.sqrt(np.pi * truth[name]) * pixel_mm
            assert area == pytest.approx(truth[name], abs=quantisation), (name, z_mm)
        if truth["muscle"]:
            assert masks["muscle"].sum() * ct_slice.pixel_area_mm2 == pytest.approx(truth["muscle"], rel=0.03)
