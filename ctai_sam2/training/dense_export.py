"""From a dense head's checkpoint to the weights file that ships, together with the prompted model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save

from ctai_sam2.errors import InputError, WeightsError
from ctai_sam2.files.atomic import write_bytes, write_json
from ctai_sam2.models.dense_head import DENSE_PREFIX, fold_normalisation


def add_dense_head(base: Path, checkpoint: Path, target: Path, *, version: str) -> dict[str, Any]:
    """Write a weights file with a dense head next to the prompted model, and its card.

    Parameters
    ----------
    base : pathlib.Path
        Weights of the prompted model, ``.safetensors``; a dense head in it is replaced.
    checkpoint : pathlib.Path
        From `ctai_sam2.training.dense_trainer.DenseTrainer`.
    target : pathlib.Path
        Ends in ``.safetensors``; the card gets the same name with ``.json``.
    version : str
        Of the whole.

    Returns
    -------
    dict
        The card.

    Raises
    ------
    InputError
        If the target has another ending.
    WeightsError
        If base or checkpoint cannot be read.
    StorageError
        If something cannot be written.
    """
    if target.suffix != ".safetensors":
        raise InputError("weights are exported as .safetensors", received=target.name)
    try:
        state = {name: value for name, value in load_file(base).items() if not name.startswith(DENSE_PREFIX)}
        with safetensors.safe_open(str(base), framework="pt") as content:
            metadata = dict(content.metadata() or {})
        trained = torch.load(checkpoint, map_location="cpu", weights_only=True)
        head = fold_normalisation(trained["mean"])
    except (OSError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise WeightsError("base or checkpoint cannot be read", received=checkpoint.name) from error
    for name, value in head.items():
        state[DENSE_PREFIX + name] = value.half().contiguous()
    metadata["version"] = version
    data = save(state, metadata=metadata)
    card: dict[str, Any] = {}
    if base.with_suffix(".json").exists():
        card = json.loads(base.with_suffix(".json").read_text(encoding="utf-8"))
    card |= {
        "version": version,
        "sha256": hashlib.sha256(data).hexdigest(),
        "parameters": sum(value.numel() for value in state.values()),
        "dense_head": {
            "parameters": sum(value.numel() for value in head.values()),
            "steps": int(trained["step"]),
            "schedule": trained.get("schedule"),
        },
    }
    write_bytes(target, data)
    write_json(target.with_suffix(".json"), card)
    return card
