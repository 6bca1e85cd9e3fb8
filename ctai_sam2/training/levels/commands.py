"""What ``python -m ctai_sam2.training levels`` does."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict

import cv2
import torch

from ctai_sam2.training.levels.bank import DrawnBank, load_phantoms
from ctai_sam2.training.levels.trainer import Groups, LevelTrainer, LevelTraining

_LOGGER = logging.getLogger(__name__)


def levels(options: argparse.Namespace) -> None:
    """Train the level network, from scratch, from another run's weights, or from the run's checkpoint."""
    torch.set_num_threads(options.threads or 1)
    # OpenCV's threads do not survive the fork of the processes that prepare batches.
    cv2.setNumThreads(0)
    bank = options.bank or options.out / "bank"
    workers = max(options.workers, 1)
    groups: list[tuple[float, object]] = [
        (0.85, DrawnBank(bank, count=options.drawn, seed=options.seed, workers=workers)),
        (0.15, load_phantoms(bank, count=options.phantoms, seed=options.seed + 50_000, workers=workers)),
    ]
    if options.real is not None:
        from ctai_sam2.training.levels.real import load_real

        real = load_real(options.real, held_out=tuple(options.held_out))
        share = options.real_share
        groups = [(weight * (1 - share), images) for weight, images in groups]
        groups += [(share * weight, images) for weight, images in real]
    config = LevelTraining(
        steps=options.steps,
        images=options.images,
        learning_rate=options.learning_rate or LevelTraining.learning_rate,
    )
    trainer = LevelTrainer(
        config,
        options.out,
        _checked(groups),
        seed=options.seed,
        device=options.device,
        workers=options.workers,
    )
    if options.begin_from is not None:
        trainer.begin_from(options.begin_from)
    trainer.resume()
    facts = {
        **asdict(config),
        "seed": options.seed,
        "held_out": options.held_out,
        "real": options.real is not None,
    }
    (options.out / "config.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    _LOGGER.info("from step %d of %d", trainer.step, config.steps)
    trainer.run()


def _checked(groups: list[tuple[float, object]]) -> Groups:
    return [(weight, images) for weight, images in groups if len(images)]  # type: ignore[arg-type, misc]
