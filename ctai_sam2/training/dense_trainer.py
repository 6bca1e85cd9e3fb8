"""Training of the dense head: steps, checkpoints, a running mean of the weights."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F

from ctai_sam2.errors import InputError
from ctai_sam2.models.dense_head import DenseUNet
from ctai_sam2.training.bank import LabelledImage
from ctai_sam2.training.dense_batches import DenseBatches

_LOGGER = logging.getLogger(__name__)
_LOG_EVERY: Final = 20
_SAVE_EVERY: Final = 60
_EMA_DECAY: Final = 0.99
_DICE_WEIGHT: Final = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensePhase:
    """A stretch of training.

    Attributes
    ----------
    image_size, steps, images : int
        Side of the input in pixels, optimiser steps, images a step.
    learning_rate, final_learning_rate : float
        Ends of the cosine.
    real_share : float
        Share of real slices, where there are any.
    zoom_share : float
        Share of images cut out about the spine.
    """

    image_size: int
    steps: int
    images: int
    learning_rate: float
    final_learning_rate: float
    real_share: float = 0.0
    zoom_share: float = 0.0
    warmup_steps: int = 30

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a 0-based step of this phase."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        share = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return warm * (self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseSchedule:
    """A whole run.

    Attributes
    ----------
    phases : tuple of DensePhase
        In order.
    phantoms, bank_size_px : int
        How many phantoms, and the side of each in pixels.
    further : int
        How many of `FURTHER_KINDS` in addition; each is seen twice as often.
    """

    phases: tuple[DensePhase, ...]
    phantoms: int = 1200
    bank_size_px: int = 448
    further: int = 0


DENSE_SCHEDULES: Final = {
    "phantoms": DenseSchedule(
        phases=(
            DensePhase(
                image_size=320, steps=300, images=4, learning_rate=3e-3, final_learning_rate=2.8e-3
            ),
            DensePhase(
                image_size=256, steps=1020, images=4, learning_rate=2.8e-3,
                final_learning_rate=6e-4, warmup_steps=1,
            ),
        )
    ),
    "close": DenseSchedule(
        phases=(
            DensePhase(
                image_size=320, steps=1600, images=4, learning_rate=1.6e-3, final_learning_rate=3e-5,
                zoom_share=0.5, warmup_steps=20,
            ),
        )
    ),
    "unlabelled": DenseSchedule(
        phases=(
            DensePhase(
                image_size=320, steps=600, images=4, learning_rate=2e-4, final_learning_rate=1e-5,
                real_share=0.4, zoom_share=0.5, warmup_steps=15,
            ),
        ),
        further=240,
    ),
    "real": DenseSchedule(
        phases=(
            DensePhase(
                image_size=320, steps=90, images=4, learning_rate=5e-4, final_learning_rate=2e-5,
                real_share=0.5, warmup_steps=5,
            ),
        )
    ),
    "smoke": DenseSchedule(
        phases=(
            DensePhase(
                image_size=64, steps=2, images=2, learning_rate=1e-3, final_learning_rate=1e-4,
                real_share=0.5,
            ),
        ),
        phantoms=2,
        bank_size_px=64,
    ),
}  # fmt: skip
"""``phantoms`` from random weights, then ``close`` from those: half of the images cut out about the spine.

``unlabelled`` continues with `FURTHER_KINDS` and slices without masks (`pseudo_labels`), ``real`` with slices
of one's own; ``smoke`` shows that the pipeline runs.
"""


def dense_loss(logits: torch.Tensor, targets: torch.Tensor, partial: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of shares on phantoms, of the sum of allowed classes on real slices; Dice on phantoms.

    Parameters
    ----------
    logits : torch.Tensor
        float32 (B, K, h, w).
    targets, partial : torch.Tensor
        From `DenseBatches.batch`.
    """
    shares = targets.float() / 4
    logs = F.log_softmax(logits, dim=1)
    exact = -(shares * logs).sum(dim=1).mean(dim=(1, 2))
    allowed = shares.clamp(max=1) > 0
    inside = torch.logsumexp(logs.masked_fill(~allowed, -30.0), dim=1)
    loss = torch.where(partial, -inside.mean(dim=(1, 2)), exact).mean()
    if bool((~partial).any()):
        chances, wanted = logs[~partial].exp(), shares[~partial]
        both = (chances * wanted).sum(dim=(0, 2, 3))
        sizes = chances.sum(dim=(0, 2, 3)) + wanted.sum(dim=(0, 2, 3))
        present = wanted.sum(dim=(0, 2, 3)) > 0
        loss = loss + _DICE_WEIGHT * (1 - (2 * both[present] + 1) / (sizes[present] + 1)).mean()
    return loss


