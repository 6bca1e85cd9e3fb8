"""What a training run does, step by step: phases, sizes, learning rates."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any, Final, Literal

from ctai_sam2.errors import InputError

PhaseKind = Literal["dense", "prompt"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training with one image size and one kind of step.

    Attributes
    ----------
    name : str
        Shown in the log.
    kind : {"dense", "prompt"}
        Per-pixel classification of the encoder's features, or prompted masks.
    image_size : int
        Side of the network input in pixels, a multiple of 32.
    steps : int
        Optimiser steps.
    images : int
        Images per step.
    objects : int
        Prompted objects per image; not read in a dense phase.
    rounds : int
        Maximum number of corrective rounds after the first prompt.
    learning_rate, final_learning_rate : float
        Learning rates at the start and the end of the cosine.
    warmup_steps : int
        Steps of linear warm-up.
    dense_weight : float
        Weight of the per-pixel classification relative to the prompted masks; not read in a dense phase.
    real_share : float
        Share of images drawn from real data, where there is any.
    tissue_share : float
        Share of phantoms whose tissue densities are moved by `ctai_sam2.training.augmentation.vary_tissues`.
    """

    name: str
    kind: PhaseKind
    image_size: int
    steps: int
    images: int
    objects: int = 1
    rounds: int = 0
    learning_rate: float
    final_learning_rate: float
    warmup_steps: int = 0
    dense_weight: float = 0.0
    real_share: float = 0.0
    tissue_share: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("dense", "prompt"):
            raise InputError("the kind of a phase is not known", received=self.kind)
        if self.image_size < 32 or self.image_size % 32:
            raise InputError("image_size must be a positive multiple of 32", received=self.image_size)
        if min(self.steps, self.images, self.objects) < 1 or self.rounds < 0 or self.warmup_steps < 0:
            raise InputError("a phase needs at least one step, image and object", received=self.name)

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step of this phase.

        Parameters
        ----------
        step : int
            0-based step within the phase.

        Returns
        -------
        float
            Linear warm-up, then half a cosine.

        Examples
        --------
        >>> phase = Phase(name="a", kind="dense", image_size=64, steps=10, images=1,
        ...               learning_rate=1.0, final_learning_rate=0.0)
        >>> phase.rate_at(0), round(phase.rate_at(5), 3)
        (1.0, 0.5)
        """
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        share = 0.5 * (1.0 + math.cos(math.pi * min(step, self.steps) / self.steps))
        return warm * (self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A whole run.

    Attributes
    ----------
    model : str
        Configuration name or path for `ctai_sam2.models.sam2_network.build_sam2`.
    phases : tuple of Phase
        In order.
    axial_phantoms, sagittal_phantoms : int
        Size of the phantom bank.
    bank_size_px : int
        Side of a bank image in pixels.
    ema_decay : float
        Decay of the running mean of the weights per step.
    weight_decay, clip_norm : float
        AdamW's weight decay; maximum gradient norm.
    bf16 : bool
        Whether the encoder runs in bfloat16 autocast.
    """

    model: str = "sam2_ct_nano"
    phases: tuple[Phase, ...]
    axial_phantoms: int
    sagittal_phantoms: int
    bank_size_px: int = 448
    ema_decay: float = 0.998
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    bf16: bool = False

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def locate(self, step: int) -> tuple[int, int]:
        """Return (phase index, step within it) of a global 0-based step."""
        for index, phase in enumerate(self.phases):
            if step < phase.steps:
                return index, step
            step -= phase.steps
        raise InputError("the step lies beyond the schedule", received=step)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return dataclasses.asdict(self)

    def sha256(self) -> str:
        """Return the digest of the configuration's canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


NANO: Final = TrainingConfig(
    bf16=True,
    axial_phantoms=1300,
    sagittal_phantoms=500,
    phases=(
        Phase(
            name="dense-256", kind="dense", image_size=256, steps=1000, images=6,
            learning_rate=1.2e-3, final_learning_rate=3e-4, warmup_steps=100,
        ),
        Phase(
            name="prompt-256", kind="prompt", image_size=256, steps=1500, images=3, objects=10, rounds=1,
            learning_rate=8e-4, final_learning_rate=2e-4, warmup_steps=100, dense_weight=0.3,
        ),
        Phase(
            name="prompt-384", kind="prompt", image_size=384, steps=2000, images=2, objects=10, rounds=1,
            learning_rate=4e-4, final_learning_rate=4e-5, warmup_steps=50, dense_weight=0.15,
        ),
        Phase(
            name="varied-384", kind="prompt", image_size=384, steps=600, images=2, objects=10, rounds=1,
            learning_rate=2.5e-4, final_learning_rate=6e-5, warmup_steps=20, dense_weight=0.15,
            tissue_share=0.7,
        ),
        Phase(
            name="varied-512", kind="prompt", image_size=512, steps=1400, images=2, objects=10, rounds=2,
            learning_rate=2e-4, final_learning_rate=5e-6, warmup_steps=20, dense_weight=0.1,
            tissue_share=0.7,
        ),
    ),
)  # fmt: skip
"""The schedule of the shipped sam2-ct-nano: phantoms alone, so that every real patient is unseen."""

SMOKE: Final = TrainingConfig(
    axial_phantoms=1,
    sagittal_phantoms=1,
    bank_size_px=64,
    phases=(
        Phase(
            name="dense", kind="dense", image_size=64, steps=1, images=1,
            learning_rate=1e-3, final_learning_rate=1e-3,
        ),
        Phase(
            name="prompt", kind="prompt", image_size=64, steps=2, images=1, objects=2, rounds=1,
            learning_rate=1e-3, final_learning_rate=1e-4, dense_weight=0.5,
        ),
    ),
)  # fmt: skip
"""Three steps on two phantoms, to see that the pipeline runs."""

PRESETS: Final = {"nano": NANO, "smoke": SMOKE}
