"""What the training commands do."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch

from ctai_sam2.errors import InputError
from ctai_sam2.evaluation import Score, fit_calibration, pair_scores
from ctai_sam2.models.calibration import Calibration
from ctai_sam2.training.bank import (
    LabelledImage,
    load_phantom_bank,
    load_real_cases,
    load_real_series,
    load_real_volume,
)
from ctai_sam2.training.export import export_weights
from ctai_sam2.training.schedule import PRESETS
from ctai_sam2.training.trainer import Trainer

_LOGGER = logging.getLogger(__name__)


def train(options: argparse.Namespace) -> None:
    """Train, from scratch or from the run's checkpoint."""
    if options.preset not in PRESETS:
        raise InputError(
            "the preset is not known", received=options.preset, hint=f"Use one of {', '.join(PRESETS)}."
        )
    if options.threads:
        torch.set_num_threads(options.threads)
    config = PRESETS[options.preset]
    bank: Path = options.bank or options.out / "bank"
    phantoms = load_phantom_bank(
        bank,
        axial=config.axial_phantoms,
        sagittal=config.sagittal_phantoms,
        size_px=config.bank_size_px,
        seed=options.seed,
    )
    real: list[LabelledImage] = []
    if options.real_cases:
        real += load_real_cases(
            options.real_cases, size_px=config.bank_size_px, held_out=tuple(options.held_out)
        )
    for folder in options.real_series:
        if not any(word in folder.name for word in options.held_out):
            real += load_real_series(
                folder, size_px=config.bank_size_px, cache=bank / "regions", held_out=tuple(options.held_out)
            )
    if options.real_volume and not any(word in str(options.real_volume[0]) for word in options.held_out):
        real += load_real_volume(*options.real_volume, size_px=config.bank_size_px)
    _LOGGER.info("%d phantoms, %d real images", len(phantoms), len(real))
    trainer = Trainer(
        config, options.out, phantoms=phantoms, real=real, seed=options.seed, workers=options.workers
    )
    if options.resume or options.resume_from:
        trainer.resume(None if options.resume else options.resume_from)
    trainer.run(until=options.until)


def export(options: argparse.Namespace) -> None:
    """Write a run's averaged weights as they ship, calibrated with an evaluation's scores where given."""
    calibration = None if options.scores is None else _calibrate(options.scores)
    card = export_weights(
        options.run, options.out, name=options.name, version=options.version, calibration=calibration
    )
    _LOGGER.info("%s: %s parameters, sha256 %s", options.out.name, card["parameters"], card["sha256"])


def _calibrate(path: Path) -> Calibration:
    """Fit to the scores of unseen patients and of phantoms, both kinds counting as much in all."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["scores"]
        scores = [Score(**row) for row in rows if row["group"] in ("unseen", "phantom")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("the scores of an evaluation cannot be read", received=path.name) from error
    kinds = [[score for score in scores if score.group == group] for group in ("unseen", "phantom")]
    pairs = [pair_scores(kind) for kind in kinds]
    return fit_calibration(
        np.concatenate([told for told, _ in pairs]),
        np.concatenate([dices for _, dices in pairs]),
        weights=np.concatenate([np.full(len(told), 1 / max(len(told), 1)) for told, _ in pairs]),
    )
