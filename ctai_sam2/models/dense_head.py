"""A second way to masks: every pixel of an axial slice gets a class in one pass.

The prompted decoder outlines what is pointed at; this head divides the whole slice into
compartments, so that muscle, fat and organs neither overlap nor leave anything out. It looks at
the slice itself, not at the encoder's features: an opinion of its own, and it costs no embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

DENSE_CLASSES: Final = (
    "outside", "skin", "sat", "psoas", "quadratus", "paraspinal", "wall", "between", "vertebra", "disc",
    "bone", "vat", "organ", "bowel",
)  # fmt: skip
"""What a pixel can be. ``between`` is fat and fascia inside the muscle ring, ``vat`` the fat of the cavity,
``bone`` also the canal; muscles hold the fat streaks within them."""

DENSE_STRUCTURES: Final[Mapping[str, tuple[str, ...]]] = {
    "psoas": ("psoas",),
    "psoas_left": ("psoas",),
    "psoas_right": ("psoas",),
    "quadratus": ("quadratus",),
    "paraspinal": ("paraspinal",),
    "wall": ("wall",),
    "muscle": ("psoas", "quadratus", "paraspinal", "wall"),
    "between": ("between",),
    "sat": ("sat",),
    "skin": ("skin",),
    "vat": ("vat",),
    "viscera": ("organ", "bowel"),
    "spine": ("vertebra", "disc"),
    "disc": ("disc",),
    "bone": ("bone",),
}
"""Structures that a prompt can name without pointing, and the classes that make each up."""

DENSE_PREFIX: Final = "dense_head."
"""What the head's parameters are called in a weights file."""

DENSE_SIZE_PX: Final = 320
"""Side of the square the head sees."""

DENSE_ZOOM: Final = 0.55
"""Side of the square about the spine that the head sees a second time, as a part of the whole."""


def dense_input(grey: Tensor) -> Tensor:
    """Fold a windowed slice to half its side and add where each pixel lies.

    Parameters
    ----------
    grey : Tensor
        float32 (B, 1, N, N), 0 to 1.

    Returns
    -------
    Tensor
        float32 (B, 6, N / 2, N / 2): the four pixels of each block, distance from the middle column, row.
    """
    folded = F.pixel_unshuffle(grey, 2) * 2 - 1
    size = folded.shape[-1]
    axis = torch.linspace(-1, 1, size, device=grey.device)
    across = axis.abs()[None, None, None, :].expand(len(grey), 1, size, size)
    down = axis[None, None, :, None].expand(len(grey), 1, size, size)
    return torch.cat([folded, across, down], dim=1)


class DenseUNet(nn.Module):
    """A small U-Net on the folded slice.

    Parameters
    ----------
    channels : sequence of int
        Width of each level, finest first; each level halves the side.
    normalised : bool
        With batch normalisation, as for training; without, as `fold_normalisation` leaves it.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 96, 128), *, normalised: bool = True) -> None:
        super().__init__()
        pairs = list(pairwise(channels))

        def twice(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(_block(inputs, outputs, normalised), _block(outputs, outputs, normalised))

        self.stem = twice(6, channels[0])
        self.down = nn.ModuleList(twice(a, b) for a, b in pairs)
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.up = nn.ModuleList(twice(2 * a, a) for a in channels[:-1])
        self.classify = nn.Conv2d(channels[0], len(DENSE_CLASSES), 1)

    def forward(self, grey: Tensor) -> Tensor:
        """Return logits (B, classes, N / 2, N / 2) for grey values (B, 1, N, N), 0 to 1."""
        features = self.stem(dense_input(grey))
        skipped = [features]
        for down in self.down:
            features = down(F.max_pool2d(features, 2))
            skipped.append(features)
        for level in range(len(self.up) - 1, -1, -1):
            features = F.interpolate(self.narrow[level](features), scale_factor=2.0, mode="nearest")
            features = self.up[level](torch.cat([features, skipped[level]], dim=1))
        logits: Tensor = self.classify(features)
        return logits


def fold_normalisation(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply batch normalisation into the convolutions of a trained `DenseUNet`.

    Parameters
    ----------
    state : mapping of str to Tensor
        State of a normalised network.

    Returns
    -------
    dict of str to Tensor
        State of ``DenseUNet(normalised=False)`` with the same outputs.
    """
    folded: dict[str, Tensor] = {}
    for name, value in state.items():
        block, _, part = name.rpartition(".")
        if name.endswith("num_batches_tracked") or (block.endswith(".1") and f"{block}.running_var" in state):
            continue
        normal = f"{block.rpartition('.')[0]}.1"
        if part == "weight" and block.endswith(".0") and f"{normal}.running_var" in state:
            scale = state[f"{normal}.weight"] / torch.sqrt(state[f"{normal}.running_var"] + _EPSILON)
            folded[name] = value * scale.reshape(-1, 1, 1, 1)
            folded[f"{block}.bias"] = state[f"{normal}.bias"] - state[f"{normal}.running_mean"] * scale
        else:
            folded[name] = value
    return folded


