"""Losses on low-resolution mask logits against soft targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

_FOCAL_WEIGHT = 20.0
"""Of the focal term relative to Dice."""
_FEATURE_SIZE = 0.7
"""Root mean square that costs nothing; that of random Fourier codes is 0.71."""


class MaskLosses(NamedTuple):
    """Per-candidate losses and the IoU they reached.

    Attributes
    ----------
    mask : torch.Tensor
        (K, M): focal times 20 plus Dice.
    iou : torch.Tensor
        (K, M): IoU of the thresholded candidate with the thresholded target, no gradient.
    """

    mask: torch.Tensor
    iou: torch.Tensor


def mask_losses(logits: torch.Tensor, target: torch.Tensor) -> MaskLosses:
    """Compare every candidate with its target.

    Parameters
    ----------
    logits : torch.Tensor
        float32 (K, M, h, w).
    target : torch.Tensor
        float32 (K, h, w) in [0, 1]: share of the cell that the target covers.

    Returns
    -------
    MaskLosses
        Losses and IoU.

    References
    ----------
    Kirillov et al., Segment Anything, 2023 (focal to Dice 20 : 1); Li et al., Generalized
    focal loss, 2020 (the focal term for soft targets).
    """
    soft = target[:, None].expand_as(logits)
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
    focal = ((probability - soft) ** 2 * entropy).mean(dim=(2, 3))
    overlap = (probability * soft).sum(dim=(2, 3))
    extent = probability.sum(dim=(2, 3)) + soft.sum(dim=(2, 3))
    dice = 1 - (2 * overlap + 1) / (extent + 1)
    with torch.no_grad():
        chosen, truth = logits > 0, soft >= 0.5
        both = (chosen & truth).sum(dim=(2, 3)).float()
        either = (chosen | truth).sum(dim=(2, 3)).float()
        iou = (both + 1e-6) / (either + 1e-6)
    return MaskLosses(mask=_FOCAL_WEIGHT * focal + dice, iou=iou)


def combine_losses(losses: MaskLosses, quality: torch.Tensor, *, ambiguous: torch.Tensor) -> torch.Tensor:
    """Add up the single mask's, the best candidate's and the quality's losses.

    Parameters
    ----------
    losses : MaskLosses
        (K, 4) each: single mask first.
    quality : torch.Tensor
        (K, 4), predicted IoU.
    ambiguous : torch.Tensor
        bool (K,): one click, which the single mask is not held to.

    Returns
    -------
    torch.Tensor
        Scalar.
    """
    single = losses.mask[:, 0] * torch.where(ambiguous, 0.3, 1.0)
    best = losses.mask[:, 1:].min(dim=1).values
    # After one click the candidates may differ, and a little keeps each alive; after a clear prompt
    # all of them owe the same mask, since any may be the one that is shown.
    every = losses.mask[:, 1:].mean(dim=1) * torch.where(ambiguous, 0.05, 0.7)
    predicted = (quality - losses.iou).abs().mean(dim=1)
    return (single + best + every + predicted).mean()


def feature_scale_loss(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Hold features to the size of the position codes, next to which the decoder must see its prompts.

    Parameters
    ----------
    levels : sequence of torch.Tensor
        float32 feature maps.

    Returns
    -------
    torch.Tensor
        Scalar: mean squared logarithm of the ratio.

    Examples
    --------
    >>> float(feature_scale_loss([torch.full((1, 2, 2, 2), 0.7)])) < 1e-9
    True
    """
    sizes = [level.square().mean().add(1e-12).sqrt() for level in levels]
    return torch.stack([(size / _FEATURE_SIZE).log().square() for size in sizes]).mean()
