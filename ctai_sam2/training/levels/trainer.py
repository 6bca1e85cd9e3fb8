"""Training of the level network: seeded, resumable, with a log."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ctai_sam2.segmentation.levels.labels import LEVEL_CLASSES
from ctai_sam2.segmentation.levels.network import LevelMaps, LevelNetwork
from ctai_sam2.training.levels.known import UNKNOWN, KnownImage
from ctai_sam2.training.levels.samples import draw_known, make_sample

_LOGGER = logging.getLogger(__name__)
Groups = Sequence[tuple[float, Sequence[KnownImage]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelTraining:
    """What a run does.

    Attributes
    ----------
    steps, images : int
        Optimiser steps, images a step.
    learning_rate, weight_decay : float
        AdamW's; the rate rises over `warmup` steps, a tenth of the run at most, and falls as half a cosine.
    ema_decay : float
        Of the running mean of the weights.
    tissue_weight, centre_weight, level_weight : float
        Of the three losses.
    """

    steps: int = 3000
    images: int = 12
    learning_rate: float = 2.5e-3
    final_rate: float = 2e-5
    warmup: int = 100
    weight_decay: float = 0.02
    ema_decay: float = 0.995
    tissue_weight: float = 1.0
    centre_weight: float = 0.5
    level_weight: float = 0.7

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        warm = min(1.0, (step + 1) / max(min(self.warmup, self.steps // 10), 1))
        share = 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1.0)))
        return warm * (self.final_rate + (self.learning_rate - self.final_rate) * share)


class _Batches(IterableDataset[tuple[Tensor, ...]]):
    """Batches from a step on; each is a function of seed and step alone."""

    def __init__(self, groups: Groups, *, seed: int, first: int, stop: int, images: int) -> None:
        self.groups, self.seed, self.first, self.stop, self.images = groups, seed, first, stop, images

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in range(self.first + start, self.stop, step):
            rng = np.random.default_rng([self.seed, number])
            samples = [make_sample(draw_known(self.groups, rng), rng) for _ in range(self.images)]
            yield tuple(torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))


class LevelTrainer:
    """One run in a folder.

    Parameters
    ----------
    config : LevelTraining
    folder : Path
        Gets ``checkpoint.pt`` and ``log.jsonl``.
    groups : sequence of (weight, images)
        What samples are drawn from.
    seed : int
    device : str
        ``cpu`` or ``cuda``; on the latter the network runs in bfloat16.
    workers : int
        Processes that prepare batches.
    """

    def __init__(
        self,
        config: LevelTraining,
        folder: Path,
        groups: Groups,
        *,
        seed: int,
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        torch.manual_seed(seed)
        self.config, self.folder, self.groups = config, folder, groups
        self.seed, self.device, self.workers = seed, torch.device(device), workers
        self.network = LevelNetwork().to(self.device).to(memory_format=torch.channels_last)
        self.mean = LevelNetwork().to(self.device)
        self.mean.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        """Path of the run's state."""
        return self.folder / "checkpoint.pt"

    def resume(self) -> None:
        """Go on from the run's own checkpoint, where there is one."""
        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.mean.load_state_dict(state["mean"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])

    def begin_from(self, path: Path) -> None:
        """Take the averaged weights of another run as the beginning."""
        weights = torch.load(path, map_location=self.device, weights_only=True)["mean"]
        self.network.load_state_dict(weights)
        self.mean.load_state_dict(weights)

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        part = self.checkpoint.with_suffix(".part")
        state = {
            "network": self.network.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        torch.save(state, part)
        part.replace(self.checkpoint)

    def run(self, *, save_every: int = 200, log_every: int = 25) -> None:
        """Train to the end."""
        config = self.config
        batches = DataLoader(
            _Batches(self.groups, seed=self.seed, first=self.step, stop=config.steps, images=config.images),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=3 if self.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        self.network.train()
        held: list[dict[str, float]] = []
        started = time.perf_counter()
        for batch in batches:
            held.append(self._train_step(tuple(part.to(self.device, non_blocking=True) for part in batch)))
            self.step += 1
            if self.step % log_every == 0 or self.step == config.steps:
                means = {key: round(float(np.mean([each[key] for each in held])), 4) for key in held[0]}
                row = {
                    "step": self.step,
                    **means,
                    "s_per_step": round((time.perf_counter() - started) / len(held), 3),
                }
                with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                    log.write(json.dumps(row) + "\n")
                _LOGGER.info("%s", row)
                held, started = [], time.perf_counter()
            if self.step % save_every == 0 or self.step == config.steps:
                self.save()

    def _train_step(self, batch: tuple[Tensor, ...]) -> dict[str, float]:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate_at(self.step)
        image = batch[0].to(memory_format=torch.channels_last)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            maps = self.network(image)
        losses = level_losses(LevelMaps(*(part.float() for part in maps)), batch[1], batch[2], batch[3])
        loss = (
            config.tissue_weight * losses["tissue"]
            + config.centre_weight * losses["centre"]
            + config.level_weight * losses["level"]
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 3.0)
        self.optimizer.step()
        self._average()
        return {key: float(value.detach()) for key, value in losses.items()}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for mean, now in zip(
            self.mean.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if mean.dtype.is_floating_point:
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)


def level_losses(maps: LevelMaps, dense: Tensor, centre: Tensor, level: Tensor) -> dict[str, Tensor]:
    """Tissue and level cross-entropy, centre loss, and the share of level pixels that are right."""
    weight = torch.ones(maps.tissue.shape[1], device=dense.device)
    weight[0] = 0.4
    tissue = torch.nn.functional.cross_entropy(
        maps.tissue, dense.long().where(dense != UNKNOWN, -100), weight=weight, ignore_index=-100
    )
    known = level < len(LEVEL_CLASSES)
    target = level.long().where(known, -100)
    named = torch.nn.functional.cross_entropy(maps.level, target, ignore_index=-100, reduction="sum")
    right = ((maps.level.argmax(1) == target) & known).sum() / known.sum().clamp(min=1)
    return {
        "tissue": tissue,
        "centre": _centre_loss(maps.centre[:, 0], centre, dense != UNKNOWN),
        "level": named / known.sum().clamp(min=1),
        "right": right,
    }


def _centre_loss(logit: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Penalty-reduced focal loss of a heat map, per true centre."""
    chance = torch.sigmoid(logit).clamp(1e-5, 1 - 1e-5)
    top = target > 0.98
    hit = -torch.log(chance) * (1 - chance) ** 2 * top
    miss = -torch.log(1 - chance) * chance**2 * (1 - target) ** 4 * (~top) * known
    return (hit.sum() + miss.sum()) / top.sum().clamp(min=1)


def network_from(path: Path) -> LevelNetwork:
    """Averaged weights of a run's checkpoint, ready to predict."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    network = LevelNetwork()
    network.load_state_dict(state["mean"])
    return network.eval()
