from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ctai_sam2.errors import InputError, WeightsError
from ctai_sam2.models.calibration import METADATA_KEY, Calibration
from ctai_sam2.models.local import LocalSegmenter
from ctai_sam2.models.sam2_network import build_sam2, read_calibration
from ctai_sam2.types import Prompt


@given(st.floats(0.1, 9), st.floats(-5, 5), st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_order_is_kept_and_probabilities_come_out(gain: float, bias: float, scores: list[float]) -> None:
    ordered = np.sort(np.array(scores))
    calibrated = Calibration(gain=gain, bias=bias).apply(ordered)
    assert (np.diff(calibrated) >= 0).all()
    assert ((calibrated >= 0) & (calibrated <= 1)).all()


@pytest.mark.parametrize(("gain", "bias"), [(0, 0), (-1, 0), (float("nan"), 0), (1, float("inf"))])
def test_a_calibration_that_turns_scores_round_is_refused(gain: float, bias: float) -> None:
    with pytest.raises(InputError, match="positive gain"):
        Calibration(gain=gain, bias=bias)


@pytest.mark.parametrize("text", ["{", "{}", '{"gain": "much", "bias": 0}', '{"gain": -1, "bias": 0}', "[]"])
def test_a_damaged_calibration_is_named(text: str) -> None:
    with pytest.raises(WeightsError, match="calibration"):
        Calibration.from_json(text)


def test_weights_bring_their_calibration_to_the_scores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = build_sam2("sam2_ct_nano", image_size=64).state_dict()
    calibration = Calibration(gain=0.7, bias=1.5)
    save_file(state, tmp_path / "plain.safetensors")
    save_file(state, tmp_path / "calibrated.safetensors", metadata={METADATA_KEY: calibration.to_json()})
    assert read_calibration(tmp_path / "plain.safetensors") is None
    assert read_calibration(tmp_path / "calibrated.safetensors") == calibration
    image = np.arange(4096, dtype=np.uint8).reshape(64, 64)
    scores = {}
    for name in ("plain", "calibrated"):
        with LocalSegmenter(
            tmp_path / f"{name}.safetensors", config="sam2_ct_nano", image_size=64
        ) as segmenter:
            scores[name] = segmenter.predict(image, Prompt.point(20, 30)).scores
    np.testing.assert_allclose(scores["calibrated"], calibration.apply(scores["plain"]), rtol=1e-5)
    assert not np.allclose(scores["calibrated"], scores["plain"], atol=1e-3)
