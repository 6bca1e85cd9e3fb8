from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.image.frame import frame_sagittal
from ctai_sam2.phantom import (
    LEVEL_NAMES,
    Label,
    make_sagittal_slice,
    make_volume,
    random_parameters,
    reference_parameters,
)
from ctai_sam2.segmentation import (
    choose_sagittal_index,
    find_candidates,
    find_l3,
    mid_l3_axial_index,
    segment_study,
)
from ctai_sam2.types import CTSlice, CTVolume, Prediction
from tests.unit.segmentation.oracle import IDENTITY, Oracle, dice


def sagittal(seed: int | None = None) -> tuple[CTSlice, dict]:
    rng = np.random.default_rng(seed or 0)
    parameters = reference_parameters() if seed is None else random_parameters(rng)
    # A bow of 20 mm leaves the plane above and below L3: no midline sagittal slice shows that spine.
    bow_mm = float(np.clip(parameters.scoliosis_mm, -10, 10))
    parameters = dataclasses.replace(parameters, scoliosis_mm=bow_mm)
    phantom = make_sagittal_slice(parameters, shape_hw=(300, 300), spacing_mm=(1.4, 1.4), rng=rng)
    return CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm, plane="sagittal"), dict(phantom.masks)


def level_at(masks: dict, x: float, y: float) -> str | None:
    return next((n for n in ("L1", "L2", "L3", "L4", "L5") if masks[n][round(y), round(x)]), None)


def test_bodies_are_found_and_a_sure_count_is_right() -> None:
    found = sure_count = right = 0
    for seed in range(1, 13):
        ct_slice, masks = sagittal(seed)
        candidates, sure = find_candidates(ct_slice)
        seen = [level_at(masks, *c.centre_xy) for c in candidates]
        found += len({"L2", "L3", "L4"} & set(seen))
        labelled = [(c.level, s) for c, s in zip(candidates, seen, strict=True) if c.level == "L3"]
        if sure and labelled:
            sure_count += 1
            right += labelled[0][0] == labelled[0][1]
    assert found >= 33
    assert sure_count >= 6
    assert right / sure_count >= 0.95


def test_a_click_tells_the_level() -> None:
    ct_slice, masks = sagittal()
    rows, columns = np.nonzero(masks["L3"])
    click = (float(columns.mean()), float(rows.mean()))
    oracle = Oracle(frame_sagittal(ct_slice, at_xy=click), [masks[n] for n in ("L1", "L2", "L3", "L4", "L5")])
    result = find_l3(ct_slice, oracle, l3_xy=click)
    assert result.certainty == "user"
    assert dice(result.l3.mask, masks["L3"]) > 0.9


@pytest.mark.parametrize("shape", [(60, 1, 200), (60, 200, 1)])
def test_a_study_without_axial_slices_is_told(shape: tuple[int, int, int]) -> None:
    volume = CTVolume(hu_zyx=np.zeros(shape, np.int16), affine=np.diag([1.0, 1.0, 3.0, 1.0]))
    with pytest.raises(AnatomyNotFound, match="no axial slices"):
        choose_sagittal_index(volume)


def test_middle_of_l3_goes_by_positions() -> None:
    volume = CTVolume(
        hu_zyx=np.zeros((6, 4, 4), np.int16), affine=np.eye(4), slice_positions_mm=[0, 1, 2, 10, 11, 12]
    )
    mask = np.zeros((6, 4), bool)
    mask[1:5, 2] = True  # axial indices 4, 3, 2, 1 at 11, 10, 2 and 1 mm: the middle is at 6
    assert mid_l3_axial_index(volume, mask) in (2, 3)
    mask[:] = False
    mask[0:3, 2] = True
    assert mid_l3_axial_index(volume, mask) == 4
    with pytest.raises(InputError):
        mid_l3_axial_index(volume, np.zeros((6, 4), bool))


class Blob:
    """Returns the box, whatever the image: enough to go from sagittal to axial."""

    identity = IDENTITY

    def predict(self, image_hw, prompt, *, window=None) -> Prediction:
        mask = np.zeros(image_hw.shape, bool)
        x0, y0, x1, y1 = (round(v) for v in prompt.box_xyxy)
        mask[max(y0, 0) : y1, max(x0, 0) : x1] = True
        return Prediction(masks=mask[None], scores=np.array([0.9]), identity=IDENTITY, processing_time_ms=1.0)


def test_a_study_goes_from_click_to_axial_slice() -> None:
    phantom = make_volume(
        reference_parameters(),
        shape_zyx=(48, 128, 128),
        spacing_zyx_mm=(5.0, 3.2, 3.2),
        rng=np.random.default_rng(0),
    )
    volume = CTVolume(hu_zyx=phantom.hu_zyx, affine=phantom.affine)
    z_mm = phantom.levels_mm["L3"]
    index = round((z_mm - phantom.affine[2, 3]) / 5.0)
    column = choose_sagittal_index(volume)
    middle = (column * 3.2 + phantom.affine[0, 3], z_mm)
    assert abs(middle[0]) < 8
    given = segment_study(volume, Blob(), axial_index=index)
    assert given.axial_index == index
    assert {"muscle", "sat", "vat"} <= set(given.masks)
    rows, columns = np.nonzero(np.isin(phantom.labels_zyx[::-1, :, column], l3_labels()))
    clicked = segment_study(volume, Blob(), l3_xy=(columns.mean(), rows.mean()))
    assert clicked.sagittal.certainty == "user"
    assert abs(clicked.axial_index - index) <= 1
    with pytest.raises(InputError):
        segment_study(volume, Blob(), axial_index=999)


def l3_labels() -> list[int]:
    level = LEVEL_NAMES.index("L3")
    return [Label.BODY_CORTEX + level, Label.BODY_TRABECULAR + level]
