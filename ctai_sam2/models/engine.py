"""Which engine computes the tensors of a network, and whether its masks are those of PyTorch.

PyTorch is the reference and the default. Another engine is exported from the loaded weights and held against
it on a drawn slice each time a model is loaded; where masks differ, or anything else goes wrong, PyTorch
computes, and the reason is logged and kept.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import Unavailable
from ctai_sam2.measure.overlap import jaccard
from ctai_sam2.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from ctai_sam2.models.sam2_inference import Embedding, Network

logger = logging.getLogger(__name__)

EngineName = Literal["torch", "openvino"]
EngineWish = Literal["torch", "openvino", "auto"]
"""``auto`` is OpenVINO on a CPU where it is installed, else PyTorch."""

LEAST_IOU = 0.99
"""Overlap with PyTorch's masks under which an engine is refused."""

_CHECKED_PX = 512
_SAME_SCORE = 0.01


class EngineRefused(Unavailable):
    """An engine is not available, or its masks are not those of PyTorch."""


class Engine(Protocol):
    """What computes a network's encoder and decoder instead of PyTorch; safe in threads."""

    name: str

    def encode(self, batch: Tensor) -> list[Tensor]:
        """Turn an image (1, 3, s, s) into the feature maps of `Embedding`, finest first."""
        ...

    def decode(self, embedding: Embedding, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Turn an embedding and an encoded prompt into logits (1, 3, h, w) and predicted IoU (1, 3)."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """Which engine a network uses, and why not the one that was wished for.

    Parameters
    ----------
    name : {"torch", "openvino"}
        The engine.
    refusal : str, optional
        Why the other one was not taken; None where nothing else was wished for.
    least_iou : float, optional
        Smallest overlap with PyTorch's masks in the check; None where PyTorch computes.
    """

    name: EngineName
    refusal: str | None = None
    least_iou: float | None = None


def is_installed() -> bool:
    """Tell whether the extra ``fast-cpu`` is installed."""
    return importlib.util.find_spec("openvino") is not None


def choose_engine(
    network: Network,
    wish: EngineWish,
    *,
    weights_sha256: str,
    folder: Path | None,
    make: Callable[[Network, str, Path | None], Engine] | None = None,
) -> EngineChoice:
    """Give a network the engine wished for, where it is there and its masks are PyTorch's.

    Parameters
    ----------
    network : Network
        Changed in place where an engine is taken.
    wish : {"torch", "openvino", "auto"}
        What the settings say.
    weights_sha256 : str
        Of the loaded weights; what was exported from them is found again by it.
    folder : Path, optional
        Where exported networks are kept; exported anew each time without.
    make : callable, optional
        Makes the engine from network, digest and folder; OpenVINO's when omitted.

    Returns
    -------
    EngineChoice
        What computes from now on. Never raises because of an engine.
    """
    if wish == "torch" or (wish == "auto" and (network.device.type != "cpu" or not is_installed())):
        return EngineChoice(name="torch")
    try:
        if network.device.type != "cpu":
            raise EngineRefused("OpenVINO is for CPUs", received=str(network.device))
        engine = (make or _make_openvino)(network, weights_sha256, folder)
        least_iou = compare_with_torch(network, engine)
        if not least_iou >= LEAST_IOU:
            raise EngineRefused(
                "masks differ from PyTorch's",
                received=f"IoU {least_iou:.3f}, at least {LEAST_IOU} is needed",
                hint="Set SAM2_ENGINE to torch.",
            )
    except Exception as error:  # whatever an engine's library raises: PyTorch is there
        refusal = str(error) if isinstance(error, EngineRefused) else f"failed with {type(error).__name__}"
        logger.warning("PyTorch computes instead of %s: %s", wish, refusal)
        logger.debug("the engine's error", exc_info=error)
        return EngineChoice(name="torch", refusal=refusal)
    network.engine = engine
    logger.info("%s computes; least IoU with PyTorch's masks %.4f", engine.name, least_iou)
    return EngineChoice(name="openvino", least_iou=least_iou)


def compare_with_torch(network: Network, engine: Engine) -> float:
    """Return the smallest IoU of an engine's masks with PyTorch's in float32; 0 where scores differ."""
    image, prompts = _drawn_slice()
    masks: list[list[NDArray[np.bool_]]] = []
    scores: list[NDArray[np.float32]] = []
    for one in (None, engine):
        embedding = network.encode_with(one, [image], exact=True)[0]
        found = [network.decode_with(one, embedding, prompt, image.shape) for prompt in prompts]
        masks.append([(logits[0] > 0).numpy() for logits, _ in found])
        scores.append(np.concatenate([ious[0].numpy() for _, ious in found]))
    if not np.allclose(scores[0], scores[1], rtol=0, atol=_SAME_SCORE):
        return 0.0
    return min(jaccard(a, b) for pair in zip(*masks, strict=True) for a, b in zip(*pair, strict=True))


def _drawn_slice() -> tuple[NDArray[np.uint8], list[Prompt]]:
    from ctai_sam2.image.windowing import SOFT_TISSUE, window_to_uint8
    from ctai_sam2.phantom import make_axial_slice, reference_parameters

    drawn = make_axial_slice(
        reference_parameters(), shape_hw=(_CHECKED_PX, _CHECKED_PX), rng=np.random.default_rng(0)
    )
    middle = _CHECKED_PX // 2
    rows, columns = np.nonzero(drawn.masks["psoas_left"])
    psoas = (float(np.median(columns)), float(np.median(rows)))
    prompts = [
        Prompt.point(*psoas),
        Prompt(points_xy=np.array([psoas, (middle, middle)], np.float32), labels=np.array([1, 0], np.int32)),
        Prompt(box_xyxy=(columns.min() - 2, rows.min() - 2, columns.max() + 2, rows.max() + 2)),
        Prompt.point(middle, middle),
    ]
    return window_to_uint8(drawn.hu, SOFT_TISSUE), prompts


def _make_openvino(network: Network, weights_sha256: str, folder: Path | None) -> Engine:
    if not is_installed():
        raise EngineRefused("OpenVINO is not installed", hint="pip install 'ctai-sam2[fast-cpu]'")
    from ctai_sam2.models.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(network, weights_sha256, folder)
