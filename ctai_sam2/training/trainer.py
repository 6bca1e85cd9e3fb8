"""The training loop: resumable, logged, decided by configuration and seed alone."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from ctai_sam2.errors import InputError, StorageError
from ctai_sam2.image.simulated_clicks import click_centre_of_largest_error
from ctai_sam2.models.sam2_network import build_sam2
from ctai_sam2.training.bank import LabelledImage
from ctai_sam2.training.losses import combine_losses, feature_scale_loss, mask_losses
from ctai_sam2.training.network import (
    DenseHead,
    Embedding,
    align_attention,
    embed_images,
    freeze_memory,
    predict_masks,
)
from ctai_sam2.training.prompts import PAD
from ctai_sam2.training.samples import DenseBatch, PromptBatch, StepDataset
from ctai_sam2.training.schedule import TrainingConfig

_LOGGER = logging.getLogger(__name__)

CHECKPOINT_NAME: Final = "checkpoint.pt"
LOG_NAME: Final = "log.jsonl"
CONFIG_NAME: Final = "config.json"
_SCALE_WEIGHT: Final = 0.1


class Trainer:
    """A run in a folder.

    Parameters
    ----------
    config : TrainingConfig
        The schedule.
    folder : pathlib.Path
        Holds configuration, checkpoint and log; created.
    phantoms, real : list of LabelledImage
        The bank.
    seed : int
        Decides initial weights and every batch.
    workers : int, default 0
        Processes that prepare batches.
    device : torch.device, optional
        Where the network runs; the CPU when omitted. The trunk runs in bfloat16 on CUDA.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        *,
        phantoms: list[LabelledImage],
        real: list[LabelledImage],
        seed: int,
        workers: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self._device = torch.device("cpu") if device is None else device
        # On a GPU half precision costs nothing and is several times faster.
        self._bf16 = config.bf16 or self._device.type == "cuda"
        self._config = config
        self._folder = folder
        self._seed = seed
        self._workers = workers
        self._data = StepDataset(config, phantoms, real, seed=seed)
        torch.manual_seed(seed)
        self._size = config.phases[0].image_size
        self.model: Any = build_sam2(config.model, image_size=self._size).to(self._device)
        align_attention(self.model)
        freeze_memory(self.model)
        self._head = DenseHead(int(self.model.state_dict()["no_mem_embed"].shape[-1]) // 8).to(self._device)
        self.ema: dict[str, torch.Tensor] = {
            name: value.detach().clone() for name, value in self.model.state_dict().items()
        }
        self._optimiser = self._make_optimiser()
        self.step = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            record = {"seed": seed, "sha256": config.sha256(), **config.to_dict()}
            (folder / CONFIG_NAME).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError("the training folder cannot be written", received=folder.name) from error

    def run(self, *, until: int | None = None, checkpoint_every: int = 100, log_every: int = 20) -> None:
        """Train from the present step on.

        Parameters
        ----------
        until : int, optional
            Global step to stop before; the end of the schedule by default.
        checkpoint_every, log_every : int
            Steps between checkpoints and log lines.
        """
        stop = self._config.total_steps if until is None else min(until, self._config.total_steps)
        loader = DataLoader(
            self._data,
            batch_size=None,
            sampler=range(self.step, stop),
            num_workers=self._workers,
            prefetch_factor=4 if self._workers else None,
        )
        since = time.monotonic()
        sums: dict[str, float] = {}
        for batch in loader:
            phase_index, inner = self._config.locate(self.step)
            phase = self._config.phases[phase_index]
            if phase.image_size != self._size:
                self._resize(phase.image_size)
            rate = phase.rate_at(inner)
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            self.model.train()
            self._optimiser.zero_grad(set_to_none=True)
            if isinstance(batch, DenseBatch):
                measured = self._dense_step(batch)
            else:
                measured = self._prompt_step(batch, phase.rounds, phase.dense_weight)
            norm = torch.nn.utils.clip_grad_norm_(self._trained(), self._config.clip_norm)
            if bool(torch.isfinite(norm)):
                self._optimiser.step()
                self._follow()
            else:
                _LOGGER.warning("step %d: gradient not finite, skipped", self.step)
            self.step += 1
            for name, value in measured.items():
                sums[name] = sums.get(name, 0.0) + value
                sums[f"{name}#"] = sums.get(f"{name}#", 0.0) + 1
            if self.step % log_every == 0:
                now = time.monotonic()
                line: dict[str, Any] = {"step": self.step, "phase": phase.name, "rate": rate}
                line["seconds"] = round((now - since) / log_every, 4)
                line |= {
                    name: round(value / sums[f"{name}#"], 4)
                    for name, value in sums.items()
                    if not name.endswith("#")
                }
                self.log(line)
                sums.clear()
                since = now
            if self.step % checkpoint_every == 0 or self.step == stop:
                self.save()
            if inner + 1 == phase.steps:
                self.save(f"checkpoint-{phase.name}.pt")

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to the run's log."""
        with (self._folder / LOG_NAME).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        _LOGGER.info("%s", line)

    def save(self, name: str = CHECKPOINT_NAME) -> None:
        """Write a checkpoint, whole or not at all."""
        path = self._folder / name
        part = path.with_suffix(".part")
        try:
            torch.save(
                {
                    "model": self.model.state_dict(),
                    "head": self._head.state_dict(),
                    "ema": self.ema,
                    "optimiser": self._optimiser.state_dict(),
                    "step": self.step,
                    "seed": self._seed,
                    "done": self._done(),
                    "image_size": self._size,
                },
                part,
            )
            part.replace(path)
        except OSError as error:
            raise StorageError("the checkpoint cannot be written", received=path.name) from error

    def resume(self, checkpoint: Path | None = None) -> None:
        """Resume the run from a checkpoint.

        Parameters
        ----------
        checkpoint : pathlib.Path, optional
            Of another run with the same schedule so far; by default the run's own.

        Raises
        ------
        InputError
            Where there is no checkpoint, or it belongs to another configuration or seed.
        """
        path = self._folder / CHECKPOINT_NAME if checkpoint is None else checkpoint
        if not path.is_file():
            raise InputError("there is no checkpoint to resume from", received=path.name)
        state = torch.load(path, map_location=self._device, weights_only=True)
        if state["done"] != self._done(state["step"]) or state["seed"] != self._seed:
            raise InputError(
                "the checkpoint belongs to another run",
                received=path.name,
                hint="Use the same configuration and seed, or another folder.",
            )
        if state["image_size"] != self._size:
            self._resize(state["image_size"])
        self.model.load_state_dict(state["model"])
        self._head.load_state_dict(state["head"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.ema = state["ema"]
        self.step = state["step"]

    def _done(self, step: int | None = None) -> str:
        """Return a digest of the schedule up to a step: what follows may still be changed."""
        last, _ = self._config.locate(max(0, (self.step if step is None else step) - 1))
        return dataclasses.replace(self._config, phases=self._config.phases[: last + 1]).sha256()

    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for p in (*self.model.parameters(), *self._head.parameters()) if p.requires_grad]

    def _make_optimiser(self) -> torch.optim.AdamW:
        # Norms, biases, embeddings and position tables are not decayed.
        tokens = getattr(self.model, "structure_tokens", None)
        embeddings = set() if tokens is None else set(tokens.parameters())
        decayed = [p for p in self._trained() if p.ndim >= 2 and p.shape[0] > 1 and p not in embeddings]
        plain = [p for p in self._trained() if not (p.ndim >= 2 and p.shape[0] > 1) or p in embeddings]
        groups = [
            {"params": decayed, "weight_decay": self._config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            groups, lr=self._config.phases[0].learning_rate, betas=(0.9, 0.98), fused=True
        )

    def _resize(self, image_size: int) -> None:
        """Go on at another image size with the same weights and optimiser."""
        grown: Any = build_sam2(self._config.model, image_size=image_size)
        for name in ("image_size", "sam_image_embedding_size"):
            setattr(self.model, name, getattr(grown, name))
        for name in ("image_embedding_size", "input_image_size", "mask_input_size"):
            setattr(self.model.sam_prompt_encoder, name, getattr(grown.sam_prompt_encoder, name))
        self._size = image_size

    def _follow(self) -> None:
        # A young average forgets faster, or it would carry the initial weights for long.
        decay = min(self._config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.ema[name].lerp_(value, 1 - decay)

    def _to_device(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)

    def _dense_step(self, batch: DenseBatch) -> dict[str, float]:
        embedding = embed_images(self.model, self._to_device(batch.images), bf16=self._bf16)
        dense, measured = self._dense_loss(embedding, self._to_device(batch.classes))
        scale = feature_scale_loss(embedding)
        loss = dense + _SCALE_WEIGHT * scale
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": float(loss.detach()), "scale": float(scale.detach()), **measured}

    def _dense_loss(
        self, embedding: Embedding, classes: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        logits = self._head(self.model, embedding)
        known = classes >= 0
        if not bool(known.any()):
            return logits.sum() * 0, {}
        entropy = F.cross_entropy(logits, classes, ignore_index=-1, label_smoothing=0.02)
        probability = logits.softmax(dim=1) * known[:, None]
        truth = F.one_hot(classes.clamp(min=0), logits.shape[1]).permute(0, 3, 1, 2) * known[:, None]
        overlap = (probability * truth).sum(dim=(0, 2, 3))
        extent = (probability + truth).sum(dim=(0, 2, 3))
        present = truth.sum(dim=(0, 2, 3)) > 0
        dice = (1 - (2 * overlap + 1) / (extent + 1))[present].mean()
        return entropy + dice, {"dense_dice": 1 - float(dice.detach())}

    def _prompt_step(self, batch: PromptBatch, rounds: int, dense_weight: float) -> dict[str, float]:
        images, objects = batch.targets.shape[:2]
        targets = self._to_device(batch.targets.reshape(images * objects, *batch.targets.shape[2:]))
        soft = F.avg_pool2d(targets[:, None].float(), 4)[:, 0]
        points_xy = self._to_device(batch.points_xy).flatten(0, 1)
        labels = self._to_device(batch.labels).flatten(0, 1)
        mask_logits = self._to_device(batch.mask_logits).flatten(0, 1)
        has_mask = self._to_device(batch.has_mask).flatten()
        ambiguous = self._to_device(batch.ambiguous).flatten()
        structures = self._to_device(batch.structures).flatten()
        embedding = embed_images(self.model, self._to_device(batch.images), bf16=self._bf16)
        measured: dict[str, float] = {}
        total = torch.zeros((), device=self._device)
        rng = np.random.default_rng((self._seed, 78, self.step))
        graded = int(rng.integers(1, rounds + 1)) if rounds else 0
        for number in range(graded + 1):
            logits, quality = predict_masks(
                self.model,
                embedding,
                objects=objects,
                points_xy=points_xy,
                labels=labels,
                mask_logits=mask_logits,
                has_mask=has_mask,
                structures=structures,
            )
            losses = mask_losses(logits, soft)
            total = total + combine_losses(losses, quality, ambiguous=ambiguous)
            picked = losses.iou.gather(1, (1 + quality[:, 1:].argmax(dim=1))[:, None])[:, 0]
            measured[f"iou_single_{number}"] = float(losses.iou[:, 0].mean())
            measured[f"iou_best_{number}"] = float(losses.iou[:, 1:].max(dim=1).values.mean())
            measured[f"iou_picked_{number}"] = float(picked.mean())
            if number == graded:
                break
            # The single mask is what a session continues from, except after one click.
            chosen = torch.where(
                ambiguous, 1 + quality[:, 1:].argmax(dim=1), torch.zeros_like(ambiguous, dtype=torch.int64)
            )
            previous = logits.detach()[torch.arange(len(chosen), device=self._device), chosen]
            added, kinds = _correct(previous, soft, int(rng.integers(1, 3)), rng)
            points_xy = torch.cat([points_xy, added], dim=1)
            labels = torch.cat([labels, kinds], dim=1)
            mask_logits = previous[:, None].clamp(-32, 32)
            has_mask = torch.ones_like(has_mask)
            ambiguous = torch.zeros_like(ambiguous)
        scale = feature_scale_loss(embedding)
        loss = total / (graded + 1) + _SCALE_WEIGHT * scale
        measured["scale"] = float(scale.detach())
        if dense_weight:
            dense, seen = self._dense_loss(embedding, self._to_device(batch.classes))
            loss = loss + dense_weight * dense
            measured |= seen
        loss.backward()  # type: ignore[no-untyped-call]
        measured["loss"] = float(loss.detach())
        return measured


def _correct(
    logits: torch.Tensor, soft: torch.Tensor, clicks: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Place corrective clicks: the first at the centre of the largest error, others anywhere in error."""
    masks, truths = (logits > 0).cpu().numpy(), (soft >= 0.5).cpu().numpy()
    points = np.zeros((len(masks), clicks, 2), dtype=np.float32)
    labels = np.full((len(masks), clicks), PAD, dtype=np.int64)
    for index, (mask, truth) in enumerate(zip(masks, truths, strict=True)):
        first = click_centre_of_largest_error(mask, truth)
        if first is None:
            continue
        # A cell of the mask is 4 pixels wide.
        points[index, 0] = np.array(first[0]) * 4 + rng.uniform(0.5, 2.5, 2)
        labels[index, 0] = first[1]
        rows, columns = np.nonzero(mask != truth)
        for extra in range(1, clicks):
            pick = int(rng.integers(rows.size))
            points[index, extra] = columns[pick] * 4 + 1.5, rows[pick] * 4 + 1.5
            labels[index, extra] = int(truth[rows[pick], columns[pick]])
    return torch.from_numpy(points).to(logits.device), torch.from_numpy(labels).to(logits.device)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration record of a run's folder."""
    values: dict[str, Any] = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    return values
