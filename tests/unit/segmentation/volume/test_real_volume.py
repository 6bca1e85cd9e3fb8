"""The psoas of a real volume: a model that is exchanged must not spoil volumes in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.io import read_study
from ctai_sam2.measure.overlap import dice
from ctai_sam2.models import LocalSegmenter
from ctai_sam2.segmentation.volume import segment_volume


@pytest.mark.realdata
def test_psoas_between_l2_and_l4_is_as_outlined_by_eye(real_data: Path) -> None:
    volume = read_study(real_data / "dev" / "series" / "pcb001")
    with np.load(real_data / "dev" / "cases" / "pcb001_psoas_stack.npz", allow_pickle=False) as case:
        outlined = {name: case[f"mask_{name}"] for name in ("psoas_left", "psoas_right")}
        images = case["image"]
    first, last = 33, 57
    at = [
        index for index in range(first, last + 1) if (images == volume.hu_zyx[index]).all(axis=(1, 2)).any()
    ]
    rows = [int((images == volume.hu_zyx[index]).all(axis=(1, 2)).argmax()) for index in at]
    assert len(at) == 9
    with LocalSegmenter() as segmenter:
        result = segment_volume(
            volume, segmenter, structures=("psoas",), indices=(first, last), every_mm=18.0
        )
    for name, masks in outlined.items():
        found, truth = result.masks[name][at].reshape(9, -1), masks[rows].reshape(9, -1)
        assert dice(found, truth) > 0.85, name
        assert abs(found.sum() / truth.sum() - 1) < 0.2, name
        gates = [one.gate for one in result.structure_slices[name].values()]  # type: ignore[index]
        assert gates.count("red") == 0
        assert gates.count("green") > 0.6 * len(gates)
