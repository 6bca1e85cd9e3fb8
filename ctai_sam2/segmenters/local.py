"""SAM2 in this process, through the official ``sam2`` classes.

Encoder and decoder are called directly instead of through upstream's
``SAM2ImagePredictor``, which is stateful, not safe in threads and right only at
an image size of 1024. The arithmetic is the same: with the same weights, image
and prompt the masks are identical (held by a test).

Lock order: ``_encode_lock`` before ``_state_lock``; decoding takes neither for
long, so clicks on a known slice do not wait for another slice's encoder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctai_sam2._version import __version__
from ctai_sam2.errors import CtaiError, DeviceUnavailable, InputError, Unavailable, WeightsError
from ctai_sam2.segmenters.base import require_image, require_request
from ctai_sam2.segmenters.weights import EMBEDDED, Checkpoint, ModelStore, require_digest, require_sha256
from ctai_sam2.types import Health, ModelIdentity, Prediction, Prompt, Window

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MASK_PROMPT_LOGIT = 10.0
"""A mask prompt becomes logits of plus and minus this, as upstream turns given masks into outputs."""

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

DType = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class _Embedding:
    top: torch.Tensor
    high_res: list[torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    model: Any
    device: torch.device
    autocast: bool
    dense_pe: torch.Tensor
    identity: ModelIdentity


class LocalSegmenter:
    """SAM2 in this process; keeps the contract of `Segmenter` and of `Prefetching`.

    Nothing is loaded, and torch is not imported, before the first prediction, `warm_up` or `identity`.

    Parameters
    ----------
    weights : str or Path
        A name from the registry (``sam2-ct-nano``, ``sam2.1_hiera_tiny``, ``medsam2``, ...), or a checkpoint
        file: safetensors, or Meta's format ``{"model": state}``.
    architecture : str, optional
        Name of the registered checkpoint that a file shares configuration and image size with; told from
        the file's name when omitted.
    config : str or Path, optional
        SAM2 model configuration, by name or as a YAML file, instead of the registered one.
    image_size : int, optional
        Side in pixels of the network's input; as registered or configured when omitted.
    device : str
        ``auto`` (CUDA, else MPS, else CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    dtype : {"auto", "float32", "bfloat16"}
        Precision of the encoder; the decoder always runs in float32. ``auto`` is bfloat16 on CUDA that has
        it, else float32.
    max_embeddings : int
        Slices whose embedding is kept, least recently used dropped first; 16.8 MB each at 1024 pixels.
    num_threads : int, optional
        CPU threads of torch, a setting of the whole process; unset leaves it alone.
    sha256 : str, optional
        Expected digest of the checkpoint; that of the registry when omitted.
    store : ModelStore, optional
        Where named checkpoints lie; the user's data folder when omitted.

    Raises
    ------
    InputError
        If a name is unknown, a file has no configuration, or a number is out of range.
    """

    backend = "local"

    def __init__(
        self,
        weights: str | Path = EMBEDDED,
        *,
        architecture: str | None = None,
        config: str | Path | None = None,
        image_size: int | None = None,
        device: str = "auto",
        dtype: DType = "auto",
        max_embeddings: int = 16,
        num_threads: int | None = None,
        sha256: str | None = None,
        store: ModelStore | None = None,
    ) -> None:
        if max_embeddings < 1:
            raise InputError("at least one embedding must be kept", received=max_embeddings)
        if num_threads is not None and num_threads < 1:
            raise InputError("at least one thread is needed", received=num_threads)
        if dtype not in ("auto", "float32", "bfloat16"):
            raise InputError("unknown precision", received=dtype, hint="Use auto, float32 or bfloat16.")
        self._store = store or ModelStore()
        self._file: Path | None = None
        self._checkpoint: Checkpoint | None
        if isinstance(weights, str) and (known := self._store.find(weights)) is not None:
            self._checkpoint, self._name = known, known.name
        else:
            self._file = _require_path(weights, self._store)
            self._checkpoint = self._store.find_file_name(self._file.name)
            if self._checkpoint is None and architecture is not None:
                self._checkpoint = self._store.get(architecture)
            self._name = self._file.stem
        if config is None:
            if self._checkpoint is None:
                raise InputError(
                    "a checkpoint of one's own needs an architecture or a model configuration",
                    received=self._name,
                    hint="Set SAM2_MODEL to the model it derives from, or SAM2_MODEL_CONFIG_FILE.",
                )
            config = self._checkpoint.config
            image_size = image_size or self._checkpoint.image_size
        self._config = config
        self._image_size = image_size
        self._expected = require_sha256(sha256) if sha256 else None
        self._device_name = device
        self._dtype: DType = dtype
        self._num_threads = num_threads
        self._max_embeddings = max_embeddings
        self._encode_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._load_lock = threading.Lock()
        self._embeddings: OrderedDict[str, _Embedding] = OrderedDict()
        self._loaded: _Loaded | None = None
        self._failure: str | None = None
        self._closed = False

    @property
    def identity(self) -> ModelIdentity:
        """The model, its weights' digest, device and precision; loads it if that was not done."""
        return self._require_loaded().identity

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Segment what the prompt points at; see `Segmenter.predict`.

        A mask prompt is turned into logits (+10 inside, -10 outside) and resized to a quarter of the
        model's image size with antialiased bilinear interpolation, the form in which SAM2 takes its own
        previous answer.

        Raises
        ------
        InputError
            If the image or the prompt cannot be used.
        WeightsMissing, DeviceUnavailable
            If the checkpoint or the device is not there, or its memory is used up.
        WeightsError
            If the checkpoint is damaged or does not fit the configuration.
        """
        started = time.perf_counter()
        image = require_request(image_hw, prompt)
        loaded = self._require_loaded()
        with self._translated_errors(loaded):
            low_res, ious = self._decode(loaded, self._embed(loaded, image), prompt, image.shape)
            masks = _upsample(low_res, (image.shape[0], image.shape[1]))
            scores = ious[0].float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise WeightsError(
                "the model answered with numbers that are not finite",
                received=self._name,
                hint="The checkpoint does not fit its configuration, or float32 is needed on this device.",
            )
        order = np.argsort(-scores, kind="stable")
        return Prediction(
            masks=masks[order],
            scores=np.clip(scores[order], 0.0, 1.0),
            identity=loaded.identity,
            processing_time_ms=(time.perf_counter() - started) * 1000,
            backend=self.backend,
            window=window,
        )

    def embed(self, image_hw: NDArray[np.uint8]) -> None:
        """Compute and keep the embedding of a slice; see `Prefetching.embed`."""
        image = require_image(image_hw)
        loaded = self._require_loaded()
        with self._translated_errors(loaded):
            self._embed(loaded, image)

    def warm_up(self) -> None:
        """Load the model and run encoder and decoder once; see `Prefetching.warm_up`."""
        blank = np.zeros((64, 64), np.uint8)
        self.predict(blank, Prompt.point(32, 32))

    def health(self) -> Health:
        """Whether weights, packages and device are there, without loading the model."""
        loaded = self._loaded
        if self._closed:
            return Health(available=False, backend=self.backend, detail=f"{self._name} is closed.")
        if loaded is not None:
            identity = loaded.identity
            detail = f"{self._name} is loaded on {identity.device} in {identity.dtype}."
            return Health(available=True, backend=self.backend, detail=detail, identity=identity)
        missing = [name for name in ("torch", "sam2") if importlib.util.find_spec(name) is None]
        if missing:
            detail = f"The package {missing[0]} is not installed."
            return Health(available=False, backend=self.backend, detail=detail)
        try:
            self._locate()
        except CtaiError as error:
            return Health(available=False, backend=self.backend, detail=str(error))
        if self._failure is not None:
            return Health(available=False, backend=self.backend, detail=self._failure)
        detail = f"{self._name} is here and will be loaded when first used."
        return Health(available=True, backend=self.backend, detail=detail)

    def close(self) -> None:
        """Drop the model and all embeddings; later predictions raise `Unavailable`."""
        with self._load_lock:
            self._closed = True
            self._loaded = None
        with self._state_lock:
            self._embeddings.clear()

    def __enter__(self) -> LocalSegmenter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _locate(self) -> Path:
        if self._file is not None:
            return self._store.require_file(self._file, self._name)
        return self._store.locate(self._name)

    def _require_loaded(self) -> _Loaded:
        loaded = self._loaded
        if loaded is not None:
            return loaded
        with self._load_lock:
            if self._closed:
                raise Unavailable("the segmenter is closed", hint="Open a new one.")
            if self._loaded is None:
                try:
                    self._loaded = self._load()
                except CtaiError as error:
                    self._failure = str(error)
                    raise
                self._failure = None
            return self._loaded

    def _load(self) -> _Loaded:
        path = self._locate()
        try:
            import torch

            from ctai_sam2.segmenters.sam2_model import build_sam2, load_weights, read_state_dict
        except (ImportError, OSError) as error:  # OSError: a shared library of torch's is missing
            raise Unavailable(
                f"PyTorch or sam2 cannot be imported: {error}", hint="Run ctai-sam2 doctor."
            ) from error
        device = _choose_device(self._device_name)
        dtype = _choose_dtype(self._dtype, device)
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)
        digest = self._store.digest(path)
        expected = self._expected
        if expected is None and self._checkpoint is not None and self._file is None:
            expected = self._store.expected_sha256(self._checkpoint)
        if expected is not None:
            require_digest(digest, expected, self._name)
        with self._translated_errors(None):
            model: Any = build_sam2(self._config, image_size=self._image_size)
            load_weights(model, read_state_dict(path))
            model.requires_grad_(False).eval().to(device)
            with torch.inference_mode():
                dense_pe = model.sam_prompt_encoder.get_dense_pe()
        logger.info("loaded %s on %s in %s", self._name, device, dtype)
        return _Loaded(
            model=model,
            device=device,
            autocast=dtype == "bfloat16",
            dense_pe=dense_pe,
            identity=ModelIdentity(
                name=self._name,
                weights_sha256=digest,
                image_size=int(model.image_size),
                device=str(device),
                dtype=dtype,
                code_version=__version__,
            ),
        )

    def _embed(self, loaded: _Loaded, image: NDArray[np.uint8]) -> _Embedding:
        key = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        found = self._recall(key)
        if found is not None:
            return found
        # One encoder run at a time: it uses every core anyway, and a second request for the same slice
        # finds the first one's result here instead of computing it again.
        with self._encode_lock:
            found = self._recall(key)
            if found is None:
                found = _encode(loaded, image)
                with self._state_lock:
                    if not self._closed:
                        self._embeddings[key] = found
                    while len(self._embeddings) > self._max_embeddings:
                        self._embeddings.popitem(last=False)
            return found

    def _recall(self, key: str) -> _Embedding | None:
        with self._state_lock:
            found = self._embeddings.get(key)
            if found is not None:
                self._embeddings.move_to_end(key)
            return found

    def _decode(
        self, loaded: _Loaded, embedding: _Embedding, prompt: Prompt, shape_hw: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Low-resolution logits (1, 3, s/4, s/4) and predicted IoU (1, 3), in the model's order."""
        import torch

        model = loaded.model
        with torch.inference_mode():
            sparse, dense = model.sam_prompt_encoder(
                points=_points_of(prompt, shape_hw, model.image_size, loaded.device),
                boxes=None,
                masks=_mask_logits_of(prompt, model.sam_prompt_encoder.mask_input_size, loaded.device),
            )
            low_res, ious, _, _ = model.sam_mask_decoder(
                image_embeddings=embedding.top,
                image_pe=loaded.dense_pe,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
                repeat_image=False,
                high_res_features=embedding.high_res,
            )
        return low_res, ious

    @contextmanager
    def _translated_errors(self, loaded: _Loaded | None) -> Iterator[None]:
        """Turn running out of memory, on whatever device, into `DeviceUnavailable`."""
        import torch

        try:
            yield
        except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
            text = str(error).lower()
            scarce = isinstance(error, (MemoryError, torch.OutOfMemoryError))
            if not scarce and "allocate memory" not in text and "out of memory" not in text:
                raise
            with self._state_lock:
                self._embeddings.clear()
            device = loaded.device if loaded else self._device_name
            if str(device).startswith("cuda"):
                torch.cuda.empty_cache()
            raise DeviceUnavailable(
                f"the memory of {device} is used up",
                received=self._name,
                hint="Close other programs, choose a smaller model, or lower SAM2_MAX_EMBEDDINGS.",
            ) from error


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
    import torch
    from torch.nn import functional

    grey = torch.tensor(image_hw, dtype=torch.float32)[None, None] / 255
    if grey.shape[-2:] != (image_size, image_size):
        # The channels are equal until they are normalised: resizing one is enough.
        grey = functional.interpolate(
            grey, size=(image_size, image_size), mode="bilinear", align_corners=False, antialias=True
        )
    mean = torch.tensor(_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(_STD).view(1, 3, 1, 1)
    return grey.expand(1, 3, image_size, image_size).sub(mean).div_(std)


def _encode(loaded: _Loaded, image: NDArray[np.uint8]) -> _Embedding:
    import torch

    model = loaded.model
    batch = prepare_image(image, model.image_size).to(loaded.device)
    with (
        torch.inference_mode(),
        torch.autocast(loaded.device.type, dtype=torch.bfloat16, enabled=loaded.autocast),
    ):
        features = model.forward_image(batch)
        _, flat, _, sizes = model._prepare_backbone_features(features)
        if model.directly_add_no_mem_embed:
            flat[-1] = flat[-1] + model.no_mem_embed
        maps = [level.permute(1, 2, 0).view(1, -1, *size) for level, size in zip(flat, sizes, strict=True)]
        maps = [level.float() for level in maps]
    return _Embedding(top=maps[-1], high_res=maps[:-1])


def _points_of(
    prompt: Prompt, shape_hw: tuple[int, ...], image_size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor] | None:
    import torch

    points, labels = np.asarray(prompt.points_xy), np.asarray(prompt.labels)
    if prompt.box_xyxy is not None:
        # A box is two points with labels of their own, before the clicks, as the model was trained.
        points = np.concatenate([np.array(prompt.box_xyxy, np.float32).reshape(2, 2), points])
        labels = np.concatenate([np.array([2, 3], labels.dtype), labels])
    if len(points) == 0:
        return None
    # Divided and multiplied in this order and precision, coordinates round as upstream's do.
    extent = torch.tensor([shape_hw[1], shape_hw[0]], dtype=torch.float32)
    coordinates = torch.tensor(points, dtype=torch.float32) / extent * image_size
    return coordinates[None].to(device), torch.tensor(labels, dtype=torch.int32)[None].to(device)


def _mask_logits_of(prompt: Prompt, size_hw: tuple[int, int], device: torch.device) -> torch.Tensor | None:
    import torch
    from torch.nn import functional

    if prompt.mask is None:
        return None
    logits = torch.tensor(prompt.mask, dtype=torch.float32)[None, None] * (2 * MASK_PROMPT_LOGIT)
    resized = functional.interpolate(
        logits - MASK_PROMPT_LOGIT, size=size_hw, mode="bilinear", align_corners=False, antialias=True
    )
    return resized.to(device)


def _upsample(low_res: torch.Tensor, shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
    import torch
    from torch.nn import functional

    with torch.inference_mode():
        logits = functional.interpolate(low_res.float(), shape_hw, mode="bilinear", align_corners=False)
        masks: NDArray[np.bool_] = (logits[0] > 0).cpu().numpy()
    return masks


def _choose_device(name: str) -> torch.device:
    import torch

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


def _choose_dtype(wanted: DType, device: torch.device) -> str:
    import torch

    if wanted != "auto":
        return wanted
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def _require_path(weights: str | Path, store: ModelStore) -> Path:
    path = Path(weights).expanduser()
    looks_like_path = isinstance(weights, Path) or path.suffix or len(path.parts) > 1
    if not looks_like_path:
        raise InputError(
            "no checkpoint of that name is known",
            received=str(weights),
            hint=f"Known are {', '.join(store.names)}; or give a file.",
        )
    return path
