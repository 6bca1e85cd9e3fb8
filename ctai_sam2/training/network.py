"""The network's forward pass for training: many prompts an image, no wasted wide layers."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ctai_sam2.training.tissue_classes import CLASS_NAMES

_LIKENESS_GAIN = 1.6


class Embedding(NamedTuple):
    """What the decoder needs of a batch of images.

    Attributes
    ----------
    coarse : torch.Tensor
        float32 (B, C, N / 16, N / 16).
    middle : torch.Tensor
        float32 (B, C / 4, N / 8, N / 8).
    fine : torch.Tensor
        float32 (B, C / 8, N / 4, N / 4).
    """

    coarse: torch.Tensor
    middle: torch.Tensor
    fine: torch.Tensor


def embed_images(model: Any, images: torch.Tensor, *, bf16: bool = False) -> Embedding:
    """Encode images.

    Equal to ``model.forward_image`` followed by upstream's preparation of the features, but
    the neck's lateral convolution and the decoder's reduction of the two finer levels, both
    linear and 1 x 1, are multiplied first: no tensor of full width at a quarter of the
    resolution is made.

    Parameters
    ----------
    model : sam2.modeling.sam2_base.SAM2Base
        The network.
    images : torch.Tensor
        float32 (B, 3, N, N), normalised.
    bf16 : bool
        Whether the trunk runs in bfloat16.

    Returns
    -------
    Embedding
        The no-memory embedding is added to the coarse level.
    """
    # On a CPU plain matrix products beat the fused kernel by a fifth at windows of 16 to 64 tokens.
    on_cpu = images.device.type == "cpu"
    kernel = sdpa_kernel([SDPBackend.MATH]) if on_cpu else nullcontext()
    with kernel, torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
        levels = model.image_encoder.trunk(images)
    fine, middle, coarse, coarsest = (level.float() for level in levels)
    neck = model.image_encoder.neck
    laterals = [lateral.conv for lateral in neck.convs]
    top = F.interpolate(laterals[0](coarsest), scale_factor=2.0, mode=neck.fpn_interp_model)
    decoder = model.sam_mask_decoder
    return Embedding(
        coarse=laterals[1](coarse) + top + model.no_mem_embed.reshape(1, -1, 1, 1),
        middle=_convolve_twice(middle, laterals[2], decoder.conv_s1),
        fine=_convolve_twice(fine, laterals[3], decoder.conv_s0),
    )


def predict_masks(
    model: Any,
    embedding: Embedding,
    *,
    objects: int,
    points_xy: torch.Tensor,
    labels: torch.Tensor,
    mask_logits: torch.Tensor | None = None,
    has_mask: torch.Tensor | None = None,
    structures: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Predict masks for many prompts at once.

    Parameters
    ----------
    model : sam2.modeling.sam2_base.SAM2Base
        The network.
    embedding : Embedding
        From `embed_images`.
    objects : int
        Prompts per image; prompt ``k`` is about image ``k // objects``.
    points_xy : torch.Tensor
        float32 (K, P, 2), (x, y) in network pixels.
    labels : torch.Tensor
        int64 (K, P): 1, 0, 2 and 3 for a box's corners, -1 for padding.
    mask_logits, has_mask : torch.Tensor, optional
        float32 (K, 1, N / 4, N / 4) and bool (K,).
    structures : torch.Tensor, optional
        int64 (K,): which structure is named, -1 for none.

    Returns
    -------
    logits : torch.Tensor
        float32 (K, 4, N / 4, N / 4): the single mask, then three candidates.
    quality : torch.Tensor
        float32 (K, 4), predicted IoU.
    """
    encoder, decoder = model.sam_prompt_encoder, model.sam_mask_decoder
    sparse, dense = encoder(points=(points_xy, labels), boxes=None, masks=None)
    if structures is not None and getattr(model, "structure_tokens", None) is not None:
        named = model.structure_tokens(structures, encoder.not_a_point_embed.weight)
        sparse = torch.cat([sparse, named], dim=1)
    if mask_logits is not None and has_mask is not None:
        dense = torch.where(has_mask.reshape(-1, 1, 1, 1), encoder.mask_downscaling(mask_logits), dense)
    logits, quality, _, _ = decoder.predict_masks(
        image_embeddings=_repeat(embedding.coarse, objects),
        image_pe=encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[_repeat(embedding.fine, objects), _repeat(embedding.middle, objects)],
    )
    return logits, quality


class DenseHead(torch.nn.Module):
    """A temporary classifier of the decoder's upscaled features, for the dense phase.

    Parameters
    ----------
    channels : int
        Channels of the upscaled features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 64, 1), torch.nn.GELU(), torch.nn.Conv2d(64, len(CLASS_NAMES), 1)
        )

    def forward(self, model: Any, embedding: Embedding) -> torch.Tensor:
        """Return class logits (B, classes, N / 4, N / 4)."""
        first, norm, act, second, last = model.sam_mask_decoder.output_upscaling
        upscaled = act(norm(first(embedding.coarse) + embedding.middle))
        result: torch.Tensor = self.layers(last(second(upscaled) + embedding.fine))
        return result


def align_attention(model: Any) -> None:
    """Let every cross-attention of the decoder begin with equal query and key projections.

    A click then attends to its own place from the first step on, instead of after hundreds.

    Parameters
    ----------
    model : sam2.modeling.sam2_base.SAM2Base
        Changed in place.
    """
    transformer = model.sam_mask_decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    with torch.no_grad():
        for attention in attentions:
            torch.nn.init.orthogonal_(attention.q_proj.weight, gain=_LIKENESS_GAIN)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.q_proj.bias.zero_()
            attention.k_proj.bias.zero_()


def freeze_memory(model: torch.nn.Module) -> None:
    """Stop gradients into what a single image never uses."""
    for name, parameter in model.named_parameters():
        if name.startswith(("memory_", "maskmem_", "no_mem_pos_enc", "obj_ptr")):
            parameter.requires_grad_(False)


def _repeat(features: torch.Tensor, objects: int) -> torch.Tensor:
    # Not by index: the gradient of an expansion is a plain sum.
    return features[:, None].expand(-1, objects, -1, -1, -1).flatten(0, 1)


def _convolve_twice(features: torch.Tensor, first: torch.nn.Conv2d, second: torch.nn.Conv2d) -> torch.Tensor:
    outer = second.weight[:, :, 0, 0]
    weight = outer @ first.weight[:, :, 0, 0]
    if first.bias is None or second.bias is None:
        return second(first(features))  # type: ignore[no-any-return]
    return F.conv2d(features, weight[:, :, None, None], outer @ first.bias + second.bias)
