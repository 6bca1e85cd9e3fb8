"""SAM2's mask decoder with the image left where it is.

The decoder lets a handful of tokens and some thousand image positions look at each
other. Projecting every position to every head is what costs; where tokens are fewer
than a head is wide, it is cheaper to bring the tokens into the image's space:
(W_q t) · (W_k x) = (W_k' W_q t) · x, and likewise for what is summed up. Where maps
are doubled in size, each pixel becomes four by one multiplication. Results differ only
by rounding. The transformer is written in operations that can be exported
(`transpose`, not `mT`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def predict_candidates(
    decoder: Any, image: Tensor, places: Tensor, sparse: Tensor, dense: Tensor, high_res: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Do what upstream's ``MaskDecoder`` does with ``multimask_output``, for one prompt, and nothing else.

    Parameters
    ----------
    decoder : torch.nn.Module
        Upstream's, with its weights.
    image, places, dense : Tensor, shape (1, C, h, w)
        Embedding, position encoding, and what the prompt encoder says of each position.
    sparse : Tensor, shape (1, T, C)
        Tokens of the prompt.
    high_res : sequence of two Tensor
        Maps of (1, C / 8, 4 h, 4 w) and (1, C / 4, 2 h, 2 w).

    Returns
    -------
    logits : Tensor, shape (1, 3, 4 h, 4 w)
    ious : Tensor, shape (1, 3)
    """
    scored = [decoder.obj_score_token.weight] if decoder.pred_obj_scores else []
    own = torch.cat([*scored, decoder.iou_token.weight, decoder.mask_tokens.weight])
    found, positions = decoder.transformer(image + dense, places, torch.cat([own[None], sparse], dim=1))
    first = len(scored) + 1
    # The first of the four masks is for prompts that mean one thing only.
    weights = torch.stack(
        [
            decoder.output_hypernetworks_mlps[i](found[:, first + i])
            for i in range(1, decoder.num_mask_tokens)
        ],
        dim=1,
    )
    double, norm, activate, double_again, activate_again = decoder.output_upscaling
    finest, finer = high_res
    height, width = 2 * image.shape[-2], 2 * image.shape[-1]
    # Channels last: of each position four neighbours, two rows of two.
    fourfold = positions[0] @ double.weight.permute(0, 2, 3, 1).flatten(1)
    pixels = fourfold.view(height // 2, width // 2, 2, 2, -1).transpose(1, 2).reshape(height, width, -1)
    pixels = pixels + finer[0].permute(1, 2, 0) + double.bias
    pixels = activate(functional.layer_norm(pixels, pixels.shape[-1:], norm.weight, norm.bias, norm.eps))
    # Channels first, the four neighbours before them.
    kernel = double_again.weight.permute(2, 3, 1, 0).flatten(0, 2)
    bias = double_again.bias.repeat(4)[:, None]
    finest_pixels = torch.addmm(bias, kernel, pixels.flatten(0, 1).transpose(0, 1))
    by_neighbour = finest_pixels.view(2, 2, -1, height, width)
    by_neighbour.permute(2, 3, 0, 4, 1).add_(finest[0].view(-1, height, 2, width, 2))
    logits = weights @ activate_again(by_neighbour).flatten(3).flatten(0, 1)
    in_place = logits.view(2, 2, -1, height, width).permute(2, 3, 0, 4, 1)
    return in_place.reshape(1, -1, 2 * height, 2 * width), decoder.iou_prediction_head(found[:, first - 1])[
        :, 1:
    ]


class FewTokensTransformer(nn.Module):
    """Takes the place of the decoder's ``TwoWayTransformer``, whose weights it uses.

    Parameters
    ----------
    transformer : torch.nn.Module
        Upstream's; used unchanged where there are more tokens than a head is wide.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.upstream = transformer
        attention = transformer.final_attn_token_to_image
        self._most_tokens = int(attention.internal_dim) // int(attention.num_heads)

    def forward(
        self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Let tokens (B, T, C) and image (B, C, h, w) inform each other.

        Returns
        -------
        tokens : Tensor, shape (B, T, C)
        positions : Tensor, shape (B, h * w, C)
        """
        if point_embedding.shape[1] > self._most_tokens:
            attended: tuple[Tensor, Tensor] = self.upstream(image_embedding, image_pe, point_embedding)
            return attended
        places = image_pe.flatten(2).transpose(-2, -1).contiguous()
        positions = image_embedding.flatten(2).transpose(-2, -1)
        tokens = point_embedding
        for layer in self.upstream.layers:
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
            else:
                placed = tokens + point_embedding
                tokens = tokens + layer.self_attn(q=placed, k=placed, v=tokens)
            tokens = layer.norm1(tokens)
            positions_placed = positions + places
            seen = look_at_image(
                layer.cross_attn_token_to_image, tokens + point_embedding, positions_placed, positions
            )
            tokens = layer.norm2(tokens + seen)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            positions = layer.norm4(
                add_from_tokens(
                    layer.cross_attn_image_to_token,
                    positions,
                    positions_placed,
                    tokens + point_embedding,
                    tokens,
                )
            )
        last = self.upstream.final_attn_token_to_image
        seen = look_at_image(last, tokens + point_embedding, positions + places, positions)
        return self.upstream.norm_final_attn(tokens + seen), positions


def look_at_image(attention: Any, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from tokens (B, T, C) to positions (B, N, C) with the weights of upstream's ``Attention``."""
    queries = _per_head(attention, attention.q_proj(tokens)).transpose(1, 2) @ _rows(
        attention, attention.k_proj
    )
    # The bias of the keys adds the same to every position, which softmax takes away again.
    shares = (queries.flatten(1, 2) @ keys.transpose(-2, -1)).mul_(_scale(attention)).softmax(dim=-1)
    seen = (shares @ values).reshape(queries.shape)
    # Shares add up to one: so much of the bias of the values comes through.
    gathered = (seen @ _rows(attention, attention.v_proj).transpose(1, 2)).transpose(1, 2).flatten(2)
    attended: Tensor = attention.out_proj(gathered + attention.v_proj.bias)
    return attended


def add_from_tokens(
    attention: Any, positions: Tensor, queries: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Add to positions (B, N, C) what they gather, as queries, from tokens (B, T, C)."""
    offered = _per_head(attention, attention.k_proj(keys)).transpose(1, 2)
    directions = offered @ _rows(attention, attention.q_proj)
    bias = (offered @ _per_head(attention, attention.q_proj.bias)[:, :, None])[..., 0]
    # Positions last: softmax over the few tokens then runs along memory.
    scores = torch.baddbmm(bias.flatten(1)[:, :, None], directions.flatten(1, 2), queries.transpose(-2, -1))
    by_head = scores.mul_(_scale(attention)).reshape(*directions.shape[:3], -1)
    shares = by_head.softmax(dim=2).flatten(1, 2)
    out = _per_head(attention, attention.out_proj.weight)
    given = _per_head(attention, attention.v_proj(values)).transpose(1, 2) @ out.permute(1, 2, 0)
    # Shares of each head add up to one: a part of the bias with every head makes the whole of it.
    given = given + attention.out_proj.bias / attention.num_heads
    return torch.baddbmm(positions, shares.transpose(-2, -1), given.flatten(1, 2))


def _per_head(attention: Any, values: Tensor) -> Tensor:
    return values.reshape(*values.shape[:-1], attention.num_heads, -1)


def _rows(attention: Any, projection: nn.Linear) -> Tensor:
    return projection.weight.reshape(attention.num_heads, -1, projection.in_features)


def _scale(attention: Any) -> float:
    return float((attention.internal_dim // attention.num_heads) ** -0.5)
