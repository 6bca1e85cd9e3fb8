"""What the training commands do."""

from __future__ import annotations

import argparse
import contextlib
import logging
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from ctai_sam2.errors import InputError
from ctai_sam2.io import write_json
from ctai_sam2.segmenters.local import LocalSegmenter
from ctai_sam2.segmenters.sam2_model import build_sam2
from ctai_sam2.segmenters.weights import EMBEDDED
from ctai_sam2.training.bank import (
    LabelledImage,
    load_phantom_bank,
    load_real_cases,
    load_real_series,
    load_real_volume,
)
from ctai_sam2.training.evaluation import describe_scores, score_cases, score_phantoms, summarise_scores
from ctai_sam2.training.exporting import export_weights
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
    """Write a run's averaged weights as they ship."""
    card = export_weights(options.run, options.out, name=options.name, version=options.version)
    _LOGGER.info("%s: %s parameters, sha256 %s", options.out.name, card["parameters"], card["sha256"])


def evaluate(options: argparse.Namespace) -> None:
    """Score weights on cases and on fresh phantoms."""
    with contextlib.ExitStack() as stack:
        weights: Path | None = options.weights
        if options.untrained:
            weights = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "untrained.safetensors"
            torch.manual_seed(0)
            save_file(build_sam2(options.model).state_dict(), weights)
        segmenter = stack.enter_context(
            LocalSegmenter(
                weights or EMBEDDED,
                config=options.model if weights else None,
                num_threads=options.threads or None,
            )
        )
        identity = segmenter.identity
        scores = score_phantoms(options.phantoms, options.phantom_seed, segmenter)
        if options.cases:
            skip = [(word, name) for word, _, name in (entry.partition(":") for entry in options.skip)]
            scores += score_cases(options.cases, segmenter, unseen=options.held_out, skip=skip)
    summary = summarise_scores(scores)
    for row in summary:
        _LOGGER.info("%s", row)
    if options.json:
        write_json(
            options.json,
            {
                "model": identity.name,
                "weights_sha256": identity.weights_sha256,
                "summary": summary,
                "scores": describe_scores(scores),
            },
        )
