"""One click with a segmenter that divides slices: what it takes from the division and what it says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.segmentation import AxialSession, segment_axial
from ctai_sam2.segmentation.compartments import COMPARTMENT_NAMES, GROUPS
from ctai_sam2.segmentation.divided import JudgedSlice
from ctai_sam2.segmentation.neighbours import measure_neighbours
from ctai_sam2.types import CTSlice, CTVolume, Mask, ModelIdentity, Prediction, Prompt, Window
from tests.unit.segmentation.oracle import IDENTITY, fit
from tests.unit.segmentation.test_compartments import SPACING, Classes, draw

NAMED = (*COMPARTMENT_NAMES, "muscle", "disc", "psoas_left", "psoas_right")


class Divider:
    """Knows the drawn compartments by name; a prompt gets the structure it names."""

    identity: ModelIdentity = replace(IDENTITY, structures=NAMED)

    def __init__(self, classes: Classes) -> None:
        self.classes = dict(classes)
        self.classes["muscle"] = np.any([classes[name] for name in GROUPS], axis=0)
        self.classes["disc"] = np.zeros_like(classes["spine"])
        self.classes["between"] = np.zeros_like(classes["spine"])
        self.frame = AxialSession.open(slice_of(classes), self).frame
        self.asked: list[Prompt] = []

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        self.asked.append(prompt)
        name = str(prompt.structure)
        mask: Mask
        half = np.arange(self.classes["psoas"].shape[1])[None, :] > 130
        sides = {"psoas_left": self.classes["psoas"] & half, "psoas_right": self.classes["psoas"] & ~half}
        if prompt.structure is None:
            # Prompts from anatomy point without a name.
            parts = [*sides.values(), self.classes["spine"]]
            mask = max(parts, key=lambda part: fit(self.frame.mask_to_frame(part), prompt))
        elif name in sides:
            mask = sides[name]
        else:
            mask = self.classes[{"vertebra": "spine"}.get(name, name)]
        return Prediction(
            masks=self.frame.mask_to_frame(mask)[None],
            scores=np.array([0.95], np.float32),
            identity=self.identity,
            processing_time_ms=1.0,
            window=window,
        )


def slice_of(classes: Classes, hu: np.ndarray | None = None) -> CTSlice:
    return CTSlice(hu=draw()[1] if hu is None else hu, spacing_mm=SPACING, plane="axial")


def test_a_slice_without_bright_bone_is_not_refused() -> None:
    classes, hu, _ = draw()
    hu[classes["spine"] | classes["bone"]] = 60
    ct_slice = slice_of(classes, hu)
    with pytest.raises(AnatomyNotFound):
        raise AxialSession.open(ct_slice, Divider(classes)).anatomy  # type: ignore[misc]
    result = segment_axial(ct_slice, Divider(classes))
    assert set(result.masks) >= {"psoas_left", "psoas_right", "muscle", "vertebra", "sat", "vat", "imat"}
    assert np.array_equal(result.masks["psoas_left"] | result.masks["psoas_right"], classes["psoas"])
    drawn = np.any([classes[name] for name in GROUPS], axis=0)
    assert np.array_equal(result.masks["muscle"], drawn)


def test_muscle_groups_of_each_side_are_the_models() -> None:
    classes, hu, _ = draw()
    groups = segment_axial(slice_of(classes, hu), Divider(classes), structures=("muscle",)).muscle_groups
    assert set(groups) == {
        f"{name}_{side}" for name in GROUPS if name != "psoas" for side in ("left", "right")
    }
    columns = np.flatnonzero(classes["spine"].any(axis=0))
    on_left = np.arange(hu.shape[1])[None, :] > (columns[0] + columns[-1]) / 2
    for name in ("quadratus", "paraspinal", "wall"):
        assert np.array_equal(groups[f"{name}_left"], classes[name] & on_left & ~classes["psoas"])
        assert np.array_equal(groups[f"{name}_right"], classes[name] & ~on_left & ~classes["psoas"])


def test_a_slice_through_a_disc_is_told_of() -> None:
    classes, _, _ = draw()
    divider = Divider(classes)
    divider.classes["disc"] = classes["spine"]
    result = segment_axial(slice_of(classes), divider)
    assert any("disc" in text for text in result.structures["vertebra"].warnings)


def test_a_missing_psoas_takes_nothing_else_with_it() -> None:
    classes, hu, _ = draw()
    left = classes["psoas"] & (np.mgrid[:220, :260][1] > 130)
    classes["psoas"], classes["vat"] = classes["psoas"] & ~left, classes["vat"] | left
    hu[left] = -98
    hu[classes["spine"] | classes["bone"]] = 60
    result = segment_axial(slice_of(classes, hu), Divider(classes))
    assert "psoas_left" not in result.masks
    assert result.masks["muscle"].any()
    assert any("psoas" in text for text in result.warnings)


def test_what_only_the_division_calls_muscle_is_left_out_but_for_a_lost_wall() -> None:
    classes, hu, _ = draw()
    divider = Divider(classes)
    y, x = np.mgrid[:220, :260]
    gland = classes["viscera"] & (np.hypot(x - 90, y - 100) < 14)
    # The prompted decoder loses a stretch of the wall and does not see the gland as muscle.
    lost = classes["wall"] & (x > 190) & (y < 120)
    divider.classes["muscle"] = divider.classes["muscle"] & ~lost
    bridge = (np.abs(y - 100) < 3) & (x > 40) & (x < 80) & classes["vat"]
    hu[bridge | gland] = 50
    for name in ("vat", "viscera"):
        divider.classes[name] = divider.classes[name] & ~(bridge | gland)
    divider.classes["wall"] = divider.classes["wall"] | bridge | gland
    result = segment_axial(slice_of(classes, hu), divider)
    muscle = result.masks["muscle"]
    assert (muscle & lost).sum() > 0.95 * lost.sum()
    assert (muscle & gland).sum() < 0.1 * gland.sum()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_psoas_is_where_division_and_decoder_agree_or_the_division_where_they_do_not(
    elsewhere: bool,
) -> None:
    classes, hu, _ = draw()
    y, x = np.mgrid[:220, :260]
    left = classes["psoas"] & (x > 130)
    divider = Divider(classes)
    # The division takes in a part of what lies behind, the decoder a part of the fat in front.
    behind = (np.abs(x - 156) < 9) & (y >= 144) & (y < 152)
    divider.classes["psoas"] = divider.classes["psoas"] | behind
    for name in ("vat", "quadratus", "paraspinal", "muscle"):
        divider.classes[name] = divider.classes[name] & ~behind
    hu[behind] = 50
    session = AxialSession.open(slice_of(classes, hu), divider)
    assert session.divided is not None
    seen = (np.hypot(x - 190, y - 120) < 9) if elsewhere else left
    prompted = replace(session.divided.segment_prompted("psoas_left"), mask=seen)
    judged = JudgedSlice(divided=session.divided, psoas={"psoas_left": prompted, "psoas_right": prompted})
    found = judged.segment("psoas_left", 0.5)
    # A pixel of slack is left where they agree.
    extra = (found.mask & ~left).sum() / left.sum()
    assert (found.mask & left).sum() == left.sum()
    assert (extra > 0.12) if elsewhere else (extra < 0.06)
    # In front of the transverse processes lies psoas, behind them another muscle.
    assert not (found.mask & behind & (y > 149)).any()
    assert (judged.masks["quadratus"] & behind & (y > 149)).any()
    assert any("second_opinion" in text for text in found.warnings) == elsewhere


def test_a_reader_s_prompt_is_segmented_as_before() -> None:
    classes, _, _ = draw()
    divider = Divider(classes)
    session = AxialSession.open(slice_of(classes), divider)
    prompt = Prompt.point(156, 132)
    result = session.segment("psoas_left", prompt=prompt)
    assert result.prompted_by == "user"
    assert result.confidence == pytest.approx(0.95)
    assert len(divider.asked) == 1


def test_neighbours_are_the_nearest_slices_some_millimetres_apart() -> None:
    classes, hu, _ = draw()
    volume = CTVolume(
        hu_zyx=np.stack([hu] * 9).astype(np.int16),
        affine=np.array([[1.5, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]]),
        slice_positions_mm=np.arange(9.0),
    )
    found = measure_neighbours(volume, 4, Divider(classes), structures=("muscle",))
    assert [one.offset_mm for one in found] == [-4.0, 4.0]
    assert found[0].areas_mm2["muscle"] == found[1].areas_mm2["muscle"] > 0


def test_psoas_is_as_sure_as_its_less_sure_side_and_imat_as_muscle() -> None:
    classes, _, _ = draw()
    found = segment_axial(slice_of(classes), Divider(classes)).structures
    sides = [found[name].confidence for name in ("psoas_left", "psoas_right")]
    assert found["psoas"].confidence == min(one for one in sides if one is not None)
    assert found["imat"].confidence == found["muscle"].confidence
