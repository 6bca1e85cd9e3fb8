"""The level network that ships: loaded once, run on slices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import WeightsError
from ctai_sam2.segmentation.levels.decode import LevelEvidence
from ctai_sam2.segmentation.levels.image import AIR_HU, to_channels

if TYPE_CHECKING:
    from ctai_sam2.segmentation.levels.network import LevelNetwork

WEIGHTS = "spine-levels.safetensors"


@lru_cache(maxsize=1)
def load_level_network() -> LevelNetwork:
    """Read the network that ships.

    Raises
    ------
    WeightsError
        If the file is damaged or does not fit this code.
    """
    # Imported here so that the room loads without torch.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ctai_sam2.segmentation.levels.network import LevelNetwork

    try:
        with as_file(files("ctai_sam2.segmentation.levels").joinpath(WEIGHTS)) as path:
            weights = load_file(path)
        network = LevelNetwork()
        held = {name: value.float() for name, value in weights.items()}
        missing, unexpected = network.load_state_dict(held, strict=False)
        if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
            raise ValueError("other layers")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            "the network that names vertebrae cannot be read",
            received=WEIGHTS,
            hint="Install the package anew.",
        ) from error
    return network.eval()


def read_levels(
    images: Sequence[NDArray[np.float32]], network: LevelNetwork | None = None
) -> list[LevelEvidence]:
    """Run the network on HU images at `PIXEL_MM`, each (h, w) of the same shape, in one batch."""
    import torch

    network = load_level_network() if network is None else network
    batch = torch.from_numpy(np.stack([to_channels(image) for image in images]))
    with torch.inference_mode():
        maps = network(batch)
        tissue, centre = maps.tissue.softmax(1).numpy(), torch.sigmoid(maps.centre[:, 0]).numpy()
        level = torch.nn.functional.interpolate(
            maps.level.softmax(1), scale_factor=2.0, mode="nearest"
        ).numpy()
    return [
        LevelEvidence(
            tissue=tissue[i], centre=np.where(images[i] > AIR_HU + 50, centre[i], 0.0), level=level[i]
        )
        for i in range(len(images))
    ]
