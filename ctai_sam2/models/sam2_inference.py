"""SAM2 in tensors: a slice becomes an embedding, an embedding and a prompt become logits.

Upstream's ``SAM2ImagePredictor`` is stateful, not safe in threads and right only
at an image size of 1024, so its steps are taken here one by one. With the same
weights, image and prompt the masks are the same (held by a test); logits differ by
rounding, because on a CPU the decoder's attention is reckoned in another order
(`ctai_sam2.models.mask_decoder`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ctai_sam2.errors import CtaiError, DeviceUnavailable, InputError
from ctai_sam2.models.dense_head import DENSE_STRUCTURES, Division, divide_image
from ctai_sam2.models.mask_decoder import FewTokensTransformer, predict_candidates
from ctai_sam2.types import Prompt

if TYPE_CHECKING:
    from ctai_sam2.models.engine import Engine

logger = logging.getLogger(__name__)

T = TypeVar("T")

MASK_PROMPT_LOGIT = 10.0
"""A mask prompt becomes logits of plus and minus this, as upstream turns given masks into outputs."""

_LARGEST_BOX = 0.5
"""Share of a slice above which stretching all of it takes less time than stretching a box of it."""

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """What the encoder makes of a slice of side s.

    Parameters
    ----------
    top : Tensor of float32, shape (1, C, s/16, s/16)
        The image embedding.
    high_res : list of Tensor of float32
        Shapes (1, C/8, s/4, s/4) and (1, C/4, s/8, s/8): finer features for the decoder.
    """

    top: torch.Tensor
    high_res: list[torch.Tensor]


class Network:
    """A SAM2 network on its device. Holds no state between calls; safe in threads.

    Parameters
    ----------
    model : torch.nn.Module
        A ``SAM2Base`` with weights, from now on the network's: moved to the device, put into evaluation
        mode, its decoder made faster.
    device : torch.device
        Where it runs.
    dtype : {"float32", "bfloat16"}
        Precision of the encoder; the decoder always runs in float32: in bfloat16 masks of the embedded model
        overlapped those in float32 by an IoU down to 0.87.
    """

    def __init__(self, model: Any, *, device: torch.device, dtype: str) -> None:
        self._model = model.requires_grad_(False).eval().to(device)
        if device.type == "cpu":
            decoder = self._model.sam_mask_decoder
            decoder.transformer = FewTokensTransformer(decoder.transformer)
        self.engine: Engine | None = None
        """Computes encoder and decoder instead of PyTorch, where there is one."""
        self.dtype = dtype
        self._autocast = dtype == "bfloat16"
        if self._autocast:
            _keep_residuals_exact(self._model.image_encoder.trunk)
        self.device = device
        self.image_size = int(model.image_size)
        self.description = repr(model)
        tokens = getattr(self._model, "structure_tokens", None)
        self._named: tuple[str, ...] = () if tokens is None else tokens.names
        self.dense_head: torch.nn.Module | None = getattr(self._model, "dense_head", None)
        """Divides a slice, where the weights have such a head."""
        self.dense_structures = () if self.dense_head is None else tuple(DENSE_STRUCTURES)
        self.structures = tuple(dict.fromkeys([*self._named, *self.dense_structures]))
        with torch.inference_mode():
            dense_pe = self._model.sam_prompt_encoder.get_dense_pe()
            # Position by position in memory, as the decoder goes through them.
            self._dense_pe = dense_pe.contiguous(memory_format=torch.channels_last)

    def share_weights_with(self, other: Any) -> None:
        """Let another ``SAM2Base`` of the same configuration compute with this network's weights."""
        for name, part in self._model.named_children():
            setattr(other, name, part)
        for name, weight in self._model.named_parameters(recurse=False):
            setattr(other, name, weight)
        other.eval()

    def encode(self, image_hw: NDArray[np.uint8]) -> Embedding:
        """Embed a windowed slice, uint8 of shape (H, W)."""
        return self.encode_many([image_hw])[0]

    def encode_many(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Embed several windowed slices in one run, each uint8 of its own shape (H, W)."""
        return self._by_engine(lambda engine: self.encode_with(engine, images))

    def encode_with(
        self, engine: Engine | None, images: Sequence[NDArray[np.uint8]], *, exact: bool = False
    ) -> list[Embedding]:
        """Embed slices as `encode_many`, with an engine or, for None, with PyTorch; exact: in float32."""
        prepared = [prepare_image(image, self.image_size) for image in images]
        if engine is not None:
            found = map(engine.encode, prepared)
            return [Embedding(top=levels[-1], high_res=levels[:-1]) for levels in found]
        batch = torch.cat(prepared).to(self.device)
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._autocast and not exact),
        ):
            features = self._model.forward_image(batch)
            _, flat, _, sizes = self._model._prepare_backbone_features(features)
            if self._model.directly_add_no_mem_embed:
                flat[-1] = flat[-1] + self._model.no_mem_embed
            maps = [
                level.permute(1, 2, 0).view(len(images), -1, *size).float()
                for level, size in zip(flat, sizes, strict=True)
            ]
            # Copies, because a part would keep the memory of the whole batch.
            split = [[level[i : i + 1].clone() for level in maps] for i in range(len(images))]
        return [Embedding(top=levels[-1], high_res=levels[:-1]) for levels in split]

    def divide(self, image_hw: NDArray[np.uint8]) -> Division:
        """Classify every pixel of a windowed slice with the dense head, which there must be."""
        return divide_image(self._model.dense_head, image_hw, self.device)

    def decode(
        self, embedding: Embedding, prompt: Prompt, shape_hw: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict masks for a prompt on a slice of the given shape.

        Returns
        -------
        logits : Tensor, shape (1, 3, s/4, s/4)
            Of the three candidates, in the model's order.
        ious : Tensor, shape (1, 3)
            Predicted IoU of each.

        Raises
        ------
        InputError
            If the prompt is nothing but a name this model does not know.
        """
        return self._by_engine(lambda engine: self.decode_with(engine, embedding, prompt, shape_hw))

    def decode_with(
        self, engine: Engine | None, embedding: Embedding, prompt: Prompt, shape_hw: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict masks as `decode`, with an engine or, for None, with PyTorch."""
        if not prompt.is_placed and prompt.structure not in self._named:
            raise InputError(
                "the model does not know this structure by name",
                received=prompt.structure,
                hint=f"It knows {', '.join(self.structures)}."
                if self.structures
                else "Give points or a box.",
            )
        encoder = self._model.sam_prompt_encoder
        with torch.inference_mode():
            sparse, dense = encoder(
                points=_points_of(prompt, shape_hw, self.image_size, self.device),
                boxes=None,
                masks=_mask_logits_of(prompt, encoder.mask_input_size, self.device),
            )
            if prompt.structure in self._named:
                index = torch.tensor([self._named.index(prompt.structure)], device=self.device)
                tokens = self._model.structure_tokens(index, encoder.not_a_point_embed.weight)
                sparse = torch.cat([sparse, tokens], dim=1)
            if engine is not None:
                return engine.decode(embedding, sparse, dense)
            if self.device.type == "cpu" and self._model.sam_mask_decoder.use_high_res_features:
                return predict_candidates(
                    self._model.sam_mask_decoder,
                    embedding.top,
                    self._dense_pe,
                    sparse,
                    dense,
                    embedding.high_res,
                )
            logits, ious, _, _ = self._model.sam_mask_decoder(
                image_embeddings=embedding.top,
                image_pe=self._dense_pe,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
                repeat_image=False,
                high_res_features=embedding.high_res,
            )
        return logits, ious

    def _by_engine(self, work: Callable[[Engine | None], T]) -> T:
        """Do work with the engine, and with PyTorch from the moment on that the engine fails."""
        engine = self.engine
        if engine is not None:
            try:
                return work(engine)
            except CtaiError:
                raise
            except Exception as error:  # whatever the engine's library raises
                logger.warning("PyTorch computes instead of %s: %s", engine.name, type(error).__name__)
                logger.debug("the engine's error", exc_info=error)
                self.engine = None
        return work(None)


class EncoderGraph(nn.Module):
    """The encoder as one function of tensors, to export it: an image (1, 3, s, s) to its feature maps."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model = network._model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the maps of `Embedding`, finest first."""
        _, flat, _, sizes = self.model._prepare_backbone_features(self.model.forward_image(image))
        if self.model.directly_add_no_mem_embed:
            flat = [*flat[:-1], flat[-1] + self.model.no_mem_embed]
        return tuple(
            level.permute(1, 2, 0).reshape(1, -1, int(size[0]), int(size[1]))
            for level, size in zip(flat, sizes, strict=True)
        )


class DecoderGraph(nn.Module):
    """The mask decoder as one function of tensors, to export it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.decoder = network._model.sam_mask_decoder
        self.register_buffer("places", network._dense_pe.clone())

    def forward(
        self,
        finest: torch.Tensor,
        finer: torch.Tensor,
        top: torch.Tensor,
        sparse: torch.Tensor,
        dense: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (1, 3, h, w) and predicted IoU (1, 3)."""
        logits, ious, _, _ = self.decoder(
            image_embeddings=top,
            image_pe=self.places,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=[finest, finer],
        )
        return logits, ious


def prepare_image(image_hw: NDArray[np.uint8], image_size: int) -> torch.Tensor:
    """Turn a grey slice into the encoder's input, as upstream's ``SAM2Transforms`` does with the RGB image.

    Parameters
    ----------
    image_hw : ndarray of uint8, shape (H, W)
        The windowed slice.
    image_size : int
        Side in pixels of the model's input; the slice is stretched to a square of it.

    Returns
    -------
    Tensor of float32, shape (1, 3, image_size, image_size)
        Scaled to 0-1, resized (bilinear, antialiased), normalised per channel.
    """
    grey = torch.tensor(image_hw, dtype=torch.float32)[None, None] / 255
    if grey.shape[-2:] != (image_size, image_size):
        # The channels are equal until they are normalised: resizing one is enough.
        grey = functional.interpolate(
            grey, size=(image_size, image_size), mode="bilinear", align_corners=False, antialias=True
        )
    mean = torch.tensor(_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(_STD).view(1, 3, 1, 1)
    return grey.expand(1, 3, image_size, image_size).sub(mean).div_(std)


def upsample_masks(logits: torch.Tensor, shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Turn low-resolution logits (1, K, h, w) into masks (K, H, W), as upstream does.

    Of a small structure only the box around what is above zero, a hundredth of the slice.
    """
    height, width = shape_hw
    with torch.inference_mode():
        coarse = logits.float()
        if coarse.device.type == "cpu":
            rows, columns = _reach((coarse[0] > 0).any(dim=0).numpy(), shape_hw)
            if len(rows) * len(columns) < _LARGEST_BOX * height * width:
                across = _interpolated(coarse[0], rows, height)
                fine = _interpolated(across.transpose(1, 2), columns, width).transpose(1, 2)
                masks = np.zeros((len(fine), height, width), np.bool_)
                masks[:, rows.start : rows.stop, columns.start : columns.stop] = (fine > 0).numpy()
                return masks
        full = functional.interpolate(coarse, shape_hw, mode="bilinear", align_corners=False)
        whole: NDArray[np.bool_] = (full[0] > 0).cpu().numpy()
    return whole


def _reach(above: NDArray[np.bool_], shape_hw: tuple[int, int]) -> tuple[range, range]:
    """Rows and columns of a finer mask that can be above zero where these pixels are."""
    reached = []
    for axis, fine in enumerate(shape_hw):
        found, coarse = np.flatnonzero(above.any(axis=1 - axis)), above.shape[axis]
        if not found.size:
            return range(0), range(0)
        # A pixel is weighed in up to the centres of its neighbours; rounding may take one more.
        first = math.floor((found[0] - 0.5) * fine / coarse - 0.5) - 1
        last = math.ceil((found[-1] + 1.5) * fine / coarse - 0.5) + 1
        reached.append(range(max(first, 0), min(last + 1, fine)))
    return reached[0], reached[1]


def _interpolated(values: torch.Tensor, rows: range, count: int) -> torch.Tensor:
    """Rows of maps (K, h, w) stretched linearly to `count` rows, as PyTorch does without aligned corners."""
    height = values.shape[1]
    places = ((torch.arange(rows.start, rows.stop) + 0.5) * (height / count) - 0.5).clamp(min=0)
    below = places.long()
    share = (places - below)[:, None]
    return values[:, below] * (1 - share) + values[:, (below + 1).clamp(max=height - 1)] * share


def choose_device(name: str) -> torch.device:
    """Turn a device's name into a device of this machine.

    Parameters
    ----------
    name : str
        ``auto`` (CUDA, else MPS, else CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    DeviceUnavailable
        If there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceUnavailable(
            "there is no such device", received=name, hint="Use auto, cpu, cuda, cuda:N or mps."
        ) from error
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise DeviceUnavailable(
            "this machine has no such device, or PyTorch was built without it",
            received=name,
            hint="Set SAM2_DEVICE to auto or cpu.",
        )
    return device


def choose_dtype(wanted: str, device: torch.device) -> str:
    """Return the encoder's precision: as wanted, or for ``auto`` bfloat16 on CUDA that has it."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that the memory of some device is used up."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text)


def _keep_residuals_exact(trunk: Any) -> None:
    """Keep what Hiera's blocks add up in float32 under autocast.

    Where a block widens its features, the linear layer on the shortcut returns bfloat16, and everything
    added from there on is rounded with it.
    """
    for block in trunk.blocks:
        if block.dim != block.dim_out:
            block.proj.register_forward_hook(lambda module, inputs, output: output.float())


def _points_of(
    prompt: Prompt, shape_hw: tuple[int, ...], image_size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor] | None:
    points, labels = np.asarray(prompt.points_xy), np.asarray(prompt.labels)
    if prompt.box_xyxy is not None:
        # A box is two points with labels of their own, before the clicks, as the model was trained.
        points = np.concatenate([np.array(prompt.box_xyxy, np.float32).reshape(2, 2), points])
        labels = np.concatenate([np.array([2, 3], labels.dtype), labels])
    if len(points) == 0:
        if prompt.is_placed:
            return None
        # A name alone comes with an empty place, as in training.
        points, labels = np.zeros((1, 2), np.float32), np.array([-1], np.int32)
    # Divided and multiplied in this order and precision, coordinates round as upstream's do.
    extent = torch.tensor([shape_hw[1], shape_hw[0]], dtype=torch.float32)
    coordinates = torch.tensor(points, dtype=torch.float32) / extent * image_size
    return coordinates[None].to(device), torch.tensor(labels, dtype=torch.int32)[None].to(device)


def _mask_logits_of(prompt: Prompt, size_hw: tuple[int, int], device: torch.device) -> torch.Tensor | None:
    if prompt.mask is None:
        return None
    logits = torch.tensor(prompt.mask, dtype=torch.float32)[None, None] * (2 * MASK_PROMPT_LOGIT)
    resized = functional.interpolate(
        logits - MASK_PROMPT_LOGIT, size=size_hw, mode="bilinear", align_corners=False, antialias=True
    )
    return resized.to(device)
