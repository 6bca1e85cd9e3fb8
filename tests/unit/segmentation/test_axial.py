from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.frame import frame_slice
from ctai_sam2.phantom import make_axial_slice, random_parameters, reference_parameters
from ctai_sam2.segmentation import (
    find_axial_anatomy,
    make_axial_prompt,
    robustness,
    segment_axial,
    segment_structure,
)
from ctai_sam2.types import CTSlice, Mask, Prediction, Prompt, Window
from tests.fakes import FAKE_IDENTITY, FakeSegmenter
from tests.unit.segmentation.oracle import Oracle, box_iou, box_of, dice, right_points


def phantom_slice(seed: int | None = None, side: int = 256):
    rng = np.random.default_rng(seed or 0)
    parameters = reference_parameters() if seed is None else random_parameters(rng)
    spacing = (409.6 / side, 409.6 / side)
    phantom = make_axial_slice(parameters, shape_hw=(side, side), spacing_mm=spacing, rng=rng)
    return CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm), phantom.masks


def oracle_for(ct_slice: CTSlice, masks) -> Oracle:
    known = [masks[name] for name in ("psoas_left", "psoas_right", "muscle", "vertebra")]
    return Oracle(frame_slice(ct_slice), known)


def test_prompts_point_right_on_random_phantoms() -> None:
    points, boxes = [], []
    for seed in range(1, 22):
        ct_slice, masks = phantom_slice(seed)
        anatomy = find_axial_anatomy(ct_slice)
        for name in ("psoas_left", "psoas_right", "muscle", "vertebra"):
            prompt = make_axial_prompt(anatomy, name)
            prompt.require_within(ct_slice.shape_hw)
            points.append((name, right_points(prompt, masks[name], 1), right_points(prompt, masks[name], 0)))
            boxes.append((name, box_iou(prompt.box_xyxy, box_of(masks[name]))))
    assert np.mean([right for _, right, _ in points]) > 0.9
    assert np.mean([right for _, _, right in points]) > 0.97
    for name, least in (("psoas_left", 0.6), ("psoas_right", 0.6), ("muscle", 0.9), ("vertebra", 0.7)):
        assert np.median([iou for n, iou in boxes if n == name]) > least, name


def test_everything_on_one_image() -> None:
    ct_slice, masks = phantom_slice()
    oracle = oracle_for(ct_slice, masks)
    result = segment_axial(ct_slice, oracle)
    assert set(result.structures) == {
        "psoas_left", "psoas_right", "psoas", "muscle", "vertebra", "sat", "vat", "imat",
    }  # fmt: skip
    for name in ("psoas_left", "psoas_right", "muscle", "vertebra", "sat"):
        assert dice(result.masks[name], masks[name]) > 0.85, name
    muscle = result.masks["muscle"]
    assert not (result.masks["psoas"] & ~muscle).any()
    for fat in ("sat", "vat", "imat"):
        assert not (result.masks[fat] & muscle).any()
        assert ct_slice.hu[result.masks[fat]].max() <= -30
    assert ct_slice.hu[result.structures["psoas_left"].mask].min() >= -200
    assert result.structures["sat"].prediction is None
    assert result.structures["psoas"].prediction is not None


def test_left_is_on_the_image_right() -> None:
    ct_slice, masks = phantom_slice()
    oracle = oracle_for(ct_slice, masks)
    left = segment_structure(ct_slice, "psoas_left", oracle).mask
    right = segment_structure(ct_slice, "psoas_right", oracle).mask
    assert np.nonzero(left)[1].mean() > np.nonzero(right)[1].mean()


def test_own_prompt_is_used_and_never_lost() -> None:
    ct_slice, masks = phantom_slice()
    oracle = oracle_for(ct_slice, masks)
    rows, columns = np.nonzero(masks["psoas_left"])
    x, y = float(np.median(columns)), float(np.median(rows))
    fatty = ct_slice.hu.copy()
    fatty[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2] = -100
    prompt = Prompt(points_xy=[[x, y]], box_xyxy=box_of(masks["psoas_left"]))
    result = segment_structure(
        CTSlice(hu=fatty, spacing_mm=ct_slice.spacing_mm), "psoas_left", oracle, prompt=prompt
    )
    assert result.prompted_by == "user"
    (asked,) = result.prompts
    assert asked.structure == "psoas_left"
    assert asked.points_xy.tolist() == prompt.points_xy.tolist()
    assert asked.box_xyxy == prompt.box_xyxy
    assert result.mask[round(y), round(x)]


class KnowsNames(FakeSegmenter):
    """Finds by name what it was given to know; everything else as a disc around the prompt."""

    def __init__(self, known: dict[str, Mask], score: float) -> None:
        super().__init__(identity=replace(FAKE_IDENTITY, structures=tuple(known)))
        self._known, self._score = known, score

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        if prompt.is_placed:
            return super().predict(image_hw, prompt, window=window)
        return Prediction(
            masks=self._known[str(prompt.structure)][None],
            scores=np.array([self._score]),
            identity=self.identity,
            processing_time_ms=1.0,
            window=window,
        )