def divide_image(head: nn.Module, image_hw: NDArray[np.uint8], device: torch.device) -> Division:
    """Classify every pixel of a windowed slice, those about the spine from a closer view.

    Parameters
    ----------
    head : DenseUNet
        In evaluation mode.
    image_hw : ndarray of uint8, shape (H, W)
        The slice.
    device : torch.device
        Where the head is.
    """
    grey = torch.tensor(image_hw, dtype=torch.float32, device=device)[None, None] / 255
    with torch.inference_mode():
        full = class_chances(head, grey)
        labels = _labels(full[0]).to(torch.uint8).cpu().numpy()
        coarse = F.interpolate(full, size=(_SCORED_PX, _SCORED_PX), mode="area")[0]
        taken = F.one_hot(_labels(coarse), len(DENSE_CLASSES)).permute(2, 0, 1).float()
        scores = {}
        for name, members in DENSE_STRUCTURES.items():
            index = [DENSE_CLASSES.index(member) for member in members]
            chance, inside = coarse[index].sum(dim=0), taken[index].sum(dim=0)
            both, sizes = (chance * inside).sum(), chance.sum() + inside.sum()
            # The Dice expected if the probabilities are right, converted to IoU, the unit of scores.
            scores[name] = float(both / (sizes - both).clamp(min=1e-6))
    return Division(labels, scores)


def class_chances(head: nn.Module, grey: Tensor) -> Tensor:
    """Look at a slice as a whole and about the spine, and return each class's probability.

    Parameters
    ----------
    head : DenseUNet
        In evaluation mode.
    grey : Tensor
        float32 (1, 1, H, W), 0 to 1.

    Returns
    -------
    Tensor
        float32 (1, classes, H, W).
    """
    full = _chances(head, grey)
    middle = _spine_middle(full)
    if middle is None:
        return full
    close = _chances(head, _cut(grey, middle, DENSE_ZOOM))
    weight = _weight_of_close_view(close)
    # Put back, the close view fills a part of the slice, and nothing beyond it.
    placed, part = _place(torch.cat([close * weight, weight], dim=1), middle, DENSE_ZOOM)
    full[part] = full[part] * (1 - placed[:, -1:]) + placed[:, :-1]
    return full


class Division:
    """A slice divided into `DENSE_CLASSES`.

    Parameters
    ----------
    labels_hw : ndarray of uint8, shape (H, W)
        Index of each pixel's class.
    scores : mapping of str to float
        Expected IoU of each structure, 0 to 1.
    """

    def __init__(self, labels_hw: NDArray[np.uint8], scores: Mapping[str, float]) -> None:
        self._labels = labels_hw
        self.scores = dict(scores)

    def mask(self, structure: str) -> NDArray[np.bool_]:
        """Return the mask (H, W) of one of `DENSE_STRUCTURES`; the spine separates left from right."""
        mask = self._mask_of(structure)
        if structure in ("psoas_left", "psoas_right"):
            spine = self._mask_of("spine")
            columns = np.flatnonzero(spine.any(axis=0))
            middle = float(columns[0] + columns[-1]) / 2 if columns.size else (self._labels.shape[1] - 1) / 2
            on_left = np.arange(mask.shape[1])[None, :] > middle
            mask = mask & (on_left if structure == "psoas_left" else ~on_left)
        return mask

    def _mask_of(self, structure: str) -> NDArray[np.bool_]:
        is_member = np.array([name in DENSE_STRUCTURES[structure] for name in DENSE_CLASSES])
        mask: NDArray[np.bool_] = is_member[self._labels]
        return mask


