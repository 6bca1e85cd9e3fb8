from __future__ import annotations

import pytest
import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import TwoWayTransformer

from ctai_sam2.models.mask_decoder import FewTokensTransformer, predict_candidates

HEAD_WIDTH = 8


@pytest.fixture(scope="module")
def upstream() -> TwoWayTransformer:
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=64, num_heads=4, mlp_dim=96).eval()
    # Trained weights have biases and scales of their own; a fresh LayerNorm would hide what is done to them.
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return transformer.double()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [1, 5, HEAD_WIDTH, HEAD_WIDTH + 1, 20])
def test_same_result_as_upstream(upstream: TwoWayTransformer, batch: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    image, places = (torch.randn(batch, 64, 6, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    points = torch.randn(batch, tokens, 64, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        theirs = upstream(image, places, points)
        ours = FewTokensTransformer(upstream)(image, places, points)
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-9, atol=1e-11)


def test_few_tokens_do_not_ask_upstream_and_many_do(
    upstream: TwoWayTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def forward(image: torch.Tensor, places: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, ...]:
        asked.append(points.shape[1])
        return points, image

    monkeypatch.setattr(upstream, "forward", forward)
    ours = FewTokensTransformer(upstream)
    image = torch.zeros(1, 64, 2, 2, dtype=torch.float64)
    for count in (HEAD_WIDTH, HEAD_WIDTH + 1):
        ours(image, image, torch.zeros(1, count, 64, dtype=torch.float64))
    assert asked == [HEAD_WIDTH + 1]


@pytest.mark.parametrize("scores_objects", [False, True])
def test_the_whole_decoder_gives_upstreams_three_candidates(scores_objects: bool) -> None:
    torch.manual_seed(1)
    decoder = MaskDecoder(
        transformer_dim=64,
        transformer=TwoWayTransformer(depth=2, embedding_dim=64, num_heads=4, mlp_dim=96),
        use_high_res_features=True,
        pred_obj_scores=scores_objects,
        iou_prediction_use_sigmoid=True,
    )
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    decoder = decoder.double().eval()

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    image, places, dense, sparse = drawn(1, 64, 6, 9), drawn(1, 64, 6, 9), drawn(1, 64, 6, 9), drawn(1, 3, 64)
    finest, finer = drawn(1, 8, 24, 36), drawn(1, 16, 12, 18)
    with torch.inference_mode():
        theirs = decoder(
            image_embeddings=image,
            image_pe=places,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=[finest, finer],
        )
        ours = predict_candidates(decoder, image, places, sparse, dense, [finest, finer])
    for mine, their in zip(ours, theirs, strict=False):
        torch.testing.assert_close(mine, their, rtol=1e-9, atol=1e-9)
