"""The phase from the image, cautions, and published shifts next to the raw numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage, signal

from ctai_sam2.measure import contrast
from ctai_sam2.measure.contrast import (
    CONTRAST_SOURCE,
    PhaseEstimate,
    acquisition_cautions,
    describe_as_unenhanced,
    estimate_phase,
)
from ctai_sam2.phantom import make_axial_slice, random_parameters
from ctai_sam2.types import Acquisition


@pytest.mark.parametrize("phase", ["unenhanced", "arterial", "portal_venous"])
def test_the_phase_of_phantoms(phase: str) -> None:
    right = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        parameters = dataclasses.replace(random_parameters(rng), phase=phase)  # type: ignore[arg-type]
        phantom = make_axial_slice(parameters, shape_hw=(200, 200), spacing_mm=(2.0, 2.0), rng=rng)
        found = estimate_phase(phantom.hu, phantom.masks["L3"], phantom.masks["muscle"], phantom.spacing_mm)
        right += found is not None and found.phase == phase
    assert right >= 3


def test_means_in_discs_are_those_of_a_convolution() -> None:
    hu = np.random.default_rng(0).normal(100, 40, (50, 71))
    mean, spread = contrast._in_discs(hu, 3.0, (1.0, 0.8))
    smooth = ndimage.median_filter(hu, size=3)
    down, across = np.mgrid[-3:4, -4:5]
    disc = np.hypot(down, across * 0.8) <= 3.0
    expected = signal.fftconvolve(smooth, disc / disc.sum(), mode="same")
    np.testing.assert_allclose(mean, expected, atol=1e-9)
    inner = smooth[20:27, 30:39][disc]
    assert spread[23, 34] == pytest.approx(inner.std())


def test_without_a_vertebra_there_is_no_estimate() -> None:
    nothing = np.zeros((40, 40), bool)
    assert estimate_phase(np.zeros((40, 40)), nothing, nothing, (2.0, 2.0)) is None


LOOKS = PhaseEstimate(phase="portal_venous", aorta_hu=160.0, cava_hu=150.0)
PLAIN = PhaseEstimate(phase="unenhanced", aorta_hu=42.0, cava_hu=40.0)


@pytest.mark.parametrize(
    ("acquisition", "estimate", "words"),
    [
        (
            Acquisition(phase="unenhanced"),
            LOOKS,
            ["the header says unenhanced, the image looks portal_venous"],
        ),
        (Acquisition(contrast=True), PLAIN, ["records a contrast agent, the image looks unenhanced"]),
        (Acquisition(contrast=False), LOOKS, ["records no contrast agent"]),
        (Acquisition(phase="equilibrium", contrast=True), LOOKS, []),
        (Acquisition(phase="portal_venous"), None, []),
        (Acquisition(kvp=80.0), None, ["80 kV"]),
        (Acquisition(kvp=140.0), None, ["140 kV"]),
        (Acquisition(kvp=120.0, slice_thickness_mm=5.0, kernel="B30f"), PLAIN, []),
        (Acquisition(slice_thickness_mm=7.5), None, ["slices of 7.5 mm"]),
        (Acquisition(kernel="B70f"), None, ["sharp kernel"]),
        (Acquisition(kernel="Br64d"), None, ["sharp kernel"]),
        (Acquisition(kernel="BONE"), None, ["sharp kernel"]),
        (Acquisition(kernel="STANDARD"), None, []),
        (Acquisition(kernel="I40f"), None, []),
    ],
)
def test_cautions(acquisition: Acquisition, estimate: PhaseEstimate | None, words: list[str]) -> None:
    found = acquisition_cautions(acquisition, estimate)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_published_shifts_stand_next_to_the_number() -> None:
    row = {"sma_cm2": 150.0, "smd_hu": 40.0, "sat_area_mm2": 20000.0, "vat_area_mm2": 10000.0}
    found = describe_as_unenhanced(row, "equilibrium")
    assert row["sma_cm2"] == 150.0
    assert found["sma_as_unenhanced_cm2"] == pytest.approx(150 / 1.035)
    assert found["smd_as_unenhanced_hu"] == pytest.approx(30.4)
    assert found["sat_as_unenhanced_cm2"] == pytest.approx(200 / 0.953)
    assert found["vat_as_unenhanced_cm2"] == pytest.approx(100 / 0.778)
    assert found["contrast_source"] == CONTRAST_SOURCE
    for phase in ("unenhanced", "arterial", None):
        assert set(describe_as_unenhanced(row, phase).values()) == {None}
