"""SAM2's mask decoder with the image left where it is.

The decoder lets a handful of tokens and some thousand image positions look at each
other. Projecting every position to every head is what costs; where tokens are fewer
than a head is wide, it is cheaper to bring the tokens into the image's space:
(W_q t) · (W_k x) = (W_k' W_q t) · x, and likewise for what is summed up. Results
differ only by rounding. Written in operations that can be exported (`transpose`, not `mT`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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
    queries = torch.einsum(
        "bthd,hdc->bhtc", _per_head(attention, attention.q_proj(tokens)), _rows(attention, attention.k_proj)
    )
    # The bias of the keys adds the same to every position, which softmax takes away again.
    shares = (queries.flatten(1, 2) @ keys.transpose(-2, -1)).mul_(_scale(attention)).softmax(dim=-1)
    seen = (shares @ values).reshape(queries.shape)
    # Shares add up to one: so much of the bias of the values comes through.
    gathered = torch.einsum("bhtc,hdc->bthd", seen, _rows(attention, attention.v_proj)).flatten(2)
    attended: Tensor = attention.out_proj(gathered + attention.v_proj.bias)
    return attended


def add_from_tokens(
    attention: Any, positions: Tensor, queries: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Add to positions (B, N, C) what they gather, as queries, from tokens (B, T, C)."""
    offered = _per_head(attention, attention.k_proj(keys))
    directions = torch.einsum("bthd,hdc->bhtc", offered, _rows(attention, attention.q_proj))
    bias = torch.einsum("bthd,hd->bht", offered, _per_head(attention, attention.q_proj.bias))
    # Positions last: softmax over the few tokens then runs along memory.
    scores = torch.baddbmm(bias.flatten(1)[:, :, None], directions.flatten(1, 2), queries.transpose(-2, -1))
    by_head = scores.mul_(_scale(attention)).reshape(*directions.shape[:3], -1)
    shares = by_head.softmax(dim=2).flatten(1, 2)
    out = _per_head(attention, attention.out_proj.weight)
    given = torch.einsum("bthd,chd->bhtc", _per_head(attention, attention.v_proj(values)), out)
    # Shares of each head add up to one: a part of the bias with every head makes the whole of it.
    given = given + attention.out_proj.bias / attention.num_heads
    return torch.baddbmm(positions, shares.transpose(-2, -1), given.flatten(1, 2))


def _per_head(attention: Any, values: Tensor) -> Tensor:
    return values.reshape(*values.shape[:-1], attention.num_heads, -1)


def _rows(attention: Any, projection: nn.Linear) -> Tensor:
    return projection.weight.reshape(attention.num_heads, -1, projection.in_features)


def _scale(attention: Any) -> float:
    return float((attention.internal_dim // attention.num_heads) ** -0.5)
