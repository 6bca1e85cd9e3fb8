"""Drawn abdomens on which masks like to drift: a bent or fused spine, flat discs, fluid, a hernia. No model.

A session that knows the drawing stands in for one slice: what the engine makes of right, leaking, too small
and flooding masks is compared with the drawing slice by slice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from ctai_sam2.image.masks import grow
from ctai_sam2.measure.overlap import dice
from ctai_sam2.phantom import STRESSORS, make_volume, masks_from_labels, reference_parameters
from ctai_sam2.segmentation.results import StructureResult
from ctai_sam2.segmentation.volume import VolumeResult, segment_volume
from ctai_sam2.segmentation.volume import engine as engine_module
from ctai_sam2.segmentation.volume import follower as follower_module
from ctai_sam2.types import CTSlice, CTVolume, Mask, Prediction, Prompt
from tests.fakes import FAKE_IDENTITY, FakeSegmenter

STRUCTURES = ("psoas_left", "muscle")
STEP_MM, PIXEL_MM = 7.0, (2.0, 2.0)
LEAK = 4


@dataclass(frozen=True)
class Drawn:
    """A phantom and its masks, and where each slice's pixels come from."""

    volume: CTVolume
    truth: Mapping[str, Mask]
    index_of: Mapping[bytes, int]


@pytest.fixture(scope="module", params=list(STRESSORS))
def drawn(request: pytest.FixtureRequest) -> Drawn:
    phantom = make_volume(
        replace(reference_parameters(), noise_hu=0.0, imat_share=0.0, **STRESSORS[request.param]),
        shape_zyx=(27, 84, 96),
        spacing_zyx_mm=(STEP_MM, *PIXEL_MM),
        rng=np.random.default_rng(0),
    )
    volume = CTVolume(hu_zyx=phantom.hu_zyx, affine=phantom.affine)
    return Drawn(
        volume=volume,
        # What is outside of the limits is in no mask of a model.
        truth={
            name: mask & (phantom.hu_zyx >= -29) & (phantom.hu_zyx <= 150)
            for name, mask in masks_from_labels(phantom.labels_zyx).items()
        },
        index_of={volume.axial(i).hu.tobytes(): i for i in range(27)},
    )


Change = Callable[[str, int, Mask, bool], tuple[Mask, float]]
"""(structure, slice, true mask, prompted) -> what a model makes of it, and the overlap it predicts."""


def right(structure: str, index: int, mask: Mask, prompted: bool) -> tuple[Mask, float]:
    return mask, 0.94


@pytest.fixture
def run(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], VolumeResult]:
    def segmented(change: Change) -> VolumeResult:
        class Session:
            def __init__(self, ct_slice: CTSlice) -> None:
                self.index = drawn.index_of[ct_slice.hu.tobytes()]

            @classmethod
            def open(cls, ct_slice: CTSlice, segmenter: object, **_: object) -> Session:
                return cls(ct_slice)

            def segment(self, structure: str, *, prompt: Prompt | None = None) -> StructureResult:
                truth = drawn.truth[structure][self.index]
                mask, score = change(structure, self.index, truth, prompt is not None)
                prediction = Prediction(
                    masks=mask[None],
                    scores=np.array([score], np.float32),
                    identity=FAKE_IDENTITY,
                    processing_time_ms=1.0,
                )
                return StructureResult(
                    structure=structure,  # type: ignore[arg-type]
                    mask=mask,
                    prediction=prediction,
                    prompts=(),
                    prompted_by="anatomy",
                    confidence=0.01,
                )

        for module in (engine_module, follower_module):
            monkeypatch.setattr(module, "AxialSession", Session)
        return segment_volume(
            drawn.volume, FakeSegmenter(), structures=STRUCTURES, indices=(2, 24), every_mm=2 * STEP_MM
        )

    return segmented


def scores(result: VolumeResult, drawn: Drawn, structure: str = "psoas_left") -> dict[int, float]:
    stack, truth = result.masks[structure], drawn.truth[structure]
    return {i: dice(stack[i], truth[i]) for i in result.indices}


def test_what_is_right_on_a_slice_stays_as_it_is(drawn: Drawn, run: Callable[[Change], VolumeResult]) -> None:
    result = run(right)
    for structure in STRUCTURES:
        slices = result.structure_slices[structure]  # type: ignore[index]
        score = scores(result, drawn, structure)
        assert min(score[i] for i, one in slices.items() if one.source == "automatic") > 0.99
        assert min(score[i] for i in score if drawn.truth[structure][i].sum() > 100) > 0.8
        # The probability that a number is right, low as it is here, has no part in the gates.
        assert {one.gate for i, one in slices.items() if drawn.truth[structure][i].sum() > 180} == {"green"}
    both = result.masks["psoas_left"].sum(), drawn.truth["psoas_left"][2:25].sum()
    assert both[0] == pytest.approx(both[1], rel=0.03)


def test_a_leak_on_one_slice_is_taken_off(drawn: Drawn, run: Callable[[Change], VolumeResult]) -> None:
    def leaking(structure: str, index: int, mask: Mask, prompted: bool) -> tuple[Mask, float]:
        if structure == "psoas_left" and index == LEAK:
            return mask | drawn.truth["quadratus_left"][index], 0.95
        return mask, 0.94

    result = run(leaking)
    slices = result.structure_slices["psoas_left"]
    truth = drawn.truth["psoas_left"][LEAK]
    assert dice(leaking("psoas_left", LEAK, truth, False)[0], truth) < 0.91
    assert slices[LEAK].source == "automatic"
    assert scores(result, drawn)[LEAK] > 0.97
    # Its neighbours are not taken for the odd ones.
    assert min(scores(result, drawn)[i] for i in (2, 6, 8)) > 0.99


def test_slices_of_which_the_model_is_less_sure_are_followed_from_those_next_to_them(
    drawn: Drawn, run: Callable[[Change], VolumeResult]
) -> None:
    def shrinking(structure: str, index: int, mask: Mask, prompted: bool) -> tuple[Mask, float]:
        if structure == "psoas_left" and 10 <= index <= 14 and not prompted:
            return mask & ~grow(~mask, 2.1, PIXEL_MM), 0.7
        return mask, 0.94

    result = run(shrinking)
    slices = result.structure_slices["psoas_left"]
    assert {slices[i].source for i in range(9, 16)} == {"propagated"}
    assert min(scores(result, drawn)[i] for i in range(9, 16)) > 0.9


def test_nothing_floods_on(drawn: Drawn, run: Callable[[Change], VolumeResult]) -> None:
    def flooding(structure: str, index: int, mask: Mask, prompted: bool) -> tuple[Mask, float]:
        if structure == "psoas_left" and 10 <= index <= 14:
            return (drawn.truth["muscle"][index] | mask, 0.94) if prompted else (mask, 0.3)
        return mask, 0.94

    result = run(flooding)
    slices = result.structure_slices["psoas_left"]
    muscle = drawn.truth["muscle"]
    for index in range(10, 15):
        assert slices[index].crop.sum() < 0.25 * muscle[index].sum()
        # What is much larger than next to it is said to be so.
        if scores(result, drawn)[index] < 0.8:
            assert slices[index].gate != "green"
