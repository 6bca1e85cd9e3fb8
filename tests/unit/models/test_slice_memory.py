"""SAM2's memory over slices, against upstream's own video predictor with the same random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctai_sam2.errors import InputError
from ctai_sam2.models.sam2_inference import prepare_image
from ctai_sam2.models.slice_memory import SliceMemory
from tests.fakes import make_image, save_random_checkpoint

CONFIG, SIZE, COUNT = "sam2.1_hiera_tiny", 128, 6
SHAPE = (60, 72)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> SliceMemory:
    path = tmp_path_factory.mktemp("memory") / "tiny.pt"
    return SliceMemory.open(
        save_random_checkpoint(path, CONFIG, image_size=SIZE), config=CONFIG, image_size=SIZE
    )


def slices() -> list[np.ndarray]:
    return [make_image(SHAPE, seed) for seed in range(COUNT)]


def disc(x: float) -> np.ndarray:
    rows, columns = np.indices(SHAPE)
    return np.asarray(np.hypot(rows - 30, columns - x) < 12)


def test_masks_are_those_of_upstream_both_ways(memory: SliceMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    from sam2 import sam2_video_predictor as upstream

    stack, anchors = slices(), {2: disc(30), 4: disc(40)}
    found = list(memory.follow(stack.__getitem__, COUNT, anchors))
    assert [index for index, _ in found] == [2, 3, 4, 5, 4, 3, 2, 1, 0]
    video = torch.cat([prepare_image(image, SIZE) for image in stack])
    monkeypatch.setattr(upstream, "load_video_frames", lambda **_: (video, *SHAPE))
    monkeypatch.setattr(upstream, "tqdm", lambda frames, **_: frames)
    predictor, expected = memory._predictor, []
    for reverse in (False, True):
        state = predictor.init_state("unused")
        for index, mask in anchors.items():
            predictor.add_new_mask(state, index, 1, torch.tensor(mask))
        start = 4 if reverse else 2
        walked = predictor.propagate_in_video(state, start_frame_idx=start, reverse=reverse)
        expected += [(index, (logits[0, 0] > 0).numpy()) for index, _, logits in walked]
    assert [index for index, _ in expected] == [index for index, _ in found]
    for (_, mask), (_, theirs) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, theirs)


def test_the_state_stays_small_and_slices_are_fetched_in_turn(memory: SliceMemory) -> None:
    fetched: list[int] = []

    def slice_at(index: int) -> np.ndarray:
        fetched.append(index)
        return make_image(SHAPE, index)

    walk = memory.follow(slice_at, 100, {50: disc(30)})
    assert next(walk)[0] == 50
    assert set(fetched) <= {0, 50}


@pytest.mark.parametrize("anchors", [{}, {9: disc(30)}, {-1: disc(30)}, {1: np.zeros((3, 3), bool)}])
def test_anchors_that_do_not_fit_are_refused(memory: SliceMemory, anchors: dict[int, np.ndarray]) -> None:
    with pytest.raises(InputError):
        list(memory.follow(slices().__getitem__, COUNT, anchors))


def test_the_embedded_model_is_refused() -> None:
    with pytest.raises(InputError, match="no trained memory"):
        SliceMemory.open("sam2-ct-nano")


def test_a_file_needs_its_configuration(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        SliceMemory.open(tmp_path / "own.pt")