_EPSILON: Final = 1e-5
_SCORED_PX: Final = DENSE_SIZE_PX // 2
_FEATHER: Final = 1 / 16
"""Width of the border over which the close view fades out, as a part of its side."""


def _chances(head: nn.Module, grey: Tensor) -> Tensor:
    """Return each class's probability (1, classes, H, W) at the size of the image (1, 1, H, W)."""
    size = (DENSE_SIZE_PX, DENSE_SIZE_PX)
    seen = grey
    if grey.shape[-2:] != size:
        seen = F.interpolate(grey, size=size, mode="bilinear", align_corners=False, antialias=True)
    chances = head(seen).float().softmax(dim=1)
    return F.interpolate(chances, size=grey.shape[-2:], mode="bilinear", align_corners=False)


def _labels(chances: Tensor) -> Tensor:
    """Return each pixel's likeliest class; on a CPU `max` takes a fifth of the time of `argmax`."""
    return chances.max(dim=0).indices


def _spine_middle(full: Tensor) -> tuple[float, float] | None:
    """Return the middle of vertebral body or disc, x and y from -1 to 1 between the image's edges."""
    index = torch.tensor(
        [DENSE_CLASSES.index(name) for name in DENSE_STRUCTURES["spine"]], device=full.device
    )
    rows, columns = torch.nonzero(torch.isin(_labels(full[0]), index), as_tuple=True)
    if not len(columns):
        return None
    height, width = full.shape[-2:]
    x = float(columns.min() + columns.max() + 1) / width - 1
    return x, float(2 * rows.float().mean() + 1) / height - 1


def _cut(image: Tensor, middle: tuple[float, float], share: float) -> Tensor:
    """Enlarge the square about a point to the image's size; beyond the image is 0."""
    return _sample(image, _grid(image, scale=share, offset=middle))


def _place(
    image: Tensor, middle: tuple[float, float], share: float
) -> tuple[Tensor, tuple[slice, slice, slice, slice]]:
    """Undo `_cut`: return a square at its place, and which part of an image of its size that is."""
    grid = _grid(image, scale=1 / share, offset=(-middle[0] / share, -middle[1] / share))
    parts = [slice(None), slice(None)]
    for places, pixels in ((grid[0, :, 0, 1], image.shape[-2]), (grid[0, 0, :, 0], image.shape[-1])):
        # Further than a pixel from the square, all that is sampled is 0.
        inside = torch.nonzero(places.abs() <= 1 + 2 / pixels)
        parts.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
    part = (parts[0], parts[1], parts[2], parts[3])
    return _sample(image, grid[:, parts[2], parts[3]]), part


def _grid(image: Tensor, *, scale: float, offset: tuple[float, float]) -> Tensor:
    theta = torch.tensor([[[scale, 0.0, offset[0]], [0.0, scale, offset[1]]]], device=image.device)
    return F.affine_grid(theta, list(image.shape), align_corners=False)


def _sample(image: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(image, grid, align_corners=False, padding_mode="zeros")


def _weight_of_close_view(close: Tensor) -> Tensor:
    """Return 1 in the middle and less towards the border, where the close view lacks surroundings."""
    ramps = []
    for size in close.shape[-2:]:
        axis = torch.arange(size, device=close.device)
        ramps.append((torch.minimum(axis, axis.flip(0)) / (_FEATHER * size)).clamp(max=1))
    return (ramps[0][:, None] * ramps[1][None, :])[None, None]


def _block(inputs: int, outputs: int, normalised: bool) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not normalised)
    between = nn.BatchNorm2d(outputs, eps=_EPSILON) if normalised else nn.Identity()
    return nn.Sequential(convolution, between, nn.ReLU(inplace=True))
