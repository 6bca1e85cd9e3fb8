"""From a run's checkpoint to the weights that ship."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ctai_sam2.errors import InputError
from ctai_sam2.files.atomic import write_bytes, write_json
from ctai_sam2.models.calibration import METADATA_KEY, Calibration
from ctai_sam2.training.trainer import CHECKPOINT_NAME, read_config


def export_weights(
    run: Path, target: Path, *, name: str, version: str, calibration: Calibration | None = None
) -> dict[str, Any]:
    """Write a run's averaged weights as half-precision safetensors, with a JSON card next to them.

    Parameters
    ----------
    run : pathlib.Path
        Folder of the run.
    target : pathlib.Path
        Ends in ``.safetensors``; the card gets the same name with ``.json``.
    name, version : str
        What the weights are called.
    calibration : Calibration, optional
        What its predicted IoU means.

    Returns
    -------
    dict
        The card: name, version, sha256, image size, parameters, steps, configuration.

    Raises
    ------
    InputError
        If the run has no checkpoint or the target has another ending.
    StorageError
        If something cannot be written.
    """
    if target.suffix != ".safetensors":
        raise InputError("weights are exported as .safetensors", received=target.name)
    path = run / CHECKPOINT_NAME
    if not path.is_file():
        raise InputError("the run has no checkpoint", received=run.name, hint="Train first.")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    config = read_config(run)
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in checkpoint["ema"].items()
    }
    metadata = {"name": name, "version": version, "config_sha256": config["sha256"], "format": "pt"}
    if calibration is not None:
        metadata[METADATA_KEY] = calibration.to_json()
    data = save(state, metadata=metadata)
    card = {
        "name": name,
        "version": version,
        "sha256": hashlib.sha256(data).hexdigest(),
        "image_size": checkpoint["image_size"],
        "parameters": sum(value.numel() for value in state.values()),
        "seed": checkpoint["seed"],
        "steps": checkpoint["step"],
        "calibration": None if calibration is None else asdict(calibration),
        "config": config,
    }
    write_bytes(target, data)
    write_json(target.with_suffix(".json"), card)
    return card
