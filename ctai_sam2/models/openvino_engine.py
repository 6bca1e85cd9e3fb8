"""OpenVINO as the engine of a network: exported from the loaded weights, kept by their digest."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ctai_sam2._version import __version__
from ctai_sam2.image.hashing import hash_content
from ctai_sam2.models.cache_store import require_private
from ctai_sam2.models.engine import EngineRefused
from ctai_sam2.models.sam2_inference import DecoderGraph, EncoderGraph, Network

if TYPE_CHECKING:
    from ctai_sam2.models.sam2_inference import Embedding

KEPT_EXPORTS: Final = 4
"""Exported networks kept, those not used for longest dropped first; 160 MB each for SAM 2.1 tiny."""

_EXAMPLE_TOKENS: Final = 3


class OpenVinoEngine:
    """Encoder and decoder of a network in OpenVINO, on the CPU.

    The encoder uses as many threads as PyTorch; the decoder computes each prompt in one, and several at the
    same time.

    Parameters
    ----------
    network : Network
        Loaded, on a CPU; its weights are exported.
    weights_sha256 : str
        Of its weights.
    folder : Path, optional
        Where exports are kept, private to the user; exported anew each time without.

    Raises
    ------
    EngineRefused
        If this CPU cannot compute in the network's precision.
    InputError
        If others can write to the folder.
    """

    name = "openvino"

    def __init__(self, network: Network, weights_sha256: str, folder: Path | None) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        if network.dtype == "bfloat16" and "BF16" not in core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise EngineRefused("this CPU does not compute in bfloat16", hint="Set SAM2_DTYPE to float32.")
        key = hash_content(weights_sha256, network.description, __version__, str(openvino.__version__))
        with _exported(openvino, network, folder, key[:32]) as place:
            threads = torch.get_num_threads()
            precision = "bf16" if network.dtype == "bfloat16" else "f32"
            self._encoder = _Requests(core, place / "encoder.xml", precision, threads=threads, streams=1)
            # Bfloat16 is for the encoder alone, as in PyTorch.
            self._decoder = _Requests(core, place / "decoder.xml", "f32", threads=threads, streams=threads)

    def encode(self, batch: Tensor) -> list[Tensor]:
        """See `Engine.encode`."""
        return self._encoder.run([batch])

    def decode(self, embedding: Embedding, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """See `Engine.decode`."""
        logits, ious = self._decoder.run([*embedding.high_res, embedding.top, sparse, dense])
        return logits, ious


class _Requests:
    """A compiled network, and as many requests to it as there are callers at the same time."""

    def __init__(self, core: Any, path: Path, precision: str, *, threads: int, streams: int) -> None:
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
        }
        self._compiled = core.compile_model(core.read_model(path), "CPU", options)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        try:
            request = self._free.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            arrays = [np.ascontiguousarray(value.numpy()) for value in inputs]
            found = request.infer(arrays, share_inputs=True, share_outputs=True)
            # Copies, because the next caller of this request gets its memory.
            return [torch.from_numpy(np.array(value)) for value in found.values()]
        finally:
            self._free.put(request)


def import_openvino() -> Any:
    """Import OpenVINO without what it would report to its makers over the network."""
    name = "openvino_telemetry"
    was = sys.modules.get(name)
    # None makes the import fail, and OpenVINO then takes the stub that it comes with.
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if was is None:
            del sys.modules[name]
        else:
            sys.modules[name] = was
    return openvino


@contextlib.contextmanager
def _exported(openvino: Any, network: Network, folder: Path | None, key: str) -> Iterator[Path]:
    """Yield a folder with the exported network: a kept one, or one that is exported now."""
    if folder is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as passing:
            _export(openvino, network, Path(passing))
            yield Path(passing)
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    require_private(folder)
    place = folder / key
    if not place.is_dir():
        staged = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        try:
            _export(openvino, network, staged)
            # In one step; where another process was faster, its export is as good.
            with contextlib.suppress(OSError):
                staged.rename(place)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    os.utime(place)
    try:
        yield place
    except Exception:
        # Whether the export or something else is damaged: next time it is made anew.
        shutil.rmtree(place, ignore_errors=True)
        raise
    drop_oldest(folder, keep=KEPT_EXPORTS)


def drop_oldest(folder: Path, *, keep: int) -> None:
    """Delete exports but those used last."""
    places = [place for place in folder.iterdir() if place.is_dir() and not place.name.startswith(".")]
    for place in sorted(places, key=lambda one: one.stat().st_mtime, reverse=True)[keep:]:
        shutil.rmtree(place, ignore_errors=True)


def _export(openvino: Any, network: Network, place: Path) -> None:
    size = network.image_size
    with torch.no_grad():
        image = torch.zeros(1, 3, size, size)
        encoder = EncoderGraph(network).eval()
        maps = encoder(image)
        channels, height, width = maps[-1].shape[1:]
        sparse = torch.zeros(1, _EXAMPLE_TOKENS, channels)
        dense = torch.zeros(1, channels, height, width)
        decoder_inputs = (*maps, sparse, dense)
        # A click has one token, a box and many points have more.
        shapes = [list(value.shape) for value in decoder_inputs]
        shapes[3][1] = -1
        _save(openvino, encoder, (image,), [list(image.shape)], place / "encoder.xml")
        _save(openvino, DecoderGraph(network).eval(), decoder_inputs, shapes, place / "decoder.xml")


def _save(
    openvino: Any, graph: nn.Module, example: tuple[Tensor, ...], shapes: list[list[int]], path: Path
) -> None:
    with warnings.catch_warnings():
        # Tracing warns of each branch that it takes for good; whether that is right, the masks show.
        warnings.simplefilter("ignore")
        model = openvino.convert_model(graph, example_input=example, input=shapes)
    openvino.save_model(model, path, compress_to_fp16=False)
