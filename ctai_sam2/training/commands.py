"""What the training commands do."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
from pathlib import Path

import numpy as np
import torch

from ctai_sam2.errors import InputError
from ctai_sam2.evaluation import Score, fit_calibration, pair_scores
from ctai_sam2.models.calibration import Calibration
from ctai_sam2.models.local import LocalSegmenter
from ctai_sam2.models.sam2_inference import choose_device
from ctai_sam2.models.sam2_network import NANO_CONFIG
from ctai_sam2.training.bank import (
    LabelledImage,
    load_phantom_bank,
    load_real_cases,
    load_real_series,
    load_real_volume,
)
from ctai_sam2.training.dense_batches import as_bank_image, load_partial_cases
from ctai_sam2.training.dense_export import add_dense_head
from ctai_sam2.training.dense_phantoms import FURTHER_KINDS, load_hard_bank
from ctai_sam2.training.dense_trainer import DENSE_SCHEDULES, DenseTrainer
from ctai_sam2.training.dense_trust import write_trust
from ctai_sam2.training.export import export_weights
from ctai_sam2.training.pseudo_labels import load_unlabelled
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
        processes=available_cores(),
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
    device = choose_device(options.device)
    trainer = Trainer(
        config,
        options.out,
        phantoms=phantoms,
        real=real,
        seed=options.seed,
        workers=workers_for(options.workers, device),
        device=device,
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


def train_dense(options: argparse.Namespace) -> None:
    """Train the dense head on phantoms, or fine-tune it with real slices; one run or leave-one-out folds."""
    if options.threads:
        torch.set_num_threads(options.threads)
    schedule = DENSE_SCHEDULES.get(options.schedule)
    if schedule is None:
        raise InputError(
            "the schedule is not known",
            received=options.schedule,
            hint=f"One of {', '.join(DENSE_SCHEDULES)}.",
        )
    device = choose_device(options.device)
    bank: Path = options.bank or options.out / "bank"
    hu, labels = load_hard_bank(
        bank,
        count=schedule.phantoms,
        size_px=schedule.bank_size_px,
        seed=options.seed,
        processes=available_cores(),
    )
    phantoms = [as_bank_image(image, codes, "phantom") for image, codes in zip(hu, labels, strict=True)]
    if schedule.further:
        hu, labels = load_hard_bank(
            bank,
            count=schedule.further,
            size_px=schedule.bank_size_px,
            seed=options.seed,
            kinds=FURTHER_KINDS,
            processes=available_cores(),
        )
        phantoms += 2 * [
            as_bank_image(image, codes, "phantom") for image, codes in zip(hu, labels, strict=True)
        ]
    # A fold leaves a group of patients out; the run itself leaves out only those named.
    runs = {
        options.out / f"fold-{words.split(',')[0]}": (*options.held_out, *words.split(","))
        for words in options.fold
    }
    runs[options.out] = tuple(options.held_out)
    for folder, held_out in runs.items():
        real = load_partial_cases(options.real_cases, held_out=held_out) if options.real_cases else []
        for study in options.unlabelled:
            if not any(word in study.name for word in held_out):
                real += load_unlabelled(study, weights=options.teacher, cache=bank)
        _LOGGER.info("%s: %d phantoms, %d real slices", folder.name, len(phantoms), len(real))
        trainer = DenseTrainer(
            schedule.phases,
            folder,
            phantoms=phantoms,
            real=real,
            seed=options.seed,
            workers=workers_for(options.workers, device),
            device=device,
        )
        if options.start_from is not None:
            trainer.start_from(options.start_from)
        trainer.resume()
        trainer.run()


def export_dense(options: argparse.Namespace) -> None:
    """Write the prompted model's weights with a trained dense head next to them."""
    card = add_dense_head(options.base, options.checkpoint, options.out, version=options.version)
    _LOGGER.info("%s: %s parameters, sha256 %s", options.out.name, card["parameters"], card["sha256"])


def fit_dense_trust(options: argparse.Namespace) -> None:
    """Fit the confidence of numbers on patients whom the model did not see, and on phantoms."""
    folds = dict(entry.split("=", 1) for entry in options.fold if "=" in entry)
    skip = [tuple(entry.split(":", 1)) for entry in options.skip if ":" in entry]
    if len(folds) != len(options.fold) or len(skip) != len(options.skip):
        raise InputError(
            "an option has another form", hint="Write --fold WORD=WEIGHTS, --skip WORD:STRUCTURE."
        )
    with contextlib.ExitStack() as stack:

        def open_weights(path: str | Path) -> LocalSegmenter:
            return stack.enter_context(LocalSegmenter(Path(path), config=NANO_CONFIG))

        # Words may share weights: a model is opened once.
        opened = {path: open_weights(path) for path in dict.fromkeys(folds.values())}
        document = write_trust(
            options.out,
            cases=options.cases,
            model=open_weights(options.model),
            folds={word: opened[path] for word, path in folds.items()},
            phantoms=options.phantoms,
            skip=[(word, structure) for word, structure in skip],
            seed=options.seed,
        )
    _LOGGER.info("%s", json.dumps(document["judged"], indent=1))


def available_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_for(wanted: int | None, device: torch.device) -> int:
    """Return how many processes prepare batches: as wanted, else one, or all cores for a GPU."""
    if wanted is not None:
        return wanted
    return 1 if device.type == "cpu" else max(1, available_cores() - 1)


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
        np.concatenate([confidence for confidence, _ in pairs]),
        np.concatenate([dices for _, dices in pairs]),
        weights=np.concatenate(
            [np.full(len(confidence), 1 / max(len(confidence), 1)) for confidence, _ in pairs]
        ),
    )
