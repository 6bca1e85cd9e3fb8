"""The level network: a small U-Net that sees a whole sagittal slice at two millimetres a pixel."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from ctai_sam2.segmentation.levels.labels import LEVEL_CLASSES, TISSUE_CLASSES

INPUT_CHANNELS: Final = 2


class LevelMaps(NamedTuple):
    """What the network returns, at the input's resolution except for the levels.

    Attributes
    ----------
    tissue : Tensor, shape (N, len(TISSUE_CLASSES), H, W)
        Logits.
    centre : Tensor, shape (N, 1, H, W)
        Logits of being the middle of a vertebral body or of S1.
    level : Tensor, shape (N, len(LEVEL_CLASSES), H / 2, W / 2)
        Logits of the level, meant on bodies, discs and sacrum.
    """

    tissue: Tensor
    centre: Tensor
    level: Tensor


class _Conv(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, before: int, after: int, size: int = 3, *, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (size // 2)
        super().__init__(
            nn.Conv2d(before, after, size, stride=stride, padding=padding, dilation=dilation, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        )


class _Residual(nn.Module):
    """Two convolutions around which the input is carried."""

    def __init__(self, channels: int, dilations: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _Conv(channels, channels, dilation=dilations[0]), _Conv(channels, channels, dilation=dilations[1])
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class LevelNetwork(nn.Module):
    """Tissue, body centres and levels of a sagittal slice in one pass.

    Input: (N, 2, H, W) from `ctai_sam2.segmentation.levels.image.LevelImage`.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (16, 40, 72, 96)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = nn.Sequential(_Conv(INPUT_CHANNELS, a, stride=2), _Conv(a, a))
        self.down1 = nn.Sequential(_Conv(a, b, stride=2), _Residual(b))
        self.down2 = nn.Sequential(_Conv(b, c, stride=2), _Residual(c))
        self.down3 = nn.Sequential(_Conv(c, d, stride=2), _Residual(d, (1, 2)), _Residual(d, (4, 1)))
        self.up2, self.join2 = _Conv(d, c, 1), _Conv(c, c)
        self.up1, self.join1 = _Conv(c, b, 1), _Residual(b)
        self.up0, self.join0 = _Conv(b, a, 1), _Residual(a)
        self.dense = nn.Conv2d(a, 4 * (len(TISSUE_CLASSES) + 1), 1)
        # Few pixels are the middle of a body.
        nn.init.constant_(self.dense.bias[-4:], -4.0)  # type: ignore[index]
        self.level = nn.Sequential(_Conv(a + b, 32, 1), nn.Conv2d(32, len(LEVEL_CLASSES), 1))

    def forward(self, image: Tensor) -> LevelMaps:
        """Return logits; see `LevelMaps`."""
        x0 = self.stem(image)
        x1 = self.down1(x0)
        x2 = self.down2(x1)
        x3 = self.down3(x2)
        y2 = self.join2(x2 + _double(self.up2(x3)))
        y1 = self.join1(x1 + _double(self.up1(y2)))
        y0 = self.join0(x0 + _double(self.up0(y1)))
        dense = nn.functional.pixel_shuffle(self.dense(y0), 2)
        level = self.level(torch.cat([y0, _double(y1)], dim=1))
        return LevelMaps(tissue=dense[:, :-1], centre=dense[:, -1:], level=level)


def _double(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
