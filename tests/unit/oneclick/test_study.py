from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.core.framing import frame_slice
from ctai_sam2.core.phantom import make_sagittal_slice, random_parameters, reference_parameters
from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.oneclick import find_candidates, find_l3, mid_l3_axial_index
from ctai_sam2.types import CTSlice, CTVolume
from tests.unit.oneclick.oracle import Oracle, dice


def sagittal(seed: int | None = None) -> tuple[CTSlice, dict]:
    rng = np.random.default_rng(seed or 0)
    parameters = reference_parameters() if seed is None else random_parameters(rng)
    phantom = make_sagittal_slice(parameters, shape_hw=(300, 300), spacing_mm=(1.4, 1.4), rng=rng)
    return CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm, plane="sagittal"), dict(phantom.masks)


def level_at(masks: dict, x: float, y: float) -> str | None:
    return next((n for n in ("L1", "L2", "L3", "L4", "L5") if masks[n][round(y), round(x)]), None)


def test_bodies_are_found_and_a_sure_count_is_right() -> None:
    found = sure_count = right = 0
    for seed in range(1, 13):
        slice_, masks = sagittal(seed)
        candidates, sure = find_candidates(slice_)
        seen = [level_at(masks, *c.centre_xy) for c in candidates]
        found += len({"L2", "L3", "L4"} & set(seen))
        labelled = [(c.level, s) for c, s in zip(candidates, seen, strict=True) if c.level == "L3"]
        if sure and labelled:
            sure_count += 1
            right += labelled[0][0] == labelled[0][1]
    assert found >= 32
    assert sure_count >= 4
    assert right / sure_count >= 0.75


def test_a_click_tells_the_level() -> None:
    slice_, masks = sagittal()
    rows, columns = np.nonzero(masks["L3"])
    oracle = Oracle(frame_slice(slice_), [masks[n] for n in ("L1", "L2", "L3", "L4", "L5")])
    result = find_l3(slice_, oracle, l3_xy=(columns.mean(), rows.mean()))
    assert result.certainty == "told"
    assert dice(result.l3.mask, masks["L3"]) > 0.9


def test_without_sacrum_the_level_is_not_guessed() -> None:
    slice_, masks = sagittal()
    last = int(np.nonzero(masks["L4"])[0].max())
    cut = CTSlice(hu=slice_.hu[:last], spacing_mm=slice_.spacing_mm, plane="sagittal")
    oracle = Oracle(frame_slice(cut), [masks["L3"][:last]])
    result = find_l3(cut, oracle)
    assert result.chosen is None
    assert result.l3 is None
    assert result.certainty == "unknown"
    assert "sacrum" in result.warnings[0]
    assert oracle.asked == []


def test_no_spine_is_an_error() -> None:
    slice_ = CTSlice(hu=np.full((200, 200), 40), spacing_mm=(1.5, 1.5), plane="sagittal")
    with pytest.raises(AnatomyNotFound):
        find_candidates(slice_)


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


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", ["sbu_A058062_sag_19001231-073", "sbu_A058062_sag_19010108-077", "ts_example_sagittal_mid"]
)
def test_real_l3_is_counted_from_the_sacrum(real_data: Path, name: str) -> None:
    with np.load(real_data / "dev" / "cases" / f"{name}.npz", allow_pickle=False) as case:
        slice_ = CTSlice(hu=case["image"], spacing_mm=tuple(case["spacing"]), plane="sagittal")
        truth = case["mask_L3"]
    candidates, sure = find_candidates(slice_)
    (l3,) = [c for c in candidates if c.level == "L3"]
    assert sure
    assert truth[round(l3.centre_xy[1]), round(l3.centre_xy[0])]
