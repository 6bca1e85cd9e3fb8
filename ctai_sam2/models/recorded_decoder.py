"""The mask decoder as a recording: the same operations, run by PyTorch without Python in between.

Python lets go of its lock for each operation of PyTorch, and asks for it again afterwards. Where other
threads of the process work, as in a service that handles requests, the decoder waits for them
at each of the longer ones. A recording is one call, and what Python does between operations, a fifth of
the time of a prompt, is not done.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctai_sam2.models.mask_decoder import predict_candidates

logger = logging.getLogger(__name__)

Recording = Callable[..., tuple[Tensor, Tensor]]

_RUNS_UNTIL_SETTLED = 3
"""PyTorch looks at the first run of a recording, and rewrites it for the second."""


class RecordedDecoder:
    """`predict_candidates` for one decoder, recorded for few tokens and for many.

    Parameters
    ----------
    decoder : torch.nn.Module
        Upstream's with a `FewTokensTransformer`, on a CPU; the recording uses its weights.
    places : Tensor, shape (1, C, h, w)
        Position encoding.
    embedding : Tensor, shape (1, C, h, w)
        Of any slice.
    high_res : sequence of two Tensor
        Its finer maps.

    Raises
    ------
    RecordingRefused
        If this PyTorch cannot record, or a recording computes something else in even one bit.
    """

    def __init__(self, decoder: Any, places: Tensor, embedding: Tensor, high_res: Sequence[Tensor]) -> None:
        if sys.version_info >= (3, 14):
            raise RecordingRefused("PyTorch does not record in this version of Python")
        own = decoder.num_mask_tokens + 1 + bool(decoder.pred_obj_scores)
        self._most_few = max(0, decoder.transformer.most_tokens - own)
        steps = _Steps(decoder, places).eval()
        maps = [embedding, *high_res]
        few = self._most_few
        self._many = _record(steps, maps, tokens=few + 1, other_tokens=few + 20)
        self._few = _record(steps, maps, tokens=1, other_tokens=few) if few else self._many

    def __call__(
        self, embedding: Tensor, sparse: Tensor, dense: Tensor, high_res: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return logits (1, 3, 4 h, 4 w) and predicted IoU (1, 3), bit for bit as `predict_candidates`."""
        run = self._few if sparse.shape[1] <= self._most_few else self._many
        return run(embedding, sparse, dense, *high_res)


class RecordingRefused(Exception):
    """There is no recording that computes the same."""


class _Steps(nn.Module):
    places: Tensor

    def __init__(self, decoder: Any, places: Tensor) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("places", places)

    def forward(
        self, embedding: Tensor, sparse: Tensor, dense: Tensor, finest: Tensor, finer: Tensor
    ) -> tuple[Tensor, Tensor]:
        return predict_candidates(self.decoder, embedding, self.places, sparse, dense, [finest, finer])


def _record(steps: _Steps, maps: Sequence[Tensor], *, tokens: int, other_tokens: int) -> Recording:
    """Record the steps with one number of tokens, and hold it against them with that and another."""
    # What was made in inference mode cannot be recorded.
    top, finest, finer = (value.clone() for value in maps)
    generator = torch.Generator().manual_seed(0)
    examples = []
    for count in (tokens, other_tokens):
        sparse = torch.randn(1, count, top.shape[1], generator=generator)
        dense = torch.randn(1, top.shape[1], 1, 1, generator=generator).expand(-1, -1, *top.shape[2:])
        examples.append((top, sparse, dense, finest, finer))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Recording warns that it is to be replaced, and of every size that it takes for fixed.
            warnings.simplefilter("ignore")
            recording: Recording = torch.jit.trace(steps, examples[0], check_trace=False)  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            for _ in range(_RUNS_UNTIL_SETTLED):
                recording(*examples[0])
            is_same = all(
                torch.equal(recorded, computed)
                for example in examples
                for recorded, computed in zip(recording(*example), steps(*example), strict=True)
            )
    except Exception as error:  # whatever PyTorch's compiler raises
        raise RecordingRefused(f"recording failed: {type(error).__name__}") from error
    if not is_same:
        raise RecordingRefused("the recording rounds otherwise")
    return recording