class DenseTrainer:
    """Trains a `DenseUNet` and keeps a running mean of its weights.

    Parameters
    ----------
    phases : sequence of DensePhase
        In order.
    folder : pathlib.Path
        Where checkpoint and log go; created.
    phantoms, real : sequence of LabelledImage
        See `DenseBatches`.
    seed : int
        Of weights and batches.
    workers : int
        Processes preparing batches; 0 for none.
    device : torch.device
        Where the network runs.
    """

    def __init__(
        self,
        phases: Sequence[DensePhase],
        folder: Path,
        *,
        phantoms: Sequence[LabelledImage],
        real: Sequence[LabelledImage] = (),
        seed: int = 0,
        workers: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self._phases = tuple(phases)
        self._folder = folder
        self._phantoms, self._real = phantoms, real
        self._seed, self._workers = seed, workers
        self.device = device or torch.device("cpu")
        self._bf16 = self.device.type == "cuda"
        torch.manual_seed(seed)
        self.model = DenseUNet().to(self.device)
        self.mean = copy.deepcopy(self.model).eval().requires_grad_(False)
        self._optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=1e-3)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)

    def start_from(self, checkpoint: Path) -> None:
        """Take over the mean weights of another run; steps and optimiser begin anew.

        Raises
        ------
        InputError
            If it is no checkpoint of a dense head.
        """
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)["mean"]
            self.model.load_state_dict(state)
        except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            raise InputError("not a checkpoint of a dense head", received=checkpoint.name) from error
        self.mean.load_state_dict(state)

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        path = self._folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.mean.load_state_dict(state["mean"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])

    def run(self) -> None:
        """Train to the end of the schedule."""
        begun = 0
        for number, phase in enumerate(self._phases):
            if self.step < begun + phase.steps:
                self._run_phase(phase, begun, number)
            begun += phase.steps
        self._save()

    def _run_phase(self, phase: DensePhase, begun: int, number: int) -> None:
        batches = DenseBatches(
            phantoms=self._phantoms,
            real=self._real,
            size_px=phase.image_size,
            images=phase.images,
            real_share=phase.real_share,
            zoom_share=phase.zoom_share,
            seed=self._seed,
            first_step=self.step,
        )
        loader = torch.utils.data.DataLoader(
            batches, batch_size=None, num_workers=self._workers, prefetch_factor=2 if self._workers else None
        )
        self.model.train()
        since, summed = time.perf_counter(), 0.0
        for grey, targets, partial in loader:
            rate = phase.rate_at(self.step - begun)
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            grey, targets, partial = (part.to(self.device) for part in (grey, targets, partial))
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16):
                logits = self.model(grey)
            loss = dense_loss(logits.float(), targets, partial)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimiser.step()
            self._average()
            self.step += 1
            summed += float(loss.detach())
            if self.step % _LOG_EVERY == 0:
                seconds = (time.perf_counter() - since) / _LOG_EVERY
                self._log(
                    step=self.step,
                    phase=number,
                    loss=round(summed / _LOG_EVERY, 4),
                    rate=rate,
                    seconds=round(seconds, 3),
                )
                since, summed = time.perf_counter(), 0.0
            if self.step % _SAVE_EVERY == 0:
                self._save()
            if self.step >= begun + phase.steps:
                break

    def _average(self) -> None:
        decay = min(_EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(
                self.mean.state_dict().values(), self.model.state_dict().values(), strict=True
            ):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)

    def _log(self, **values: float) -> None:
        _LOGGER.info("%s", values)
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(values) + "\n")

    def _save(self) -> None:
        part = self._folder / "checkpoint.part"
        torch.save(
            {
                "model": self.model.state_dict(),
                "mean": self.mean.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "step": self.step,
                "schedule": [dataclasses.asdict(phase) for phase in self._phases],
            },
            part,
        )
        part.replace(self._folder / "checkpoint.pt")
