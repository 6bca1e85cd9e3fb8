"""The decoder's recording: the same numbers in every bit, or none."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from ctai_sam2.models import recorded_decoder
from ctai_sam2.models.sam2_inference import Embedding, Network
from ctai_sam2.models.sam2_network import build_sam2
from ctai_sam2.types import Prompt
from tests.fakes import make_image

SHAPE_HW = (96, 120)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(4)
    model = build_sam2("sam2_ct_nano", image_size=64)
    for parameter in model.sam_mask_decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Network(model, device=torch.device("cpu"), dtype="float32")


def prompts() -> list[Prompt]:
    clicks = [
        Prompt(points_xy=[[7 * i + 3, 90 - 9 * i] for i in range(n)], labels=[1, *[0] * (n - 1)])
        for n in range(1, 8)
    ]
    mask = make_image(SHAPE_HW, seed=3) > 100
    return [*clicks, Prompt(box_xyxy=(10, 20, 60, 70)), Prompt(points_xy=[[40, 40]], mask=mask)]


def decode(network: Network, embedding: Embedding, prompt: Prompt) -> tuple[torch.Tensor, ...]:
    return network.decode(embedding, prompt, SHAPE_HW)


def test_every_prompt_has_the_same_result_in_every_bit(network: Network) -> None:
    embeddings = network.encode_many([make_image(SHAPE_HW, seed=seed) for seed in (1, 2)])
    asked = [(embedding, prompt) for embedding in embeddings for prompt in prompts()]
    before = [decode(network, *one) for one in asked]
    network.record_decoder(embeddings[0])
    assert network.is_recorded
    after = [decode(network, *one) for one in asked]
    for computed, recorded in zip(before, after, strict=True):
        assert all(map(torch.equal, computed, recorded))
    assert not torch.equal(after[0][0], after[1][0]), "prompts would be the same recorded result"


def test_prompts_decoded_at_the_same_time_are_as_alone(network: Network) -> None:
    embedding = network.encode(make_image(SHAPE_HW))
    network.record_decoder(embedding)
    alone = [decode(network, embedding, prompt) for prompt in prompts()]
    found: list[Any] = [None] * len(alone)

    def work(index: int, prompt: Prompt) -> None:
        found[index] = decode(network, embedding, prompt)

    threads = [threading.Thread(target=work, args=one) for one in enumerate(prompts())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found, strict=True):
        assert all(map(torch.equal, one, other))


class _Otherwise:
    """A recording that rounds otherwise."""

    def __init__(self, steps: Any, *_: Any, **__: Any) -> None:
        self._steps = steps

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits, ious = self._steps(*inputs)
        return torch.nextafter(logits, logits + 1), ious


def _fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("no longer there")


@pytest.mark.parametrize("trace", [_Otherwise, _fail])
def test_without_a_faithful_recording_all_stays_as_it_is(trace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_sam2("sam2_ct_nano", image_size=64)
    network = Network(model, device=torch.device("cpu"), dtype="float32")
    embedding = network.encode(make_image(SHAPE_HW))
    before = decode(network, embedding, prompts()[0])
    monkeypatch.setattr(recorded_decoder.torch.jit, "trace", trace)
    network.record_decoder(embedding)
    assert not network.is_recorded
    assert all(map(torch.equal, before, decode(network, embedding, prompts()[0])))
