"""SAM2 in this process, through the official ``sam2`` classes.

What happens to tensors is in `ctai_sam2.models.sam2_inference`, imported only
once a model is needed; here are loading, keeping embeddings, threads and errors.

The threads in which tensors are computed are those of `ctai_sam2.models.tensor_threads`.

Lock order: ``_encode_lock`` before ``_state_lock``; decoding takes neither for
long, so clicks on a known slice do not wait for another slice's encoder.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from ctai_sam2._version import __version__
from ctai_sam2.errors import CtaiError, DeviceUnavailable, InputError, Unavailable, WeightsError
from ctai_sam2.image.hashing import hash_content
from ctai_sam2.models.engine import EngineChoice, EngineWish, choose_engine
from ctai_sam2.models.protocol import require_image, require_request
from ctai_sam2.models.registry import EMBEDDED, Checkpoint, ModelStore, require_digest, require_sha256
from ctai_sam2.models.tensor_threads import import_torch, run_long, run_short, without_collecting
from ctai_sam2.types import Health, ModelIdentity, Prediction, Prompt, Window
from ctai_sam2.types.context import ClosedByWith
from ctai_sam2.types.slice_follower import no_slice_memory

if TYPE_CHECKING:
    from torch.nn import Module

    from ctai_sam2.models.calibration import Calibration
    from ctai_sam2.models.dense_head import Division
    from ctai_sam2.models.sam2_inference import Embedding, Network
    from ctai_sam2.models.slice_memory import SliceMemory

logger = logging.getLogger(__name__)

_EMBEDDING_BYTES = 16_800_000
"""Of a slice at 1024 pixels in float32."""

DType = Literal["auto", "float32", "bfloat16"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    network: Network
    identity: ModelIdentity
    calibration: Calibration | None
    engine: EngineChoice

    def confidence(self, predicted_iou: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores as they are reported: calibrated where the weights say how."""
        if self.calibration is None:
            return predicted_iou
        return self.calibration.apply(predicted_iou).astype(np.float32)