def test_a_psoas_that_anatomy_misses_is_asked_for_by_name() -> None:
    ct_slice, masks = phantom_slice()
    psoas = masks["psoas_left"]
    wasted = ct_slice.hu.copy()
    wasted[ndimage.binary_dilation(psoas, iterations=3)] = -90
    core = ndimage.distance_transform_edt(psoas)
    core = core > core.max() - 2.5
    wasted[core] = 45
    thin = CTSlice(hu=wasted, spacing_mm=ct_slice.spacing_mm)
    with pytest.raises(AnatomyNotFound):
        segment_structure(thin, "psoas_left", FakeSegmenter())
    known = {"psoas_left": frame_slice(thin).mask_to_frame(psoas)}
    result = segment_structure(thin, "psoas_left", KnowsNames(known, 0.8))
    assert result.prompted_by == "name"
    assert dice(result.mask, core) > 0.95
    (warning,) = result.warnings
    assert "by the model alone" in warning
    with pytest.raises(InputError, match="found by name"):
        robustness(thin, "psoas_left", KnowsNames(known, 0.8), n=3)
    with pytest.raises(AnatomyNotFound):
        segment_structure(thin, "psoas_left", KnowsNames(known, 0.4))


class Recorder(FakeSegmenter):
    """A disc around the last point; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Prompt] = []

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        self.asked.append(prompt)
        last = Prompt(points_xy=prompt.points_xy[-1:])
        return super().predict(image_hw, last, window=window)


def test_each_further_click_corrects_the_mask_of_those_before() -> None:
    ct_slice, masks = phantom_slice()
    rows, columns = np.nonzero(masks["psoas_left"])
    x, y = float(np.median(columns)), float(np.median(rows))
    clicks = [[x + 30, y], [x, y], [x + 1, y + 2], [x - 25, y]]
    recorder = Recorder()
    prompt = Prompt(points_xy=clicks, labels=[0, 1, 1, 0])
    result = segment_structure(ct_slice, "psoas_left", recorder, prompt=prompt)
    # A negative click alone means nothing: the first question holds the first positive one too.
    assert [len(asked.points_xy) for asked in recorder.asked] == [2, 3, 4]
    assert recorder.asked[0].mask is None
    shown = segment_structure(
        ct_slice, "psoas_left", Recorder(), prompt=Prompt(points_xy=clicks[:2], labels=[0, 1])
    )
    second = recorder.asked[1].mask
    assert second is not None
    assert dice(frame_slice(ct_slice).mask_to_slice(second), shown.mask) > 0.9
    (kept,) = result.prompts
    assert kept.points_xy.tolist() == np.asarray(clicks, np.float32).tolist()


def test_a_mask_or_a_box_of_ones_own_is_the_start() -> None:
    ct_slice, masks = phantom_slice()
    rows, columns = np.nonzero(masks["psoas_left"])
    x, y = float(np.median(columns)), float(np.median(rows))
    points = [[x, y], [x + 30, y]]
    recorder = Recorder()
    own = Prompt(points_xy=points, labels=[1, 0], mask=masks["psoas_left"])
    segment_structure(ct_slice, "psoas_left", recorder, prompt=own)
    (asked,) = recorder.asked
    assert asked.mask is not None
    recorder = Recorder()
    boxed = Prompt(points_xy=points[::-1], labels=[0, 1], box_xyxy=box_of(masks["psoas_left"]))
    segment_structure(ct_slice, "psoas_left", recorder, prompt=boxed)
    assert [asked.box_xyxy is not None for asked in recorder.asked] == [True, True]


def test_anatomy_that_is_not_there_is_told() -> None:
    blank = CTSlice(hu=np.full((128, 128), -1000), spacing_mm=(2.0, 2.0))
    with pytest.raises(AnatomyNotFound, match="no body"):
        find_axial_anatomy(blank)
    water = np.full((200, 200), -1000)
    water[40:160, 20:180] = 30
    ct_slice = CTSlice(hu=water, spacing_mm=(2.0, 2.0))
    with pytest.raises(AnatomyNotFound, match="without fat"):
        segment_axial(ct_slice, Oracle(frame_slice(ct_slice), [water > 0]))


@pytest.mark.parametrize(
    ("structure", "plane"), [("heart", "axial"), ("l3", "axial"), ("muscle", "sagittal")]
)
def test_structure_and_plane_must_fit(structure: str, plane: str) -> None:
    ct_slice = CTSlice(hu=np.zeros((64, 64)), spacing_mm=(2.0, 2.0), plane=plane)
    with pytest.raises(InputError):
        segment_structure(ct_slice, structure, Oracle(frame_slice(ct_slice), [ct_slice.hu == 0]))


@pytest.mark.realdata
def test_prompts_on_real_slices(real_data: Path) -> None:
    for path in sorted((real_data / "dev" / "cases").glob("*axial*.npz")):
        with np.load(path, allow_pickle=False) as case:
            ct_slice = CTSlice(hu=case["image"], spacing_mm=tuple(case["spacing"]))
            masks = {k[5:]: case[k] for k in case if k.startswith("mask_")}
            level = json.loads(str(case["meta"]))["level"]
        anatomy = find_axial_anatomy(ct_slice)
        names = ["muscle"] if "L1/L2 (approx)" in level else ["muscle", "psoas_left", "psoas_right"]
        for name in names:
            prompt = make_axial_prompt(anatomy, name)
            assert right_points(prompt, masks[name], 1) >= 0.8, (path.name, name)
            assert right_points(prompt, masks[name], 0) == 1.0, (path.name, name)
            assert box_iou(prompt.box_xyxy, box_of(masks[name])) > 0.5, (path.name, name)
