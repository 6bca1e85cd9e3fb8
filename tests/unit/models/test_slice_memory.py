"""SAM2's memory over slices, against upstream's own video predictor with the same random weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ctai_sam2.errors import InputError
from ctai_sam2.models import CachedSegmenter, LocalSegmenter
from ctai_sam2.models.fallback import FallbackSegmenter
from ctai_sam2.models.sam2_inference import prepare_image
from ctai_sam2.models.sam2_network import build_sam2, load_weights, read_state_dict
from ctai_sam2.models.slice_memory import VIDEO_PREDICTOR
from ctai_sam2.types.slice_follower import has_slice_memory, open_slice_memory
from tests.fakes import FakeSegmenter, make_image, save_random_checkpoint

CONFIG, SIZE, COUNT = "sam2.1_hiera_tiny", 128, 6
SHAPE = (60, 72)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSegmenter]:
    path = tmp_path_factory.mktemp("memory") / "tiny.pt"
    save_random_checkpoint(path, CONFIG, image_size=SIZE)
    with LocalSegmenter(path, config=CONFIG, image_size=SIZE, device="cpu") as opened:
        yield opened


def slices() -> list[np.ndarray]:
    return [make_image(SHAPE, seed) for seed in range(COUNT)]


def disc(x: float) -> np.ndarray:
    rows, columns = np.indices(SHAPE)
    return np.asarray(np.hypot(rows - 30, columns - x) < 12)


def test_masks_are_those_of_upstream_both_ways(
    segmenter: LocalSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sam2 import sam2_video_predictor as upstream

    stack, anchors = slices(), {2: disc(30), 4: disc(40)}
    video = torch.cat([prepare_image(image, SIZE) for image in stack])
    monkeypatch.setattr(upstream, "load_video_frames", lambda **_: (video, *SHAPE))
    monkeypatch.setattr(upstream, "tqdm", lambda frames, **_: frames)
    theirs = build_sam2(CONFIG, image_size=SIZE, target=VIDEO_PREDICTOR)
    load_weights(theirs, read_state_dict(segmenter._locate()))
    memory = open_slice_memory(segmenter)
    for start, reverse in ((2, False), (4, True)):
        found = list(memory.follow(stack.__getitem__, COUNT, anchors, start=start, reverse=reverse))
        assert [index for index, _ in found] == ([4, 3, 2, 1, 0] if reverse else [2, 3, 4, 5])
        state = theirs.init_state("unused")
        for index, mask in anchors.items():
            theirs.add_new_mask(state, index, 1, torch.tensor(mask))
        walked = theirs.propagate_in_video(state, start_frame_idx=start, reverse=reverse)
        for (index, mask), (same, _, logits) in zip(found, walked, strict=True):
            assert index == same
            np.testing.assert_array_equal(mask, (logits[0, 0] > 0).numpy())


def test_slices_are_fetched_in_turn_and_the_mode_of_the_caller_stays(segmenter: LocalSegmenter) -> None:
    fetched: list[int] = []

    def slice_at(index: int) -> np.ndarray:
        fetched.append(index)
        return make_image(SHAPE, index)

    walk = open_slice_memory(segmenter).follow(slice_at, 100, {50: disc(30)}, start=50)
    assert [next(walk)[0], next(walk)[0]] == [50, 51]
    assert set(fetched) == {50, 51}
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("anchors", [{}, {9: disc(30)}, {-1: disc(30)}, {1: np.zeros((3, 3), bool)}])
def test_anchors_that_do_not_fit_are_refused(
    segmenter: LocalSegmenter, anchors: dict[int, np.ndarray]
) -> None:
    with pytest.raises(InputError):
        list(open_slice_memory(segmenter).follow(slices().__getitem__, COUNT, anchors, start=1))


def test_a_memory_is_found_behind_cache_and_fallback(segmenter: LocalSegmenter) -> None:
    behind = CachedSegmenter(FallbackSegmenter({"other": FakeSegmenter(), "local": segmenter}))
    assert has_slice_memory(behind)
    assert open_slice_memory(behind) is not None


def test_the_embedded_model_and_one_that_is_elsewhere_have_none() -> None:
    for segmenter in (LocalSegmenter(), FakeSegmenter(), CachedSegmenter(FakeSegmenter())):
        assert not has_slice_memory(segmenter)
        with pytest.raises(InputError, match="no trained memory"):
            open_slice_memory(segmenter)