class LocalSegmenter(ClosedByWith):
    """SAM2 in this process; keeps the contract of `Segmenter` and of `Prefetching`.

    Nothing is loaded, and torch is not imported, before the first prediction, `warm_up` or `identity`.

    Parameters
    ----------
    weights : str or Path
        A name from the registry (``sam2-ct-nano``, ``sam2.1_hiera_tiny``, ``medsam2``, ...), or a checkpoint
        file: safetensors, or Meta's format ``{"model": state}``.
    architecture : str, optional
        Name of the registered checkpoint that a file shares configuration and image size with; inferred
        from the file's name when omitted.
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
        Slices whose embedding is cached, least recently used dropped first, at 16.8 MB each, their size at
        1024 pixels; of a smaller model more slices fit into the same memory.
    num_threads : int, optional
        CPU threads of torch, a setting of the whole process; unset leaves it alone.
    sha256 : str, optional
        Expected digest of the checkpoint; that of the registry when omitted.
    store : ModelStore, optional
        Folder of named checkpoints; the user's data folder when omitted.
    engine : {"torch", "openvino", "auto"}
        What computes encoder and decoder on a CPU; see `ctai_sam2.models.engine`.
    engine_folder : Path, optional
        Where networks exported for an engine are kept.

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
        engine: EngineWish = "torch",
        engine_folder: Path | None = None,
    ) -> None:
        if engine not in get_args(EngineWish):
            raise InputError("no such engine", received=engine, hint="Use torch, openvino or auto.")
        if max_embeddings < 1:
            raise InputError("at least one embedding must be cached", received=max_embeddings)
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
        self._engine_wish: EngineWish = engine
        self._engine_folder = engine_folder
        self._encode_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._load_lock = threading.Lock()
        self._embeddings: LRUCache[str, Embedding] = LRUCache(
            max_embeddings * _EMBEDDING_BYTES, getsizeof=_bytes_of
        )
        self._divisions: LRUCache[str, Division] = LRUCache(max_embeddings)
        self._loaded: _Loaded | None = None
        self._failure: str | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"LocalSegmenter({self._name})"

    @property
    def identity(self) -> ModelIdentity:
        """The model, its weights' digest, device and precision; loads it if that was not done."""
        return self._require_loaded().identity

    @property
    def engine(self) -> EngineChoice:
        """What computes the network, and why not another engine; loads the model if that was not done."""
        return self._require_loaded().engine

    @property
    def dense_head(self) -> Module | None:
        """The `DenseUNet` of the network, on its device, where the weights have one; loads the model."""
        return self._require_loaded().network.dense_head

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Segment what the prompt points at; see `Segmenter.predict`.

        A mask prompt is turned into logits (+10 inside, -10 outside) and resized to a quarter of the
        model's image size with antialiased bilinear interpolation, the form in which SAM2 takes its own
        previous prediction. Scores are the predicted IoU, or what the weights' own calibration makes of it.

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
        shape_hw = (image.shape[0], image.shape[1])
        loaded = self._require_loaded()
        is_dense = not prompt.is_placed and prompt.structure in loaded.network.dense_structures
        with self._translated_errors():
            if is_dense and prompt.structure is not None:
                division = self._divide(loaded.network, image)
                masks = division.mask(prompt.structure)[None]
                scores = np.array([division.scores[prompt.structure]], np.float32)
            else:
                embedding = self._embed(loaded.network, image)
                masks, scores = _decode(loaded.network, embedding, prompt, shape_hw)
        if not np.isfinite(scores).all():
            raise WeightsError(
                "the model returned scores that are not finite",
                received=self._name,
                hint="The checkpoint does not fit its configuration, or float32 is needed on this device.",
            )
        order = np.argsort(-scores, kind="stable")
        return Prediction(
            masks=masks[order],
            scores=scores if is_dense else loaded.confidence(np.clip(scores[order], 0.0, 1.0)),
            identity=loaded.identity,
            processing_time_ms=(time.perf_counter() - started) * 1000,
            backend=self.backend,
            window=window,
        )

    def embed(self, image_hw: NDArray[np.uint8]) -> None:
        """Compute and keep the embedding of a slice; see `Prefetching.embed`."""
        image = require_image(image_hw)
        loaded = self._require_loaded()
        with self._translated_errors():
            self._embed(loaded.network, image)

    def embed_many(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """Compute and keep the embeddings of several slices in one run; see `BatchEmbedding.embed_many`."""
        checked = {hash_content(image): image for image in map(require_image, images)}
        loaded = self._require_loaded()
        with self._translated_errors(), self._encode_lock:
            missing = {key: image for key, image in checked.items() if self._recall(key) is None}
            if missing:
                network, slices = loaded.network, list(missing.values())
                for key, found in zip(
                    missing, _encode_apart(network, lambda: network.encode_many(slices)), strict=True
                ):
                    self._keep(key, found)

    @property
    def has_slice_memory(self) -> bool:
        """Whether the network has a trained memory; those trained here have none."""
        from ctai_sam2.models.sam2_network import structure_names

        return not structure_names(self._config)

    def open_slice_memory(self) -> SliceMemory:
        """Return SAM2's memory with the weights of this segmenter."""
        if not self.has_slice_memory:
            raise no_slice_memory(self._name)
        from ctai_sam2.models.sam2_network import build_sam2
        from ctai_sam2.models.slice_memory import VIDEO_PREDICTOR, SliceMemory

        network = self._require_loaded().network
        with self._translated_errors():
            predictor = build_sam2(self._config, image_size=self._image_size, target=VIDEO_PREDICTOR)
            network.share_weights_with(predictor)
        return SliceMemory(predictor, self._translated_errors)

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
            self._divisions.clear()

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
                    with without_collecting():
                        self._loaded = run_long(self._load)
                except CtaiError as error:
                    self._failure = str(error)
                    raise
                self._failure = None
            return self._loaded

    def _load(self) -> _Loaded:
        path = self._locate()
        try:
            import_torch()
            import torch

            from ctai_sam2.models.sam2_inference import Network, choose_device, choose_dtype
            from ctai_sam2.models.sam2_network import (
                attach_dense_head,
                build_sam2,
                load_weights,
                read_calibration,
                read_state_dict,
            )
        except (ImportError, OSError) as error:  # OSError: a shared library of torch's is missing
            raise Unavailable(
                f"PyTorch or sam2 cannot be imported: {error}", hint="Run ctai-sam2 doctor."
            ) from error
        device = choose_device(self._device_name)
        dtype = choose_dtype(self._dtype, device)
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)
        digest = self._store.digest(path)
        expected = self._expected
        if expected is None and self._checkpoint is not None and self._file is None:
            expected = self._store.expected_sha256(self._checkpoint)
        if expected is not None:
            require_digest(digest, expected, self._name)
        with self._translated_errors():
            model = build_sam2(self._config, image_size=self._image_size)
            state = read_state_dict(path)
            attach_dense_head(model, state)
            load_weights(model, state)
            network = Network(model, device=device, dtype=dtype)
            calibration = read_calibration(path)
        engine = choose_engine(network, self._engine_wish, weights_sha256=digest, folder=self._engine_folder)
        logger.info("loaded %s on %s in %s, computed by %s", self._name, device, dtype, engine.name)
        identity = ModelIdentity(
            name=self._name,
            weights_sha256=digest,
            image_size=network.image_size,
            device=str(device) if engine.name == "torch" else f"{device} ({engine.name})",
            dtype=dtype,
            code_version=__version__,
            structures=network.structures,
        )
        return _Loaded(network=network, identity=identity, calibration=calibration, engine=engine)

    def _embed(self, network: Network, image: NDArray[np.uint8]) -> Embedding:
        key = hash_content(image)
        found = self._recall(key)
        if found is not None:
            return found
        # One encoder run at a time: it uses every core anyway, and a second request for the same slice
        # finds the first one's result here instead of computing it again.
        with self._encode_lock:
            found = self._recall(key)
            if found is None:
                found = _encode_apart(network, lambda: network.encode(image))
                self._keep(key, found)
            return found

    def _divide(self, network: Network, image: NDArray[np.uint8]) -> Division:
        """Divide a slice with the dense head, once for as long as it is in memory."""
        key = hash_content(image)
        with self._encode_lock:
            with self._state_lock:
                found = self._divisions.get(key)
            if found is None:
                found = _encode_apart(network, lambda: network.divide(image))
                with self._state_lock:
                    if not self._closed:
                        self._divisions[key] = found
            return found

    def _keep(self, key: str, embedding: Embedding) -> None:
        with self._state_lock:
            is_first = not self._embeddings
            if not self._closed:
                self._embeddings[key] = embedding
        if is_first:
            _release_freed_memory()

    def _recall(self, key: str) -> Embedding | None:
        with self._state_lock:
            return self._embeddings.get(key)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Turn running out of memory, on whatever device, into `DeviceUnavailable`."""
        import torch

        from ctai_sam2.models.sam2_inference import is_out_of_memory

        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            with self._state_lock:
                self._embeddings.clear()
            self._divisions.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            device = self._loaded.network.device if self._loaded else self._device_name
            raise DeviceUnavailable(
                f"the memory of {device} is used up",
                received=self._name,
                hint="Close other programs, choose a smaller model, or lower SAM2_MAX_EMBEDDINGS.",
            ) from error


def _release_freed_memory() -> None:
    """Return to the system what loading and the first run freed, some 50 MB, which glibc would keep."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def _bytes_of(embedding: Embedding) -> int:
    return sum(level.nbytes for level in (embedding.top, *embedding.high_res))


def _encode_apart(network: Network, work: Callable[[], T]) -> T:
    return run_long(work) if network.device.type == "cpu" else work()


def _decode(
    network: Network, embedding: Embedding, prompt: Prompt, shape_hw: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    from ctai_sam2.models.sam2_inference import upsample_masks

    def work() -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        logits, ious = network.decode(embedding, prompt, shape_hw)
        return upsample_masks(logits, shape_hw), ious[0].float().cpu().numpy()

    return run_short(work) if network.device.type == "cpu" else work()


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
